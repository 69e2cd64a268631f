//! What is done with a pod when, without I/O: messages, results and time go in, actions come out of
//! [`Reconciler::poll`].
//!
//! A pod:
//!
//! ```text
//!               Add               it works
//!  (unknown) ─────────► Starting ──────────► Served
//!      ▲                 ▲    │                │ Del; a snapshot without it;
//!      │      5 s later, │    │ it fails       │ Add with another namespace or name
//!      │          or Add │    ▼                ▼
//!      ├──────────────── Pending            Stopping ───► Starting, if there was an Add
//!      │   Del; a snapshot without it          │
//!      └───────────────────────────────────────┘
//! ```
//!
//! What is begun is never broken off: a message that comes meanwhile decides what follows it.
//!
//! The connection:
//!
//! ```text
//!   Down ──connected──► Snapshot ──SnapshotSent──► Following
//!     ▲                    │                          │
//!     └────────────────────┴──────────────────────────┘ lost, or closed since an answer would be late or made no sense
//! ```
//!
//! Whatever happens to the connection touches no pod: only what istio-cni says does.
//!
//! At rest (nothing unanswered, no pod Starting or Stopping) it can also be Elsewhere: [`Reconciler::release`] leads there
//! from Following or Down, [`Reconciler::adopt`] from there to Following.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::message::Request;
use crate::namespace::NamespaceId;
use crate::pod::WorkloadName;

/// What makes a pod another one although its uid is the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) workload: WorkloadName,
    /// Means something only while somebody holds the namespace open, which who serves the pod does.
    pub(super) namespace: NamespaceId,
}

/// Decides for pods whose open namespaces are `N`.
///
/// After each call take all actions by [`poll`](Self::poll), then ask [`timeout`](Self::timeout). Times are milliseconds on
/// one monotonic clock.
pub(super) struct Reconciler<N> {
    pods: BTreeMap<Arc<str>, Pod<N>>,
    link: Link,
    awaited: Option<Awaited>,
    draining: bool,
    actions: VecDeque<Action<N>>,
}

/// What the client has to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action<N> {
    /// Serve this pod, then call [`Reconciler::started`].
    Start { uid: Arc<str>, workload: WorkloadName, namespace: N },
    /// Serve it no more, then call [`Reconciler::stopped`].
    Stop { uid: Arc<str> },
    /// Answer the one message that has not been answered. If that fails, call [`Reconciler::disconnected`].
    Answer(Result<(), Arc<str>>),
    /// Close the connection, answer nothing more; [`Reconciler::disconnected`] need not be called.
    Close(Reason),
    /// Tell the operator.
    Report(Report),
}

/// Why the connection is closed from our side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// A message was handled for so long that istio-cni may take the answer for that of the next one.
    Late,
    /// A message that must not come now.
    OutOfOrder,
}

/// What the operator should know.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// The pod can't be served, for a reason that was not told yet.
    Failing { uid: Arc<str>, workload: WorkloadName, reason: Arc<str> },
    /// The same again.
    StillFailing { uid: Arc<str>, workload: WorkloadName, reason: Arc<str> },
    /// It is served after all.
    Recovered { uid: Arc<str>, workload: WorkloadName },
    /// What is served is what istio-cni named.
    SnapshotComplete,
}

enum Pod<N> {
    Starting {
        target: Target<N>,
        then: Then<N>,
        since: u64,
    },
    Served(Place),
    Pending {
        target: Target<N>,
        retry_at: u64,
    },
    /// `then` is what is started in its stead.
    Stopping {
        then: Option<Target<N>>,
        since: u64,
    },
}

/// What is to be served, and is not yet.
pub(super) struct Target<N> {
    pub(super) place: Place,
    pub(super) namespace: N,
    /// Why it was not served when it should have been.
    pub(super) failure: Option<Arc<str>>,
}

/// What follows a start that works.
enum Then<N> {
    Serve,
    Stop,
    Replace(Target<N>),
}

enum Link {
    Down,
    /// These have been named since the connection was made.
    Snapshot {
        named: BTreeSet<Arc<str>>,
    },
    Following,
    /// Another process has it, which tells what it hears.
    Elsewhere,
}

/// A message that is answered when something has been done. The next one is not taken before.
struct Awaited {
    what: Work,
    since: u64,
}

enum Work {
    Start(Arc<str>),
    Stop(Arc<str>),
    /// The snapshot is complete when these are gone.
    Reconcile(BTreeSet<Arc<str>>),
}

impl<N: Clone> Reconciler<N> {
    pub(super) fn new() -> Self {
        Self {
            pods: BTreeMap::new(),
            link: Link::Down,
            awaited: None,
            draining: false,
            actions: VecDeque::new(),
        }
    }

    /// There is a connection, on which a snapshot will come.
    pub(super) fn connected(&mut self) {
        self.link = Link::Snapshot { named: BTreeSet::new() };
    }

    /// There is none any more.
    pub(super) fn disconnected(&mut self) {
        self.link = Link::Down;
        self.awaited = None;
    }

    /// New pods are refused from now on, and those that could not be served are given up.
    pub(super) fn drain(&mut self) {
        self.draining = true;
        self.pods.retain(|_, pod| !matches!(pod, Pod::Pending { .. }));
    }

    /// Whether a message has not been answered yet: another one must not be given.
    pub(super) fn is_busy(&self) -> bool {
        self.awaited.is_some()
    }

    /// Whether all pods have been named on this connection.
    pub(super) fn is_following(&self) -> bool {
        matches!(self.link, Link::Following)
    }

    /// Whether all that istio-cni named is served.
    pub(super) fn is_ready(&self) -> bool {
        let reconciling = self.awaited.as_ref().is_some_and(|it| matches!(it.what, Work::Reconcile(_)));
        let told_all = matches!(self.link, Link::Following | Link::Elsewhere);
        told_all && !reconciling && self.pending().next().is_none()
    }

    /// How many pods are served.
    pub(super) fn active(&self) -> usize {
        self.pods.values().filter(|pod| matches!(pod, Pod::Served(_))).count()
    }

    /// The pods that should be served and can't be, and why.
    pub(super) fn pending(&self) -> impl Iterator<Item = (&Arc<str>, &WorkloadName, &Arc<str>)> {
        self.pods.iter().filter_map(|(uid, pod)| {
            let target = pod.target()?;
            Some((uid, &target.place.workload, target.failure.as_ref()?))
        })
    }

    /// A message that was read at `now`; its namespace comes with what identifies it.
    pub(super) fn message(&mut self, request: Request<(NamespaceId, N)>, now: u64) {
        match request {
            Request::Add { uid, workload, namespace: (id, namespace) } => {
                let place = Place { workload, namespace: id };
                let target = Target { place, namespace, failure: None };
                self.add(&uid, target, now);
            }
            Request::Keep { uid } => self.keep(uid),
            Request::Del { uid } => self.del(&uid, now),
            Request::SnapshotSent => self.snapshot_sent(now),
        }
    }

    /// The start of a pod has ended.
    pub(super) fn started(&mut self, uid: &Arc<str>, result: Result<(), Arc<str>>, now: u64) {
        let Some(Pod::Starting { target, then, .. }) = self.pods.remove(uid) else { return };
        match (result, then) {
            (Ok(()), Then::Serve) => {
                if target.failure.is_some() {
                    let workload = target.place.workload.clone();
                    self.report(Report::Recovered { uid: uid.clone(), workload });
                }
                self.pods.insert(uid.clone(), Pod::Served(target.place));
                self.start_ended(uid, Ok(()), now);
            }
            (Ok(()), Then::Stop) => self.stop(uid, None, now),
            (Ok(()), Then::Replace(target)) => self.stop(uid, Some(target), now),
            (Err(reason), Then::Serve) => {
                if !self.draining {
                    self.failed(uid, target, reason.clone(), now);
                }
                self.start_ended(uid, Err(reason), now);
            }
            (Err(_), Then::Stop) => self.gone(uid, now),
            (Err(_), Then::Replace(target)) => self.start(uid, target, now),
        }
    }

    /// A pod is served no more.
    pub(super) fn stopped(&mut self, uid: &Arc<str>, now: u64) {
        match self.pods.remove(uid) {
            Some(Pod::Stopping { then: Some(target), .. }) => self.start(uid, target, now),
            _ => self.gone(uid, now),
        }
    }

    /// Time has passed.
    pub(super) fn handle_timeout(&mut self, now: u64) {
        if self.awaited.as_ref().is_some_and(|awaited| is_late(awaited.since, now)) {
            self.close_late();
        }
        let is_due = |pod: &Pod<N>| matches!(pod, Pod::Pending { retry_at, .. } if *retry_at <= now);
        let due = self.pods.iter().filter(|(_, pod)| is_due(pod)).map(|(uid, _)| uid.clone());
        for uid in due.collect::<Vec<_>>() {
            if let Some(Pod::Pending { target, .. }) = self.pods.remove(&uid) {
                self.start(&uid, target, now);
            }
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub(super) fn timeout(&self) -> Option<u64> {
        let retries = self.pods.values().filter_map(|pod| match pod {
            Pod::Pending { retry_at, .. } => Some(*retry_at),
            _ => None,
        });
        retries.chain(self.awaited.as_ref().map(|awaited| awaited.since + LATEST_ANSWER)).min()
    }

    /// The next thing to do.
    pub(super) fn poll(&mut self) -> Option<Action<N>> {
        self.actions.pop_front()
    }

    fn add(&mut self, uid: &Arc<str>, target: Target<N>, now: u64) {
        if let Link::Snapshot { named } = &mut self.link {
            named.insert(uid.clone());
        }
        let same = self.place(uid) == Some(&target.place);
        if self.draining && !same {
            self.remove(uid, now);
            return self.answer(Err(DRAINING.into()));
        }
        let stuck = self.is_stuck(uid, now);
        if self.want(uid, target, now) {
            self.answer(Ok(()));
        } else {
            self.answer_after(Work::Start(uid.clone()), stuck, now);
        }
    }

    /// Makes the pod be served, whatever it does now. True if it is already.
    fn want(&mut self, uid: &Arc<str>, mut target: Target<N>, now: u64) -> bool {
        let same = self.place(uid) == Some(&target.place);
        match self.pods.get_mut(uid) {
            Some(Pod::Served(_)) if same => return true,
            Some(Pod::Served(_)) => self.stop(uid, Some(target), now),
            Some(Pod::Starting { then, .. }) => {
                *then = if same { Then::Serve } else { Then::Replace(target) }
            }
            Some(Pod::Stopping { then, .. }) => *then = Some(target),
            Some(Pod::Pending { target: before, .. }) => {
                target.failure = before.failure.take();
                self.start(uid, target, now);
            }
            None => self.start(uid, target, now),
        }
        false
    }

    fn keep(&mut self, uid: Arc<str>) {
        let Link::Snapshot { named } = &mut self.link else {
            return self.out_of_order("a pod is kept, but the snapshot is over");
        };
        if let Some(Pod::Starting { then: then @ Then::Stop, .. }) = self.pods.get_mut(&uid) {
            *then = Then::Serve;
        }
        // Also if we don't know it, as in stock: without its namespace there is nothing to serve.
        named.insert(uid);
        self.answer(Ok(()));
    }

    fn del(&mut self, uid: &Arc<str>, now: u64) {
        if let Link::Snapshot { named } = &mut self.link {
            // If it is served it goes with all the others that the snapshot doesn't name.
            named.remove(uid);
            if matches!(self.pods.get(uid), Some(Pod::Pending { .. })) {
                self.pods.remove(uid);
            }
            return self.answer(Ok(()));
        }
        let stuck = self.is_stuck(uid, now);
        if self.remove(uid, now) {
            self.answer_after(Work::Stop(uid.clone()), stuck, now);
        } else {
            self.answer(Ok(()));
        }
    }

    fn snapshot_sent(&mut self, now: u64) {
        let Link::Snapshot { named } = &self.link else {
            return self.out_of_order("the snapshot has been sent before");
        };
        let unnamed: Vec<_> = self.pods.keys().filter(|uid| !named.contains(*uid)).cloned().collect();
        self.link = Link::Following;
        // One that can't be stopped must not keep the snapshot from ever being complete.
        let going = unnamed.into_iter().filter(|uid| {
            let stuck = self.is_stuck(uid, now);
            self.remove(uid, now) && !stuck
        });
        let what = Work::Reconcile(going.collect());
        self.awaited = Some(Awaited { what, since: now });
        self.reconciled(now);
    }

    /// Stock ends the process on such a message. Here it is refused and the connection made anew: no pod suffers from what
    /// istio-cni got wrong, and a new snapshot sets right what can be.
    fn out_of_order(&mut self, why: &'static str) {
        self.answer(Err(why.into()));
        self.link = Link::Down;
        self.actions.push_back(Action::Close(Reason::OutOfOrder));
    }

    /// Makes the pod go, whatever it does now. False if it is gone already.
    fn remove(&mut self, uid: &Arc<str>, now: u64) -> bool {
        match self.pods.get_mut(uid) {
            None => return false,
            Some(Pod::Pending { .. }) => {
                self.pods.remove(uid);
                return false;
            }
            Some(Pod::Served(_)) => self.stop(uid, None, now),
            Some(Pod::Starting { then, .. }) => *then = Then::Stop,
            Some(Pod::Stopping { then, .. }) => *then = None,
        }
        true
    }

    fn start(&mut self, uid: &Arc<str>, target: Target<N>, now: u64) {
        if self.draining {
            return self.start_ended(uid, Err(DRAINING.into()), now);
        }
        let workload = target.place.workload.clone();
        let namespace = target.namespace.clone();
        self.pods.insert(uid.clone(), Pod::Starting { target, then: Then::Serve, since: now });
        self.actions.push_back(Action::Start { uid: uid.clone(), workload, namespace });
    }

    fn stop(&mut self, uid: &Arc<str>, then: Option<Target<N>>, now: u64) {
        self.pods.insert(uid.clone(), Pod::Stopping { then, since: now });
        self.actions.push_back(Action::Stop { uid: uid.clone() });
    }

    fn failed(&mut self, uid: &Arc<str>, mut target: Target<N>, reason: Arc<str>, now: u64) {
        let (uid, workload) = (uid.clone(), target.place.workload.clone());
        let before = target.failure.replace(reason.clone());
        self.pods.insert(uid.clone(), Pod::Pending { target, retry_at: now + RETRY_AFTER });
        self.report(if before.as_ref() == Some(&reason) {
            Report::StillFailing { uid, workload, reason }
        } else {
            Report::Failing { uid, workload, reason }
        });
    }

    fn start_ended(&mut self, uid: &Arc<str>, result: Result<(), Arc<str>>, now: u64) {
        if let Some(Awaited { what: Work::Start(awaited), since }) = &self.awaited
            && awaited == uid
        {
            let since = *since;
            self.answer_in_time(since, result, now);
        }
    }

    fn gone(&mut self, uid: &Arc<str>, now: u64) {
        match &mut self.awaited {
            Some(Awaited { what: Work::Stop(awaited), since }) if awaited == uid => {
                let since = *since;
                self.answer_in_time(since, Ok(()), now);
            }
            Some(Awaited { what: Work::Reconcile(going), .. }) => {
                going.remove(uid);
                self.reconciled(now);
            }
            _ => {}
        }
    }

    /// Answers SnapshotSent if everything that was not named is gone.
    fn reconciled(&mut self, now: u64) {
        if let Some(Awaited { what: Work::Reconcile(going), since }) = &self.awaited
            && going.is_empty()
        {
            let since = *since;
            if self.answer_in_time(since, Ok(()), now) {
                self.report(Report::SnapshotComplete);
            }
        }
    }

    /// Leaves the message unanswered until the work is done, unless it can't be expected to be soon.
    fn answer_after(&mut self, what: Work, stuck: bool, now: u64) {
        if stuck {
            self.too_slow(&what);
            self.answer(Err(TOO_SLOW.into()));
        } else {
            self.awaited = Some(Awaited { what, since: now });
        }
    }

    fn answer_in_time(&mut self, since: u64, result: Result<(), Arc<str>>, now: u64) -> bool {
        if is_late(since, now) {
            self.close_late();
            return false;
        }
        self.awaited = None;
        self.answer(result);
        true
    }

    fn answer(&mut self, result: Result<(), Arc<str>>) {
        self.actions.push_back(Action::Answer(result));
    }

    /// What was begun goes on; what came of it is found when the next snapshot names it.
    fn close_late(&mut self) {
        if let Some(Awaited { what, .. }) = self.awaited.take() {
            self.too_slow(&what);
        }
        self.link = Link::Down;
        self.actions.push_back(Action::Close(Reason::Late));
    }

    /// If it's a pod that should be served by now, it is one of those that are not.
    fn too_slow(&mut self, what: &Work) {
        if let Work::Start(uid) = what
            && let Some(target) = self.pods.get_mut(uid).and_then(Pod::target_mut)
        {
            target.failure.get_or_insert_with(|| TOO_SLOW.into());
        }
    }

    fn report(&mut self, report: Report) {
        self.actions.push_back(Action::Report(report));
    }

    /// As what it is served, or will be.
    fn place(&self, uid: &str) -> Option<&Place> {
        match self.pods.get(uid)? {
            Pod::Served(place) => Some(place),
            Pod::Starting { target, .. } => Some(&target.place),
            Pod::Pending { .. } | Pod::Stopping { .. } => None,
        }
    }

    /// Whether something with this pod has taken so long already that nobody should wait for it: istio-cni would be kept from
    /// naming the other pods on each new connection.
    fn is_stuck(&self, uid: &str, now: u64) -> bool {
        match self.pods.get(uid) {
            Some(Pod::Starting { since, .. } | Pod::Stopping { since, .. }) => is_late(*since, now),
            _ => false,
        }
    }
}

impl<N> Pod<N> {
    /// What is to be served in the end, if it isn't already.
    fn target(&self) -> Option<&Target<N>> {
        match self {
            Self::Starting { target, then: Then::Serve, .. } | Self::Pending { target, .. } => Some(target),
            Self::Starting { then: Then::Replace(target), .. } => Some(target),
            Self::Starting { then: Then::Stop, .. } | Self::Served(_) => None,
            Self::Stopping { then, .. } => then.as_ref(),
        }
    }

    fn target_mut(&mut self) -> Option<&mut Target<N>> {
        match self {
            Self::Starting { target, then: Then::Serve, .. } | Self::Pending { target, .. } => Some(target),
            Self::Starting { then: Then::Replace(target), .. } => Some(target),
            Self::Starting { then: Then::Stop, .. } | Self::Served(_) => None,
            Self::Stopping { then, .. } => then.as_mut(),
        }
    }
}

fn is_late(since: u64, now: u64) -> bool {
    now.saturating_sub(since) >= LATEST_ANSWER
}

/// Until when an answer is sent. istio-cni waits for 5 s; a later answer would be taken for that to the next message.
const LATEST_ANSWER: u64 = 4_500;
const RETRY_AFTER: u64 = 5_000;
const DRAINING: &str = "draining";
const TOO_SLOW: &str = "what was begun with this pod takes too long";

mod transfer;

pub(super) use transfer::AtRest;

#[cfg(test)]
mod tests;
