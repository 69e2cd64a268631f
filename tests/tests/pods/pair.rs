//! Two proxies on one node: one of them has come to take the place of the other.

use demo::node::Node;
use rustix::process::Signal;
use tests::cluster::{KubeNode, PodSpec};
use tests::cni::UpdateError;
use tests::said::Since;
use tests::wait;
use tests::world::{Variant, check};

use crate::scene::{APPLICATION, Conversations, Scene, launch, send, specs, sum, talk};

in_both_variants! {
    both_serve_the_pods
    one_of_them_drains
}

async fn both_serve_the_pods(variant: Variant) {
    let Some((mut scene, pods)) = Scene::new(variant, &specs(3, 1)) else { return };
    let _applications: Vec<_> = pods.iter().map(|pod| pod.greet(APPLICATION)).collect();
    let conversations = Conversations::round(&pods);
    conversations.go_on().await;
    let second = scene.cluster.proxy(KubeNode::A, &launch(variant).confined());
    assert_eq!([active(&scene.a), active(&second)], [3.0, 3.0]);
    // What the kernel leads to either of them.
    let calls: Vec<_> = (0..40)
        .map(|number| {
            let (from, to) = (&pods[number % 4], &pods[(number + 1) % 4]);
            talk(from, if number % 8 < 4 { to.at(APPLICATION) } else { to.at_v6(APPLICATION) })
        })
        .collect();
    let opened = sum(&second, "istio_tcp_connections_opened_total", &[]);
    assert!(opened > 0.0, "the other one is led to, as well");

    // Only the latest hears of a new pod, both of its end.
    let (pod, consent) = scene.cluster.start_pod(PodSpec::new("guest", KubeNode::A));
    consent.expect("the latest agrees");
    assert_eq!([active(&scene.a), active(&second)], [3.0, 4.0]);
    let application = pod.greet(APPLICATION);
    talk(&pod, pods[3].at(APPLICATION));
    wait::until("the new pod is reached", || pods[0].call(pod.at(APPLICATION)).is_ok()).await;
    drop(application);
    scene.cluster.end_pod(&pod);
    assert_eq!([active(&scene.a), active(&second)], [3.0, 3.0]);

    for mut call in calls {
        call.exchange().expect("the connections go on");
    }
    conversations.go_on().await;
    conversations.finish().await;
    check(variant, &second);
    scene.check();
}

async fn one_of_them_drains(variant: Variant) {
    let Some((mut scene, pods)) = Scene::new(variant, &specs(3, 1)) else { return };
    let _applications: Vec<_> = pods.iter().map(|pod| pod.greet(APPLICATION)).collect();
    // The pod between them will go.
    let conversations = Conversations::round(&[pods[0].clone(), pods[1].clone(), pods[3].clone()]);
    conversations.go_on().await;
    let launch = launch(variant).with("CONNECTION_TERMINATION_DEADLINE", "20s");
    let mut second = scene.cluster.proxy(KubeNode::A, &launch);
    // So many that both have some.
    let calls: Vec<_> = (0..40).map(|number| talk(&pods[number % 3], pods[3].at(APPLICATION))).collect();

    let since = Since::now(&second);
    send(Signal::TERM, &second);
    // It has seen that it isn't alone, and says so when nothing of its listeners is left.
    since.line("info", &["another proxy listens in the pods"]).await;
    since.line("info", &["draining", "time_left"]).await;
    let (refused, consent) = scene.cluster.start_pod(PodSpec::new("refused", KubeNode::A));
    let consent = consent.expect_err("the latest is on its way out");
    assert!(matches!(&consent, UpdateError::Refused(why) if why == "draining"), "{consent}");
    for number in 0..20 {
        let (from, to) = (&pods[number % 4], &pods[(number + 1) % 4]);
        talk(from, to.at(APPLICATION));
    }
    scene.cluster.end_pod(&refused);
    let stopped = sum(&second, "workload_manager_active_proxy_count", &[]);
    scene.cluster.cni(KubeNode::A).delete(pods[2].uid()).expect("both answer");
    assert_eq!([active(&scene.a), active(&second)], [2.0, stopped - 1.0], "the end of a pod is obeyed");

    drop(calls);
    wait::until("it ends", || second.check_alive().is_err()).await;
    // istio-cni sees that it is gone when it next looks.
    wait::until("the first one is the latest again", || {
        let again = scene.cluster.cni(KubeNode::A).add(pods[2].uid(), pods[2].info(), pods[2].namespace());
        again.is_ok()
    })
    .await;
    assert_eq!(active(&scene.a), 3.0);
    talk(&pods[3], pods[2].at(APPLICATION));
    conversations.go_on().await;
    conversations.finish().await;
    scene.check();
}

fn active(node: &Node) -> f64 {
    sum(node, "workload_manager_active_proxy_count", &[])
}
