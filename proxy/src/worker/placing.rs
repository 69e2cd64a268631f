//! Which connection goes where: to which worker, through which tunnel, and when a new tunnel is dialled.

use std::net::SocketAddr;
use std::sync::Arc;

use hbone::Established;

use super::core::{Job, Source};
use super::dial::{Dial, DialRole};
use super::leg::{Adrift, Leg};
use super::stream::Requested;
use super::tunnel::{Effect, Returned, Role, Tunnel};
use super::user::{Origin, Stage};
use super::{Message, Worker};
use crate::inbound::TunnelPeer;
use crate::pod::Pod;
use crate::pool::{Placed, PoolKey};
use crate::socket;
use crate::telemetry::{ConnectionFacts, Direction, Failure, Observation, Party, TunnelRole};

/// How often a fresh connection follows a tunnel that has just moved on, before it gets one of its own.
const HOPS: u8 = 3;

/// An accepted socket on its way to the worker that will keep it.
pub enum Fresh {
    /// A peer's tunnel, before its handshake.
    Tunnel {
        /// The accepted socket.
        stream: Adrift,
        /// Where it came from.
        origin: Origin,
    },
    /// A user's connection that is to go through a tunnel.
    User {
        /// The accepted socket.
        stream: Adrift,
        /// Whose tunnels it may use.
        key: PoolKey,
        /// What will be asked of the peer.
        requested: Box<Requested>,
        /// Its counters and its line in the access log.
        observation: Observation,
        /// How often it was sent on already.
        hops: u8,
    },
    /// A user's connection that goes out in plain TCP.
    Plain {
        /// The accepted socket.
        stream: Adrift,
        /// What it is to be joined to.
        onward: Onward,
        /// Its counters and its line in the access log.
        observation: Observation,
    },
}

impl Fresh {
    /// Whose it is.
    pub(super) fn pod(&self) -> &Arc<Pod> {
        let (Self::Tunnel { stream, .. } | Self::User { stream, .. } | Self::Plain { stream, .. }) = self;
        stream.pod()
    }
}

/// The far side of a plain connection that isn't made yet.
#[derive(Clone, Copy, Debug)]
pub struct Onward {
    pub(super) to: SocketAddr,
    pub(super) from: Option<socket::Source>,
}

impl Worker {
    pub(super) fn hand_over(&mut self, worker: usize, fresh: Fresh) {
        self.core.shared.loads.sent(worker);
        if worker == self.core.id {
            self.adopt(fresh);
        } else {
            self.core.shared.post(worker, Message::Fresh(Box::new(fresh)));
        }
    }

    /// Finds a tunnel for a user that needs one, here or at another worker.
    pub(super) fn place(&mut self, key: usize) {
        self.place_again(key, 0);
    }

    pub(super) fn place_again(&mut self, key: usize, hops: u8) {
        let Some(Stage::AwaitTunnel { key: pool_key, .. }) = self.users.get(key).map(|user| &user.stage)
        else {
            return;
        };
        let pool_key = pool_key.clone();
        let shared = &self.core.shared;
        let Placed { worker, comes } = shared.directory.place(&pool_key, &shared.loads);
        if worker != self.core.id && hops < HOPS {
            return self.send_user(key, worker, hops + 1);
        }
        if comes && worker == self.core.id {
            self.await_coming(&pool_key);
        } else {
            shared.directory.enter(&pool_key, self.core.id);
        }
        self.pool.entry(&pool_key).waiting.push_back(key);
        self.serve(&pool_key);
    }

    /// Sends a user that isn't in the pool's queue to another worker.
    pub(super) fn send_user(&mut self, key: usize, worker: usize, hops: u8) {
        let mut user = self.users.remove(key);
        self.core.timers.set(Job::User(key), &mut user.armed, None);
        match user.stage {
            Stage::AwaitTunnel { key: pool_key, requested, observation } => {
                let stream = self.core.give_up(user.leg);
                let fresh = Fresh::User { stream, key: pool_key, requested, observation, hops };
                self.hand_over(worker, fresh);
            }
            stage => {
                self.core.close(user.leg);
                let failure = Failure::new(crate::telemetry::ResponseFlags::None, "internal error");
                super::connecting::stage_failed(stage, &mut self.core, &failure);
            }
        }
    }

    /// Gives waiting users the room that there is, and dials more tunnels for those that are left over, unless one comes.
    pub(super) fn serve(&mut self, pool_key: &PoolKey) {
        loop {
            let entry = self.pool.entry(pool_key);
            let Some(&key) = entry.waiting.front() else { break };
            let tunnels = &self.tunnels;
            let found = entry
                .tunnels
                .iter()
                .copied()
                .find(|&t| tunnels.get(t).is_some_and(|tunnel| tunnel.room() > 0));
            let Some(tunnel) = found else { break };
            entry.waiting.pop_front();
            self.request(key, tunnel);
        }
        let limits = self.core.shared.pool;
        let entry = self.pool.entry(pool_key);
        let waiting = if entry.comes { 0 } else { entry.waiting.len() };
        let wanted = waiting.div_ceil(limits.max_streams.max(1) as usize);
        let allowed = limits.max_tunnels_per_peer.saturating_sub(entry.tunnels.len());
        let missing = wanted.min(allowed).saturating_sub(entry.dials.len());
        for _ in 0..missing {
            let mut dial = Dial::client(pool_key.clone(), self.core.now);
            let slot = self.dials.vacant_entry();
            let key = slot.key();
            self.core.enqueue(Job::Dial(key), &mut dial.queued);
            slot.insert(dial);
            self.pool.entry(pool_key).dials.push(key);
        }
        self.forget_if_unused(pool_key);
    }

    /// Sends a waiting user's request on a tunnel.
    fn request(&mut self, key: usize, tunnel_key: usize) {
        let mut user = self.users.remove(key);
        self.core.timers.set(Job::User(key), &mut user.armed, None);
        let (Stage::AwaitTunnel { key: pool_key, requested, observation }, Some(tunnel)) =
            (user.stage, self.tunnels.get_mut(tunnel_key))
        else {
            return self.core.close(user.leg);
        };
        let returned = Returned { leg: user.leg, requested, observation };
        if let Err(returned) = tunnel.request(tunnel_key, &mut self.core, returned) {
            // The room was gone after all: it waits for more.
            let Returned { leg, requested, observation } = *returned;
            let slot = self.users.vacant_entry();
            let key = slot.key();
            self.core.assign(&leg, Source::User(key));
            let stage = Stage::AwaitTunnel { key: pool_key.clone(), requested, observation };
            let deadline = user.deadline;
            slot.insert(super::User::new(leg, stage, deadline));
            self.arm_user(key);
            self.pool.entry(&pool_key).waiting.push_back(key);
        }
    }

    pub(super) fn stop_waiting(&mut self, key: usize, pool_key: &PoolKey) {
        if self.pool.change(pool_key, |entry| entry.waiting.retain(|&waiting| waiting != key)) {
            self.core.shared.directory.leave(pool_key, self.core.id);
        }
    }

    /// Nobody is sent here for this key any more once nothing is left of it.
    pub(super) fn forget_if_unused(&mut self, pool_key: &PoolKey) {
        if self.pool.change(pool_key, |_| {}) {
            self.core.shared.directory.leave(pool_key, self.core.id);
        }
    }

    /// A tunnel that takes no new streams; those who wait get another.
    pub(super) fn leave_pool(&mut self, key: usize, pool_key: Option<&PoolKey>) {
        let Some(pool_key) = pool_key else { return };
        self.pool.entry(pool_key).tunnels.retain(|&tunnel| tunnel != key);
        self.serve(pool_key);
    }

    /// Ends a dial for a reason of the worker's own.
    pub(super) fn fail_dial(&mut self, key: usize, failure: &Failure) {
        let mut dial = self.dials.remove(key);
        self.core.timers.set(Job::Dial(key), &mut dial.armed, None);
        let role = dial.abandon(&mut self.core);
        self.dial_failed(key, role, failure);
    }

    pub(super) fn dial_failed(&mut self, key: usize, role: DialRole, failure: &Failure) {
        self.core.shared.telemetry.tunnel_failed(match role {
            DialRole::Server { .. } => TunnelRole::Server,
            DialRole::Client { .. } => TunnelRole::Client,
        });
        match role {
            DialRole::Server { source, tracked } => {
                drop(tracked);
                crate::telemetry::refused_early(source, None, Direction::Inbound, &failure.reason);
            }
            DialRole::Client { key: pool_key } => {
                let entry = self.pool.entry(&pool_key);
                entry.dials.retain(|&dial| dial != key);
                // Others may still come up for them.
                if entry.tunnels.is_empty() && entry.dials.is_empty() {
                    for user in entry.waiting.clone() {
                        self.fail_user(user, failure);
                    }
                }
                self.forget_if_unused(&pool_key);
            }
        }
    }

    pub(super) fn tunnel_up(
        &mut self,
        dial: usize,
        role: DialRole,
        leg: Leg,
        established: Established,
        peer: TunnelPeer,
    ) {
        let facts = tunnel_facts(&role, &peer);
        let (role, tracked) = match role {
            DialRole::Server { tracked, .. } => {
                tracked.set_facts(facts);
                (Role::Server, tracked)
            }
            DialRole::Client { key } => {
                let registry = &self.core.shared.registry;
                let tracked = registry.track(self.core.id, drain::Kind::Tunnel, facts, self.core.now);
                let entry = self.pool.entry(&key);
                entry.dials.retain(|&waiting| waiting != dial);
                (Role::Client { key, idle_since: self.core.now }, tracked)
            }
        };
        let pod = leg.pod().clone();
        let pool_key = if let Role::Client { key, .. } = &role { Some(key.clone()) } else { None };
        let open = self.core.shared.telemetry.tunnel_opened(role.metric());
        let mut tunnel = Tunnel::new(leg, established.connection, role, peer, tracked, open);
        let slot = self.tunnels.vacant_entry();
        let key = slot.key();
        self.core.assign(&tunnel.leg, Source::Tunnel(key));
        if self.core.draining && pool_key.is_none() {
            tunnel.shut_down(key, &mut self.core);
        }
        let mut effects: Vec<Effect> = Vec::new();
        let started = tunnel.start(key, &mut self.core, &mut effects);
        slot.insert(tunnel);
        if let Some(pool_key) = &pool_key {
            self.pool.entry(pool_key).tunnels.push(key);
            self.core.shared.directory.enter(pool_key, self.core.id);
        }
        self.carry_out(key, &mut effects);
        match (started, pool_key) {
            (Err(failure), _) => self.fail_tunnel(key, &failure),
            (Ok(()), Some(pool_key)) => self.serve(&pool_key),
            (Ok(()), None) => {}
        }
        self.accepted_by_mesh(&pod);
    }

    /// A peer's connection to 15008.
    pub(super) fn add_server(&mut self, stream: Adrift, origin: Origin) {
        let Origin { source, tracked, .. } = origin;
        tracked.set_worker(self.core.id);
        let slot = self.dials.vacant_entry();
        let key = slot.key();
        match self.core.register(stream, Source::Dial(key)) {
            Ok(leg) => {
                let mut dial = Dial::server(leg, source, tracked, self.core.now);
                self.core.enqueue(Job::Dial(key), &mut dial.queued);
                slot.insert(dial);
            }
            Err(error) => {
                crate::telemetry::refused_early(source, None, Direction::Inbound, &error.to_string());
            }
        }
    }
}

/// What is known of a tunnel once its handshake is done.
fn tunnel_facts(role: &DialRole, peer: &TunnelPeer) -> ConnectionFacts {
    let other = Party { identity: peer.identity.clone(), ..Party::default() };
    let (direction, ends) = match role {
        DialRole::Server { .. } => {
            let us = Party::default();
            (Direction::Inbound, [(peer.address, other), (peer.local, us)])
        }
        DialRole::Client { key } => {
            let us = Party { identity: Some(key.source.clone()), ..Party::default() };
            (Direction::Outbound, [(peer.local, us), (peer.address, other)])
        }
    };
    let [(source, source_party), (destination, destination_party)] = ends;
    ConnectionFacts {
        direction,
        source: Some(source),
        source_party,
        destination: Some(destination),
        destination_party,
        application: None,
        hbone_destination: None,
        service: None,
        mutual_tls: true,
    }
}
