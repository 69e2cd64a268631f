//! Whether a policy matches a connection.

use std::net::IpAddr;

use xds::resource::{Action, Clause, Match, Rule};
use xds::{Authorization, Identity};

use super::Peer;

/// A connection in the terms that matches are written in.
pub(super) struct Subject<'a> {
    source: IpAddr,
    destination: IpAddr,
    port: u16,
    identity: Option<&'a Identity>,
    /// The identity without `spiffe://`.
    principal: Option<String>,
}

impl<'a> Subject<'a> {
    pub(super) fn new(peer: &Peer<'a>) -> Self {
        let principal = |identity: &Identity| identity.to_string().split_off("spiffe://".len());
        Self {
            source: peer.source.ip().to_canonical(),
            destination: peer.destination.ip().to_canonical(),
            port: peer.destination.port(),
            identity: peer.identity,
            principal: peer.identity.map(principal),
        }
    }

    /// Any rule; without rules never.
    pub(super) fn matches(&self, policy: &Authorization) -> bool {
        policy.rules.iter().any(|rule| self.matches_rule(rule, policy.action))
    }

    /// All clauses; without clauses always.
    fn matches_rule(&self, rule: &Rule, action: Action) -> bool {
        rule.clauses.iter().all(|clause| self.matches_clause(clause, action))
    }

    /// Any match; without matches always.
    fn matches_clause(&self, clause: &Clause, action: Action) -> bool {
        clause.matches.is_empty()
            || clause.matches.iter().any(|one| {
                // What cannot be judged here must not widen access.
                if one.is_opaque() { action == Action::Deny } else { self.matches_fields(one) }
            })
    }

    /// All fields.
    fn matches_fields(&self, one: &Match) -> bool {
        let namespace = self.identity.map_or("", |identity| identity.namespace());
        field(&one.namespaces, &one.not_namespaces, |text| text.matches(namespace))
            && field(&one.service_accounts, &one.not_service_accounts, |account| {
                self.identity.is_some_and(|identity| {
                    *identity.namespace() == account.namespace
                        && *identity.service_account() == account.service_account
                })
            })
            && field(&one.principals, &one.not_principals, |text| {
                self.principal.as_ref().is_some_and(|principal| text.matches(principal))
            })
            && field(&one.source_ips, &one.not_source_ips, |range| range.contains(&self.source))
            && field(&one.destination_ips, &one.not_destination_ips, |range| {
                range.contains(&self.destination)
            })
            && field(&one.destination_ports, &one.not_destination_ports, |port| *port == self.port)
    }
}

/// One of the values fits, if there are any, and none of those that must not.
fn field<T>(values: &[T], not_values: &[T], fits: impl Fn(&T) -> bool) -> bool {
    (values.is_empty() || values.iter().any(&fits)) && !not_values.iter().any(&fits)
}
