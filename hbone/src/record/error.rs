//! Why the record layer gave up on a connection.

use rustls::AlertDescription;
use thiserror::Error;

/// Ends the whole connection. Says in its name what was wrong, and by [`alert`](Self::alert) whose fault it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RecordError {
    // The peer's doing.
    /// The peer gave up and said why.
    #[error("peer sent the TLS alert {0:?}")]
    Alert(AlertDescription),
    /// A record was not sealed with the peer's current key, or was altered, or the order of records was.
    #[error("peer's TLS record cannot be authenticated")]
    BadMac,
    /// A handshake message was sent in fragments of no bytes.
    #[error("peer sent an empty fragment of a TLS handshake message")]
    EmptyFragment,
    /// Too many records in a row brought no payload.
    #[error("peer sent too many TLS records without payload")]
    Fruitless,
    /// A record of another type came in the middle of a handshake message.
    #[error("peer interrupted a TLS handshake message")]
    Interleaved,
    /// A `KeyUpdate` asked for something that does not exist.
    #[error("peer sent a TLS KeyUpdate with the illegal value {0}")]
    KeyUpdateIllegal(u8),
    /// A `KeyUpdate` was not the last message of its record.
    #[error("peer's TLS KeyUpdate is not at a record's end")]
    KeyUpdateNotAligned,
    /// A message is not built as its type demands.
    #[error("peer sent a malformed TLS {0}")]
    Malformed(&'static str),
    /// A post-handshake message is longer than we keep.
    #[error("peer sent a TLS handshake message of {0} bytes")]
    MessageTooLong(usize),
    /// A record is longer than the protocol allows.
    #[error("peer sent an oversized TLS record")]
    Overflow,
    /// The peer has sealed more under one key than is safe, and was asked to update it.
    #[error("peer does not update its worn out TLS key")]
    PeerKeyWornOut,
    /// A protected record holds a type that has no place after the handshake; 0 where it holds none.
    #[error("peer sent a TLS record of inner type {0}")]
    UnexpectedContent(u8),
    /// A handshake message has no place after the handshake.
    #[error("peer sent the TLS handshake message {0}")]
    UnexpectedMessage(u8),
    /// A record that is not protected.
    #[error("peer sent an unprotected TLS record of type {0}")]
    Unprotected(u8),

    // Ours.
    /// The cryptographic library refused.
    #[error("TLS cryptography failed")]
    Crypto,
    /// Our key has sealed as much as is safe: owed key updates were not sent.
    #[error("our TLS key is worn out")]
    KeyWornOut,
    /// More was to be sealed than a record, or the given space, holds.
    #[error("no room to seal a TLS record")]
    NoRoom,
    /// A traffic secret does not fit the cipher suite.
    #[error("TLS traffic secret does not fit the cipher suite")]
    SecretLength,
}

impl RecordError {
    /// The alert to send before closing (RFC 8446, section 6.2): none if the peer has sent one itself, and
    /// `internal_error` (80) exactly where the fault is ours.
    #[must_use]
    pub fn alert(&self) -> Option<u8> {
        let alert = match self {
            Self::Alert(_) => return None,
            Self::BadMac => AlertDescription::BadRecordMac,
            Self::Overflow => AlertDescription::RecordOverflow,
            Self::KeyUpdateIllegal(_) => AlertDescription::IllegalParameter,
            Self::Malformed(_) | Self::MessageTooLong(_) => AlertDescription::DecodeError,
            Self::EmptyFragment
            | Self::Fruitless
            | Self::Interleaved
            | Self::KeyUpdateNotAligned
            | Self::PeerKeyWornOut
            | Self::UnexpectedContent(_)
            | Self::UnexpectedMessage(_)
            | Self::Unprotected(_) => AlertDescription::UnexpectedMessage,
            Self::Crypto | Self::KeyWornOut | Self::NoRoom | Self::SecretLength => {
                AlertDescription::InternalError
            }
        };
        Some(alert.into())
    }
}
