//! A mesh as large as wanted, shaped like one that people run: services of a few dozen endpoints, spread over nodes, zones
//! and namespaces, with policies of every scope and form. A function of the numbers alone: it is the same in each run.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use xds::resource::{
    Action, Clause, HealthPolicy, HealthStatus, LoadBalancer, LoadBalancerMode, Locality, Match, PortMap,
    RoutingScope, Rule, Scope, ServiceAccountMatch, StringMatch, TunnelProtocol,
};
use xds::{
    Authorization, AuthorizationSpec, NamespacedHostname, NetworkAddress, Service, ServiceSpec, Workload,
    WorkloadSpec,
};

/// How many there are of each kind. Each is made when it is asked for, by its number.
///
/// A workload is an endpoint of one service, and of its namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Population {
    /// Workloads, at most 2²⁴.
    pub workloads: usize,
    /// Services, at least 1 and at most 2²⁰.
    pub services: usize,
    /// Policies.
    pub policies: usize,
}

/// Workloads of a service, in the shape that people run.
pub const ENDPOINTS: usize = 20;
/// Workloads for one policy.
pub const WORKLOADS_OF_A_POLICY: usize = 100;
/// The port of every service.
pub const SERVICE_PORT: u16 = 80;

const NAMESPACES: usize = 50;
const NODES: usize = 100;
/// Region and zone.
const LOCALITIES: [(&str, &str); 4] = [
    ("europe-west1", "europe-west1-b"),
    ("europe-west1", "europe-west1-c"),
    ("us-east4", "us-east4-a"),
    ("us-east4", "us-east4-c"),
];
const APPLICATIONS: [&str; 8] =
    ["checkout", "inventory", "payments", "search", "ledger", "sessions", "mailer", "frontend"];

impl Population {
    /// A mesh of so many workloads with the services and policies that go with them.
    pub fn of(workloads: usize) -> Self {
        Self {
            workloads,
            services: workloads.div_ceil(ENDPOINTS),
            policies: workloads.div_ceil(WORKLOADS_OF_A_POLICY),
        }
    }

    /// A workload: a pod of a deployment. Every fourth has an IPv6 address too.
    pub fn workload(&self, number: usize, status: HealthStatus) -> Workload {
        let (service, replica) = (number % self.services, number / self.services);
        let (name, namespace) = (application(service), namespace(service));
        let pod = format!("{name}-{:08x}-{number:05x}", service.wrapping_mul(2_654_435_761) % (1 << 32));
        let (node, locality) = place(service * 7 + replica * 13);
        let mut addresses = vec![self.address(number)];
        if number.is_multiple_of(4) {
            addresses.push(Ipv6Addr::new(0xfd00, 0x10, 0, 0, 0, 0, high(number), low(number)).into());
        }
        let targets = PortMap::new("services", [(SERVICE_PORT.into(), 8080), (443, 8443)]);
        let spec = WorkloadSpec {
            uid: format!("Kubernetes//Pod/{namespace}/{pod}").into(),
            name: pod.into(),
            namespace: namespace.into(),
            service_account: name.clone().into(),
            trust_domain: "cluster.local".into(),
            addresses,
            tunnel_protocol: TunnelProtocol::Hbone,
            node: node.into(),
            workload_name: name.clone().into(),
            canonical_name: name.into(),
            canonical_revision: format!("v{}", 1 + replica % 2).into(),
            authorization_policies: self.policies_of(service).collect(),
            status,
            locality,
            services: [(key(service), targets.expect("ports"))].into_iter().collect(),
            ..WorkloadSpec::default()
        };
        Workload::new(spec).expect("names that make an identity")
    }

    /// The IPv4 address of a workload.
    pub fn address(&self, number: usize) -> IpAddr {
        Ipv4Addr::from(0x0a00_0001 + number as u32).into()
    }

    /// A service with one address. Every third prefers endpoints near the client.
    pub fn service(&self, number: usize) -> Service {
        let near = LoadBalancer {
            routing_preferences: vec![RoutingScope::Network, RoutingScope::Region, RoutingScope::Zone],
            mode: LoadBalancerMode::Failover,
            health_policy: HealthPolicy::OnlyHealthy,
        };
        let spec = ServiceSpec {
            name: application(number).into(),
            namespace: namespace(number).into(),
            hostname: hostname(number).into(),
            vips: vec![NetworkAddress::new("", self.vip(number))],
            ports: PortMap::new("ports", [(SERVICE_PORT.into(), 8080), (443, 8443)]).expect("ports"),
            load_balancer: number.is_multiple_of(3).then_some(near),
            canonical: true,
            ..ServiceSpec::default()
        };
        Service::new(spec).expect("a hostname")
    }

    /// The address of a service.
    pub fn vip(&self, number: usize) -> IpAddr {
        Ipv4Addr::from(0xac10_0001 + number as u32).into()
    }

    /// A policy: one of 200 is global, every fifth for a namespace, the others for the workloads of one service.
    pub fn policy(&self, number: usize) -> Authorization {
        let scope = scope(number);
        let (action, rules, dry_run) = match scope {
            // One that allows would shut everybody else out, everywhere.
            Scope::Global => (Action::Deny, vec![outsiders()], false),
            Scope::Namespace | Scope::WorkloadSelector => form(number),
        };
        let (name, namespace) = policy_name(number, self.services);
        let spec = AuthorizationSpec {
            name: name.into(),
            namespace: namespace.into(),
            scope,
            action,
            rules,
            dry_run,
        };
        Authorization::new(spec).expect("a name and a namespace")
    }

    /// Keys of the policies that the workloads of a service name.
    fn policies_of(&self, service: usize) -> impl Iterator<Item = Arc<str>> {
        let services = self.services;
        let all = (service..self.policies).step_by(services);
        all.filter(|policy| scope(*policy) == Scope::WorkloadSelector).map(move |policy| {
            let (name, namespace) = policy_name(policy, services);
            format!("{namespace}/{name}").into()
        })
    }
}

fn application(service: usize) -> String {
    format!("{}-{service}", APPLICATIONS[service % APPLICATIONS.len()])
}

fn namespace(service: usize) -> String {
    format!("team-{:02}", service % NAMESPACES)
}

fn hostname(service: usize) -> String {
    format!("{}.{}.svc.cluster.local", application(service), namespace(service))
}

fn key(service: usize) -> NamespacedHostname {
    NamespacedHostname::new(namespace(service), hostname(service)).expect("no part has a slash")
}

/// A node and where it stands.
fn place(seed: usize) -> (String, Locality) {
    let node = seed % NODES;
    let (region, zone) = LOCALITIES[node % LOCALITIES.len()];
    let locality = Locality { region: region.into(), zone: zone.into(), ..Locality::default() };
    (format!("node-{node:03}.{zone}.example.internal"), locality)
}

fn scope(policy: usize) -> Scope {
    match policy {
        number if number % 200 == 199 => Scope::Global,
        number if number % 5 == 1 => Scope::Namespace,
        _ => Scope::WorkloadSelector,
    }
}

/// Name and namespace.
fn policy_name(policy: usize, services: usize) -> (String, String) {
    let service = policy % services;
    match scope(policy) {
        Scope::Global => (format!("no-outsiders-{policy}"), "istio-system".to_owned()),
        Scope::Namespace => (format!("namespace-rules-{policy}"), namespace(service)),
        Scope::WorkloadSelector => (format!("{}-rules-{policy}", application(service)), namespace(service)),
    }
}

/// Action, rules, and whether it is a dry run: all forms in turn.
fn form(policy: usize) -> (Action, Vec<Rule>, bool) {
    let exact = |text: String| StringMatch::Exact(text.into());
    let (this, other) = (namespace(policy + 1), namespace(policy + 2));
    let callers = (1..=3).map(|next| policy + next);
    match policy % 6 {
        0 => {
            let principal = |at| exact(format!("cluster.local/ns/{}/sa/{}", namespace(at), application(at)));
            let principals = callers.map(principal).collect();
            (Action::Allow, vec![rule([Match { principals, ..Match::default() }])], false)
        }
        1 => {
            let namespaces = vec![exact(this), StringMatch::Prefix("team-1".into())];
            let ports = Match { destination_ports: vec![8080, 8443], ..Match::default() };
            let rules = rule([Match { namespaces, ..Match::default() }]);
            let rules = Rule { clauses: [rules.clauses, rule([ports]).clauses].concat() };
            (Action::Allow, vec![rules], false)
        }
        2 => (Action::Deny, vec![outsiders()], false),
        3 => {
            // How strict mutual TLS comes, with a port that is let through.
            let not_principals = vec![StringMatch::Presence()];
            let strict = Match { not_principals, not_destination_ports: vec![9090], ..Match::default() };
            (Action::Deny, vec![rule([strict])], false)
        }
        4 => {
            let account = |at| ServiceAccountMatch {
                namespace: namespace(at).into(),
                service_account: application(at).into(),
            };
            let service_accounts = callers.map(account).collect();
            (Action::Allow, vec![rule([Match { service_accounts, ..Match::default() }])], false)
        }
        _ => {
            let not_namespaces = vec![exact(this), exact(other)];
            let principals = vec![StringMatch::Suffix("/sa/default".into())];
            let rules = [
                rule([Match { not_namespaces, ..Match::default() }]),
                rule([Match { principals, ..Match::default() }]),
            ];
            (Action::Deny, rules.to_vec(), true)
        }
    }
}

/// Sources outside of the cluster's networks.
fn outsiders() -> Rule {
    let ranges = |texts: &[&str]| texts.iter().filter_map(|text| text.parse().ok()).collect();
    rule([Match {
        source_ips: ranges(&["0.0.0.0/0"]),
        not_source_ips: ranges(&["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]),
        ..Match::default()
    }])
}

fn rule(matches: impl Into<Vec<Match>>) -> Rule {
    Rule { clauses: vec![Clause { matches: matches.into() }] }
}

fn high(number: usize) -> u16 {
    (number >> 16) as u16
}

fn low(number: usize) -> u16 {
    number as u16
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    #[test]
    fn names_and_addresses_are_unique_and_policies_that_are_named_exist() {
        let population = Population { workloads: 3000, services: 150, policies: 400 };
        let workloads: Vec<Workload> =
            (0..3000).map(|number| population.workload(number, HealthStatus::Healthy)).collect();
        let uids: HashSet<&Arc<str>> = workloads.iter().map(|workload| &workload.uid).collect();
        let addresses: Vec<IpAddr> =
            workloads.iter().flat_map(|workload| workload.addresses.clone()).collect();
        assert_eq!(uids.len(), 3000);
        assert_eq!(addresses.iter().collect::<HashSet<_>>().len(), addresses.len());
        assert_eq!(addresses.len(), 3750);

        let policies: HashMap<Arc<str>, Authorization> = (0..400)
            .map(|number| population.policy(number))
            .map(|policy| (policy.key().clone(), policy))
            .collect();
        assert_eq!(policies.len(), 400);
        let named: HashSet<&Arc<str>> =
            workloads.iter().flat_map(|workload| &workload.authorization_policies).collect();
        let selecting = policies.values().filter(|policy| policy.scope == Scope::WorkloadSelector).count();
        assert_eq!(named.len(), selecting);
        assert!(named.iter().all(|key| policies[*key].scope == Scope::WorkloadSelector));
    }

    #[test]
    fn every_scope_and_both_actions_occur() {
        let population = Population::of(100_000);
        assert_eq!((population.services, population.policies), (5000, 1000));
        let policies: Vec<Authorization> = (0..1000).map(|number| population.policy(number)).collect();
        let count = |wanted| policies.iter().filter(|policy| policy.scope == wanted).count();
        assert_eq!([Scope::Global, Scope::Namespace, Scope::WorkloadSelector].map(count), [5, 200, 795]);
        assert!(policies.iter().any(|policy| policy.action == Action::Allow));
        assert!(policies.iter().any(|policy| policy.action == Action::Deny && policy.dry_run));
    }

    #[test]
    fn a_service_has_its_endpoints_on_several_nodes_and_in_several_zones() {
        let population = Population::of(2000);
        let store = xds::Store::new();
        store.update(|edit| {
            for number in 0..population.services {
                edit.insert_service(population.service(number));
            }
            for number in 0..population.workloads {
                edit.insert_workload(population.workload(number, HealthStatus::Healthy));
            }
        });
        let snapshot = store.load();
        for number in 0..population.services {
            let service = population.service(number);
            let endpoints: Vec<_> = snapshot.endpoints(&service).map(|it| it.workload).collect();
            let nodes: HashSet<_> = endpoints.iter().map(|workload| &workload.node).collect();
            let zones: HashSet<_> = endpoints.iter().map(|workload| &workload.locality.zone).collect();
            assert_eq!((endpoints.len(), nodes.len(), zones.len()), (ENDPOINTS, ENDPOINTS, LOCALITIES.len()));
        }
    }
}
