//! Moving a connection: frozen here, prepared and committed elsewhere, or aborted.
//!
//! ```text
//!   Connection ──freeze──> Frozen ──snapshot──> state ──read──> Prepared ─┐
//!       ^                    │  │                                        ├─commit──> Connection, elsewhere
//!       └───────abort────────┘  └─────────────> secrets ─────────────────┘
//! ```
//!
//! The snapshot is used once: two owners of one key would repeat nonces. Whoever sends the secrets away must drop the
//! [`Frozen`]; whoever aborts must be sure that the secrets never arrived.

use std::fmt;

use crate::connection::{Connection, Ending};
use crate::error::ThawError;
use crate::event::StreamId;
use crate::record::{Records, RecordsState};
use crate::role::Role;
use crate::session::Session;
use crate::snapshot::{self, Reader, Secrets, Snapshot, Writer};
use crate::time::Time;

/// A connection set aside: it can't read or write until it is aborted.
pub struct Frozen(Connection);

impl Connection {
    /// Sets the connection aside, to be moved or [aborted](Frozen::abort). Possible between any two turns; sealed
    /// bytes that [`written`](Connection::written) hasn't heard of would be lost.
    #[must_use]
    pub fn freeze(self) -> Frozen {
        debug_assert!(self.is_between_turns(), "sealed bytes are neither written nor kept");
        Frozen(self)
    }
}

impl Frozen {
    /// The connection as bytes. `now` is on the clock that the connection has known so far.
    #[must_use]
    pub fn snapshot(&self, now: Time) -> Snapshot {
        let Self(connection) = self;
        let mut state = Writer::with_capacity(1024 + connection.carry.len() + connection.unsent().len());
        let mut secrets = Writer::with_capacity(SECRETS_CAPACITY);
        connection.records.freeze(&mut state, &mut secrets);
        connection.session.freeze(&mut state, now);
        state.bytes(&connection.carry);
        state.bytes(connection.unsent());
        freeze_ending(connection.ending, &mut state);
        state.bool(connection.peer_ended);
        let (state, checksum) = snapshot::seal(FEATURES, state.written());
        secrets.u32(checksum);
        Snapshot { state, secrets: secrets.into_secrets() }
    }

    /// The very connection that was frozen, untouched.
    #[must_use]
    pub fn abort(self) -> Connection {
        self.0
    }
}

/// A snapshot's state, decoded and checked. It has no keys, so it can neither read nor write.
pub struct Prepared {
    records: RecordsState,
    session: Session,
    carry: Vec<u8>,
    unsent: Vec<u8>,
    ending: Ending,
    peer_ended: bool,
    checksum: u32,
}

impl Prepared {
    /// Reads [`Snapshot::state`].
    ///
    /// # Errors
    /// [`ThawError`]: not a snapshot, made by a build that knows more than this one, or damaged.
    pub fn read(state: &[u8]) -> Result<Self, ThawError> {
        let (checksum, mut state) = snapshot::open(FEATURES, state)?;
        let prepared = Self {
            records: RecordsState::read(&mut state)?,
            session: Session::thaw(&mut state)?,
            carry: state.bytes()?.to_vec(),
            unsent: state.bytes()?.to_vec(),
            ending: thaw_ending(&mut state)?,
            peer_ended: state.bool()?,
            checksum,
        };
        state.end()?;
        if prepared.records.role() != prepared.session.role() {
            return Err(ThawError::Invalid("role"));
        }
        Ok(prepared)
    }

    /// Which end the connection is.
    #[must_use]
    pub fn role(&self) -> Role {
        self.session.role()
    }

    /// Its streams in ascending order: a local socket must be there for each.
    pub fn streams(&self) -> impl ExactSizeIterator<Item = StreamId> {
        self.session.streams()
    }

    /// Makes the connection live. `now` is on the new process's clock; deadlines go on with what was left of them.
    ///
    /// Only the one owner may call this: see the module's warning.
    ///
    /// # Errors
    /// The secrets aren't those of this state.
    pub fn commit(mut self, now: Time, secrets: &Secrets) -> Result<Connection, ThawError> {
        let mut secrets = Reader::new(secrets.expose());
        let records = Records::thaw(&self.records, &mut secrets)?;
        if secrets.u32()? != self.checksum {
            return Err(ThawError::Invalid("secrets of another state"));
        }
        secrets.end()?;
        self.session.rebase(now);
        let Self { session, carry, unsent, ending, peer_ended, .. } = self;
        Ok(Connection::restore(records, session, carry, unsent, ending, peer_ended))
    }
}

/// Says how many streams there are, and nothing else.
impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Prepared {{ {:?}, {} streams }}", self.role(), self.streams().len())
    }
}

fn freeze_ending(ending: Ending, state: &mut Writer) {
    let (tag, alert) = match ending {
        Ending::Open => (0, 0),
        Ending::Owed { alert } => (1, alert),
        Ending::Over => (2, 0),
    };
    state.u8(tag);
    state.u8(alert);
}

fn thaw_ending(state: &mut Reader<'_>) -> Result<Ending, ThawError> {
    match (state.u8()?, state.u8()?) {
        (0, 0) => Ok(Ending::Open),
        (1, alert) => Ok(Ending::Owed { alert }),
        (2, 0) => Ok(Ending::Over),
        _ => Err(ThawError::Invalid("ending")),
    }
}

/// What a reader must know to go on with a connection of this build. A name is never used for something else.
const FEATURES: &[&str] = &["tls13", "h2-connect"];

/// Two traffic secrets of at most 48 bytes, with their lengths, and a checksum: never outgrown, so no copy stays behind.
const SECRETS_CAPACITY: usize = 256;
