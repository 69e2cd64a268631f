//! Pods come and go, while others talk.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use demo::node::TUNNEL_PORT;
use tests::cluster::{KubeNode, Pod, PodSpec};
use tests::said::Since;
use tests::wait::{self, PATIENCE};
use tests::world::Variant;

use crate::scene::{APPLICATION, Conversations, Scene, specs, sum, talk};

in_both_variants! {
    the_others_notice_nothing
    a_running_pod_leaves_the_mesh
}

async fn the_others_notice_nothing(variant: Variant) {
    let Some((mut scene, pods)) = Scene::new(variant, &specs(2, 2)) else { return };
    let [near, peer, far, _] = &pods[..] else { panic!("four pods") };
    let _applications: Vec<_> = pods.iter().map(|pod| pod.greet(APPLICATION)).collect();
    let others = Conversations::round(&pods);
    others.go_on().await;
    for round in 0..3 {
        // The same name each time, with another uid, address and namespace.
        let (pod, consent) = scene.cluster.start_pod(PodSpec::new("guest", KubeNode::A));
        consent.expect("the proxy agrees");
        let application = pod.greet(APPLICATION);
        // istiod's word of it may be on its way to the other node still.
        reachable(far, &pod).await;
        let calls = [
            talk(near, pod.at(APPLICATION)),
            talk(far, pod.at_v6(APPLICATION)),
            talk(&pod, peer.at_v6(APPLICATION)),
            talk(&pod, far.at(APPLICATION)),
        ];
        others.go_on().await;
        let since = Since::now(&scene.a);
        scene.cluster.end_pod(&pod);
        for (number, call) in calls.into_iter().enumerate() {
            // Its own applications lose their network with it: they see nothing.
            if number < 2 {
                call.ended();
            }
        }
        for direction in ["inbound", "outbound"] {
            let parts = ["connection complete", "the pod has left the node", "guest", direction];
            since.line("error", &parts).await;
        }
        let strangers: Vec<_> = since.lines("error", &["the pod has left the node"]);
        assert!(strangers.iter().all(|line| line.contains("guest")), "{strangers:#?}");
        drop(application);
        others.go_on().await;
        assert_eq!(sum(&scene.a, "workload_manager_proxies_stopped_total", &[]), f64::from(round + 1));
    }
    others.finish().await;
    scene.check();
}

/// Waits until istiod's word of a pod is everywhere.
async fn reachable(from: &Pod, to: &Pod) {
    let target = to.at_v6(APPLICATION);
    wait::until(format!("{} reaches {target} by a tunnel", from.name()), || {
        from.call(target).is_ok_and(|call| call.by() == to.name())
    })
    .await;
}

#[tokio::test]
async fn a_pod_in_another_namespace_is_another_one() {
    let mut wanted = specs(3, 1);
    // Made by hand below.
    wanted.push(PodSpec::new("spare", KubeNode::A).plain());
    let Some((scene, pods)) = Scene::new(Variant::Moving, &wanted) else { return };
    let [moving, others @ .., spare] = &pods[..] else { panic!("five pods") };
    let _application = moving.greet(APPLICATION);
    let conversations = Conversations::round(others);
    let call = talk(&others[0], moving.at(APPLICATION));
    conversations.go_on().await;
    assert!(listens(moving) && !listens(spare));

    let cni = scene.cluster.cni(KubeNode::A);
    cni.add(moving.uid(), moving.info(), spare.namespace()).expect("the proxy agrees");
    assert!(!call.ended(), "a reset: the application did not end it");
    assert!(!listens(moving) && listens(spare));
    assert_eq!(sum(&scene.a, "workload_manager_active_proxy_count", &[]), 3.0);
    // The same again changes nothing.
    cni.add(moving.uid(), moving.info(), spare.namespace()).expect("the proxy agrees");
    assert!(listens(spare));

    cni.add(moving.uid(), moving.info(), moving.namespace()).expect("the proxy agrees");
    assert!(listens(moving) && !listens(spare));
    talk(&others[0], moving.at(APPLICATION));
    talk(others.last().expect("three pods"), moving.at_v6(APPLICATION));
    conversations.go_on().await;
    conversations.finish().await;
    scene.check();
}

/// Whether somebody listens for tunnels in the namespace of `pod`.
fn listens(pod: &Pod) -> bool {
    let tunnels = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), TUNNEL_PORT);
    pod.place()
        .run(|| TcpStream::connect_timeout(&tunnels, PATIENCE).is_ok())
        .expect("the namespace is there")
}

async fn a_running_pod_leaves_the_mesh(variant: Variant) {
    let Some((mut scene, pods)) = Scene::new(variant, &specs(3, 2)) else { return };
    let [leaving, others @ ..] = &pods[..] else { panic!("pods") };
    let _applications: Vec<_> = pods.iter().map(|pod| pod.greet(APPLICATION)).collect();
    let conversations = Conversations::round(others);
    conversations.go_on().await;
    let far = others.last().expect("pods");
    let inward = [talk(&others[0], leaving.at(APPLICATION)), talk(far, leaving.at_v6(APPLICATION))];
    let outward = [talk(leaving, others[0].at(APPLICATION)), talk(leaving, far.at_v6(APPLICATION))];
    let since = Since::now(&scene.a);
    scene.cluster.unenrol(leaving);
    for call in inward {
        assert!(!call.ended(), "a reset: no application ended it");
    }
    let out =
        |line: &String| line.contains("src.workload=\"a-0\"") && line.contains("direction=\"outbound\"");
    wait::until("the connections of the pod end", || {
        since.lines("error", &["the pod has left the node"]).into_iter().filter(out).count() == 2
    })
    .await;
    drop(outward);
    assert!(!listens(leaving), "nobody takes tunnels there");
    // Out in plain text at once; in, as soon as the others have heard of it.
    let out = talk(leaving, far.at(APPLICATION));
    assert_eq!(out.seen(), leaving.at(0).ip());
    wait::until("plain text leads in", || {
        [&others[0], far].iter().all(|from| from.call(leaving.at(APPLICATION)).is_ok())
    })
    .await;
    conversations.go_on().await;
    conversations.finish().await;
    scene.check();
}
