//! What comes with a push besides a policy, and when: what matters is judged, what does not is left alone.

use demo::node::READINESS_PORT;
use demo::traffic::{Dial, Plan};
use rustix::process::{Pid, Signal, kill_process};
use tests::said::{Since, dump, dumped};
use tests::traffic::{Traffic, all_whole, everything};
use tests::wait;
use tests::world::{Host, SERVICE, Variant, World};
use tokio::time::Instant;
use xds::Workload;
use xds::resource::HealthStatus;

use super::scene::{ALL, CHANGED, GUARDED, SOON, Scene, Who, guard, policy, selected, workload};
use crate::NODE;

in_both_variants! {
    a_workloads_own_list_alone_changes
    policies_arrive_with_the_workload_that_names_them
    a_drain_does_not_shut_policy_out
    the_workload_leaves_and_comes_back
}

async fn a_workloads_own_list_alone_changes(variant: Variant) {
    let world = World::new(NODE, variant);
    let scene = Scene::start(&world, &[]).await;
    scene.istiod.cluster().edit(|edit| edit.policy(&guard("WorkloadSelector")));
    wait::until("it is known", || dumped(&scene.server, "policies") == ["guard"]).await;
    let mut lives = scene.open_all().await;
    for live in &mut lives {
        live.talk().await;
    }

    let limit = Instant::now() + SOON;
    scene.istiod.cluster().edit(|edit| edit.workload(&selected(&world, Host::Server, &["demo/guard"])));
    for (mut live, (_, port)) in lives.into_iter().zip(ALL) {
        if port == GUARDED { live.cut_before(limit).await } else { live.talk().await }
    }
    scene.open(Who::Stock, GUARDED).await.err().expect("it is denied now");
    Since::start(&scene.server).line("error", &[CHANGED, "demo/guard"]).await;

    scene.istiod.cluster().edit(|edit| edit.workload(&selected(&world, Host::Server, &[])));
    scene.admitted(Who::Stock, GUARDED).await;
    scene.check();
}

/// The workload comes first, and names what nobody knows yet.
async fn policies_arrive_with_the_workload_that_names_them(variant: Variant) {
    let world = World::new(NODE, variant);
    let scene = Scene::start(&world, &[]).await;
    let mut lives = scene.open_all().await;
    let application = world.application(Host::Server);
    let servers = vec![application.address(), world.at(Host::Service, SERVICE)];
    let plan = Plan { fresh: 4, ..everything() };
    let traffic = Traffic::start(Dial::Socks5(scene.client.socks5()), servers, plan);
    traffic.progress().await;
    for push in 0..PUSHES {
        let opened = traffic.counts().opened;
        let name = format!("push-{push}");
        let harmless =
            policy(&name, "scope: WorkloadSelector, action: Deny, rules: [[[{destinationPorts: [9]}]]]");
        scene.istiod.cluster().edit(|edit| {
            edit.policy(&harmless);
            edit.workload(&selected(&world, Host::Server, &[harmless.key()]));
            edit.remove_policy(&format!("demo/push-{}", push - 1));
        });
        wait::until(format_args!("{name} is known"), || dumped(&scene.server, "policies") == [&*name]).await;
        wait::until("fresh connections come", || traffic.counts().opened > opened).await;
    }
    for live in &mut lives {
        live.talk().await;
    }
    traffic.progress().await;
    traffic.finish();
    all_whole(application.tally()).await;
    assert_eq!(scene.denied(), 0.0);
    scene.check();
}

async fn a_drain_does_not_shut_policy_out(variant: Variant) {
    let world = World::new(NODE, variant);
    let scene = Scene::start(&world, &[("CONNECTION_TERMINATION_DEADLINE", "120s")]).await;
    let lives = scene.open_all().await;
    let id = i32::try_from(scene.server.id()).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(id, Signal::TERM).expect("our own child");
    wait::until("it drains", || {
        scene.server.page(READINESS_PORT, "/healthz/ready").is_ok_and(|answer| answer.status == 500)
    })
    .await;
    Since::start(&scene.server).line("info", &["draining"]).await;

    let limit = Instant::now() + SOON;
    scene.istiod.cluster().edit(|edit| edit.policy(&guard("Namespace")));
    // With the last of them the process would end.
    let mut left = Vec::new();
    for (mut live, (_, port)) in lives.into_iter().zip(ALL) {
        if port == GUARDED {
            live.cut_before(limit).await;
        } else {
            live.talk().await;
            left.push(live);
        }
    }
    wait::until("both are counted", || scene.denied() == 2.0).await;
    scene.check();
}

async fn the_workload_leaves_and_comes_back(variant: Variant) {
    let world = World::new(NODE, variant);
    let mut scene = Scene::start(&world, &[]).await;
    let lives = [scene.open(Who::Stock, GUARDED).await, scene.open(Who::Client, GUARDED).await];
    let server = workload(&world, Host::Server);
    let limit = Instant::now() + SOON;
    scene.istiod.cluster().edit(|edit| edit.remove(&server.uid));
    for live in lives {
        live.expect("nothing forbids it").lost_before(limit).await;
    }
    let reason = ["connection complete", "connection closed: the workload is no longer in the mesh"];
    let log = Since::start(&scene.server);
    wait::until("both are told", || log.lines("error", &reason).len() == 2).await;

    scene.istiod.cluster().edit(|edit| edit.workload(&server));
    wait::until("it is known again", || {
        [&scene.client, &scene.server].iter().all(|node| dumped(node, "workloads").contains(&"server".into()))
    })
    .await;
    scene.dial_again().await;
    scene.admitted(Who::Stock, GUARDED).await;
    scene.admitted(Who::Client, GUARDED).await;
    scene.check();
}

/// Tunnels stay where they are: one that arrives is judged in any case.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_thousand_changes_of_others_concern_nobody() {
    let world = World::new(NODE, Variant::Still);
    let scene = Scene::start(&world, &[]).await;
    let mut lives = scene.open_all().await;
    let judged = || scene.count("ztunnel_rechecks_total", &[]);
    let before = judged();
    let told = || {
        let addresses = scene.istiod.replica().statistics().addresses;
        assert!(addresses.nacks.is_empty(), "{:?}", addresses.nacks);
        addresses.acks
    };
    for change in 0..CHANGES {
        let acknowledged = told();
        let status = if change % 2 == 0 { HealthStatus::Unhealthy } else { HealthStatus::Healthy };
        let mut spec = (*workload(&world, Host::Plain)).clone();
        spec.status = status;
        scene.istiod.cluster().edit(|edit| edit.workload(&Workload::new(spec).expect("a workload")));
        let begun = Instant::now();
        // Both nodes: else changes would be told as one.
        while told() < acknowledged + 2 {
            assert!(begun.elapsed() < wait::PATIENCE, "change {change} is not acknowledged");
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(dump(&scene.server)["workloads"].as_array().map(Vec::len), Some(4));
    for live in &mut lives {
        live.talk().await;
    }

    // What comes last is judged last: so everything before it was, too.
    scene
        .istiod
        .cluster()
        .edit(|edit| edit.policy(&policy("last", "scope: Global, action: Deny, rules: []")));
    wait::until("a policy concerns everybody", || judged() > before).await;
    wait::until("all are judged", || judged() >= before + ALL.len() as f64).await;
    assert_eq!(judged(), before + ALL.len() as f64, "judged for nothing");
    assert_eq!(scene.denied(), 0.0);
    scene.check();
}

const PUSHES: i32 = 50;
const CHANGES: usize = 1_000;
