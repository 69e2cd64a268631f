use xds::{Store, local};

use super::*;

const MESH: &str = "
services:
- {namespace: shop, hostname: web.shop, vips: [/10.1.0.1], ports: {80: 8080, 81: 0, 82: 15008}}
- {namespace: shop, hostname: other.shop, vips: [/10.1.0.2], ports: {443: 8443}, waypoint: {destination: shop/waypoint.shop, hboneMtlsPort: 15008}}
- {namespace: shop, hostname: waypoint.shop}
- {namespace: data, hostname: secret.data, ports: {80: 80}, visibility: Namespace}
workloads:
- {uid: web, namespace: shop, workloadIps: [10.0.0.1, 'fd00::1'], services: {shop/web.shop: {80: 9090}, shop/other.shop: {}}}
- {uid: web-by-service-port, namespace: shop, workloadIps: [10.0.0.2], services: {shop/web.shop: {}}}
- {uid: waypoint, namespace: shop, workloadIps: [10.0.0.3], services: {shop/waypoint.shop: {}}}
- {uid: guarded, namespace: shop, workloadIps: [10.0.0.4], waypoint: {destination: /10.0.0.3, hboneMtlsPort: 15008}}
- {uid: sandwich, namespace: shop, workloadIps: [10.0.0.5], applicationTunnel: {protocol: NONE, port: 15088}}
- {uid: proxy, namespace: shop, workloadIps: [10.0.0.6], applicationTunnel: {protocol: PROXY, port: 15088}}
- {uid: loop, namespace: shop, workloadIps: [10.0.0.7], applicationTunnel: {protocol: NONE, port: 15008}}
";

fn decide(local: &str, authority: &str) -> String {
    let config = local::load(MESH).unwrap();
    let store = Store::new();
    store.update(|edit| config.apply(edit));
    let snapshot = store.load();
    let local = snapshot.workload_by_uid(local).unwrap();
    let proxy = LocalProxy { network: "", hbone_port: 15008, reserved_ports: &LocalProxy::CAPTURE_PORTS };
    match inbound(&snapshot, &proxy, local, local.addresses[0], authority) {
        Ok(target) => {
            let service = target.service.map_or("-".into(), |service| service.hostname.clone());
            format!("{} ({service})", target.address)
        }
        Err(refusal) => format!("{} {refusal}", refusal.status()),
    }
}

#[test]
fn checks_of_a_connect_request() {
    for (name, local, authority, expected) in [
        ("own address", "web", "10.0.0.1:80", "10.0.0.1:80 (-)"),
        ("own address, mapped", "web", "[::ffff:10.0.0.1]:80", "10.0.0.1:80 (-)"),
        ("no authority", "web", "", "400 no valid authority pseudo header: "),
        ("no port", "web", "10.0.0.1", "400 no valid authority pseudo header: 10.0.0.1"),
        ("port 0", "web", "10.0.0.1:0", "400 no valid authority pseudo header: 10.0.0.1:0"),
        ("another pod", "web", "10.0.0.2:80", "400 ip mismatch: 10.0.0.1 != 10.0.0.2"),
        ("its other address", "web", "[fd00::1]:80", "400 ip mismatch: 10.0.0.1 != fd00::1"),
        ("the loopback of the proxy", "web", "127.0.0.1:15000", "400 ip mismatch: 10.0.0.1 != 127.0.0.1"),
        ("unknown address", "web", "192.0.2.1:80", "400 ip mismatch: 10.0.0.1 != 192.0.2.1"),
        ("a service it serves", "web", "10.1.0.1:80", "400 ip mismatch: 10.0.0.1 != 10.1.0.1"),
        ("waypoint of a service", "waypoint", "10.1.0.2:443", "10.0.0.3:443 (-)"),
        ("waypoint of a pod, by address", "waypoint", "10.0.0.4:80", "10.0.0.3:80 (-)"),
        (
            "a service of a waypoint that it is not",
            "web",
            "10.1.0.2:443",
            "400 ip mismatch: 10.0.0.1 != 10.1.0.2",
        ),
        ("a pod of a waypoint that it is not", "web", "10.0.0.4:80", "400 ip mismatch: 10.0.0.1 != 10.0.0.4"),
        ("waypoint of another service", "waypoint", "10.1.0.1:80", "400 ip mismatch: 10.0.0.3 != 10.1.0.1"),
        ("service by name, own port", "web", "web.shop:80", "10.0.0.1:9090 (web.shop)"),
        ("service by name, its port", "web-by-service-port", "web.shop:80", "10.0.0.2:8080 (web.shop)"),
        (
            "service by name, no such port",
            "web",
            "web.shop:99",
            "503 requested service web.shop:99 found, but cannot resolve port",
        ),
        (
            "service by name, named port",
            "web",
            "web.shop:81",
            "503 requested service web.shop:81 found, but cannot resolve port",
        ),
        ("unknown name", "web", "nobody.shop:80", "503 no service or workload for hostname: nobody.shop"),
        ("name not visible", "web", "secret.data:80", "503 no service or workload for hostname: secret.data"),
        ("port of the proxy", "web", "10.0.0.1:15008", "503 attempted recursive call to ourselves"),
        ("port of the proxy, outbound", "web", "10.0.0.1:15001", "503 attempted recursive call to ourselves"),
        ("port of the proxy by name", "web", "web.shop:82", "503 attempted recursive call to ourselves"),
        ("application tunnel without header", "sandwich", "10.0.0.5:80", "10.0.0.5:15088 (-)"),
        ("application tunnel judges the address itself", "sandwich", "192.0.2.1:80", "10.0.0.5:15088 (-)"),
        (
            "application tunnel, port of the proxy asked for",
            "sandwich",
            "10.0.0.5:15008",
            "503 attempted recursive call to ourselves",
        ),
        (
            "application tunnel into the proxy",
            "loop",
            "10.0.0.7:80",
            "503 attempted recursive call to ourselves",
        ),
        (
            "application tunnel with header",
            "proxy",
            "10.0.0.6:80",
            "503 unsupported feature: application tunnel PROXY of workload proxy",
        ),
    ] {
        assert_eq!(decide(local, authority), expected, "{name}");
    }
}

#[test]
fn which_service_a_connection_is_meant_for() {
    let config = local::load(MESH).unwrap();
    let store = Store::new();
    store.update(|edit| config.apply(edit));
    let snapshot = store.load();
    let web = snapshot.workload_by_uid("web").unwrap();
    for (port, named, expected) in [
        (9090, None, "web.shop"),
        (8080, None, "-"),
        (8443, None, "other.shop"),
        (9090, Some("other.shop"), "other.shop"),
        (9090, Some("waypoint.shop"), "web.shop"),
        (1, None, "-"),
    ] {
        let found = destination_service(&snapshot, web, port, named);
        assert_eq!(found.map_or("-", |service| &service.hostname), expected, "{port} {named:?}");
    }
}
