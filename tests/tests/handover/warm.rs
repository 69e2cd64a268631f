//! What a successor knows from the start, because its predecessor told it: the mesh, and what was counted.

use std::collections::BTreeMap;

use demo::node::{METRICS_PORT, Node, READINESS_PORT};
use tests::daemonset::{run, settle};
use tests::istiod::synced;
use tests::longlived::Mix;

use crate::scene::{Handover, SHORT_BAKE, Scene, world};

/// istiod is away, and somebody deletes the pod: its successor knows nobody but the dying one. It serves, but is not ready
/// before it could live alone.
#[test]
fn a_dying_owner_hands_over_while_istiod_is_away() {
    let world = world();
    let mut scene = Scene::start(&world, Handover::On, SHORT_BAKE);
    let load = scene.load(Mix::SMALL);
    scene.istiod.stop();
    let first = scene.nodes[0].active().next().cloned().expect("a pod");
    scene.nodes[0].delete_pod(&first);
    run(&mut scene.nodes, "the deleted pod is gone", |nodes| nodes[0].node(&first).is_none());
    load.go_on();
    assert_eq!(readiness(scene.nodes[0].only()), 500, "{}", scene.history());
    scene.istiod.restart();
    settle(&mut scene.nodes);
    assert_eq!(readiness(scene.nodes[0].only()), 200);
    load.go_on();
    load.stop().all_whole();
    scene.ended_well();
}

/// A successor asks istiod only for what has changed, and is told of no resource a second time.
#[test]
fn a_successor_asks_for_the_difference() {
    let world = world();
    let mut scene = Scene::start(&world, Handover::On, SHORT_BAKE);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let before = runtime.block_on(synced(scene.istiod.replica(), 2));
    scene.roll_out();
    let after = scene.istiod.replica().statistics();
    assert_eq!(after.addresses.first_requests, before.addresses.first_requests + 2);
    assert!(before.addresses.resources > 0, "{before:#?}");
    // Each of the two was told everything once, at the beginning.
    assert_eq!(after.addresses.initial_versions as u64, before.addresses.resources / 2, "{after:#?}");
    assert_eq!(after.addresses.resources, before.addresses.resources, "{after:#?}");
}

/// At a port that moves with the role, who reads the metrics sees one process that goes on counting.
#[test]
fn no_counter_goes_back() {
    let world = world();
    let mut scene = Scene::start(&world, Handover::On, SHORT_BAKE);
    let load = scene.load(Mix::SMALL);
    load.go_on();
    for _ in 0..3 {
        let before = counters(scene.nodes[0].only());
        let opened = |series: &&String| series.starts_with("istio_tcp_connections_opened_total");
        assert!(before.keys().any(|series| opened(&series)), "{before:#?}");
        scene.roll_out();
        let after = counters(scene.nodes[0].only());
        for (series, count) in before {
            assert!(after.get(&series).is_some_and(|now| *now >= count), "{series}: {count}, {after:#?}");
        }
    }
    load.stop().all_whole();
}

fn readiness(node: &Node) -> u16 {
    node.page(READINESS_PORT, "/healthz/ready").expect("it answers").status
}

/// By series; without those of the process's own hand-overs.
fn counters(node: &Node) -> BTreeMap<String, u64> {
    let text = node.page(METRICS_PORT, "/metrics").expect("it answers").body;
    let samples = text.lines().filter(|line| !line.starts_with("ztunnel_handover_"));
    let counters = samples.filter_map(|line| {
        let (series, count) = line.rsplit_once(' ')?;
        let name = series.split('{').next()?;
        Some((series.to_owned(), count.parse().ok()?)).filter(|_| name.ends_with("_total"))
    });
    counters.collect()
}
