//! `istio.workload.Address`: a workload or a service.

use std::sync::Arc;

use super::texts::Texts;
use super::{Refusal, named, network, service, workload};
use crate::proto::discovery::Resource;
use crate::proto::workload as message;
use crate::proto::workload::address::Type;
use crate::resource::{NetworkAddress, NetworkCidr, Service, Workload};
use crate::store::Tombstone;

pub(super) enum Address {
    Workload(Arc<Workload>),
    Service(Arc<Service>),
}

pub(super) fn decode(texts: &mut Texts, name: &str, message: &message::Address) -> Result<Address, Refusal> {
    match &message.r#type {
        Some(Type::Workload(message)) => {
            let workload = workload::decode(texts, message)?;
            named(name, &workload.uid)?;
            Ok(Address::Workload(Arc::new(workload)))
        }
        Some(Type::Service(message)) => {
            let service = service::decode(texts, message)?;
            named(name, &service.key().to_string())?;
            Ok(Address::Service(Arc::new(service)))
        }
        None => Err(Refusal::NoAddress),
    }
}

/// What is left of a refused resource: the addresses that can be read, of the message or, without one, of its aliases.
pub(super) fn tombstone(
    name: Arc<str>,
    reason: Arc<str>,
    message: Option<&message::Address>,
    resource: &Resource,
) -> Tombstone {
    let mut tombstone = Tombstone { name, reason, addresses: Vec::new(), ranges: Vec::new() };
    match message.and_then(|message| message.r#type.as_ref()) {
        Some(Type::Workload(workload)) if workload.network_mode() != message::NetworkMode::HostNetwork => {
            let readable = workload.addresses.iter().filter_map(|bytes| network::ip(bytes).ok());
            let network = Arc::<str>::from(&*workload.network);
            tombstone.addresses.extend(readable.map(|ip| NetworkAddress::new(network.clone(), ip)));
        }
        // The address is the node's.
        Some(Type::Workload(_)) => {}
        Some(Type::Service(service)) => {
            for address in &service.addresses {
                let network = address.network.as_str();
                let range = address.length.and_then(|length| network::range(&address.address, length).ok());
                match (range, network::ip(&address.address)) {
                    (Some(range), _) => tombstone.ranges.push(NetworkCidr::new(network, range)),
                    (None, Ok(ip)) => tombstone.addresses.push(NetworkAddress::new(network, ip)),
                    (None, Err(_)) => {}
                }
            }
        }
        None => tombstone.addresses.extend(resource.aliases.iter().filter_map(|alias| alias.parse().ok())),
    }
    tombstone
}
