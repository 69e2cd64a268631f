//! How the client gives its connection away, and goes on with one.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{debug, info};

use super::{BackOff, Client, Command, Driver, Link, STALLED};
use crate::zds::reconciler::{AtRest, Place, Target};
use crate::zds::transfer::{NotReleased, ServedPod, Transfer, UnservedPod};
use crate::zds::transport::Connection;

/// How long a release waits for what is under way. Nothing new is read meanwhile, and istio-cni waits for 5 s.
const REST_WITHIN: Duration = Duration::from_secs(2);

/// Somebody wants the connection as soon as nothing is under way.
pub(super) struct Releasing {
    reply: oneshot::Sender<Result<Transfer, NotReleased>>,
    since: Instant,
}

impl Client {
    /// Follows istio-cni, unless it does already: connects, now and whenever the connection is lost. What the first
    /// snapshot doesn't name is stopped.
    pub fn go(&self) {
        self.tell(Command::Go);
    }

    /// Follows istio-cni where another process stopped, or where this one did at a [`release`](Self::release) that came to
    /// nothing.
    ///
    /// [`PodHost`](crate::zds::PodHost) serves those that are said to be served already, and isn't asked to start them;
    /// each [`stop_pod`](Self::stop_pod) of one of them has returned. Others that are served are stopped.
    pub fn adopt(&self, transfer: Transfer) {
        self.tell(Command::Adopt(transfer));
    }

    /// Gives the connection away as soon as nothing is under way. From then on nothing is read, written or dialled here; the
    /// pods go on being served, and the process doesn't become unready for it. Await it to its end.
    ///
    /// # Errors
    /// If that is not so within 2 s. Then the client goes on as before.
    pub async fn release(&self) -> Result<Transfer, NotReleased> {
        let (reply, released) = oneshot::channel();
        self.tell(Command::Release(reply));
        released.await.unwrap_or(Err(NotReleased::Ended))
    }

    /// Serves a pod no more, as the process that follows istio-cni tells. Its connections have ended when this returns.
    pub async fn stop_pod(&self, uid: Arc<str>) {
        let (reply, stopped) = oneshot::channel();
        self.tell(Command::Stop(uid, reply));
        // A client that doesn't run serves nothing for long.
        let _ = stopped.await;
    }
}

impl Driver {
    pub(super) fn go(&mut self) {
        if !matches!(self.link, Link::Elsewhere) {
            return;
        }
        self.reconciler.disconnected();
        // Who connects last is told of new pods: that must not be a proxy that refuses them.
        if self.draining {
            self.link = Link::Down;
        } else {
            self.connect();
        }
    }

    pub(super) fn begin_release(&mut self, reply: oneshot::Sender<Result<Transfer, NotReleased>>) {
        // Who asked may have stopped waiting.
        let _ = match (&self.link, &self.releasing) {
            (Link::Elsewhere, _) => reply.send(Err(NotReleased::NotHeld)),
            (_, Some(_)) => reply.send(Err(NotReleased::Busy)),
            (_, None) => {
                self.releasing = Some(Releasing { reply, since: Instant::now() });
                return;
            }
        };
    }

    /// Whether what waits in the connection is left to whoever goes on with it. A snapshot is read to its end.
    pub(super) fn is_withheld(&self) -> bool {
        self.releasing.is_some() && self.reconciler.is_following()
    }

    /// When a release is given up.
    pub(super) fn release_until(&self) -> Option<Instant> {
        self.releasing.as_ref().map(|releasing| releasing.since + REST_WITHIN)
    }

    /// Gives the connection away if it can be now.
    pub(super) fn release(&mut self, now: u64) {
        let Some(releasing) = self.releasing.take() else { return };
        let late = releasing.since.elapsed() >= REST_WITHIN;
        match self.reconciler.release() {
            Ok(at_rest) => {
                let socket = self.let_go_of_connection();
                debug!(connected = socket.is_some(), "the connection to istio-cni is given away");
                let transfer = transfer(socket, monotonic_ns(releasing.since), at_rest);
                if let Err(Ok(transfer)) = releasing.reply.send(Ok(transfer)) {
                    self.adopt(transfer, now);
                }
            }
            Err(NotReleased::Busy | NotReleased::SnapshotIncomplete) if !late => {
                self.releasing = Some(releasing);
            }
            Err(why) => {
                self.read_again(releasing.since, now);
                let _ = releasing.reply.send(Err(why));
            }
        }
    }

    pub(super) fn adopt(&mut self, transfer: Transfer, now: u64) {
        let Transfer { socket, unread_since_ns, served, pending } = transfer;
        info!(served = served.len(), pending = pending.len(), "this process follows istio-cni from now on");
        let served = served
            .into_iter()
            .map(|ServedPod { uid, workload, namespace }| (uid, Place { workload, namespace }));
        let pending = pending.into_iter().map(|UnservedPod { uid, workload, namespace, error }| {
            let place = Place { workload, namespace: namespace.id() };
            (uid, Target { place, namespace, failure: Some(error) })
        });
        self.reconciler.adopt(AtRest { served: served.collect(), pending: pending.collect() }, now);
        self.handling = None;
        self.back_off = BackOff::default();
        self.outage_told = false;
        match socket.map(Connection::adopt) {
            Some(Ok(connection)) => {
                self.link = Link::Up(connection);
                self.read_again(instant(unread_since_ns), now);
            }
            Some(Err(error)) => self.lost(&format!("the connection to istio-cni cannot be used: {error}")),
            None => {
                self.link = Link::Elsewhere;
                self.go();
            }
        }
    }

    /// What waits in the connection may have come at any time since `unread_since`, and is answered in time or never.
    fn read_again(&mut self, unread_since: Instant, now: u64) {
        let Link::Up(connection) = &self.link else { return };
        if !connection.is_readable() {
            return;
        }
        let age = unread_since.elapsed();
        if age >= STALLED {
            self.lost("a message waited for so long that its answer would be late");
        } else {
            let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
            self.unread_since = Some(now.saturating_sub(age));
        }
    }

    fn let_go_of_connection(&mut self) -> Option<OwnedFd> {
        match std::mem::replace(&mut self.link, Link::Elsewhere) {
            Link::Up(connection) => connection
                .into_socket()
                .inspect_err(|error| debug!(%error, "the event loop can't let go of the connection"))
                .ok(),
            Link::Waiting(_) | Link::Down | Link::Elsewhere => None,
        }
    }
}

fn transfer(
    socket: Option<OwnedFd>,
    unread_since_ns: u64,
    at_rest: AtRest<Arc<crate::namespace::Namespace>>,
) -> Transfer {
    let served = at_rest.served.into_iter().map(|(uid, place)| {
        let Place { workload, namespace } = place;
        ServedPod { uid, workload, namespace }
    });
    let pending = at_rest.pending.into_iter().map(|(uid, target)| {
        let Target { place, namespace, failure } = target;
        UnservedPod { uid, workload: place.workload, namespace, error: failure.unwrap_or_default() }
    });
    Transfer { socket, unread_since_ns, served: served.collect(), pending: pending.collect() }
}

/// A time of this process as every process of the machine knows it.
fn monotonic_ns(at: Instant) -> u64 {
    let age = u64::try_from(at.elapsed().as_nanos()).unwrap_or(u64::MAX);
    monotonic_now_ns().saturating_sub(age)
}

fn instant(monotonic_ns: u64) -> Instant {
    let age = Duration::from_nanos(monotonic_now_ns().saturating_sub(monotonic_ns));
    let now = Instant::now();
    now.checked_sub(age).unwrap_or(now)
}

fn monotonic_now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let (seconds, nanoseconds) = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
    seconds.unwrap_or(0).saturating_mul(1_000_000_000).saturating_add(nanoseconds.unwrap_or(0))
}
