//! Which connections are given away first.
//!
//! Those that have been idle for longest: nobody notices their pause. Connections on their way up come last: most of them
//! are up before it is their turn, and a tunnel that is dialled here serves those who wait for it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::worker::Worker;
use crate::worker::core::Job;
use crate::worker::user::Stage;

/// What a worker could give away now, and what not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Movable {
    /// Tunnels.
    pub tunnels: usize,
    /// Streams of these tunnels.
    pub streams: usize,
    /// Plain connections.
    pub plain: usize,
    /// Connections that aren't relayed yet.
    pub setup: usize,
    /// Connections that can't be moved, by reason.
    pub unmovable: BTreeMap<&'static str, usize>,
}

/// A connection that can be given away.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) job: Job,
    /// How many it has.
    sockets: usize,
    /// Since when it has been idle, ms; None while it isn't relayed yet.
    active_at: Option<u64>,
}

impl Worker {
    /// What can be given away now.
    pub(super) fn movable(&self) -> Vec<Place> {
        let tunnels = self.tunnels.iter().filter(|(_, tunnel)| tunnel.unmovable().is_none());
        let tunnels = tunnels.map(|(key, tunnel)| Place {
            job: Job::Tunnel(key),
            sockets: 1 + tunnel.streams(),
            active_at: Some(tunnel.active_at()),
        });
        let pairs = self.pairs.iter().filter(|(_, pair)| pair.unmovable().is_none());
        let pairs = pairs.map(|(key, pair)| Place {
            job: Job::Pair(key),
            sockets: 2,
            active_at: Some(pair.active_at()),
        });
        let users = self.users.iter().filter(|(_, user)| !matches!(user.stage, Stage::Gone));
        let users = users.map(|(key, user)| Place {
            job: Job::User(key),
            sockets: 1 + usize::from(matches!(user.stage, Stage::Connecting { .. })),
            active_at: None,
        });
        let dials = self.dials.iter().filter(|(_, dial)| dial.unmovable().is_none());
        let dials = dials.map(|(key, _)| Place { job: Job::Dial(key), sockets: 1, active_at: None });
        tunnels.chain(pairs).chain(users).chain(dials).collect()
    }

    /// What could be given away now, and what not.
    pub(in crate::worker) fn count_connections(&self) -> Movable {
        let mut counts = Movable::default();
        let mut unmovable = |why| *counts.unmovable.entry(why).or_default() += 1;
        for (_, tunnel) in &self.tunnels {
            match tunnel.unmovable() {
                Some(why) => unmovable(why),
                None => {
                    counts.tunnels += 1;
                    counts.streams += tunnel.streams();
                }
            }
        }
        for (_, pair) in &self.pairs {
            match pair.unmovable() {
                Some(why) => unmovable(why),
                None => counts.plain += 1,
            }
        }
        for (_, dial) in &self.dials {
            match dial.unmovable() {
                Some(why) => unmovable(why),
                None => counts.setup += 1,
            }
        }
        counts.setup += self.users.len();
        counts
    }
}

/// Leaves the first `most`, with so many sockets in all.
pub(super) fn wave(places: &mut Vec<Place>, most: usize, mut descriptors: usize) {
    places.sort_unstable_by_key(|place| (place.active_at.is_none(), place.active_at));
    let mut taken = 0;
    places.retain(|place| {
        let fits = taken < most && place.sockets <= descriptors;
        if fits {
            taken += 1;
            descriptors -= place.sockets;
        }
        fits
    });
}

/// Leaves the tunnel with the fewest streams, if it fits.
pub(super) fn canary(places: &mut Vec<Place>, descriptors: usize) {
    let tunnels = places.iter().filter(|place| matches!(place.job, Job::Tunnel(_)));
    let smallest = tunnels.min_by_key(|place| place.sockets).copied();
    places.clear();
    places.extend(smallest.filter(|place| place.sockets <= descriptors));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(job: Job, sockets: usize, active_at: Option<u64>) -> Place {
        Place { job, sockets, active_at }
    }

    fn places() -> Vec<Place> {
        vec![
            place(Job::User(1), 1, None),
            place(Job::Tunnel(2), 5, Some(300)),
            place(Job::Pair(3), 2, Some(200)),
            place(Job::Tunnel(4), 50, Some(100)),
            place(Job::Tunnel(5), 2, Some(400)),
        ]
    }

    fn jobs(places: &[Place]) -> Vec<Job> {
        places.iter().map(|place| place.job).collect()
    }

    #[test]
    fn the_longest_idle_go_first_and_those_on_their_way_up_last() {
        let all = [Job::Tunnel(4), Job::Pair(3), Job::Tunnel(2), Job::Tunnel(5), Job::User(1)];
        for most in 0..=all.len() {
            let mut wave_of = places();
            wave(&mut wave_of, most, usize::MAX);
            assert_eq!(jobs(&wave_of), all[..most]);
        }
    }

    #[test]
    fn a_connection_goes_with_all_its_sockets_or_stays() {
        let mut small = places();
        wave(&mut small, 3, 7);
        assert_eq!(jobs(&small), [Job::Pair(3), Job::Tunnel(2)], "the large tunnel waits for more room");
        let mut exact = places();
        wave(&mut exact, 1, 50);
        assert_eq!(jobs(&exact), [Job::Tunnel(4)]);
        let mut none = places();
        wave(&mut none, usize::MAX, 0);
        assert!(none.is_empty());
    }

    #[test]
    fn the_canary_is_the_smallest_tunnel() {
        let mut one = places();
        canary(&mut one, usize::MAX);
        assert_eq!(jobs(&one), [Job::Tunnel(5)]);
        let mut none = places();
        canary(&mut none, 1);
        assert!(none.is_empty(), "it doesn't fit");
        let mut none = vec![place(Job::Pair(3), 2, Some(1)), place(Job::User(1), 1, None)];
        canary(&mut none, usize::MAX);
        assert!(none.is_empty(), "only a tunnel can prove anything");
    }
}
