//! One thread of the data plane: its own event loop, sockets, timers and tunnels. Nothing here is shared, nothing locks,
//! nothing awaits.
//!
//! ```text
//!        ┌───────────────────────── Worker ──────────────────────────┐
//!  epoll │ listeners ──► users ──────► pairs   (plain TCP)           │
//!  ─────►│     │           │  ▲                                      │
//!        │     │           ▼  │ again                                │
//!        │     └──► dials ──► tunnels ──► streams + local sockets    │
//!        └───────▲───────────────────────────────────┬───────────────┘
//!         mailbox│ fresh sockets, moved tunnels,      │ to the worker that holds the tunnel
//!                │ certificates, drain                ▼
//! ```
//!
//! A turn: wait once; note what the kernel says; do each job that this queued. A tunnel's job ends with one write.

mod accept;
#[cfg(test)]
mod bench;
mod coming;
mod connecting;
mod core;
mod dial;
mod drain;
mod end;
mod frozen;
mod jobs;
mod leg;
mod listeners;
mod mailbox;
mod moving;
mod pair;
mod placing;
mod recheck;
mod removing;
mod stream;
mod timers;
mod tunnel;
mod user;

use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};
use slab::Slab;

use self::accept::Listener;
use self::coming::Coming;
use self::core::{Core, Job, Source};
use self::dial::{Dial, Dialled};
use self::end::{End, is_reset};
use self::frozen::arrival::Arrival;
use self::pair::{Pair, Side};
use self::recheck::Recheck;
use self::tunnel::{Effect, Tunnel};
use self::user::{Stage, User};
use crate::pool::Pool;
use crate::shared::Shared;
use crate::telemetry::{Failure, ResponseFlags};

pub use self::frozen::arrival::Taken;
pub use self::frozen::prepared::PreparedConnection;
pub use self::frozen::{FrozenConnection, FrozenKind, Given, Kept, MoveError};
pub use self::listeners::ListenerCopy;
pub use self::mailbox::{Handle, Mailbox, Message, Reply};
pub use self::moving::Movable;
pub use self::tunnel::moving::record::ClientRecord;
pub use self::user::Listening;

/// The token of the mailbox's waker.
const MAILBOX: Token = Token(usize::MAX);

/// How often a worker says how busy it is, ms.
const LOAD_INTERVAL: u64 = 100;

/// A worker that is busy for less than this, in per mille, counts as idle.
const IDLE: u32 = 50;

/// How long queued work is done before the sockets are looked at again.
const BATCH: Duration = Duration::from_millis(1);

/// Events that one wait brings at most.
const EVENTS: usize = 1024;

/// See the module.
pub struct Worker {
    poll: Poll,
    mailbox: Mailbox,
    core: Core,
    listeners: HashMap<usize, Listener>,
    users: Slab<User>,
    dials: Slab<Dial>,
    tunnels: Slab<Tunnel>,
    pairs: Slab<Pair>,
    pool: Pool,
    effects: Vec<Effect>,
    recheck: Recheck,
    coming: Coming,
    /// The test switch: every connection moves on at this interval, ms.
    move_interval: Option<u64>,
    next_move: u64,
    running: bool,
    load: Load,
}

/// How busy the worker was since it last said so.
struct Load {
    since: Instant,
    waited: Duration,
    next: u64,
    /// What it said, in per mille.
    said: u32,
}

impl Worker {
    /// A worker whose mailbox is `mailbox`.
    ///
    /// # Errors
    /// If the kernel gives no event queue.
    pub fn new(
        id: usize,
        shared: Arc<Shared>,
        mut mailbox: Mailbox,
        move_interval: Option<u64>,
    ) -> io::Result<Self> {
        let poll = mailbox.poll()?;
        let recheck = Recheck::new(&shared);
        let core = Core::new(id, shared, poll.registry().try_clone()?);
        let load = Load { since: Instant::now(), waited: Duration::ZERO, next: 0, said: 0 };
        Ok(Self {
            poll,
            mailbox,
            core,
            listeners: HashMap::new(),
            users: Slab::new(),
            dials: Slab::new(),
            tunnels: Slab::new(),
            pairs: Slab::new(),
            pool: Pool::default(),
            effects: Vec::new(),
            recheck,
            coming: Coming::default(),
            move_interval,
            next_move: 0,
            running: true,
            load,
        })
    }

    /// Runs until [`Message::Exit`].
    ///
    /// # Errors
    /// If waiting for events fails, which leaves nothing to go on with.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        while self.running {
            self.turn(&mut events)?;
        }
        Ok(())
    }

    fn turn(&mut self, events: &mut Events) -> io::Result<()> {
        self.wait(events)?;
        self.core.now = self.core.shared.clock.now();
        for event in &*events {
            if event.token() == MAILBOX {
                while let Some(message) = self.mailbox.take() {
                    self.guard(None, |worker| worker.message(message));
                }
            } else {
                self.event(event);
            }
        }
        while let Some(job) = self.core.timers.pop(self.core.now) {
            self.guard(Some(job), |worker| worker.timeout(job));
        }
        // What others have to say is looked at soon, however much waits here.
        let begun = Instant::now();
        for _ in 0..self.core.jobs.len() {
            let Some(job) = self.core.jobs.pop() else { break };
            self.guard(Some(job), |worker| worker.work(job));
            if begun.elapsed() > BATCH {
                break;
            }
        }
        self.move_connections_if_due();
        self.core.forget_gone();
        Ok(())
    }

    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        let now = self.core.shared.clock.now();
        self.publish_load(now);
        let idle = self.load.next.saturating_sub(now);
        let moves = if self.move_interval.is_some() { self.next_move.saturating_sub(now) } else { u64::MAX };
        let timers = self.core.timers.wait(now).unwrap_or(u64::MAX);
        let mut wait = timers.min(moves);
        if self.core.jobs.len() > 0 {
            wait = 0;
        } else if self.load.said > IDLE {
            // An idle worker isn't woken only to say that it still is.
            wait = wait.min(idle.max(1));
        }
        let timeout = (wait != u64::MAX).then(|| Duration::from_millis(wait));
        let start = Instant::now();
        let result = self.poll.poll(events, timeout);
        self.load.waited += start.elapsed();
        match result {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            other => other,
        }
    }

    fn publish_load(&mut self, now: u64) {
        if now < self.load.next {
            return;
        }
        let span = self.load.since.elapsed();
        let busy = span.saturating_sub(self.load.waited);
        let permille = busy.as_micros() * 1000 / span.as_micros().max(1);
        let held = self.pairs.len()
            + self.users.len()
            + self.dials.len()
            + self.tunnels.iter().map(|(_, tunnel)| 1 + tunnel.streams()).sum::<usize>();
        let said = u32::try_from(permille).unwrap_or(1000);
        self.core.shared.loads.publish(self.core.id, said, held);
        self.load = Load { since: Instant::now(), waited: Duration::ZERO, next: now + LOAD_INTERVAL, said };
    }

    /// Runs `f`; a panic in it ends the one connection that it was about, never the process.
    fn guard(&mut self, about: Option<Job>, f: impl FnOnce(&mut Self)) {
        if catch_unwind(AssertUnwindSafe(|| f(self))).is_ok() {
            return;
        }
        self.core.shared.telemetry.worker_panicked();
        tracing::error!(worker = self.core.id, job = ?about, "a panic ended one connection; please report it");
        self.core.clear_scratch();
        // The drop of what is removed closes its sockets; the kernel takes them out of the event loop.
        match about {
            Some(Job::User(key)) => {
                if let Some(User { stage: Stage::AwaitTunnel { key: pool_key, .. }, .. }) =
                    self.users.try_remove(key)
                {
                    self.stop_waiting(key, &pool_key);
                }
            }
            Some(Job::Dial(key)) => {
                // Those who wait for this tunnel must not wait for ever, nor keep others from dialling.
                if let Some(dial) = self.dials.try_remove(key) {
                    let failure = Failure::new(ResponseFlags::None, "internal error");
                    self.dial_failed(key, dial.role, &failure);
                }
            }
            Some(Job::Tunnel(key)) => {
                if let Some(tunnel) = self.tunnels.try_remove(key) {
                    self.leave_pool(key, tunnel.key());
                }
            }
            Some(Job::Pair(key)) => drop(self.pairs.try_remove(key)),
            Some(Job::Recheck) => self.go_on_rechecking(),
            Some(Job::Coming) => self.arm_coming(),
            Some(Job::Listener(_)) | None => {}
        }
    }

    /// Takes note of an event and queues the job of the socket's owner.
    fn event(&mut self, event: &mio::event::Event) {
        match self.core.source(event.token().0) {
            Source::Listener(index) => self.listener_ready(index),
            Source::User(key) => {
                if let Some(user) = self.users.get_mut(key) {
                    user.leg.note(event);
                    self.core.enqueue(Job::User(key), &mut user.queued);
                }
            }
            Source::Onward(key) => self.onward_event(key, event),
            Source::Dial(key) => {
                if let Some(dial) = self.dials.get_mut(key) {
                    if let Some(leg) = dial.leg() {
                        leg.note(event);
                    }
                    self.core.enqueue(Job::Dial(key), &mut dial.queued);
                }
            }
            Source::Tunnel(key) => {
                if let Some(tunnel) = self.tunnels.get_mut(key) {
                    tunnel.leg.note(event);
                    self.core.enqueue(Job::Tunnel(key), &mut tunnel.queued);
                }
            }
            Source::Stream(key, id) => {
                if let Some(tunnel) = self.tunnels.get_mut(key) {
                    tunnel.stream_event(id, event);
                    self.core.enqueue(Job::Tunnel(key), &mut tunnel.queued);
                }
            }
            Source::PairNear(key) => self.pair_event(key, Side::Near, event),
            Source::PairFar(key) => self.pair_event(key, Side::Far, event),
            Source::Gone => {}
        }
    }

    fn pair_event(&mut self, key: usize, side: Side, event: &mio::event::Event) {
        if let Some(pair) = self.pairs.get_mut(key) {
            pair.leg(side).note(event);
            self.core.enqueue(Job::Pair(key), &mut pair.queued);
        }
    }

    fn timeout(&mut self, job: Job) {
        match job {
            Job::Listener(index) => self.listener_timeout(index),
            Job::User(key) => self.user_timeout(key),
            Job::Dial(key) => {
                if let Some(dial) = self.dials.get_mut(key) {
                    dial.armed = None;
                    self.core.enqueue(job, &mut dial.queued);
                }
            }
            Job::Tunnel(key) => {
                let Some(tunnel) = self.tunnels.get_mut(key) else { return };
                if let Err(failure) = tunnel.timeout(key, &mut self.core) {
                    self.fail_tunnel(key, &failure);
                }
            }
            Job::Coming => self.coming_timeout(),
            Job::Pair(_) | Job::Recheck => {}
        }
    }

    fn work(&mut self, job: Job) {
        match job {
            Job::Listener(index) => self.accept(index),
            Job::User(key) => self.drive_user(key),
            Job::Dial(key) => self.drive_dial(key),
            Job::Tunnel(key) => self.drive_tunnel(key),
            Job::Pair(key) => self.drive_pair(key),
            Job::Recheck => self.drive_recheck(),
            // It is a timer only.
            Job::Coming => {}
        }
    }

    fn drive_pair(&mut self, key: usize) {
        let Some(pair) = self.pairs.get_mut(key) else { return };
        pair.queued.done();
        let failure;
        let end = match pair.drive(key, &mut self.core) {
            Ok(false) => return,
            Ok(true) => End::Whole,
            Err(error) if is_reset(&error) => End::Reset,
            Err(error) => {
                failure = Failure::new(ResponseFlags::None, error.to_string());
                End::Failed(&failure)
            }
        };
        self.pairs.remove(key).end(&mut self.core, end);
    }

    fn drive_dial(&mut self, key: usize) {
        let Some(dial) = self.dials.get_mut(key) else { return };
        dial.queued.done();
        match dial.drive(key, &mut self.core) {
            Dialled::Waiting => {}
            Dialled::Failed(failure) => {
                let dial = self.dials.remove(key);
                self.dial_failed(key, dial.role, &failure);
            }
            Dialled::Up { leg, established, peer } => {
                let dial = self.dials.remove(key);
                self.tunnel_up(key, dial.role, leg, *established, peer);
            }
        }
    }

    fn drive_tunnel(&mut self, key: usize) {
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        tunnel.queued.done();
        let mut effects = std::mem::take(&mut self.effects);
        let result = tunnel.drive(key, &mut self.core, &mut effects);
        self.carry_out(key, &mut effects);
        self.effects = effects;
        match result {
            Ok(false) => {}
            Ok(true) => self.remove_tunnel(key),
            Err(failure) => self.fail_tunnel(key, &failure),
        }
    }

    fn carry_out(&mut self, key: usize, effects: &mut Vec<Effect>) {
        let mut room = false;
        for effect in effects.drain(..) {
            match effect {
                Effect::Again(returned) => self.user_again(key, *returned),
                Effect::Room => room = true,
                Effect::LeavePool => {
                    let pool_key = self.tunnels.get(key).and_then(|tunnel| tunnel.key().cloned());
                    self.leave_pool(key, pool_key.as_ref());
                }
            }
        }
        if room && let Some(pool_key) = self.tunnels.get(key).and_then(|tunnel| tunnel.key().cloned()) {
            self.serve(&pool_key);
        }
    }

    fn remove_tunnel(&mut self, key: usize) {
        let mut tunnel = self.tunnels.remove(key);
        self.core.timers.set(Job::Tunnel(key), &mut tunnel.armed, None);
        let pool_key = tunnel.key().cloned();
        tunnel.close(&mut self.core);
        self.leave_pool(key, pool_key.as_ref());
    }

    fn fail_tunnel(&mut self, key: usize, failure: &Failure) {
        let mut tunnel = self.tunnels.remove(key);
        self.core.timers.set(Job::Tunnel(key), &mut tunnel.armed, None);
        let pool_key = tunnel.key().cloned();
        let peer = tunnel.peer.clone();
        let identity = peer.identity.map(|identity| identity.to_string());
        let role = tunnel.role.name();
        tracing::debug!(peer = %peer.address, identity, role, reason = %failure.reason, "tunnel lost");
        tunnel.fail(&mut self.core, failure);
        self.leave_pool(key, pool_key.as_ref());
    }

    fn message(&mut self, message: Message) {
        match message {
            Message::Listen(listening, listener, pod) => self.listen(listening, listener, pod),
            Message::RemovePod(pod, done) => {
                self.remove_pod(&pod);
                done(());
            }
            Message::Fresh(fresh) => {
                self.adopt(*fresh);
                if let Some(failure) = self.core.cut.clone() {
                    // It was on its way while the others were cut.
                    self.cut_all(&failure.reason);
                }
            }
            Message::Moved(moved) => self.arrive(*moved),
            Message::GiveConnections { most, descriptors, canary, but, reply } => {
                reply(self.give_connections(most, descriptors, canary, &but));
            }
            Message::TakeConnection { prepared, secrets, taken, proved } => {
                let arrival = Arrival::new(prepared.frozen_at, taken, proved);
                self.take_connection(*prepared, secrets, arrival);
            }
            Message::NothingComes => self.nothing_comes(),
            Message::TakeBack(frozen, kept) => {
                self.run_again(*frozen, kept);
            }
            Message::CountConnections(reply) => reply(self.count_connections()),
            Message::CopyListeners(reply) => reply(self.copy_listeners()),
            Message::LetGoOfListeners { home, done } => {
                self.let_go_of_listeners(home);
                done(());
            }
            Message::Wake(key) => {
                if let Some(dial) = self.dials.get_mut(key) {
                    self.core.enqueue(Job::Dial(key), &mut dial.queued);
                }
            }
            Message::Recheck => self.recheck(),
            Message::StopAccepting(done) => {
                self.stop_accepting();
                done(());
            }
            Message::TellPeers => self.tell_peers(),
            Message::CutAll(reason) => self.cut_all(&reason),
            Message::Exit => self.running = false,
        }
    }

    fn keys<T>(&self, of: impl FnOnce(&Self) -> &Slab<T>) -> Vec<usize> {
        of(self).iter().map(|(key, _)| key).collect()
    }
}
