//! The proxies of both nodes are replaced, again and again, and no application notices.

use tests::longlived::Mix;
use tests::process::{descriptors, resident};

use crate::scene::{Handover, SHORT_BAKE, Scene, world};

#[test]
fn one_replacement_is_not_noticed() {
    let world = world();
    let mut scene = Scene::start(&world, Handover::On, SHORT_BAKE);
    let load = scene.load(Mix::SMALL);
    replaced_unnoticed(&mut scene, 1, || {
        let seen = load.seen();
        println!("{}", load.stalls());
        seen.losses()
    });
    load.go_on();
    load.stop().all_whole();
    scene.ended_well();
}

/// Twenty replacements on each node, overlapping; `HANDOVER_LONG=1` makes it a hundred. No generation holds or weighs more
/// than the second one did.
#[test]
fn many_replacements_are_not_noticed() {
    let count = if std::env::var("HANDOVER_LONG").is_ok() { 100 } else { 20 };
    let world = world();
    let mut scene = Scene::start(&world, Handover::On, SHORT_BAKE);
    let load = scene.load(Mix::LARGE);
    let mut second = None;
    for number in 1..=count {
        replaced_unnoticed(&mut scene, number, || {
            println!("replacement {number}: {}", load.stalls());
            load.seen().losses()
        });
        if number == 2 {
            second = Some(weights(&scene));
        }
    }
    load.go_on();
    for (before, after) in second.into_iter().flatten().zip(weights(&scene)) {
        println!(
            "descriptors: {} then {}; memory: {} then {} MiB",
            before.0,
            after.0,
            before.1 >> 20,
            after.1 >> 20
        );
        // Fresh connections come and go.
        assert!(after.0 <= before.0 + 40, "{before:?} became {after:?}");
        assert!(after.1 <= before.1 + before.1 / 4 + (8 << 20), "{before:?} became {after:?}");
    }
    let seen = load.stop();
    println!("after {count} replacements of each node: {seen}");
    seen.all_whole();
    scene.ended_well();
}

fn replaced_unnoticed(scene: &mut Scene<'_>, number: usize, losses: impl FnOnce() -> Vec<String>) {
    scene.roll_out();
    let losses = losses();
    assert!(losses.is_empty(), "replacement {number}: {losses:#?}\n{}", scene.history());
}

/// Descriptors and memory of both nodes' proxies.
fn weights(scene: &Scene<'_>) -> [(usize, u64); 2] {
    scene.nodes.each_ref().map(|node| {
        let id = node.only().id();
        (descriptors(id).values().sum(), resident(id))
    })
}
