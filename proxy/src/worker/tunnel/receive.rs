//! The receiving half of a turn: opened records go straight to the applications' sockets.

use std::io::IoSlice;

use hbone::{ErrorCode, Event, StreamId, Time};

use super::{Effect, Returned, Role, Tunnel, end_stream, failure};
use crate::telemetry::{Failure, ResponseFlags};
use crate::worker::core::{Core, Job};
use crate::worker::end::End;
use crate::worker::frozen::arrival::Arrival;
use crate::worker::leg::Taken;
use crate::worker::stream::{Delivered, Halves, Phase, Remote, Stream};

/// Slices of one delivery: what one scratch buffer of full records amounts to, rounded up.
const SLICES: usize = 40;

impl Tunnel {
    /// Takes what the socket has, as far as one scratch buffer goes, and acts on it. What is left comes in the next turn,
    /// after others have had theirs.
    pub(super) fn receive(
        &mut self,
        key: usize,
        core: &mut Core,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        if !self.leg.readable {
            return Ok(());
        }
        let result = match self.leg.read(core.inbox.space(&self.connection)) {
            Taken::Bytes(n) => self.connection.receive(Time(core.now), &mut core.inbox, n, &mut core.events),
            Taken::Blocked => return Ok(()),
            Taken::End => self.connection.receive_end(&mut core.events),
            Taken::Failed(error) => {
                return Err(Failure::new(ResponseFlags::None, format!("tunnel: {error}")));
            }
        };
        if result.is_err() {
            // The streams end with the tunnel, for its reason; only those that can try elsewhere leave it before.
            core.events.retain(|event| !matches!(event, Event::Reset { retryable: false, .. }));
        }
        self.dispatch(key, core, effects);
        result.map_err(|error| failure(&error))?;
        if self.leg.readable {
            core.enqueue(Job::Tunnel(key), &mut self.queued);
        }
        Ok(())
    }

    /// Acts on what the connection has read. Neighbouring pieces of one stream go to its socket in one write.
    pub(super) fn dispatch(&mut self, key: usize, core: &mut Core, effects: &mut Vec<Effect>) {
        let mut events = std::mem::take(&mut core.events);
        let mut rest = events.as_slice();
        while let Some((event, after)) = rest.split_first() {
            rest = after;
            match event {
                Event::Data { stream, .. } => {
                    let run = 1 + after
                        .iter()
                        .take(SLICES - 1)
                        .take_while(|next| matches!(next, Event::Data { stream: s, .. } if s == stream))
                        .count();
                    let (data, others) = events_of(event, after, run);
                    rest = others;
                    self.deliver(*stream, data, core);
                }
                Event::End { stream } => self.remote_end(*stream, core),
                Event::Reset { stream, code, retryable } => {
                    self.remote_reset(*stream, *code, *retryable, core, effects);
                }
                Event::Window { stream } => self.activate(*stream),
                Event::Request { stream, request } => self.accept_request(key, *stream, request, core),
                Event::Response { stream, response } => self.accept_reply(*stream, response, core),
                Event::Room => effects.push(Effect::Room),
                Event::Draining => effects.push(Effect::LeavePool),
                Event::Answered => self.note_arrival(Arrival::answered),
                Event::Closed => {}
            }
        }
        events.clear();
        core.events = events;
    }

    fn deliver(&mut self, id: StreamId, data: (&Event, &[Event]), core: &mut Core) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        for event in std::iter::once(data.0).chain(data.1) {
            if let Event::Data { range, .. } = event {
                slices[count] = IoSlice::new(core.inbox.bytes(range.clone()));
                count += 1;
            }
        }
        self.active_at = core.now;
        let (bytes, outcome) = stream.deliver(id, &mut self.connection, &slices[..count]);
        match self.role {
            Role::Client { .. } => stream.observation.sent(bytes as u64),
            Role::Server => stream.observation.received(bytes as u64),
        }
        if outcome == Delivered::Gone {
            self.application_gone(id, core);
        }
    }

    fn remote_end(&mut self, id: StreamId, core: &mut Core) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        match &mut stream.phase {
            Phase::Open(Halves { remote, .. }) | Phase::Connecting { remote, .. } => {
                *remote = Remote::Finishing;
            }
            // An answer always comes first (RFC 9113, 8.1); without one the reply's time limit decides.
            Phase::AwaitReply(_) => return,
        }
        let outcome = stream.deliver_pending(id, &mut self.connection);
        self.settle(id, outcome, core);
    }

    fn remote_reset(
        &mut self,
        id: StreamId,
        code: ErrorCode,
        retryable: bool,
        core: &mut Core,
        effects: &mut Vec<Effect>,
    ) {
        let Some(mut stream) = self.streams.remove(&id) else { return };
        self.note_idle(core.now);
        match std::mem::replace(&mut stream.phase, Phase::Open(Halves::default())) {
            Phase::AwaitReply(requested) if retryable => {
                self.refused = true;
                let Stream { leg, observation, .. } = stream;
                effects.push(Effect::Again(Box::new(Returned { leg, requested, observation })));
            }
            Phase::AwaitReply(_) => {
                let failure =
                    Failure::new(ResponseFlags::None, format!("the peer reset the request: {code:?}"));
                end_stream(stream, core, End::Failed(&failure));
            }
            // What was received before is still the application's; the rest of the stream is over.
            Phase::Open(Halves { remote, .. })
                if is_orderly(code) && !self.connection.pending(id).is_empty() =>
            {
                let remote = if remote == Remote::Finishing { remote } else { Remote::Resetting };
                stream.phase = Phase::Open(Halves { local_done: true, remote });
                self.streams.insert(id, stream);
                return;
            }
            // Stock ends a stream by CANCEL or NO_ERROR when its application has gone; its peer takes it for the end.
            Phase::Open(_) | Phase::Connecting { .. } if is_orderly(code) => {
                end_stream(stream, core, End::Reset);
            }
            Phase::Open(_) | Phase::Connecting { .. } => {
                let failure =
                    Failure::new(ResponseFlags::None, format!("the peer reset the stream: {code:?}"));
                end_stream(stream, core, End::Failed(&failure));
            }
        }
        // Nobody takes what the connection still keeps for it.
        self.connection.reset(id, code);
    }
}

/// Whether a stream's peer ended it because it, or its application, had no more use for it.
fn is_orderly(code: ErrorCode) -> bool {
    code == ErrorCode::NO_ERROR || code == ErrorCode::CANCEL
}

/// `first` and the next `run - 1` events, and those behind them.
fn events_of<'a>(
    first: &'a Event,
    after: &'a [Event],
    run: usize,
) -> ((&'a Event, &'a [Event]), &'a [Event]) {
    let (same, others) = after.split_at(run - 1);
    ((first, same), others)
}
