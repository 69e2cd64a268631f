//! Pods of one node have a proxy in common, and nothing else.

use std::time::Duration;

use tests::cluster::{Greeter, KubeNode, Pod, PodSpec};
use tests::said::Since;
use tests::wait;
use tests::world::{Variant, identity};
use xds::Identity;

use crate::scene::{APPLICATION, Conversations, Scene, certificate_state, specs, talk};

in_both_variants! {
    each_pod_proves_its_own_identity
    a_policy_cuts_the_connections_of_its_pod
}

async fn each_pod_proves_its_own_identity(variant: Variant) {
    let Some((mut scene, pods)) = Scene::new(variant, &specs(3, 1)) else { return };
    let [clients @ .., server] = &pods[..] else { panic!("pods") };
    // A port for each, which is closed to the others.
    let port = |number: usize| APPLICATION + u16::try_from(number).expect("a port");
    for (number, client) in clients.iter().enumerate() {
        let principal = format!("cluster.local/ns/demo/sa/{}", client.name());
        scene.cluster.add_policy(&allow(client.name(), port(number), &principal));
    }
    let _applications: Vec<_> = (0..clients.len())
        .map(|number| Greeter::start(server.place(), server.name(), port(number)))
        .collect::<Result<_, _>>()
        .expect("free ports");
    // All policies are known once the first client is kept from the last port.
    let last = clients.len() - 1;
    wait::until("the policies are known", || {
        clients[0].call(server.at(port(last))).is_err() && clients[last].call(server.at(port(0))).is_err()
    })
    .await;
    let since = Since::now(&scene.b);
    let mut calls = Vec::new();
    for _ in 0..3 {
        for (client, pod) in clients.iter().enumerate() {
            for number in 0..clients.len() {
                if client == number {
                    calls.push(talk(pod, server.at(port(number))));
                } else {
                    let call = pod.call(server.at(port(number)));
                    assert!(call.is_err(), "{} is let in as somebody else", pod.name());
                }
            }
        }
    }
    drop(calls);
    for (number, client) in clients.iter().enumerate() {
        let target = format!("dst.hbone_addr={}", server.at(port(number)));
        let own = format!("src.identity=\"{}\"", identity(client.name()));
        since.line("info", &["connection complete", &target, &own]).await;
        let all = since.lines("info", &["connection complete", &target]);
        assert!(all.iter().all(|line| line.contains(&own)), "{all:#?}");
    }
    scene.check();
}

/// Connections to `port` are allowed to this principal alone.
fn allow(name: &str, port: u16, principal: &str) -> String {
    format!(
        r#"{{"name":"{name}","namespace":"demo","scope":"Namespace","action":"Allow","rules":[[[{{"destinationPorts":[{port}],"principals":[{{"Exact":"{principal}"}}]}}]]]}}"#
    )
}

async fn a_policy_cuts_the_connections_of_its_pod(variant: Variant) {
    let Some((mut scene, pods)) = Scene::new(variant, &specs(2, 3)) else { return };
    let [others @ .., victim] = &pods[..] else { panic!("pods") };
    let _application = victim.greet(APPLICATION);
    let conversations = Conversations::round(others);
    let calls = [talk(&others[0], victim.at(APPLICATION)), talk(&others[2], victim.at_v6(APPLICATION))];
    conversations.go_on().await;
    let since = Since::now(&scene.b);
    let addresses = [victim.at(0), victim.at_v6(0)].map(|address| match address.ip() {
        ip if ip.is_ipv4() => format!("\"{ip}/32\""),
        ip => format!("\"{ip}/128\""),
    });
    scene.cluster.add_policy(&format!(
        r#"{{"name":"closed","namespace":"demo","scope":"Namespace","action":"Deny","rules":[[[{{"destinationIps":[{}]}}]]]}}"#,
        addresses.join(",")
    ));
    for call in calls {
        assert!(!call.ended(), "a reset");
    }
    assert_eq!(since.lines("error", &["connection closed due to policy change"]).len(), 2);
    assert!(others[1].call(victim.at(APPLICATION)).is_err());
    conversations.go_on().await;
    conversations.finish().await;
    scene.check();
}

#[tokio::test]
async fn a_certificate_lives_as_long_as_a_pod_needs_it() {
    let mut wanted = specs(1, 1);
    wanted.extend(["twin-0", "twin-1"].map(|name| PodSpec::new(name, KubeNode::A).account("twin")));
    let Some((mut scene, pods)) = Scene::new(Variant::Still, &wanted) else { return };
    let twin: Identity = identity("twin").parse().expect("an identity");
    // Nobody has asked for a connection.
    for account in ["a-0", "twin"] {
        wait::until(format!("there is a certificate of {account}"), || {
            certificate_state(&scene.a, account) == Some("Available".to_owned())
        })
        .await;
    }
    assert_eq!(certificate_state(&scene.a, "b-0"), None, "it is no business of this node");
    assert_eq!(scene.cluster.istiod().authority().signed(&twin), 1, "one for both pods");

    scene.cluster.end_pod(&pods[2]);
    let _application = pods[1].greet(APPLICATION);
    talk(&pods[3], pods[1].at(APPLICATION));
    assert_eq!(
        certificate_state(&scene.a, "twin"),
        Some("Available".to_owned()),
        "the other one is here still"
    );
    scene.cluster.end_pod(&pods[3]);
    wait::until_within(Duration::from_secs(20), "the certificate is forgotten", || {
        certificate_state(&scene.a, "twin").is_none()
    })
    .await;
    assert_eq!(certificate_state(&scene.a, "a-0"), Some("Available".to_owned()));

    // It comes back with the next one.
    let (again, consent) = scene.cluster.start_pod(PodSpec::new("twin-2", KubeNode::A).account("twin"));
    consent.expect("the proxy agrees");
    talk_soon(&again, &pods[1]).await;
    assert_eq!(scene.cluster.istiod().authority().signed(&twin), 2);
    scene.check();
}

async fn talk_soon(from: &Pod, to: &Pod) {
    wait::until("they talk", || from.call(to.at(APPLICATION)).is_ok()).await;
}
