//! The encoded form. Protobuf: a build of another age skips what it does not know.

use prost::{Message, Oneof};

use super::TellingError;
use crate::decode::network::{ip, range};
use crate::encode;
use crate::proto::ResourceType;
use crate::proto::security::Scope as MessageScope;
use crate::proto::workload::NetworkAddress as Address;
use crate::resource::{NetworkAddress, NetworkCidr, Scope};
use crate::store;

#[derive(Clone, PartialEq, Message)]
pub(super) struct Telling {
    #[prost(uint64, tag = "1")]
    generation: u64,
    #[prost(bool, tag = "2")]
    complete: bool,
    #[prost(uint32, tag = "3")]
    schema: u32,
    #[prost(message, repeated, tag = "4")]
    changes: Vec<Change>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Change {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5, 6, 7, 8")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Kind {
    #[prost(message, tag = "1")]
    Address(Resource),
    #[prost(message, tag = "2")]
    Policy(Resource),
    #[prost(message, tag = "3")]
    RefusedAddress(RefusedAddress),
    #[prost(message, tag = "4")]
    RefusedPolicy(RefusedPolicy),
    #[prost(string, tag = "5")]
    NoAddress(String),
    #[prost(string, tag = "6")]
    NoPolicy(String),
    #[prost(string, tag = "7")]
    Demanded(String),
    #[prost(string, tag = "8")]
    Answered(String),
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
    /// `istio.workload.Address` or `istio.security.Authorization`.
    #[prost(bytes = "vec", tag = "3")]
    content: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct RefusedAddress {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    reason: String,
    /// Those with a length are ranges.
    #[prost(message, repeated, tag = "3")]
    addresses: Vec<Address>,
}

#[derive(Clone, PartialEq, Message)]
struct RefusedPolicy {
    #[prost(string, tag = "1")]
    key: String,
    /// None, or a value that is not known, stands for a scope that cannot be read.
    #[prost(enumeration = "MessageScope", optional, tag = "2")]
    scope: Option<i32>,
    #[prost(string, tag = "3")]
    reason: String,
}

impl From<&super::Telling> for Telling {
    fn from(telling: &super::Telling) -> Self {
        let super::Telling { generation, complete, schema, changes } = telling;
        let changes = changes.iter().map(Change::from).collect();
        Self { generation: *generation, complete: *complete, schema: *schema, changes }
    }
}

impl TryFrom<Telling> for super::Telling {
    type Error = TellingError;

    fn try_from(message: Telling) -> Result<Self, TellingError> {
        let Telling { generation, complete, schema, changes } = message;
        let known = changes.into_iter().filter_map(|change| change.kind);
        let changes = known.map(super::Change::try_from).collect::<Result<_, _>>()?;
        Ok(Self { generation, complete, schema, changes })
    }
}

impl From<&super::Change> for Change {
    fn from(change: &super::Change) -> Self {
        let kind = match change {
            super::Change::Resource(ResourceType::Address, resource) => Kind::Address(resource.into()),
            super::Change::Resource(ResourceType::Authorization, resource) => Kind::Policy(resource.into()),
            super::Change::RefusedAddress(tombstone) => Kind::RefusedAddress((&**tombstone).into()),
            super::Change::RefusedPolicy(policy) => Kind::RefusedPolicy((&**policy).into()),
            super::Change::Removed(ResourceType::Address, name) => Kind::NoAddress(name.to_string()),
            super::Change::Removed(ResourceType::Authorization, name) => Kind::NoPolicy(name.to_string()),
            super::Change::Demanded(name) => Kind::Demanded(name.to_string()),
            super::Change::Answered(name) => Kind::Answered(name.to_string()),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<Kind> for super::Change {
    type Error = TellingError;

    fn try_from(kind: Kind) -> Result<Self, TellingError> {
        Ok(match kind {
            Kind::Address(resource) => Self::Resource(ResourceType::Address, resource.into()),
            Kind::Policy(resource) => Self::Resource(ResourceType::Authorization, resource.into()),
            Kind::RefusedAddress(refused) => {
                Self::RefusedAddress(store::Tombstone::try_from(refused)?.into())
            }
            Kind::RefusedPolicy(refused) => Self::RefusedPolicy(store::RefusedPolicy::from(refused).into()),
            Kind::NoAddress(name) => Self::Removed(ResourceType::Address, name.into()),
            Kind::NoPolicy(name) => Self::Removed(ResourceType::Authorization, name.into()),
            Kind::Demanded(name) => Self::Demanded(name.into()),
            Kind::Answered(name) => Self::Answered(name.into()),
        })
    }
}

impl From<&super::Resource> for Resource {
    fn from(resource: &super::Resource) -> Self {
        let super::Resource { name, version, content } = resource;
        Self { name: name.to_string(), version: version.to_string(), content: content.clone() }
    }
}

impl From<Resource> for super::Resource {
    fn from(message: Resource) -> Self {
        let Resource { name, version, content } = message;
        Self { name: name.into(), version: version.into(), content }
    }
}

impl From<&store::Tombstone> for RefusedAddress {
    fn from(tombstone: &store::Tombstone) -> Self {
        let store::Tombstone { name, reason, addresses, ranges } = tombstone;
        let addresses = addresses.iter().map(encode::address).chain(ranges.iter().map(encode::range));
        Self { name: name.to_string(), reason: reason.to_string(), addresses: addresses.collect() }
    }
}

impl TryFrom<RefusedAddress> for store::Tombstone {
    type Error = TellingError;

    fn try_from(message: RefusedAddress) -> Result<Self, TellingError> {
        let RefusedAddress { name, reason, addresses: of } = message;
        let (mut addresses, mut ranges) = (Vec::new(), Vec::new());
        for Address { network, address, length } in of {
            match length {
                None => addresses.push(NetworkAddress::new(network, ip(&address)?)),
                Some(length) => ranges.push(NetworkCidr::new(network, range(&address, length)?)),
            }
        }
        Ok(Self { name: name.into(), reason: reason.into(), addresses, ranges })
    }
}

impl From<&store::RefusedPolicy> for RefusedPolicy {
    fn from(policy: &store::RefusedPolicy) -> Self {
        let store::RefusedPolicy { key, scope, reason } = policy;
        let scope = scope.map(|scope| encode::scope(scope).into());
        Self { key: key.to_string(), scope, reason: reason.to_string() }
    }
}

impl From<RefusedPolicy> for store::RefusedPolicy {
    fn from(message: RefusedPolicy) -> Self {
        let RefusedPolicy { key, scope, reason } = message;
        let scope = scope.and_then(|scope| MessageScope::try_from(scope).ok()).map(|scope| match scope {
            MessageScope::Global => Scope::Global,
            MessageScope::Namespace => Scope::Namespace,
            MessageScope::WorkloadSelector => Scope::WorkloadSelector,
        });
        Self { key: key.into(), scope, reason: reason.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_none_is_an_error() {
        let read = |address: Vec<u8>, length| {
            let address = Address { network: String::new(), address, length };
            let refused = RefusedAddress { addresses: vec![address], ..RefusedAddress::default() };
            let change = Change { kind: Some(Kind::RefusedAddress(refused)) };
            let bytes = Telling { changes: vec![change], ..Telling::default() }.encode_to_vec();
            super::super::Telling::decode(&bytes).map(|_| ()).map_err(|error| error.to_string())
        };
        assert_eq!(read(vec![1, 2, 3, 4], None), Ok(()));
        let error = "a telling cannot be read: an IP address has 4 or 16 bytes, not 3";
        assert_eq!(read(vec![1, 2, 3], None), Err(error.to_owned()));
        assert_eq!(read(vec![1, 2, 3, 4], Some(24)), Ok(()));
        assert!(read(vec![1, 2, 3, 4], Some(33)).is_err());
    }

    #[test]
    fn a_scope_that_is_not_known_is_none() {
        let refused = RefusedPolicy { scope: Some(9), ..RefusedPolicy::default() };
        assert_eq!(store::RefusedPolicy::from(refused).scope, None);
    }
}
