//! What header blocks are made of: integers and strings (RFC 7541 section 5).

use super::{HpackError, huffman};

/// A header block that is being read.
pub(super) struct Input<'b> {
    rest: &'b [u8],
}

impl<'b> Input<'b> {
    pub(super) fn new(block: &'b [u8]) -> Self {
        Self { rest: block }
    }

    /// The next byte, if the block hasn't ended.
    pub(super) fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// Reads an integer that begins in the low `prefix` bits of the next byte (section 5.1).
    pub(super) fn integer(&mut self, prefix: u8) -> Result<u32, HpackError> {
        let mask = u8::MAX >> (8 - prefix);
        let first = self.byte()? & mask;
        if first < mask {
            return Ok(u32::from(first));
        }
        let mut value = u64::from(mask);
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.byte()?;
            value += u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(value).map_err(|_| HpackError::IntegerTooLarge);
            }
        }
        Err(HpackError::IntegerTooLarge)
    }

    /// Reads a string (section 5.2): out of the block itself, or decoded into `scratch`.
    pub(super) fn string<'s>(&mut self, scratch: &'s mut Vec<u8>) -> Result<&'s [u8], HpackError>
    where
        'b: 's,
    {
        let huffman_coded = self.peek().is_some_and(|byte| byte & 0x80 != 0);
        let length = self.integer(7)? as usize;
        let (string, rest) = self.rest.split_at_checked(length).ok_or(HpackError::Truncated)?;
        self.rest = rest;
        if !huffman_coded {
            return Ok(string);
        }
        scratch.clear();
        huffman::decode(string, scratch)?;
        Ok(scratch)
    }

    fn byte(&mut self) -> Result<u8, HpackError> {
        let (&byte, rest) = self.rest.split_first().ok_or(HpackError::Truncated)?;
        self.rest = rest;
        Ok(byte)
    }
}
