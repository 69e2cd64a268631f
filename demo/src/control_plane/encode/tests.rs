use prost::Message;
use xds::Store;
use xds::decode::Decoder;
use xds::local::{self, LocalConfig};
use xds::proto::discovery::{DeltaDiscoveryResponse, Resource};
use xds::proto::workload::address::Type;
use xds::proto::{ADDRESS, AUTHORIZATION};

use super::*;

const EVERYTHING: &str = r#"
workloads:
- uid: Kubernetes//Pod/shop/db-1
  name: db-1
  namespace: shop
  serviceAccount: db
  trustDomain: td.example
  workloadIps: [10.77.0.2, "fd00:77::2"]
  hostname: db-1.example.com
  network: net
  protocol: HBONE
  networkMode: HostNetwork
  waypoint: {destination: shop/waypoint.shop, hboneMtlsPort: 15008}
  networkGateway: {destination: net/10.0.0.9, hboneMtlsPort: 15009}
  node: node-b
  workloadName: db
  workloadType: cronjob
  canonicalName: db
  canonicalRevision: v1
  nativeTunnel: true
  applicationTunnel: {protocol: PROXY, port: 1234}
  authorizationPolicies: [shop/db-from-web, istio-system/istio_converted_static_strict]
  status: Unhealthy
  clusterId: other
  locality: {region: eu, zone: eu-2, subzone: s}
  services:
    shop/db-headless.shop.svc.cluster.local: {5432: 0}
    shop/db.shop.svc.cluster.local: {5432: 6543}
  capacity: 7
services:
- name: db
  namespace: shop
  hostname: db.shop.svc.cluster.local
  vips: [net/10.96.0.11, "net/fd00:96::11"]
  cidrVips: [{network: net, cidr: 10.97.0.0/24}]
  ports: {5432: 6543, 80: 0}
  subjectAltNames: [spiffe://td.example/ns/shop/sa/db]
  waypoint: {destination: /10.0.0.9, hboneMtlsPort: 15008}
  weightedWaypoints: [{destination: {destination: shop/wp.shop, hboneMtlsPort: 15008}, weight: 3}]
  loadBalancer: {routingPreferences: [Network, Region, Zone, Subzone, Node, Cluster], mode: Failover, healthPolicy: AllowAll}
  ipFamilies: Dual
  canonical: true
  visibility: Namespace
policies:
- name: p
  namespace: shop
  scope: WorkloadSelector
  action: Deny
  dryRun: true
  rules:
  - - - {}
      - namespaces: [Prefix: ops-]
        notNamespaces: [Suffix: -x]
        serviceAccounts: [{namespace: shop, serviceAccount: web}]
        notServiceAccounts: [{namespace: shop, serviceAccount: evil}]
        principals: [Exact: cluster.local/ns/shop/sa/web]
        notPrincipals: [Presence: []]
        sourceIps: [203.0.113.0/24]
        notSourceIps: [10.0.0.0/16]
        destinationIps: ["fd00::/8"]
        notDestinationIps: [10.1.2.3/32]
        destinationPorts: [5432]
        notDestinationPorts: [22]
    - []
"#;

fn everything() -> LocalConfig {
    local::load(EVERYTHING).expect("a configuration")
}

#[test]
fn a_workload_says_everything() {
    let message = workload(&everything().workloads[0]);
    let Some(Type::Workload(workload)) = message.r#type else { panic!("a workload") };
    let gateway = |port, destination| {
        Some(workload::GatewayAddress { hbone_mtls_port: port, destination: Some(destination) })
    };
    let port = |service_port, target_port| workload::PortList {
        ports: vec![workload::Port { service_port, target_port, app_protocol: 0 }],
    };
    use workload::gateway_address::Destination;
    let expected = workload::Workload {
        uid: "Kubernetes//Pod/shop/db-1".to_owned(),
        name: "db-1".to_owned(),
        namespace: "shop".to_owned(),
        // The bytes of the recordings: `Ck0AAg==` and `/QAAdwAAAAAAAAAAAAAAAg==`.
        addresses: vec![vec![10, 77, 0, 2], vec![0xfd, 0, 0, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]],
        hostname: "db-1.example.com".to_owned(),
        network: "net".to_owned(),
        tunnel_protocol: workload::TunnelProtocol::Hbone.into(),
        trust_domain: "td.example".to_owned(),
        service_account: "db".to_owned(),
        waypoint: gateway(
            15008,
            Destination::Hostname(workload::NamespacedHostname {
                namespace: "shop".to_owned(),
                hostname: "waypoint.shop".to_owned(),
            }),
        ),
        network_gateway: gateway(
            15009,
            Destination::Address(workload::NetworkAddress {
                network: "net".to_owned(),
                address: vec![10, 0, 0, 9],
                length: None,
            }),
        ),
        node: "node-b".to_owned(),
        canonical_name: "db".to_owned(),
        canonical_revision: "v1".to_owned(),
        workload_type: workload::WorkloadType::Cronjob.into(),
        workload_name: "db".to_owned(),
        native_tunnel: true,
        application_tunnel: Some(workload::ApplicationTunnel {
            protocol: workload::application_tunnel::Protocol::Proxy.into(),
            port: 1234,
        }),
        services: [
            ("shop/db-headless.shop.svc.cluster.local".to_owned(), port(5432, 0)),
            ("shop/db.shop.svc.cluster.local".to_owned(), port(5432, 6543)),
        ]
        .into(),
        authorization_policies: vec![
            "shop/db-from-web".to_owned(),
            "istio-system/istio_converted_static_strict".to_owned(),
        ],
        status: workload::WorkloadStatus::Unhealthy.into(),
        cluster_id: "other".to_owned(),
        locality: Some(workload::Locality {
            region: "eu".to_owned(),
            zone: "eu-2".to_owned(),
            subzone: "s".to_owned(),
        }),
        network_mode: workload::NetworkMode::HostNetwork.into(),
        extensions: Vec::new(),
        capacity: Some(7),
    };
    assert_eq!(workload, expected);
}

#[test]
fn what_has_its_default_is_left_out() {
    let config = local::load("workloads: [{uid: u, namespace: n}]\nservices: [{namespace: n, hostname: h}]")
        .expect("a configuration");
    let Some(Type::Workload(message)) = workload(&config.workloads[0]).r#type else { panic!("a workload") };
    let expected = workload::Workload {
        uid: "u".to_owned(),
        namespace: "n".to_owned(),
        cluster_id: "Kubernetes".to_owned(),
        ..workload::Workload::default()
    };
    assert_eq!(message, expected);
    let Some(Type::Service(message)) = service(&config.services[0]).r#type else { panic!("a service") };
    let expected = workload::Service {
        namespace: "n".to_owned(),
        hostname: "h".to_owned(),
        ..workload::Service::default()
    };
    assert_eq!(message, expected);
}

#[test]
fn a_service_says_everything() {
    let Some(Type::Service(service)) = service(&everything().services[0]).r#type else { panic!("a service") };
    let lengths: Vec<_> = service.addresses.iter().map(|address| address.length).collect();
    assert_eq!(lengths, [None, None, Some(24)]);
    assert_eq!(service.addresses[2].address, [10, 97, 0, 0]);
    assert!(service.addresses.iter().all(|address| address.network == "net"));
    let ports: Vec<_> = service.ports.iter().map(|port| (port.service_port, port.target_port)).collect();
    assert_eq!(ports, [(80, 0), (5432, 6543)]);
    assert_eq!(service.subject_alt_names, ["spiffe://td.example/ns/shop/sa/db"]);
    assert_eq!(service.waypoint.as_ref().map(|waypoint| waypoint.hbone_mtls_port), Some(15008));
    assert_eq!(service.weighted_waypoints.iter().map(|waypoint| waypoint.weight).sum::<u32>(), 3);
    let balancing = service.load_balancing.as_ref().expect("load balancing");
    // NETWORK, REGION, ZONE, SUBZONE, NODE, CLUSTER; FAILOVER; ALLOW_ALL.
    assert_eq!(balancing.routing_preference, [6, 1, 2, 3, 4, 5]);
    assert_eq!((balancing.mode, balancing.health_policy), (2, 1));
    assert_eq!(service.ip_families(), workload::IpFamilies::Dual);
    assert_eq!(service.visibility(), workload::service::Visibility::Namespace);
    assert!(service.canonical);
}

#[test]
fn a_policy_says_everything() {
    let policy = authorization(&everything().policies[0]);
    assert_eq!((&*policy.name, &*policy.namespace, policy.dry_run), ("p", "shop", true));
    assert_eq!(policy.scope(), security::Scope::WorkloadSelector);
    assert_eq!(policy.action(), security::Action::Deny);
    let [rule] = &policy.rules[..] else { panic!("one rule") };
    let [clause, empty] = &rule.clauses[..] else { panic!("two clauses") };
    assert!(empty.matches.is_empty());
    let text = |match_type| vec![security::StringMatch { match_type: Some(match_type) }];
    use security::string_match::MatchType::{Exact, Prefix, Presence, Suffix};
    let account = |name: &str| {
        let (namespace, service_account) = ("shop".to_owned(), name.to_owned());
        vec![security::ServiceAccountMatch { namespace, service_account }]
    };
    let range = |address: Vec<u8>, length| vec![security::Address { address, length }];
    let mut net = vec![0xfd];
    net.resize(16, 0);
    let expected = security::Match {
        namespaces: text(Prefix("ops-".to_owned())),
        not_namespaces: text(Suffix("-x".to_owned())),
        service_accounts: account("web"),
        not_service_accounts: account("evil"),
        principals: text(Exact("cluster.local/ns/shop/sa/web".to_owned())),
        not_principals: text(Presence(())),
        source_ips: range(vec![203, 0, 113, 0], 24),
        not_source_ips: range(vec![10, 0, 0, 0], 16),
        destination_ips: range(net, 8),
        not_destination_ips: range(vec![10, 1, 2, 3], 32),
        destination_ports: vec![5432],
        not_destination_ports: vec![22],
        extensions: Vec::new(),
    };
    assert_eq!(clause.matches, [security::Match::default(), expected]);
}

#[test]
fn the_proxy_decodes_what_was_meant() {
    let LocalConfig { workloads, services, policies } = everything();
    let resource = |name: &str, type_url: &str, value: Vec<u8>| Resource {
        name: name.to_owned(),
        resource: Some(prost_types::Any { type_url: type_url.to_owned(), value }),
        ..Resource::default()
    };
    let addresses = vec![
        resource(&workloads[0].uid, ADDRESS, workload(&workloads[0]).encode_to_vec()),
        resource(&services[0].key().to_string(), ADDRESS, service(&services[0]).encode_to_vec()),
    ];
    let rules = vec![resource(policies[0].key(), AUTHORIZATION, authorization(&policies[0]).encode_to_vec())];
    let (mut decoder, store) = (Decoder::default(), Store::new());
    for (type_url, resources) in [(ADDRESS, addresses), (AUTHORIZATION, rules)] {
        let type_url = type_url.to_owned();
        let decoded = decoder.decode(DeltaDiscoveryResponse {
            type_url,
            resources,
            ..DeltaDiscoveryResponse::default()
        });
        assert_eq!(decoded.complaints, []);
        store.update(|edit| decoded.update.apply(edit));
    }
    let snapshot = store.load();
    assert_eq!(snapshot.workloads().map(|workload| &**workload).collect::<Vec<_>>(), [&workloads[0]]);
    assert_eq!(snapshot.services().map(|service| &**service).collect::<Vec<_>>(), [&services[0]]);
    assert_eq!(snapshot.policies().map(|policy| &**policy).collect::<Vec<_>>(), [&policies[0]]);
}
