//! A plain pair taken apart, and put together by its new owner: see [`frozen`](crate::worker::frozen).

use drain::Kind;
use prost::Message;

use super::{Direction, DirectionState, Pair};
use crate::clock::monotonic_ns;
use crate::worker::core::Core;
use crate::worker::frozen::facts::{ObservationRecord, PreparedObservation};
use crate::worker::frozen::record::{self, Body};
use crate::worker::frozen::{FrozenConnection, FrozenKind, Given, Kept, MoveError};
use crate::worker::leg::Leg;

/// The pair's part of a record. Its sockets: the accepted one, then the one that we connected.
#[derive(Clone, PartialEq, Message)]
pub(in crate::worker) struct PairRecord {
    #[prost(message, optional, tag = "1")]
    observation: Option<ObservationRecord>,
    /// From the accepted socket to the other one, and back.
    #[prost(message, optional, tag = "2")]
    forward: Option<DirectionRecord>,
    #[prost(message, optional, tag = "3")]
    backward: Option<DirectionRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct DirectionRecord {
    /// FIN was read.
    #[prost(bool, tag = "1")]
    finishing: bool,
    /// FIN was passed on.
    #[prost(bool, tag = "2")]
    done: bool,
    /// What was read and not yet written.
    #[prost(bytes = "vec", tag = "3")]
    pending: Vec<u8>,
}

/// A pair as its record tells it.
pub(in crate::worker) struct PreparedPair {
    forward: Direction,
    backward: Direction,
    observation: PreparedObservation,
}

impl PairRecord {
    pub(in crate::worker) fn read(self, sockets: usize, now: u64) -> Result<PreparedPair, MoveError> {
        if sockets != 2 {
            return Err(MoveError::Sockets { expected: 2, got: sockets });
        }
        let direction = |record: Option<DirectionRecord>| {
            record.ok_or(MoveError::Record("a pair without a direction")).and_then(DirectionRecord::read)
        };
        Ok(PreparedPair {
            forward: direction(self.forward)?,
            backward: direction(self.backward)?,
            observation: self.observation.ok_or(MoveError::Record("no observation"))?.read(now)?,
        })
    }
}

impl DirectionRecord {
    fn of(direction: Direction) -> Self {
        Self {
            finishing: direction.state == DirectionState::Finishing,
            done: direction.state == DirectionState::Done,
            pending: direction.pending,
        }
    }

    fn read(self) -> Result<Direction, MoveError> {
        let state = match (self.finishing, self.done) {
            (false, false) => DirectionState::Open,
            (true, false) => DirectionState::Finishing,
            (false, true) if self.pending.is_empty() => DirectionState::Done,
            (_, true) => return Err(MoveError::Record("a direction that is done and isn't")),
        };
        Ok(Direction { state, pending: self.pending })
    }
}

impl Pair {
    /// Why it can't be frozen now, if it can't.
    pub(in crate::worker) fn unmovable(&self) -> Option<&'static str> {
        self.arrival.is_some().then_some("it has just arrived")
    }

    /// Takes the pair out of this worker.
    pub(in crate::worker) fn freeze(self, core: &mut Core) -> Given {
        let frozen_at = monotonic_ns();
        let pod = self.near.pod().clone();
        let body = PairRecord {
            observation: Some(ObservationRecord::of(&self.observation, core.now)),
            forward: Some(DirectionRecord::of(self.forward)),
            backward: Some(DirectionRecord::of(self.backward)),
        };
        let sockets = vec![core.take_fd(self.near), core.take_fd(self.far)];
        let frozen = FrozenConnection {
            kind: FrozenKind::Plain,
            streams: 0,
            record: record::write(&pod, &sockets, Body::Plain(body)),
            secrets: None,
            sockets,
            frozen_at,
        };
        (frozen, Kept { observations: vec![self.observation], ..Kept::default() })
    }

    /// A pair that was frozen elsewhere.
    pub(in crate::worker) fn thaw(prepared: PreparedPair, [near, far]: [Leg; 2], core: &Core) -> Self {
        let PreparedPair { forward, backward, observation } = prepared;
        let observation = observation.resume(Kind::Plain, core);
        Self { forward, backward, ..Self::new(near, far, observation, core.now) }
    }
}
