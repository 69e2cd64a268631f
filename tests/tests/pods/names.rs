//! What pods ask names for is answered from the mesh, or by the name server that the proxy knows.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use tests::cluster::dns::{RecordType, Transport, ask};
use tests::cluster::{Cluster, KubeNode, NAME_SERVER, PodSpec};
use tests::cni::Timing;
use tests::world::Variant;

use crate::scene::{APPLICATION, Scene, launch, specs, sum};

#[test]
fn names_of_the_mesh_are_answered_to_each_pod() {
    let Some(mut cluster) = Cluster::create(Timing::UNLIMITED) else { return };
    let service = cluster.service("shop", &[(80, APPLICATION)]);
    let headless = cluster.headless_service("members", &[(80, APPLICATION)]);
    let mut wanted = specs(2, 1);
    wanted.extend(
        ["near", "far"]
            .into_iter()
            .zip([KubeNode::A, KubeNode::B])
            .map(|(name, node)| PodSpec::new(name, node).serving(&service).serving(&headless)),
    );
    let pods = cluster.pods(&wanted);
    let [clients @ .., near, far] = &pods[..] else { panic!("five pods") };
    let mut scene = Scene::start(Variant::Moving, cluster, &launch(Variant::Moving));
    let _applications = [near, far].map(|pod| pod.greet(APPLICATION));
    // What is known stays known.
    scene.certified(&pods);
    for istiod in ["runs", "is away"] {
        for pod in clients {
            for (name, transport) in [
                ("shop", Transport::Udp),
                ("shop.demo", Transport::Tcp),
                ("shop.demo.svc", Transport::Udp),
                ("Shop.Demo.svc.cluster.local.", Transport::Tcp),
            ] {
                for (record, vip) in [RecordType::A, RecordType::Aaaa].into_iter().zip(&service.addresses) {
                    let answer = ask(pod.place(), NAME_SERVER, transport, name, record).expect("an answer");
                    assert_eq!((answer.code, answer.authoritative), (0, true), "{name}, istiod {istiod}");
                    assert_eq!(answer.addresses(), [*vip], "{name}, istiod {istiod}");
                }
            }
            let members = pod.ask("members.demo.svc.cluster.local", RecordType::A).expect("an answer");
            let members = BTreeSet::from_iter(members.addresses());
            assert_eq!(members, BTreeSet::from([near.at(0).ip(), far.at(0).ip()]));
            let call = pod.call_name("shop.demo", 80).expect("an answer");
            assert!(["near", "far"].contains(&call.by()) && call.seen() == pod.at(0).ip());
        }
        scene.cluster.istiod_mut().kill();
    }
    let asked = scene.cluster.name_server().asked();
    assert!(asked.is_empty(), "the world was asked for names of the mesh: {asked:?}");
    for node in [&scene.a, &scene.b] {
        assert!(sum(node, "istio_dns_requests_total", &[]) > 0.0);
        assert_eq!(sum(node, "istio_dns_upstream_requests_total", &[]), 0.0);
    }
    scene.check();
}

#[test]
fn other_names_are_asked_for_from_the_pods_own_network() {
    let Some((scene, pods)) = Scene::new(Variant::Still, &specs(1, 1)) else { return };
    let server = scene.cluster.name_server();
    server.know("known.example", OUTSIDE);
    for pod in &pods {
        for transport in [Transport::Udp, Transport::Tcp] {
            let ask =
                |name, record| ask(pod.place(), NAME_SERVER, transport, name, record).expect("an answer");
            let known = ask("known.example", RecordType::A);
            assert_eq!((known.code, known.addresses()), (0, vec![OUTSIDE]), "{transport:?}");
            let of_another_type = ask("known.example", RecordType::Mx);
            assert_eq!((of_another_type.code, of_another_type.records.len()), (0, 0));
            assert_eq!(ask("unknown.example", RecordType::Aaaa).code, 3);
        }
        let asked = server.asked();
        let from: Vec<_> = asked.iter().filter(|question| question.from == pod.at(0).ip()).collect();
        assert_eq!(from.len(), 6, "{asked:?}");
        assert!(from.iter().all(|question| question.name.ends_with("known.example")), "{from:?}");
    }
    assert_eq!(server.asked().len(), 12);
    scene.check();
}

#[test]
fn a_pod_that_leaves_the_mesh_asks_for_itself() {
    let Some((mut scene, pods)) = Scene::new(Variant::Still, &specs(2, 0)) else { return };
    let outside = scene.cluster.name_server_address();
    scene.cluster.name_server().know("known.example", OUTSIDE);
    scene.cluster.unenrol(&pods[0]);
    for pod in &pods {
        let answer = ask(pod.place(), outside, Transport::Udp, "known.example", RecordType::A);
        assert_eq!(answer.expect("an answer").addresses(), [OUTSIDE]);
    }
    assert_eq!(sum(&scene.a, "istio_dns_requests_total", &[]), 1.0, "only one pod is the proxy's business");
    scene.check();
}

const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
