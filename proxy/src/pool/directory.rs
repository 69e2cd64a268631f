//! Which worker a connection goes to.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::{Loads, PoolKey};

/// Which workers hold a tunnel for a key, or will.
///
/// ```text
///            expect                 enter: it has come, or somebody dials
///   nothing ────────► Expected(w) ───────────────────────────────────────► Held ──► nothing
///      ▲ │                │ not any more                                    ▲  leave: the last one
///      │ ╰────────────────│──────────────── place, enter ───────────────────╯
///      ╰──────────────────╯
/// ```
#[derive(Debug)]
pub struct Directory {
    shards: Vec<Mutex<Shard>>,
}

type Shard = HashMap<PoolKey, Holders>;

#[derive(Debug)]
enum Holders {
    /// A tunnel comes from another process; this worker will get it.
    Expected(usize),
    /// These have one, or dial one.
    Held(Vec<usize>),
}

/// Where a connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// To this worker.
    pub worker: usize,
    /// A tunnel comes to it from another process: it need not dial yet.
    pub comes: bool,
}

impl Directory {
    /// An empty directory. Its shards only keep workers from waiting for one another.
    pub fn new() -> Self {
        Self { shards: (0..16).map(|_| Mutex::default()).collect() }
    }

    /// The worker to which a new connection for `key` goes. It is entered as a holder, since it will dial if it has no
    /// tunnel yet: so the first callers, wherever they were accepted, meet at one worker and share one handshake. Who
    /// only expects a tunnel is not.
    pub fn place(&self, key: &PoolKey, loads: &Loads) -> Placed {
        let idlest = loads.idlest();
        self.with(key, |map| {
            let holders = match map.entry(key.clone()).or_insert(Holders::Held(Vec::new())) {
                Holders::Expected(worker) => return Placed { worker: *worker, comes: true },
                Holders::Held(holders) => holders,
            };
            let worker = match holders.iter().copied().min_by_key(|&worker| loads.weight(worker)) {
                Some(worker) if holders.contains(&idlest) || !loads.spills(worker, idlest) => worker,
                _ => {
                    holders.push(idlest);
                    idlest
                }
            };
            Placed { worker, comes: false }
        })
    }

    /// `worker` holds a tunnel for `key` (one that has moved to it, for instance), or dials one.
    pub fn enter(&self, key: &PoolKey, worker: usize) {
        self.with(key, |map| match map.get_mut(key) {
            Some(Holders::Held(holders)) if holders.contains(&worker) => {}
            Some(Holders::Held(holders)) => holders.push(worker),
            Some(Holders::Expected(_)) | None => {
                map.insert(key.clone(), Holders::Held(vec![worker]));
            }
        });
    }

    /// `worker` has nothing left for `key`.
    pub fn leave(&self, key: &PoolKey, worker: usize) {
        self.with(key, |map| {
            if let Some(Holders::Held(holders)) = map.get_mut(key) {
                holders.retain(|&holder| holder != worker);
                if holders.is_empty() {
                    map.remove(key);
                }
            }
        });
    }

    /// A tunnel for `key` comes from another process, and `worker` will get it. Nothing changes if there is one already.
    pub fn expect(&self, key: PoolKey, worker: usize) {
        self.with(&key.clone(), |map| {
            map.entry(key).or_insert(Holders::Expected(worker));
        });
    }

    /// The worker that expects a tunnel for `key`.
    pub fn expected(&self, key: &PoolKey) -> Option<usize> {
        self.with(key, |map| match map.get(key) {
            Some(Holders::Expected(worker)) => Some(*worker),
            Some(Holders::Held(_)) | None => None,
        })
    }

    /// No tunnel comes for `key`, or too late.
    pub fn stop_expecting(&self, key: &PoolKey) {
        self.with(key, |map| {
            if let Some(Holders::Expected(_)) = map.get(key) {
                map.remove(key);
            }
        });
    }

    /// Nothing comes any more.
    pub fn expect_nothing(&self) {
        for shard in &self.shards {
            locked(shard, |map| map.retain(|_, holders| matches!(holders, Holders::Held(_))));
        }
    }

    /// The keys of all tunnels that are held or dialled.
    pub fn keys(&self) -> Vec<PoolKey> {
        let held = |map: &mut Shard| -> Vec<PoolKey> {
            let held = map.iter().filter(|(_, holders)| matches!(holders, Holders::Held(_)));
            held.map(|(key, _)| key.clone()).collect()
        };
        self.shards.iter().flat_map(|shard| locked(shard, held)).collect()
    }

    fn with<R>(&self, key: &PoolKey, f: impl FnOnce(&mut Shard) -> R) -> R {
        use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(key);
        let shard = usize::try_from(hash % 16).unwrap_or(0);
        locked(&self.shards[shard], f)
    }
}

fn locked<R>(shard: &Mutex<Shard>, f: impl FnOnce(&mut Shard) -> R) -> R {
    f(&mut shard.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Default for Directory {
    fn default() -> Self {
        Self::new()
    }
}
