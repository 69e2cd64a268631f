//! The connections that this process answers for.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// Every connection that the process answers for, each with what the daemon knows of it (`F`).
///
/// It is divided into shards, one for each worker: opening and closing a connection takes the lock of
/// one shard only, which nobody else wants unless a [`snapshot`](Self::snapshot) is being made.
/// A connection stays in the shard where it was opened, also when another worker takes it over.
pub struct Registry<F> {
    shards: Box<[Shard<F>]>,
    next_id: AtomicU64,
    /// Open connections by [`Kind`]; read without locks, so a change of kind may be seen half done.
    by_kind: [AtomicUsize; Kind::ALL.len()],
    open: AtomicUsize,
    waiting_for_empty: Mutex<Vec<Wake>>,
}

impl<F> Registry<F> {
    /// An empty registry with so many shards (at least one).
    pub fn new(shards: usize) -> Arc<Self> {
        Arc::new(Self {
            shards: (0..shards.max(1)).map(|_| Shard(Mutex::default())).collect(),
            next_id: AtomicU64::new(1),
            by_kind: Default::default(),
            open: AtomicUsize::new(0),
            waiting_for_empty: Mutex::default(),
        })
    }

    /// Enters a connection. It is listed until the returned handle is dropped.
    ///
    /// `shard` is the number of the calling worker (numbers above the count of shards wrap around);
    /// `opened_ms` is the time of opening on the process's monotonic clock, in milliseconds.
    pub fn track(self: &Arc<Self>, shard: usize, kind: Kind, facts: F, opened_ms: u64) -> Tracked<F> {
        let entry = Arc::new(Entry {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            opened_ms,
            kind: AtomicU8::new(kind as u8),
            worker: AtomicUsize::new(shard),
            facts: Mutex::new(Arc::new(facts)),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
        });
        let shard = shard % self.shards.len();
        // Counted before it is listed: whoever finds it in a snapshot never sees an empty registry.
        self.open.fetch_add(1, Ordering::AcqRel);
        self.by_kind[kind as usize].fetch_add(1, Ordering::Relaxed);
        self.shards[shard].lock().insert(entry.id, Arc::clone(&entry));
        Tracked { registry: Arc::clone(self), shard, entry, one_writer: PhantomData }
    }

    /// The connections that are open now, the oldest first; those opened in the same millisecond by their id.
    ///
    /// Each shard is locked for as long as it takes to copy its list of pointers.
    pub fn snapshot(&self) -> Vec<Arc<Entry<F>>> {
        let mut entries: Vec<_> = Vec::with_capacity(self.len());
        for shard in &self.shards {
            entries.extend(shard.lock().values().map(Arc::clone));
        }
        entries.sort_by_key(|entry| (entry.opened_ms, entry.id));
        entries
    }

    /// How many connections of each kind are open; costs a few reads, takes no lock.
    pub fn counts(&self) -> Counts {
        Counts(std::array::from_fn(|kind| self.by_kind[kind].load(Ordering::Relaxed)))
    }

    /// How many connections are open.
    pub fn len(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// Whether no connection is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls `wake` once, when no connection is open: at once if that is so already, else from the thread that
    /// drops the last one, which it must not block.
    ///
    /// Something may open again before the caller looks: ask [`is_empty`](Self::is_empty), and wait once more.
    pub fn when_empty(&self, wake: impl FnOnce() + Send + 'static) {
        lock(&self.waiting_for_empty).push(Box::new(wake));
        // Looked at only after the entry in the list: a connection that ends in between finds it there.
        if self.is_empty() {
            self.wake_waiting();
        }
    }

    fn remove(&self, shard: usize, entry: &Entry<F>) {
        self.shards[shard].lock().remove(&entry.id);
        self.by_kind[entry.kind() as usize].fetch_sub(1, Ordering::Relaxed);
        if self.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.wake_waiting();
        }
    }

    fn wake_waiting(&self) {
        // Called without the lock: a callback may wait again.
        let waiting = std::mem::take(&mut *lock(&self.waiting_for_empty));
        for wake in waiting {
            wake();
        }
    }
}

/// What a connection is to this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Kind {
    /// Accepted, and not yet joined to its destination.
    Setup,
    /// Two TCP connections joined byte for byte.
    Plain,
    /// An HBONE tunnel: one TCP connection with TLS and HTTP/2, whatever number of streams it carries.
    Tunnel,
    /// One stream of a tunnel, joined to a local TCP connection.
    Stream,
}

impl Kind {
    /// Every kind, in the order of declaration.
    pub const ALL: [Self; 4] = [Self::Setup, Self::Plain, Self::Tunnel, Self::Stream];

    /// Its name in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Setup => "setup",
            Self::Plain => "plain",
            Self::Tunnel => "tunnel",
            Self::Stream => "stream",
        }
    }
}

/// Open connections by kind, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts([usize; Kind::ALL.len()]);

impl Counts {
    /// How many connections of this kind are open.
    pub fn of(&self, kind: Kind) -> usize {
        self.0[kind as usize]
    }

    /// How many connections are open.
    pub fn total(&self) -> usize {
        self.0.iter().sum()
    }

    /// Where nothing is open.
    pub const fn none() -> Self {
        Self([0; Kind::ALL.len()])
    }
}

/// One open connection, as everybody may read it.
#[derive(Debug)]
pub struct Entry<F> {
    id: u64,
    opened_ms: u64,
    kind: AtomicU8,
    worker: AtomicUsize,
    facts: Mutex<Arc<F>>,
    sent: AtomicU64,
    received: AtomicU64,
}

impl<F> Entry<F> {
    /// The connection's number, never used again by this process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// When it was opened: milliseconds on the process's monotonic clock.
    pub fn opened_ms(&self) -> u64 {
        self.opened_ms
    }

    /// What it is now.
    pub fn kind(&self) -> Kind {
        Kind::ALL[usize::from(self.kind.load(Ordering::Relaxed))]
    }

    /// Which worker has it now.
    pub fn worker(&self) -> usize {
        self.worker.load(Ordering::Relaxed)
    }

    /// What the daemon knows of it now.
    pub fn facts(&self) -> Arc<F> {
        Arc::clone(&lock(&self.facts))
    }

    /// Bytes of payload sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes of payload received so far.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// The owner's handle of one open connection: the only one that changes its [`Entry`], and takes it off
/// the [`Registry`] when it is dropped.
///
/// It may move to another thread, but two threads cannot hold it at once (it is `Send`, not `Sync`): this is what lets
/// the byte counters do without atomic additions.
pub struct Tracked<F> {
    registry: Arc<Registry<F>>,
    shard: usize,
    entry: Arc<Entry<F>>,
    one_writer: PhantomData<Cell<()>>,
}

impl<F> Tracked<F> {
    /// Set-up has found out what the connection is.
    pub fn set_kind(&self, kind: Kind) {
        let before = self.entry.kind();
        self.entry.kind.store(kind as u8, Ordering::Relaxed);
        self.registry.by_kind[kind as usize].fetch_add(1, Ordering::Relaxed);
        self.registry.by_kind[before as usize].fetch_sub(1, Ordering::Relaxed);
    }

    /// Another worker has it from now on.
    pub fn set_worker(&self, worker: usize) {
        self.entry.worker.store(worker, Ordering::Relaxed);
    }

    /// Set-up knows more of the connection. Meant for steps of set-up, not for each read or write.
    pub fn set_facts(&self, facts: F) {
        let facts = Arc::new(facts);
        let before = std::mem::replace(&mut *lock(&self.entry.facts), facts);
        // Outside the lock: this may be the last pointer, and freeing it takes time that a reader need not wait for.
        drop(before);
    }

    /// Adds to the bytes of payload sent.
    pub fn add_sent(&self, bytes: u64) {
        add(&self.entry.sent, bytes);
    }

    /// Adds to the bytes of payload received.
    pub fn add_received(&self, bytes: u64) {
        add(&self.entry.received, bytes);
    }

    /// The shared entry, for whoever needs to keep it.
    pub fn entry(&self) -> &Arc<Entry<F>> {
        &self.entry
    }
}

impl<F> Deref for Tracked<F> {
    type Target = Entry<F>;

    fn deref(&self) -> &Entry<F> {
        &self.entry
    }
}

impl<F> Drop for Tracked<F> {
    fn drop(&mut self) {
        self.registry.remove(self.shard, &self.entry);
    }
}

type Wake = Box<dyn FnOnce() + Send>;

/// A worker's own part, on cache lines of its own. Ordered by id, and so (nearly) by age; a tree gives its memory
/// back when a burst of connections is over.
#[repr(align(128))]
struct Shard<F>(Mutex<BTreeMap<u64, Arc<Entry<F>>>>);

impl<F> Shard<F> {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Entry<F>>>> {
        lock(&self.0)
    }
}

/// What these locks protect is whole between any two statements, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One writer only: a plain addition, without the bus lock of an atomic one.
fn add(counter: &AtomicU64, bytes: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(bytes), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_connection_is_listed_until_its_handle_is_dropped() {
        let registry = Registry::new(2);
        let first = registry.track(0, Kind::Setup, "first", 10);
        let second = registry.track(1, Kind::Tunnel, "second", 20);
        assert_ne!(first.id(), second.id());
        assert_eq!(names(&registry), ["first", "second"]);
        drop(first);
        assert_eq!(names(&registry), ["second"]);
        drop(second);
        assert!(registry.is_empty());
        assert_eq!(names(&registry), [""; 0]);
    }

    #[test]
    fn the_oldest_comes_first_whatever_its_shard() {
        let registry = Registry::new(3);
        let opened = [(0, 30), (1, 10), (2, 20), (0, 10), (7, 5)];
        let _handles: Vec<_> =
            opened.map(|(shard, opened_ms)| registry.track(shard, Kind::Plain, "", opened_ms)).into();
        let ages: Vec<_> = registry.snapshot().iter().map(|entry| (entry.opened_ms(), entry.id())).collect();
        assert_eq!(ages, [(5, 5), (10, 2), (10, 4), (20, 3), (30, 1)]);
    }

    #[test]
    fn kind_and_facts_follow_the_set_up() {
        let registry = Registry::new(1);
        let tracked = registry.track(0, Kind::Setup, "accepted", 0);
        let seen_by_another = Arc::clone(tracked.entry());
        tracked.set_kind(Kind::Stream);
        tracked.set_facts("routed");
        assert_eq!((seen_by_another.kind(), *seen_by_another.facts()), (Kind::Stream, "routed"));
        assert_eq!((registry.counts().of(Kind::Setup), registry.counts().of(Kind::Stream)), (0, 1));
        tracked.set_kind(Kind::Stream);
        assert_eq!(registry.counts().of(Kind::Stream), 1);
        drop(tracked);
        assert_eq!(registry.counts(), Counts::default());
    }

    #[test]
    fn bytes_are_added_up() {
        let registry = Registry::new(1);
        let tracked = registry.track(0, Kind::Plain, "", 0);
        tracked.add_sent(3);
        tracked.add_sent(4);
        tracked.add_received(5);
        assert_eq!((tracked.sent(), tracked.received()), (7, 5));
    }

    #[test]
    fn the_last_to_end_wakes_who_waits_and_only_once() {
        let registry = Registry::new(2);
        let (woken, wakes) = mpsc::channel();
        let (one, two) = (registry.track(0, Kind::Plain, "", 0), registry.track(1, Kind::Plain, "", 0));
        registry.when_empty(move || woken.send(()).expect("the test listens"));
        drop(one);
        assert_eq!(wakes.try_recv(), Err(mpsc::TryRecvError::Empty));
        drop(two);
        assert_eq!(wakes.try_recv(), Ok(()));
        drop(registry.track(0, Kind::Plain, "", 0));
        assert_eq!(wakes.try_recv(), Err(mpsc::TryRecvError::Disconnected), "the callback is used up");
    }

    #[test]
    fn nothing_open_wakes_at_once() {
        let registry = Registry::<()>::new(1);
        let (woken, wakes) = mpsc::channel();
        registry.when_empty(move || woken.send(()).expect("the test listens"));
        assert_eq!(wakes.try_recv(), Ok(()));
    }

    #[test]
    fn workers_open_and_close_while_another_waits_and_reads() {
        const WORKERS: usize = 4;
        let registry = Registry::new(WORKERS);
        let held = registry.track(0, Kind::Tunnel, 0, 0);
        let (woken, wakes) = mpsc::channel();
        registry.when_empty(move || woken.send(()).expect("the test listens"));
        std::thread::scope(|scope| {
            for worker in 0..WORKERS {
                let registry = &registry;
                scope.spawn(move || {
                    let mut open = Vec::new();
                    for turn in 0..2_000u64 {
                        let tracked = registry.track(worker, Kind::Setup, turn, turn);
                        tracked.set_kind(Kind::Plain);
                        open.push(tracked);
                        if turn % 3 == 0 {
                            open.swap_remove(open.len() / 2);
                        }
                    }
                });
            }
            for _ in 0..50 {
                let mut ids: Vec<_> = registry.snapshot().iter().map(|entry| entry.id()).collect();
                ids.sort_unstable();
                assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "an id is listed twice");
            }
        });
        assert_eq!((registry.len(), registry.counts().total()), (1, 1));
        assert_eq!(wakes.try_recv(), Err(mpsc::TryRecvError::Empty), "it was never empty");
        drop(held);
        assert_eq!(wakes.try_recv(), Ok(()));
    }

    fn names(registry: &Registry<&'static str>) -> Vec<&'static str> {
        registry.snapshot().iter().map(|entry| *entry.facts()).collect()
    }
}
