use prost_types::Any;

use super::*;
use crate::proto::security::{self, string_match::MatchType};
use crate::proto::workload::{self as message, address::Type};
use crate::resource::{Action, Scope, TunnelProtocol};
use crate::store::{AppliedPolicy, Edit, Snapshot, Store};

mod recordings;

/// A message with one field that is changed.
fn with<M: Default>(change: impl FnOnce(&mut M)) -> M {
    let mut message = M::default();
    change(&mut message);
    message
}

fn resource(type_url: &str, name: &str, value: Vec<u8>) -> Resource {
    Resource {
        version: "1".into(),
        resource: Some(Any { type_url: type_url.into(), value }),
        name: name.into(),
        aliases: vec![],
    }
}

fn address(name: &str, content: Type) -> Resource {
    let message = message::Address { r#type: Some(content) };
    resource(proto::ADDRESS, name, message.encode_to_vec())
}

/// The workload `u` at 10.0.0.1, changed.
fn workload(change: impl FnOnce(&mut message::Workload)) -> Resource {
    let mut workload = message::Workload {
        uid: "u".into(),
        namespace: "n".into(),
        addresses: vec![vec![10, 0, 0, 1]],
        ..message::Workload::default()
    };
    change(&mut workload);
    address("u", Type::Workload(workload))
}

/// The service `n/s` at 10.1.0.1, changed.
fn service(change: impl FnOnce(&mut message::Service)) -> Resource {
    let vip = message::NetworkAddress { address: vec![10, 1, 0, 1], ..message::NetworkAddress::default() };
    let mut service = message::Service {
        namespace: "n".into(),
        hostname: "s".into(),
        addresses: vec![vip],
        ..message::Service::default()
    };
    change(&mut service);
    address("n/s", Type::Service(service))
}

/// The policy `n/p`, changed.
fn policy(change: impl FnOnce(&mut security::Authorization)) -> Resource {
    let mut policy = security::Authorization {
        name: "p".into(),
        namespace: "n".into(),
        ..security::Authorization::default()
    };
    change(&mut policy);
    resource(proto::AUTHORIZATION, "n/p", policy.encode_to_vec())
}

fn one_match(one: security::Match) -> Vec<security::Rule> {
    vec![security::Rule { clauses: vec![security::Clause { matches: vec![one] }] }]
}

fn response(type_url: &str, resources: Vec<Resource>, removed: &[&str]) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        resources,
        type_url: type_url.into(),
        removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
        ..DeltaDiscoveryResponse::default()
    }
}

fn decode_one(resource: Resource) -> Decoded {
    let type_url = resource.resource.as_ref().unwrap().type_url.clone();
    Decoder::default().decode(response(&type_url, vec![resource], &[]))
}

fn apply(store: &Store, decoded: Decoded) -> arc_swap::Guard<Arc<Snapshot>> {
    store.update(|edit| decoded.update.apply(edit));
    store.load()
}

/// The one complaint about a resource of this name.
fn complaint(resource: Resource) -> String {
    let name = resource.name.clone();
    let decoded = decode_one(resource);
    assert!(decoded.accepted.is_empty(), "{:?}", decoded.accepted);
    let [complaint] = &*decoded.complaints else { panic!("{:?}", decoded.complaints) };
    assert_eq!(*complaint.name, *name);
    complaint.reason.clone()
}

#[test]
fn defaults_of_the_protocol() {
    let resources = vec![workload(|_| {}), service(|_| {})];
    let decoded = Decoder::default().decode(response(proto::ADDRESS, resources, &["gone"]));
    let accepted: Vec<_> = decoded.accepted.iter().map(|(name, version)| (&**name, &**version)).collect();
    assert_eq!(accepted, [("u", "1"), ("n/s", "1")]);
    assert_eq!(decoded.removed, ["gone".into()]);
    assert_eq!(decoded.complaints, []);
    let store = Store::new();
    let snapshot = apply(&store, decoded);
    let workload = snapshot.workload_by_uid("u").unwrap();
    assert_eq!(workload.identity().to_string(), "spiffe://cluster.local/ns/n/sa/default");
    assert_eq!((&*workload.cluster_id, workload.capacity), ("Kubernetes", 1));
    assert_eq!(workload.tunnel_protocol, TunnelProtocol::None);
    assert!(snapshot.service_by_hostname("n", "s").unwrap().load_balancer.is_none());
}

#[test]
fn a_response_of_another_type_says_nothing() {
    let decoded =
        Decoder::default().decode(response("type.example.com/other", vec![workload(|_| {})], &["x"]));
    assert!(decoded.update.is_empty() && decoded.removed.is_empty() && decoded.complaints.is_empty());
}

#[test]
fn a_refused_address_is_marked_until_a_good_version_or_a_removal() {
    let bad = || workload(|workload| workload.tunnel_protocol = 2);
    let (store, at) = (Store::new(), "10.0.0.1".parse().unwrap());
    for clear in
        [response(proto::ADDRESS, vec![workload(|_| {})], &[]), response(proto::ADDRESS, vec![], &["u"])]
    {
        store.update(Edit::clear);
        let snapshot = apply(&store, decode_one(bad()));
        let tombstone = snapshot.refused_address("", at).unwrap();
        assert_eq!(
            (&*tombstone.name, &*tombstone.reason),
            ("u", "protocol: legacy mutual TLS is not supported")
        );
        assert!(snapshot.refused_address("far", at).is_none());
        assert!(apply(&store, Decoder::default().decode(clear)).refused_address("", at).is_none());
    }
    store.update(Edit::clear);
    apply(&store, decode_one(workload(|_| {})));
    let snapshot = apply(&store, decode_one(bad()));
    assert!(snapshot.workload_by_uid("u").is_some() && snapshot.refused_address("", at).is_none());
}

#[test]
fn a_refused_policy_denies_what_it_may_have_been_meant_for() {
    let store = Store::new();
    let snapshot = apply(&store, decode_one(policy(|policy| policy.action = 7)));
    assert_eq!(snapshot.policy_generation(), 1);
    let neighbour = crate::Workload::new(crate::WorkloadSpec {
        uid: "w".into(),
        namespace: "n".into(),
        ..crate::WorkloadSpec::default()
    })
    .unwrap();
    let applied: Vec<_> = snapshot.policies_for(&neighbour).collect();
    assert!(matches!(&*applied, [AppliedPolicy::Refused(policy)] if policy.scope == Some(Scope::Global)));
    let snapshot = apply(&store, decode_one(policy(|policy| policy.action = 1)));
    assert_eq!(snapshot.policy_generation(), 2);
    assert!(matches!(snapshot.policies_for(&neighbour).next(), Some(AppliedPolicy::Known(_))));
}

#[test]
fn what_cannot_be_read_in_a_match_makes_it_opaque() {
    let exact = security::StringMatch { match_type: Some(MatchType::Exact("a".into())) };
    let one = security::Match {
        principals: vec![exact, security::StringMatch::default()],
        ..security::Match::default()
    };
    let decoded = decode_one(policy(|policy| {
        policy.action = 1;
        policy.rules = one_match(one);
    }));
    assert_eq!(decoded.complaints[0].to_string(), "n/p: principals: must not be empty");
    assert!(decoded.accepted.is_empty());
    let store = Store::new();
    let snapshot = apply(&store, decoded);
    let policy = snapshot.policy_by_key("n/p").unwrap();
    assert_eq!(policy.action, Action::Deny);
    assert!(policy.rules[0].clauses[0].matches[0].is_opaque());
}

#[test]
fn what_refuses_an_address() {
    let gateway = with(|gateway: &mut message::GatewayAddress| gateway.hbone_mtls_port = 15008);
    for (resource, expected) in [
        (
            workload(|w| w.addresses = vec![vec![1, 2, 3]]),
            "workloadIps: an IP address has 4 or 16 bytes, not 3",
        ),
        (workload(|w| w.status = 9), "status: 9 is not a known value"),
        (workload(|w| w.waypoint = Some(gateway.clone())), "waypoint: must not be empty"),
        (workload(|w| w.uid = "v".into()), "is named otherwise than what it holds, \"v\""),
        (service(|s| s.hostname = "t".into()), "is named otherwise than what it holds, \"n/t\""),
    ] {
        assert_eq!(complaint(resource), expected);
    }
}
