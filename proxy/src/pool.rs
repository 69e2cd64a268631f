//! Tunnels by destination: who may share one, and which worker holds it.
//!
//! A tunnel is used by everybody with the same [`PoolKey`]. Each worker keeps its own [`Pool`] without locks; the
//! [`Directory`] is asked once for each new connection, to send its socket to a worker that already holds a tunnel.

mod directory;

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use xds::Identity;

use crate::pod::Pod;

pub use self::directory::{Directory, Placed};

/// How long users wait at most for a tunnel that comes from another process, before one is dialled, ms. What moves arrives in a
/// few; who waits in vain is not much later than by a handshake with a distant peer.
pub const COMING_MS: u64 = 100;

/// What must be equal for two connections to share a tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolKey {
    /// Whose it is: a pod's tunnels are its own.
    pub pod: Arc<Pod>,
    /// Whose certificate we show.
    pub source: Identity,
    /// The address that the tunnel comes from, if it is bound to one.
    pub source_address: Option<IpAddr>,
    /// The tunnel's peer.
    pub address: SocketAddr,
    /// Whom we accept there, sorted.
    pub expected: Arc<[Identity]>,
}

/// One worker's tunnels for one key, and who waits for them, all by the worker's own keys.
#[derive(Debug, Default)]
pub struct Entry {
    /// Tunnels that are up.
    pub tunnels: Vec<usize>,
    /// Tunnels on their way up.
    pub dials: Vec<usize>,
    /// Users that wait for room, longest first.
    pub waiting: VecDeque<usize>,
    /// A tunnel comes from another process: nobody dials meanwhile.
    pub comes: bool,
}

impl Entry {
    fn is_empty(&self) -> bool {
        self.tunnels.is_empty() && self.dials.is_empty() && self.waiting.is_empty()
    }
}

/// The tunnels of one worker.
#[derive(Debug, Default)]
pub struct Pool {
    entries: HashMap<PoolKey, Entry>,
}

impl Pool {
    /// The entry of a key, made if there is none.
    pub fn entry(&mut self, key: &PoolKey) -> &mut Entry {
        self.entries.entry(key.clone()).or_default()
    }

    /// Whether a tunnel for this key is on its way up, or on its way to this worker.
    pub fn awaits(&self, key: &PoolKey) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.comes || !entry.dials.is_empty())
    }

    /// Changes the entry of a key, if there is one; an entry that has become empty goes, and `true` says so.
    pub fn change(&mut self, key: &PoolKey, change: impl FnOnce(&mut Entry)) -> bool {
        let Some(entry) = self.entries.get_mut(key) else { return false };
        change(entry);
        let empty = entry.is_empty();
        if empty {
            self.entries.remove(key);
        }
        empty
    }
}

/// How busy each worker is, written by itself about ten times a second, read by whoever has a connection to place.
#[derive(Debug)]
pub struct Loads {
    /// Per mille of the time that the worker wasn't waiting.
    busy: Vec<AtomicU32>,
    /// Connections and tunnels that it holds.
    held: Vec<AtomicU32>,
    /// Connections that were sent to it since it last said how busy it is: what they will cost doesn't show yet.
    unseen: Vec<AtomicU32>,
}

/// A worker is taken to have room while it is busy for less than this share of the time, in per mille.
const BUSY: u32 = 700;

/// What a connection that was just sent there is taken to cost, in per mille, until it shows: a burst that comes while
/// one worker is busy must not all go to the other, where long-lived connections would stay.
const EXPECTED: u32 = 20;

/// And only a worker that is idler by this much is worth a second tunnel.
const IDLER: u32 = 300;

impl Loads {
    /// Idle workers.
    pub fn new(workers: usize) -> Self {
        let zeros = || (0..workers).map(|_| AtomicU32::new(0)).collect();
        Self { busy: zeros(), held: zeros(), unseen: zeros() }
    }

    /// Writes a worker's figures.
    pub fn publish(&self, worker: usize, busy: u32, held: usize) {
        self.busy[worker].store(busy, Ordering::Relaxed);
        self.unseen[worker].store(0, Ordering::Relaxed);
        self.held[worker].store(u32::try_from(held).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    /// One more connection was sent there: counted at once, so that a burst doesn't all go to one worker.
    pub fn sent(&self, worker: usize) {
        self.held[worker].fetch_add(1, Ordering::Relaxed);
        self.unseen[worker].fetch_add(1, Ordering::Relaxed);
    }

    /// The worker with the least to do.
    pub fn idlest(&self) -> usize {
        (0..self.busy.len()).min_by_key(|&worker| self.weight(worker)).unwrap_or(0)
    }

    fn weight(&self, worker: usize) -> (u32, u32) {
        let unseen = self.unseen[worker].load(Ordering::Relaxed).saturating_mul(EXPECTED);
        let busy = self.busy[worker].load(Ordering::Relaxed).saturating_add(unseen);
        // Among workers that are about equally busy the number of connections decides.
        (busy.saturating_sub(BUSY), self.held[worker].load(Ordering::Relaxed))
    }

    /// Whether `worker` is so busy that a connection is better placed on `other`, even at the price of a new tunnel.
    fn spills(&self, worker: usize, other: usize) -> bool {
        let busy = |worker: usize| self.busy[worker].load(Ordering::Relaxed);
        busy(worker) > BUSY && busy(other) + IDLER < busy(worker)
    }
}

#[cfg(test)]
mod tests;
