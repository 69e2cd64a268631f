//! Two plain TCP sockets, relayed.

pub(super) mod moving;

use std::io;
use std::sync::Arc;

use super::core::{Core, Job, Source};
use super::end::End;
use super::frozen::arrival::Arrival;
use super::jobs::Queued;
use super::leg::{Leg, Taken};
use crate::pod::Pod;
use crate::telemetry::Observation;

/// Reads of one direction in one turn, so that one fast connection doesn't hold the others up.
const READS_A_TURN: usize = 4;

/// A relayed pair: `near` is the accepted socket, `far` the one that we connected.
pub(super) struct Pair {
    near: Leg,
    far: Leg,
    /// From near to far (the request direction).
    forward: Direction,
    /// From far to near.
    backward: Direction,
    observation: Observation,
    /// When bytes last passed, ms.
    active_at: u64,
    /// Who waits for news of it, if it has just arrived.
    pub(super) arrival: Option<Box<Arrival>>,
    pub(super) queued: Queued,
}

/// One direction of a pair.
///
/// ```text
///  Open ──FIN read──► Finishing ──all written, FIN sent──► Done
/// ```
#[derive(Debug, Default)]
struct Direction {
    state: DirectionState,
    /// Bytes that the writer's socket hasn't taken yet. Nothing is read while there are any.
    pending: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum DirectionState {
    #[default]
    Open,
    Finishing,
    Done,
}

/// Which socket of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Near,
    Far,
}

impl Pair {
    pub(super) fn new(near: Leg, far: Leg, observation: Observation, now: u64) -> Self {
        let (forward, backward) = (Direction::default(), Direction::default());
        let queued = Queued::of(near.pod());
        Self { near, far, forward, backward, observation, active_at: now, arrival: None, queued }
    }

    /// Its sockets belong to the pair with this key now.
    pub(super) fn assign(&self, key: usize, core: &mut Core) {
        core.assign(&self.near, Source::PairNear(key));
        core.assign(&self.far, Source::PairFar(key));
    }

    pub(super) fn observation(&self) -> &Observation {
        &self.observation
    }

    /// When bytes last passed, ms.
    pub(super) fn active_at(&self) -> u64 {
        self.active_at
    }

    pub(super) fn pod(&self) -> &Arc<Pod> {
        self.near.pod()
    }

    /// The accepted socket.
    pub(super) fn first(&self) -> &Leg {
        &self.near
    }

    pub(super) fn leg(&mut self, side: Side) -> &mut Leg {
        match side {
            Side::Near => &mut self.near,
            Side::Far => &mut self.far,
        }
    }

    /// Moves what can be moved now. `Ok(true)` once both directions are done.
    pub(super) fn drive(&mut self, key: usize, core: &mut Core) -> io::Result<bool> {
        let forward = self.forward.relay(&mut self.near, &mut self.far, &mut core.plain)?;
        self.observation.received(forward.bytes);
        let backward = self.backward.relay(&mut self.far, &mut self.near, &mut core.plain)?;
        self.observation.sent(backward.bytes);
        if forward.bytes + backward.bytes > 0 {
            self.active_at = core.now;
        }
        if let Some(arrival) = self.arrival.take() {
            arrival.runs();
        }
        if forward.more || backward.more {
            core.enqueue(Job::Pair(key), &mut self.queued);
        }
        Ok(self.forward.state == DirectionState::Done && self.backward.state == DirectionState::Done)
    }

    /// Closes both sockets and writes the access log. A connection that was cut ends by RST on both sides, so that
    /// nobody takes half of a stream for the whole.
    pub(super) fn end(self, core: &mut Core, end: End<'_>) {
        if !matches!(end, End::Whole) {
            self.near.abort();
            self.far.abort();
        }
        core.close(self.near);
        core.close(self.far);
        self.observation.close(core.now, end.outcome());
    }
}

/// What a turn of one direction did.
struct Relayed {
    bytes: u64,
    /// There is more to do at once; others come first.
    more: bool,
}

impl Direction {
    fn relay(&mut self, from: &mut Leg, to: &mut Leg, scratch: &mut [u8]) -> io::Result<Relayed> {
        let mut bytes = 0;
        for _ in 0..READS_A_TURN {
            while !self.pending.is_empty() && to.writable {
                let n = to.write(&self.pending)?;
                self.pending.drain(..n);
            }
            if !self.pending.is_empty() || self.state == DirectionState::Done {
                return Ok(Relayed { bytes, more: false });
            }
            // A buffer that was needed once isn't kept for a connection that may be idle for days.
            self.pending = Vec::new();
            if self.state == DirectionState::Finishing {
                to.shutdown_write();
                self.state = DirectionState::Done;
                return Ok(Relayed { bytes, more: false });
            }
            if !from.readable {
                return Ok(Relayed { bytes, more: false });
            }
            match from.read(scratch) {
                Taken::Bytes(n) => {
                    bytes += n as u64;
                    let written = if to.writable { to.write(&scratch[..n])? } else { 0 };
                    self.pending.extend_from_slice(&scratch[written..n]);
                }
                Taken::End => self.state = DirectionState::Finishing,
                Taken::Blocked => return Ok(Relayed { bytes, more: false }),
                Taken::Failed(error) => return Err(error),
            }
        }
        // An end that was read last has still to be passed on.
        Ok(Relayed { bytes, more: from.readable || self.state == DirectionState::Finishing })
    }
}
