//! `istio.security.Authorization`.

use std::sync::Arc;

use prost_types::Any;

use super::octets;
use crate::decode::UNREADABLE;
use crate::proto::security as message;
use crate::proto::security::string_match::MatchType;
use crate::proto::workload::Extension;
use crate::resource::{
    Action, Authorization, AuthorizationSpec, Clause, IpNet, Match, Rule, Scope, ServiceAccountMatch,
    StringMatch,
};

/// A policy.
///
/// What could not be read in a match is written as an extension of it: whoever decodes that cannot judge it either.
pub fn authorization(from: &Authorization) -> message::Authorization {
    // Taken apart whole, so that a field that policies gain has to be thought about here.
    let AuthorizationSpec { name, namespace, scope: of, action, rules, dry_run } = &**from;
    message::Authorization {
        name: name.to_string(),
        namespace: namespace.to_string(),
        scope: scope(*of).into(),
        action: match action {
            Action::Allow => message::Action::Allow,
            Action::Deny => message::Action::Deny,
        }
        .into(),
        rules: rules.iter().map(rule).collect(),
        dry_run: *dry_run,
        extensions: Vec::new(),
    }
}

pub(crate) fn scope(from: Scope) -> message::Scope {
    match from {
        Scope::Global => message::Scope::Global,
        Scope::Namespace => message::Scope::Namespace,
        Scope::WorkloadSelector => message::Scope::WorkloadSelector,
    }
}

fn rule(from: &Rule) -> message::Rule {
    message::Rule { clauses: from.clauses.iter().map(clause).collect() }
}

fn clause(from: &Clause) -> message::Clause {
    message::Clause { matches: from.matches.iter().map(conditions).collect() }
}

fn conditions(from: &Match) -> message::Match {
    let Match {
        namespaces,
        not_namespaces,
        service_accounts,
        not_service_accounts,
        principals,
        not_principals,
        source_ips,
        not_source_ips,
        destination_ips,
        not_destination_ips,
        destination_ports,
        not_destination_ports,
        unreadable: reasons,
    } = from;
    let numbers = |ports: &[u16]| ports.iter().copied().map(u32::from).collect();
    message::Match {
        namespaces: namespaces.iter().map(string).collect(),
        not_namespaces: not_namespaces.iter().map(string).collect(),
        service_accounts: service_accounts.iter().map(account).collect(),
        not_service_accounts: not_service_accounts.iter().map(account).collect(),
        principals: principals.iter().map(string).collect(),
        not_principals: not_principals.iter().map(string).collect(),
        source_ips: source_ips.iter().map(net).collect(),
        not_source_ips: not_source_ips.iter().map(net).collect(),
        destination_ips: destination_ips.iter().map(net).collect(),
        not_destination_ips: not_destination_ips.iter().map(net).collect(),
        destination_ports: numbers(destination_ports),
        not_destination_ports: numbers(not_destination_ports),
        extensions: reasons.iter().map(unreadable).collect(),
    }
}

fn string(from: &StringMatch) -> message::StringMatch {
    let match_type = match from {
        StringMatch::Exact(text) => MatchType::Exact(text.to_string()),
        StringMatch::Prefix(text) => MatchType::Prefix(text.to_string()),
        StringMatch::Suffix(text) => MatchType::Suffix(text.to_string()),
        StringMatch::Presence() => MatchType::Presence(()),
    };
    message::StringMatch { match_type: Some(match_type) }
}

fn account(from: &ServiceAccountMatch) -> message::ServiceAccountMatch {
    let ServiceAccountMatch { namespace, service_account } = from;
    message::ServiceAccountMatch {
        namespace: namespace.to_string(),
        service_account: service_account.to_string(),
    }
}

fn net(from: &IpNet) -> message::Address {
    message::Address { address: octets(from.addr()), length: from.prefix_len().into() }
}

fn unreadable(reason: &Arc<str>) -> Extension {
    let config = Any { type_url: UNREADABLE.to_owned(), value: reason.as_bytes().to_vec() };
    Extension { name: "unreadable".to_owned(), config: Some(config) }
}
