//! What the control plane does wrong ends in a metric, a clear line of the log, and a proxy that works.

use std::time::Duration;

use demo::control_plane::{Misbehaviour, ResourceType};
use demo::mesh::NAMESPACE;
use demo::node::Node;
use demo::traffic::{Dial, Plan};
use prost::Message;
use tests::istiod::{Istiod, PORT, certificate_requests, connected, resource};
use tests::relay::Relay;
use tests::said::{Since, dumped};
use tests::traffic::{Traffic, all_whole, bulk, echo, everything, visit};
use tests::wait;
use tests::world::{APPLICATION, Host, Variant, World};
use xds::encode;
use xds::proto::workload;
use xds::{Authorization, Workload};

use crate::NODE;

/// What is said of a connection that was reset.
const CUT: &str = "the connection broke: connection reset";
/// The same, or what is said if the reset came just before something was sent: EPIPE, not ECONNRESET.
const BROKE: &str = "the connection broke: ";

/// What a replica does wrong on a stream; what it counts as; what is said.
const STREAMS: [(Misbehaviour, &str, &str); 4] = [
    (Misbehaviour::ResetMidMessage, "Reconnect", CUT),
    (Misbehaviour::WrongServerCertificate, "ConnectionError", "UnknownIssuer"),
    (Misbehaviour::HangAfterAccept, "ConnectionError", "no answer within 5 s"),
    (Misbehaviour::SilentStream, "Error", "no answer within 10 s"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn broken_streams() {
    let world = World::new(NODE, Variant::Moving);
    let istiod = Istiod::start(&world);
    let relay =
        Relay::start(world.at(Host::Relay, PORT), istiod.replica().address()).await.expect("a free port");
    let nodes = [Host::Client, Host::Server].map(|host| istiod.node_behind(relay.address(), host));
    let application = world.application(Host::Server);
    let traffic = Traffic::start(Dial::Socks5(nodes[0].socks5()), vec![application.address()], everything());
    traffic.progress().await;

    for (number, (misbehaviour, reason, cause)) in STREAMS.into_iter().enumerate() {
        let logs = nodes.each_ref().map(Since::now);
        let ends = |node: &Node| {
            let metrics = node.metrics().expect("metrics");
            metrics.sum("istio_xds_connection_terminations_total", &[("reason", reason)])
        };
        let before = nodes.each_ref().map(ends);
        istiod.replica().misbehave(misbehaviour);
        relay.cut();
        for (log, (node, before)) in logs.iter().zip(nodes.iter().zip(before)) {
            log.line("warn", &[cause]).await;
            wait::until(format_args!("{misbehaviour:?} is counted"), || ends(node) > before).await;
        }
        traffic.progress().await;

        istiod.replica().misbehave(Misbehaviour::None);
        let name = format!("after-{number}");
        istiod.cluster().edit(|edit| edit.workload(&good_workload(&world, &name)));
        for (node, log) in nodes.iter().zip(&logs) {
            wait::until(format_args!("news arrive after {misbehaviour:?}"), || {
                connected(node) && dumped(node, "workloads").contains(&name)
            })
            .await;
            log.line("info", &["connected to the control plane again"]).await;
            assert_eq!(log.lines("warn", &[cause]).len(), 1, "said once");
            // The relay's cut is a reason of its own.
            let said = log.lines("warn", &[]);
            assert!(
                said.len() <= 2 && said.iter().all(|line| line.contains(cause) || line.contains(BROKE)),
                "{said:#?}"
            );
        }
        traffic.progress().await;
    }
    traffic.finish();
    all_whole(application.tally()).await;
    nodes.iter().for_each(|node| world.check(node));
}

/// What a replica does wrong when it signs; what it counts as; what is said.
const SIGNATURES: [(Misbehaviour, &str, &str); 2] = [
    (Misbehaviour::RefuseCertificates, "refused", "certificates are refused for now"),
    (Misbehaviour::ChainOfAnotherIdentity, "unusable", "-other"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn bad_certificates() {
    let world = World::new(NODE, Variant::Moving);
    let istiod = Istiod::start(&world);
    istiod.authority().set_lifetime(Some(Duration::from_secs(16)));
    let nodes = [Host::Client, Host::Server].map(|host| istiod.node(host, &[]));
    let [client, server] = &nodes;
    let application = world.application(Host::Server);
    // Connections that stay open.
    let plan = Plan { idle: 3, ..bulk() };
    let traffic = Traffic::start(Dial::Socks5(client.socks5()), vec![application.address()], plan);
    traffic.progress().await;
    let count = |node: &Node, result| certificate_requests(node, &[result]);

    for (misbehaviour, result, cause) in SIGNATURES {
        let logs = nodes.each_ref().map(Since::now);
        let before = nodes.each_ref().map(|node| count(node, result));
        istiod.replica().misbehave(misbehaviour);
        for (node, before) in nodes.iter().zip(before) {
            let what = format!("{misbehaviour:?} is counted");
            wait::until(what, || count(node, result) > before).await;
        }
        traffic.progress().await;
        let signed = nodes.each_ref().map(|node| count(node, "signed"));
        istiod.replica().misbehave(Misbehaviour::None);
        for (log, (node, signed)) in logs.iter().zip(nodes.iter().zip(signed)) {
            wait::until("it is renewed", || count(node, "signed") > signed).await;
            log.line("info", &["certificates are signed again"]).await;
            log.one_warning(&["no certificate", cause]);
        }
    }
    assert_eq!(traffic.counts().opened, 4, "connections were lost and replaced");
    traffic.finish();
    all_whole(application.tally()).await;
    echo(world.at(Host::Client, APPLICATION)).await;
    visit(server, world.at(Host::Client, APPLICATION)).await.expect("new tunnels come up");
    nodes.iter().for_each(|node| world.check(node));
}

/// A new root that nobody else has: what istiod says is so, but the operator is told what it means.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn certificates_of_another_root() {
    const CAUSE: &str = "the CA has changed all its roots";
    let world = World::new(NODE, Variant::Moving);
    let istiod = Istiod::start(&world);
    istiod.authority().set_lifetime(Some(Duration::from_secs(16)));
    let nodes = [Host::Client, Host::Server].map(|host| istiod.node(host, &[]));
    let [client, server] = &nodes;
    let application = world.application(Host::Server);
    let plan = Plan { idle: 3, ..bulk() };
    let traffic = Traffic::start(Dial::Socks5(client.socks5()), vec![application.address()], plan);
    traffic.progress().await;

    for (misbehaviour, told) in [(Misbehaviour::ChainOfAnotherRoot, 1), (Misbehaviour::None, 2)] {
        istiod.replica().misbehave(misbehaviour);
        for node in &nodes {
            let log = Since::start(node);
            wait::until(format_args!("{CAUSE}: said {told} times"), || {
                log.lines("warn", &[CAUSE]).len() == told
            })
            .await;
            assert_eq!(log.lines("warn", &[]).len(), told, "nothing else is said");
            let metrics = node.metrics().expect("metrics");
            assert_eq!(metrics.sum("ztunnel_certificate_roots_replaced_total", &[]), told as f64);
        }
        traffic.progress().await;
    }
    assert_eq!(traffic.counts().opened, 4, "connections were lost and replaced");
    traffic.finish();
    all_whole(application.tally()).await;
    echo(world.at(Host::Client, APPLICATION)).await;
    visit(server, world.at(Host::Client, APPLICATION)).await.expect("new tunnels come up");
    nodes.iter().for_each(|node| world.check(node));
}

/// A resource that cannot be used: its type and name, its bytes, what is said about it.
struct Broken {
    resource_type: ResourceType,
    name: &'static str,
    bytes: Vec<u8>,
    cause: &'static str,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn broken_resources() {
    let world = World::new(NODE, Variant::Moving);
    let istiod = Istiod::start(&world);
    let nodes = [Host::Client, Host::Server].map(|host| istiod.node(host, &[]));
    let application = world.application(Host::Server);
    let traffic = Traffic::start(Dial::Socks5(nodes[0].socks5()), vec![application.address()], everything());
    traffic.progress().await;

    for (number, broken) in broken(&world).into_iter().enumerate() {
        let Broken { resource_type, name, bytes, cause } = broken;
        let logs = nodes.each_ref().map(Since::now);
        let refused = |node: &Node| {
            let metrics = node.metrics().expect("metrics");
            metrics.sum("ztunnel_xds_resources_refused_total", &[("url", resource_type.url())])
        };
        let before = nodes.each_ref().map(refused);
        let refusals = || istiod.replica().statistics().of(resource_type).nacks.clone();
        let told = refusals().len();
        let good = format!("good-{number}");
        istiod.cluster().edit(|edit| {
            edit.raw(resource_type, name, "1", bytes);
            match resource_type {
                ResourceType::Address => edit.workload(&good_workload(&world, &good)),
                ResourceType::Authorization => edit.policy(&good_policy(&good)),
            }
        });
        let list = match resource_type {
            ResourceType::Address => "workloads",
            ResourceType::Authorization => "policies",
        };
        wait::until(format_args!("both refuse {name}"), || refusals().len() == told + 2).await;
        for said in &refusals()[told..] {
            assert!(said.contains(name) && said.contains(cause), "{name}: istiod is told {said:?}");
        }
        for (log, (node, before)) in logs.iter().zip(nodes.iter().zip(before)) {
            wait::until(format_args!("what came with {name} is taken"), || {
                dumped(node, list).contains(&good)
            })
            .await;
            wait::until(format_args!("{name} is counted"), || refused(node) >= before + 1.0).await;
            assert_eq!(refused(node), before + 1.0, "{name} is counted once");
            log.line("warn", &[name, cause]).await;
            log.one_warning(&[name, cause]);
        }
        traffic.progress().await;
        istiod.cluster().edit(|edit| match resource_type {
            ResourceType::Address => edit.remove(name),
            ResourceType::Authorization => edit.remove_policy(name),
        });
    }
    traffic.finish();
    all_whole(application.tally()).await;
    nodes.iter().for_each(|node| {
        assert!(connected(node), "the stream was never given up");
        let ended = node.metrics().expect("metrics").sum("istio_xds_connection_terminations_total", &[]);
        assert_eq!(ended, 0.0);
        world.check(node);
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_address_that_is_not_understood_is_refused_and_not_called_in_plain() {
    let world = World::new(NODE, Variant::Moving);
    let istiod = Istiod::start(&world);
    let client = istiod.node(Host::Client, &[]);
    let stranger = world.at(Host::Stranger, APPLICATION);
    echo(stranger).await;
    visit(&client, stranger).await.expect("nobody the mesh knows: it is called in plain");

    istiod.cluster().edit(|edit| edit.raw(ResourceType::Address, ODD, "1", odd_workload(&world)));
    wait::until("it is refused", || !istiod.replica().statistics().addresses.nacks.is_empty()).await;
    visit(&client, stranger).await.expect_err("a workload that is not understood");
    Since::start(&client).line("error", &["connection complete", ODD]).await;

    istiod.cluster().edit(|edit| edit.remove(ODD));
    let mut visited = false;
    for _ in 0..1_000 {
        visited = visit(&client, stranger).await.is_ok();
        if visited {
            break;
        }
    }
    assert!(visited, "the mesh knows nobody there any more");
    world.check(&client);
}

fn broken(world: &World) -> Vec<Broken> {
    use ResourceType::{Address, Authorization};
    let garbage = vec![0xff; 32];
    let mut long = message(&good_workload(world, "long"));
    long.addresses = vec![vec![127, 0, 0, 1, 9]];
    let mut short = service();
    short.addresses[0].address.pop();
    let mut families = service();
    families.ip_families = 99;
    let mut action = encode::authorization(&good_policy("action"));
    action.action = 99;
    let mut scope = encode::authorization(&good_policy("scope"));
    scope.scope = 99;
    let row = |resource_type, name, bytes, cause| Broken { resource_type, name, bytes, cause };
    vec![
        row(Address, "workload-garbage", garbage.clone(), "cannot be read"),
        row(Address, ODD, odd_workload(world), "protocol"),
        row(Address, "Kubernetes//Pod/demo/long", of_workload(long), "workloadIps"),
        row(Address, "demo/garbage.demo.svc", garbage.clone(), "cannot be read"),
        row(Address, "demo/broken.demo.svc", of_service(short), "vips"),
        row(Address, "demo/broken.demo.svc", of_service(families), "ipFamilies"),
        // In a namespace where nothing is: nobody knows what they forbid, and they forbid everything there.
        row(Authorization, "elsewhere/garbage", garbage, "cannot be read"),
        row(Authorization, "elsewhere/action", action.encode_to_vec(), "action"),
        row(Authorization, "elsewhere/scope", scope.encode_to_vec(), "scope"),
    ]
}

const ODD: &str = "Kubernetes//Pod/demo/odd";

/// At an address where somebody is, to be called by a protocol that nobody knows.
fn odd_workload(world: &World) -> Vec<u8> {
    let mut odd = message(&good_workload(world, "odd"));
    odd.tunnel_protocol = 77;
    of_workload(odd)
}

fn good_workload(world: &World, name: &str) -> Workload {
    resource(name, world.ip(Host::Stranger))
}

fn good_policy(name: &str) -> Authorization {
    let yaml = format!(
        "policies: [{{name: {name}, namespace: elsewhere, scope: Namespace, action: Deny, \
         rules: [[[{{destinationPorts: [1]}}]]]}}]"
    );
    xds::local::load(&yaml).expect("a policy").policies.remove(0)
}

fn message(workload: &Workload) -> workload::Workload {
    match encode::workload(workload).r#type {
        Some(workload::address::Type::Workload(message)) => message,
        other => panic!("not a workload: {other:?}"),
    }
}

fn of_workload(message: workload::Workload) -> Vec<u8> {
    workload::Address { r#type: Some(workload::address::Type::Workload(message)) }.encode_to_vec()
}

fn service() -> workload::Service {
    workload::Service {
        name: "broken".to_owned(),
        namespace: NAMESPACE.to_owned(),
        hostname: "broken.demo.svc".to_owned(),
        addresses: vec![workload::NetworkAddress {
            address: vec![240, 0, 0, 1],
            ..workload::NetworkAddress::default()
        }],
        ..workload::Service::default()
    }
}

fn of_service(message: workload::Service) -> Vec<u8> {
    workload::Address { r#type: Some(workload::address::Type::Service(message)) }.encode_to_vec()
}
