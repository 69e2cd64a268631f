//! Moving the record layer to another process.
//!
//! The traffic secrets go apart from everything else: who has only the state can check it, but neither read nor write.

use super::keys::TrafficSecret;
use super::message::Messages;
use super::protect::{MAX_RECORDS, Opener, Sealer};
use super::{MAX_FRUITLESS, Owed, Records, Suite};
use crate::error::ThawError;
use crate::role::Role;
use crate::snapshot::{Reader, Writer};

/// The record layer without its secrets, checked.
pub(crate) struct RecordsState {
    role: Role,
    suite: Suite,
    /// Sequence number of the next record to open.
    opened: u64,
    /// Sequence number of the next record to seal.
    sealed: u64,
    fruitless: u8,
    owed: Owed,
    messages: Messages,
}

impl RecordsState {
    /// Which end this is.
    pub(crate) fn role(&self) -> Role {
        self.role
    }

    /// Reads what [`Records::freeze`] wrote as state.
    ///
    /// # Errors
    /// The bytes end too early, or hold what no living record layer holds.
    pub(crate) fn read(state: &mut Reader<'_>) -> Result<Self, ThawError> {
        let role = match state.u8()? {
            CLIENT => Role::Client,
            SERVER => Role::Server,
            _ => return Err(invalid("record role")),
        };
        let suite = Suite::from_code(state.u16()?).ok_or(invalid("cipher suite"))?;
        let opened = sequence(state)?;
        let sealed = sequence(state)?;
        let fruitless = state.u8()?;
        if fruitless > MAX_FRUITLESS {
            return Err(invalid("count of records without payload"));
        }
        let owed = Owed { update: state.bool()?, request: state.bool()? };
        let messages = Messages::restore(role, state.bytes()?).ok_or(invalid("partial handshake message"))?;
        Ok(Self { role, suite, opened, sealed, fruitless, owed, messages })
    }
}

impl Records {
    /// Writes everything but the traffic secrets to `state`, and these (receiving, then sending) to `secrets`.
    pub(crate) fn freeze(&self, state: &mut Writer, secrets: &mut Writer) {
        state.u8(match self.role {
            Role::Client => CLIENT,
            Role::Server => SERVER,
        });
        state.u16(self.sealer.suite().code());
        state.u64(self.opener.sequence());
        state.u64(self.sealer.sequence());
        state.u8(self.fruitless);
        state.bool(self.owed.update);
        state.bool(self.owed.request);
        state.bytes(self.messages.partial());
        secrets.bytes(self.opener.secret());
        secrets.bytes(self.sealer.secret());
    }

    /// The frozen record layer, alive. Whoever calls this must be the only one who ever seals with it again.
    ///
    /// # Errors
    /// The secrets end too early or do not fit the state's cipher suite.
    pub(crate) fn thaw(state: &RecordsState, secrets: &mut Reader<'_>) -> Result<Self, ThawError> {
        let mut secret = || {
            TrafficSecret::new(state.suite, secrets.bytes()?)
                .map_err(|_| invalid("length of a traffic secret"))
        };
        let (receive, send) = (secret()?, secret()?);
        let keys = |_| invalid("traffic secret");
        Ok(Self {
            role: state.role,
            opener: Opener::new(receive, state.opened).map_err(keys)?,
            sealer: Sealer::new(send, state.sealed).map_err(keys)?,
            messages: state.messages.clone(),
            fruitless: state.fruitless,
            owed: state.owed,
        })
    }
}

fn sequence(state: &mut Reader<'_>) -> Result<u64, ThawError> {
    let sequence = state.u64()?;
    if sequence > MAX_RECORDS { Err(invalid("sequence number")) } else { Ok(sequence) }
}

fn invalid(what: &'static str) -> ThawError {
    ThawError::Invalid(what)
}

const CLIENT: u8 = 0;
const SERVER: u8 = 1;
