//! What is told, read: as the control plane's own responses are.

use std::sync::Arc;

use prost_types::Any;
use tracing::debug;

use super::{Change, Resource, SCHEMA, Telling};
use crate::decode::{Complaint, Decoded, Decoder};
use crate::proto::ResourceType::{self, Address, Authorization};
use crate::proto::discovery::{self, DeltaDiscoveryResponse};
use crate::store::Update;
use crate::subscription::Answer;

/// A telling, ready to be applied.
#[derive(Debug)]
pub(crate) struct Learnt {
    pub(crate) generation: u64,
    /// To be applied as one.
    pub(crate) update: Update,
    /// Names and versions, of each type. Nobody waits to be answered.
    pub(crate) answers: [Answer; 2],
}

impl Learnt {
    /// Decodes what is told. What is not understood here is refused here, as if the control plane had said it.
    pub(crate) fn new(telling: Telling, decoder: &mut Decoder) -> Self {
        let Telling { generation, complete: _, schema, changes } = telling;
        let mut responses = ResourceType::ALL.map(|r#type| DeltaDiscoveryResponse {
            type_url: r#type.url().to_owned(),
            ..DeltaDiscoveryResponse::default()
        });
        let [addresses, policies] = &mut responses;
        let (mut refusals, mut refused) = (Update::default(), [Vec::new(), Vec::new()]);
        let [refused_addresses, refused_policies] = &mut refused;
        let mut answered = Vec::new();
        for change in changes {
            match change {
                Change::Resource(Address, resource) => addresses.resources.push(as_sent(Address, resource)),
                Change::Resource(Authorization, resource) => {
                    policies.resources.push(as_sent(Authorization, resource));
                }
                Change::Removed(Address, name) => addresses.removed_resources.push(name.to_string()),
                Change::Removed(Authorization, name) => policies.removed_resources.push(name.to_string()),
                // The teller has no good version, so neither shall we: a former one would stay.
                Change::RefusedAddress(tombstone) => {
                    let (name, reason) = (tombstone.name.clone(), tombstone.reason.to_string());
                    refused_addresses.push(Complaint { name: name.clone(), reason });
                    refusals.remove_address(name);
                    refusals.refuse_address(tombstone);
                }
                Change::RefusedPolicy(policy) => {
                    let (name, reason) = (policy.key.clone(), policy.reason.to_string());
                    refused_policies.push(Complaint { name: name.clone(), reason });
                    refusals.remove_policy(name);
                    refusals.refuse_policy(policy);
                }
                Change::Demanded(_) => {} // in due time, by the subscription
                Change::Answered(name) => answered.push(name),
            }
        }
        let mut update = Update::default();
        let mut answer = |response: DeltaDiscoveryResponse, refused| {
            let type_url = response.type_url.clone();
            let decoded = decoder.decode(response);
            for complaint in &decoded.complaints {
                debug!(type_url, "a resource that was told cannot be used: {complaint}");
            }
            let Decoded { update: decoded_update, accepted, removed, mut complaints } = decoded;
            update.append(decoded_update);
            complaints.extend::<Vec<_>>(refused);
            let accepted = if schema == SCHEMA { accepted } else { without_versions(accepted) };
            Answer { type_url, nonce: String::new(), accepted, removed, complaints, answered: Vec::new() }
        };
        let [addresses, policies] = responses;
        let [refused_addresses, refused_policies] = refused;
        let mut answers = [answer(addresses, refused_addresses), answer(policies, refused_policies)];
        answers[0].answered = answered;
        update.append(refusals);
        Self { generation, update, answers }
    }
}

/// The teller's decoder may have left out what ours would read: the control plane shall send it again, which a version
/// would prevent.
fn without_versions(mut accepted: Vec<(Arc<str>, Arc<str>)>) -> Vec<(Arc<str>, Arc<str>)> {
    for (_, version) in &mut accepted {
        *version = Arc::default();
    }
    accepted
}

fn as_sent(r#type: ResourceType, resource: Resource) -> discovery::Resource {
    let Resource { name, version, content } = resource;
    discovery::Resource {
        name: name.to_string(),
        version: version.to_string(),
        resource: Some(Any { type_url: r#type.url().to_owned(), value: content }),
        aliases: Vec::new(),
    }
}
