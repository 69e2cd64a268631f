//! What a change of the mesh means for connections that are up or on their way.
//!
//! A worker remembers what its connections were last judged by. When the mesh has changed it looks whether that has;
//! nothing is done if it hasn't, so other workloads may come and go at any rate.
//!
//! ```text
//!             the local workload is known             it is in the mesh no more: everything ends
//!   Unknown ──────────────────────────────► Known ──────────────────────────────────────────────► Gone
//!      (a process that has just begun)       │ ▲ ◄────────── it is back ──────────────────────────┘
//!                                            └─┘ another policy, another workload resource: judged again;
//!                                                another identity: tunnels of the old one end
//! ```
//!
//! Judging goes in slices of a turn, each by the newest snapshot. What travels between workers meanwhile is judged
//! when it arrives.

use std::sync::Arc;

use hbone::StreamId;
use xds::{Identity, Snapshot, Workload};

use super::Worker;
use super::core::{Core, Job};
use super::dial::DialRole;
use super::end::End;
use super::tunnel::Role;
use super::user::Stage;
use crate::inbound;
use crate::telemetry::{ConnectionFacts, Direction, Failure, Observation, ResponseFlags};

/// Connections judged in one turn: with ten policies that takes about a millisecond.
const SLICE: usize = 512;

/// See the module.
pub(super) struct Recheck {
    basis: Basis,
    /// Those that this round hasn't judged yet.
    left: Vec<Live>,
    /// Something changed during the round: another one follows.
    again: bool,
    queued: bool,
}

/// What connections were last judged by.
enum Basis {
    Unknown,
    Known { workload: Arc<Workload>, policies: u64 },
    Gone,
}

/// A connection by its place. Another one that has taken the place meanwhile is judged instead, which does no harm.
#[derive(Clone, Copy)]
enum Live {
    Stream(usize, StreamId),
    Pair(usize),
    User(usize),
}

impl Recheck {
    pub(super) fn new(snapshot: &Snapshot, workload: Option<Arc<Workload>>) -> Self {
        let basis = match workload {
            Some(workload) => Basis::Known { workload, policies: snapshot.policy_generation() },
            None => Basis::Unknown,
        };
        Self { basis, left: Vec::new(), again: false, queued: false }
    }

    /// Nothing is left to be judged.
    #[cfg(test)]
    pub(super) fn is_over(&self) -> bool {
        self.left.is_empty() && !self.again
    }
}

impl Worker {
    /// The mesh has changed.
    pub(super) fn recheck(&mut self) {
        self.look_again();
        let shared = self.core.shared.clone();
        let snapshot = shared.store.load();
        let policies = snapshot.policy_generation();
        let Some(workload) = shared.local_workload_in(&snapshot) else {
            if let Basis::Known { .. } = self.recheck.basis {
                self.recheck.basis = Basis::Gone;
                self.recheck.left = Vec::new();
                self.end_all(&gone());
            }
            return;
        };
        let new_identity = match &self.recheck.basis {
            Basis::Known { workload: old, policies: judged_by } => {
                if Arc::ptr_eq(old, &workload) && *judged_by == policies {
                    return;
                }
                old.identity() != workload.identity()
            }
            Basis::Unknown | Basis::Gone => true,
        };
        if new_identity {
            self.end_other_identities(&workload.identity());
        }
        self.recheck.basis = Basis::Known { workload, policies };
        if self.recheck.left.is_empty() {
            self.begin_round();
        } else {
            self.recheck.again = true;
        }
    }

    /// A connection is up, or on its way, by what is known of the local workload. The message that says that it is known
    /// may still be under way: if the workload leaves before it comes, there would be nothing that has gone.
    pub(super) fn accepted_by_mesh(&mut self) {
        if !matches!(self.recheck.basis, Basis::Known { .. }) {
            self.recheck();
        }
    }

    /// What users wait for may be known now.
    fn look_again(&mut self) {
        for (key, user) in &mut self.users {
            if user.stage.awaits_mesh() {
                self.core.enqueue(Job::User(key), &mut user.queued);
            }
        }
    }

    fn begin_round(&mut self) {
        self.recheck.again = false;
        let servers = self.tunnels.iter().filter(|(_, tunnel)| matches!(tunnel.role, Role::Server));
        let streams = servers.flat_map(|(key, tunnel)| tunnel.ids().map(move |id| Live::Stream(key, id)));
        let pairs = self.pairs.iter().map(|(key, _)| Live::Pair(key));
        let users = self.users.iter().map(|(key, _)| Live::User(key));
        self.recheck.left = streams.chain(pairs).chain(users).collect();
        self.go_on_rechecking();
    }

    /// Queues the next slice, if there is one.
    pub(super) fn go_on_rechecking(&mut self) {
        if !self.recheck.left.is_empty() {
            self.core.enqueue(Job::Recheck, &mut self.recheck.queued);
        } else if self.recheck.again {
            self.begin_round();
        }
    }

    /// Judges a slice.
    pub(super) fn drive_recheck(&mut self) {
        self.recheck.queued = false;
        let shared = self.core.shared.clone();
        let snapshot = shared.store.load();
        let Some(workload) = shared.local_workload_in(&snapshot) else {
            // The message that says so is under way; what it brings begins anew.
            self.recheck.left = Vec::new();
            return;
        };
        for _ in 0..SLICE {
            let Some(live) = self.recheck.left.pop() else { break };
            match live {
                Live::Stream(key, id) => self.judge_stream(key, id, &snapshot, &workload),
                Live::Pair(key) => self.judge_pair(key, &snapshot, &workload),
                Live::User(key) => self.judge_user(key, &snapshot, &workload),
            }
        }
        self.go_on_rechecking();
    }

    /// A tunnel that was on its way while others were judged.
    pub(super) fn judge_arrived_tunnel(&mut self, key: usize) {
        let shared = self.core.shared.clone();
        let snapshot = shared.store.load();
        let Some(tunnel) = self.tunnels.get(key) else { return };
        match shared.local_workload_in(&snapshot) {
            Some(workload) if tunnel.peer.local_identity != workload.identity() => {
                self.fail_tunnel(key, &identity_changed());
            }
            Some(workload) => {
                for id in tunnel.ids().collect::<Vec<_>>() {
                    self.judge_stream(key, id, &snapshot, &workload);
                }
            }
            None if self.is_gone() => self.fail_tunnel(key, &gone()),
            None => {}
        }
    }

    /// Why a user's connection that was on its way while others were judged must end, if it must. `own` is whom its
    /// tunnel would speak for.
    pub(super) fn judge_arrived_user(
        &self,
        observation: &Observation,
        own: Option<&Identity>,
    ) -> Option<Failure> {
        let shared = &self.core.shared;
        let snapshot = shared.store.load();
        match shared.local_workload_in(&snapshot) {
            Some(workload) if own.is_some_and(|own| *own != workload.identity()) => Some(identity_changed()),
            Some(workload) => judge(&self.core, observation, None, &snapshot, &workload),
            None => self.is_gone().then(gone),
        }
    }

    fn is_gone(&self) -> bool {
        matches!(self.recheck.basis, Basis::Gone)
    }

    fn judge_stream(&mut self, key: usize, id: StreamId, snapshot: &Snapshot, workload: &Workload) {
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        let identity = tunnel.peer.identity.clone();
        let Some(observation) = tunnel.observation(id) else { return };
        if let Some(failure) = judge(&self.core, observation, identity.as_ref(), snapshot, workload) {
            tunnel.deny(key, id, &failure, &mut self.core);
        }
    }

    fn judge_pair(&mut self, key: usize, snapshot: &Snapshot, workload: &Workload) {
        let Some(pair) = self.pairs.get(key) else { return };
        if let Some(failure) = judge(&self.core, pair.observation(), None, snapshot, workload) {
            self.pairs.remove(key).end(&mut self.core, End::Failed(&failure));
        }
    }

    fn judge_user(&mut self, key: usize, snapshot: &Snapshot, workload: &Workload) {
        // The others haven't been judged yet, or lead out.
        if let Some(Stage::Connecting { observation, .. }) = self.users.get(key).map(|user| &user.stage)
            && let Some(failure) = judge(&self.core, observation, None, snapshot, workload)
        {
            self.fail_user(key, &failure);
        }
    }

    /// Ends what speaks for whom the workload isn't any more.
    fn end_other_identities(&mut self, identity: &Identity) {
        let failure = identity_changed();
        // Users first: the end of a tunnel would have others dialled for them.
        for key in self.keys(|worker| &worker.users) {
            if let Some(Stage::AwaitTunnel { key: pool_key, .. }) =
                self.users.get(key).map(|user| &user.stage)
                && pool_key.source != *identity
            {
                self.fail_user(key, &failure);
            }
        }
        for key in self.keys(|worker| &worker.dials) {
            let other = self.dials.get(key).is_some_and(|dial| match &dial.role {
                DialRole::Client { key } => key.source != *identity,
                DialRole::Server { .. } => dial.local_identity().is_some_and(|shown| shown != identity),
            });
            if other {
                self.fail_dial(key, &failure);
            }
        }
        for key in self.keys(|worker| &worker.tunnels) {
            if self.tunnels.get(key).is_some_and(|tunnel| tunnel.peer.local_identity != *identity) {
                self.fail_tunnel(key, &failure);
            }
        }
    }
}

/// Why a live connection must end by what policy says now, if it must; outbound ones are not policy's.
fn judge(
    core: &Core,
    observation: &Observation,
    identity: Option<&Identity>,
    snapshot: &Snapshot,
    workload: &Workload,
) -> Option<Failure> {
    let facts: Arc<ConnectionFacts> = observation.tracked()?.facts();
    if facts.direction == Direction::Outbound {
        return None;
    }
    core.shared.telemetry.rechecked();
    inbound::judge_again(snapshot, workload, &facts, identity)
}

fn gone() -> Failure {
    Failure::new(ResponseFlags::None, "connection closed: the workload is no longer in the mesh")
}

fn identity_changed() -> Failure {
    Failure::new(ResponseFlags::None, "connection closed: the workload's identity has changed")
}

#[cfg(test)]
mod tests;
