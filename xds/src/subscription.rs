//! What is said on the delta ADS stream, and when there is one, without I/O: calls and time go in, actions come out of
//! [`Subscription::poll`].
//!
//! ```text
//!  ──► Waiting
//!          │ begin
//!          ▼        later                    connected                     every wildcard type answered
//!      BackingOff ───────────► Connecting ───────────────► Syncing ───────────────────────────► Synced
//!          ▲                       │                          │                                    │
//!          └───────────────────────┴──────────────────────────┴────────────────────────────────────┘
//!                 failed                     ended, or silent              ended
//! ```
//!
//! What is retained (names and versions of everything that the store has of the control plane) outlives streams: the
//! next one begins by telling it, so that only what changed meanwhile is sent, and what was removed meanwhile is said.

mod outage;
mod pace;
mod requests;
mod retained;
mod told;

pub(crate) use outage::Report;
pub(crate) use retained::Retained;
pub(crate) use told::Told;

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use rpds::HashTrieSetSync;

use crate::decode::Complaint;
use crate::proto::ResourceType;
use crate::proto::discovery::{DeltaDiscoveryRequest, Node};
use outage::Outage;
use pace::Pace;

/// The client's side of a subscription to the whole mesh, or on demand.
///
/// After each call take all actions by [`poll`](Self::poll), then ask [`timeout`](Self::timeout). Times are
/// milliseconds of one monotonic clock.
pub(crate) struct Subscription {
    node: Node,
    on_demand: bool,
    phase: Phase,
    pace: Pace,
    outage: Outage,
    retained: Retained,
    /// Every name that was asked for, to be asked for again on the next stream.
    demanded: BTreeSet<Arc<str>>,
    awaited: HashTrieSetSync<Arc<str>>,
    /// The address whose stream ended last.
    avoid: Option<SocketAddr>,
    actions: VecDeque<Action>,
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    /// For what another process may tell.
    Waiting,
    BackingOff {
        until: u64,
    },
    Connecting,
    Syncing {
        address: SocketAddr,
        missing: Vec<ResourceType>,
        silent_at: u64,
    },
    Synced {
        address: SocketAddr,
    },
}

/// How far the control plane's own word goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// There is none.
    Absent,
    /// It is on the way.
    Syncing,
    /// It is the truth.
    Synced,
}

/// What the driver has to do.
#[derive(Debug, PartialEq)]
pub(crate) enum Action {
    /// Make a connection, this address last; then call [`Subscription::connected`] or [`Subscription::ended`].
    Connect { avoid: Option<SocketAddr> },
    /// On the stream, in this order.
    Send(DeltaDiscoveryRequest),
    /// Give the connection up; nothing more is wanted of it.
    Close,
    /// Tell the operator.
    Report(Report),
}

/// A response whose changes are visible in the store.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) type_url: String,
    pub(crate) nonce: String,
    /// Names and versions that the store has now.
    pub(crate) accepted: Vec<(Arc<str>, Arc<str>)>,
    pub(crate) removed: Vec<Arc<str>>,
    pub(crate) complaints: Vec<Complaint>,
    /// Of [`Subscription::awaited`], what it speaks of.
    pub(crate) answered: Vec<Arc<str>>,
}

impl Answer {
    /// The names of all resources that it speaks of.
    pub(crate) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        let accepted = self.accepted.iter().map(|(name, _)| name);
        accepted.chain(&self.removed).chain(self.complaints.iter().map(|complaint| &complaint.name))
    }
}

/// Why there is no stream, or no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// There was no connection.
    NotConnected(String),
    /// The stream was refused or broke.
    Broken {
        reason: String,
        /// A code by which servers end streams as a matter of course.
        usual: bool,
    },
    /// The server ended it in good order.
    Complete,
}

impl Subscription {
    /// Does nothing before it [begins](Self::begin).
    pub(crate) fn new(node: Node, on_demand: bool, random: fastrand::Rng) -> Self {
        Self {
            node,
            on_demand,
            phase: Phase::Waiting,
            pace: Pace::new(random),
            outage: Outage::default(),
            retained: Retained::default(),
            demanded: BTreeSet::new(),
            awaited: HashTrieSetSync::new_sync(),
            avoid: None,
            actions: VecDeque::new(),
        }
    }

    /// Connects at once. Only of meaning the first time.
    pub(crate) fn begin(&mut self, now: u64) {
        if self.phase == Phase::Waiting {
            self.phase = Phase::BackingOff { until: now };
        }
    }

    /// A connection is there: its stream begins with these requests.
    pub(crate) fn connected(&mut self, address: SocketAddr, now: u64) {
        let missing = ResourceType::ALL.into_iter().filter(|r#type| self.is_wildcard(*r#type)).collect();
        self.phase = Phase::Syncing { address, missing, silent_at: now + self.pace.patience() };
        for (n, r#type) in ResourceType::ALL.into_iter().enumerate() {
            let mut request = if self.is_wildcard(r#type) {
                requests::everything(r#type)
            } else {
                requests::only(r#type, &self.demanded)
            };
            request.initial_resource_versions = self.retained.versions(r#type);
            request.node = (n == 0).then(|| self.node.clone());
            self.actions.push_back(Action::Send(request));
        }
    }

    /// Something has come: the server is not silent.
    pub(crate) fn received(&mut self, now: u64) {
        if let Phase::Syncing { silent_at, .. } = &mut self.phase {
            *silent_at = now + self.pace.patience();
        }
    }

    /// What a response says is visible in the store. It is acknowledged, if its stream is still there.
    pub(crate) fn applied(&mut self, answer: Answer, now: u64) {
        let r#type = ResourceType::from_url(&answer.type_url);
        match r#type {
            Some(r#type) => self.retained.apply(r#type, &answer),
            None => self.report(Report::UnknownType { type_url: answer.type_url.clone() }),
        }
        for name in &answer.answered {
            self.awaited.remove_mut(name);
        }
        if !answer.complaints.is_empty() {
            let (resources, reasons) = (answer.complaints.len(), requests::joined(&answer.complaints));
            self.report(Report::Refused { type_url: answer.type_url.clone(), resources, reasons });
        }
        if matches!(self.phase, Phase::Syncing { .. } | Phase::Synced { .. }) {
            self.actions.push_back(Action::Send(requests::acknowledge(answer)));
        }
        if let Phase::Syncing { address, missing, .. } = &mut self.phase {
            missing.retain(|missing| Some(*missing) != r#type);
            if missing.is_empty() {
                self.phase = Phase::Synced { address: *address };
                self.pace.reset();
                let connected = self.outage.is_over(now);
                self.report(connected);
            }
        }
    }

    /// There is no connection, or its stream is over.
    pub(crate) fn ended(&mut self, ending: &Ending, now: u64) {
        if let Phase::Syncing { address, .. } | Phase::Synced { address } = self.phase {
            self.avoid = Some(address);
        }
        let delay = self.pace.delay();
        self.phase = Phase::BackingOff { until: now + delay };
        for report in self.outage.failed(ending, delay, now) {
            self.report(report);
        }
    }

    /// Asks for a resource by one of its names: `network/ip`, `namespace/hostname`, or a workload's uid. Only the first
    /// time, and only on demand: otherwise everything is followed anyway.
    ///
    /// Says whether it was the first time.
    pub(crate) fn demand(&mut self, name: &Arc<str>) -> bool {
        if !self.on_demand || !self.demanded.insert(name.clone()) {
            return false;
        }
        self.awaited.insert_mut(name.clone());
        if matches!(self.phase, Phase::Syncing { .. } | Phase::Synced { .. }) {
            self.actions.push_back(Action::Send(requests::one_more(ResourceType::Address, name)));
        }
        true
    }

    /// What another process told is visible in the store: the next stream begins with it.
    pub(crate) fn learnt(&mut self, answer: &Answer) {
        if let Some(r#type) = ResourceType::from_url(&answer.type_url) {
            self.retained.apply(r#type, answer);
        }
        for name in &answer.answered {
            self.awaited.remove_mut(name);
        }
    }

    /// What is visible in the store, by name and version.
    pub(crate) fn retained(&self) -> &Retained {
        &self.retained
    }

    /// Every name that was asked for.
    pub(crate) fn demanded(&self) -> &BTreeSet<Arc<str>> {
        &self.demanded
    }

    /// Whether there is a stream.
    pub(crate) fn stream(&self) -> Stream {
        match self.phase {
            Phase::Waiting | Phase::BackingOff { .. } | Phase::Connecting => Stream::Absent,
            Phase::Syncing { .. } => Stream::Syncing,
            Phase::Synced { .. } => Stream::Synced,
        }
    }

    /// The names that were asked for and that no answer has spoken of yet.
    pub(crate) fn awaited(&self) -> &HashTrieSetSync<Arc<str>> {
        &self.awaited
    }

    /// Time has passed.
    pub(crate) fn handle_timeout(&mut self, now: u64) {
        match self.phase {
            Phase::BackingOff { until } if until <= now => {
                self.phase = Phase::Connecting;
                self.actions.push_back(Action::Connect { avoid: self.avoid });
            }
            Phase::Syncing { silent_at, .. } if silent_at <= now => {
                let reason = format!("no answer within {} s", self.pace.patience() / 1000);
                self.actions.push_back(Action::Close);
                self.pace.was_silent();
                self.ended(&Ending::Broken { reason, usual: false }, now);
            }
            _ => {}
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub(crate) fn timeout(&self) -> Option<u64> {
        match self.phase {
            Phase::BackingOff { until } => Some(until),
            Phase::Syncing { silent_at, .. } => Some(silent_at),
            Phase::Waiting | Phase::Connecting | Phase::Synced { .. } => None,
        }
    }

    /// The next thing to do.
    pub(crate) fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn is_wildcard(&self, r#type: ResourceType) -> bool {
        !(self.on_demand && r#type == ResourceType::Address)
    }

    fn report(&mut self, report: Report) {
        self.actions.push_back(Action::Report(report));
    }
}

#[cfg(test)]
mod tests;
