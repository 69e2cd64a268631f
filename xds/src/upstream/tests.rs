use std::collections::BTreeMap;

use super::*;
use crate::local;
use crate::store::Store;

/// The client, and endpoints of one service in the order of their uids.
fn choices(client: &str, service: &str, endpoints: &[&str]) -> Result<BTreeMap<String, u64>, String> {
    let mut yaml = format!(
        "services: [{{namespace: n, hostname: s, {service}}}]\nworkloads:\n- {{uid: client, namespace: n, {client}}}\n"
    );
    for endpoint in endpoints {
        yaml += &format!("- {{namespace: n, {endpoint}}}\n");
    }
    let config = local::load(&yaml).map_err(|e| e.to_string())?;
    let store = Store::new();
    store.update(|edit| config.apply(edit));
    let snapshot = store.load();
    let client = snapshot.workload_by_uid("client").ok_or("no client")?;
    let service = snapshot.service_by_hostname("n", "s").ok_or("no service")?;
    let mut counts = BTreeMap::new();
    let (mut drawn, mut total) = (0, 1);
    while drawn < total {
        let mut random = |bound| {
            total = bound;
            drawn
        };
        if let Some(chosen) = choose(client, service, 80, || snapshot.endpoints(service), &mut random) {
            *counts.entry(format!("{}:{}", chosen.workload.uid, chosen.port)).or_default() += 1;
        }
        drawn += 1;
    }
    Ok(counts)
}

/// Name, client, service, endpoints; how many of the draws choose which endpoint at which port.
type Row<'a> = (&'a str, &'a str, String, Vec<String>, &'a [(&'a str, u64)]);

/// Every possible draw is made once, so that the counts are the exact weights.
#[test]
fn choice() {
    const PLAIN: &str = "workloadIps: [10.0.0.1], services: {n/s: {}}";
    let plain = |uid: &str, more: &str| format!("uid: {uid}, {PLAIN}{more}");
    let at = |uid: &str, region: &str, zone: &str, network: &str| {
        plain(uid, &format!(", network: '{network}', locality: {{region: '{region}', zone: '{zone}'}}"))
    };
    let balancer = |mode: &str, scopes: &str| {
        format!("ports: {{80: 80}}, loadBalancer: {{mode: {mode}, routingPreferences: [{scopes}]}}")
    };
    let ports = "ports: {80: 8080}";
    let here = "locality: {region: r1, zone: z1}, node: n1, clusterId: c1";
    let spread = || {
        vec![
            at("a", "r1", "z1", ""),
            at("b", "r1", "z2", ""),
            at("c", "r2", "z1", ""),
            at("d", "r1", "z1", "far"),
            at("e", "r2", "z2", "far"),
        ]
    };
    let table: Vec<Row<'_>> = vec![
        ("equal weights", "", ports.into(), vec![plain("a", ""), plain("b", "")], &[("a:8080", 1), ("b:8080", 1)]),
        (
            "capacity weighs, 0 takes nothing",
            "",
            ports.into(),
            vec![plain("a", ", capacity: 3"), plain("b", ", capacity: 0"), plain("c", ", capacity: 1")],
            &[("a:8080", 3), ("c:8080", 1)],
        ),
        ("no capacity at all", "", ports.into(), vec![plain("a", ", capacity: 0")], &[]),
        ("no endpoint", "", ports.into(), vec![], &[]),
        ("port not of the service", "", "ports: {81: 8080}".into(), vec![plain("a", "")], &[]),
        (
            "the endpoint's port map counts first; a named port that an endpoint does not have excludes it",
            "",
            "ports: {80: 0}".into(),
            vec!["uid: a, workloadIps: [10.0.0.1], services: {n/s: {80: 9090}}".into(), plain("b", "")],
            &[("a:9090", 1)],
        ),
        (
            "an endpoint port without a number falls back to the service",
            "",
            ports.into(),
            vec!["uid: a, workloadIps: [10.0.0.1], services: {n/s: {80: 0}}".into()],
            &[("a:8080", 1)],
        ),
        ("unhealthy", "", ports.into(), vec![plain("a", ", status: Unhealthy"), plain("b", "")], &[("b:8080", 1)]),
        (
            "unhealthy, but all are allowed",
            "",
            format!("{ports}, loadBalancer: {{healthPolicy: AllowAll}}"),
            vec![plain("a", ", status: Unhealthy")],
            &[("a:8080", 1)],
        ),
        (
            "without an address only behind the gateway of another network",
            "",
            ports.into(),
            vec![
                "uid: a, services: {n/s: {}}".into(),
                "uid: b, services: {n/s: {}}, network: far".into(),
                "uid: c, services: {n/s: {}}, networkGateway: {destination: /10.0.0.9, hboneMtlsPort: 15008}".into(),
                "uid: d, services: {n/s: {}}, network: far, networkGateway: {destination: /10.0.0.9, hboneMtlsPort: 15008}"
                    .into(),
                "uid: e, services: {n/s: {}}, hostname: example.com".into(),
            ],
            &[("d:8080", 1), ("e:8080", 1)],
        ),
        (
            "standard ignores the preferences",
            here,
            balancer("Standard", "Region"),
            spread(),
            &[("a:80", 1), ("b:80", 1), ("c:80", 1), ("d:80", 1), ("e:80", 1)],
        ),
        ("failover: region, zone", here, balancer("Failover", "Region, Zone"), spread(), &[("a:80", 1), ("d:80", 1)]),
        (
            "failover stops at the first scope that is not shared",
            here,
            balancer("Failover", "Region, Zone"),
            vec![at("b", "r1", "z2", ""), at("c", "r2", "z1", "")],
            &[("b:80", 1)],
        ),
        (
            "failover: the network first outweighs the rest",
            here,
            balancer("Failover", "Network, Region, Zone"),
            vec![at("c", "r2", "z2", ""), at("d", "r1", "z1", "far")],
            &[("c:80", 1)],
        ),
        (
            "failover: other networks are told apart by the rest",
            here,
            balancer("Failover", "Network, Region, Zone"),
            vec![at("d", "r1", "z1", "far"), at("e", "r2", "z2", "far")],
            &[("d:80", 1)],
        ),
        (
            "failover: the network not first is a scope like others",
            here,
            balancer("Failover", "Region, Network"),
            vec![at("c", "r2", "z2", ""), at("d", "r1", "z1", "far")],
            &[("d:80", 1)],
        ),
        ("failover without preferences", here, balancer("Failover", ""), spread()[..1].into(), &[("a:80", 1)]),
        ("strict", here, balancer("Strict", "Network, Zone"), spread(), &[("a:80", 1), ("c:80", 1)]),
        ("strict, none near", here, balancer("Strict", "Node"), spread(), &[]),
        (
            "subzone, node, cluster",
            "locality: {subzone: s}, node: n1, clusterId: c1",
            balancer("Strict", "Subzone, Node, Cluster"),
            vec![
                plain("a", ", locality: {subzone: s}, node: n1, clusterId: c1"),
                plain("b", ", locality: {subzone: s}, node: n1, clusterId: c2"),
                plain("c", ", locality: {subzone: s}, node: n2, clusterId: c1"),
                plain("d", ", locality: {subzone: t}, node: n1, clusterId: c1"),
            ],
            &[("a:80", 1)],
        ),
        (
            "no capacity in the best rank is not made up for by the next",
            here,
            balancer("Failover", "Zone"),
            vec![
                plain("a", ", capacity: 0, locality: {zone: z1}"),
                plain("b", ", locality: {zone: z2}"),
            ],
            &[],
        ),
    ];
    for (name, client, service, endpoints, expected) in table {
        let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
        let expected = expected.iter().map(|(key, count)| ((*key).to_owned(), *count)).collect();
        assert_eq!(choices(client, &service, &endpoints), Ok(expected), "{name}");
    }
}

#[test]
fn address_of_the_endpoint() {
    for (addresses, families, requested, expected) in [
        ("[10.0.0.1]", "Dual", "10.1.0.1", Some("10.0.0.1")),
        ("[10.0.0.1]", "Dual", "fd00::1", Some("10.0.0.1")),
        ("[10.0.0.1, 'fd00::1']", "Dual", "fd00::9", Some("fd00::1")),
        ("['fd00::1', 10.0.0.1]", "Dual", "10.1.0.1", Some("10.0.0.1")),
        ("[10.0.0.1, 'fd00::1']", "IPv4", "fd00::9", Some("10.0.0.1")),
        ("[10.0.0.1, 'fd00::1']", "IPv6", "10.1.0.1", Some("fd00::1")),
        ("[10.0.0.1, 'fd00::1']", "IPv6", "10.0.0.1", Some("10.0.0.1")),
        ("[10.0.0.1]", "IPv6", "10.1.0.1", None),
        ("[]", "Dual", "10.1.0.1", None),
    ] {
        let yaml = format!(
            "{{workloads: [{{uid: u, namespace: n, workloadIps: {addresses}}}],
               services: [{{namespace: n, hostname: s, ipFamilies: {families}}}]}}"
        );
        let config = local::load(&yaml).unwrap();
        let chosen = address(&config.workloads[0], Some(&config.services[0]), requested.parse().unwrap());
        let expected: Option<IpAddr> = expected.map(|ip| ip.parse().unwrap());
        assert_eq!(chosen, expected, "{addresses} {families} {requested}");
    }
}
