//! What happens on upgrade day besides an upgrade: undone, overtaken by the next one, pods deleted by hand, in any order
//! and at any moment. By a seed; `HANDOVER_SEED=N` plays another one, `HANDOVER_LONG=1` many more stories.

use std::time::Duration;

use fastrand::Rng;
use tests::daemonset::{DaemonSet, Dedicated, run, run_for, settle};
use tests::longlived::Mix;

use crate::scene::{Handover, SHORT_BAKE, Scene, Side, world};

/// Something that happens to the DaemonSet of one node.
#[derive(Debug, Clone, Copy)]
enum Story {
    /// Nothing but an upgrade.
    Upgrade,
    /// It is undone while the new pod comes up, or has just taken over.
    Undone,
    /// The next one comes while the new pod comes up, or has just taken over.
    Overtaken,
    /// Somebody deletes the pod.
    Deleted,
    /// Somebody deletes the new pod of an upgrade.
    NewDeleted,
    /// Somebody deletes the old pod of an upgrade.
    OldDeleted,
}

impl Story {
    const ALL: [Self; 6] =
        [Self::Upgrade, Self::Undone, Self::Overtaken, Self::Deleted, Self::NewDeleted, Self::OldDeleted];
}

#[test]
fn no_story_of_an_upgrade_is_noticed() {
    let seed = std::env::var("HANDOVER_SEED").map_or(1, |seed| seed.parse().expect("a number"));
    let count = if std::env::var("HANDOVER_LONG").is_ok() { 10 } else { 2 } * Story::ALL.len();
    let mut random = Rng::with_seed(seed);
    let world = world();
    let mut scene = Scene::start(&world, Handover::On, SHORT_BAKE);
    let load = scene.load(Mix::SMALL);
    let mut told = Vec::new();
    for number in 0..count {
        let place = random.usize(0..2);
        let story = Story::ALL[number % Story::ALL.len()];
        let moment = Duration::from_millis(random.u64(0..1_500));
        told.push(format!("{story:?} on node {place}, after {moment:?}"));
        play(&mut scene.nodes[place..=place], story, moment);
        let losses = load.seen().losses();
        assert!(losses.is_empty(), "seed {seed}, {told:#?}: {losses:#?}\n{}", scene.history());
    }
    load.go_on();
    load.stop().all_whole();
    scene.ended_well();
}

fn play(node: &mut [DaemonSet<Dedicated>], story: Story, moment: Duration) {
    let first = node[0].active().next().cloned().expect("a pod");
    let template = node[0].template();
    if !matches!(story, Story::Deleted) {
        node[0].update(template + 1);
        run(node, "the new pod is made", |node| node[0].active().any(|pod| *pod != first));
        run_for(node, moment);
    }
    match story {
        Story::Upgrade => {}
        Story::Undone => node[0].update(template),
        Story::Overtaken => node[0].update(template + 2),
        Story::Deleted | Story::OldDeleted => node[0].delete_pod(&first),
        Story::NewDeleted => {
            let new = node[0].active().find(|pod| **pod != first).cloned();
            if let Some(new) = new {
                node[0].delete_pod(&new);
            }
        }
    }
    settle(node);
}

/// Uninstalled: both pods of an upgrade are told to end, one shortly after the other. Nobody is left to take over; both
/// drain and end by themselves.
#[test]
fn two_that_are_told_to_end_both_end() {
    for gap in [0, 20, 100, 200] {
        let world = world();
        let mut scene = Scene::start(&world, Handover::On, SHORT_BAKE);
        let load = scene.load(Mix::SMALL);
        let node = &mut scene.nodes[1..];
        node[0].update(2);
        run(node, "two pods are there", |node| node[0].active().count() == 2);
        let both: Vec<_> = node[0].active().cloned().collect();
        // By hand, so that there is time between them.
        node[0].delete_pod(&both[gap % 2]);
        run_for(node, Duration::from_millis(gap as u64));
        node[0].delete();
        settle(node);
        let history = scene.nodes[1].history();
        assert!(!history.contains("KILLED"), "gap of {gap} ms\n{history}");
        drop(load);
    }
}

/// Both pods of an upgrade are told to end in the middle of it, with connections on both sides: neither takes anything from the
/// other any more, and the third gets what both of them have.
#[test]
fn a_third_takes_over_from_two_that_are_told_to_end() {
    let world = world();
    let environment = [("HANDOVER_BAKE", "200ms"), ("CONNECTION_TERMINATION_DEADLINE", "12s")];
    let mut scene = Scene::halting(&world, Side::Successor, "commit", &environment);
    let load = scene.load(Mix::SMALL);
    // It has the role, and one tunnel.
    let second = scene.halt(Side::Successor, "commit");
    let node = &mut scene.nodes[..1];
    let first = node[0].active().find(|pod| **pod != second).cloned();
    // The controller may have been faster.
    first.iter().for_each(|first| node[0].delete_pod(first));
    node[0].delete_pod(&second);
    scene.go_on(&second);
    settle(&mut scene.nodes[..1]);
    load.go_on();
    let seen = load.stop();
    assert!(seen.losses().is_empty(), "{:#?}\n{}", seen.losses(), scene.history());
    seen.all_whole();
    scene.ended_well();
}
