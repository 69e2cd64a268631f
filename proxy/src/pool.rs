//! Tunnels by destination: who may share one, and which worker holds it.
//!
//! A tunnel is used by everybody with the same [`PoolKey`]. Each worker keeps its own [`Pool`] without locks; the
//! [`Directory`] is asked once for each new connection, to send its socket to a worker that already holds a tunnel.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use xds::Identity;

use crate::pod::Pod;

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

    /// Whether a tunnel for this key is on its way up.
    pub fn dials(&self, key: &PoolKey) -> bool {
        self.entries.get(key).is_some_and(|entry| !entry.dials.is_empty())
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

/// Which workers hold a tunnel for a key.
#[derive(Debug)]
pub struct Directory {
    shards: Vec<Mutex<HashMap<PoolKey, Vec<usize>>>>,
}

impl Directory {
    /// An empty directory. Its shards only keep workers from waiting for one another.
    pub fn new() -> Self {
        Self { shards: (0..16).map(|_| Mutex::default()).collect() }
    }

    /// The worker to which a new connection for `key` goes. It is entered as a holder, since it will dial if it has no
    /// tunnel yet: so the first callers, wherever they were accepted, meet at one worker and share one handshake.
    pub fn place(&self, key: &PoolKey, loads: &Loads) -> usize {
        let idlest = loads.idlest();
        self.with(key, |holders| {
            let holders = holders.entry(key.clone()).or_default();
            match holders.iter().copied().min_by_key(|&worker| loads.weight(worker)) {
                Some(worker) if holders.contains(&idlest) || !loads.spills(worker, idlest) => worker,
                _ => {
                    holders.push(idlest);
                    idlest
                }
            }
        })
    }

    /// `worker` holds a tunnel for `key` (one that has moved to it, for instance).
    pub fn enter(&self, key: &PoolKey, worker: usize) {
        self.with(key, |map| {
            let holders = map.entry(key.clone()).or_default();
            if !holders.contains(&worker) {
                holders.push(worker);
            }
        });
    }

    /// `worker` has nothing left for `key`.
    pub fn leave(&self, key: &PoolKey, worker: usize) {
        self.with(key, |map| {
            if let Some(holders) = map.get_mut(key) {
                holders.retain(|&holder| holder != worker);
                if holders.is_empty() {
                    map.remove(key);
                }
            }
        });
    }

    fn with<R>(&self, key: &PoolKey, f: impl FnOnce(&mut HashMap<PoolKey, Vec<usize>>) -> R) -> R {
        use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(key);
        let shard = usize::try_from(hash % 16).unwrap_or(0);
        f(&mut self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Default for Directory {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace::Namespace;
    use crate::pod::WorkloadName;

    fn pod() -> Arc<Pod> {
        let name = || Arc::from("a");
        let workload = WorkloadName { namespace: name(), name: name(), service_account: name() };
        let namespace = Arc::new(Namespace::current().unwrap());
        Arc::new(Pod::new("a", workload, namespace, false))
    }

    fn key(pod: &Arc<Pod>, port: u16) -> PoolKey {
        PoolKey {
            pod: pod.clone(),
            source: "spiffe://cluster.local/ns/a/sa/b".parse().unwrap(),
            source_address: None,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            expected: Arc::new([]),
        }
    }

    #[test]
    fn callers_of_one_key_meet_at_one_worker() {
        let pod = pod();
        let (directory, loads) = (Directory::new(), Loads::new(4));
        let first = directory.place(&key(&pod, 1), &loads);
        for _ in 0..100 {
            loads.sent(first);
            assert_eq!(directory.place(&key(&pod, 1), &loads), first);
        }
        assert_ne!(directory.place(&key(&pod, 2), &loads), first, "another peer goes to an idler worker");
    }

    #[test]
    fn a_busy_worker_spills_to_an_idle_one_and_only_then() {
        let pod = pod();
        let (directory, loads) = (Directory::new(), Loads::new(2));
        let first = directory.place(&key(&pod, 1), &loads);
        loads.publish(first, 900, 10);
        loads.publish(1 - first, 800, 10);
        assert_eq!(directory.place(&key(&pod, 1), &loads), first, "the other one is busy too");
        loads.publish(1 - first, 100, 10);
        assert_eq!(directory.place(&key(&pod, 1), &loads), 1 - first);
        directory.leave(&key(&pod, 1), 1 - first);
        loads.publish(first, 0, 1);
        assert_eq!(directory.place(&key(&pod, 1), &loads), first);
    }

    #[test]
    fn a_moved_tunnel_is_found_at_its_new_worker() {
        let pod = pod();
        let (directory, loads) = (Directory::new(), Loads::new(3));
        let first = directory.place(&key(&pod, 1), &loads);
        let next = (first + 1) % 3;
        directory.enter(&key(&pod, 1), next);
        directory.leave(&key(&pod, 1), first);
        assert_eq!(directory.place(&key(&pod, 1), &loads), next);
    }

    #[test]
    fn an_entry_goes_when_nothing_is_left_of_it() {
        let pod = pod();
        let mut pool = Pool::default();
        pool.entry(&key(&pod, 1)).tunnels.push(7);
        pool.entry(&key(&pod, 1)).waiting.push_back(3);
        assert!(!pool.change(&key(&pod, 1), |entry| entry.tunnels.clear()));
        assert!(pool.change(&key(&pod, 1), |entry| entry.waiting.clear()));
        assert!(!pool.change(&key(&pod, 1), |_| {}), "there is no such entry any more");
    }

    #[test]
    fn a_pod_shares_no_tunnel_with_another() {
        let (mine, theirs) = (pod(), pod());
        let mut pool = Pool::default();
        pool.entry(&key(&mine, 1)).tunnels.push(7);
        assert!(pool.entry(&key(&theirs, 1)).tunnels.is_empty());
    }

    #[test]
    fn a_burst_uses_every_worker_even_if_one_was_busy_before() {
        let loads = Loads::new(2);
        loads.publish(0, 950, 3);
        let mut sent = [0; 2];
        for _ in 0..200 {
            let worker = loads.idlest();
            loads.sent(worker);
            sent[worker] += 1;
        }
        assert!(sent[0] > 50 && sent[1] > sent[0], "{sent:?}");
    }
}
