//! Tunnels that go to another worker, and those that come.

use std::collections::VecDeque;
use std::time::Instant;

use super::core::{Job, Source};
use super::removing::removed;
use super::tunnel::moving::{FrozenTunnel, Kept, Moved};
use super::{Message, MoveError, Tunnel, Worker};
use crate::pool::PoolKey;
use crate::telemetry::{Failure, MoveResult, ResponseFlags};

impl Worker {
    /// The test switch: sends every tunnel to the next worker when its interval has passed.
    pub(super) fn move_tunnels_if_due(&mut self) {
        let Some(interval) = self.move_interval else { return };
        if self.core.now < self.next_move {
            return;
        }
        self.next_move = self.core.now + interval;
        let workers = self.core.shared.workers.get().map_or(1, Vec::len);
        let next = (self.core.id + 1) % workers;
        for key in self.keys(|worker| &worker.tunnels) {
            if self.tunnels[key].is_movable() {
                self.send_tunnel(key, next);
            }
        }
    }

    /// Freezes every tunnel that can be moved. Users that wait for room on one stay, and get a new tunnel.
    pub(super) fn give_tunnels(&mut self) -> Vec<(FrozenTunnel, Kept)> {
        let keys = self.keys(|worker| &worker.tunnels);
        let movable = keys.into_iter().filter(|key| self.tunnels[*key].is_movable()).collect::<Vec<_>>();
        let give = |key| {
            let (frozen, kept, pool_key) = self.freeze_tunnel(key);
            if let Some(pool_key) = pool_key {
                self.serve(&pool_key);
            }
            (frozen, kept)
        };
        movable.into_iter().map(give).collect()
    }

    /// Freezes a tunnel and sends it to a worker, which may be this one. Users that wait for room on it follow it.
    fn send_tunnel(&mut self, key: usize, worker: usize) {
        let since = Instant::now();
        let (frozen, kept, pool_key) = self.freeze_tunnel(key);
        if let Some(pool_key) = &pool_key {
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
        self.core.shared.post(worker, Message::Moved(Box::new(Moved { frozen, kept, key: pool_key, since })));
    }

    /// Takes a tunnel out of this worker; the key tells whose pool it has left.
    fn freeze_tunnel(&mut self, key: usize) -> (FrozenTunnel, Kept, Option<PoolKey>) {
        let mut tunnel = self.tunnels.remove(key);
        self.core.timers.set(Job::Tunnel(key), &mut tunnel.armed, None);
        let pool_key = tunnel.key().cloned();
        if let Some(pool_key) = &pool_key {
            self.pool.entry(pool_key).tunnels.retain(|&tunnel| tunnel != key);
        }
        let (frozen, kept) = tunnel.freeze(&mut self.core);
        (frozen, kept, pool_key)
    }

    /// A tunnel comes from another worker.
    pub(super) fn tunnel_arrived(&mut self, moved: Moved) {
        let Moved { frozen, kept, key, since } = moved;
        let result = self.thaw_tunnel(frozen);
        let outcome = match result {
            Ok(()) => {
                kept.released();
                MoveResult::Moved
            }
            Err(error) => {
                if let Some(key) = &key {
                    self.forget_if_unused(key);
                }
                if matches!(error, MoveError::PodGone) {
                    return kept.ended(self.core.now, &removed());
                }
                let failure = Failure::new(ResponseFlags::None, format!("lost in a move: {error}"));
                kept.ended(self.core.now, &failure);
                tracing::error!(%error, "a tunnel was lost in a move between workers; please report it");
                MoveResult::Lost
            }
        };
        self.core.shared.telemetry.tunnel_moved(outcome, since.elapsed());
    }

    /// Makes a frozen tunnel this worker's and lets it run.
    pub(super) fn thaw_tunnel(&mut self, frozen: FrozenTunnel) -> Result<(), MoveError> {
        let slot = self.tunnels.vacant_entry();
        let key = slot.key();
        let mut tunnel = Tunnel::thaw(frozen, key, &mut self.core)?;
        self.core.assign(&tunnel.leg, Source::Tunnel(key));
        self.core.enqueue(Job::Tunnel(key), &mut tunnel.queued);
        let (pod, pool_key) = (tunnel.leg.pod().clone(), tunnel.key().cloned());
        if self.core.draining && pool_key.is_none() {
            // It was on its way while the others were told.
            tunnel.shut_down(key, &mut self.core);
        }
        slot.insert(tunnel);
        if let Some(failure) = self.core.cut.clone() {
            self.fail_tunnel(key, &failure);
            return Ok(());
        }
        if let Some(pool_key) = pool_key {
            self.pool.entry(&pool_key).tunnels.push(key);
            self.core.shared.directory.enter(&pool_key, self.core.id);
            self.serve(&pool_key);
        }
        self.accepted_by_mesh(&pod);
        self.judge_arrived_tunnel(key);
        Ok(())
    }
}
