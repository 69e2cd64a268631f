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
