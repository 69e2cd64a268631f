//! The end of an application's connection arrives at its peer within a second, also while the process stands still that had
//! the connection before, or was to have it: copies of sockets there hold nothing back.

use std::net::Shutdown;
use std::time::Duration;

use socket2::SockRef;
use tests::daemonset::settle;
use tests::world::{APPLICATION, Host};

use crate::connection::{Seen, exchange, joined, seen_soon};
use crate::scene::{SHORT_BAKE, Scene, Side, world};

/// The old process has sent the commit, and stops before it closes its own copies. Of plain connections each has a commit of its
/// own; streams go with their tunnel.
#[test]
fn ends_arrive_while_the_predecessor_stands_still() {
    play(Side::Predecessor, "commit", Host::Server, &[End::Orderly, End::Reset]);
    play(Side::Predecessor, "commit", Host::Plain, &[End::Orderly]);
    play(Side::Predecessor, "commit", Host::Plain, &[End::Reset]);
}

/// The new process has read what it is to have, and stops before it has said so: the old one goes on after 2 s.
#[test]
fn ends_arrive_while_the_successor_stands_still() {
    play(Side::Successor, "canary", Host::Server, &[End::Orderly, End::Reset]);
    play(Side::Successor, "state", Host::Plain, &[End::Orderly, End::Reset]);
}

/// How applications end a connection.
#[derive(Debug, Clone, Copy)]
enum End {
    /// One after the other: the near one first.
    Orderly,
    /// The far one is gone at once, without a farewell.
    Reset,
}

/// With as many connections as there are `ends`, and no other.
fn play(side: Side, step: &str, to: Host, ends: &[End]) {
    let world = world();
    // A frozen connection does not outlive the deadline.
    let environment = [SHORT_BAKE, &[("CONNECTION_TERMINATION_DEADLINE", "12s")]].concat();
    let mut scene = Scene::halting(&world, side, step, &environment);
    let target = world.at(to, APPLICATION);
    let open: Vec<_> = ends.iter().map(|end| (end, joined(scene.nodes[0].only(), target))).collect();
    for (_, (near, far)) in &open {
        exchange(near, far);
    }
    let halted = scene.halt(side, step);
    for (end, (near, far)) in open {
        // It waits, if need be, until the connection runs again.
        exchange(&near, &far);
        match end {
            End::Orderly => {
                near.shutdown(Shutdown::Write).expect("an open connection");
                assert_eq!(seen_soon(&far), Seen::End, "{to:?}: from near to far");
                drop(far);
                assert_eq!(seen_soon(&near), Seen::End, "{to:?}: from far to near");
            }
            End::Reset => {
                SockRef::from(&far).set_linger(Some(Duration::ZERO)).expect("a socket option");
                drop(far);
                assert_eq!(seen_soon(&near), Seen::Reset, "{to:?}");
            }
        }
    }
    scene.go_on(&halted);
    settle(&mut scene.nodes[..1]);
    scene.ended_well();
}
