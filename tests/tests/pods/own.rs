//! The proxy as a workload of its own: its metrics can be fetched through the mesh.

use std::net::SocketAddr;

use demo::node::http;
use demo::node::{INBOUND_PLAINTEXT_PORT, METRICS_PORT, OUTBOUND_PORT, TUNNEL_PORT};
use tests::cluster::Cluster;
use tests::cni::Timing;
use tests::said::Since;
use tests::world::{Variant, identity};

use crate::scene::{APPLICATION, Scene, launch, specs};

in_both_variants! { metrics_are_fetched_through_the_mesh }

async fn metrics_are_fetched_through_the_mesh(variant: Variant) {
    let Some((scene, pods)) = Scene::new(variant, &specs(1, 1)) else { return };
    let proxies = scene.cluster.proxy_addresses();
    for (pod, name) in pods.iter().zip(["a-0", "b-0"]) {
        for (proxy, node) in proxies.iter().zip([&scene.a, &scene.b]) {
            let since = Since::now(node);
            let fetch = |port| pod.place().run(|| http::get(SocketAddr::new(*proxy, port), "/metrics"));
            let page = fetch(METRICS_PORT).expect("the namespace is there").expect("a page");
            assert_eq!(page.status, 200);
            assert!(page.body.contains("istio_tcp_connections_opened_total"), "{}", page.body);
            let source = format!("src.identity=\"{}\"", identity(name));
            let own = "dst.identity=\"spiffe://cluster.local/ns/istio-system/sa/ztunnel\"";
            let target = format!("dst.hbone_addr={}", SocketAddr::new(*proxy, METRICS_PORT));
            since.line("info", &["connection complete", "inbound", &source, own, &target]).await;
            for port in [TUNNEL_PORT, OUTBOUND_PORT, INBOUND_PLAINTEXT_PORT, APPLICATION] {
                let answer = fetch(port).expect("the namespace is there");
                assert!(answer.is_err(), "{name} gets an answer of {proxy}:{port}: {answer:?}");
            }
        }
    }
    scene.check();
}

#[test]
fn source_addresses_are_not_kept_if_that_is_switched_off() {
    let Some(mut cluster) = Cluster::create(Timing::UNLIMITED) else { return };
    let pods = cluster.pods(&specs(1, 1));
    let launch = launch(Variant::Still).with("ENABLE_ORIG_SRC", "false");
    let _scene = Scene::start(Variant::Still, cluster, &launch);
    let _applications: Vec<_> = pods.iter().map(|pod| pod.greet(APPLICATION)).collect();
    for (from, to, seen) in [(0, 1, 1), (1, 0, 1)] {
        let call = pods[from].call(pods[to].at(APPLICATION)).expect("an answer");
        assert_eq!(call.seen(), pods[seen].at(0).ip(), "{}", pods[to].name());
        let call = pods[from].call(pods[to].at_v6(APPLICATION)).expect("an answer");
        assert_eq!(call.seen(), pods[seen].at_v6(0).ip(), "{}", pods[to].name());
    }
}
