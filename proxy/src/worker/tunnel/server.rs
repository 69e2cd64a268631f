//! The server's part: requests of a peer, checked, authorised and joined to the local application.

use std::net::SocketAddr;

use hbone::{ConnectRequest, ConnectResponse, ErrorCode, StreamId};

use super::Tunnel;
use crate::inbound::{self, Decision};
use crate::telemetry::{ConnectionFacts, Failure, Observation, ResponseFlags};
use crate::worker::core::{Core, Job, Source};
use crate::worker::end::End;
use crate::worker::stream::{Halves, Phase, Remote, Stream};

/// How long the local application may take to accept, ms.
const CONNECT_LIMIT: u64 = 10_000;

impl Tunnel {
    pub(super) fn accept_request(
        &mut self,
        key: usize,
        id: StreamId,
        request: &ConnectRequest,
        core: &mut Core,
    ) {
        match inbound::decide(&core.shared, self.leg.pod(), &self.peer, request) {
            Decision::Refuse { status, failure, facts } => {
                self.refuse(id, status);
                self.observe(*facts, core).close(core.now, Err(&failure));
            }
            Decision::Connect { to, from, facts } => {
                let observation = self.observe(*facts, core);
                match core.connect(to, from, Source::Stream(key, id), self.leg.pod()) {
                    Ok(leg) => {
                        let phase =
                            Phase::Connecting { deadline: core.now + CONNECT_LIMIT, remote: Remote::Open };
                        self.insert(id, Stream { leg, phase, observation, queued: false });
                    }
                    Err(error) => {
                        self.refuse(id, 503);
                        observation.close(core.now, Err(&connect_failure(&to, &error.to_string())));
                    }
                }
            }
        }
    }

    /// The local socket of a stream that waits for it had an event.
    pub(super) fn connected(&mut self, id: StreamId, core: &mut Core) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let Phase::Connecting { remote, .. } = stream.phase else { return };
        match stream.leg.connected() {
            Ok(false) => {}
            Ok(true) => {
                stream.phase = Phase::Open(Halves { local_done: false, remote });
                let response = ConnectResponse {
                    status: 200,
                    headers: inbound::reply_headers(&core.shared, self.leg.pod()),
                };
                self.connection.respond(id, &response, false);
                let outcome = stream.deliver_pending(id, &mut self.connection);
                self.activate(id);
                self.settle(id, outcome, core);
            }
            Err(error) => self.connect_failed(id, core, &error.to_string()),
        }
    }

    pub(super) fn connect_failed(&mut self, id: StreamId, core: &mut Core, why: &str) {
        self.refuse(id, 503);
        let failure =
            Failure::new(ResponseFlags::Connect, format!("connect to the local application: {why}"));
        self.finish_stream(id, core, End::Failed(&failure));
    }

    /// Policy lets a stream in no more: its peer gets the answer that it would get now or, behind a 200, CANCEL as from
    /// stock.
    pub(in crate::worker) fn deny(&mut self, key: usize, id: StreamId, failure: &Failure, core: &mut Core) {
        match self.streams.get(&id).map(|stream| &stream.phase) {
            Some(Phase::Connecting { .. }) => self.refuse(id, 401),
            _ => self.connection.reset(id, ErrorCode::CANCEL),
        }
        self.finish_stream(id, core, End::Failed(failure));
        core.enqueue(Job::Tunnel(key), &mut self.queued);
    }

    /// HEADERS with END_STREAM; what the peer still sends for the stream is thrown away.
    fn refuse(&mut self, id: StreamId, status: u16) {
        self.connection.respond(id, &ConnectResponse { status, headers: Vec::new() }, true);
        self.connection.reset(id, ErrorCode::NO_ERROR);
    }

    fn observe(&self, facts: ConnectionFacts, core: &Core) -> Observation {
        let tracked = core.shared.registry.track(core.id, drain::Kind::Stream, facts, core.now);
        Observation::open(&core.shared.telemetry, tracked)
    }
}

fn connect_failure(to: &SocketAddr, why: &str) -> Failure {
    Failure::new(ResponseFlags::Connect, format!("connect to {to}: {why}"))
}
