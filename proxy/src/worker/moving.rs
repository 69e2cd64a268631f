//! Connections that go to another worker or another process, and those that come.

mod order;

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use hbone::Secrets;

use super::core::{Job, Source};
use super::dial::Dial;
use super::end::End;
use super::frozen::arrival::Arrival;
use super::frozen::prepared::{Committed, PreparedConnection, PreparedOther};
use super::frozen::{FrozenConnection, FrozenKind, Given, Kept, MoveError};
use super::leg::Leg;
use super::pair::Pair;
use super::removing::removed;
use super::tunnel::moving::PreparedTunnel;
use super::user::{Stage, User};
use super::{Message, Tunnel, Worker};
use crate::pool::PoolKey;
use crate::telemetry::{Failure, MoveResult, ResponseFlags};

pub use self::order::Movable;

/// A connection on its way to another worker.
pub struct Moved {
    frozen: FrozenConnection,
    kept: Kept,
    /// Whose pool its new owner was entered for.
    key: Option<PoolKey>,
    since: Instant,
}

impl Worker {
    /// The test switch: sends every connection to the next worker when its interval has passed.
    pub(super) fn move_connections_if_due(&mut self) {
        let Some(interval) = self.move_interval else { return };
        if self.core.now < self.next_move {
            return;
        }
        self.next_move = self.core.now + interval;
        let workers = self.core.shared.workers.get().map_or(1, Vec::len);
        let next = (self.core.id + 1) % workers;
        for place in self.movable() {
            if !self.awaits_tunnel(place.job) {
                self.send(place.job, next);
            }
        }
    }

    /// A tunnel is being dialled here for this user, or comes here: at another worker it would only come back for it.
    fn awaits_tunnel(&self, job: Job) -> bool {
        let Job::User(key) = job else { return false };
        match self.users.get(key).map(|user| &user.stage) {
            Some(Stage::AwaitTunnel { key, .. }) => self.pool.awaits(key),
            _ => false,
        }
    }

    /// Freezes a connection and sends it to a worker, which may be this one. Users that wait for room on a tunnel follow it.
    fn send(&mut self, job: Job, worker: usize) {
        let since = Instant::now();
        let Some((frozen, kept, key)) = self.freeze(job) else { return };
        if let Some(pool_key) = &key {
            self.core.shared.directory.enter(pool_key, worker);
            if worker != self.core.id {
                let entry = self.pool.entry(pool_key);
                let alone = entry.tunnels.is_empty() && entry.dials.is_empty();
                let followers = if alone { std::mem::take(&mut entry.waiting) } else { VecDeque::new() };
                for user in followers {
                    self.send_user(user, worker, 0);
                }
                self.forget_if_unused(pool_key);
            }
        }
        self.core.shared.post(worker, Message::Moved(Box::new(Moved { frozen, kept, key, since })));
    }

    /// Freezes connections for another process. Users that wait for room on a tunnel that goes stay, and get a new one.
    /// Those whose first socket has one of the cookies in `but` stay, too.
    pub(super) fn give_connections(
        &mut self,
        most: usize,
        descriptors: usize,
        canary: bool,
        but: &BTreeSet<u64>,
    ) -> Vec<Given> {
        let mut places = self.movable();
        if !but.is_empty() {
            places.retain(|place| self.cookie(place.job).is_none_or(|cookie| !but.contains(&cookie)));
        }
        if canary {
            order::canary(&mut places, descriptors);
        } else {
            order::wave(&mut places, most, descriptors);
        }
        let mut given = Vec::with_capacity(places.len());
        for place in places {
            if let Some((frozen, kept, pool_key)) = self.freeze(place.job) {
                if let Some(pool_key) = pool_key {
                    self.serve(&pool_key);
                }
                given.push((frozen, kept));
            }
        }
        given
    }

    /// The kernel's cookie of a connection's first socket.
    fn cookie(&self, job: Job) -> Option<u64> {
        match job {
            Job::Tunnel(key) => self.tunnels.get(key)?.leg.cookie(),
            Job::Pair(key) => self.pairs.get(key)?.first().cookie(),
            Job::User(key) => self.users.get(key)?.leg.cookie(),
            Job::Dial(_) | Job::Listener(_) | Job::Recheck | Job::Coming => None,
        }
    }

    /// Takes a connection out of this worker; the key tells whose pool a tunnel has left.
    fn freeze(&mut self, job: Job) -> Option<(FrozenConnection, Kept, Option<PoolKey>)> {
        match job {
            Job::Tunnel(key) => {
                let mut tunnel = self.tunnels.try_remove(key)?;
                self.core.timers.set(job, &mut tunnel.armed, None);
                let pool_key = tunnel.key().cloned();
                if let Some(pool_key) = &pool_key {
                    self.pool.entry(pool_key).tunnels.retain(|&tunnel| tunnel != key);
                }
                let (frozen, kept) = tunnel.freeze(&mut self.core);
                Some((frozen, kept, pool_key))
            }
            Job::User(key) => {
                let mut user = self.users.try_remove(key)?;
                self.core.timers.set(job, &mut user.armed, None);
                if let Stage::AwaitTunnel { key: pool_key, .. } = &user.stage {
                    self.stop_waiting(key, &pool_key.clone());
                }
                let (frozen, kept) = user.freeze(&mut self.core)?;
                Some((frozen, kept, None))
            }
            Job::Dial(key) => {
                let mut dial = self.dials.try_remove(key)?;
                self.core.timers.set(job, &mut dial.armed, None);
                let (frozen, kept) = dial.freeze(&mut self.core)?;
                Some((frozen, kept, None))
            }
            Job::Pair(key) => {
                let (frozen, kept) = self.pairs.try_remove(key)?.freeze(&mut self.core);
                Some((frozen, kept, None))
            }
            Job::Listener(_) | Job::Recheck | Job::Coming => None,
        }
    }

    /// A connection comes from another worker.
    pub(super) fn arrive(&mut self, moved: Moved) {
        let Moved { frozen, kept, key, since } = moved;
        let tunnel = frozen.kind == FrozenKind::Tunnel;
        let outcome = self.run_again(frozen, kept);
        if outcome != Some(MoveResult::Moved)
            && let Some(key) = &key
        {
            self.forget_if_unused(key);
        }
        if let Some(outcome) = outcome.filter(|_| tunnel) {
            self.core.shared.telemetry.tunnel_moved(outcome, since.elapsed());
        }
    }

    /// Runs what was frozen in this process. None if its pod has gone: it has ended with it.
    pub(super) fn run_again(&mut self, frozen: FrozenConnection, kept: Kept) -> Option<MoveResult> {
        let (shared, now) = (self.core.shared.clone(), self.core.now);
        let prepared = frozen.prepare(&shared.pods, now);
        match prepared.and_then(|(prepared, secrets)| self.take(prepared, secrets, None)) {
            Ok(()) => {
                kept.released();
                Some(MoveResult::Moved)
            }
            Err(MoveError::PodGone) => {
                kept.ended(now, &removed());
                None
            }
            Err(error) => {
                let failure = Failure::new(ResponseFlags::None, format!("lost in a move: {error}"));
                kept.ended(now, &failure);
                tracing::error!(%error, "a connection was lost in a move; please report it");
                Some(MoveResult::Lost)
            }
        }
    }

    /// Makes a prepared connection this worker's and lets it run. `arrival` hears how that goes.
    pub(super) fn take_connection(
        &mut self,
        prepared: PreparedConnection,
        secrets: Option<Secrets>,
        arrival: Arrival,
    ) {
        let mut arrival = Some(arrival);
        let result = self.take(prepared, secrets, Some(&mut arrival));
        if let (Err(error), Some(arrival)) = (result, arrival) {
            arrival.refused(error);
        }
    }

    /// Makes a prepared connection this worker's. Who waits for news goes along with it, unless it can't run.
    fn take(
        &mut self,
        prepared: PreparedConnection,
        secrets: Option<Secrets>,
        arrival: Option<&mut Option<Arrival>>,
    ) -> Result<(), MoveError> {
        let (pod, sockets, committed) = prepared.commit(secrets, self.core.now)?;
        let legs = self.core.adopt(sockets, &pod)?;
        let arrival = arrival.and_then(Option::take);
        self.accepted_by_mesh(&pod);
        match committed {
            Committed::Tunnel(connection, tunnel) => self.take_tunnel(*connection, *tunnel, legs, arrival)?,
            Committed::Other(other) => self.take_other(*other, legs, arrival)?,
        }
        if let Some(failure) = self.core.cut.clone() {
            // It was on its way while the others were cut.
            self.cut_all(&failure.reason);
        }
        Ok(())
    }

    fn take_tunnel(
        &mut self,
        connection: hbone::Connection,
        prepared: PreparedTunnel,
        legs: Vec<Leg>,
        arrival: Option<Arrival>,
    ) -> Result<(), MoveError> {
        let mut legs = legs.into_iter();
        let leg = legs.next().ok_or(MoveError::Sockets { expected: 1, got: 0 })?;
        let slot = self.tunnels.vacant_entry();
        let key = slot.key();
        let mut tunnel = Tunnel::thaw(prepared, connection, leg, legs, key, &mut self.core);
        if let Some(arrival) = arrival {
            tunnel.announce(arrival);
        }
        self.core.enqueue(Job::Tunnel(key), &mut tunnel.queued);
        let pool_key = tunnel.key().cloned();
        if self.core.draining && pool_key.is_none() {
            // It was on its way while the others were told.
            tunnel.shut_down(key, &mut self.core);
        }
        slot.insert(tunnel);
        if let Some(pool_key) = pool_key {
            let entry = self.pool.entry(&pool_key);
            entry.tunnels.push(key);
            entry.comes = false;
            self.core.shared.directory.enter(&pool_key, self.core.id);
            self.serve(&pool_key);
        }
        self.judge_arrived_tunnel(key);
        Ok(())
    }

    fn take_other(
        &mut self,
        prepared: PreparedOther,
        legs: Vec<Leg>,
        arrival: Option<Arrival>,
    ) -> Result<(), MoveError> {
        let got = legs.len();
        let mut legs = legs.into_iter();
        let (Some(leg), second) = (legs.next(), legs.next()) else {
            return Err(MoveError::Sockets { expected: 1, got });
        };
        match prepared {
            PreparedOther::Pair(pair) => {
                let far = second.ok_or(MoveError::Sockets { expected: 2, got })?;
                self.take_pair(Pair::thaw(pair, [leg, far], &self.core), arrival);
            }
            PreparedOther::User(user) => self.take_user(User::thaw(user, leg, second, &self.core)?, arrival),
            PreparedOther::Knock(knock) => {
                let slot = self.dials.vacant_entry();
                let key = slot.key();
                self.core.assign(&leg, Source::Dial(key));
                let mut dial = Dial::thaw(knock, leg, &self.core);
                self.core.enqueue(Job::Dial(key), &mut dial.queued);
                slot.insert(dial);
                if let Some(arrival) = arrival {
                    arrival.runs();
                }
            }
        }
        Ok(())
    }

    fn take_pair(&mut self, mut pair: Pair, arrival: Option<Arrival>) {
        if let Some(failure) = self.judge_arrived_user(&pair.pod().clone(), pair.observation(), None) {
            return pair.end(&mut self.core, End::Failed(&failure));
        }
        pair.arrival = arrival.map(Box::new);
        let slot = self.pairs.vacant_entry();
        pair.assign(slot.key(), &mut self.core);
        self.core.enqueue(Job::Pair(slot.key()), &mut pair.queued);
        slot.insert(pair);
    }

    fn take_user(&mut self, mut user: User, arrival: Option<Arrival>) {
        if arrival.is_some() {
            // The process that it comes from has asked the control plane; this one must do so itself.
            user.stage.ask_again();
        }
        let pod = user.leg.pod().clone();
        let denied = match &user.stage {
            Stage::Connecting { observation, .. } => self.judge_arrived_user(&pod, observation, None),
            Stage::AwaitTunnel { key, observation, .. } => {
                self.judge_arrived_user(&pod, observation, Some(&key.source))
            }
            // They haven't been judged yet.
            Stage::Greeting { .. }
            | Stage::AwaitWorkload { .. }
            | Stage::AwaitAnswer { .. }
            | Stage::Gone => None,
        };
        let waits = matches!(user.stage, Stage::AwaitTunnel { .. });
        let slot = self.users.vacant_entry();
        let key = slot.key();
        self.core.assign(&user.leg, Source::User(key));
        if let Stage::Connecting { onward, .. } = &user.stage {
            self.core.assign(onward, Source::Onward(key));
        }
        slot.insert(user);
        if let Some(failure) = denied {
            return self.fail_user(key, &failure);
        }
        if let Some(arrival) = arrival {
            arrival.runs();
        }
        if waits {
            self.arm_user(key);
            self.place(key);
        } else {
            self.drive_user(key);
        }
    }
}

#[cfg(test)]
mod tests;
