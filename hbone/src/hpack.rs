//! Header compression (RFC 7541).
//!
//! The [`Decoder`] is complete, since peers index and Huffman-code from their first header block on, before
//! they have seen that we advertise a table of size 0. Its dynamic table is state of the connection. The
//! encoder has no state at all: [`begin_block`], then [`encode`] for each field.

use crate::error::ErrorCode;

mod decoder;
mod encoder;
mod huffman;
mod input;
mod table;

pub(crate) use decoder::{Decoder, Sizes};
pub(crate) use encoder::{begin_block, encode};
pub(crate) use table::DEFAULT_TABLE_SIZE;

/// A header block that can't be accepted. Always the peer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HpackError {
    /// The header list exceeds the limit. The block was decoded to its end all the same, so the table is in
    /// step with the peer's and only the stream suffers.
    #[error("the header list exceeds our SETTINGS_MAX_HEADER_LIST_SIZE")]
    TooLarge,
    /// The header list exceeds the limit so far that decoding went no further.
    #[error("the header list exceeds our SETTINGS_MAX_HEADER_LIST_SIZE many times over")]
    Excessive,
    /// The block ends within a field.
    #[error("the header block ends within a field")]
    Truncated,
    /// An integer beyond 32 bits, in value or by its encoding's length (section 5.1).
    #[error("an integer in the header block is too large")]
    IntegerTooLarge,
    /// An index of 0, or beyond both tables (sections 2.3.3 and 6.1).
    #[error("an index that is in neither table")]
    UnknownIndex,
    /// A Huffman-coded string with EOS in it, or padding that isn't the first bits of EOS, or more than 7 of
    /// them (section 5.2).
    #[error("an invalid Huffman-coded string")]
    InvalidHuffman,
    /// A table size update behind a field (section 4.2).
    #[error("a table size update not at the start of the block")]
    MisplacedSizeUpdate,
    /// A table size update above the maximum that we allow (section 6.3).
    #[error("a table size update above our SETTINGS_HEADER_TABLE_SIZE")]
    SizeUpdateTooLarge,
    /// No table size update after we lowered the maximum below what the table held (RFC 9113 section 4.3.1).
    #[error("no table size update although our SETTINGS_HEADER_TABLE_SIZE requires one")]
    MissingSizeUpdate,
}

impl HpackError {
    /// The code for GOAWAY, or nothing if only the stream is to end.
    pub(crate) fn connection_error(self) -> Option<ErrorCode> {
        match self {
            HpackError::TooLarge => None,
            HpackError::Excessive => Some(ErrorCode::ENHANCE_YOUR_CALM),
            HpackError::Truncated
            | HpackError::IntegerTooLarge
            | HpackError::UnknownIndex
            | HpackError::InvalidHuffman
            | HpackError::MisplacedSizeUpdate
            | HpackError::SizeUpdateTooLarge
            | HpackError::MissingSizeUpdate => Some(ErrorCode::COMPRESSION_ERROR),
        }
    }
}

/// What an entry costs beyond its name and value, in the dynamic table (RFC 7541 section 4.1) and in a header
/// list (RFC 9113 section 6.5.2), in bytes.
const ENTRY_OVERHEAD: usize = 32;

fn entry_size(name: &[u8], value: &[u8]) -> usize {
    name.len() + value.len() + ENTRY_OVERHEAD
}

#[cfg(test)]
mod tests;
