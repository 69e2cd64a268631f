//! The state of the cluster: what every replica tells its clients.

use std::collections::HashSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prost::Message;
use tokio::sync::watch;
use xds::local::LocalConfig;
use xds::proto::discovery;
use xds::{Authorization, NetworkAddress, Service, Workload, encode};

use super::ResourceType;

mod table;

pub(super) use table::{Encoded, Table, Topic};

/// A cluster as its control plane sees it. A handle: clones share the state.
///
/// The version of a resource depends on its content alone: it is the same in every replica, and after a restart.
#[derive(Clone)]
pub struct Cluster {
    shared: Arc<Shared>,
}

struct Shared {
    tables: Mutex<Tables>,
    changed: watch::Sender<()>,
}

/// Everything, by type.
#[derive(Debug, Default)]
pub(super) struct Tables {
    addresses: Table,
    policies: Table,
}

impl Tables {
    pub(super) fn of(&self, resource_type: ResourceType) -> &Table {
        match resource_type {
            ResourceType::Address => &self.addresses,
            ResourceType::Authorization => &self.policies,
        }
    }

    /// A text that is another one after each change, for debugging.
    pub(super) fn version(&self) -> String {
        (self.addresses.last_change() + self.policies.last_change()).to_string()
    }

    fn of_mut(&mut self, resource_type: ResourceType) -> &mut Table {
        match resource_type {
            ResourceType::Address => &mut self.addresses,
            ResourceType::Authorization => &mut self.policies,
        }
    }
}

impl Default for Cluster {
    fn default() -> Self {
        Self::new()
    }
}

impl Cluster {
    /// An empty cluster.
    pub fn new() -> Self {
        let (changed, _) = watch::channel(());
        Self { shared: Arc::new(Shared { tables: Mutex::default(), changed }) }
    }

    /// Changes the cluster; the changes are pushed together: one message about workloads and services, then one about
    /// policies, to each stream that has acknowledged the one before. If `changes` panics nothing has changed.
    pub fn edit(&self, changes: impl FnOnce(&mut Edit)) {
        let mut edit = Edit::default();
        changes(&mut edit);
        let mut tables = self.tables();
        for change in edit.changes {
            change.apply(&mut tables);
        }
        drop(tables);
        self.shared.changed.send_replace(());
    }

    /// Changes the cluster to be as `config` says: everything else goes. What stays the same is not pushed.
    pub fn replace(&self, config: &LocalConfig) {
        let mut edit = Edit::default();
        config.services.iter().for_each(|service| edit.service(service));
        config.workloads.iter().for_each(|workload| edit.workload(workload));
        config.policies.iter().for_each(|policy| edit.policy(policy));
        let mut tables = self.tables();
        for resource_type in ResourceType::ALL {
            let new: HashSet<&str> = edit.names(resource_type).collect();
            let table = tables.of_mut(resource_type);
            let names = table.iter().map(|resource| resource.message.name.clone());
            let gone: Vec<String> = names.filter(|name| !new.contains(&**name)).collect();
            gone.iter().for_each(|name| table.remove(name));
        }
        for change in edit.changes {
            change.apply(&mut tables);
        }
        drop(tables);
        self.shared.changed.send_replace(());
    }

    /// The state as of now. Nothing can change while it is held.
    pub(super) fn tables(&self) -> MutexGuard<'_, Tables> {
        self.shared.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells when something has changed.
    pub(super) fn watch(&self) -> watch::Receiver<()> {
        self.shared.changed.subscribe()
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tables = self.tables();
        f.debug_struct("Cluster")
            .field("addresses", &tables.addresses.iter().count())
            .field("policies", &tables.policies.iter().count())
            .finish()
    }
}

/// Changes in the making; see [`Cluster::edit`]. They take effect in order.
#[derive(Debug, Default)]
pub struct Edit {
    changes: Vec<Change>,
}

#[derive(Debug)]
enum Change {
    Put(ResourceType, Encoded),
    Remove(ResourceType, String),
}

impl Change {
    fn apply(self, tables: &mut Tables) {
        match self {
            Self::Put(resource_type, resource) => tables.of_mut(resource_type).put(resource),
            Self::Remove(resource_type, name) => tables.of_mut(resource_type).remove(&name),
        }
    }
}

impl Edit {
    /// Inserts a workload, in place of an earlier one of the same uid.
    pub fn workload(&mut self, workload: &Workload) {
        let aliases: Vec<String> = workload
            .addresses
            .iter()
            .map(|ip| NetworkAddress::new(Arc::clone(&workload.network), *ip).to_string())
            .collect();
        let services = workload.services.iter().map(|(service, _)| service.to_string());
        let mut topics: Vec<Topic> = aliases.iter().cloned().chain(services).map(name).collect();
        topics.push(Topic::Name(Arc::clone(&workload.uid)));
        if !workload.node.is_empty() {
            topics.push(Topic::Node(Arc::clone(&workload.node)));
        }
        let message = encode::workload(workload).encode_to_vec();
        let message = resource(ResourceType::Address, &workload.uid, &version(&message), message);
        self.changes.push(Change::Put(ResourceType::Address, Encoded { message, aliases, topics }));
    }

    /// Inserts a service, in place of an earlier one of the same namespace and hostname.
    pub fn service(&mut self, service: &Service) {
        let key = service.key().to_string();
        let aliases: Vec<String> = service.vips.iter().map(ToString::to_string).collect();
        let topics = aliases.iter().cloned().chain([key.clone()]).map(name).collect();
        let message = encode::service(service).encode_to_vec();
        let message = resource(ResourceType::Address, &key, &version(&message), message);
        self.changes.push(Change::Put(ResourceType::Address, Encoded { message, aliases, topics }));
    }

    /// Inserts a policy, in place of an earlier one of the same namespace and name. As istiod's it has no version.
    pub fn policy(&mut self, policy: &Authorization) {
        let message = encode::authorization(policy).encode_to_vec();
        self.raw(ResourceType::Authorization, policy.key(), "", message);
    }

    /// Inserts any bytes as a resource: one that cannot be decoded, say.
    pub fn raw(&mut self, resource_type: ResourceType, name: &str, version: &str, value: Vec<u8>) {
        let message = resource(resource_type, name, version, value);
        let topics = vec![Topic::Name(name.into())];
        self.changes.push(Change::Put(resource_type, Encoded { message, aliases: Vec::new(), topics }));
    }

    /// Removes a workload by its uid or a service by `namespace/hostname`, if it is there.
    pub fn remove(&mut self, name: &str) {
        self.changes.push(Change::Remove(ResourceType::Address, name.to_owned()));
    }

    /// Removes a policy by `namespace/name`, if it is there.
    pub fn remove_policy(&mut self, name: &str) {
        self.changes.push(Change::Remove(ResourceType::Authorization, name.to_owned()));
    }

    fn names(&self, of: ResourceType) -> impl Iterator<Item = &str> {
        self.changes.iter().filter_map(move |change| match change {
            Change::Put(resource_type, resource) if *resource_type == of => Some(&*resource.message.name),
            _ => None,
        })
    }
}

fn name(name: String) -> Topic {
    Topic::Name(name.into())
}

fn resource(resource_type: ResourceType, name: &str, version: &str, value: Vec<u8>) -> discovery::Resource {
    let any = prost_types::Any { type_url: resource_type.url().to_owned(), value };
    discovery::Resource {
        version: version.to_owned(),
        resource: Some(any),
        name: name.to_owned(),
        aliases: Vec::new(),
    }
}

/// 16 hexadecimal digits that depend on nothing but the bytes.
fn version(value: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests;
