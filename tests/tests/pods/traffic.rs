//! Who reaches whom, and who is seen.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use tests::cluster::{Cluster, KubeNode, PodSpec};
use tests::cni::Timing;
use tests::redirection::{PROBE_V4, PROBE_V6};
use tests::traffic::{all_whole, everything};
use tests::wait;
use tests::world::{Variant, log, log_line};

use crate::scene::{APPLICATION, CHECKED, Scene, launch, specs, sum, talk};

in_both_variants! {
    each_pod_reaches_each
    conversations_are_whole_to_the_last_byte
}

async fn each_pod_reaches_each(variant: Variant) {
    // Each pair has a tunnel, and in the moving variant all of them move all the time.
    let on_each = match variant {
        Variant::Still => 10,
        Variant::Moving => 4,
    };
    let Some((scene, pods)) = Scene::new(variant, &specs(on_each, on_each)) else { return };
    let _applications: Vec<_> = pods.iter().map(|pod| pod.greet(APPLICATION)).collect();
    let mut calls = 0.0;
    for (number, from) in pods.iter().enumerate() {
        for to in pods.iter().filter(|to| to.uid() != from.uid()) {
            let v4 = (number + calls as usize).is_multiple_of(2);
            let (target, source) =
                if v4 { (to.at(APPLICATION), from.at(0)) } else { (to.at_v6(APPLICATION), from.at_v6(0)) };
            let call = talk(from, target);
            assert_eq!((call.by(), call.seen()), (to.name(), source.ip()), "{} to {target}", from.name());
            calls += 1.0;
        }
    }
    // All of them in tunnels, and each was taken by both ends.
    for reporter in ["source", "destination"] {
        let opened = |security| {
            let labels = [("reporter", reporter), ("connection_security_policy", security)];
            [&scene.a, &scene.b].map(|node| sum(node, "istio_tcp_connections_opened_total", &labels))
        };
        assert_eq!(opened("mutual_tls"), [calls / 2.0, calls / 2.0], "{reporter}");
        assert_eq!(opened("unknown"), [0.0, 0.0], "{reporter}");
    }
    scene.check();
}

async fn conversations_are_whole_to_the_last_byte(variant: Variant) {
    let Some(mut cluster) = Cluster::create(Timing::UNLIMITED) else { return };
    let service = cluster.service("shop", &[(80, CHECKED)]);
    let mut wanted = specs(2, 1);
    wanted.push(PodSpec::new("shop", KubeNode::B).serving(&service));
    let pods = cluster.pods(&wanted);
    let [first, second, other, shop] = &pods[..] else { panic!("four pods") };
    let scene = Scene::start(variant, cluster, &launch(variant));
    let vips = service.addresses.iter().map(|ip| SocketAddr::new(*ip, 80)).collect();
    let servers = [second, shop].map(|pod| pod.serve(CHECKED));
    let traffic = [
        first.converse(vec![second.at(CHECKED), second.at_v6(CHECKED)], everything()),
        first.converse(vec![shop.at(CHECKED), shop.at_v6(CHECKED)], everything()),
        second.converse(vips, everything()),
        other.converse(vec![second.at_v6(CHECKED), second.at(CHECKED)], everything()),
    ];
    for traffic in &traffic {
        traffic.progress().await;
    }
    for traffic in traffic {
        traffic.finish();
    }
    for server in &servers {
        all_whole(server.tally()).await;
    }
    scene.check();
}

#[test]
fn a_service_leads_to_its_pods_on_both_nodes() {
    let Some(mut cluster) = Cluster::create(Timing::UNLIMITED) else { return };
    let service = cluster.service("shop", &[(80, APPLICATION)]);
    let pods = cluster.pods(&[
        PodSpec::new("client", KubeNode::A),
        PodSpec::new("near", KubeNode::A).serving(&service),
        PodSpec::new("far", KubeNode::B).serving(&service),
    ]);
    let scene = Scene::start(Variant::Moving, cluster, &launch(Variant::Moving));
    let _applications: Vec<_> = pods.iter().map(|pod| pod.greet(APPLICATION)).collect();
    for vip in &service.addresses {
        let mut by = BTreeSet::new();
        // That one endpoint is never taken has a chance of 2^-63.
        for _ in 0..64 {
            let call = talk(&pods[0], SocketAddr::new(*vip, 80));
            assert!([pods[0].at(0).ip(), pods[0].at_v6(0).ip()].contains(&call.seen()), "{}", call.seen());
            by.insert(call.by().to_owned());
        }
        assert_eq!(by, BTreeSet::from(["near".to_owned(), "far".to_owned()]), "{vip}");
    }
    scene.check();
}

#[tokio::test]
async fn pods_outside_of_the_mesh_and_the_kubelet_are_served_in_plain_text() {
    let mut wanted = specs(1, 0);
    wanted.push(PodSpec::new("plain", KubeNode::B).plain());
    let Some((scene, pods)) = Scene::new(Variant::Still, &wanted) else { return };
    let [pod, plain] = &pods[..] else { panic!("two pods") };
    let _applications = [pod, plain].map(|pod| pod.greet(APPLICATION));

    // The kubelet comes first: what follows it shows that its lines would be in the log by then.
    for (target, probe) in [(pod.at(APPLICATION), PROBE_V4.into()), (pod.at_v6(APPLICATION), PROBE_V6.into())]
    {
        let mut call = scene.cluster.probe(target).expect("an answer");
        call.exchange().expect("a connection");
        assert_eq!((call.by(), call.seen()), ("a-0", probe));
    }
    for (from, to) in [(plain, pod), (pod, plain)] {
        for (target, source) in [(to.at(APPLICATION), from.at(0)), (to.at_v6(APPLICATION), from.at_v6(0))] {
            let call = talk(from, target);
            assert_eq!((call.by(), call.seen()), (to.name(), source.ip()));
        }
    }
    for (reporter, direction) in [("source", "outbound"), ("destination", "inbound")] {
        let labels = [("reporter", reporter), ("connection_security_policy", "unknown")];
        wait::until(format!("both connections {direction} are over"), || {
            sum(&scene.a, "istio_tcp_connections_closed_total", &labels) == 2.0
        })
        .await;
        log_line(&scene.a, &["connection complete", &format!("direction=\"{direction}\"")]).await;
    }
    let probes = [PROBE_V4.to_string(), PROBE_V6.to_string()];
    assert!(!probes.iter().any(|probe| log(&scene.a).contains(probe)), "{}", log(&scene.a));
    scene.check();
}
