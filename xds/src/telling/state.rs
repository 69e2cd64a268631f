//! What is told: the state of names at one moment, in pieces.

use std::collections::BTreeSet;
use std::sync::Arc;

use prost::Message;

use super::{Change, LARGEST, Resource, SCHEMA, Telling};
use crate::encode;
use crate::proto::ResourceType::{self, Address, Authorization};
use crate::store::Snapshot;
use crate::subscription::{Answer, Retained};

/// The mesh at one moment, with the versions of what is in it. Cloning shares everything.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) retained: Retained,
}

impl State {
    /// How it stands with a name. Only of what the control plane has said: a resource of a local file is not there.
    pub(crate) fn of(&self, r#type: ResourceType, name: &Arc<str>) -> Change {
        let told = self.retained.version(r#type, name).and_then(|version| match r#type {
            Address => self.address(name, version),
            Authorization => self.policy(name, version),
        });
        told.unwrap_or_else(|| Change::Removed(r#type, name.clone()))
    }

    fn address(&self, name: &Arc<str>, version: &Arc<str>) -> Option<Change> {
        let workload = || self.snapshot.workload_by_uid(name).map(|workload| encode::workload(workload));
        let service = || {
            let key = name.parse().ok()?;
            self.snapshot.service_by_key(&key).map(|service| encode::service(service))
        };
        let refused = || self.snapshot.tombstone(name).cloned().map(Change::RefusedAddress);
        let message = workload().or_else(service);
        message.map(|message| resource(Address, name, version, &message)).or_else(refused)
    }

    fn policy(&self, key: &Arc<str>, version: &Arc<str>) -> Option<Change> {
        let policy = self.snapshot.policy_by_key(key).map(|policy| encode::authorization(policy));
        let refused = || self.snapshot.refused_policy(key).cloned().map(Change::RefusedPolicy);
        policy.map(|message| resource(Authorization, key, version, &message)).or_else(refused)
    }

    /// Whether what is told holds here: the version is the same or, without one, the content. Of what was refused,
    /// whether it keeps the same ways closed.
    pub(crate) fn agrees_with(&self, told: &Change) -> bool {
        let Some((r#type, name)) = told.subject() else { return true };
        if let Change::Resource(_, resource) = told
            && !resource.version.is_empty()
        {
            return self.retained.version(r#type, name) == Some(&resource.version);
        }
        match (told, self.of(r#type, name)) {
            (Change::Resource(_, told), Change::Resource(_, own)) => told.content == own.content,
            (Change::RefusedAddress(told), Change::RefusedAddress(own)) => {
                (&told.addresses, &told.ranges) == (&own.addresses, &own.ranges)
            }
            (Change::RefusedPolicy(told), Change::RefusedPolicy(own)) => told.scope == own.scope,
            (Change::Removed(..), Change::Removed(..)) => true,
            _ => false,
        }
    }
}

fn resource(r#type: ResourceType, name: &Arc<str>, version: &Arc<str>, message: &impl Message) -> Change {
    let content = message.encode_to_vec();
    Change::Resource(r#type, Resource { name: name.clone(), version: version.clone(), content })
}

/// What to tell of a state.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    pub(crate) resources: BTreeSet<(ResourceType, Arc<str>)>,
    pub(crate) demanded: BTreeSet<Arc<str>>,
    pub(crate) answered: BTreeSet<Arc<str>>,
}

impl Names {
    /// Adds what a response, or another process, has changed.
    pub(crate) fn add(&mut self, answer: &Answer) {
        if let Some(r#type) = ResourceType::from_url(&answer.type_url) {
            self.resources.extend(answer.names().map(|name| (r#type, name.clone())));
        }
        self.answered.extend(answer.answered.iter().cloned());
    }

    /// Adds others.
    pub(crate) fn extend(&mut self, others: &Self) {
        self.resources.extend(others.resources.iter().cloned());
        self.demanded.extend(others.demanded.iter().cloned());
        self.answered.extend(others.answered.iter().cloned());
    }
}

/// Makes tellings of a state, one at a time: to encode a large mesh takes a while.
pub(crate) struct Pieces {
    state: State,
    names: Box<dyn Iterator<Item = Name> + Send>,
    /// Did not fit into the last one.
    left: Option<Change>,
    /// Holds until the last piece is told.
    generation: u64,
    /// Whether this is the first state that is told.
    is_first: bool,
    over: bool,
}

enum Name {
    Resource(ResourceType, Arc<str>),
    Demanded(Arc<str>),
    Answered(Arc<str>),
}

impl Pieces {
    /// Everything.
    pub(crate) fn first(state: State, demanded: BTreeSet<Arc<str>>) -> Self {
        let all = |r#type| state.retained.names(r#type).map(move |name| (r#type, name.clone()));
        let names = Names {
            resources: ResourceType::ALL.into_iter().flat_map(all).collect(),
            demanded,
            answered: state.snapshot.answered().cloned().collect(),
        };
        Self { is_first: true, ..Self::then(state, names, 0) }
    }

    /// What has changed since `generation`, which was told.
    pub(crate) fn then(state: State, names: Names, generation: u64) -> Self {
        let Names { resources, demanded, answered } = names;
        let (policies, addresses): (Vec<_>, Vec<_>) =
            resources.into_iter().partition(|(r#type, _)| *r#type == Authorization);
        let (policies, removed): (Vec<_>, Vec<_>) =
            policies.into_iter().partition(|(r#type, key)| state.retained.version(*r#type, key).is_some());
        // A policy comes before the workloads that name it, and goes after them. A name is asked for before its answer.
        let resources = policies.into_iter().chain(addresses).chain(removed);
        let names = demanded
            .into_iter()
            .map(Name::Demanded)
            .chain(resources.map(|(r#type, name)| Name::Resource(r#type, name)))
            .chain(answered.into_iter().map(Name::Answered));
        Self { state, names: Box::new(names), left: None, generation, is_first: false, over: false }
    }

    /// The generation that holds when all pieces are told.
    pub(crate) fn last_generation(&self) -> u64 {
        self.state.snapshot.generation()
    }
}

impl Iterator for Pieces {
    type Item = Telling;

    /// At least one, even if nothing has changed.
    fn next(&mut self) -> Option<Telling> {
        if self.over {
            return None;
        }
        let (mut changes, mut size) = (Vec::new(), 0);
        let state = &self.state;
        let further = self.names.by_ref().map(|name| match name {
            Name::Resource(r#type, name) => state.of(r#type, &name),
            Name::Demanded(name) => Change::Demanded(name),
            Name::Answered(name) => Change::Answered(name),
        });
        for change in self.left.take().into_iter().chain(further) {
            size += change.size();
            if size > LARGEST && !changes.is_empty() {
                self.left = Some(change);
                break;
            }
            changes.push(change);
        }
        self.over = self.left.is_none();
        let generation = if self.over { state.snapshot.generation() } else { self.generation };
        Some(Telling { generation, complete: self.over && self.is_first, schema: SCHEMA, changes })
    }
}
