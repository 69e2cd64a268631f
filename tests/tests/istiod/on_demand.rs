//! A node that asks for each destination when it is wanted.

use std::time::Duration;

use demo::control_plane::{Misbehaviour, Statistics, TypeStatistics};
use demo::node::Node;
use tests::istiod::{Istiod, connected, synced};
use tests::said::{Since, dumped};
use tests::traffic::{echo, visit};
use tests::wait;
use tests::world::{APPLICATION, Host, SERVICE, Variant, World};
use tokio::time::Instant;
use xds::{Service, Workload};

use crate::NODE;

const ON_DEMAND: (&str, &str) = ("XDS_ON_DEMAND", "true");

in_both_variants! {
    what_is_wanted_is_asked_for
    what_was_asked_for_is_followed_after_a_restart
}

async fn what_is_wanted_is_asked_for(variant: Variant) {
    let world = World::new(NODE, variant);
    let istiod = Istiod::start(&world);
    let client = istiod.node(Host::Client, &[ON_DEMAND]);
    synced(istiod.replica(), 1).await;
    let asked = || demands(&istiod.replica().statistics().addresses);
    assert_eq!(known(&client), (vec!["client".to_owned()], Vec::new()), "itself and nothing else");
    let server = istiod.node(Host::Server, &[ON_DEMAND]);
    synced(istiod.replica(), 2).await;
    let before = asked();
    for host in [Host::Server, Host::Plain, Host::Stranger] {
        echo(world.at(host, APPLICATION)).await;
    }

    let pod = world.at(Host::Server, APPLICATION);
    visit(&client, pod).await.expect("a workload");
    assert_eq!(known(&client), (names(["client", "server"]), Vec::new()));
    assert_eq!(mutual_tls(&client, "server"), 1.0);
    visit(&client, pod).await.expect("a workload");
    assert_eq!(asked(), before + 1, "asked for once");

    visit(&client, world.at(Host::Service, SERVICE)).await.expect("a service");
    assert_eq!(known(&client), (names(["client", "server"]), names(["server"])));
    assert_eq!(asked(), before + 2);
    wait::until("all three went through the tunnel", || mutual_tls(&client, "server") == 3.0).await;

    // Nobody the mesh knows, and one who has no proxy: both in plain.
    for (host, workload) in [(Host::Stranger, "unknown"), (Host::Plain, "plain")] {
        let log = Since::now(&client);
        visit(&client, world.at(host, APPLICATION)).await.expect("it is called in plain");
        let line = log
            .line("info", &["connection complete", &format!("dst.addr={}", world.at(host, APPLICATION))])
            .await;
        assert!(!line.contains("identity"), "{line}");
        let metrics = client.metrics().expect("metrics");
        let labels = [("connection_security_policy", "unknown"), ("destination_workload", workload)];
        assert_eq!(metrics.sum("istio_tcp_connections_opened_total", &labels), 1.0);
    }
    assert_eq!(asked(), before + 4);
    assert_eq!(known(&client), (names(["client", "plain", "server"]), names(["server"])));
    world.check(&client);
    world.check(&server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn without_an_answer_nothing_is_opened() {
    let world = World::new(NODE, Variant::Still);
    let istiod = Istiod::start(&world);
    let client = istiod.node(Host::Client, &[ON_DEMAND]);
    let stranger = world.at(Host::Stranger, APPLICATION);
    echo(stranger).await;
    synced(istiod.replica(), 1).await;

    istiod.replica().misbehave(Misbehaviour::SilentStream);
    let begun = Instant::now();
    visit(&client, stranger).await.expect_err("who is there is not known");
    let took = begun.elapsed();
    assert!(Duration::from_secs(4) < took && took <= Duration::from_secs(6), "{took:?}");
    let reason = "the control plane did not answer for the destination";
    Since::start(&client).line("warn", &["connection failed", &stranger.to_string(), reason]).await;

    istiod.replica().misbehave(Misbehaviour::None);
    visit(&client, stranger).await.expect("it is called in plain");
    world.check(&client);
}

async fn what_was_asked_for_is_followed_after_a_restart(variant: Variant) {
    let world = World::new(NODE, variant);
    let mut istiod = Istiod::start(&world);
    let client = istiod.node(Host::Client, &[ON_DEMAND]);
    let server = istiod.node(Host::Server, &[]);
    echo(world.at(Host::Server, APPLICATION)).await;
    let service = world.at(Host::Service, SERVICE);
    visit(&client, service).await.expect("a service");
    let new = world.at(Host::Service, SERVICE + 1);
    visit(&client, new).await.expect_err("the service has no such port");

    istiod.stop();
    wait::until("both have noticed", || !connected(&client) && !connected(&server)).await;
    visit(&client, service).await.expect("what is known stays in force");
    istiod.restart();
    let Statistics { addresses, .. } = synced(istiod.replica(), 2).await;
    assert_eq!((addresses.resources, addresses.removed), (0, 0), "nothing is told again");
    assert_eq!(known(&client), (names(["client", "server"]), names(["server"])));

    // A new port that leads to the same application.
    istiod.cluster().edit(|edit| {
        let (service, workload) = with_port(&world, SERVICE + 1);
        edit.service(&service);
        edit.workload(&workload);
    });
    let mut visited = false;
    let begun = Instant::now();
    while !visited && begun.elapsed() < wait::PATIENCE {
        visited = visit(&client, new).await.is_ok();
    }
    assert!(visited, "the change has not arrived");
    visit(&client, world.at(Host::Service, SERVICE)).await.expect("the old port is still there");
    assert_eq!(istiod.replica().statistics().addresses.resources, 4, "two to each node");
    world.check(&client);
    world.check(&server);
}

/// The service of the world and its endpoint, with one more port.
fn with_port(world: &World, port: u16) -> (Service, Workload) {
    let mut mesh = world.mesh().clone();
    mesh.services[0].ports.insert(port, APPLICATION);
    for workload in &mut mesh.workloads {
        for ports in workload.services.values_mut() {
            ports.insert(port, APPLICATION);
        }
    }
    let mut known = xds::local::load(&mesh.to_string()).expect("a mesh");
    let address = world.ip(Host::Server);
    let workload = known.workloads.into_iter().find(|workload| workload.addresses.contains(&address));
    (known.services.remove(0), workload.expect("the service has an endpoint"))
}

/// What the node knows: the workloads and the services, by name.
fn known(node: &Node) -> (Vec<String>, Vec<String>) {
    let [mut workloads, mut services] = ["workloads", "services"].map(|list| dumped(node, list));
    workloads.sort();
    services.sort();
    (workloads, services)
}

fn names<const N: usize>(names: [&str; N]) -> Vec<String> {
    names.map(ToOwned::to_owned).into()
}

/// Requests that are neither first ones nor say something about a response: those that ask for more.
fn demands(statistics: &TypeStatistics) -> u64 {
    let TypeStatistics { requests, first_requests, acks, nacks, .. } = statistics;
    requests - first_requests - acks - nacks.len() as u64
}

fn mutual_tls(node: &Node, workload: &str) -> f64 {
    let labels = [("connection_security_policy", "mutual_tls"), ("destination_workload", workload)];
    node.metrics().expect("metrics").sum("istio_tcp_connections_opened_total", &labels)
}
