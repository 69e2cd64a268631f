//! Either side of a hand-over is killed, stopped for a while, or told to end, at each of its steps: what may be lost then,
//! and nothing else.

use std::fmt;
use std::time::Duration;

use rustix::process::Signal;
use tests::daemonset::{DaemonSet, Dedicated, PodName, run, run_for, settle};
use tests::longlived::{Mix, Seen};

use crate::scene::{Scene, Side, world};

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// SIGKILL; the kubelet starts the container again.
    Killed,
    /// SIGSTOP for 5 s.
    Stopped,
    /// SIGTERM: the pod is deleted.
    Terminated,
}

/// What may be lost then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Loss {
    Nothing,
    /// What the process has accepted itself.
    Fresh,
    /// And what went over first: a tunnel with its streams.
    Canary,
    /// Whatever the process had.
    All,
}

/// The steps at which a process stops itself if it is told to (`HANDOVER_PAUSE_AT`), in their order. A predecessor that has
/// given everything and been told to end is gone before the last one.
const STEPS: [&str; 10] = [
    "hello",
    "able",
    "role-state",
    "role-prepared",
    "role-commit",
    "canary",
    "prepared",
    "commit",
    "state",
    "done",
];

/// The table. Whoever is killed takes with it what it owns: the predecessor everything until it is given, the successor what
/// was committed to it, from its promise on what may have been, and what it has accepted since it has the role. Nobody loses anything
/// by waiting, or by an orderly end.
///
/// A successor that dies after the first connection leaves the predecessor told to end: what that still has drains there, until
/// its deadline. Only a candidate that comes up again in time could take it.
fn may_lose(side: Side, step: &str, fate: Fate) -> Loss {
    match (fate, side, step) {
        (Fate::Stopped | Fate::Terminated, ..) => Loss::Nothing,
        (Fate::Killed, Side::Predecessor, _) | (Fate::Killed, Side::Successor, "state" | "done") => Loss::All,
        (Fate::Killed, Side::Successor, "prepared" | "commit") => Loss::Canary,
        (Fate::Killed, Side::Successor, "canary") => Loss::Fresh,
        (Fate::Killed, Side::Successor, _) => Loss::Nothing,
    }
}

#[test]
fn the_predecessor_is_killed() {
    matrix(Side::Predecessor, Fate::Killed);
}

#[test]
fn the_successor_is_killed() {
    matrix(Side::Successor, Fate::Killed);
}

#[test]
fn the_predecessor_is_stopped_for_a_while() {
    matrix(Side::Predecessor, Fate::Stopped);
}

#[test]
fn the_successor_is_stopped_for_a_while() {
    matrix(Side::Successor, Fate::Stopped);
}

#[test]
fn the_predecessor_is_told_to_end() {
    matrix(Side::Predecessor, Fate::Terminated);
}

#[test]
fn the_successor_is_told_to_end() {
    matrix(Side::Successor, Fate::Terminated);
}

fn matrix(side: Side, fate: Fate) {
    // All of them take minutes.
    let all = fate == Fate::Killed || std::env::var("HANDOVER_LONG").is_ok();
    let few = ["role-prepared", "role-commit", "commit"];
    let wanted = |step: &&str| (all || few.contains(step)) && (side == Side::Successor || *step != "done");
    STEPS.into_iter().filter(wanted).for_each(|step| play(side, step, fate));
}

/// Connections that were lost.
struct Lost {
    long: u64,
    fresh: u64,
}

impl Lost {
    fn of(seen: &Seen) -> Self {
        Self { long: seen.long.lost.total(), fresh: seen.fresh.lost.total() }
    }

    fn is_allowed(&self, may: Loss, seen: &Seen) -> bool {
        // A wrong byte is never allowed.
        let wrong = seen.long.lost.wrong + seen.fresh.lost.wrong + seen.servers.lost.wrong;
        wrong == 0
            && match may {
                Loss::Nothing => self.long + self.fresh == 0,
                Loss::Fresh => self.long == 0,
                // The tunnel, not the plain connections.
                Loss::Canary => self.long <= seen.planned - PLAIN,
                Loss::All => true,
            }
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} long-lived and {} fresh connections lost", self.long, self.fresh)
    }
}

const MIX: Mix = Mix { bulk: 1, requests: 8, idle: 4, plain: PLAIN as usize, fresh: 1 };
const PLAIN: u64 = 3;

/// The proxy of the clients' node is replaced: it has plain connections, too.
fn play(side: Side, step: &str, fate: Fate) {
    let world = world();
    // Long enough for another successor to come.
    let environment = [("HANDOVER_BAKE", "200ms"), ("CONNECTION_TERMINATION_DEADLINE", "12s")];
    let mut scene = Scene::halting(&world, side, step, &environment);
    let load = scene.load(MIX);
    let victim = scene.halt(side, step);
    let node = &mut scene.nodes[..1];
    meet(node, &victim, fate);
    settle(node);
    load.go_on();
    let (seen, may) = (load.stop(), may_lose(side, step, fate));
    let lost = Lost::of(&seen);
    println!("{side:?} {fate:?} at {step}: {lost}; allowed: {may:?}");
    assert!(
        lost.is_allowed(may, &seen),
        "{side:?} {fate:?} at {step}: {lost}, allowed {may:?}: {:#?}\n{}",
        seen.losses(),
        scene.history()
    );
}

fn meet(node: &mut [DaemonSet<Dedicated>], victim: &PodName, fate: Fate) {
    let send = |node: &[DaemonSet<Dedicated>], signal| {
        node[0].node(victim).expect("it stands still").send(signal).expect("it stands still");
    };
    match fate {
        Fate::Killed => {
            let id = node[0].node(victim).expect("it stands still").id();
            send(node, Signal::KILL);
            run(node, "its end is seen", |node| {
                node[0].node(victim).is_none_or(|process| process.id() != id)
            });
        }
        Fate::Stopped => {
            run_for(node, Duration::from_secs(5));
            send(node, Signal::CONT);
        }
        Fate::Terminated => {
            node[0].delete_pod(victim);
            send(node, Signal::CONT);
        }
    }
}
