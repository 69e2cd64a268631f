use std::fmt::Debug;

use prost::Message;
use prost_types::Any;

use super::*;
use crate::Decoder;
use crate::decode::tests::recordings;
use crate::proto::discovery::{DeltaDiscoveryResponse, Resource};
use crate::proto::workload::gateway_address::Destination;
use crate::proto::{ADDRESS, AUTHORIZATION, security};
use crate::store::{Snapshot, Store};

/// What a proxy knows to which all of this was said, one after the other.
fn said(responses: impl IntoIterator<Item = DeltaDiscoveryResponse>) -> Snapshot {
    let (mut decoder, store) = (Decoder::default(), Store::new());
    for response in responses {
        let decoded = decoder.decode(response);
        store.update(|edit| decoded.update.apply(edit));
    }
    Snapshot::clone(&store.load())
}

fn response(type_url: &str, resources: Vec<(String, Vec<u8>)>) -> DeltaDiscoveryResponse {
    let resource = |(name, value)| Resource {
        name,
        resource: Some(Any { type_url: type_url.to_owned(), value }),
        ..Resource::default()
    };
    DeltaDiscoveryResponse {
        type_url: type_url.to_owned(),
        resources: resources.into_iter().map(resource).collect(),
        ..DeltaDiscoveryResponse::default()
    }
}

/// What there is, encoded.
fn encoded(snapshot: &Snapshot) -> [DeltaDiscoveryResponse; 2] {
    let workloads = snapshot.workloads().map(|known| (known.uid.to_string(), workload(known)));
    let services = snapshot.services().map(|known| (known.key().to_string(), service(known)));
    let addresses =
        workloads.chain(services).map(|(name, message)| (name, message.encode_to_vec())).collect();
    let policies = snapshot.policies();
    let policies = policies.map(|known| (known.key().to_string(), authorization(known).encode_to_vec()));
    [response(ADDRESS, addresses), response(AUTHORIZATION, policies.collect())]
}

fn assert_same(found: &Snapshot, expected: &Snapshot, what: impl Debug) {
    for workload in expected.workloads() {
        assert_eq!(found.workload_by_uid(&workload.uid), Some(workload), "{what:?}");
    }
    for service in expected.services() {
        assert_eq!(found.service_by_key(service.key()), Some(service), "{what:?}");
    }
    for policy in expected.policies() {
        assert_eq!(found.policy_by_key(policy.key()), Some(policy), "{what:?}");
    }
    let dump = |snapshot: &Snapshot| serde_json::to_value(snapshot.dump()).unwrap();
    assert_eq!(dump(found), dump(expected), "{what:?}");
}

#[test]
fn what_a_real_control_plane_sent_is_the_same_again() {
    let messages = recordings::messages();
    for n in 1..=messages.len() {
        let snapshot = said(messages[..n].iter().cloned());
        assert!(snapshot.workloads().count() > 0);
        assert_same(&said(encoded(&snapshot)), &snapshot, n);
    }
}

#[test]
fn anything_that_can_be_decoded_is_the_same_again() {
    let (mut workloads, mut services, mut policies, mut unreadable) = (0, 0, 0, 0);
    for seed in 0..2_000 {
        let mut random = Random(fastrand::Rng::with_seed(seed));
        let (workload, service, policy) = (random.workload(), random.service(), random.policy());
        let addresses = vec![
            (workload.uid.clone(), address_of(message::address::Type::Workload(workload))),
            (
                format!("{}/{}", service.namespace, service.hostname),
                address_of(message::address::Type::Service(service)),
            ),
        ];
        let policy = (format!("{}/{}", policy.namespace, policy.name), policy.encode_to_vec());
        let original = said([response(ADDRESS, addresses), response(AUTHORIZATION, vec![policy])]);
        let again = said(encoded(&original));
        // What was refused is no resource.
        for workload in original.workloads() {
            workloads += 1;
            assert_eq!(again.workload_by_uid(&workload.uid), Some(workload), "seed {seed}");
        }
        for service in original.services() {
            services += 1;
            assert_eq!(again.service_by_key(service.key()), Some(service), "seed {seed}");
        }
        for policy in original.policies() {
            policies += 1;
            let matches =
                policy.rules.iter().flat_map(|rule| &rule.clauses).flat_map(|clause| &clause.matches);
            unreadable += usize::from(matches.map(|one| one.unreadable.len()).sum::<usize>() > 1);
            assert_eq!(again.policy_by_key(policy.key()), Some(policy), "seed {seed}");
        }
    }
    // It was worth the while.
    assert!(workloads > 500 && services > 500, "{workloads}, {services}");
    assert!(policies > 500 && unreadable > 100, "{policies}, {unreadable}");
}

#[test]
fn what_could_not_be_read_in_a_match_cannot_be_read_again() {
    let message = security::Authorization {
        name: "p".into(),
        namespace: "n".into(),
        rules: vec![security::Rule {
            clauses: vec![security::Clause {
                matches: vec![security::Match {
                    destination_ports: vec![80, 70_000],
                    extensions: vec![message::Extension { name: "x".into(), config: None }],
                    ..security::Match::default()
                }],
            }],
        }],
        ..security::Authorization::default()
    };
    let original = said([response(AUTHORIZATION, vec![("n/p".into(), message.encode_to_vec())])]);
    let again = said(encoded(&original));
    let one = &again.policy_by_key("n/p").unwrap().rules[0].clauses[0].matches[0];
    assert_eq!(one.destination_ports, [80]);
    assert_eq!(
        one.unreadable.iter().map(|reason| &**reason).collect::<Vec<_>>(),
        ["extensions: \"x\" cannot be judged here", "destinationPorts: 70000 is not a port"]
    );
    assert_same(&again, &original, "a policy");
}

#[test]
fn what_has_its_default_is_left_out() {
    let workload = crate::Workload::new(crate::WorkloadSpec {
        uid: "u".into(),
        namespace: "n".into(),
        ..crate::WorkloadSpec::default()
    });
    let expected = message::Workload {
        uid: "u".into(),
        namespace: "n".into(),
        cluster_id: "Kubernetes".into(),
        ..message::Workload::default()
    };
    let message = super::workload(&workload.unwrap());
    assert_eq!(message.r#type, Some(message::address::Type::Workload(expected)));
}

fn address_of(content: message::address::Type) -> Vec<u8> {
    message::Address { r#type: Some(content) }.encode_to_vec()
}

/// Makes messages of all kinds of values, some of them wrong.
struct Random(fastrand::Rng);

impl Random {
    fn text(&mut self) -> String {
        if self.0.bool() { String::new() } else { format!("t{}", self.0.u8(..4)) }
    }

    fn octets(&mut self) -> Vec<u8> {
        match self.0.u8(..40) {
            0 => vec![1, 2, 3],
            1..=20 => (0..4).map(|_| self.0.u8(..)).collect(),
            21..=30 => [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, self.0.u8(..)].into(),
            _ => (0..16).map(|_| self.0.u8(..)).collect(),
        }
    }

    fn list<T>(&mut self, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.0.u8(..3)).map(|_| one(self)).collect()
    }

    fn some<T>(&mut self, one: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.0.bool().then(|| one(self))
    }

    /// A value of an enum of so many, or sometimes the next.
    fn value(&mut self, values: i32) -> i32 {
        if self.0.u8(..40) == 0 { values } else { self.0.i32(0..values) }
    }

    fn port(&mut self) -> u32 {
        if self.0.u8(..40) == 0 { 65_536 } else { self.0.u32(..65_536) }
    }

    fn ports(&mut self) -> Vec<message::Port> {
        self.list(|random| message::Port {
            service_port: random.port(),
            target_port: random.port(),
            app_protocol: random.value(6),
        })
    }

    fn address(&mut self) -> message::NetworkAddress {
        let (network, address) = (self.text(), self.octets());
        let most = if address.len() == 4 { 33 } else { 129 };
        let length = self.some(|random| if random.0.bool() { most - 1 } else { random.0.u32(..most) });
        message::NetworkAddress { network, address, length }
    }

    fn gateway(&mut self) -> message::GatewayAddress {
        let destination = if self.0.bool() {
            let (namespace, hostname) = ("n".to_owned(), format!("h{}", self.text()));
            Destination::Hostname(message::NamespacedHostname { namespace, hostname })
        } else {
            Destination::Address(self.address())
        };
        message::GatewayAddress { destination: Some(destination), hbone_mtls_port: self.port() }
    }

    fn workload(&mut self) -> message::Workload {
        message::Workload {
            uid: format!("u{}", self.text()),
            name: self.text(),
            namespace: format!("n{}", self.text()),
            addresses: self.list(Self::octets),
            hostname: self.text(),
            network: self.text(),
            tunnel_protocol: self.value(2),
            trust_domain: self.text(),
            service_account: self.text(),
            waypoint: self.some(Self::gateway),
            network_gateway: self.some(Self::gateway),
            node: self.text(),
            canonical_name: self.text(),
            canonical_revision: self.text(),
            workload_type: self.value(4),
            workload_name: self.text(),
            native_tunnel: self.0.bool(),
            application_tunnel: self.some(|random| message::ApplicationTunnel {
                protocol: random.value(2),
                port: if random.0.bool() { 0 } else { random.port() },
            }),
            services: self
                .list(|random| (format!("n/s{}", random.text()), message::PortList { ports: random.ports() }))
                .into_iter()
                .collect(),
            authorization_policies: self.list(Self::text),
            status: self.value(2),
            cluster_id: self.text(),
            locality: self.some(|random| message::Locality {
                region: random.text(),
                zone: random.text(),
                subzone: random.text(),
            }),
            network_mode: self.value(2),
            extensions: Vec::new(),
            capacity: self.some(|random| random.0.u32(..3)),
        }
    }

    fn service(&mut self) -> message::Service {
        message::Service {
            name: self.text(),
            namespace: format!("n{}", self.text()),
            hostname: format!("h{}", self.text()),
            addresses: self.list(Self::address),
            ports: self.ports(),
            subject_alt_names: self.list(Self::text),
            waypoint: self.some(Self::gateway),
            load_balancing: self.some(|random| message::LoadBalancing {
                routing_preference: random.list(|random| 1 + random.value(6)),
                mode: random.value(4),
                health_policy: random.value(2),
            }),
            ip_families: self.value(4),
            extensions: Vec::new(),
            canonical: self.0.bool(),
            ingress_use_waypoint: self.0.bool(),
            weighted_waypoints: self.list(|random| message::WeightedWaypoint {
                destination: Some(random.gateway()),
                weight: random.0.u32(..3),
            }),
            visibility: self.value(2),
        }
    }

    fn policy(&mut self) -> security::Authorization {
        security::Authorization {
            name: format!("p{}", self.text()),
            namespace: format!("n{}", self.text()),
            scope: self.value(3),
            action: self.value(2),
            rules: self.list(|random| security::Rule {
                clauses: random.list(|random| security::Clause { matches: random.list(Self::conditions) }),
            }),
            dry_run: self.0.bool(),
            extensions: Vec::new(),
        }
    }

    fn conditions(&mut self) -> security::Match {
        let extension = |random: &mut Self| message::Extension { name: random.text(), config: None };
        security::Match {
            namespaces: self.list(Self::string),
            not_namespaces: self.list(Self::string),
            service_accounts: self.list(Self::account),
            not_service_accounts: self.list(Self::account),
            principals: self.list(Self::string),
            not_principals: self.list(Self::string),
            source_ips: self.list(Self::range),
            not_source_ips: self.list(Self::range),
            destination_ips: self.list(Self::range),
            not_destination_ips: self.list(Self::range),
            destination_ports: self.list(Self::port),
            not_destination_ports: self.list(Self::port),
            extensions: if self.0.u8(..10) == 0 { vec![extension(self)] } else { Vec::new() },
        }
    }

    fn string(&mut self) -> security::StringMatch {
        use security::string_match::MatchType::{Exact, Prefix, Presence, Suffix};
        let text = self.text();
        let of = [Exact(text.clone()), Prefix(text.clone()), Suffix(text), Presence(())];
        security::StringMatch { match_type: of.get(self.0.usize(..20) % 5).cloned() }
    }

    fn account(&mut self) -> security::ServiceAccountMatch {
        security::ServiceAccountMatch { namespace: self.text(), service_account: self.text() }
    }

    fn range(&mut self) -> security::Address {
        let address = self.octets();
        let most = if address.len() == 4 { 33 } else { 129 };
        security::Address { length: self.0.u32(..most), address }
    }
}
