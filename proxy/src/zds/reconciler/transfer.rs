//! A connection that is given away, and one that was begun by somebody else.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Link, Place, Pod, Reconciler, Target, Then};
use crate::zds::transfer::NotReleased;

/// The pods that istio-cni has named, when all of them are at rest.
pub(in crate::zds) struct AtRest<N> {
    pub(in crate::zds) served: Vec<(Arc<str>, Place)>,
    pub(in crate::zds) pending: Vec<(Arc<str>, Target<N>)>,
}

impl<N: Clone> Reconciler<N> {
    /// Somebody else follows istio-cni from now on. What is served here goes on being served; what could not be is
    /// forgotten.
    pub(in crate::zds) fn release(&mut self) -> Result<AtRest<N>, NotReleased> {
        match self.link {
            Link::Elsewhere => return Err(NotReleased::NotHeld),
            Link::Snapshot { .. } => return Err(NotReleased::SnapshotIncomplete),
            Link::Down | Link::Following => {}
        }
        let moves = |pod: &Pod<N>| matches!(pod, Pod::Starting { .. } | Pod::Stopping { .. });
        if self.is_busy() || self.pods.values().any(moves) {
            return Err(NotReleased::Busy);
        }
        self.link = Link::Elsewhere;
        let mut at_rest = AtRest { served: Vec::new(), pending: Vec::new() };
        for (uid, pod) in std::mem::take(&mut self.pods) {
            match pod {
                Pod::Served(place) => {
                    at_rest.served.push((uid.clone(), place.clone()));
                    self.pods.insert(uid, Pod::Served(place));
                }
                Pod::Pending { target, .. } => at_rest.pending.push((uid, target)),
                Pod::Starting { .. } | Pod::Stopping { .. } => {}
            }
        }
        Ok(at_rest)
    }

    /// Follows istio-cni where somebody else stopped: these pods are what it has named. Who serves the pods serves those
    /// that are said to be served; if one is about to be stopped, wait for that first. Others that are served here are
    /// stopped.
    pub(in crate::zds) fn adopt(&mut self, at_rest: AtRest<N>, now: u64) {
        let AtRest { served, pending } = at_rest;
        let named = served.iter().map(|(uid, _)| uid).chain(pending.iter().map(|(uid, _)| uid));
        let named: BTreeSet<_> = named.cloned().collect();
        let unnamed: Vec<_> = self.pods.keys().filter(|uid| !named.contains(*uid)).cloned().collect();
        for uid in unnamed {
            self.remove(&uid, now);
        }
        for (uid, place) in served {
            self.pods.insert(uid, Pod::Served(place));
        }
        for (uid, target) in pending {
            self.want(&uid, target, now);
        }
        self.awaited = None;
        self.link = Link::Following;
    }

    /// This pod is gone, says who follows istio-cni.
    pub(in crate::zds) fn relayed_del(&mut self, uid: &Arc<str>, now: u64) {
        self.remove(uid, now);
    }

    /// Whether the pod is still served, and won't be for long.
    pub(in crate::zds) fn is_going(&self, uid: &str) -> bool {
        match self.pods.get(uid) {
            Some(Pod::Stopping { .. }) => true,
            Some(Pod::Starting { then, .. }) => !matches!(then, Then::Serve),
            Some(Pod::Served(_) | Pod::Pending { .. }) | None => false,
        }
    }
}
