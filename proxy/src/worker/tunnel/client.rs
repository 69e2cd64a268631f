//! The client's part: requests for users' connections, and the peer's answers.

use hbone::{ConnectResponse, ErrorCode, StreamId};

use super::{Returned, Tunnel};
use crate::flow::{User, UserEvent, UserNext};
use crate::telemetry::{Failure, ResponseFlags};
use crate::worker::core::{Core, Job, Source};
use crate::worker::end::End;
use crate::worker::stream::{Halves, Phase, Stream};

impl Tunnel {
    /// How many users it can take now.
    pub(in crate::worker) fn room(&self) -> usize {
        if self.lingering.is_some() || self.refused { 0 } else { self.connection.stream_room() }
    }

    /// Sends CONNECT for a user's connection.
    ///
    /// # Errors
    /// The user comes back if the tunnel has no room after all.
    pub(in crate::worker) fn request(
        &mut self,
        key: usize,
        core: &mut Core,
        mut user: Returned,
    ) -> Result<(), Box<Returned>> {
        let id = match self.connection.connect(&user.requested.request) {
            Ok(id) => id,
            Err(_) => return Err(Box::new(user)),
        };
        core.assign(&user.leg, Source::Stream(key, id));
        user.requested.deadline = core.now + User::AwaitReply { tries: user.requested.tries }.limit();
        let phase = Phase::AwaitReply(user.requested);
        self.insert(id, Stream { leg: user.leg, phase, observation: user.observation, queued: false });
        core.enqueue(Job::Tunnel(key), &mut self.queued);
        Ok(())
    }

    pub(super) fn accept_reply(&mut self, id: StreamId, response: &ConnectResponse, core: &mut Core) {
        let event = UserEvent::Reply { status: response.status };
        self.step(id, &event, core);
    }

    pub(super) fn reply_timeout(&mut self, id: StreamId, core: &mut Core) {
        self.step(id, &UserEvent::Timeout, core);
    }

    fn step(&mut self, id: StreamId, event: &UserEvent, core: &mut Core) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let Phase::AwaitReply(requested) = &stream.phase else { return };
        match (User::AwaitReply { tries: requested.tries }).on(event) {
            Some(UserNext::Open) => {
                stream.phase = Phase::Open(Halves::default());
                self.activate(id);
            }
            Some(UserNext::Fail(error)) => {
                let failure = Failure::new(ResponseFlags::None, error.to_string());
                self.connection.reset(id, ErrorCode::CANCEL);
                self.finish_stream(id, core, End::Failed(&failure));
            }
            Some(UserNext::Go(_)) | None => {}
        }
    }
}
