use xds::resource::NetworkCidr;
use xds::{NetworkAddress, Store, local};

use super::*;

const MESH: &str = "
services:
- {namespace: shop, hostname: web, vips: [/10.1.0.1], ports: {80: 8080}, subjectAltNames: ['spiffe://td/ns/shop/sa/web']}
- {namespace: shop, hostname: through-waypoint, vips: [/10.1.0.2], ports: {80: 80}, waypoint: {destination: shop/waypoint, hboneMtlsPort: 15008}}
- namespace: shop
  hostname: through-weighted
  vips: [/10.1.0.3]
  ports: {80: 80}
  weightedWaypoints: [{destination: {destination: shop/waypoint, hboneMtlsPort: 15008}, weight: 1}]
- {namespace: shop, hostname: through-unknown, vips: [/10.1.0.4], ports: {80: 80}, waypoint: {destination: shop/gone, hboneMtlsPort: 15008}}
- {namespace: shop, hostname: passthrough, vips: [/10.1.0.5, /10.0.0.4, /10.0.0.5], loadBalancer: {mode: Passthrough}}
- {namespace: shop, hostname: empty, vips: [/10.1.0.6], ports: {80: 80}}
- {namespace: shop, hostname: far, vips: [/10.1.0.7], ports: {80: 80}}
- {namespace: shop, hostname: far-closed, vips: [/10.1.0.8], ports: {80: 80}}
- {namespace: shop, hostname: by-name, vips: [/10.1.0.9], ports: {80: 80}}
- {namespace: shop, hostname: six, vips: [/10.1.0.10], ports: {80: 80}, ipFamilies: IPv6}
- {namespace: shop, hostname: of-pod-with-waypoint, vips: [/10.1.0.11], ports: {80: 80}}
- {namespace: shop, hostname: secret, vips: [/10.1.0.12], ports: {80: 80}, visibility: Namespace}
- {namespace: shop, hostname: plain, vips: [/10.1.0.13], ports: {80: 81}}
- {namespace: shop, hostname: strict, vips: [/10.1.0.15], ports: {80: 80}, loadBalancer: {mode: Strict, routingPreferences: [Zone]}}
- {namespace: shop, hostname: strict-far, vips: [/10.1.0.16], ports: {80: 80}, loadBalancer: {mode: Strict, routingPreferences: [Zone]}}
- {namespace: shop, hostname: failover, vips: [/10.1.0.17], ports: {80: 80}, loadBalancer: {mode: Failover, routingPreferences: [Region, Zone]}}
- {namespace: shop, hostname: unready, vips: [/10.1.0.18], ports: {80: 80}}
- {namespace: shop, hostname: unready-too, vips: [/10.1.0.19], ports: {80: 80}, loadBalancer: {healthPolicy: AllowAll}}
- {namespace: shop, hostname: weighted, vips: [/10.1.0.20], ports: {80: 80}}
- {namespace: shop, hostname: dual, vips: [/10.1.0.21, '/fd01::21'], ports: {80: 80}}
- {namespace: shop, hostname: headless, ports: {80: 80}}
- {namespace: shop, hostname: waypoint}
- {namespace: shop, hostname: host-net, vips: [/10.1.0.14], ports: {80: 80}}
workloads:
- {uid: client, namespace: apps, workloadIps: [10.0.0.100], protocol: HBONE, locality: {region: r1, zone: z1}}
- {uid: waypoint, namespace: shop, serviceAccount: wp, workloadIps: [10.0.0.99], services: {shop/waypoint: {15008: 15008}}}
- {uid: web, namespace: shop, serviceAccount: web, workloadIps: [10.0.0.1, 'fd00::1'], protocol: HBONE, services: {shop/web: {}}}
- uid: guarded
  namespace: shop
  workloadIps: [10.0.0.2]
  protocol: HBONE
  waypoint: {destination: shop/waypoint, hboneMtlsPort: 15008}
  services: {shop/of-pod-with-waypoint: {}}
- {uid: guarded-by-address, namespace: shop, workloadIps: [10.0.0.3], protocol: HBONE, waypoint: {destination: /10.0.0.99, hboneMtlsPort: 15008}}
- {uid: passed, namespace: shop, workloadIps: [10.0.0.4], protocol: HBONE}
- {uid: passed-guarded, namespace: shop, workloadIps: [10.0.0.5], waypoint: {destination: shop/waypoint, hboneMtlsPort: 15008}}
- {uid: plain, namespace: shop, workloadIps: [10.0.0.6], services: {shop/plain: {}}}
- {uid: far, namespace: shop, network: far, services: {shop/far: {}}, networkGateway: {destination: far/10.9.0.1, hboneMtlsPort: 15008}}
- {uid: far-closed, namespace: shop, network: far, workloadIps: [10.0.0.7], services: {shop/far-closed: {}}}
- {uid: by-name, namespace: shop, hostname: example.com, services: {shop/by-name: {}}}
- {uid: four, namespace: shop, workloadIps: [10.0.0.8], services: {shop/six: {}}}
- {uid: node, namespace: shop, workloadIps: [10.0.0.9], networkMode: HostNetwork, services: {shop/host-net: {}}}
- {uid: near, namespace: shop, workloadIps: [10.0.1.1], locality: {region: r1, zone: z1}, services: {shop/strict: {}, shop/failover: {}}}
- {uid: away, namespace: shop, workloadIps: [10.0.1.2], locality: {region: r1, zone: z2}, services: {shop/strict: {}, shop/strict-far: {}, shop/failover: {}}}
- {uid: sick, namespace: shop, workloadIps: [10.0.1.3], status: Unhealthy, services: {shop/unready: {}, shop/unready-too: {}}}
- {uid: weightless, namespace: shop, workloadIps: [10.0.1.4], capacity: 0, services: {shop/weighted: {}}}
- {uid: weighty, namespace: shop, workloadIps: [10.0.1.5], capacity: 5, services: {shop/weighted: {}}}
- {uid: double, namespace: shop, workloadIps: [10.0.1.6, 'fd00::6'], services: {shop/dual: {}, shop/headless: {}}}
- {uid: nowhere, namespace: shop, services: {shop/empty: {}}}
";

fn tombstone(name: &str, addresses: &[&str], ranges: &[&str]) -> Tombstone {
    Tombstone {
        name: name.into(),
        reason: "unknown tunnel protocol 7".into(),
        addresses: addresses.iter().map(|ip| NetworkAddress::new("", ip.parse().unwrap())).collect(),
        ranges: ranges.iter().map(|range| NetworkCidr::new("", range.parse().unwrap())).collect(),
    }
}

fn decide(source: &str, requested: &str) -> String {
    let config = local::load(MESH).unwrap();
    let store = Store::new();
    store.update(|edit| {
        config.apply(edit);
        // As the decoder leaves them.
        edit.refuse_address(tombstone("newer", &["10.2.0.1", "10.0.0.1", "10.1.0.1"], &["10.3.0.0/16"]));
    });
    let snapshot = store.load();
    let source = snapshot.workload_by_uid(source).unwrap();
    let proxy = LocalProxy { network: "", hbone_port: 15008, reserved_ports: &LocalProxy::CAPTURE_PORTS };
    let described = |destination: &Destination| {
        let workload = destination.workload.as_ref().map_or("-", |workload| &workload.uid);
        let service = destination.service.as_ref().map_or("-", |service| &service.hostname);
        format!("{workload} of {service}")
    };
    match outbound(&snapshot, &proxy, source, requested.parse().unwrap(), &mut |_| 0) {
        Route::Direct { address, destination } => format!("direct {address} ({})", described(&destination)),
        Route::Tunnel(TunnelRoute { address, authority, expected, destination }) => {
            let expected: Vec<_> = expected.iter().map(Identity::to_string).collect();
            let expected = expected.join(" ");
            format!("tunnel {address} for {authority} by {expected} ({})", described(&destination))
        }
        Route::Refused(error) => format!("refused: {error}"),
    }
}

#[test]
fn decision_table() {
    for (name, source, requested, expected) in [
        // Ourselves.
        ("loopback, own port", "client", "127.0.0.1:15008", "refused: attempted recursive call to ourselves"),
        ("loopback in IPv6", "client", "[::1]:15001", "refused: attempted recursive call to ourselves"),
        (
            "mapped loopback",
            "client",
            "[::ffff:127.0.0.1]:15006",
            "refused: attempted recursive call to ourselves",
        ),
        ("loopback, another port", "client", "127.0.0.1:80", "direct 127.0.0.1:80 (- of -)"),
        // Services.
        (
            "waypoint of a service",
            "client",
            "10.1.0.2:80",
            "refused: unsupported feature: waypoint of shop/through-waypoint",
        ),
        (
            "weighted waypoints",
            "client",
            "10.1.0.3:80",
            "refused: unsupported feature: waypoint of shop/through-weighted",
        ),
        (
            "unknown waypoint",
            "client",
            "10.1.0.4:80",
            "refused: unsupported feature: waypoint of shop/through-unknown",
        ),
        ("passthrough", "client", "10.1.0.5:9", "direct 10.1.0.5:9 (- of -)"),
        ("no endpoint", "client", "10.1.0.6:80", "refused: no healthy upstream: 10.1.0.6:80"),
        ("port not of the service", "client", "10.1.0.1:81", "refused: no healthy upstream: 10.1.0.1:81"),
        ("nothing known", "client", "192.0.2.1:443", "direct 192.0.2.1:443 (- of -)"),
        (
            "a refused resource",
            "client",
            "10.2.0.1:80",
            "refused: the control plane sent a resource for this address that cannot be used: newer: unknown tunnel protocol 7",
        ),
        (
            "a refused resource, mapped",
            "client",
            "[::ffff:10.2.0.1]:80",
            "refused: the control plane sent a resource for this address that cannot be used: newer: unknown tunnel protocol 7",
        ),
        (
            "the range of a refused resource",
            "client",
            "10.3.4.5:80",
            "refused: the control plane sent a resource for this address that cannot be used: newer: unknown tunnel protocol 7",
        ),
        ("not visible is not known", "client", "10.1.0.12:80", "direct 10.1.0.12:80 (- of -)"),
        // Other networks.
        (
            "behind a gateway",
            "client",
            "10.1.0.7:80",
            "refused: unsupported feature: network gateway far/10.9.0.1:15008 to workload far",
        ),
        (
            "without a gateway",
            "client",
            "10.1.0.8:80",
            "refused: no valid routing destination for workload: far-closed",
        ),
        ("pod of another network by address", "client", "10.0.0.7:80", "direct 10.0.0.7:80 (- of -)"),
        // Waypoints of workloads.
        ("pod with a waypoint", "client", "10.0.0.2:80", "refused: unsupported feature: waypoint of guarded"),
        (
            "waypoint by address",
            "client",
            "10.0.0.3:80",
            "refused: unsupported feature: waypoint of guarded-by-address",
        ),
        (
            "the waypoint itself",
            "waypoint",
            "10.0.0.2:80",
            "tunnel 10.0.0.2:15008 for 10.0.0.2:80 by spiffe://cluster.local/ns/shop/sa/default (guarded of -)",
        ),
        (
            "the waypoint itself, by address",
            "waypoint",
            "10.0.0.3:80",
            "tunnel 10.0.0.3:15008 for 10.0.0.3:80 by spiffe://cluster.local/ns/shop/sa/default (guarded-by-address of -)",
        ),
        (
            "a service does not pass the waypoint of its pod",
            "client",
            "10.1.0.11:80",
            "tunnel 10.0.0.2:15008 for 10.0.0.2:80 by spiffe://cluster.local/ns/shop/sa/default (guarded of of-pod-with-waypoint)",
        ),
        // An address that is both a pod's and a service's.
        ("passthrough over a pod", "client", "10.0.0.4:80", "direct 10.0.0.4:80 (- of -)"),
        (
            "passthrough over a pod with a waypoint",
            "client",
            "10.0.0.5:80",
            "refused: unsupported feature: waypoint of passed-guarded",
        ),
        // Endpoints.
        (
            "in the mesh by service",
            "client",
            "10.1.0.1:80",
            "tunnel 10.0.0.1:15008 for 10.0.0.1:8080 by spiffe://cluster.local/ns/shop/sa/web spiffe://td/ns/shop/sa/web (web of web)",
        ),
        (
            "in the mesh by address",
            "client",
            "[fd00::1]:9",
            "tunnel [fd00::1]:15008 for [fd00::1]:9 by spiffe://cluster.local/ns/shop/sa/web (web of -)",
        ),
        ("outside by service", "client", "10.1.0.13:80", "direct 10.0.0.6:81 (plain of plain)"),
        ("outside by address", "client", "10.0.0.6:9", "direct 10.0.0.6:9 (plain of -)"),
        ("host network by service", "client", "10.1.0.14:80", "direct 10.0.0.9:80 (node of host-net)"),
        ("host network by address", "client", "10.0.0.9:80", "direct 10.0.0.9:80 (- of -)"),
        // Which endpoint: `xds::upstream` has the whole table.
        ("strict", "client", "10.1.0.15:80", "direct 10.0.1.1:80 (near of strict)"),
        ("strict, none near", "client", "10.1.0.16:80", "refused: no healthy upstream: 10.1.0.16:80"),
        ("failover, near", "client", "10.1.0.17:80", "direct 10.0.1.1:80 (near of failover)"),
        ("failover, from elsewhere", "waypoint", "10.1.0.17:80", "direct 10.0.1.2:80 (away of failover)"),
        ("unready", "client", "10.1.0.18:80", "refused: no healthy upstream: 10.1.0.18:80"),
        ("unready by its own address", "client", "10.0.1.3:80", "direct 10.0.1.3:80 (sick of -)"),
        (
            "unready, but all are allowed",
            "client",
            "10.1.0.19:80",
            "direct 10.0.1.3:80 (sick of unready-too)",
        ),
        ("without weight", "client", "10.1.0.20:80", "direct 10.0.1.5:80 (weighty of weighted)"),
        ("dual stack, IPv4", "client", "10.1.0.21:80", "direct 10.0.1.6:80 (double of dual)"),
        ("dual stack, IPv6", "client", "[fd01::21]:80", "direct [fd00::6]:80 (double of dual)"),
        (
            "headless: the application calls the pod",
            "client",
            "10.0.1.6:81",
            "direct 10.0.1.6:81 (double of -)",
        ),
        (
            "by hostname",
            "client",
            "10.1.0.9:80",
            "refused: unsupported feature: address of workload by-name by hostname example.com",
        ),
        (
            "no address of the family",
            "client",
            "10.1.0.10:80",
            "refused: no valid routing destination for workload: four",
        ),
    ] {
        assert_eq!(decide(source, requested), expected, "{name}");
    }
}
