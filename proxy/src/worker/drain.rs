//! What the end of the process asks of a worker.

use super::Worker;
use super::core::Job;
use super::tunnel::Role;
use crate::telemetry::{Failure, ResponseFlags};

impl Worker {
    /// Peers that dialled us are asked to go elsewhere; our own tunnels go as soon as nobody uses them.
    pub(super) fn tell_peers(&mut self) {
        self.core.draining = true;
        for (key, tunnel) in &mut self.tunnels {
            match tunnel.role {
                Role::Server => tunnel.shut_down(key, &mut self.core),
                Role::Client { .. } => self.core.enqueue(Job::Tunnel(key), &mut tunnel.queued),
            }
        }
    }

    /// Ends every connection, and whatever still arrives from other workers.
    pub(super) fn cut_all(&mut self, reason: &str) {
        let failure = Failure::new(ResponseFlags::None, reason.to_owned());
        self.core.cut = Some(failure.clone());
        self.end_connections(None, &failure);
    }
}
