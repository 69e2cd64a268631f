//! A pod that is served no more: everything of it ends here, and nothing of it stays.

use std::sync::Arc;

use super::Worker;
use super::core::Job;
use super::end::End;
use super::placing::Fresh;
use crate::pod::Pod;
use crate::socket;
use crate::telemetry::{Direction, Failure, ResponseFlags};

impl Worker {
    /// Ends what there is of a pod that is gone, queued connections included, and leaves its namespace.
    pub(super) fn remove_pod(&mut self, pod: &Arc<Pod>) {
        let indexes: Vec<usize> = self.listeners.keys().copied().collect();
        for index in indexes {
            if self.listeners.get(&index).is_some_and(|listener| listener.pod == *pod) {
                self.close_listener(index);
            }
        }
        self.end_connections(Some(pod), &removed());
        self.recheck.forget(pod);
        self.core.jobs.forget(pod);
        self.core.leave(pod);
    }

    /// Ends every connection, or all of one pod, each with its line in the access log.
    pub(super) fn end_connections(&mut self, of: Option<&Arc<Pod>>, failure: &Failure) {
        let ends = |pod: &Arc<Pod>| of.is_none_or(|of| of == pod);
        // Users first: the end of a tunnel would have others dialled for them.
        for key in self.keys(|worker| &worker.users) {
            if self.users.get(key).is_some_and(|user| ends(user.leg.pod())) {
                self.fail_user(key, failure);
            }
        }
        for key in self.keys(|worker| &worker.dials) {
            if self.dials.get(key).is_some_and(|dial| ends(&dial.pod)) {
                self.fail_dial(key, failure);
            }
        }
        for key in self.keys(|worker| &worker.tunnels) {
            if self.tunnels.get(key).is_some_and(|tunnel| ends(tunnel.leg.pod())) {
                self.fail_tunnel(key, failure);
            }
        }
        for key in self.keys(|worker| &worker.pairs) {
            if self.pairs.get(key).is_some_and(|pair| ends(pair.pod())) {
                self.pairs.remove(key).end(&mut self.core, End::Failed(failure));
            }
        }
    }

    /// A connection that was on its way here when its pod went.
    pub(super) fn turn_away(&mut self, fresh: Fresh) {
        let (failure, now) = (removed(), self.core.now);
        match fresh {
            Fresh::Tunnel { stream, origin } => {
                socket::abort(stream.socket());
                crate::telemetry::refused_early(origin.source, None, Direction::Inbound, &failure.reason);
            }
            Fresh::User { stream, key, observation, .. } => {
                socket::abort(stream.socket());
                observation.close(now, Err(&failure));
                self.forget_if_unused(&key);
            }
            Fresh::Plain { stream, observation, .. } => {
                socket::abort(stream.socket());
                observation.close(now, Err(&failure));
            }
        }
    }

    /// Closes a listener, and with it the connections that nobody has accepted.
    pub(super) fn close_listener(&mut self, index: usize) {
        if let Some(mut listener) = self.listeners.remove(&index) {
            self.core.timers.set(Job::Listener(index), &mut listener.armed, None);
            self.core.remove_listener(&mut listener.socket);
        }
    }
}

/// Why connections end with their pod.
pub(super) fn removed() -> Failure {
    Failure::new(ResponseFlags::None, "connection closed: the pod has left the node")
}

#[cfg(test)]
mod tests;
