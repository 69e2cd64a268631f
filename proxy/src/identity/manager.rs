//! Which certificate is fetched when, without I/O: calls and time go in, actions come out of [`Manager::poll`].
//!
//! One entry for each identity:
//!
//! ```text
//!  request, warm-up          a slot is free            signed
//! ─────────────────► Queued ────────────────► Fetching ───────► Resting
//!                    ▲    ▲                      │                 │
//!                    │    └──────── BackingOff ◄─┘ failed          │
//!                    │       later                                 │
//!                    └─────────────────────────────────────────────┘ half of its life is over
//! ```
//!
//! Beside its phase an entry has the certificate that is in use, if one is valid. It stays in use whatever the CA
//! does, until it expires. Waiters wait only while there is neither a certificate nor a failure; the failures of an
//! identity's first seconds don't count, since the CA may hear of a new pod later than we do.
//!
//! An entry is there while its identity is wanted ([`Manager::retain`]), somebody waits for it, or it was asked for a
//! moment ago: who is woken must find what it waited for, and a new pod's connection may ask before the pod's identity
//! is known to be wanted. Then it is forgotten, whatever its phase.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use xds::Identity;

use super::certificate::Validity;
use super::handle::Lookup;

/// Decides for certificates of type `C`, on behalf of waiters of type `W`.
///
/// After each call take all actions by [`poll`](Self::poll), then ask [`timeout`](Self::timeout).
/// Each call looks at every entry: a node has hundreds of identities, and calls are as rare as certificates.
pub(super) struct Manager<C, W> {
    entries: BTreeMap<Identity, Entry<C, W>>,
    /// Whose certificates are kept without being asked for; everybody's until somebody says.
    wanted: Option<BTreeSet<Identity>>,
    /// Fetches that are under way, those of forgotten entries too: they are a load to the CA like any other.
    fetching: usize,
    /// Numbers the fetches that were started.
    fetches: u64,
    /// Numbers the queued fetches: first come, first served.
    queued: u64,
    actions: VecDeque<Action<C, W>>,
    random: fastrand::Rng,
}

/// The two clocks, in milliseconds. Retries follow the first, certificates the second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    /// Monotonic, from any start.
    pub(super) elapsed: u64,
    /// Unix time; may be set.
    pub(super) unix: u64,
}

/// What the driver has to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action<C, W> {
    /// Ask the CA, then call [`Manager::finished`] with the same number.
    Fetch(Identity, u64),
    /// Let readers see this.
    Publish(Identity, Lookup<C>),
    /// Let readers see nothing of this identity: it is forgotten.
    Withdraw(Identity),
    /// After what was published before it.
    Wake(W),
    /// Tell the operator.
    Report(Report),
}

/// What the operator should know: each thing once, not once for each identity or attempt.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// No other identity is failing for this reason.
    Failing { identity: Identity, reason: Arc<str> },
    /// An attempt has failed that says nothing new, or too early to mean anything.
    Retrying { identity: Identity, reason: Arc<str>, retry_in: u64 },
    /// The identity is without a certificate now: its connections fail.
    Expired { identity: Identity },
    /// No identity is failing any more.
    Recovered,
}

/// A new certificate.
pub(super) struct Issued<C> {
    pub(super) certificate: C,
    pub(super) validity: Validity,
}

/// Who is served first. A fetch's priority only ever rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Priority {
    /// A renewal: there is a valid certificate.
    Background,
    /// It will be needed.
    WarmUp,
    /// A connection waits for it.
    Waiting,
}

struct Entry<C, W> {
    phase: Phase,
    certificate: Option<Issued<C>>,
    failure: Option<Failure>,
    /// Until then (monotonic) waiters wait over failures. None afterwards, and once there was a certificate.
    patient_until: Option<u64>,
    waiters: Vec<W>,
    /// When somebody asked for it last (monotonic).
    asked: u64,
}

enum Phase {
    Queued {
        priority: Priority,
        order: u64,
    },
    Fetching {
        number: u64,
    },
    /// `renew_at` is Unix time.
    Resting {
        renew_at: u64,
    },
    /// `until` is monotonic.
    BackingOff {
        until: u64,
        priority: Priority,
    },
}

/// Since the last success.
struct Failure {
    reason: Arc<str>,
    attempts: u32,
}

impl<C: Clone, W> Manager<C, W> {
    pub(super) fn new(random: fastrand::Rng) -> Self {
        Self {
            entries: BTreeMap::new(),
            wanted: None,
            fetching: 0,
            fetches: 0,
            queued: 0,
            actions: VecDeque::new(),
            random,
        }
    }

    /// A connection waits. It is woken at once if there is an answer already, be it a bad one.
    pub(super) fn request(&mut self, identity: &Identity, waiter: W, now: Now) {
        let entry = self.ask(identity, Priority::Waiting, now);
        if entry.lookup().is_pending() {
            entry.waiters.push(waiter);
        } else {
            self.actions.push_back(Action::Wake(waiter));
        }
        self.start_fetches();
    }

    /// A connection may come.
    pub(super) fn warm_up(&mut self, identity: &Identity, now: Now) {
        self.ask(identity, Priority::WarmUp, now);
        self.start_fetches();
    }

    /// Another process of ours had this one; it is used if there is none. A fetch that is under way isn't awaited any more.
    pub(super) fn adopt(&mut self, identity: &Identity, issued: Issued<C>, now: Now) {
        let without = self.ask(identity, Priority::WarmUp, now).certificate.is_none();
        if without && issued.validity.not_after > now.unix {
            self.succeeded(identity, issued, now);
        }
        self.start_fetches();
    }

    /// These identities are wanted from now on, and no others. Fetches nothing.
    pub(super) fn retain(&mut self, wanted: BTreeSet<Identity>, now: Now) {
        self.wanted = Some(wanted);
        self.forget_unwanted(now);
    }

    /// The fetch with this number, of this identity, has ended.
    pub(super) fn finished(
        &mut self,
        identity: &Identity,
        number: u64,
        outcome: Result<Issued<C>, Arc<str>>,
        now: Now,
    ) {
        self.fetching = self.fetching.saturating_sub(1);
        let phase = self.entries.get(identity).map(|entry| &entry.phase);
        // Another number is the fetch of an entry that was forgotten since.
        if matches!(phase, Some(Phase::Fetching { number: awaited }) if *awaited == number) {
            match outcome {
                Ok(issued) => self.succeeded(identity, issued, now),
                Err(reason) => self.failed(identity, reason, now),
            }
        }
        self.handle_timeout(now);
    }

    /// Time has passed.
    pub(super) fn handle_timeout(&mut self, now: Now) {
        let (mut expired, mut settled) = (Vec::new(), Vec::new());
        for (identity, entry) in &mut self.entries {
            if entry.certificate.as_ref().is_some_and(|issued| issued.validity.not_after <= now.unix) {
                entry.certificate = None;
                expired.push(identity.clone());
            }
            if entry.patient_until.is_some_and(|until| until <= now.elapsed) {
                settled.push(identity.clone());
            }
            let due = match entry.phase {
                Phase::Resting { renew_at } if renew_at <= now.unix || entry.certificate.is_none() => {
                    Some(Priority::Background)
                }
                Phase::BackingOff { until, priority } if until <= now.elapsed => Some(priority),
                _ => None,
            };
            if let Some(priority) = due {
                entry.phase = Phase::Queued { priority, order: self.queued };
                self.queued += 1;
            }
        }
        for identity in expired {
            self.publish(&identity);
            self.actions.push_back(Action::Report(Report::Expired { identity }));
        }
        for identity in settled {
            self.end_patience(identity);
        }
        self.forget_unwanted(now);
        self.start_fetches();
    }

    /// In how many milliseconds [`handle_timeout`](Self::handle_timeout) has something to do.
    pub(super) fn timeout(&self, now: Now) -> Option<u64> {
        let deadlines = self.entries.iter().flat_map(|(identity, entry)| {
            let phase = match entry.phase {
                Phase::Resting { renew_at } => Some(renew_at.saturating_sub(now.unix)),
                Phase::BackingOff { until, .. } => Some(until.saturating_sub(now.elapsed)),
                Phase::Queued { .. } | Phase::Fetching { .. } => None,
            };
            let expiry = entry.certificate.as_ref().map(|issued| issued.validity.not_after);
            let expiry = expiry.map(|at| at.saturating_sub(now.unix));
            let patience = entry.patient_until.map(|until| until.saturating_sub(now.elapsed));
            let forgotten = self.forgotten_at(identity, entry).map(|at| at.saturating_sub(now.elapsed));
            [phase, expiry, patience, forgotten].into_iter().flatten()
        });
        deadlines.min()
    }

    /// The next thing to do.
    pub(super) fn poll(&mut self) -> Option<Action<C, W>> {
        self.actions.pop_front()
    }

    /// Everybody who still waits: for when no answer will come.
    pub(super) fn take_waiters(&mut self) -> Vec<W> {
        let woken = self.actions.drain(..).filter_map(|action| match action {
            Action::Wake(waiter) => Some(waiter),
            _ => None,
        });
        woken.chain(self.entries.values_mut().flat_map(|entry| entry.waiters.drain(..))).collect()
    }

    /// The entry, made if there is none, with at least this priority if it is without a certificate.
    fn ask(&mut self, identity: &Identity, wanted: Priority, now: Now) -> &mut Entry<C, W> {
        if !self.entries.contains_key(identity) {
            self.actions.push_back(Action::Publish(identity.clone(), Lookup::Pending));
        }
        let order = self.queued;
        self.queued += 1;
        let entry = self.entries.entry(identity.clone()).or_insert_with(|| Entry {
            phase: Phase::Queued { priority: wanted, order },
            certificate: None,
            failure: None,
            patient_until: Some(now.elapsed + PATIENCE),
            waiters: Vec::new(),
            asked: now.elapsed,
        });
        entry.asked = now.elapsed;
        if entry.certificate.is_none()
            && let Phase::Queued { priority, .. } | Phase::BackingOff { priority, .. } = &mut entry.phase
        {
            *priority = wanted.max(*priority);
        }
        entry
    }

    fn start_fetches(&mut self) {
        while self.fetching < MAX_FETCHES {
            let queued = self.entries.iter_mut().filter_map(|(identity, entry)| match entry.phase {
                Phase::Queued { priority, order } => Some(((Reverse(priority), order), identity, entry)),
                _ => None,
            });
            let Some((_, identity, entry)) = queued.min_by_key(|(rank, ..)| *rank) else { return };
            self.fetches += 1;
            entry.phase = Phase::Fetching { number: self.fetches };
            self.fetching += 1;
            self.actions.push_back(Action::Fetch(identity.clone(), self.fetches));
        }
    }

    /// When the entry is to be forgotten (monotonic), as far as can be said now.
    fn forgotten_at(&self, identity: &Identity, entry: &Entry<C, W>) -> Option<u64> {
        let wanted = self.wanted.as_ref().is_none_or(|wanted| wanted.contains(identity));
        (!wanted && entry.waiters.is_empty()).then_some(entry.asked + MEMORY)
    }

    fn forget_unwanted(&mut self, now: Now) {
        let due = self.entries.iter().filter(|(identity, entry)| {
            self.forgotten_at(identity, entry).is_some_and(|at| at <= now.elapsed)
        });
        let due: Vec<Identity> = due.map(|(identity, _)| identity.clone()).collect();
        for identity in due {
            self.entries.remove(&identity);
            self.actions.push_back(Action::Withdraw(identity));
        }
    }

    fn succeeded(&mut self, identity: &Identity, issued: Issued<C>, now: Now) {
        let Some(entry) = self.entries.get_mut(identity) else { return };
        entry.phase = Phase::Resting { renew_at: issued.validity.renew_at(now.unix, &mut self.random) };
        entry.certificate = Some(issued);
        let was_failing = entry.failing().is_some();
        (entry.failure, entry.patient_until) = (None, None);
        self.publish(identity);
        if was_failing && self.entries.values().all(|entry| entry.failing().is_none()) {
            self.actions.push_back(Action::Report(Report::Recovered));
        }
    }

    fn failed(&mut self, identity: &Identity, reason: Arc<str>, now: Now) {
        let known = self.is_known(&reason);
        let Some(entry) = self.entries.get_mut(identity) else { return };
        let attempts = entry.failure.as_ref().map_or(1, |failure| failure.attempts.saturating_add(1));
        entry.failure = Some(Failure { reason: reason.clone(), attempts });

        let mut retry_in = back_off(attempts, &mut self.random);
        let mut priority = if entry.waiters.is_empty() { Priority::WarmUp } else { Priority::Waiting };
        if let Some(issued) = &entry.certificate {
            priority = Priority::Background;
            let left = issued.validity.not_after.saturating_sub(now.unix);
            // Already expired, and only about to be noticed: no reason to hurry more than the others.
            if left > 0 {
                retry_in = retry_in.min(left);
            }
        }
        entry.phase = Phase::BackingOff { until: now.elapsed + retry_in, priority };
        let is_new = entry.failing().is_some() && !known;
        if entry.certificate.is_none() {
            self.publish(identity);
        }
        let identity = identity.clone();
        self.actions.push_back(Action::Report(match is_new {
            true => Report::Failing { identity, reason },
            false => Report::Retrying { identity, reason, retry_in },
        }));
    }

    /// From now on failures count, the one that there may be included.
    fn end_patience(&mut self, identity: Identity) {
        let failure = self.entries.get(&identity).and_then(|entry| entry.failure.as_ref());
        let failure = failure.map(|failure| failure.reason.clone());
        let known = failure.as_ref().is_some_and(|reason| self.is_known(reason));
        if let Some(entry) = self.entries.get_mut(&identity) {
            entry.patient_until = None;
        }
        if let Some(reason) = failure {
            self.publish(&identity);
            if !known {
                self.actions.push_back(Action::Report(Report::Failing { identity, reason }));
            }
        }
    }

    /// Whether some identity is failing for this reason.
    fn is_known(&self, reason: &Arc<str>) -> bool {
        self.entries.values().any(|entry| entry.failing() == Some(reason))
    }

    /// Lets readers see the entry, and wakes those who waited for it.
    fn publish(&mut self, identity: &Identity) {
        let Some(entry) = self.entries.get_mut(identity) else { return };
        let lookup = entry.lookup();
        let answered = !lookup.is_pending();
        self.actions.push_back(Action::Publish(identity.clone(), lookup));
        if answered {
            self.actions.extend(entry.waiters.drain(..).map(Action::Wake));
        }
    }
}

impl<C: Clone, W> Entry<C, W> {
    fn lookup(&self) -> Lookup<C> {
        match (&self.certificate, self.failing()) {
            (Some(issued), _) => Lookup::Ready(issued.certificate.clone()),
            (None, Some(reason)) => Lookup::Unavailable(reason.clone()),
            (None, None) => Lookup::Pending,
        }
    }

    /// Why attempts fail, once that counts.
    fn failing(&self) -> Option<&Arc<str>> {
        self.failure.as_ref().filter(|_| self.patient_until.is_none()).map(|failure| &failure.reason)
    }
}

/// 1 s, doubled with each attempt, give or take 20 %, never more than 150 s. In milliseconds.
fn back_off(attempts: u32, random: &mut fastrand::Rng) -> u64 {
    let base = FIRST_RETRY.saturating_mul(1 << attempts.saturating_sub(1).min(20)).min(LAST_RETRY);
    random.u64(base * 4 / 5..=base * 6 / 5).min(LAST_RETRY)
}

/// How many certificates are asked for at a time.
const MAX_FETCHES: usize = 8;
const FIRST_RETRY: u64 = 1_000;
const LAST_RETRY: u64 = 150_000;
/// For how long an identity may be new to the CA. A connection waits for a certificate twice as long, so that it
/// is told why there is none.
const PATIENCE: u64 = 5_000;
/// For how long an unwanted identity is remembered after it was asked for: as long as a connection waits.
const MEMORY: u64 = 10_000;

#[cfg(test)]
mod tests;
