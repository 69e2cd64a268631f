//! Micro benches of what a connection asks of the mesh, and of what a message of the control plane costs, all in a mesh of
//! 100,000 workloads unless the name says otherwise.
//!
//! `cargo bench -p benches --bench store` runs all, with `-- update` those with `update` in their name.

use std::error::Error;
use std::hint::black_box;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::sync::LazyLock;
use std::time::Instant;

use benches::micro::{Figures, nanos, run};
use benches::population::{Population, SERVICE_PORT};
use prost::Message;
use xds::encode;
use xds::proto::discovery::{DeltaDiscoveryResponse, Resource};
use xds::resource::{HealthStatus, Scope};
use xds::{Authorization, AuthorizationSpec, Decoder, Store, proto, upstream};
use ztunnel::policy::{self, Peer};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    run(&[
        ("address: a workload by its address", address),
        ("vip: a service by its address", vip),
        ("choose: an endpoint of 20", || choose(&LARGE, 100)),
        ("choose: an endpoint of 10,000", || choose(&ONE_SERVICE, 1)),
        ("policy: decide with 10 policies", || decide(&TEN_POLICIES, 10)),
        ("policy: decide with 100 policies", || decide(&HUNDRED_POLICIES, 100)),
        ("update: one workload of 100,000", update),
        ("decode: a response with the whole mesh", decode),
    ])
}

const POPULATION: Population = Population { workloads: 100_000, services: 5000, policies: 1000 };

static LARGE: LazyLock<Mesh> = LazyLock::new(|| Mesh::new(POPULATION));
static ONE_SERVICE: LazyLock<Mesh> =
    LazyLock::new(|| Mesh::new(Population { workloads: 10_000, services: 1, policies: 0 }));
static TEN_POLICIES: LazyLock<Mesh> = LazyLock::new(|| Mesh::with_policies(10));
static HUNDRED_POLICIES: LazyLock<Mesh> = LazyLock::new(|| Mesh::with_policies(100));

struct Mesh {
    population: Population,
    store: Store,
}

impl Mesh {
    fn new(population: Population) -> Self {
        let store = Store::new();
        store.update(|edit| {
            (0..population.services).for_each(|number| edit.insert_service(population.service(number)));
            let workload = |number| population.workload(number, HealthStatus::Healthy);
            (0..population.workloads).for_each(|number| edit.insert_workload(workload(number)));
            (0..population.policies).for_each(|number| edit.insert_policy(population.policy(number)));
        });
        Self { population, store }
    }

    /// One workload, and so many policies of all forms that apply to it.
    fn with_policies(count: usize) -> Self {
        let mesh = Self::new(Population { workloads: 1, services: 1, policies: 0 });
        let namespace = mesh.population.service(0).namespace.clone();
        mesh.store.update(|edit| {
            for policy in 0..count {
                let spec = AuthorizationSpec {
                    name: format!("policy-{policy}").into(),
                    namespace: namespace.clone(),
                    scope: Scope::Namespace,
                    ..(*POPULATION.policy(policy)).clone()
                };
                edit.insert_policy(Authorization::new(spec).expect("a name and a namespace"));
            }
        });
        mesh
    }
}

/// Asks about `count` addresses that lie far apart.
fn look_up(
    item: &'static str,
    count: usize,
    of: impl Fn(usize) -> IpAddr,
    find: impl Fn(IpAddr) -> bool,
) -> Result<Figures, Box<dyn Error>> {
    const QUESTIONS: usize = 10_000;
    let addresses: Vec<IpAddr> = (0..QUESTIONS).map(|question| of(question * 7919 % count)).collect();
    let begun = Instant::now();
    let found = addresses.iter().filter(|address| find(**address)).count();
    let elapsed = begun.elapsed();
    assert_eq!(found, QUESTIONS, "every address is known");
    Ok(vec![(item, "ns", nanos(elapsed, QUESTIONS as u32))])
}

fn address() -> Result<Figures, Box<dyn Error>> {
    let Mesh { population, store } = &*LARGE;
    let find = |address| black_box(store.load().workload_by_address("", address)).is_some();
    look_up("load and look up", population.workloads, |number| population.address(number), find)
}

fn vip() -> Result<Figures, Box<dyn Error>> {
    let Mesh { population, store } = &*LARGE;
    let find = |address| black_box(store.load().service_by_vip("", address, "team-07")).is_some();
    look_up("load and look up", population.services, |number| population.vip(number), find)
}

/// A choice for each of the first `services`.
fn choose(mesh: &Mesh, services: usize) -> Result<Figures, Box<dyn Error>> {
    let snapshot = mesh.store.load();
    let client = mesh.population.workload(0, HealthStatus::Healthy);
    let services: Vec<_> = (0..services).map(|number| mesh.population.service(number)).collect();
    let mut seed = 0_u64;
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % below
    };
    let begun = Instant::now();
    for service in &services {
        let endpoints = || snapshot.endpoints(service);
        let chosen = upstream::choose(&client, service, SERVICE_PORT, endpoints, &mut random);
        assert!(black_box(chosen).is_some(), "there are endpoints");
    }
    Ok(vec![("choose", "ns", nanos(begun.elapsed(), services.len() as u32))])
}

/// Judges connections of a caller that no policy names.
fn decide(mesh: &Mesh, policies: usize) -> Result<Figures, Box<dyn Error>> {
    const CONNECTIONS: u32 = 1000;
    let snapshot = mesh.store.load();
    let local = mesh.population.workload(0, HealthStatus::Healthy);
    assert_eq!(snapshot.policies_for(&local).count(), policies);
    let identity = "spiffe://cluster.local/ns/elsewhere/sa/caller".parse()?;
    let peer = Peer {
        source: SocketAddr::new(mesh.population.address(7), 40_000),
        identity: Some(&identity),
        destination: SocketAddr::new(mesh.population.address(0), 8080),
    };
    let begun = Instant::now();
    for _ in 0..CONNECTIONS {
        black_box(policy::decide(&snapshot, &local, black_box(&peer)));
    }
    Ok(vec![("decide", "ns", nanos(begun.elapsed(), CONNECTIONS))])
}

/// The health of one endpoint after the other.
fn update() -> Result<Figures, Box<dyn Error>> {
    const UPDATES: u32 = 100;
    let Mesh { population, store } = &*LARGE;
    let of = |status| (0..UPDATES as usize).map(move |update| population.workload(update * 977, status));
    let workloads: Vec<_> = of(HealthStatus::Unhealthy).chain(of(HealthStatus::Healthy)).collect();
    let count = workloads.len() as u32;
    let begun = Instant::now();
    for workload in workloads {
        store.update(|edit| edit.insert_workload(workload));
    }
    Ok(vec![("update and publish", "ns", nanos(begun.elapsed(), count))])
}

fn decode() -> Result<Figures, Box<dyn Error>> {
    static RESPONSE: LazyLock<Vec<u8>> = LazyLock::new(|| response(POPULATION).encode_to_vec());
    let rate = |begun: Instant| RESPONSE.len() as f64 / 1e6 / begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    let response = DeltaDiscoveryResponse::decode(RESPONSE.as_slice())?;
    let message = rate(begun);
    let begun = Instant::now();
    let decoded = Decoder::default().decode(response);
    let resources = rate(begun);
    assert!(decoded.complaints.is_empty(), "every resource is valid");
    let store = Store::new();
    let begun = Instant::now();
    store.update(|edit| decoded.update.apply(edit));
    let applied = rate(begun);
    Ok(vec![
        ("size", "MB", RESPONSE.len() as f64 / 1e6),
        ("bytes to message", "MB/s", message),
        ("message to resources", "MB/s", resources),
        ("resources into an empty store", "MB/s", applied),
    ])
}

/// All workloads and services, as a control plane sends them at first.
fn response(population: Population) -> DeltaDiscoveryResponse {
    let resource = |name: &str, message: &proto::workload::Address| Resource {
        name: name.to_owned(),
        version: "0123456789abcdef".to_owned(),
        resource: Some(prost_types::Any {
            type_url: proto::ADDRESS.to_owned(),
            value: message.encode_to_vec(),
        }),
        ..Resource::default()
    };
    let services = (0..population.services).map(|number| {
        let service = population.service(number);
        resource(&service.key().to_string(), &encode::service(&service))
    });
    let workloads = (0..population.workloads).map(|number| {
        let workload = population.workload(number, HealthStatus::Healthy);
        resource(&workload.uid, &encode::workload(&workload))
    });
    DeltaDiscoveryResponse {
        type_url: proto::ADDRESS.to_owned(),
        resources: services.chain(workloads).collect(),
        ..DeltaDiscoveryResponse::default()
    }
}
