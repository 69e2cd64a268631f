//! The control run: what applications see of an upgrade when nothing is handed over. If they see nothing, no other test
//! here proves anything.

use tests::longlived::Mix;

use crate::scene::{Handover, Scene, world};

#[test]
fn without_a_hand_over_connections_are_lost() {
    let world = world();
    let mut scene = Scene::start(&world, Handover::Off, &[]);
    let load = scene.load(Mix::SMALL);
    scene.roll_out();
    load.go_on();
    let seen = load.stop();
    println!("without a hand-over: {seen}");
    assert!(seen.long.lost.reset + seen.long.lost.early >= seen.planned, "who was not cut off? {seen}");
    assert!(seen.fresh.lost.total() > 0, "who was let in? {seen}");
    assert_eq!(seen.long.lost.wrong + seen.fresh.lost.wrong, 0, "{seen}");
}
