//! Changes that become visible together.

use std::sync::Arc;

use super::{Edit, RefusedPolicy, Tombstone};
use crate::resource::{Authorization, Service, Workload};

/// Changes that become visible together: made away from the store, applied in one go.
#[derive(Debug, Default)]
pub struct Update {
    changes: Vec<Change>,
}

#[derive(Debug)]
enum Change {
    Workload(Arc<Workload>),
    Service(Arc<Service>),
    Policy(Arc<Authorization>),
    RefusedAddress(Arc<Tombstone>),
    RefusedPolicy(Arc<RefusedPolicy>),
    NoAddress(Arc<str>),
    NoPolicy(Arc<str>),
}

impl Update {
    /// See [`Edit::insert_workload`].
    pub fn insert_workload(&mut self, workload: impl Into<Arc<Workload>>) {
        self.changes.push(Change::Workload(workload.into()));
    }

    /// See [`Edit::insert_service`].
    pub fn insert_service(&mut self, service: impl Into<Arc<Service>>) {
        self.changes.push(Change::Service(service.into()));
    }

    /// See [`Edit::insert_policy`].
    pub fn insert_policy(&mut self, policy: impl Into<Arc<Authorization>>) {
        self.changes.push(Change::Policy(policy.into()));
    }

    /// See [`Edit::refuse_address`].
    pub fn refuse_address(&mut self, tombstone: impl Into<Arc<Tombstone>>) {
        self.changes.push(Change::RefusedAddress(tombstone.into()));
    }

    /// See [`Edit::refuse_policy`].
    pub fn refuse_policy(&mut self, policy: impl Into<Arc<RefusedPolicy>>) {
        self.changes.push(Change::RefusedPolicy(policy.into()));
    }

    /// See [`Edit::remove_address`].
    pub fn remove_address(&mut self, name: Arc<str>) {
        self.changes.push(Change::NoAddress(name));
    }

    /// See [`Edit::remove_policy`].
    pub fn remove_policy(&mut self, key: Arc<str>) {
        self.changes.push(Change::NoPolicy(key));
    }

    /// Makes all changes, in order.
    pub fn apply(self, edit: &mut Edit) {
        for change in self.changes {
            match change {
                Change::Workload(workload) => edit.insert_workload(workload),
                Change::Service(service) => edit.insert_service(service),
                Change::Policy(policy) => edit.insert_policy(policy),
                Change::RefusedAddress(tombstone) => edit.refuse_address(tombstone),
                Change::RefusedPolicy(policy) => edit.refuse_policy(policy),
                Change::NoAddress(name) => {
                    edit.remove_address(&name);
                }
                Change::NoPolicy(key) => {
                    edit.remove_policy(&key);
                }
            }
        }
    }

    /// Adds the changes of a later update.
    pub fn append(&mut self, mut later: Update) {
        self.changes.append(&mut later.changes);
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Keys of the policies that workloads of this update name, one for each naming.
    pub fn named_policies(&self) -> impl Iterator<Item = &Arc<str>> {
        let workloads = self.changes.iter().filter_map(|change| match change {
            Change::Workload(workload) => Some(workload),
            _ => None,
        });
        workloads.flat_map(|workload| &workload.authorization_policies)
    }
}
