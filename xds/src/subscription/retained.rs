//! What the store has of the control plane, by name and version.

use std::collections::BTreeMap;
use std::sync::Arc;

use rpds::HashTrieMapSync;

use super::Answer;
use crate::proto::ResourceType;

/// Its clones share everything: what is told to another process is told of one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Retained {
    addresses: Versions,
    policies: Versions,
}

/// By name; "" if there is no version.
type Versions = HashTrieMapSync<Arc<str>, Arc<str>>;

impl Retained {
    /// A resource with a complaint stays, but without a version: the store has a former version of it, or a mark that
    /// it was refused. So it is sent again, which a version would prevent; and if it is removed meanwhile the control
    /// plane says so, which it could not of a name that it was not told.
    pub(crate) fn apply(&mut self, r#type: ResourceType, answer: &Answer) {
        let versions = match r#type {
            ResourceType::Address => &mut self.addresses,
            ResourceType::Authorization => &mut self.policies,
        };
        for (name, version) in &answer.accepted {
            versions.insert_mut(name.clone(), version.clone());
        }
        for complaint in &answer.complaints {
            versions.insert_mut(complaint.name.clone(), "".into());
        }
        for name in &answer.removed {
            versions.remove_mut(name);
        }
    }

    /// The version of a name, "" if there is none; nothing of a name that is not there.
    pub(crate) fn version(&self, r#type: ResourceType, name: &str) -> Option<&Arc<str>> {
        self.of(r#type).get(name)
    }

    /// All names, in no order.
    pub(crate) fn names(&self, r#type: ResourceType) -> impl Iterator<Item = &Arc<str>> {
        self.of(r#type).keys()
    }

    /// For `initial_resource_versions`.
    pub(super) fn versions(&self, r#type: ResourceType) -> BTreeMap<String, String> {
        self.of(r#type).iter().map(|(name, version)| (name.to_string(), version.to_string())).collect()
    }

    fn of(&self, r#type: ResourceType) -> &Versions {
        match r#type {
            ResourceType::Address => &self.addresses,
            ResourceType::Authorization => &self.policies,
        }
    }
}
