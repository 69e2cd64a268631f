//! What the store has of the control plane, by name and version.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Answer;
use crate::proto::ResourceType;

#[derive(Default)]
pub(super) struct Retained {
    addresses: Versions,
    policies: Versions,
}

/// By name; "" if there is no version.
type Versions = BTreeMap<Arc<str>, Arc<str>>;

impl Retained {
    /// A resource with a complaint stays, but without a version: the store has a former version of it, or a mark that
    /// it was refused. So it is sent again, which a version would prevent; and if it is removed meanwhile the control
    /// plane says so, which it could not of a name that it was not told.
    pub(super) fn apply(&mut self, r#type: ResourceType, answer: &Answer) {
        let versions = match r#type {
            ResourceType::Address => &mut self.addresses,
            ResourceType::Authorization => &mut self.policies,
        };
        for (name, version) in &answer.accepted {
            versions.insert(name.clone(), version.clone());
        }
        for complaint in &answer.complaints {
            versions.insert(complaint.name.clone(), "".into());
        }
        for name in &answer.removed {
            versions.remove(name);
        }
    }

    /// For `initial_resource_versions`.
    pub(super) fn versions(&self, r#type: ResourceType) -> BTreeMap<String, String> {
        let versions = match r#type {
            ResourceType::Address => &self.addresses,
            ResourceType::Authorization => &self.policies,
        };
        versions.iter().map(|(name, version)| (name.to_string(), version.to_string())).collect()
    }
}
