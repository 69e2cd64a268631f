//! `istio.security.Authorization`.

use std::sync::Arc;

use super::network::{known, port, range};
use super::texts::Texts;
use super::{Refusal, UNREADABLE, named};
use crate::proto::security as message;
use crate::proto::security::string_match::MatchType;
use crate::proto::workload::Extension;
use crate::resource::{
    Action, Authorization, AuthorizationSpec, Clause, IpNet, Match, Problem, ResourceError, Rule, Scope,
    ServiceAccountMatch, StringMatch,
};

pub(super) fn decode(
    texts: &mut Texts,
    name: &str,
    message: &message::Authorization,
) -> Result<Arc<Authorization>, Refusal> {
    // Taken apart whole, so that a field that the schema gains has to be thought about here.
    let message::Authorization {
        name: own_name,
        namespace,
        scope: _, // below
        action,
        rules,
        dry_run,
        extensions: _,
    } = message;
    let policy = Authorization::new(AuthorizationSpec {
        name: texts.share(own_name),
        namespace: texts.share(namespace),
        scope: scope_of(message)?,
        action: match known("action", *action)? {
            message::Action::Allow => Action::Allow,
            message::Action::Deny => Action::Deny,
        },
        rules: rules.iter().map(|rule| decode_rule(texts, rule)).collect(),
        dry_run: *dry_run,
    })?;
    named(name, policy.key())?;
    Ok(Arc::new(policy))
}

/// The scope of a policy that is refused, if it can be read.
pub(super) fn scope(message: &message::Authorization) -> Option<Scope> {
    scope_of(message).ok()
}

/// What could not be read in the matches of a policy.
pub(super) fn unreadable(policy: &Authorization) -> impl Iterator<Item = &str> {
    let matches = policy.rules.iter().flat_map(|rule| &rule.clauses).flat_map(|clause| &clause.matches);
    matches.flat_map(|one| &one.unreadable).map(|what| &**what)
}

fn scope_of(message: &message::Authorization) -> Result<Scope, ResourceError> {
    Ok(match known("scope", message.scope)? {
        message::Scope::Global => Scope::Global,
        message::Scope::Namespace => Scope::Namespace,
        message::Scope::WorkloadSelector => Scope::WorkloadSelector,
    })
}

fn decode_rule(texts: &mut Texts, message: &message::Rule) -> Rule {
    Rule { clauses: message.clauses.iter().map(|clause| decode_clause(texts, clause)).collect() }
}

fn decode_clause(texts: &mut Texts, message: &message::Clause) -> Clause {
    Clause { matches: message.matches.iter().map(|one| decode_match(texts, one)).collect() }
}

fn decode_match(texts: &mut Texts, message: &message::Match) -> Match {
    let message::Match {
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
        extensions,
    } = message;
    let mut unreadable: Vec<Arc<str>> = Vec::new();
    for extension in extensions {
        unreadable.push(unreadable_extension(extension));
    }
    let mut accounts = |values: &[message::ServiceAccountMatch]| {
        let account = |value: &message::ServiceAccountMatch| ServiceAccountMatch {
            namespace: texts.share(&value.namespace),
            service_account: texts.share(&value.service_account),
        };
        values.iter().map(account).collect()
    };
    let (service_accounts, not_service_accounts) =
        (accounts(service_accounts), accounts(not_service_accounts));
    let mut lists = Lists { texts, unreadable };
    Match {
        namespaces: lists.read("namespaces", namespaces, string),
        not_namespaces: lists.read("notNamespaces", not_namespaces, string),
        service_accounts,
        not_service_accounts,
        principals: lists.read("principals", principals, string),
        not_principals: lists.read("notPrincipals", not_principals, string),
        source_ips: lists.read("sourceIps", source_ips, net),
        not_source_ips: lists.read("notSourceIps", not_source_ips, net),
        destination_ips: lists.read("destinationIps", destination_ips, net),
        not_destination_ips: lists.read("notDestinationIps", not_destination_ips, net),
        destination_ports: lists.read("destinationPorts", destination_ports, number),
        not_destination_ports: lists.read("notDestinationPorts", not_destination_ports, number),
        unreadable: lists.unreadable,
    }
}

/// One that says what another process could not read keeps its words.
fn unreadable_extension(extension: &Extension) -> Arc<str> {
    match &extension.config {
        Some(config) if config.type_url == UNREADABLE => String::from_utf8_lossy(&config.value).into(),
        _ => format!("extensions: {:?} cannot be judged here", extension.name).into(),
    }
}

/// Reads the lists of a match and gathers what can't be read.
struct Lists<'a> {
    texts: &'a mut Texts,
    unreadable: Vec<Arc<str>>,
}

impl Lists<'_> {
    fn read<M, T>(
        &mut self,
        field: &'static str,
        values: &[M],
        read: impl Fn(&mut Texts, &M) -> Result<T, Problem>,
    ) -> Vec<T> {
        let mut list = Vec::with_capacity(values.len());
        for value in values {
            match read(self.texts, value) {
                Ok(value) => list.push(value),
                Err(problem) => self.unreadable.push(ResourceError { field, problem }.to_string().into()),
            }
        }
        list
    }
}

fn string(texts: &mut Texts, message: &message::StringMatch) -> Result<StringMatch, Problem> {
    match &message.match_type {
        Some(MatchType::Exact(text)) => Ok(StringMatch::Exact(texts.share(text))),
        Some(MatchType::Prefix(text)) => Ok(StringMatch::Prefix(texts.share(text))),
        Some(MatchType::Suffix(text)) => Ok(StringMatch::Suffix(texts.share(text))),
        Some(MatchType::Presence(())) => Ok(StringMatch::Presence()),
        None => Err(Problem::Empty),
    }
}

fn net(_: &mut Texts, message: &message::Address) -> Result<IpNet, Problem> {
    range(&message.address, message.length)
}

fn number(_: &mut Texts, message: &u32) -> Result<u16, Problem> {
    port(*message)
}
