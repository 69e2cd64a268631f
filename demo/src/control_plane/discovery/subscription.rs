//! What one client follows of one type, and what it has to be told.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use xds::proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};

use crate::control_plane::cluster::{Encoded, Table, Topic};

/// One type on one stream, from its first request on.
///
/// ```text
///                      changes                       changes: collected
///   up to date ──────────────────────► unacknowledged ───┐
///       ▲      ◄──────────────────────       │    ▲──────┘
///       │        ACK or NACK                 │ ACK or NACK, and there were changes
///       └────────────────────────────────────┘ (sent as one)
/// ```
///
/// Changes of the subscription itself are answered in every state.
#[derive(Debug)]
pub(super) struct Subscription {
    interest: Interest,
    /// Up to which change of the table the client was told.
    told: u64,
    /// Nonces of responses that are not acknowledged yet.
    unacknowledged: Vec<String>,
}

#[derive(Debug)]
enum Interest {
    /// Wildcard.
    Everything,
    /// What was asked for, and the names of what that has brought along.
    OnDemand(HashSet<Topic>),
}

/// What a client is to be told.
#[derive(Debug, Default)]
pub(super) struct Answer {
    resources: Vec<Arc<Encoded>>,
    removed: Vec<String>,
    with_aliases: bool,
}

/// What a client said about a response.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It took all of it.
    Ack,
    /// It refused some of it, saying why.
    Nack(String),
}

impl Subscription {
    /// The first request of a type, and its answer, even if there is nothing to say. `node` is the client's.
    pub(super) fn begin(request: &DeltaDiscoveryRequest, node: &str, table: &Table) -> (Self, Answer) {
        let subscribed = &request.resource_names_subscribe;
        let wildcard = match has_wildcard(&request.resource_names_unsubscribe) {
            true => false,
            false => subscribed.is_empty() || has_wildcard(subscribed),
        };
        let known = &request.initial_resource_versions;
        let mut answer = Answer { with_aliases: !wildcard, ..Answer::default() };
        let interest = if wildcard {
            answer.resources = table.iter().cloned().collect();
            answer.removed = known.keys().filter(|name| table.get(name).is_none()).cloned().collect();
            Interest::Everything
        } else {
            let mut asked = HashSet::new();
            if !node.is_empty() {
                let node = Topic::Node(node.into());
                answer.resources = follow(&mut asked, table, node.clone());
                asked.insert(node);
            }
            let names = subscribed.iter().filter(|name| *name != WILDCARD).chain(known.keys());
            answer.ask(&mut asked, table, names);
            Interest::OnDemand(asked)
        };
        answer.resources.retain(|resource| {
            let Resource { name, version, .. } = &resource.message;
            version.is_empty() || known.get(name) != Some(version)
        });
        (Self { interest, told: table.last_change(), unacknowledged: Vec::new() }, answer)
    }

    /// A later request; an answer if the subscription has changed.
    pub(super) fn change(&mut self, request: &DeltaDiscoveryRequest, table: &Table) -> Option<Answer> {
        let (subscribed, unsubscribed) =
            (&request.resource_names_subscribe, &request.resource_names_unsubscribe);
        if subscribed.is_empty() && unsubscribed.is_empty() {
            return None;
        }
        let mut answer = Answer::default();
        match &mut self.interest {
            Interest::OnDemand(_) if has_wildcard(subscribed) && !has_wildcard(unsubscribed) => {
                self.interest = Interest::Everything;
                self.told = table.last_change();
                answer.resources = table.iter().cloned().collect();
            }
            Interest::Everything if has_wildcard(unsubscribed) => {
                self.interest = Interest::OnDemand(HashSet::new());
            }
            Interest::Everything | Interest::OnDemand(_) => {}
        }
        if let Interest::OnDemand(asked) = &mut self.interest {
            for name in unsubscribed {
                asked.remove(&Topic::Name(name.as_str().into()));
            }
            answer.with_aliases = true;
            answer.ask(asked, table, subscribed.iter().filter(|name| *name != WILDCARD));
        }
        (!subscribed.is_empty()).then_some(answer)
    }

    /// What has changed since the client was told last; None while it has not acknowledged that, or if nothing has.
    pub(super) fn changes(&mut self, table: &Table) -> Option<Answer> {
        if !self.unacknowledged.is_empty() || self.told == table.last_change() {
            return None;
        }
        let changes = table.changes_after(self.told);
        self.told = table.last_change();
        let mut answer = Answer::default();
        match &mut self.interest {
            Interest::Everything => {
                for (name, resource) in changes {
                    match resource {
                        Some(resource) => answer.resources.push(Arc::clone(resource)),
                        None => answer.removed.push(name.to_string()),
                    }
                }
            }
            Interest::OnDemand(asked) => {
                answer.with_aliases = true;
                for (name, resource) in changes {
                    let topic = Topic::Name(Arc::clone(name));
                    match resource {
                        Some(resource) if asked.contains(&topic) => {
                            answer.resources.push(Arc::clone(resource));
                        }
                        Some(resource) if resource.topics.iter().any(|topic| asked.contains(topic)) => {
                            answer.resources.extend(follow(asked, table, topic));
                        }
                        None if asked.contains(&topic) => answer.removed.push(name.to_string()),
                        Some(_) | None => {}
                    }
                }
                answer.tell_once();
            }
        }
        (!answer.resources.is_empty() || !answer.removed.is_empty()).then_some(answer)
    }

    /// A response with this nonce is on its way.
    pub(super) fn sent(&mut self, nonce: String) {
        self.unacknowledged.push(nonce);
    }

    /// What a request says about an earlier response, if anything.
    pub(super) fn acknowledge(&mut self, request: &DeltaDiscoveryRequest) -> Option<Verdict> {
        let index = self.unacknowledged.iter().position(|nonce| *nonce == request.response_nonce)?;
        self.unacknowledged.remove(index);
        Some(match &request.error_detail {
            None => Verdict::Ack,
            Some(error) => Verdict::Nack(error.message.clone()),
        })
    }
}

impl Answer {
    /// Adds what `names` stand for; those that stand for nothing count as removed.
    fn ask<'a>(
        &mut self,
        asked: &mut HashSet<Topic>,
        table: &Table,
        names: impl Iterator<Item = &'a String>,
    ) {
        for name in names {
            let topic = Topic::Name(name.as_str().into());
            let found = follow(asked, table, topic.clone());
            if found.is_empty() {
                self.removed.push(name.clone());
            }
            self.resources.extend(found);
            asked.insert(topic);
        }
        self.tell_once();
    }

    /// One resource may have been found by several ways.
    fn tell_once(&mut self) {
        self.resources.sort_by(|one, other| one.message.name.cmp(&other.message.name));
        self.resources.dedup_by(|one, other| Arc::ptr_eq(one, other));
    }

    /// As a message. Costs as much as the resources are large: not to be done while the cluster is locked.
    pub(super) fn into_response(
        self,
        type_url: &str,
        version: String,
        nonce: String,
    ) -> DeltaDiscoveryResponse {
        let message = |resource: Arc<Encoded>| {
            let aliases = if self.with_aliases { resource.aliases.clone() } else { Vec::new() };
            Resource { aliases, ..resource.message.clone() }
        };
        DeltaDiscoveryResponse {
            system_version_info: version,
            resources: self.resources.into_iter().map(message).collect(),
            type_url: type_url.to_owned(),
            nonce,
            removed_resources: self.removed,
        }
    }
}

/// Finds what `topic` stands for: with a service, by whichever of its names, come its workloads. The names of what is found
/// are asked for from now on.
fn follow(asked: &mut HashSet<Topic>, table: &Table, topic: Topic) -> Vec<Arc<Encoded>> {
    let mut found = BTreeMap::new();
    let mut open = vec![topic];
    while let Some(topic) = open.pop() {
        for resource in table.by_topic(&topic) {
            let name = &*resource.message.name;
            if found.insert(name, resource).is_none() {
                open.push(Topic::Name(name.into()));
            }
        }
    }
    asked.extend(found.keys().map(|name| Topic::Name((*name).into())));
    found.into_values().cloned().collect()
}

fn has_wildcard(names: &[String]) -> bool {
    names.iter().any(|name| name == WILDCARD)
}

const WILDCARD: &str = "*";

#[cfg(test)]
mod tests;
