//! What a change of the mesh means for connections that are up or on their way.
//!
//! A worker remembers what the connections of each pod were last judged by. When the mesh has changed it looks whether
//! that has; nothing is done if it hasn't, so other workloads may come and go at any rate. For each pod:
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

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hbone::StreamId;
use xds::{Identity, Snapshot, Workload};

use super::Worker;
use super::core::{Core, Job};
use super::dial::DialRole;
use super::end::End;
use super::jobs::Queued;
use super::tunnel::Role;
use super::user::Stage;
use crate::inbound;
use crate::pod::Pod;
use crate::shared::Shared;
use crate::telemetry::{ConnectionFacts, Direction, Failure, Observation, ResponseFlags};

/// Connections judged in one turn: with ten policies that takes about a millisecond.
const SLICE: usize = 512;

/// See the module.
pub(super) struct Recheck {
    /// By the pod's number.
    bases: BTreeMap<u64, Basis>,
    /// Those that this round hasn't judged yet.
    left: Vec<Live>,
    /// Pods of which something changed during the round: another one follows.
    again: BTreeSet<u64>,
    queued: Queued,
}

/// What a pod's connections were last judged by.
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

/// What a look at the mesh found for a pod.
enum Change {
    Nothing,
    Left,
    New { identity: Option<Identity> },
}

impl Basis {
    /// Judges from now on by what the mesh says of the workload now; tells what is new.
    fn update(&mut self, workload: Option<Arc<Workload>>, policies: u64) -> Change {
        let Some(workload) = workload else {
            if let Self::Known { .. } = self {
                *self = Self::Gone;
                return Change::Left;
            }
            return Change::Nothing;
        };
        let same_identity = match self {
            Self::Known { workload: old, policies: judged_by } => {
                if Arc::ptr_eq(old, &workload) && *judged_by == policies {
                    return Change::Nothing;
                }
                old.identity() == workload.identity()
            }
            Self::Unknown | Self::Gone => false,
        };
        let identity = (!same_identity).then(|| workload.identity());
        *self = Self::Known { workload, policies };
        Change::New { identity }
    }
}

impl Recheck {
    pub(super) fn new(shared: &Shared) -> Self {
        let snapshot = shared.store.load();
        let basis = |pod: &Arc<Pod>| {
            let mut basis = Basis::Unknown;
            basis.update(shared.local_workload_in(&snapshot, pod), snapshot.policy_generation());
            (pod.number(), basis)
        };
        let bases = shared.pods.load().values().map(basis).collect();
        Self { bases, left: Vec::new(), again: BTreeSet::new(), queued: Queued::own() }
    }

    /// The pod is served no more.
    pub(super) fn forget(&mut self, pod: &Pod) {
        self.bases.remove(&pod.number());
        self.again.remove(&pod.number());
    }

    /// Nothing is left to be judged.
    #[cfg(test)]
    pub(super) fn is_over(&self) -> bool {
        self.left.is_empty() && self.again.is_empty()
    }
}

impl Worker {
    /// The mesh has changed, or the pods have.
    pub(super) fn recheck(&mut self) {
        self.look_again();
        let shared = self.core.shared.clone();
        let snapshot = shared.store.load();
        for pod in shared.pods.load().values() {
            self.recheck_pod(pod, &snapshot);
        }
        if self.recheck.left.is_empty() {
            self.begin_round();
        }
    }

    fn recheck_pod(&mut self, pod: &Arc<Pod>, snapshot: &Snapshot) {
        if pod.is_gone() {
            return;
        }
        let workload = self.core.shared.local_workload_in(snapshot, pod);
        let basis = self.recheck.bases.entry(pod.number()).or_insert(Basis::Unknown);
        match basis.update(workload, snapshot.policy_generation()) {
            Change::Nothing => {}
            Change::Left => self.end_connections(Some(pod), &gone()),
            Change::New { identity } => {
                if let Some(identity) = identity {
                    self.end_other_identities(pod, &identity);
                }
                self.recheck.again.insert(pod.number());
            }
        }
    }

    /// A connection of the pod is up, or on its way, by what is known of its workload. The message that says that it is
    /// known may still be under way: if the workload leaves before it comes, there would be nothing that has gone.
    pub(super) fn accepted_by_mesh(&mut self, pod: &Arc<Pod>) {
        if !matches!(self.recheck.bases.get(&pod.number()), Some(Basis::Known { .. })) {
            let shared = self.core.shared.clone();
            self.recheck_pod(pod, &shared.store.load());
            if self.recheck.left.is_empty() {
                self.begin_round();
            }
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
        let pods = std::mem::take(&mut self.recheck.again);
        if pods.is_empty() {
            return;
        }
        let servers = self.tunnels.iter().filter(|(_, tunnel)| {
            matches!(tunnel.role, Role::Server) && pods.contains(&tunnel.leg.pod().number())
        });
        let streams = servers.flat_map(|(key, tunnel)| tunnel.ids().map(move |id| Live::Stream(key, id)));
        let pairs = self.pairs.iter().filter(|(_, pair)| pods.contains(&pair.pod().number()));
        let users = self.users.iter().filter(|(_, user)| pods.contains(&user.leg.pod().number()));
        let pairs = pairs.map(|(key, _)| Live::Pair(key));
        let users = users.map(|(key, _)| Live::User(key));
        self.recheck.left = streams.chain(pairs).chain(users).collect();
        self.go_on_rechecking();
    }

    /// Queues the next slice, if there is one.
    pub(super) fn go_on_rechecking(&mut self) {
        if !self.recheck.left.is_empty() {
            self.core.enqueue(Job::Recheck, &mut self.recheck.queued);
        } else {
            self.begin_round();
        }
    }

    /// Judges a slice.
    pub(super) fn drive_recheck(&mut self) {
        self.recheck.queued.done();
        let shared = self.core.shared.clone();
        let snapshot = shared.store.load();
        for _ in 0..SLICE {
            let Some(live) = self.recheck.left.pop() else { break };
            match live {
                Live::Stream(key, id) => self.judge_stream(key, id, &snapshot),
                Live::Pair(key) => self.judge_pair(key, &snapshot),
                Live::User(key) => self.judge_user(key, &snapshot),
            }
        }
        self.go_on_rechecking();
    }

    /// A tunnel that was on its way while others were judged.
    pub(super) fn judge_arrived_tunnel(&mut self, key: usize) {
        let shared = self.core.shared.clone();
        let snapshot = shared.store.load();
        let Some(tunnel) = self.tunnels.get(key) else { return };
        let pod = tunnel.leg.pod().clone();
        match shared.local_workload_in(&snapshot, &pod) {
            Some(workload) if tunnel.peer.local_identity != workload.identity() => {
                self.fail_tunnel(key, &identity_changed());
            }
            Some(_) => {
                for id in tunnel.ids().collect::<Vec<_>>() {
                    self.judge_stream(key, id, &snapshot);
                }
            }
            None if self.has_left(&pod) => self.fail_tunnel(key, &gone()),
            None => {}
        }
    }

    /// Why a user's connection that was on its way while others were judged must end, if it must. `own` is whom its
    /// tunnel would speak for.
    pub(super) fn judge_arrived_user(
        &self,
        pod: &Arc<Pod>,
        observation: &Observation,
        own: Option<&Identity>,
    ) -> Option<Failure> {
        let shared = &self.core.shared;
        let snapshot = shared.store.load();
        match shared.local_workload_in(&snapshot, pod) {
            Some(workload) if own.is_some_and(|own| *own != workload.identity()) => Some(identity_changed()),
            Some(_) => judge(&self.core, pod, observation, None, &snapshot),
            None => self.has_left(pod).then(gone),
        }
    }

    /// The mesh knew the pod's workload and knows it no more.
    fn has_left(&self, pod: &Pod) -> bool {
        matches!(self.recheck.bases.get(&pod.number()), Some(Basis::Gone))
    }

    fn judge_stream(&mut self, key: usize, id: StreamId, snapshot: &Snapshot) {
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        let (pod, identity) = (tunnel.leg.pod().clone(), tunnel.peer.identity.clone());
        let Some(observation) = tunnel.observation(id) else { return };
        if let Some(failure) = judge(&self.core, &pod, observation, identity.as_ref(), snapshot) {
            tunnel.deny(key, id, &failure, &mut self.core);
        }
    }

    fn judge_pair(&mut self, key: usize, snapshot: &Snapshot) {
        let Some(pair) = self.pairs.get(key) else { return };
        if let Some(failure) = judge(&self.core, pair.pod(), pair.observation(), None, snapshot) {
            self.pairs.remove(key).end(&mut self.core, End::Failed(&failure));
        }
    }

    fn judge_user(&mut self, key: usize, snapshot: &Snapshot) {
        // The others haven't been judged yet, or lead out.
        let Some(user) = self.users.get(key) else { return };
        if let Stage::Connecting { observation, .. } = &user.stage
            && let Some(failure) = judge(&self.core, user.leg.pod(), observation, None, snapshot)
        {
            self.fail_user(key, &failure);
        }
    }

    /// Ends what speaks for whom the pod isn't any more.
    fn end_other_identities(&mut self, pod: &Arc<Pod>, identity: &Identity) {
        let failure = identity_changed();
        // Users first: the end of a tunnel would have others dialled for them.
        for key in self.keys(|worker| &worker.users) {
            if let Some(Stage::AwaitTunnel { key: pool_key, .. }) =
                self.users.get(key).map(|user| &user.stage)
                && pool_key.pod == *pod
                && pool_key.source != *identity
            {
                self.fail_user(key, &failure);
            }
        }
        for key in self.keys(|worker| &worker.dials) {
            let of_pod = self.dials.get(key).filter(|dial| dial.pod == *pod);
            let other = of_pod.is_some_and(|dial| match &dial.role {
                DialRole::Client { key } => key.source != *identity,
                DialRole::Server { .. } => dial.local_identity().is_some_and(|shown| shown != identity),
            });
            if other {
                self.fail_dial(key, &failure);
            }
        }
        for key in self.keys(|worker| &worker.tunnels) {
            let of_pod = self.tunnels.get(key).filter(|tunnel| tunnel.leg.pod() == pod);
            if of_pod.is_some_and(|tunnel| tunnel.peer.local_identity != *identity) {
                self.fail_tunnel(key, &failure);
            }
        }
    }
}

/// Why a live connection must end by what policy says now, if it must; outbound ones are not policy's.
fn judge(
    core: &Core,
    pod: &Pod,
    observation: &Observation,
    identity: Option<&Identity>,
    snapshot: &Snapshot,
) -> Option<Failure> {
    let facts: Arc<ConnectionFacts> = observation.tracked()?.facts();
    if facts.direction == Direction::Outbound {
        return None;
    }
    // That it has left is another message's matter, which is under way.
    let workload = core.shared.local_workload_in(snapshot, pod)?;
    core.shared.telemetry.rechecked();
    inbound::judge_again(snapshot, &workload, &facts, identity)
}

fn gone() -> Failure {
    Failure::new(ResponseFlags::None, "connection closed: the workload is no longer in the mesh")
}

fn identity_changed() -> Failure {
    Failure::new(ResponseFlags::None, "connection closed: the workload's identity has changed")
}

#[cfg(test)]
mod tests;
