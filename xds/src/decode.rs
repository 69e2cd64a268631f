//! From the messages of the control plane to typed resources.
//!
//! Nothing here fails as a whole: each resource is taken or refused for itself. What is refused leaves a mark (see
//! [`Tombstone`](crate::store::Tombstone), [`RefusedPolicy`]), so that what isn't understood never opens a way that was
//! closed.
//!
//! As strict as stock, and stricter where stock guesses: a number that is no port, a range that is no range or a value
//! of an enum that is not known refuses the resource. Two values are taken for their default as stock does: an unknown
//! `workload_type` (telemetry alone) and an unknown `visibility` (public).
//!
//! What is not used, and why:
//!
//! | field | why |
//! |---|---|
//! | `extensions` of workload, service and policy | none is defined for node proxies |
//! | `Port.app_protocol` | layer 7 is the waypoint's |
//! | `Service.ingress_use_waypoint` | speaks to ingress gateways |
//! | `NetworkAddress.length` of a gateway | a gateway is one address |
//! | `Resource.aliases` | only where the content can't be read: then they say which addresses it had |
//! | `DeltaDiscoveryResponse.system_version_info` | for debugging of the control plane |
//!
//! `extensions` of a *match* are not ignored: a condition that can't be judged makes the match unreadable.
//!
//! Whoever makes this read a field or a value more raises `SCHEMA` in [`telling`](crate::telling): a process of the build
//! before may have told us resources without it.

mod address;
mod authorization;
pub(crate) mod network;
mod service;
mod texts;
mod workload;

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use prost::Message;

use crate::proto::discovery::{DeltaDiscoveryResponse, Resource};
use crate::proto::{self, ResourceType};
use crate::resource::ResourceError;
use crate::store::{RefusedPolicy, Update};
use address::Address;
use texts::Texts;

/// Turns responses into changes of the store. Keeps the texts that many resources share.
#[derive(Debug, Default)]
pub struct Decoder {
    texts: Texts,
}

/// What a response says.
#[derive(Debug, Default)]
pub struct Decoded {
    /// What changes, in the order of the response; to be applied as one update.
    pub update: Update,
    /// Name and version ("" if it has none) of each resource that was taken: what to say in
    /// `initial_resource_versions`. Never names what `complaints` names: the control plane shall send that again.
    pub accepted: Vec<(Arc<str>, Arc<str>)>,
    /// Names of `removed_resources`.
    pub removed: Vec<Arc<str>>,
    /// What the control plane should know. Makes the answer a NACK. A policy that is named here may have been taken all
    /// the same, with matches that are unreadable.
    pub complaints: Vec<Complaint>,
}

/// What is wrong with a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// Name of the resource.
    pub name: Arc<str>,
    /// What is wrong, in words.
    pub reason: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.reason)
    }
}

impl Decoder {
    /// Decodes a response of type [`proto::ADDRESS`] or [`proto::AUTHORIZATION`]; one of another type says nothing.
    pub fn decode(&mut self, response: DeltaDiscoveryResponse) -> Decoded {
        let mut decoded = Decoded::default();
        let Some(of) = ResourceType::from_url(&response.type_url) else { return decoded };
        for resource in response.resources {
            match of {
                ResourceType::Address => self.take_address(&resource, &mut decoded),
                ResourceType::Authorization => self.take_policy(&resource, &mut decoded),
            }
        }
        for name in response.removed_resources {
            let name = Arc::<str>::from(name);
            match of {
                ResourceType::Address => decoded.update.remove_address(name.clone()),
                ResourceType::Authorization => decoded.update.remove_policy(name.clone()),
            }
            decoded.removed.push(name);
        }
        decoded.withdraw_what_is_complained_about();
        decoded
    }

    fn take_address(&mut self, resource: &Resource, decoded: &mut Decoded) {
        let message = open(resource, proto::ADDRESS);
        let taken = message
            .as_ref()
            .map_err(Refusal::clone)
            .and_then(|message| address::decode(&mut self.texts, &resource.name, message));
        match taken {
            Ok(Address::Workload(workload)) => {
                decoded.accept(workload.uid.clone(), resource);
                decoded.update.insert_workload(workload);
            }
            Ok(Address::Service(service)) => {
                decoded.accept(service.key().to_string().into(), resource);
                decoded.update.insert_service(service);
            }
            Err(refusal) => {
                let name = Arc::<str>::from(&*resource.name);
                let reason = refusal.to_string();
                let tombstone =
                    address::tombstone(name.clone(), reason.as_str().into(), message.ok().as_ref(), resource);
                decoded.update.refuse_address(tombstone);
                decoded.complaints.push(Complaint { name, reason });
            }
        }
    }

    fn take_policy(&mut self, resource: &Resource, decoded: &mut Decoded) {
        let message = open(resource, proto::AUTHORIZATION);
        let taken = message
            .as_ref()
            .map_err(Refusal::clone)
            .and_then(|message| authorization::decode(&mut self.texts, &resource.name, message));
        match taken {
            Ok(policy) => {
                let name = policy.key().clone();
                let unreadable: Vec<&str> = authorization::unreadable(&policy).collect();
                if unreadable.is_empty() {
                    decoded.accept(name, resource);
                } else {
                    decoded.complaints.push(Complaint { name, reason: unreadable.join("; ") });
                }
                decoded.update.insert_policy(policy);
            }
            Err(refusal) => {
                let key = Arc::<str>::from(&*resource.name);
                let reason = refusal.to_string();
                let scope = message.ok().as_ref().and_then(authorization::scope);
                let refused = RefusedPolicy { key: key.clone(), scope, reason: reason.as_str().into() };
                decoded.update.refuse_policy(refused);
                decoded.complaints.push(Complaint { name: key, reason });
            }
        }
    }
}

impl Decoded {
    fn accept(&mut self, name: Arc<str>, resource: &Resource) {
        self.accepted.push((name, resource.version.as_str().into()));
    }

    /// A name may come twice, once well and once not.
    fn withdraw_what_is_complained_about(&mut self) {
        if !self.complaints.is_empty() {
            let names: HashSet<&str> = self.complaints.iter().map(|complaint| &*complaint.name).collect();
            self.accepted.retain(|(name, _)| !names.contains(&**name));
        }
    }
}

/// Why a resource is refused as a whole.
#[derive(Clone, Debug, thiserror::Error)]
enum Refusal {
    #[error("has no content")]
    NoContent,
    #[error("is of type {0:?}")]
    OtherType(String),
    #[error("cannot be read: {0}")]
    Garbled(#[from] prost::DecodeError),
    #[error("is neither a workload nor a service")]
    NoAddress,
    /// It could never be removed: that is said by name.
    #[error("is named otherwise than what it holds, {0:?}")]
    OtherKey(String),
    #[error(transparent)]
    Resource(#[from] ResourceError),
}

fn open<M: Message + Default>(resource: &Resource, type_url: &str) -> Result<M, Refusal> {
    let content = resource.resource.as_ref().ok_or(Refusal::NoContent)?;
    if content.type_url != type_url {
        return Err(Refusal::OtherType(content.type_url.clone()));
    }
    Ok(M::decode(&*content.value)?)
}

/// What a resource is kept by must be its name.
fn named(name: &str, key: &str) -> Result<(), Refusal> {
    if name == key { Ok(()) } else { Err(Refusal::OtherKey(key.to_owned())) }
}

/// Type of the extension by which [`encode`](crate::encode) says what could not be read in a match.
pub(crate) const UNREADABLE: &str = "type.googleapis.com/ztunnel.Unreadable";

#[cfg(test)]
pub(crate) mod tests;
