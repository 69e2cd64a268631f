//! Handshake messages after the handshake (RFC 8446, section 4.6): key updates, and tickets that nobody wants.

use super::RecordError;
use crate::role::Role;

/// Puts handshake messages together from the records that they are spread over.
#[derive(Clone, Default)]
pub(super) struct Messages {
    /// The beginning of a message whose end is yet to come.
    partial: Vec<u8>,
}

/// The peer's next record comes under its next key.
pub(super) struct KeyUpdate {
    /// The peer wants us to change our key as well.
    pub(super) requested: bool,
    /// This was the last thing in its record.
    pub(super) boundary: RecordBoundary,
}

/// Proof that no byte of a message is pending between two records, which is where keys may change (RFC 8446,
/// section 5.1). Only [`Messages`] makes one.
pub(super) struct RecordBoundary(());

impl Messages {
    /// Takes the handshake content of one record.
    pub(super) fn receive(&mut self, role: Role, content: &[u8]) -> Result<Option<KeyUpdate>, RecordError> {
        if content.is_empty() {
            return Err(RecordError::EmptyFragment);
        }
        self.partial.extend_from_slice(content);
        let mut update = None;
        let mut rest = self.partial.as_slice();
        while let Some(message) = first_message(role, rest)? {
            rest = message.rest;
            if message.kind == KEY_UPDATE {
                if !rest.is_empty() {
                    return Err(RecordError::KeyUpdateNotAligned);
                }
                update = Some(KeyUpdate { requested: parse(message.body)?, boundary: RecordBoundary(()) });
            }
        }
        self.partial = rest.to_vec();
        Ok(update)
    }

    /// Refuses another type of record in the middle of a message (RFC 8446, section 5.1).
    pub(super) fn ensure_none_partial(&self) -> Result<(), RecordError> {
        if self.partial.is_empty() { Ok(()) } else { Err(RecordError::Interleaved) }
    }

    pub(super) fn partial(&self) -> &[u8] {
        &self.partial
    }

    /// As another process left it; `None` if `partial` cannot be the beginning of a message.
    pub(super) fn restore(role: Role, partial: &[u8]) -> Option<Self> {
        matches!(first_message(role, partial), Ok(None)).then(|| Self { partial: partial.to_vec() })
    }
}

/// A `KeyUpdate` (RFC 8446, section 4.6.3).
pub(super) fn key_update(requested: bool) -> [u8; 5] {
    [KEY_UPDATE, 0, 0, 1, u8::from(requested)]
}

/// Whether a `KeyUpdate` asks for one in return.
fn parse(body: &[u8]) -> Result<bool, RecordError> {
    match *body {
        [0] => Ok(false),
        [1] => Ok(true),
        [illegal] => Err(RecordError::KeyUpdateIllegal(illegal)),
        _ => Err(RecordError::Malformed("KeyUpdate")),
    }
}

struct Message<'a> {
    kind: u8,
    body: &'a [u8],
    /// What follows the message.
    rest: &'a [u8],
}

/// The message at the front of `bytes`; `None` while it is not whole.
fn first_message(role: Role, bytes: &[u8]) -> Result<Option<Message<'_>>, RecordError> {
    match bytes.first() {
        None | Some(&KEY_UPDATE) => {}
        Some(&NEW_SESSION_TICKET) if role == Role::Client => {}
        Some(&other) => return Err(RecordError::UnexpectedMessage(other)),
    }
    let Some((&[kind, high, middle, low], rest)) = bytes.split_first_chunk() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([0, high, middle, low]) as usize;
    if length > MAX_MESSAGE {
        return Err(RecordError::MessageTooLong(length));
    }
    Ok(rest.split_at_checked(length).map(|(body, rest)| Message { kind, body, rest }))
}

/// The longest body that is put together.
const MAX_MESSAGE: usize = 1 << 16;

const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;
