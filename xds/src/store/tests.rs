use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::local;
use crate::resource::{NetworkAddress, NetworkCidr, PortMap, ServiceSpec, TunnelProtocol, WorkloadSpec};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn store(yaml: &str) -> Store {
    let config = local::load(yaml).unwrap();
    let store = Store::new();
    store.update(|edit| config.apply(edit));
    store
}

fn uid(workload: Option<&Arc<Workload>>) -> &str {
    workload.map_or("-", |workload| &workload.uid)
}

fn host(service: Option<&Arc<Service>>) -> String {
    service.map_or("-".to_owned(), |service| service.key().to_string())
}

#[test]
fn a_reader_keeps_its_view_and_sees_updates_whole() {
    let store = store("workloads: [{uid: a, namespace: n, workloadIps: [10.0.0.1]}]");
    let before = Arc::clone(&store.load());
    store.update(|edit| {
        edit.remove_address("a");
        assert_eq!(uid(store.load().workload_by_uid("a")), "a", "visible before the update ended");
        let spec = WorkloadSpec { uid: "b".into(), namespace: "n".into(), ..WorkloadSpec::default() };
        edit.insert_workload(Workload::new(spec).unwrap());
        assert_eq!(uid(edit.snapshot().workload_by_uid("b")), "b");
    });
    let after = store.load();
    assert_eq!((uid(before.workload_by_uid("a")), uid(before.workload_by_uid("b"))), ("a", "-"));
    assert_eq!((uid(after.workload_by_uid("a")), uid(after.workload_by_uid("b"))), ("-", "b"));
    assert_eq!((before.generation(), after.generation()), (1, 2));
}

#[test]
fn a_panic_in_an_update_changes_nothing_and_blocks_nobody() {
    let store = store("workloads: [{uid: a, namespace: n}]");
    let result = catch_unwind(AssertUnwindSafe(|| {
        store.update(|edit| {
            edit.clear();
            panic!("in the middle");
        });
    }));
    assert!(result.is_err());
    assert_eq!(uid(store.load().workload_by_uid("a")), "a");
    assert!(store.update(|edit| edit.remove_address("a")));
}

#[test]
fn who_owns_an_address_that_several_claim() {
    let claimants = [
        ("entry", "c//WorkloadEntry/n/x", TunnelProtocol::None),
        ("entry in mesh", "c//WorkloadEntry/n/y", TunnelProtocol::Hbone),
        ("pod", "c//Pod/n/x", TunnelProtocol::None),
        ("pod in mesh", "c//Pod/n/y", TunnelProtocol::Hbone),
        ("newer pod in mesh", "c//Pod/n/a", TunnelProtocol::Hbone),
    ];
    let workload = |uid: &str, tunnel_protocol| {
        Workload::new(WorkloadSpec {
            uid: uid.into(),
            namespace: "n".into(),
            addresses: vec![ip("10.0.0.1")],
            tunnel_protocol,
            ..WorkloadSpec::default()
        })
        .unwrap()
    };
    // In either order of arrival the better claim counts; the last two are equal, so that the newer counts.
    for (worse, better) in claimants.iter().zip(&claimants[1..]) {
        for order in [[worse, better], [better, worse]] {
            let expected = if worse.0 == "pod in mesh" { order[1].1 } else { better.1 };
            let store = Store::new();
            for (_, uid, protocol) in order {
                store.update(|edit| edit.insert_workload(workload(uid, *protocol)));
            }
            let owner = |store: &Store| uid(store.load().workload_by_address("", ip("10.0.0.1"))).to_owned();
            assert_eq!(owner(&store), expected, "{worse:?} {better:?}");
            store.update(|edit| edit.remove_address(expected));
            let other = order.iter().find(|(_, uid, _)| *uid != expected).unwrap().1;
            assert_eq!(owner(&store), other, "after {expected} left");
        }
    }
}

#[test]
fn workloads_by_address_and_by_what_the_node_agent_knows() {
    let store = store(
        "workloads:
         - {uid: a, name: web, namespace: n, workloadIps: [10.0.0.1, 'fd00::1'], node: one, serviceAccount: sa}
         - {uid: b, name: web, namespace: n, workloadIps: [10.0.0.1], network: far, node: two, serviceAccount: sa}
         - {uid: c, name: net, namespace: n, workloadIps: [10.0.0.3], networkMode: HostNetwork}",
    );
    let snapshot = store.load();
    for (network, address, expected) in [
        ("", "10.0.0.1", "a"),
        ("", "::ffff:10.0.0.1", "a"),
        ("", "fd00::1", "a"),
        ("far", "10.0.0.1", "b"),
        ("far", "fd00::1", "-"),
        ("", "10.0.0.3", "-"),
        ("", "10.0.0.9", "-"),
    ] {
        let found = snapshot.workload_by_address(network, ip(address));
        assert_eq!(uid(found), expected, "{network}/{address}");
    }
    for (namespace, name, account, node, expected) in [
        ("n", "web", "sa", Some("one"), "a"),
        ("n", "web", "sa", Some("two"), "b"),
        ("n", "web", "sa", Some("three"), "-"),
        ("n", "web", "default", Some("one"), "-"),
        ("m", "web", "sa", Some("one"), "-"),
        ("n", "net", "default", None, "c"),
    ] {
        let found = snapshot.local_workload(namespace, name, account, node);
        assert_eq!(uid(found), expected, "{namespace}/{name} {account} {node:?}");
    }
}

#[test]
fn which_service_a_client_means() {
    let store = store(
        "services:
         - {namespace: a, hostname: x, vips: [/10.1.0.1], visibility: Namespace}
         - {namespace: b, hostname: x, vips: [/10.1.0.1, far/10.1.0.2]}
         - {namespace: c, hostname: x, vips: [/10.1.0.1], canonical: true}
         - {namespace: d, hostname: wide, cidrVips: [{network: '', cidr: 10.2.0.0/16}]}
         - {namespace: e, hostname: narrow, cidrVips: [{network: '', cidr: 10.2.3.0/24}], vips: [/10.2.9.9]}
         - {namespace: f, hostname: same, cidrVips: [{network: '', cidr: 10.2.3.0/24}], canonical: true}
         - {namespace: g, hostname: secret, cidrVips: [{network: '', cidr: 10.2.3.4/32}], visibility: Namespace}
         - {namespace: h, hostname: six, cidrVips: [{network: '', cidr: 'fd00:2::/32'}]}
         - {namespace: h, hostname: all, cidrVips: [{network: far, cidr: 0.0.0.0/0}]}",
    );
    let snapshot = store.load();
    for (client, hostname, expected) in [
        ("a", "x", "a/x"),
        ("b", "x", "b/x"),
        ("c", "x", "c/x"),
        ("other", "x", "c/x"),
        ("other", "secret", "-"),
        ("g", "secret", "g/secret"),
        ("other", "none", "-"),
    ] {
        assert_eq!(
            host(snapshot.service_by_hostname(client, hostname)),
            expected,
            "{client} asks for {hostname}"
        );
    }
    for (client, network, address, expected) in [
        ("a", "", "10.1.0.1", "a/x"),
        ("b", "", "10.1.0.1", "b/x"),
        ("other", "", "10.1.0.1", "c/x"),
        ("other", "", "::ffff:10.1.0.1", "c/x"),
        ("other", "", "10.1.0.2", "-"),
        ("other", "far", "10.1.0.2", "b/x"),
        ("other", "far", "10.9.9.9", "h/all"),
        ("other", "", "10.2.200.1", "d/wide"),
        ("other", "", "10.2.3.4", "f/same"),
        ("d", "", "10.2.3.4", "d/wide"),
        ("e", "", "10.2.3.4", "e/narrow"),
        ("g", "", "10.2.3.4", "g/secret"),
        ("d", "", "10.2.9.9", "e/narrow"),
        ("other", "", "fd00:2::1", "h/six"),
        ("other", "", "fd00:3::1", "-"),
    ] {
        let found = snapshot.service_by_vip(network, ip(address), client);
        assert_eq!(host(found), expected, "{client} calls {network}/{address}");
    }
    assert_eq!(host(snapshot.any_service_by_vip("", ip("10.2.3.4"))), "g/secret");
}

#[test]
fn hostnames_are_the_same_in_every_case() {
    let store = store(
        "services:
         - {namespace: a, hostname: API.example.com}
         - {namespace: b, hostname: api.example.com, visibility: Namespace}",
    );
    let all = |hostname| {
        let snapshot = store.load();
        snapshot.services_by_hostname(hostname).map(|service| service.key().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(all("Api.example.com"), ["a/API.example.com", "b/api.example.com"]);
    assert_eq!(host(store.load().service_by_hostname("c", "api.EXAMPLE.com")), "a/API.example.com");
    assert!(store.update(|edit| edit.remove_address("a/API.example.com")));
    assert_eq!(all("api.example.com"), ["b/api.example.com"]);
    assert!(all("none.example.com").is_empty());
}

#[test]
fn endpoints_need_no_order_of_arrival_and_follow_the_health_policy() {
    let workloads = "workloads:
         - {uid: well, namespace: n, services: {n/web: {80: 8080}}}
         - {uid: sick, namespace: n, services: {n/web: {80: 8081}}, status: Unhealthy}";
    let store = store(workloads);
    let staged = serde_json::to_value(store.load().dump()).unwrap();
    assert_eq!(staged["stagedServices"]["n/web"]["sick"]["status"], "Unhealthy");
    assert_eq!(staged["services"], serde_json::json!([]));

    let endpoints = |store: &Store| {
        let snapshot = store.load();
        let service = snapshot.service_by_hostname("n", "web").unwrap();
        let uids = snapshot.endpoints(service).map(|endpoint| endpoint.workload.uid.to_string());
        uids.collect::<Vec<_>>()
    };
    for (yaml, expected) in [
        ("services: [{namespace: n, hostname: web}]", &["well"][..]),
        (
            "services: [{namespace: n, hostname: web, loadBalancer: {healthPolicy: AllowAll}}]",
            &["sick", "well"],
        ),
        ("services: [{namespace: n, hostname: web, ports: {80: 0}}]", &["well"]),
        ("workloads: [{uid: sick, namespace: n, services: {n/web: {80: 8081}}}]", &["sick", "well"]),
        ("workloads: [{uid: sick, namespace: n, services: {n/other: {80: 8081}}}]", &["well"]),
    ] {
        store.update(|edit| local::load(yaml).unwrap().apply(edit));
        assert_eq!(endpoints(&store), expected, "{yaml}");
    }
    let dump = serde_json::to_value(store.load().dump()).unwrap();
    assert_eq!(
        dump["services"][0]["endpoints"],
        serde_json::json!({"well": {"workloadUid": "well", "port": {"80": 8080}, "status": "Healthy"}})
    );
    assert_eq!(dump["services"][0]["hostname"], "web");
    assert_eq!(dump["stagedServices"].as_object().unwrap().len(), 1);
}

#[test]
fn which_policies_apply() {
    let policy = |name, namespace, scope| {
        format!("{{name: {name}, namespace: {namespace}, scope: {scope}, action: Deny}}")
    };
    let policies = [
        policy("all", "root", "Global"),
        policy("shop", "shop", "Namespace"),
        policy("data", "data", "Namespace"),
        policy("chosen", "root", "WorkloadSelector"),
        policy("not-chosen", "shop", "WorkloadSelector"),
    ];
    let store = store(&format!(
        "{{policies: [{}], workloads: [{{uid: u, namespace: shop, authorizationPolicies: [root/chosen, root/gone]}}]}}",
        policies.join(", ")
    ));
    let applied = |store: &Store| {
        let snapshot = store.load();
        let workload = snapshot.workload_by_uid("u").unwrap();
        let keys = snapshot.policies_for(workload).map(|policy| match policy {
            AppliedPolicy::Known(policy) => policy.key().to_string(),
            AppliedPolicy::Unknown(key) => format!("?{key}"),
            AppliedPolicy::Refused(policy) => format!("!{}", policy.key),
        });
        keys.collect::<Vec<_>>()
    };
    assert_eq!(applied(&store), ["shop/shop", "root/all", "root/chosen", "?root/gone"]);
    // A policy that changes its scope leaves its former one.
    let config = local::load(&format!("policies: [{}]", policy("shop", "shop", "Global"))).unwrap();
    store.update(|edit| config.apply(edit));
    assert_eq!(applied(&store), ["root/all", "shop/shop", "root/chosen", "?root/gone"]);
    store.update(|edit| assert!(edit.remove_policy("shop/shop") && edit.remove_policy("root/chosen")));
    assert_eq!(applied(&store), ["root/all", "?root/chosen", "?root/gone"]);
    store.update(|edit| assert!(!edit.remove_policy("shop/shop")));
}

#[test]
fn what_happened_is_told_and_counted() {
    fn apply(edit: &mut Edit, yaml: &str) {
        local::load(yaml).unwrap().apply(edit);
    }
    fn refuse(edit: &mut Edit, reason: &str) {
        edit.refuse_policy(RefusedPolicy { key: "n/q".into(), scope: None, reason: reason.into() });
    }
    const POLICY: &str = "policies: [{name: p, namespace: n, scope: Global, action: Deny}]";
    let store = Store::new();
    let mut changes = store.changes();
    assert_eq!((*changes.borrow_and_update(), store.load().policy_generation()), (0, 0));
    type Step = fn(&mut Edit);
    let steps: [(&str, Step, u64); 10] = [
        ("a policy comes", |edit| apply(edit, POLICY), 1),
        ("and comes again", |edit| apply(edit, POLICY), 1),
        ("a workload comes", |edit| apply(edit, "workloads: [{uid: a, namespace: n}]"), 1),
        ("a policy is refused", |edit| refuse(edit, "x"), 2),
        ("and refused again", |edit| refuse(edit, "x"), 2),
        ("for another reason", |edit| refuse(edit, "y"), 3),
        ("an unknown policy goes", |edit| assert!(!edit.remove_policy("n/r")), 3),
        ("the refused one goes", |edit| assert!(edit.remove_policy("n/q")), 4),
        ("all goes", Edit::clear, 5),
        ("all of nothing goes", Edit::clear, 5),
    ];
    for (number, (name, step, policy_generation)) in steps.iter().enumerate() {
        store.update(step);
        assert!(changes.has_changed().unwrap(), "{name}");
        assert_eq!(*changes.borrow_and_update(), number as u64 + 1, "{name}");
        assert_eq!(store.load().generation(), number as u64 + 1, "{name}");
        assert_eq!(store.load().policy_generation(), *policy_generation, "{name}");
    }
    assert!(!changes.has_changed().unwrap());
}

#[test]
fn what_was_asked_for_and_answered() {
    let store = Store::new();
    store.update(|edit| edit.answer("n/host"));
    assert!(store.load().is_answered("n/host") && !store.load().is_answered("n/other"));
    store.update(|edit| assert!(!edit.remove_address("n/host")));
    assert!(store.load().is_answered("n/host"), "there is none: that is an answer");
    store.update(Edit::clear);
    assert!(!store.load().is_answered("n/host"));
}

#[test]
fn updates_are_made_in_order_and_together() {
    let service = |hostname: &str| {
        let spec = ServiceSpec { namespace: "n".into(), hostname: hostname.into(), ..ServiceSpec::default() };
        Service::new(spec).unwrap()
    };
    let mut update = Update::default();
    assert!(update.is_empty());
    update.insert_service(service("a"));
    update.remove_address("n/a".into());
    let mut later = Update::default();
    later.remove_address("n/b".into());
    later.insert_service(service("b"));
    update.append(later);
    assert!(!update.is_empty());
    let store = Store::new();
    store.update(|edit| update.apply(edit));
    assert_eq!(host(store.load().service_by_hostname("n", "a")), "-");
    assert_eq!(host(store.load().service_by_hostname("n", "b")), "n/b");
    assert_eq!(store.load().generation(), 1);
}

/// Random insertions, replacements and removals; after each the indices must say what a scan of everything says, and
/// once all has gone nothing may be left in them.
#[test]
fn indices_agree_with_a_scan_and_keep_no_traces() {
    for seed in 0..20 {
        let mut random = fastrand::Rng::with_seed(seed);
        let store = Store::new();
        let mut workloads: Vec<Workload> = Vec::new();
        let mut services: Vec<Service> = Vec::new();
        let mut tombstones: Vec<Tombstone> = Vec::new();
        for _ in 0..200 {
            match random.u8(..7) {
                6 => {
                    let name = if random.bool() { format!("w{}", random.u8(..8)) } else { "n/s9".to_owned() };
                    let addresses = vec![NetworkAddress::new("", IpAddr::from([10, 2, 0, random.u8(..3)]))];
                    let ranges = vec![NetworkCidr::new("", "10.3.0.0/16".parse().unwrap())];
                    let known = workloads.iter().any(|workload| *workload.uid == *name);
                    let tombstone =
                        Tombstone { name: name.as_str().into(), reason: "x".into(), addresses, ranges };
                    tombstones.retain(|other| other.name != tombstone.name);
                    if !known {
                        tombstones.push(tombstone.clone());
                    }
                    store.update(|edit| edit.refuse_address(tombstone));
                }
                0..=1 => {
                    let workload = random_workload(&mut random);
                    workloads.retain(|other| other.uid != workload.uid);
                    tombstones.retain(|tombstone| tombstone.name != workload.uid);
                    workloads.push(workload.clone());
                    store.update(|edit| edit.insert_workload(workload));
                }
                2..=3 => {
                    let service = random_service(&mut random);
                    services.retain(|other| other.key() != service.key());
                    services.push(service.clone());
                    store.update(|edit| edit.insert_service(service));
                }
                4 => {
                    let uid = format!("w{}", random.u8(..8));
                    let known = workloads.iter().any(|workload| *workload.uid == *uid)
                        || tombstones.iter().any(|tombstone| *tombstone.name == *uid);
                    workloads.retain(|workload| *workload.uid != *uid);
                    tombstones.retain(|tombstone| *tombstone.name != *uid);
                    assert_eq!(store.update(|edit| edit.remove_address(&uid)), known, "seed {seed}");
                }
                _ => {
                    let key = format!("n/s{}", random.u8(..4));
                    let known = services.iter().any(|service| service.key().to_string() == key);
                    services.retain(|service| service.key().to_string() != key);
                    assert_eq!(store.update(|edit| edit.remove_address(&key)), known, "seed {seed}");
                }
            }
            compare(&store, &workloads, &services, seed);
            for address in (0..3).map(|last| IpAddr::from([10, 2, 0, last])).chain([ip("10.3.9.9")]) {
                let has = |tombstone: &Tombstone| {
                    !address.to_string().starts_with("10.2") || tombstone.addresses[0].address() == address
                };
                let found = store.load().refused_address("", address).is_some();
                assert_eq!(found, tombstones.iter().any(has), "seed {seed}, {address}");
            }
        }
        for workload in workloads {
            store.update(|edit| edit.remove_address(&workload.uid));
        }
        for service in services {
            store.update(|edit| edit.remove_address(&service.key().to_string()));
        }
        for tombstone in tombstones {
            assert!(store.update(|edit| edit.remove_address(&tombstone.name)), "seed {seed}");
        }
        let snapshot = store.load();
        assert!(snapshot.workloads.has_no_traces(), "seed {seed}");
        assert!(snapshot.services.has_no_traces(), "seed {seed}");
        assert!(snapshot.policies.has_no_traces(), "seed {seed}");
        assert!(snapshot.tombstones.has_no_traces(), "seed {seed}");
    }
}

fn compare(store: &Store, workloads: &[Workload], services: &[Service], seed: u64) {
    let snapshot = store.load();
    for last in 0..6 {
        let address = IpAddr::from([10, 0, 0, last]);
        // The model lists workloads in the order of arrival: the last of equals is the newest.
        let owner = workloads.iter().rfind(|workload| workload.addresses.contains(&address));
        assert_eq!(
            uid(snapshot.workload_by_address("", address)),
            owner.map_or("-", |workload| &*workload.uid),
            "seed {seed}, {address}"
        );
        let vip = IpAddr::from([10, 1, 0, last]);
        let mut candidates: Vec<_> = services
            .iter()
            .filter_map(|service| {
                let exact = service.vips.iter().any(|other| other.address() == vip);
                let ranges = service.cidr_vips.iter().map(NetworkCidr::cidr);
                let range = ranges.filter(|range| range.contains(&vip)).map(|range| range.prefix_len()).max();
                let rank = if exact { 255 } else { range? };
                Some((std::cmp::Reverse(rank), service.key().to_string()))
            })
            .collect();
        candidates.sort();
        let expected = candidates.first().map_or("-", |(_, key)| key);
        assert_eq!(host(snapshot.service_by_vip("", vip, "client")), expected, "seed {seed}, {vip}");
    }
    for service in services {
        let mut expected: Vec<_> =
            workloads.iter().filter(|w| w.services.get(service.key()).is_some()).map(|w| &*w.uid).collect();
        expected.sort_unstable();
        let found: Vec<_> = snapshot.endpoints(service).map(|endpoint| &*endpoint.workload.uid).collect();
        assert_eq!(found, expected, "seed {seed}, {}", service.key());
    }
}

fn random_workload(random: &mut fastrand::Rng) -> Workload {
    let addresses = (0..random.u8(..3)).map(|_| IpAddr::from([10, 0, 0, random.u8(..6)])).collect();
    let service = |number| (format!("n/s{number}").parse().unwrap(), PortMap::default());
    let services = (0..random.u8(..3)).map(|_| service(random.u8(..4))).collect();
    Workload::new(WorkloadSpec {
        uid: format!("w{}", random.u8(..8)).into(),
        name: format!("name{}", random.u8(..3)).into(),
        namespace: "n".into(),
        addresses,
        services,
        ..WorkloadSpec::default()
    })
    .unwrap()
}

fn random_service(random: &mut fastrand::Rng) -> Service {
    let mut address = || IpAddr::from([10, 1, 0, random.u8(..6)]);
    let vips = vec![format!("/{}", address()).parse().unwrap()];
    let range = ipnet::IpNet::new(address(), 28 + random.u8(..5)).unwrap();
    Service::new(ServiceSpec {
        namespace: "n".into(),
        hostname: format!("s{}", random.u8(..4)).into(),
        vips,
        cidr_vips: vec![NetworkCidr::new("", range)],
        ..ServiceSpec::default()
    })
    .unwrap()
}
