//! Policies of every kind: which connections each of them closes.

use demo::traffic::Dial;
use http::StatusCode;
use tests::said::{Since, dumped};
use tests::traffic::{Traffic, all_whole, everything};
use tests::wait;
use tests::world::{Host, SERVICE, Variant, World};
use tokio::time::Instant;

use super::scene::{ALL, CHANGED, GUARDED, OPEN, Refused, SOON, Scene, Who, policy};
use crate::NODE;

in_both_variants! {
    what_a_policy_forbids_is_closed_and_nothing_else
}

/// A policy, and whom it forbids.
struct Row {
    name: &'static str,
    policy: String,
    forbids: fn(Who, u16) -> bool,
}

fn rows(world: &World) -> Vec<Row> {
    let row = |name, policy, forbids| Row { name, policy, forbids };
    let deny = |scope, rules: &str| format!("scope: {scope}, action: Deny, rules: {rules}");
    let allow = |rules: &str| format!("scope: Namespace, action: Allow, rules: {rules}");
    let client = world.ip(Host::Client);
    let account = |name| format!("principals: [Exact: cluster.local/ns/demo/sa/{name}]");
    let guarded = format!("destinationPorts: [{GUARDED}]");
    let others = format!("notDestinationPorts: [{GUARDED}]");
    let is_guarded: fn(Who, u16) -> bool = |_, port| port == GUARDED;
    vec![
        row("principal", deny("Namespace", &format!("[[[{{{}}}]]]", account("stock"))), |who, _| {
            who == Who::Stock
        }),
        row(
            "address",
            deny("Global", &format!("[[[{{sourceIps: [{client}/32], {guarded}}}]]]")),
            |who, port| who == Who::Client && port == GUARDED,
        ),
        row("port", deny("Namespace", &format!("[[[{{{guarded}}}]]]")), is_guarded),
        row(
            "allow",
            allow(&format!("[[[{{{}}}]], [[{{destinationPorts: [{OPEN}]}}]]]", account("client"))),
            |who, port| who == Who::Stock && port == GUARDED,
        ),
        // What only a layer 7 proxy could judge.
        row("opaque-deny", deny("Global", &format!("[[[{{{guarded}}}], [{{}}]]]")), is_guarded),
        row("opaque-allow", allow(&format!("[[[{{{others}}}]], [[{{}}]]]")), is_guarded),
        row("dry-run", format!("{}, dryRun: true", deny("Global", "[[]]")), |_, _| false),
    ]
}

async fn what_a_policy_forbids_is_closed_and_nothing_else(variant: Variant) {
    let world = World::new(NODE, variant);
    let scene = Scene::start(&world, &[]).await;
    let application = world.application(Host::Server);
    let servers = vec![application.address(), world.at(Host::Service, SERVICE)];
    let traffic = Traffic::start(Dial::Socks5(scene.client.socks5()), servers, everything());
    for row in rows(&world) {
        closes(&scene, &row).await;
        traffic.progress().await;
    }
    traffic.finish();
    all_whole(application.tally()).await;
    scene.check();
}

async fn closes(scene: &Scene<'_>, Row { name, policy: rest, forbids }: &Row) {
    let lives = scene.open_all().await;
    let log = Since::now(&scene.server);
    let (denied, judged) = (scene.denied(), scene.count("ztunnel_rechecks_total", &[]));
    let limit = Instant::now() + SOON;
    scene.istiod.cluster().edit(|edit| edit.policy(&policy(name, rest)));

    let mut left = Vec::new();
    let mut closed = 0;
    for (live, (who, port)) in lives.into_iter().zip(ALL) {
        if forbids(who, port) {
            live.cut_before(limit).await;
            closed += 1;
        } else {
            left.push(live);
        }
    }
    wait::until(format_args!("{name} is known"), || {
        dumped(&scene.server, "policies").contains(&(*name).into())
    })
    .await;
    wait::until(format_args!("all are judged by {name}"), || {
        scene.count("ztunnel_rechecks_total", &[]) >= judged + ALL.len() as f64
    })
    .await;
    for live in &mut left {
        live.talk().await;
    }
    let told = || log.lines("error", &["connection complete", CHANGED]).len();
    wait::until(format_args!("{name}: each is told"), || told() == closed).await;
    wait::until(format_args!("{name}: each is counted"), || scene.denied() == denied + closed as f64).await;

    // New ones.
    for (who, port) in ALL {
        let refused = match who {
            _ if !forbids(who, port) => None,
            Who::Client => Some(Refused::Ended),
            Who::Stock => Some(Refused::Status(StatusCode::UNAUTHORIZED)),
        };
        assert_eq!(scene.open(who, port).await.err(), refused, "{name}: {who:?} to {port}");
    }
    assert_eq!(told(), closed, "{name}: one more is closed");
    scene.istiod.cluster().edit(|edit| edit.remove_policy(&format!("demo/{name}")));
    for (who, port) in ALL {
        scene.admitted(who, port).await;
    }
    for live in &mut left {
        live.talk().await;
    }
}
