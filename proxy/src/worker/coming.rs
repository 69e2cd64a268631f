//! Users that wait for a tunnel that comes from another process, instead of having another one dialled to the same peer.
//!
//! They wait in the pool like everybody else. What ends their waiting is the tunnel, the word that nothing comes, or the time.

use std::collections::VecDeque;

use super::Worker;
use super::core::Job;
use crate::pool::{COMING_MS, PoolKey};

/// For which tunnels somebody waits here.
#[derive(Default)]
pub(super) struct Coming {
    /// And until when, ms: all wait equally long, so the first is due first. What has come meanwhile is still in it.
    until: VecDeque<(u64, PoolKey)>,
    armed: Option<u64>,
}

impl Worker {
    /// Somebody waits for this tunnel.
    pub(super) fn await_coming(&mut self, pool_key: &PoolKey) {
        if std::mem::replace(&mut self.pool.entry(pool_key).comes, true) {
            return;
        }
        tracing::debug!(peer = %pool_key.address, "a tunnel that comes from another process is waited for");
        self.coming.until.push_back((self.core.now + COMING_MS, pool_key.clone()));
        self.arm_coming();
    }

    pub(super) fn coming_timeout(&mut self) {
        self.coming.armed = None;
        while self.coming.until.front().is_some_and(|(at, _)| *at <= self.core.now) {
            if let Some((_, pool_key)) = self.coming.until.pop_front() {
                self.stop_awaiting(&pool_key);
            }
        }
        self.arm_coming();
    }

    /// Nothing comes any more.
    pub(super) fn nothing_comes(&mut self) {
        for (_, pool_key) in std::mem::take(&mut self.coming.until) {
            self.stop_awaiting(&pool_key);
        }
        self.arm_coming();
    }

    pub(super) fn arm_coming(&mut self) {
        let Coming { until, armed } = &mut self.coming;
        self.core.timers.set(Job::Coming, armed, until.front().map(|(at, _)| *at));
    }

    /// Whoever still waits gets a tunnel dialled, and so do all who come later.
    fn stop_awaiting(&mut self, pool_key: &PoolKey) {
        let mut waits = false;
        self.pool.change(pool_key, |entry| {
            waits = std::mem::take(&mut entry.comes) && !entry.waiting.is_empty();
        });
        let directory = &self.core.shared.directory;
        if waits {
            tracing::debug!(peer = %pool_key.address, "a tunnel that was to come did not: one is dialled");
            directory.enter(pool_key, self.core.id);
            self.serve(pool_key);
        } else {
            directory.stop_expecting(pool_key);
        }
    }
}

#[cfg(test)]
mod tests;
