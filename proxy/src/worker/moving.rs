//! Tunnels that go to another worker, and those that come.

use std::time::Instant;

use super::core::{Job, Source};
use super::tunnel::moving::{FrozenTunnel, Moved};
use super::{Message, Tunnel, Worker};
use crate::telemetry::MoveResult;

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

    /// Freezes a tunnel and sends it to a worker, which may be this one.
    fn send_tunnel(&mut self, key: usize, worker: usize) {
        let since = Instant::now();
        let (frozen, kept) = self.freeze_tunnel(key, worker);
        self.core.shared.post(worker, Message::Moved(Box::new(Moved { frozen, kept, since })));
    }

    /// Takes a tunnel out of this worker. Users that wait for room on it follow it to `worker`.
    fn freeze_tunnel(&mut self, key: usize, worker: usize) -> (FrozenTunnel, super::tunnel::moving::Kept) {
        let mut tunnel = self.tunnels.remove(key);
        self.core.timers.set(Job::Tunnel(key), &mut tunnel.armed, None);
        let pool_key = tunnel.key().cloned();
        let parts = tunnel.freeze(&mut self.core);
        if let Some(pool_key) = pool_key {
            let shared = self.core.shared.clone();
            shared.directory.enter(&pool_key, worker);
            let entry = self.pool.entry(&pool_key);
            entry.tunnels.retain(|&tunnel| tunnel != key);
            let alone = entry.tunnels.is_empty() && entry.dials.is_empty();
            let followers: Vec<usize> = if alone { entry.waiting.drain(..).collect() } else { Vec::new() };
            if worker != self.core.id {
                for user in followers {
                    self.send_user(user, worker, 0);
                }
            } else {
                self.pool.entry(&pool_key).waiting.extend(followers);
            }
            if worker != self.core.id {
                self.forget_if_unused(&pool_key);
            }
        }
        parts
    }

    /// A tunnel comes from another worker.
    pub(super) fn tunnel_arrived(&mut self, moved: Moved) {
        let Moved { frozen, kept, since } = moved;
        let result = self.thaw_tunnel(frozen);
        let outcome = match result {
            Ok(_) => {
                kept.released();
                MoveResult::Moved
            }
            Err(error) => {
                // What was kept says so in the access log, connection by connection, when it is dropped.
                tracing::error!(%error, "a tunnel was lost in a move between workers; please report it");
                MoveResult::Lost
            }
        };
        self.core.shared.telemetry.tunnel_moved(outcome, since.elapsed());
    }

    /// Makes a frozen tunnel this worker's and lets it run.
    fn thaw_tunnel(&mut self, frozen: FrozenTunnel) -> Result<usize, super::MoveError> {
        let slot = self.tunnels.vacant_entry();
        let key = slot.key();
        let mut tunnel = Tunnel::thaw(frozen, key, &mut self.core)?;
        self.core.assign(&tunnel.leg, Source::Tunnel(key));
        self.core.enqueue(Job::Tunnel(key), &mut tunnel.queued);
        let pool_key = tunnel.key().cloned();
        slot.insert(tunnel);
        if let Some(pool_key) = pool_key {
            self.pool.entry(&pool_key).tunnels.push(key);
            self.core.shared.directory.enter(&pool_key, self.core.id);
            self.serve(&pool_key);
        }
        Ok(key)
    }
}
