//! Typed resources as protobuf JSON: a field that has its default is left out, bytes are base64.

use std::net::IpAddr;

use crate::resource::{
    Action, ApplicationProtocol, Clause, GatewayAddress, GatewayDestination, HealthPolicy, HealthStatus,
    IpFamilies, IpNet, LoadBalancerMode, Match, NetworkMode, PortMap, RoutingScope, Rule, Scope,
    ServiceAccountMatch, StringMatch, TunnelProtocol, Visibility, WorkloadType,
};
use crate::{Authorization, AuthorizationSpec, Service, ServiceSpec, Workload, WorkloadSpec};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

pub(super) fn workload(workload: &Workload) -> Value {
    let WorkloadSpec {
        uid,
        name,
        namespace,
        service_account,
        trust_domain,
        addresses,
        hostname,
        network,
        tunnel_protocol,
        network_mode,
        waypoint,
        network_gateway,
        node,
        workload_name,
        workload_type,
        canonical_name,
        canonical_revision,
        native_tunnel,
        application_tunnel,
        authorization_policies,
        status,
        cluster_id,
        locality,
        services,
        capacity,
    } = &**workload;
    let services: Map<String, Value> = services
        .iter()
        .map(|(service, map)| (service.to_string(), message([("ports", ports(map))])))
        .collect();
    message([
        ("uid", json!(uid)),
        ("name", json!(name)),
        ("namespace", json!(namespace)),
        ("serviceAccount", json!(service_account)),
        ("trustDomain", json!(trust_domain)),
        ("addresses", addresses.iter().copied().map(ip).collect()),
        ("hostname", json!(hostname)),
        ("network", json!(network)),
        (
            "tunnelProtocol",
            match tunnel_protocol {
                TunnelProtocol::None => Value::Null,
                TunnelProtocol::Hbone => json!("HBONE"),
            },
        ),
        (
            "networkMode",
            match network_mode {
                NetworkMode::Standard => Value::Null,
                NetworkMode::HostNetwork => json!("HOST_NETWORK"),
            },
        ),
        ("waypoint", waypoint.as_ref().map_or(Value::Null, gateway)),
        ("networkGateway", network_gateway.as_ref().map_or(Value::Null, gateway)),
        ("node", json!(node)),
        ("workloadName", json!(workload_name)),
        (
            "workloadType",
            match workload_type {
                WorkloadType::Deployment => Value::Null,
                WorkloadType::CronJob => json!("CRONJOB"),
                WorkloadType::Pod => json!("POD"),
                WorkloadType::Job => json!("JOB"),
            },
        ),
        ("canonicalName", json!(canonical_name)),
        ("canonicalRevision", json!(canonical_revision)),
        ("nativeTunnel", json!(native_tunnel)),
        (
            "applicationTunnel",
            application_tunnel.as_ref().map_or(Value::Null, |tunnel| {
                let protocol = match tunnel.protocol {
                    ApplicationProtocol::None => Value::Null,
                    ApplicationProtocol::Proxy => json!("PROXY"),
                };
                message([("protocol", protocol), ("port", json!(tunnel.port.unwrap_or(0)))])
            }),
        ),
        ("authorizationPolicies", json!(authorization_policies)),
        (
            "status",
            match status {
                HealthStatus::Healthy => Value::Null,
                HealthStatus::Unhealthy => json!("UNHEALTHY"),
            },
        ),
        ("clusterId", json!(cluster_id)),
        (
            "locality",
            message([
                ("region", json!(locality.region)),
                ("zone", json!(locality.zone)),
                ("subzone", json!(locality.subzone)),
            ]),
        ),
        ("services", services.into()),
        ("capacity", if *capacity == 1 { Value::Null } else { json!(capacity) }),
    ])
}

pub(super) fn service(service: &Service) -> Value {
    let ServiceSpec {
        name,
        namespace,
        hostname,
        vips,
        cidr_vips,
        ports: map,
        subject_alt_names,
        waypoint,
        weighted_waypoints,
        load_balancer,
        ip_families,
        canonical,
        visibility,
    } = &**service;
    let vips =
        vips.iter().map(|vip| message([("network", json!(vip.network())), ("address", ip(vip.address()))]));
    let ranges = cidr_vips.iter().map(|range| {
        let length = json!(range.cidr().prefix_len());
        message([
            ("network", json!(range.network())),
            ("address", ip(range.cidr().addr())),
            ("length", length),
        ])
    });
    let weighted = weighted_waypoints.iter().map(|waypoint| {
        message([("destination", gateway(&waypoint.destination)), ("weight", json!(waypoint.weight))])
    });
    let load_balancing = load_balancer.as_ref().map_or(Value::Null, |balancer| {
        let mode = match balancer.mode {
            LoadBalancerMode::Standard => Value::Null,
            LoadBalancerMode::Strict => json!("STRICT"),
            LoadBalancerMode::Failover => json!("FAILOVER"),
            LoadBalancerMode::Passthrough => json!("PASSTHROUGH"),
        };
        let health_policy = match balancer.health_policy {
            HealthPolicy::OnlyHealthy => Value::Null,
            HealthPolicy::AllowAll => json!("ALLOW_ALL"),
        };
        let scope = |scope: &RoutingScope| match scope {
            RoutingScope::Region => "REGION",
            RoutingScope::Zone => "ZONE",
            RoutingScope::Subzone => "SUBZONE",
            RoutingScope::Node => "NODE",
            RoutingScope::Cluster => "CLUSTER",
            RoutingScope::Network => "NETWORK",
        };
        message([
            ("routingPreference", balancer.routing_preferences.iter().map(scope).collect()),
            ("mode", mode),
            ("healthPolicy", health_policy),
        ])
    });
    message([
        ("name", json!(name)),
        ("namespace", json!(namespace)),
        ("hostname", json!(hostname)),
        ("addresses", vips.chain(ranges).collect()),
        ("ports", ports(map)),
        ("subjectAltNames", json!(subject_alt_names)),
        ("waypoint", waypoint.as_ref().map_or(Value::Null, gateway)),
        ("weightedWaypoints", weighted.collect()),
        ("loadBalancing", load_balancing),
        (
            "ipFamilies",
            match ip_families {
                None => Value::Null,
                Some(IpFamilies::Dual) => json!("DUAL"),
                Some(IpFamilies::Ipv4) => json!("IPV4_ONLY"),
                Some(IpFamilies::Ipv6) => json!("IPV6_ONLY"),
            },
        ),
        ("canonical", json!(canonical)),
        (
            "visibility",
            match visibility {
                Visibility::Public => Value::Null,
                Visibility::Namespace => json!("NAMESPACE"),
            },
        ),
    ])
}

/// Under istio's names: a rule is a `group`, a clause a `rule`.
pub(super) fn policy(policy: &Authorization) -> Value {
    let AuthorizationSpec { name, namespace, scope, action, rules, dry_run } = &**policy;
    message([
        ("name", json!(name)),
        ("namespace", json!(namespace)),
        (
            "scope",
            match scope {
                Scope::Global => Value::Null,
                Scope::Namespace => json!("NAMESPACE"),
                Scope::WorkloadSelector => json!("WORKLOAD_SELECTOR"),
            },
        ),
        (
            "action",
            match action {
                Action::Allow => Value::Null,
                Action::Deny => json!("DENY"),
            },
        ),
        ("groups", rules.iter().map(rule).collect()),
        ("dryRun", json!(dry_run)),
    ])
}

fn rule(rule: &Rule) -> Value {
    message([("rules", rule.clauses.iter().map(clause).collect())])
}

fn clause(clause: &Clause) -> Value {
    message([("matches", clause.matches.iter().map(one_match).collect())])
}

fn one_match(one: &Match) -> Value {
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
        unreadable,
    } = one;
    assert!(unreadable.is_empty(), "{unreadable:?}");
    let strings = |values: &[StringMatch]| values.iter().map(string).collect::<Value>();
    let ranges = |values: &[IpNet]| values.iter().map(range).collect::<Value>();
    let accounts = |values: &[ServiceAccountMatch]| {
        let account = |value: &ServiceAccountMatch| json!({ "namespace": value.namespace, "serviceAccount": value.service_account });
        values.iter().map(account).collect::<Value>()
    };
    message([
        ("namespaces", strings(namespaces)),
        ("notNamespaces", strings(not_namespaces)),
        ("serviceAccounts", accounts(service_accounts)),
        ("notServiceAccounts", accounts(not_service_accounts)),
        ("principals", strings(principals)),
        ("notPrincipals", strings(not_principals)),
        ("sourceIps", ranges(source_ips)),
        ("notSourceIps", ranges(not_source_ips)),
        ("destinationIps", ranges(destination_ips)),
        ("notDestinationIps", ranges(not_destination_ips)),
        ("destinationPorts", json!(destination_ports)),
        ("notDestinationPorts", json!(not_destination_ports)),
    ])
}

fn string(value: &StringMatch) -> Value {
    match value {
        StringMatch::Exact(text) => json!({ "exact": text }),
        StringMatch::Prefix(text) => json!({ "prefix": text }),
        StringMatch::Suffix(text) => json!({ "suffix": text }),
        StringMatch::Presence() => json!({ "presence": {} }),
    }
}

fn range(range: &IpNet) -> Value {
    message([("address", ip(range.addr())), ("length", json!(range.prefix_len()))])
}

fn gateway(gateway: &GatewayAddress) -> Value {
    let port = ("hboneMtlsPort", json!(gateway.hbone_mtls_port));
    match &gateway.destination {
        GatewayDestination::Address(address) => {
            let network = ("network", json!(address.network()));
            message([("address", message([network, ("address", ip(address.address()))])), port])
        }
        GatewayDestination::Hostname(name) => {
            let parts = json!({ "namespace": name.namespace(), "hostname": name.hostname() });
            message([("hostname", parts), port])
        }
    }
}

fn ports(ports: &PortMap) -> Value {
    let port = |(service, target)| message([("servicePort", json!(service)), ("targetPort", json!(target))]);
    ports.iter().map(port).collect()
}

fn ip(address: IpAddr) -> Value {
    json!(match address {
        IpAddr::V4(address) => STANDARD.encode(address.octets()),
        IpAddr::V6(address) => STANDARD.encode(address.octets()),
    })
}

/// A message without the fields that have their default.
fn message<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let is_set = |value: &Value| match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_u64() != Some(0),
        Value::String(text) => !text.is_empty(),
        Value::Array(values) => !values.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    };
    let set = fields.into_iter().filter(|(_, value)| is_set(value));
    Value::Object(set.map(|(field, value)| (field.to_owned(), value)).collect())
}
