//! istio-cni comes back, errs, and names pods that cannot be served.

use std::fs::File;
use std::sync::Arc;

use demo::node::{Node, READINESS_PORT};
use rustix::process::Signal;
use serde_json::Value;
use tests::cluster::{Cluster, KubeNode, Pod, PodSpec};
use tests::cni::message::WorkloadInfo;
use tests::cni::{Fault, PacketError, Timing, UpdateError};
use tests::said::{Since, dump};
use tests::wait;
use tests::world::Variant;

use crate::scene::{APPLICATION, Conversations, Scene, is_ready, launch, send, specs, sum, talk};

in_both_variants! {
    istio_cni_is_away
    what_istio_cni_does_wrong_touches_no_connection
}

async fn istio_cni_is_away(variant: Variant) {
    let Some((mut scene, pods)) = Scene::new(variant, &specs(3, 1)) else { return };
    let _applications: Vec<_> = pods.iter().map(|pod| pod.greet(APPLICATION)).collect();
    let conversations = Conversations::round(&pods);
    conversations.go_on().await;
    let since = Since::now(&scene.a);
    assert_eq!(sum(&scene.a, "ztunnel_zds_connected", &[]), 1.0);

    scene.cluster.cni_mut(KubeNode::A).stop();
    wait::until("the proxy is not ready", || !is_ready(&scene.a)).await;
    let page = scene.a.page(READINESS_PORT, "/healthz/ready").expect("a page");
    assert!(page.body.contains("workload proxy manager"), "{}", page.body);
    assert_eq!(sum(&scene.a, "ztunnel_zds_connected", &[]), 0.0);
    assert_eq!(sum(&scene.a, "workload_manager_active_proxy_count", &[]), 3.0);
    talk(&pods[0], pods[1].at(APPLICATION));
    talk(&pods[3], pods[2].at_v6(APPLICATION));
    conversations.go_on().await;

    scene.cluster.cni_mut(KubeNode::A).restart().expect("it listens");
    ready(&scene.a).await;
    assert_eq!(sum(&scene.a, "ztunnel_zds_connected", &[]), 1.0);
    assert_eq!(sum(&scene.a, "workload_manager_active_proxy_count", &[]), 3.0);
    assert_eq!(sum(&scene.a, "workload_manager_proxies_started_total", &[]), 3.0, "none was begun anew");
    since.one_warning(&["istio-cni", "pods are served as before"]);

    // Its own memory may be shorter than the pods' lives: those whose namespaces it has lost are kept, others go.
    let cni = scene.cluster.cni_mut(KubeNode::A);
    cni.lose_namespace(pods[0].uid());
    cni.restart().expect("it listens");
    ready(&scene.a).await;
    assert_eq!(sum(&scene.a, "ztunnel_zds_messages_total", &[("type", "keep"), ("result", "acked")]), 1.0);
    assert_eq!(sum(&scene.a, "workload_manager_active_proxy_count", &[]), 3.0);
    conversations.go_on().await;
    conversations.finish().await;
    scene.check();
}

async fn ready(node: &Node) {
    wait::until("the proxy is ready", || is_ready(node)).await;
}

async fn what_istio_cni_does_wrong_touches_no_connection(variant: Variant) {
    let Some((mut scene, pods)) = Scene::new(variant, &specs(3, 1)) else { return };
    let _applications: Vec<_> = pods.iter().map(|pod| pod.greet(APPLICATION)).collect();
    let conversations = Conversations::round(&pods);
    conversations.go_on().await;
    let faults = [
        Fault::Garbage,
        Fault::Half,
        Fault::Oversized,
        Fault::NoDescriptor,
        Fault::TwoDescriptors,
        Fault::StrayDescriptor,
        Fault::NoWorkload,
        Fault::Close,
    ];
    for fault in faults {
        // In the news of a pod: the next snapshot has it whole.
        scene.cluster.cni(KubeNode::A).spoil(0, fault);
        let before = scene.cluster.cni(KubeNode::A).statistics().snapshots;
        let (pod, consent) = scene.cluster.start_pod(PodSpec::new("guest", KubeNode::A));
        consent.expect_err(&format!("{fault:?}"));
        let cni = scene.cluster.cni(KubeNode::A);
        wait::until(format!("after {fault:?} all is told again"), || cni.statistics().snapshots > before)
            .await;
        ready(&scene.a).await;
        assert_eq!(sum(&scene.a, "workload_manager_active_proxy_count", &[]), 4.0, "{fault:?}");
        found_out(&scene, &pod).await;
        scene.cluster.end_pod(&pod);
        assert_eq!(sum(&scene.a, "workload_manager_active_proxy_count", &[]), 3.0, "{fault:?}");
    }
    // In the middle of a snapshot.
    for fault in [Fault::Garbage, Fault::Close, Fault::NoDescriptor] {
        let cni = scene.cluster.cni_mut(KubeNode::A);
        let before = cni.statistics().snapshots;
        cni.spoil(1, fault);
        cni.restart().expect("it listens");
        wait::until(format!("after {fault:?} all is told again"), || cni.statistics().snapshots > before)
            .await;
        ready(&scene.a).await;
        assert_eq!(sum(&scene.a, "workload_manager_active_proxy_count", &[]), 3.0, "{fault:?}");
    }
    conversations.go_on().await;

    // One that falls silent there leaves the proxy waiting, and the pods alone.
    let cni = scene.cluster.cni_mut(KubeNode::A);
    cni.spoil(1, Fault::Hang);
    let accepted = cni.statistics().hellos;
    cni.restart().expect("it listens");
    wait::until("the proxy has come back", || cni.statistics().hellos > accepted).await;
    assert!(!is_ready(&scene.a));
    talk(&pods[0], pods[3].at(APPLICATION));
    conversations.go_on().await;
    assert!(!is_ready(&scene.a));
    scene.cluster.cni_mut(KubeNode::A).restart().expect("it listens");
    ready(&scene.a).await;

    assert_eq!(sum(&scene.a, "workload_manager_proxies_started_total", &[]), 3.0 + faults.len() as f64);
    conversations.go_on().await;
    conversations.finish().await;
    scene.check();
}

/// Ends a pod. That connections broke shows only when something is said to them.
async fn found_out(scene: &Scene, pod: &Pod) {
    let cni = scene.cluster.cni(KubeNode::A);
    wait::until("all connections answer", || cni.delete(pod.uid()).is_ok()).await;
}

#[tokio::test]
async fn a_pod_that_cannot_be_served_is_tried_again() {
    let Some(mut cluster) = Cluster::create(Timing::UNLIMITED) else { return };
    let pods = cluster.pods(&specs(1, 1));
    let _application = pods[0].greet(APPLICATION);
    // The second try is no news for operators; the test wants to see it.
    let launch = launch(Variant::Still).with("RUST_LOG", "info,ztunnel::zds=debug");
    let scene = Scene::start(Variant::Still, cluster, &launch);
    let (node, cni) = (&scene.b, scene.cluster.cni(KubeNode::B));
    let since = Since::now(node);
    let info = WorkloadInfo { name: "broken".to_owned(), ..pods[1].info() };
    let no_namespace = Arc::new(File::open("/dev/null").expect("a file"));

    let refusal = cni.add("broken-uid", info, no_namespace).expect_err("nobody can go there");
    assert!(
        matches!(&refusal, UpdateError::Refused(why) if why.contains("network namespace cannot be used")),
        "{refusal}"
    );
    wait::until("the proxy is not ready", || !is_ready(node)).await;
    let state = |uid: &str| dump(node)["workloadState"][uid]["state"].clone();
    assert_eq!(state("broken-uid"), Value::from("Pending"));
    assert_eq!(state(pods[1].uid()), Value::from("Up"));
    assert_eq!(sum(node, "workload_manager_pending_proxy_count", &[]), 1.0);
    assert_eq!(sum(node, "ztunnel_zds_messages_total", &[("type", "add"), ("result", "nacked")]), 1.0);
    talk(&pods[1], pods[0].at(APPLICATION));
    // After 5 s.
    since.line("debug", &["a pod can't be served", "broken"]).await;
    since.one_warning(&["a pod can't be served", "broken"]);
    assert!(!is_ready(node));

    cni.delete("broken-uid").expect("the proxy answers");
    ready(node).await;
    assert_eq!(state("broken-uid"), Value::Null);
    assert_eq!(sum(node, "workload_manager_pending_proxy_count", &[]), 0.0);
    scene.check();
}

#[tokio::test]
async fn a_proxy_that_stood_still_answers_nothing_late() {
    let Some((mut scene, pods)) = Scene::new(Variant::Still, &specs(2, 1)) else { return };
    let _applications: Vec<_> = pods.iter().map(|pod| pod.greet(APPLICATION)).collect();
    let conversations = Conversations::round(&pods);
    conversations.go_on().await;
    let before = scene.cluster.cni(KubeNode::A).statistics().snapshots;
    send(Signal::STOP, &scene.a);
    // istio-cni waits for 5 s, and would take a later answer for that to its next message.
    let (pod, consent) = scene.cluster.start_pod(PodSpec::new("guest", KubeNode::A));
    send(Signal::CONT, &scene.a);
    assert!(matches!(consent, Err(UpdateError::Packet(PacketError::Late))), "{consent:?}");
    let statistics = || scene.cluster.cni(KubeNode::A).statistics();
    wait::until("all is told again", || statistics().snapshots > before).await;
    ready(&scene.a).await;
    assert_eq!((statistics().late, statistics().mispaired), (1, 0));
    assert_eq!(sum(&scene.a, "workload_manager_active_proxy_count", &[]), 3.0);
    conversations.go_on().await;
    found_out(&scene, &pod).await;
    scene.cluster.end_pod(&pod);
    conversations.finish().await;
    scene.check();
}
