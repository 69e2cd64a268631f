//! The control plane goes and comes back.

use demo::control_plane::Statistics;
use demo::node::Node;
use demo::traffic::Dial;
use tests::istiod::{Istiod, connected, resource, synced};
use tests::said::{Since, dumped};
use tests::traffic::{Traffic, all_whole, echo, everything, visit};
use tests::wait;
use tests::world::{APPLICATION, Host, SERVICE, Variant, World};

use crate::NODE;

const RESTARTS: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn twenty_restarts_are_not_noticed() {
    let world = World::new(NODE, Variant::Moving);
    let mut istiod = Istiod::start(&world);
    let [client, server] = [Host::Client, Host::Server].map(|host| istiod.node(host, &[]));
    let resources = synced(istiod.replica(), 2).await.addresses.resources as usize / 2;
    let application = world.application(Host::Server);
    let servers = vec![application.address(), world.at(Host::Service, SERVICE)];
    let traffic = Traffic::start(Dial::Socks5(client.socks5()), servers, everything());
    traffic.progress().await;
    let logs = [&client, &server].map(Since::now);

    for restart in 0..RESTARTS {
        istiod.stop();
        wait::until("the nodes have noticed", || !connected(&client) && !connected(&server)).await;
        istiod.restart();
        let Statistics { addresses, policies, .. } = synced(istiod.replica(), 2).await;
        assert_eq!(addresses.initial_versions, resources, "restart {restart}: what was known is told");
        assert_eq!((addresses.resources, addresses.removed), (0, 0), "restart {restart}: sent again");
        assert_eq!((&addresses.nacks, &policies.nacks), (&Vec::new(), &Vec::new()));
    }

    traffic.progress().await;
    traffic.finish();
    all_whole(application.tally()).await;
    for (node, log) in [&client, &server].into_iter().zip(&logs) {
        wait::until("the last return is told", || {
            log.lines("info", &["connected to the control plane again"]).len() == RESTARTS
        })
        .await;
        let ended = node.metrics().expect("metrics").sum("istio_xds_connection_terminations_total", &[]);
        assert!(ended >= RESTARTS as f64, "{ended} ends");
        world.check(node);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_changed_meanwhile_arrives() {
    let mut world = World::new(NODE, Variant::Moving);
    world.add_policy(&format!(
        r#"{{"name":"nobody","namespace":"{}","scope":"Namespace","action":"Deny","rules":[[[{{"destinationPorts":[{APPLICATION}]}}]]]}}"#,
        demo::mesh::NAMESPACE
    ));
    let mut istiod = Istiod::start(&world);
    let [client, server] = [Host::Client, Host::Server].map(|host| istiod.node(host, &[]));
    let target = world.at(Host::Server, APPLICATION);
    echo(target).await;
    visit(&client, target).await.expect_err("a policy denies it");

    istiod.stop();
    wait::until("the nodes have noticed", || !connected(&client) && !connected(&server)).await;
    istiod.cluster().edit(|edit| {
        edit.workload(&resource("new", world.ip(Host::Stranger)));
        edit.remove("demo/server.demo.svc.cluster.local");
        edit.remove_policy("demo/nobody");
    });
    let known = |node: &Node| ["workloads", "services", "policies"].map(|list| dumped(node, list).len());
    assert_eq!([&client, &server].map(known), [[4, 1, 1]; 2]);

    istiod.restart();
    let Statistics { addresses, .. } = synced(istiod.replica(), 2).await;
    assert_eq!((addresses.resources, addresses.removed), (2, 2), "to each node only what has changed");
    wait::until("they know it", || [&client, &server].map(known) == [[5, 0, 0]; 2]).await;
    assert!(dumped(&client, "workloads").contains(&"new".to_owned()));
    visit(&client, target).await.expect("nothing denies it any more");
    visit(&client, world.at(Host::Service, SERVICE)).await.expect_err("the service is gone");
    world.check(&client);
    world.check(&server);
}
