//! What one process tells another of the mesh, so that its successor need not begin with nothing.
//!
//! ```text
//!              owner                                          candidate
//!
//!   istiod ──► store ──► Client::tell ──► Telling             store ◄────────── istiod
//!                        the whole mesh      │                  ▲                  ▲
//!                        in pieces, then     │ bytes            │                  │
//!                        each change         ▼                  │                  │
//!                                         Telling ──► Client::learn ──► Client::begin
//!                                            until its own stream       "I have these names
//!                                            has brought everything      in these versions"
//! ```
//!
//! Resources are told in the control plane's own messages, with name and version. So a build of another age can read
//! them, and the candidate subscribes with these versions: istiod then sends only the difference, and heals whatever was
//! out of date. What was refused is told as refused: that nobody understood it must open nothing at the candidate either.
//!
//! A policy is told before the workloads that name it, and goes after them. With the teller's own care, which makes them
//! visible together, no workload is ever seen without its policies: what is told need not be held back again.
//!
//! Who carries the bytes is no matter of this module.

mod learnt;
mod message;
mod state;

use std::sync::Arc;

use prost::Message;

use crate::proto::ResourceType;
use crate::resource::{NetworkAddress, NetworkCidr};
use crate::store::{RefusedPolicy, Tombstone};

pub(crate) use learnt::Learnt;
pub(crate) use state::{Names, Pieces, State};

/// A piece of what one process tells another of the mesh. At most some 48 KiB when encoded, unless a resource alone is
/// larger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telling {
    generation: u64,
    complete: bool,
    schema: u32,
    changes: Vec<Change>,
}

/// Bytes that are no telling.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TellingError {
    /// They have another form.
    #[error("a telling cannot be read: {0}")]
    Garbled(#[from] prost::DecodeError),
    /// What was left of a refused resource has an address that is none.
    #[error("a telling cannot be read: {0}")]
    Address(#[from] crate::resource::Problem),
}

/// How it stands with one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// There is such a resource.
    Resource(ResourceType, Resource),
    /// There is a workload or a service, but it was refused.
    RefusedAddress(Arc<Tombstone>),
    /// There is a policy, but it was refused.
    RefusedPolicy(Arc<RefusedPolicy>),
    /// There is none.
    Removed(ResourceType, Arc<str>),
    /// The control plane was asked for this name.
    Demanded(Arc<str>),
    /// The control plane was asked for this name and has answered.
    Answered(Arc<str>),
}

/// As the control plane would send it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resource {
    pub(crate) name: Arc<str>,
    /// Empty if it has none, or if what came last of this name was refused.
    pub(crate) version: Arc<str>,
    /// The message, encoded.
    pub(crate) content: Vec<u8>,
}

impl Telling {
    /// With this and everything that was told before, all is told that the teller's store had of the control plane at
    /// this [generation](crate::Snapshot::generation). 0 while the first state is not yet whole.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether this is the last piece of the first state. From here on changes are told.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// As bytes that any build can [decode](Self::decode).
    pub fn encode(&self) -> Vec<u8> {
        message::Telling::from(self).encode_to_vec()
    }

    /// Reads what another process has encoded. What a newer build says beyond what is known here is skipped.
    pub fn decode(bytes: &[u8]) -> Result<Self, TellingError> {
        message::Telling::decode(bytes)?.try_into()
    }
}

impl Telling {
    /// The names that the teller was asked for.
    pub(crate) fn demanded(&self) -> impl Iterator<Item = &Arc<str>> {
        self.changes.iter().filter_map(|change| match change {
            Change::Demanded(name) => Some(name),
            _ => None,
        })
    }

    /// Whether there is nothing in it (any more).
    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Forgets all changes but those of which `stays` holds.
    pub(crate) fn retain(&mut self, stays: impl FnMut(&Change) -> bool) {
        self.changes.retain(stays);
    }
}

impl Change {
    /// About its length when encoded.
    fn size(&self) -> usize {
        let texts = match self {
            Self::Resource(_, resource) => {
                resource.name.len() + resource.version.len() + resource.content.len()
            }
            Self::RefusedAddress(tombstone) => {
                let networks = tombstone.addresses.iter().map(NetworkAddress::network);
                let networks = networks.chain(tombstone.ranges.iter().map(NetworkCidr::network));
                let addresses: usize = networks.map(|network| network.len() + OVERHEAD).sum();
                tombstone.name.len() + tombstone.reason.len() + addresses
            }
            Self::RefusedPolicy(policy) => policy.key.len() + policy.reason.len(),
            Self::Removed(_, name) | Self::Demanded(name) | Self::Answered(name) => name.len(),
        };
        texts + OVERHEAD
    }

    /// The resource that it speaks of; none of a demand.
    pub(crate) fn subject(&self) -> Option<(ResourceType, &Arc<str>)> {
        match self {
            Self::Resource(r#type, resource) => Some((*r#type, &resource.name)),
            Self::RefusedAddress(tombstone) => Some((ResourceType::Address, &tombstone.name)),
            Self::RefusedPolicy(policy) => Some((ResourceType::Authorization, &policy.key)),
            Self::Removed(r#type, name) => Some((*r#type, name)),
            Self::Demanded(_) | Self::Answered(_) => None,
        }
    }
}

/// Bytes of a telling's changes. Each costs a frame and a system call or two; each waits for those before it.
const LARGEST: usize = 48 << 10;
/// Bytes, about what tags and lengths cost around texts.
const OVERHEAD: usize = 32;
/// What this build's decoder understands. Raise it when the decoder reads a field or a value that it did not read
/// before: a resource that was told by a teller of another schema may lack just that, and is therefore asked for anew.
pub(crate) const SCHEMA: u32 = 1;

#[cfg(test)]
mod tests;
