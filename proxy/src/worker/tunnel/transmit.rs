//! The sending half of a turn: applications' bytes are read straight into the records that carry them.

use std::io::IoSliceMut;

use hbone::StreamId;

use super::{Role, Tunnel, failure};
use crate::telemetry::{Failure, ResponseFlags};
use crate::worker::core::{Core, Job};
use crate::worker::end::is_reset;
use crate::worker::leg::Taken;
use crate::worker::stream::{Delivered, Phase, Stream};

/// What one of several active streams may send before the next has its turn.
const QUANTUM: usize = 64 * 1024;

impl Tunnel {
    /// Writes what is sealed already, then control frames and, as far as one scratch buffer goes, payload of the active
    /// streams in turns.
    pub(super) fn transmit(&mut self, key: usize, core: &mut Core) -> Result<(), Failure> {
        if !self.write_unsent()? {
            return Ok(());
        }
        self.connection.flush(&mut core.outbox).map_err(|error| failure(&error))?;
        self.fill(core)?;
        // END_STREAM and RST_STREAM of what was just read stand behind its payload.
        self.connection.flush(&mut core.outbox).map_err(|error| failure(&error))?;
        if core.outbox.is_empty() {
            return Ok(());
        }
        let written = self.leg.write(core.outbox.sealed());
        self.connection.written(&mut core.outbox, *written.as_ref().unwrap_or(&0));
        written.map_err(|error| lost(&error))?;
        if self.leg.writable && !self.active.is_empty() {
            core.enqueue(Job::Tunnel(key), &mut self.queued);
        }
        Ok(())
    }

    /// Writes sealed bytes that the socket didn't take before. `false` if it still doesn't take all.
    fn write_unsent(&mut self) -> Result<bool, Failure> {
        while self.leg.writable && !self.connection.unsent().is_empty() {
            let n = self.leg.write(self.connection.unsent()).map_err(|error| lost(&error))?;
            self.connection.advance(n);
        }
        Ok(self.leg.writable)
    }

    fn fill(&mut self, core: &mut Core) -> Result<(), Failure> {
        while let Some(id) = self.active.pop_front() {
            let limit = if self.active.is_empty() { usize::MAX } else { QUANTUM };
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            stream.queued = false;
            // Without room in the window the stream waits for `Event::Window`.
            if !stream.wants_to_send() || self.connection.send_room(id) == 0 {
                continue;
            }
            let mut slots: Vec<IoSliceMut<'_>> = Vec::new();
            if self.connection.slots(id, &mut core.outbox, limit, &mut slots) == 0 {
                // The scratch buffer is full: this stream is the first of the next round.
                stream.queued = true;
                self.active.push_front(id);
                return Ok(());
            }
            let taken = stream.leg.read_vectored(&mut slots);
            drop(slots);
            let bytes = if let Taken::Bytes(n) = taken { n } else { 0 };
            self.connection.seal(id, &mut core.outbox, bytes).map_err(|error| failure(&error))?;
            match taken {
                Taken::Bytes(n) => {
                    self.active_at = core.now;
                    match self.role {
                        Role::Client { .. } => stream.observation.received(n as u64),
                        Role::Server => stream.observation.sent(n as u64),
                    }
                    self.activate(id);
                }
                Taken::Blocked => {}
                Taken::End => self.application_finished(id, core),
                Taken::Failed(_) => self.application_gone(id, core),
            }
        }
        Ok(())
    }

    fn application_finished(&mut self, id: StreamId, core: &mut Core) {
        self.connection.finish(id);
        if let Some(Stream { phase: Phase::Open(halves), .. }) = self.streams.get_mut(&id) {
            halves.local_done = true;
        }
        self.settle(id, Delivered::Fine, core);
    }
}

fn lost(error: &std::io::Error) -> Failure {
    let what = if is_reset(error) { "the peer reset the tunnel" } else { "tunnel" };
    Failure::new(ResponseFlags::None, format!("{what}: {error}"))
}
