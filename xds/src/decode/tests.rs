use std::net::IpAddr;

use prost_types::Any;

use super::*;
use crate::proto::security::{self, string_match::MatchType};
use crate::proto::workload::gateway_address::Destination;
use crate::proto::workload::{self as message, address::Type};
use crate::resource::{Action, Scope, TunnelProtocol, Workload, WorkloadSpec};
use crate::store::{AppliedPolicy, Edit, Snapshot, Store};

pub(crate) mod recordings;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
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
    let neighbour =
        Workload::new(WorkloadSpec { uid: "w".into(), namespace: "n".into(), ..WorkloadSpec::default() })
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
    let gateway = message::GatewayAddress { hbone_mtls_port: 15008, destination: None };
    let hostname = |port| {
        let name = message::NamespacedHostname { namespace: "n".into(), hostname: "wp".into() };
        Some(message::GatewayAddress {
            hbone_mtls_port: port,
            destination: Some(Destination::Hostname(name)),
        })
    };
    let port = |service_port, target_port| message::Port { service_port, target_port, app_protocol: 0 };
    let balancer = |scope, mode, health_policy| {
        Some(message::LoadBalancing { routing_preference: vec![scope], mode, health_policy })
    };
    let range = |address: &[u8], length| {
        let network = String::new();
        vec![message::NetworkAddress { network, address: address.to_vec(), length: Some(length) }]
    };
    let service_ports = |name: &str, ports: Vec<_>| [(name.to_owned(), message::PortList { ports })].into();
    for (resource, expected) in [
        (
            workload(|w| w.addresses = vec![vec![1, 2, 3]]),
            "workloadIps: an IP address has 4 or 16 bytes, not 3",
        ),
        (workload(|w| w.status = 9), "status: 9 is not a known value"),
        (workload(|w| w.waypoint = Some(gateway.clone())), "waypoint: must not be empty"),
        (workload(|w| w.waypoint = hostname(65_536)), "waypoint: 65536 is not a port"),
        (workload(|w| w.network_gateway = Some(gateway.clone())), "networkGateway: must not be empty"),
        (workload(|w| w.tunnel_protocol = 3), "protocol: 3 is not a known value"),
        (workload(|w| w.network_mode = 2), "networkMode: 2 is not a known value"),
        (
            workload(|w| w.application_tunnel = Some(message::ApplicationTunnel { protocol: 2, port: 0 })),
            "applicationTunnel: 2 is not a known value",
        ),
        (
            workload(|w| w.services = service_ports("n/s", vec![port(80, 65_536)])),
            "services: 65536 is not a port",
        ),
        (
            workload(|w| w.services = service_ports("s", vec![])),
            "services: \"s\" is not of the form namespace/hostname",
        ),
        (
            workload(|w| w.namespace = String::new()),
            "serviceAccount: namespace \"\" is not a SPIFFE path segment",
        ),
        (service(|s| s.ports = vec![port(0, 80)]), "ports: 0 is not a port"),
        (
            service(|s| s.addresses = range(&[10, 0, 0, 1], 33)),
            "vips: 33 is not a prefix length of the address",
        ),
        (
            service(|s| s.addresses = range(&[10, 0, 0, 1], 256)),
            "vips: 256 is not a prefix length of the address",
        ),
        (service(|s| s.addresses = range(&[], 0)), "vips: an IP address has 4 or 16 bytes, not 0"),
        (service(|s| s.ip_families = 4), "ipFamilies: 4 is not a known value"),
        (service(|s| s.load_balancing = balancer(0, 0, 0)), "loadBalancer: 0 is not a known value"),
        (service(|s| s.load_balancing = balancer(1, 4, 0)), "loadBalancer: 4 is not a known value"),
        (service(|s| s.load_balancing = balancer(1, 1, 2)), "loadBalancer: 2 is not a known value"),
        (
            service(|s| {
                s.weighted_waypoints = vec![message::WeightedWaypoint { destination: None, weight: 1 }];
            }),
            "weightedWaypoints: must not be empty",
        ),
        (address("x", Type::Workload(message::Workload::default())), "uid: must not be empty"),
        (resource(proto::ADDRESS, "x", vec![]), "is neither a workload nor a service"),
        (workload(|w| w.uid = "v".into()), "is named otherwise than what it holds, \"v\""),
        (service(|s| s.hostname = "t".into()), "is named otherwise than what it holds, \"n/t\""),
    ] {
        assert_eq!(complaint(resource), expected);
    }
}

/// The fields that the recordings don't have.
#[test]
fn every_other_field_of_a_workload() {
    let hostname =
        Destination::Hostname(message::NamespacedHostname { namespace: "n".into(), hostname: "wp".into() });
    let address = Destination::Address(message::NetworkAddress {
        network: "far".into(),
        address: vec![10, 0, 0, 9],
        length: None,
    });
    let gateway = |destination| {
        Some(message::GatewayAddress { hbone_mtls_port: 15008, destination: Some(destination) })
    };
    let decoded = decode_one(workload(|workload| {
        workload.addresses = vec![[[0; 10].as_slice(), &[255, 255, 10, 0, 0, 1]].concat()];
        workload.hostname = "example.com".into();
        workload.network = "near".into();
        workload.trust_domain = "td".into();
        workload.waypoint = gateway(hostname);
        workload.network_gateway = gateway(address);
        workload.workload_type = 3;
        workload.native_tunnel = true;
        workload.application_tunnel = Some(message::ApplicationTunnel { protocol: 1, port: 9999 });
        workload.locality =
            Some(message::Locality { region: "r".into(), zone: "z".into(), subzone: "s".into() });
        workload.capacity = Some(0);
    }));
    assert_eq!(decoded.complaints, []);
    let store = Store::new();
    let snapshot = apply(&store, decoded);
    let workload = snapshot.workload_by_address("near", ip("10.0.0.1")).unwrap();
    let json = serde_json::to_value(workload).unwrap();
    let expected = serde_json::json!({
        "uid": "u", "name": "", "namespace": "n", "serviceAccount": "default", "trustDomain": "td",
        "workloadIps": ["10.0.0.1"], "hostname": "example.com", "network": "near", "protocol": "TCP",
        "networkMode": "Standard", "waypoint": {"destination": "n/wp", "hboneMtlsPort": 15008},
        "networkGateway": {"destination": "far/10.0.0.9", "hboneMtlsPort": 15008}, "workloadType": "job",
        "nativeTunnel": true, "applicationTunnel": {"protocol": "PROXY", "port": 9999}, "status": "Healthy",
        "clusterId": "Kubernetes", "locality": {"region": "r", "zone": "z", "subzone": "s"}, "capacity": 0,
    });
    assert_eq!(json, expected);
}

#[test]
fn every_other_field_of_a_service() {
    let waypoint = message::GatewayAddress {
        hbone_mtls_port: 15008,
        destination: Some(Destination::Address(message::NetworkAddress {
            address: vec![10, 0, 0, 9],
            ..message::NetworkAddress::default()
        })),
    };
    let decoded = decode_one(service(|service| {
        service.name = "short".into();
        for (address, length) in
            [(vec![10, 2, 3, 4], 16), (vec![10, 3, 0, 1], 32), (vec![0xfd; 16], 8), (vec![0xfd; 16], 128)]
        {
            let network = "far".into();
            service.addresses.push(message::NetworkAddress { network, address, length: Some(length) });
        }
        service.subject_alt_names = vec!["spiffe://td/ns/n/sa/a".into()];
        service.waypoint = Some(waypoint.clone());
        service.weighted_waypoints =
            vec![message::WeightedWaypoint { destination: Some(waypoint.clone()), weight: 7 }];
        service.load_balancing = Some(message::LoadBalancing {
            routing_preference: vec![1, 2, 3, 4, 5, 6],
            mode: 3,
            health_policy: 1,
        });
        service.ip_families = 2;
        service.visibility = 1;
    }));
    assert_eq!(decoded.complaints, []);
    let store = Store::new();
    let snapshot = apply(&store, decoded);
    let json = serde_json::to_value(snapshot.service_by_hostname("n", "s").unwrap()).unwrap();
    let six = "fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd";
    let waypoint = serde_json::json!({"destination": "/10.0.0.9", "hboneMtlsPort": 15008});
    let expected = serde_json::json!({
        "name": "short", "namespace": "n", "hostname": "s",
        "vips": ["/10.1.0.1", "far/10.3.0.1", format!("far/{six}")],
        "cidrVips": [{"network": "far", "cidr": "10.2.0.0/16"}, {"network": "far", "cidr": "fd00::/8"}],
        "ports": {}, "subjectAltNames": ["spiffe://td/ns/n/sa/a"], "waypoint": waypoint,
        "weightedWaypoints": [{"destination": waypoint, "weight": 7}],
        "loadBalancer": {
            "routingPreferences": ["Region", "Zone", "Subzone", "Node", "Cluster", "Network"],
            "mode": "Passthrough", "healthPolicy": "AllowAll",
        },
        "ipFamilies": "IPv6", "canonical": false, "visibility": "Namespace",
    });
    assert_eq!(json, expected);
}

/// Bytes of recorded messages are changed, cut out and doubled. Whatever comes of it, nothing panics, each name is told
/// once, and the store takes it.
#[test]
fn mutated_messages_are_taken_or_refused() {
    let recorded = recordings::messages();
    let (mut taken, mut refused) = (0, 0);
    let mut decoder = Decoder::default();
    for seed in 0..4_000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut response = random.choice(&recorded).unwrap().clone();
        for resource in &mut response.resources {
            let Some(content) = resource.resource.as_mut().filter(|_| random.u8(..3) == 0) else { continue };
            mutate(&mut random, &mut content.value);
        }
        let names: Vec<_> = response.resources.iter().map(|resource| resource.name.clone()).collect();
        let decoded = decoder.decode(response);
        let mut told: Vec<_> = decoded.accepted.iter().map(|(name, _)| name.to_string()).collect();
        told.extend(decoded.complaints.iter().map(|complaint| complaint.name.to_string()));
        assert!(names.iter().all(|name| told.contains(name)), "seed {seed}");
        assert_eq!(told.len(), names.len(), "seed {seed}");
        taken += decoded.accepted.len();
        refused += decoded.complaints.len();
        let store = Store::new();
        let snapshot = apply(&store, decoded);
        assert!(serde_json::to_value(snapshot.dump()).unwrap().is_object(), "seed {seed}");
    }
    assert!(taken > 1_000 && refused > 1_000, "one-sided: {taken} {refused}");
}

fn mutate(random: &mut fastrand::Rng, bytes: &mut Vec<u8>) {
    for _ in 0..random.usize(1..4) {
        let at = random.usize(..bytes.len().max(1)).min(bytes.len());
        match random.u8(..4) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, random.u8(..)),
            2 if at < bytes.len() => bytes[at] ^= 1 << random.u8(..8),
            3 => {
                let end = (at + random.usize(..16)).min(bytes.len());
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            _ => {}
        }
    }
}

#[test]
fn what_is_read_of_a_refused_address() {
    let bad_service = service(|service| {
        let range =
            message::NetworkAddress { network: "far".into(), address: vec![10, 2, 3, 4], length: Some(16) };
        let garbled = message::NetworkAddress { address: vec![1], ..message::NetworkAddress::default() };
        service.addresses.extend([range, garbled]);
    });
    let host_network = workload(|workload| {
        workload.network_mode = 1;
        workload.tunnel_protocol = 2;
    });
    let half_read = workload(|workload| workload.addresses.push(vec![1, 2, 3]));
    let mut garbled = workload(|_| {});
    garbled.resource.as_mut().unwrap().value.push(0xff);
    garbled.aliases = vec!["/10.0.0.1".into(), "far/fd00::1".into(), "n/other".into()];
    let mut empty = workload(|_| {});
    empty.resource = None;
    let other_type = resource(proto::AUTHORIZATION, "u", vec![]);
    for (resource, refused, free) in [
        (bad_service, &["/10.1.0.1", "far/10.2.200.1"][..], &["/10.2.3.4", "far/10.3.0.1"][..]),
        (host_network, &[], &["/10.0.0.1"]),
        (half_read, &["/10.0.0.1", "/::ffff:10.0.0.1"], &["far/10.0.0.1"]),
        (garbled, &["/10.0.0.1", "far/fd00::1"], &["/fd00::1"]),
        (empty, &[], &["/10.0.0.1"]),
        (other_type, &[], &["/10.0.0.1"]),
    ] {
        let store = Store::new();
        let decoded = Decoder::default().decode(response(proto::ADDRESS, vec![resource.clone()], &[]));
        let reason = decoded.complaints[0].reason.clone();
        let snapshot = apply(&store, decoded);
        for (addresses, expected) in [(refused, true), (free, false)] {
            for address in addresses {
                let (network, ip) = address.split_once('/').unwrap();
                let found = snapshot.refused_address(network, ip.parse().unwrap());
                assert_eq!(found.is_some(), expected, "{address}: {resource:?}");
            }
        }
        let dump = serde_json::to_value(snapshot.dump()).unwrap();
        assert_eq!(dump["refusedResources"][0]["address"]["name"], resource.name);
        assert_eq!(dump["refusedResources"][0]["address"]["reason"], reason);
    }
}

#[test]
fn whom_a_refused_policy_denies() {
    let garbled = |name: &str| resource(proto::AUTHORIZATION, name, vec![0xff]);
    let scope = |scope: i32| {
        policy(|policy| {
            policy.scope = scope;
            policy.action = 7;
        })
    };
    let mut named_otherwise = scope(0);
    named_otherwise.name = "n/q".into();
    let workload = |namespace: &str, names: &[&str]| {
        Workload::new(WorkloadSpec {
            uid: "w".into(),
            namespace: namespace.into(),
            authorization_policies: names.iter().map(|name| (*name).into()).collect(),
            ..WorkloadSpec::default()
        })
        .unwrap()
    };
    // Who is denied: all in its namespace, all in another, one elsewhere that names it.
    for (resource, expected) in [
        (scope(0), [true, true, true]),
        (scope(1), [true, false, true]),
        (scope(2), [false, false, true]),
        (scope(3), [true, false, true]),
        (garbled("n/p"), [true, false, true]),
        (garbled("p"), [true, true, true]),
        (garbled(""), [false, false, false]),
        (named_otherwise, [true, true, true]),
    ] {
        let store = Store::new();
        let snapshot = apply(&store, decode_one(resource.clone()));
        let names = [&*resource.name];
        let workloads = [workload("n", &[]), workload("m", &[]), workload("m", &names)];
        let denied = |snapshot: &Snapshot| {
            let is_refused = |policy| matches!(policy, AppliedPolicy::Refused(_));
            workloads.each_ref().map(|workload| snapshot.policies_for(workload).any(is_refused))
        };
        assert_eq!(denied(&snapshot), expected, "{resource:?}");
        let dump = serde_json::to_value(snapshot.dump()).unwrap();
        let kept = dump["refusedResources"][0]["policy"]["key"].as_str().unwrap_or("");
        assert_eq!(kept, resource.name);

        let removal = response(proto::AUTHORIZATION, vec![], &names);
        let snapshot = apply(&store, Decoder::default().decode(removal));
        assert_eq!(denied(&snapshot), [false; 3], "{resource:?}");
    }
}

#[test]
fn a_policy_that_is_known_outlives_a_refused_version() {
    let store = Store::new();
    apply(&store, decode_one(policy(|_| {})));
    let snapshot = apply(&store, decode_one(policy(|policy| policy.scope = 9)));
    assert_eq!(snapshot.policy_generation(), 1);
    assert!(snapshot.policy_by_key("n/p").is_some());
    assert!(serde_json::to_value(snapshot.dump()).unwrap().get("refusedResources").is_none());
}

#[test]
fn each_part_of_a_match_that_cannot_be_read() {
    let string = || vec![security::StringMatch::default()];
    let range = |address: &[u8], length| vec![security::Address { address: address.to_vec(), length }];
    let extension = message::Extension { name: "x".into(), config: None };
    let default = security::Match::default;
    for (one, expected) in [
        (security::Match { namespaces: string(), ..default() }, "namespaces: must not be empty"),
        (security::Match { not_namespaces: string(), ..default() }, "notNamespaces: must not be empty"),
        (security::Match { principals: string(), ..default() }, "principals: must not be empty"),
        (security::Match { not_principals: string(), ..default() }, "notPrincipals: must not be empty"),
        (
            security::Match { source_ips: range(&[10, 0, 0], 8), ..default() },
            "sourceIps: an IP address has 4 or 16 bytes, not 3",
        ),
        (
            security::Match { not_source_ips: range(&[10, 0, 0, 0], 33), ..default() },
            "notSourceIps: 33 is not a prefix length of the address",
        ),
        (
            security::Match { destination_ips: range(&[10, 0, 0, 0], 264), ..default() },
            "destinationIps: 264 is not a prefix length of the address",
        ),
        (
            security::Match { not_destination_ips: range(&[], 0), ..default() },
            "notDestinationIps: an IP address has 4 or 16 bytes, not 0",
        ),
        (
            security::Match { destination_ports: vec![80, 65_536], ..default() },
            "destinationPorts: 65536 is not a port",
        ),
        (
            security::Match { not_destination_ports: vec![65_616], ..default() },
            "notDestinationPorts: 65616 is not a port",
        ),
        (
            security::Match { extensions: vec![extension], ..default() },
            "extensions: \"x\" cannot be judged here",
        ),
    ] {
        let decoded = decode_one(policy(|policy| policy.rules = one_match(one)));
        assert_eq!(decoded.complaints[0].reason, expected);
        let store = Store::new();
        let snapshot = apply(&store, decoded);
        let one = &snapshot.policy_by_key("n/p").unwrap().rules[0].clauses[0].matches[0];
        assert!(one.is_opaque(), "{expected}");
        assert_eq!(serde_json::to_value(one).unwrap()["unreadable"][0], expected);
    }
}

/// A policy speaks of IPv4 in IPv6's clothes; connections are judged by their IPv4 address.
#[test]
fn ranges_of_mapped_addresses_are_ipv4() {
    let mapped = [[0; 10].as_slice(), &[255, 255, 10, 0, 0, 1]].concat();
    for (address, length, expected) in [
        (mapped.clone(), 128, Some("10.0.0.1/32")),
        (mapped.clone(), 104, Some("10.0.0.0/8")),
        (mapped, 95, None),
        (vec![10, 1, 2, 3], 0, Some("0.0.0.0/0")),
        (vec![0xfd; 16], 8, Some("fd00::/8")),
    ] {
        let range = network::range(&address, length).ok().map(|range| range.to_string());
        assert_eq!(range.as_deref(), expected, "{address:?}/{length}");
    }
}

#[test]
fn a_name_that_comes_well_and_badly_is_not_accepted() {
    let resources = vec![workload(|_| {}), workload(|workload| workload.status = 9), service(|_| {})];
    let decoded = Decoder::default().decode(response(proto::ADDRESS, resources, &[]));
    assert_eq!(decoded.accepted, [("n/s".into(), "1".into())]);
    assert_eq!(decoded.complaints.len(), 1);
}

#[test]
fn resources_share_their_texts() {
    let mut decoder = Decoder::default();
    let store = Store::new();
    for uid in ["u1", "u2"] {
        let mut resource = workload(|workload| {
            workload.uid = uid.into();
            workload.authorization_policies = vec!["n/p".into()];
            workload.services = [("n/s".to_owned(), message::PortList::default())].into();
        });
        resource.name = uid.into();
        let decoded = decoder.decode(response(proto::ADDRESS, vec![resource], &[]));
        assert_eq!(decoded.update.named_policies().collect::<Vec<_>>(), [&"n/p".into()]);
        apply(&store, decoded);
    }
    let snapshot = apply(&store, decoder.decode(response(proto::ADDRESS, vec![service(|_| {})], &[])));
    let texts = |uid: &str| {
        let workload = snapshot.workload_by_uid(uid).unwrap();
        let (service, _) = workload.services.iter().next().unwrap();
        let policy = &workload.authorization_policies[0];
        [&workload.namespace, policy, service.namespace(), service.hostname()].map(Arc::as_ptr)
    };
    assert_eq!(texts("u1"), texts("u2"));
    let service = snapshot.service_by_hostname("n", "s").unwrap();
    assert_eq!(texts("u1")[2..], [service.key().namespace(), service.key().hostname()].map(Arc::as_ptr));
}
