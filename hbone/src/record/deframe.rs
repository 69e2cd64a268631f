//! Finds where a record ends.

use super::{APPLICATION_DATA, HEADER, RecordError};

/// The length of the record at the front of `buf`, header included; `None` while it is not whole.
///
/// # Errors
/// No record of an established connection starts like this. Told as soon as the header is there, so that nobody
/// waits for, or keeps, a body that will be refused.
pub(super) fn first_record(buf: &[u8]) -> Result<Option<usize>, RecordError> {
    // The version means nothing and must be ignored (RFC 8446, section 5.1).
    let Some(&[outer_type, _, _, high, low]) = buf.first_chunk::<HEADER>() else {
        return Ok(None);
    };
    // All is protected now: even a change_cipher_spec may come only before the peer's Finished.
    if outer_type != APPLICATION_DATA {
        return Err(RecordError::Unprotected(outer_type));
    }
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_CIPHERTEXT {
        return Err(RecordError::Overflow);
    }
    let record = HEADER + length;
    Ok((buf.len() >= record).then_some(record))
}

/// The most that a protected record may hold (RFC 8446, section 5.2).
const MAX_CIPHERTEXT: usize = (1 << 14) + 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_and_partial_records() {
        assert_eq!(first_record(&[]), Ok(None));
        assert_eq!(first_record(&[23, 3, 3, 0]), Ok(None));
        assert_eq!(first_record(&[23, 3, 3, 0, 2, 7]), Ok(None));
        assert_eq!(first_record(&[23, 3, 3, 0, 2, 7, 7]), Ok(Some(7)));
        assert_eq!(first_record(&[23, 9, 9, 0, 2, 7, 7, 7]), Ok(Some(7)), "version ignored, rest untouched");
    }

    #[test]
    fn refused_by_the_header_alone() {
        for outer_type in [0, 20, 21, 22, 24, b'G', 255] {
            assert_eq!(first_record(&[outer_type, 3, 3, 0, 1]), Err(RecordError::Unprotected(outer_type)));
        }
        assert_eq!(first_record(&[23, 3, 3, 0x41, 0x00]), Ok(None));
        assert_eq!(first_record(&[23, 3, 3, 0x41, 0x01]), Err(RecordError::Overflow));
    }
}
