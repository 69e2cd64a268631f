//! Users' connections on their way up: carries out what [`crate::flow::User`] says.

use std::net::SocketAddr;

use drain::Kind;

use super::core::{Core, Job, Source};
use super::leg::Taken;
use super::placing::{Fresh, Onward};
use super::stream::Requested;
use super::tunnel::Returned;
use super::user::{Listening, Origin, Stage, User};
use super::{Pair, Worker};
use crate::flow::{User as Flow, UserEvent, UserNext};
use crate::outbound;
use crate::plan::Plan;
use crate::socks5;
use crate::telemetry::{ConnectionFacts, Failure, Observation, ResponseFlags};
use crate::{inbound, socket};

/// How often what is missing of the mesh is looked for, ms.
const LOOK_AGAIN: u64 = 100;

/// A SOCKS5 client says at most this much before its connection is open (RFC 1928: 257 + 262 bytes).
const GREETING: usize = 1024;

impl Worker {
    pub(super) fn drive_user(&mut self, key: usize) {
        let Some(user) = self.users.get_mut(key) else { return };
        user.queued.done();
        match &mut user.stage {
            Stage::Greeting { .. } => self.greet(key),
            Stage::AwaitWorkload { .. } | Stage::AwaitAnswer { .. } => self.route(key),
            Stage::Connecting { onward, .. } => {
                if onward.writable || onward.has_failed() {
                    self.onward_ready(key);
                }
            }
            // An application that has gone needs no tunnel.
            Stage::AwaitTunnel { .. } if user.leg.has_failed() => {
                let failure = Failure::new(ResponseFlags::None, "the application closed the connection");
                self.fail_user(key, &failure);
            }
            Stage::AwaitTunnel { .. } | Stage::Gone => {}
        }
        self.arm_user(key);
    }

    pub(super) fn user_timeout(&mut self, key: usize) {
        let Some(user) = self.users.get_mut(key) else { return };
        user.armed = None;
        if self.core.now < user.deadline {
            return self.drive_user(key);
        }
        if let Some(UserNext::Fail(error)) = user.stage.flow().on(&UserEvent::Timeout) {
            let flags = match user.stage {
                Stage::Connecting { .. } => ResponseFlags::Connect,
                _ => ResponseFlags::None,
            };
            self.fail_user(key, &Failure::new(flags, error.to_string()));
        }
    }

    pub(super) fn onward_event(&mut self, key: usize, event: &mio::event::Event) {
        if let Some(user) = self.users.get_mut(key)
            && let Stage::Connecting { onward, .. } = &mut user.stage
        {
            onward.note(event);
            self.core.enqueue(Job::User(key), &mut user.queued);
        }
    }

    /// Ends a user's connection before it was relayed.
    pub(super) fn fail_user(&mut self, key: usize, failure: &Failure) {
        let mut user = self.users.remove(key);
        self.core.timers.set(Job::User(key), &mut user.armed, None);
        if let Stage::AwaitTunnel { key: pool_key, .. } = &user.stage {
            self.stop_waiting(key, &pool_key.clone());
        }
        user.leg.abort();
        self.core.close(user.leg);
        stage_failed(user.stage, &mut self.core, failure);
    }

    pub(super) fn refuse_early(&self, origin: &Origin, destination: Option<SocketAddr>, reason: &str) {
        refuse_early(origin, destination, reason);
    }

    pub(super) fn arm_user(&mut self, key: usize) {
        let Some(user) = self.users.get_mut(key) else { return };
        let at = if user.stage.awaits_mesh() {
            user.deadline.min(self.core.now + LOOK_AGAIN)
        } else {
            user.deadline
        };
        self.core.timers.set(Job::User(key), &mut user.armed, Some(at));
    }

    /// SOCKS5: reads until the client has said where it wants to go.
    fn greet(&mut self, key: usize) {
        loop {
            let Some(user) = self.users.get_mut(key) else { return };
            let Stage::Greeting { buffer, agreed, .. } = &mut user.stage else { return };
            let parsed = if *agreed { socks5::request(buffer) } else { socks5::method(buffer) };
            match parsed {
                Ok(socks5::Greeting::Method(length)) => {
                    buffer.drain(..length);
                    *agreed = true;
                    // Two bytes into an empty socket: the kernel takes them.
                    let _ = user.leg.write(&socks5::METHOD);
                }
                Ok(socks5::Greeting::Request(_, target)) => return self.target_named(key, target),
                Ok(socks5::Greeting::Incomplete) if buffer.len() < GREETING => {
                    let mut chunk = [0; GREETING];
                    // Nothing beyond the request is read: what follows it belongs to the destination.
                    let room = if *agreed { request_rest(buffer) } else { method_rest(buffer) };
                    match user.leg.read(&mut chunk[..room]) {
                        Taken::Bytes(n) => buffer.extend_from_slice(&chunk[..n]),
                        Taken::Blocked => return,
                        Taken::End | Taken::Failed(_) => {
                            let failure = Failure::new(ResponseFlags::None, "socks5: the client went away");
                            return self.fail_user(key, &failure);
                        }
                    }
                }
                Ok(socks5::Greeting::Incomplete) => {
                    return self.refuse_socks(key, socks5::NOT_SUPPORTED, "socks5: the request is too long");
                }
                Err(refusal) => {
                    return self.refuse_socks(key, socks5::NOT_SUPPORTED, &refusal.to_string());
                }
            }
        }
    }

    fn refuse_socks(&mut self, key: usize, code: u8, reason: &str) {
        let Some(user) = self.users.get_mut(key) else { return };
        let _ = user.leg.write(&socks5::reply(code));
        // An abort would destroy the reply.
        let mut user = self.users.remove(key);
        self.core.timers.set(Job::User(key), &mut user.armed, None);
        user.leg.shutdown_write();
        self.core.close(user.leg);
        let failure = Failure::new(ResponseFlags::None, reason);
        stage_failed(user.stage, &mut self.core, &failure);
    }

    fn target_named(&mut self, key: usize, target: socks5::Target) {
        let Some(pod) = self.users.get(key).map(|user| user.leg.pod().clone()) else { return };
        let destination = match target {
            socks5::Target::Address(address) => Some(socket::canonical(address)),
            socks5::Target::Name(name, port) => outbound::resolve(&self.core.shared, &pod, &name, port),
        };
        let Some(destination) = destination else {
            return self.refuse_socks(key, socks5::HOST_UNREACHABLE, "socks5: the name is not known");
        };
        let Some(user) = self.users.get_mut(key) else { return };
        // As in stock, success is said before it is known.
        let _ = user.leg.write(&socks5::reply(0));
        let Some(UserNext::Go(flow)) = user.stage.flow().on(&UserEvent::Target) else { return };
        let stage = std::mem::replace(&mut user.stage, Stage::Gone);
        if let Stage::Greeting { origin, .. } = stage {
            user.stage = Stage::AwaitWorkload { destination, origin };
            user.deadline = self.core.now + flow.limit();
        }
        self.route(key);
    }

    /// Decides where the connection goes, once the local workload is known, and what is at the destination.
    fn route(&mut self, key: usize) {
        let Some(user) = self.users.get(key) else { return };
        let (Stage::AwaitWorkload { destination, origin } | Stage::AwaitAnswer { destination, origin }) =
            &user.stage
        else {
            return;
        };
        let (destination, source, listener) = (*destination, origin.source, origin.listener);
        let pod = user.leg.pod().clone();
        let Some(workload) = self.core.shared.local_workload(&pod) else { return };
        self.accepted_by_mesh(&pod);
        if listener != Listening::Passthrough
            && let Some(name) = outbound::unanswered(&self.core.shared, &workload, destination)
        {
            return self.demand(key, &name);
        }
        let plan = match listener {
            Listening::Passthrough => {
                inbound::plan_plain(&self.core.shared, &pod, &workload, source, destination)
            }
            _ => outbound::plan(&self.core.shared, &pod, &workload, source, destination),
        };
        match plan {
            Plan::Refuse { failure, facts } => self.refuse_planned(key, *facts, &failure),
            Plan::Close { reason } => {
                self.fail_user(key, &Failure::new(ResponseFlags::None, reason));
            }
            Plan::Direct { to, from, facts } => {
                let Some(observation) = self.observe(key, *facts, Kind::Plain) else { return };
                self.place_plain(key, Onward { to, from }, observation);
            }
            Plan::Tunnel { key: pool_key, request, facts } => {
                let requested = Requested { request, tries: 0, deadline: 0, source, destination };
                let requested = Box::new(requested);
                let Some(observation) = self.observe(key, *facts, Kind::Stream) else { return };
                let stage = Stage::AwaitTunnel { key: pool_key, requested, observation };
                self.enter(key, &UserEvent::Tunnel, stage);
                self.place(key);
            }
        }
    }

    /// Asks the control plane, once; the answer is found in the store.
    fn demand(&mut self, key: usize, name: &str) {
        let Some(user) = self.users.get_mut(key) else { return };
        let Some(UserNext::Go(flow)) = user.stage.flow().on(&UserEvent::Demanded) else { return };
        if let Stage::AwaitWorkload { destination, origin } = std::mem::replace(&mut user.stage, Stage::Gone)
        {
            user.stage = Stage::AwaitAnswer { destination, origin };
            user.deadline = self.core.now + flow.limit();
        }
        if let Some(demand) = &self.core.shared.demand {
            demand(name);
        }
    }

    fn refuse_planned(&mut self, key: usize, facts: ConnectionFacts, failure: &Failure) {
        if let Some(observation) = self.observe(key, facts, Kind::Plain) {
            observation.close(self.core.now, Err(failure));
        }
        let mut user = self.users.remove(key);
        self.core.timers.set(Job::User(key), &mut user.armed, None);
        user.leg.abort();
        self.core.close(user.leg);
    }

    /// The connection's labels are known now: its entry in the registry becomes an observation.
    fn observe(&mut self, key: usize, facts: ConnectionFacts, kind: Kind) -> Option<Observation> {
        let user = self.users.get_mut(key)?;
        match std::mem::replace(&mut user.stage, Stage::Gone) {
            Stage::AwaitWorkload { origin, .. } | Stage::AwaitAnswer { origin, .. } => {
                origin.tracked.set_kind(kind);
                origin.tracked.set_facts(facts);
                Some(Observation::open(&self.core.shared.telemetry, origin.tracked))
            }
            other => {
                user.stage = other;
                None
            }
        }
    }

    /// Whoever has the least to do gets a plain connection: it needs no tunnel, so no worker is better than another.
    fn place_plain(&mut self, key: usize, onward: Onward, observation: Observation) {
        let worker = self.core.shared.loads.idlest();
        if worker == self.core.id {
            self.core.shared.loads.sent(worker);
            return self.connect_onward(key, onward, observation);
        }
        let mut user = self.users.remove(key);
        self.core.timers.set(Job::User(key), &mut user.armed, None);
        let stream = self.core.give_up(user.leg);
        self.hand_over(worker, Fresh::Plain { stream, onward, observation });
    }

    fn connect_onward(&mut self, key: usize, onward: Onward, observation: Observation) {
        let Onward { to, from } = onward;
        let Some(pod) = self.users.get(key).map(|user| user.leg.pod().clone()) else { return };
        match self.core.connect(to, from, Source::Onward(key), &pod) {
            Ok(onward) => self.enter(key, &UserEvent::Direct, Stage::Connecting { onward, observation }),
            Err(error) => {
                let failure = Failure::new(ResponseFlags::Connect, format!("connect to {to}: {error}"));
                observation.close(self.core.now, Err(&failure));
                self.fail_user(key, &failure);
            }
        }
    }

    /// Goes on to the state that `event` leads to, with `stage` for it.
    fn enter(&mut self, key: usize, event: &UserEvent, stage: Stage) {
        let Some(user) = self.users.get_mut(key) else { return };
        if let Some(UserNext::Go(flow)) = Flow::AwaitWorkload.on(event) {
            user.deadline = self.core.now + flow.limit();
        }
        user.stage = stage;
    }

    fn onward_ready(&mut self, key: usize) {
        let Some(user) = self.users.get_mut(key) else { return };
        let Stage::Connecting { onward, .. } = &user.stage else { return };
        match onward.connected() {
            Ok(false) => {}
            Ok(true) => {
                let mut user = self.users.remove(key);
                self.core.timers.set(Job::User(key), &mut user.armed, None);
                if let Stage::Connecting { onward, observation } = user.stage {
                    let mut pair = Pair::new(user.leg, onward, observation, self.core.now);
                    let entry = self.pairs.vacant_entry();
                    pair.assign(entry.key(), &mut self.core);
                    self.core.enqueue(Job::Pair(entry.key()), &mut pair.queued);
                    entry.insert(pair);
                }
            }
            Err(error) => {
                let failure = Failure::new(ResponseFlags::Connect, format!("connect: {error}"));
                self.fail_user(key, &failure);
            }
        }
    }

    /// A tunnel has gone without processing this user's request.
    pub(super) fn user_again(&mut self, tunnel: usize, returned: Returned) {
        let Returned { leg, mut requested, observation } = returned;
        let next = Flow::AwaitReply { tries: requested.tries }.on(&UserEvent::NotProcessed);
        match (next, self.tunnels.get(tunnel).and_then(|tunnel| tunnel.key().cloned())) {
            (Some(UserNext::Go(flow @ Flow::AwaitTunnel { tries })), Some(pool_key)) => {
                requested.tries = tries;
                let entry = self.users.vacant_entry();
                let key = entry.key();
                self.core.assign(&leg, Source::User(key));
                let stage = Stage::AwaitTunnel { key: pool_key, requested, observation };
                let deadline = self.core.now + flow.limit();
                entry.insert(User::new(leg, stage, deadline));
                self.arm_user(key);
                self.place(key);
            }
            (Some(UserNext::Fail(error)), _) => {
                leg.abort();
                self.core.close(leg);
                let failure = Failure::new(ResponseFlags::None, error.to_string());
                observation.close(self.core.now, Err(&failure));
            }
            _ => {
                leg.abort();
                self.core.close(leg);
            }
        }
    }

    /// A connection that was accepted by another worker.
    pub(super) fn adopt(&mut self, fresh: Fresh) {
        if fresh.pod().is_gone() {
            return self.turn_away(fresh);
        }
        self.accepted_by_mesh(&fresh.pod().clone());
        match fresh {
            Fresh::Tunnel { stream, origin } => self.add_server(stream, origin),
            Fresh::User { stream, key: pool_key, requested, observation, hops } => {
                observation.set_worker(self.core.id);
                let pod = pool_key.pod.clone();
                let denied = self.judge_arrived_user(&pod, &observation, Some(&pool_key.source));
                let stage = Stage::AwaitTunnel { key: pool_key, requested, observation };
                if let Some(key) = self.insert_user(stream, stage) {
                    if let Some(failure) = denied {
                        return self.fail_user(key, &failure);
                    }
                    self.arm_user(key);
                    self.place_again(key, hops);
                }
            }
            Fresh::Plain { stream, onward, observation } => {
                observation.set_worker(self.core.id);
                let pod = stream.pod().clone();
                if let Some(key) = self.insert_user(stream, Stage::Gone) {
                    if let Some(failure) = self.judge_arrived_user(&pod, &observation, None) {
                        observation.close(self.core.now, Err(&failure));
                        return self.fail_user(key, &failure);
                    }
                    self.connect_onward(key, onward, observation);
                    self.arm_user(key);
                }
            }
        }
    }
}

/// The line that a failed set-up writes.
pub(super) fn stage_failed(stage: Stage, core: &mut Core, failure: &Failure) {
    match stage {
        Stage::Greeting { origin, .. } => refuse_early(&origin, None, &failure.reason),
        Stage::AwaitWorkload { destination, origin } | Stage::AwaitAnswer { destination, origin } => {
            refuse_early(&origin, Some(destination), &failure.reason);
        }
        Stage::Connecting { onward, observation } => {
            core.close(onward);
            observation.close(core.now, Err(failure));
        }
        Stage::AwaitTunnel { observation, .. } => observation.close(core.now, Err(failure)),
        Stage::Gone => {}
    }
}

fn refuse_early(origin: &Origin, destination: Option<SocketAddr>, reason: &str) {
    let direction = origin.listener.direction();
    crate::telemetry::refused_early(origin.source, destination, direction, reason);
}

/// How much more of a method negotiation is known to be missing.
fn method_rest(buffer: &[u8]) -> usize {
    match buffer {
        [_, count, methods @ ..] => usize::from(*count).saturating_sub(methods.len()).max(1),
        _ => 2 - buffer.len(),
    }
}

/// How much more of a request is known to be missing.
fn request_rest(buffer: &[u8]) -> usize {
    let whole = match buffer {
        [_, _, _, 1, ..] => 10,
        [_, _, _, 4, ..] => 22,
        [_, _, _, 3, length, ..] => 7 + usize::from(*length),
        _ => 5,
    };
    whole - buffer.len().min(whole - 1)
}

#[cfg(test)]
mod tests;
