//! Thousands of runs in which anything may happen.

use super::simulation::{Faults, World};
use super::{Action, Event, Say, Session, Start};

/// As often as it takes a machine with a bug to be found, and no longer than a few seconds.
const SEEDS: u64 = 1_000;

/// One run; if it fails, again, with everything that happened.
fn run(seed: u64, faults: Faults) -> World {
    std::panic::catch_unwind(|| play(seed, faults, false)).unwrap_or_else(|_| play(seed, faults, true))
}

fn play(seed: u64, faults: Faults, tell: bool) -> World {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut world = World::new(seed, faults, random.u32(..12), random.u32(1..4), tell);
    for _ in 0..random.u32(..600) {
        world.step();
    }
    world.settle();
    world.check_settled();
    world
}

#[test]
fn nothing_is_lost_when_nobody_dies() {
    for seed in 0..SEEDS {
        let world = run(seed, Faults::NONE);
        assert_eq!(world.ended(), 0, "seed {seed}");
    }
}

#[test]
fn whoever_is_told_to_end() {
    for seed in 0..SEEDS {
        let world = run(seed, Faults { terminate: 150, ..Faults::NONE });
        assert_eq!(world.ended(), 0, "seed {seed}");
    }
}

#[test]
fn whoever_stands_still() {
    for seed in 0..SEEDS {
        let world = run(seed, Faults { terminate: 250, stop: 60, refuse: 10, no_proof: 4, ..Faults::NONE });
        assert_eq!(world.ended(), 0, "seed {seed}");
    }
}

#[test]
fn whoever_dies() {
    for seed in 0..SEEDS {
        run(seed, Faults { kill: 250, ..Faults::NONE });
    }
}

#[test]
fn wherever_it_breaks() {
    for seed in 0..SEEDS {
        run(seed, Faults { break_off: 100, ..Faults::NONE });
    }
}

#[test]
fn everything_at_once() {
    for seed in 0..SEEDS {
        let faults = Faults { kill: 400, terminate: 300, stop: 100, break_off: 200, refuse: 10, no_proof: 4 };
        run(seed, faults);
    }
}

/// Too rare in the runs: told to end between its promise and the commit, it has nothing yet and must stay all the same.
#[test]
fn whoever_has_promised_must_not_end() {
    let start = Start { holds: true, peer_wants: false, had_role: true, terminating: false, bake_ms: 0 };
    let mut holder = Session::new(start);
    let (offer, epoch) = (7, 1);
    holder.handle(Event::Heard(Say::State { offer, canary: true }), 0);
    assert!(!holder.has_promised());
    holder.handle(Event::Checked(offer, Ok(())), 0);
    holder.handle(Event::Terminate, 0);
    assert!(holder.has_promised());
    let actions = holder.handle(Event::Heard(Say::Commit { offer }), 0);
    assert_eq!(actions, [Action::Run { offer, canary: true }]);
    assert!(!holder.has_promised());

    let mut candidate = Session::new(Start { holds: false, had_role: false, ..start });
    candidate.handle(Event::Heard(Say::RoleState { epoch }), 0);
    candidate.handle(Event::RoleChecked(Ok(())), 0);
    candidate.handle(Event::Terminate, 0);
    assert!(candidate.has_promised());
    candidate.handle(Event::Heard(Say::RoleAbort { epoch }), 0);
    assert!(!candidate.has_promised());
}
