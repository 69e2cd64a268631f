//! What every part of a worker uses: its event loop, clock reading, timers, scratch buffers and queue of jobs.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use hbone::{Event, Inbox, Outbox, StreamId};
use mio::Registry;
use slab::Slab;

use super::jobs::{Jobs, Queued};
use super::leg::{Adrift, Leg};
use super::timers::Timers;
use crate::namespace::NamespaceId;
use crate::pod::Pod;
use crate::shared::Shared;
use crate::socket;
use crate::telemetry::Failure;

/// Bytes that one turn of a tunnel may read or seal.
const SCRATCH: usize = 512 * 1024;

/// Bytes that one read of a plain connection takes. What a slow reader leaves of it is kept, so this also bounds the
/// memory of a stalled connection.
const PLAIN_CHUNK: usize = 128 * 1024;

/// Something that a worker has to look after: the target of events, timers and queued work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Job {
    /// Accept from a listener.
    Listener(usize),
    /// A user's connection that isn't relayed yet.
    User(usize),
    /// A tunnel on its way up.
    Dial(usize),
    /// A tunnel.
    Tunnel(usize),
    /// Two plain TCP sockets.
    Pair(usize),
    /// Judge live connections again.
    Recheck,
    /// Give up waiting for tunnels that come from another process.
    Coming,
}

/// Whose a registered socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Listener(usize),
    User(usize),
    /// The connection that a user's plain connection waits for.
    Onward(usize),
    Dial(usize),
    Tunnel(usize),
    Stream(usize, StreamId),
    /// The accepting and the connecting side of a plain pair.
    PairNear(usize),
    PairFar(usize),
    /// Its owner went in this turn; events that the kernel had already queued for it mean nothing.
    Gone,
}

/// See the module.
pub(super) struct Core {
    /// This worker's number, from 0.
    pub(super) id: usize,
    pub(super) shared: Arc<Shared>,
    /// The process is about to go: peers were told, tunnels that nobody uses are closed.
    pub(super) draining: bool,
    /// The deadline has come: why whatever still arrives from other workers is cut.
    pub(super) cut: Option<Failure>,
    /// Milliseconds, read once a turn.
    pub(super) now: u64,
    pub(super) timers: Timers<Job>,
    pub(super) inbox: Inbox,
    pub(super) outbox: Outbox,
    pub(super) plain: Vec<u8>,
    /// Reused by every turn.
    pub(super) events: Vec<Event>,
    registry: Registry,
    sources: Slab<Source>,
    gone: Vec<usize>,
    pub(super) jobs: Jobs,
    /// The network namespace that this thread is in.
    place: NamespaceId,
}

impl Core {
    pub(super) fn new(id: usize, shared: Arc<Shared>, registry: Registry) -> Self {
        let place = shared.home.id();
        Self {
            id,
            draining: false,
            cut: None,
            now: shared.clock.now(),
            shared,
            timers: Timers::new(),
            inbox: Inbox::with_capacity(SCRATCH),
            outbox: Outbox::with_capacity(SCRATCH),
            plain: vec![0; PLAIN_CHUNK],
            events: Vec::new(),
            registry,
            sources: Slab::new(),
            gone: Vec::new(),
            jobs: Jobs::default(),
            place,
        }
    }

    /// Puts a job at the end of its pod's queue, once: `queued` is the owner's note of that.
    pub(super) fn enqueue(&mut self, job: Job, queued: &mut Queued) {
        self.jobs.push(job, queued);
    }

    /// After a panic nobody knows what the scratch buffers hold.
    pub(super) fn clear_scratch(&mut self) {
        self.inbox = Inbox::with_capacity(SCRATCH);
        self.outbox = Outbox::with_capacity(SCRATCH);
        self.events = Vec::new();
    }

    /// Registers a socket of a pod with the event loop.
    pub(super) fn register(&mut self, socket: Adrift, source: Source) -> io::Result<Leg> {
        let key = self.sources.insert(source);
        Leg::register(socket, key, &self.registry).inspect_err(|_| {
            self.sources.remove(key);
        })
    }

    /// Registers sockets that were another owner's; nobody's events are theirs until they are assigned.
    ///
    /// # Errors
    /// The event loop takes one of them not; then all are reset, since nobody else has them.
    pub(super) fn adopt(&mut self, sockets: Vec<OwnedFd>, pod: &Arc<Pod>) -> io::Result<Vec<Leg>> {
        let mut legs = Vec::with_capacity(sockets.len());
        let mut failed = None;
        for socket in sockets {
            if failed.is_some() {
                socket::abort(&socket);
                continue;
            }
            let adrift = Adrift::new(mio::net::TcpStream::from_std(socket.into()), pod.clone());
            match self.register(adrift, Source::Gone) {
                Ok(mut leg) => {
                    leg.try_at_once();
                    legs.push(leg);
                }
                Err(error) => failed = Some(error),
            }
        }
        let Some(error) = failed else { return Ok(legs) };
        for leg in legs {
            leg.abort();
            self.close(leg);
        }
        Err(error)
    }

    /// Makes a non-blocking connection in the pod's namespace and registers it.
    pub(super) fn connect(
        &mut self,
        to: SocketAddr,
        from: Option<socket::Source>,
        source: Source,
        pod: &Arc<Pod>,
    ) -> io::Result<Leg> {
        self.enter(pod)?;
        let socket = socket::connect(to, from, &self.shared.sockets)?;
        self.register(Adrift::new(socket, pod.clone()), source)
    }

    /// Goes where the pod's sockets are made, and stays until one is wanted elsewhere.
    fn enter(&mut self, pod: &Pod) -> io::Result<()> {
        let namespace = pod.namespace().ok_or_else(|| io::Error::other("the pod is gone"))?;
        if self.place != namespace.id() {
            namespace.enter()?;
            self.place = namespace.id();
        }
        Ok(())
    }

    /// A thread keeps the namespace alive that it is in: it must not stay with a pod that has gone.
    pub(super) fn leave(&mut self, pod: &Pod) {
        let home = &self.shared.home;
        if self.place != pod.namespace_id() || self.place == home.id() {
            return;
        }
        match home.enter() {
            Ok(()) => self.place = home.id(),
            Err(error) => tracing::error!(%error, "a worker can't leave the network namespace of a pod"),
        }
    }

    /// The owner of a socket has changed (a user's connection became a stream, for example).
    pub(super) fn assign(&mut self, leg: &Leg, source: Source) {
        self.sources[leg.source] = source;
    }

    pub(super) fn source(&self, key: usize) -> Source {
        self.sources.get(key).copied().unwrap_or(Source::Gone)
    }

    pub(super) fn add_listener(
        &mut self,
        listener: &mut mio::net::TcpListener,
        index: usize,
    ) -> io::Result<()> {
        let key = self.sources.insert(Source::Listener(index));
        self.registry.register(listener, mio::Token(key), mio::Interest::READABLE)
    }

    pub(super) fn remove_listener(&mut self, listener: &mut mio::net::TcpListener) {
        let _ = self.registry.deregister(listener);
    }

    /// Closes a socket. Its key is free again only when the events of this turn are done with.
    pub(super) fn close(&mut self, leg: Leg) {
        self.retire(leg.source);
        drop(leg.into_socket(&self.registry));
    }

    /// Takes a socket out of this worker, for another owner.
    pub(super) fn give_up(&mut self, leg: Leg) -> Adrift {
        self.retire(leg.source);
        leg.into_adrift(&self.registry)
    }

    /// Takes a socket out of this worker and out of the event loop, as a descriptor.
    pub(super) fn take_fd(&mut self, leg: Leg) -> OwnedFd {
        self.retire(leg.source);
        leg.into_socket(&self.registry).into()
    }

    fn retire(&mut self, source: usize) {
        self.sources[source] = Source::Gone;
        self.gone.push(source);
    }

    /// The events of this turn are done with.
    pub(super) fn forget_gone(&mut self) {
        for source in self.gone.drain(..) {
            self.sources.remove(source);
        }
    }
}
