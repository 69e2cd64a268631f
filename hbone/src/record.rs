//! The TLS 1.3 record layer (RFC 8446, section 5) of an established connection.
//!
//! Everything here is plain data and can be frozen between any two calls. Payload is opened and sealed where it lies.
//!
//! ```text
//!   a record:  ┌ header 5 ┬ payload ≤ 16384 ┬ type 1 ┬ tag 16 ┐
//!              └──────────┴─────────────────┴────────┴────────┘
//!              HEADER                         TRAILER
//! ```

mod deframe;
mod error;
mod freeze;
mod keys;
mod message;
mod protect;
#[cfg(test)]
mod tests;

use std::ops::Range;

pub use error::RecordError;
pub(crate) use freeze::RecordsState;
pub(crate) use keys::{KeyMaterial, Suite};

use crate::role::Role;
use keys::TrafficSecret;
use message::Messages;
use protect::{Opener, Sealer};

/// Bytes of a record before its payload.
pub(crate) const HEADER: usize = 5;
/// Bytes of a record after its payload: the inner content type and the AEAD's tag.
pub(crate) const TRAILER: usize = 1 + 16;
/// The most payload that a record holds (RFC 8446, section 5.1).
pub(crate) const MAX_PAYLOAD: usize = 1 << 14;

/// Both directions of one TLS 1.3 connection, from the end of its handshake on.
///
/// It never holds bytes of a record: those are the caller's, before opening and after sealing.
pub(crate) struct Records {
    role: Role,
    opener: Opener,
    sealer: Sealer,
    messages: Messages,
    /// Records since the last one with payload. A peer must not keep us busy with nothing.
    fruitless: u8,
    owed: Owed,
}

/// Key updates that are to be sent before any further application data (RFC 8446, section 4.6.3). As flags, so that
/// any number of requests is met by one answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Owed {
    /// A `KeyUpdate` that asks nothing back: the answer to the peer, or our own wish.
    update: bool,
    /// A `KeyUpdate` that asks the peer to update too. Never the answer to a request.
    request: bool,
}

/// What [`Records::open`] found at the front of the bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Opened {
    /// Not yet a whole record.
    Incomplete,
    /// Application data, never empty.
    Data {
        /// Length of the record.
        consumed: usize,
        /// Where in the bytes its payload lies now.
        range: Range<usize>,
    },
    /// A record that holds nothing for the layer above.
    Handled {
        /// Length of the record.
        consumed: usize,
    },
    /// The peer sends nothing more; what follows must be ignored (RFC 8446, section 6.1).
    CloseNotify {
        /// Length of the record.
        consumed: usize,
    },
}

impl Records {
    /// The layer right after the handshake: both sequence numbers are 0, nothing is owed.
    ///
    /// # Errors
    /// A secret is not as long as the suite's hash.
    pub(crate) fn new(
        role: Role,
        suite: Suite,
        client_secret: &[u8],
        server_secret: &[u8],
    ) -> Result<Self, RecordError> {
        let client = TrafficSecret::new(suite, client_secret)?;
        let server = TrafficSecret::new(suite, server_secret)?;
        let (receive, send) = match role {
            Role::Client => (server, client),
            Role::Server => (client, server),
        };
        Ok(Self {
            role,
            opener: Opener::new(receive, 0)?,
            sealer: Sealer::new(send, 0)?,
            messages: Messages::default(),
            fruitless: 0,
            owed: Owed::default(),
        })
    }

    /// Opens, in place, the first record of `buf`.
    ///
    /// # Errors
    /// Every error ends the connection. `buf` may have been overwritten.
    pub(crate) fn open(&mut self, buf: &mut [u8]) -> Result<Opened, RecordError> {
        let Some(consumed) = deframe::first_record(buf)? else {
            return Ok(Opened::Incomplete);
        };
        let inner = self.opener.open(&mut buf[..consumed])?;
        self.owed.request |= self.opener.wants_update();
        let range = HEADER..HEADER + inner.length;
        if inner.content_type != HANDSHAKE {
            self.messages.ensure_none_partial()?;
        }
        match inner.content_type {
            APPLICATION_DATA if range.is_empty() => {}
            APPLICATION_DATA => {
                self.fruitless = 0;
                return Ok(Opened::Data { consumed, range });
            }
            HANDSHAKE => self.receive_handshake(&buf[range])?,
            ALERT if closes(&buf[range])? => return Ok(Opened::CloseNotify { consumed }),
            ALERT => {}
            other => return Err(RecordError::UnexpectedContent(other)),
        }
        self.fruitless += 1;
        if self.fruitless > MAX_FRUITLESS {
            return Err(RecordError::Fruitless);
        }
        Ok(Opened::Handled { consumed })
    }

    /// Seals the payload `record[HEADER..HEADER + len]` in place as application data; returns the record's length,
    /// `HEADER + len + TRAILER`. Key updates that are owed must have been sealed before.
    ///
    /// # Errors
    /// `record` or a record in general has no room for `len` bytes, or the key is worn out. Nothing was sealed.
    pub(crate) fn seal(&mut self, record: &mut [u8], len: usize) -> Result<usize, RecordError> {
        self.sealer.seal(record, len, APPLICATION_DATA)
    }

    /// Whether [`seal_owed`](Self::seal_owed) has something to seal.
    pub(crate) fn owes(&self) -> bool {
        self.owed != Owed::default() || self.sealer.is_update_due()
    }

    /// Appends the owed key updates to `out`, each sealed under the key that it retires.
    ///
    /// # Errors
    /// The key is worn out.
    pub(crate) fn seal_owed(&mut self, out: &mut Vec<u8>) -> Result<(), RecordError> {
        // An answer must not ask in its turn, so a request is a message of its own; it serves a due update as well.
        if self.owed.update || (self.sealer.is_update_due() && !self.owed.request) {
            self.seal_key_update(false, out)?;
            self.owed.update = false;
        }
        if self.owed.request {
            self.seal_key_update(true, out)?;
            self.owed.request = false;
        }
        Ok(())
    }

    /// Appends an alert to `out` (codes: RFC 8446, section 6). None but `user_canceled` may be followed by anything.
    ///
    /// # Errors
    /// The key is worn out.
    pub(crate) fn seal_alert(&mut self, alert: u8, out: &mut Vec<u8>) -> Result<(), RecordError> {
        let level = if matches!(alert, CLOSE_NOTIFY | USER_CANCELED) { WARNING } else { FATAL };
        self.sealer.append(&[level, alert], ALERT, out)
    }

    /// Owes a key update of our own; with `update_requested` the peer is asked to update its key too.
    pub(crate) fn request_key_update(&mut self, update_requested: bool) {
        if update_requested {
            self.owed.request = true;
        } else {
            self.owed.update = true;
        }
    }

    /// Whether these are the keys and sequence numbers that the handshake ended with.
    pub(crate) fn agrees_with(&self, received: (u64, &KeyMaterial), sent: (u64, &KeyMaterial)) -> bool {
        self.opener.is_at(received.0, received.1) && self.sealer.is_at(sent.0, sent.1)
    }

    fn receive_handshake(&mut self, content: &[u8]) -> Result<(), RecordError> {
        if let Some(update) = self.messages.receive(self.role, content)? {
            self.opener.update(update.boundary)?;
            self.owed.update |= update.requested;
        }
        Ok(())
    }

    fn seal_key_update(&mut self, requested: bool, out: &mut Vec<u8>) -> Result<(), RecordError> {
        self.sealer.append(&message::key_update(requested), HANDSHAKE, out)?;
        self.sealer.update()
    }
}

/// Whether an alert is the regular end.
///
/// # Errors
/// It is any other, whatever its level says (RFC 8446, section 6).
fn closes(alert: &[u8]) -> Result<bool, RecordError> {
    match *alert {
        [_, CLOSE_NOTIFY] => Ok(true),
        // Says why a close_notify follows (RFC 8446, section 6.1).
        [_, USER_CANCELED] => Ok(false),
        [_, alert] => Err(RecordError::Alert(alert.into())),
        _ => Err(RecordError::Malformed("alert")),
    }
}

/// Records without payload that a peer may send in a row: key updates, tickets, empty ones.
const MAX_FRUITLESS: u8 = 32;

// Content types (RFC 8446, section 5.1).
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

// Alert levels and descriptions (RFC 8446, section 6).
const WARNING: u8 = 1;
const FATAL: u8 = 2;
const CLOSE_NOTIFY: u8 = 0;
const USER_CANCELED: u8 = 90;
