//! One session, from the greeting to its end: what the machine decides ([`drain::handover::session`]) is carried out, what happens is
//! told to it.
//!
//! ```text
//!   socket ──► Message ──► Say ──► ┌─────────┐ ──► Action ──► role (app), workers ──► Done
//!   SIGTERM, able ───────────────► │ Session │                                        │
//!   time ────────────────────────► └─────────┘ ◄──────────────────────────────────────┘
//! ```
//!
//! Nothing in here waits for anything but the next event: what takes time runs beside it and comes back as [`Done`].

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use drain::handover::channel::{ReceiveError, Received};
use drain::handover::limits;
use drain::handover::message::{Assembler, Hello, Message, Payload, Whole};
use drain::handover::session::{Action, BackWhy, Event, Offer, Report, Say, Session, Start, Took};
use hbone::Secrets;
use tokio::sync::{mpsc, oneshot};

use super::giving::Giving;
use super::line::Line;
use super::outgoing::{Commits, Descriptors, Flushed, Outgoing, cut};
use super::parts::Part;
use super::pause;
use super::role::Role;
use super::saying;
use super::status::{PeerName, Standing, Status};
use super::taking::{Committed, Taking};
use crate::shared::Shared;
use crate::telemetry::ConnectionLabels;
use crate::worker::{FrozenConnection, FrozenKind, Kept, Message as ToWorker, MoveError, Reply, Taken};

/// Connections that one wave takes from each worker at most.
const WAVE: usize = 32;

/// Descriptors that one wave takes from each worker at most.
const WAVE_DESCRIPTORS: usize = 128;

/// How often the other side is told how much room there is.
const ROOM_INTERVAL: Duration = Duration::from_millis(500);

/// Before messages are sent again that the kernel did not take.
const SEND_AGAIN: Duration = Duration::from_millis(5);

/// What the process tells the session.
pub enum Command {
    /// It could take the role.
    Able {
        /// Without anybody's help.
        alone: bool,
    },
    /// It has been told to end.
    Terminate,
    /// istio-cni has deleted this pod: whatever the other side has of it must go; then call back.
    PodDeleted(Arc<str>, oneshot::Sender<()>),
}

/// How two processes meet.
pub struct Meeting<'a> {
    /// What the other side has said of itself.
    pub hello: &'a Hello,
    /// What each of them is.
    pub start: Start,
    /// Why no connection may come from there, if there is a reason.
    pub differs: Option<String>,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// This process has the role; how it came here in this session, if it did.
    WithRole(Option<Took>),
    /// Somebody else has it.
    WithoutRole,
}

/// Something that took time is done.
enum Done {
    Offered(Result<Vec<Arc<Part>>, String>),
    Stopped,
    Wave(Vec<(FrozenConnection, Kept)>),
    Ran(Offer, FrozenInfo, Result<Taken, MoveError>),
    Proved(Offer, Result<(), String>),
    PodClosed(String),
    Kept,
}

/// What is told of a connection that was taken.
#[derive(Clone, Copy)]
struct FrozenInfo {
    kind: FrozenKind,
    streams: usize,
    bytes: usize,
    canary: bool,
}

/// See the module.
pub struct Driver {
    session: Session,
    line: Line,
    outgoing: Outgoing,
    giving: Giving,
    taking: Taking,
    parts: Vec<Part>,
    /// Why the parts that came can't be used.
    bad_part: Option<String>,
    part_pieces: Assembler,
    /// Parts that came and are not wanted.
    parts_skipped: usize,
    /// How many parts were sent.
    parts_sent: u32,
    /// Came with the commit of the role.
    seat: Vec<OwnedFd>,
    /// Came with the commit that is being handled.
    secrets: Option<Payload>,
    /// Why no connection may come from the other side.
    differs: Option<String>,
    role: Arc<dyn Role>,
    shared: Arc<Shared>,
    status: Status,
    peer: PeerName,
    canary: bool,
    /// The first sockets' cookies of connections that the other side can't run.
    stay: Arc<BTreeSet<u64>>,
    done: (mpsc::UnboundedSender<Done>, mpsc::UnboundedReceiver<Done>),
    waiting: Vec<(Arc<str>, oneshot::Sender<()>)>,
    begun: Instant,
    gone: bool,
    took: Option<Took>,
    /// Connections that were taken, and of which it isn't known yet how they run.
    running: usize,
}

impl Driver {
    /// A session with whoever has said `hello` on this line.
    pub fn new(
        line: Line,
        meeting: Meeting<'_>,
        role: Arc<dyn Role>,
        shared: Arc<Shared>,
        status: Status,
    ) -> Self {
        let Meeting { hello, start, differs } = meeting;
        let peer = PeerName { pod: hello.pod.clone(), pid: hello.pid, build: hello.build.clone() };
        status.begins(peer.clone());
        Self {
            session: Session::new(start),
            line,
            outgoing: Outgoing::default(),
            giving: Giving::new(hello.room as usize),
            taking: Taking::default(),
            parts: Vec::new(),
            bad_part: None,
            part_pieces: Assembler::new(),
            parts_skipped: 0,
            parts_sent: 0,
            seat: Vec::new(),
            secrets: None,
            differs,
            role,
            shared,
            status,
            peer,
            canary: false,
            stay: Arc::default(),
            done: mpsc::unbounded_channel(),
            waiting: Vec::new(),
            begun: Instant::now(),
            gone: false,
            took: None,
            running: 0,
        }
    }

    /// Runs until the other side is gone and it is settled who has the role. `promised` tells whether something may be ours before we
    /// know it: then this process must not end.
    pub async fn run(
        mut self,
        able: bool,
        promised: &AtomicBool,
        commands: &mut mpsc::UnboundedReceiver<Command>,
    ) -> Ended {
        pause::at("hello");
        let actions = self.session.begin();
        self.carry_out(actions);
        if able {
            self.happened(Event::Able { alone: true });
        }
        let mut orphaned = None;
        let mut room = tokio::time::interval(ROOM_INTERVAL);
        loop {
            self.flush();
            promised.store(self.session.has_promised(), Ordering::Release);
            // What is being frozen or closed comes back here first.
            if self.gone && self.session.is_over() && self.running == 0 {
                let since = *orphaned.get_or_insert_with(Instant::now);
                if self.session.holds_role() {
                    let took = self.took;
                    return self.end(Ended::WithRole(took));
                }
                // Whoever has the lock will be found at the socket.
                let patience = Duration::from_millis(limits::HELLO_MS);
                if self.session.timeout().is_none() || since.elapsed() > patience {
                    return self.end(Ended::WithoutRole);
                }
            }
            let sleep = self.session.timeout().map(|at| at.saturating_sub(self.now()));
            tokio::select! {
                biased;
                Some(command) = commands.recv() => self.command(command),
                Some(done) = self.done.1.recv() => self.completed(done),
                () = self.line.readable(), if !self.gone => self.receive(),
                () = self.line.writable(), if !self.gone && !self.outgoing.is_empty() => {}
                _ = room.tick(), if !self.gone => self.tell_room(),
                // Descriptors in flight may keep a socket waiting that is writable.
                () = tokio::time::sleep(SEND_AGAIN), if !self.outgoing.is_empty() => {}
                () = sleep_ms(sleep) => self.happened(Event::Tick),
            }
        }
    }

    fn end(self, ended: Ended) -> Ended {
        let summary = self.status.ends(match ended {
            Ended::WithRole(_) => "the other side is gone; the role is here",
            Ended::WithoutRole => "the other side is gone",
        });
        tracing::info!(
            peer = %summary.peer.pod,
            given = ?summary.given.moved,
            taken = ?summary.taken.moved,
            refused = ?summary.given.refused,
            pause_ms = ?summary.taken.pause.summary(),
            "a hand-over session has ended"
        );
        ended
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn happened(&mut self, event: Event) {
        let actions = self.session.handle(event, self.now());
        self.carry_out(actions);
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Able { alone } => self.happened(Event::Able { alone }),
            Command::Terminate => self.happened(Event::Terminate),
            Command::PodDeleted(uid, done) if !self.gone => {
                self.waiting.push((uid.clone(), done));
                self.say(Message::PodDeleted { uid: uid.to_string() });
            }
            Command::PodDeleted(_, done) => {
                let _ = done.send(());
            }
        }
    }

    fn say(&mut self, message: Message) {
        self.outgoing.push(message, Descriptors::None);
    }

    fn tell_room(&mut self) {
        let descriptors = u32::try_from(self.shared.descriptors_left()).unwrap_or(u32::MAX);
        self.say(Message::Room { descriptors });
    }

    fn flush(&mut self) {
        loop {
            let Flushed { sent, failed } = self.outgoing.flush(self.line.channel());
            let progress = !sent.is_empty();
            for commit in sent {
                match commit {
                    Commits::Role => self.happened(Event::RoleCommitted(true)),
                    Commits::Connection(offer) => {
                        if let Some((kind, bytes)) = self.giving.info(offer) {
                            self.count("given", kind, bytes, "moved");
                        }
                        let giving = &mut self.giving;
                        self.status.update(|summary| giving.committed(offer, &mut summary.given));
                        self.happened(Event::Committed(offer, true));
                    }
                }
            }
            if let Some(error) = failed {
                tracing::debug!(%error, "the other side of the hand-over can't be spoken to");
                // What it had sent is read before it counts as gone: there may be commits.
                self.receive_by(Line::receive_now);
                self.lost();
                return;
            }
            if !progress {
                return;
            }
        }
    }

    /// Reads everything that is there.
    fn receive(&mut self) {
        self.receive_by(Line::try_receive);
    }

    fn receive_by(&mut self, next: fn(&Line) -> Option<Result<Received, ReceiveError>>) {
        while let Some(received) = next(&self.line) {
            match received {
                Ok(received) => self.received(received.message, received.descriptors),
                Err(ReceiveError::DescriptorsLost { message, expected, got }) => {
                    let reason = format!(
                        "{got} of {expected} descriptors came: no room, or a security module forbids it"
                    );
                    tracing::warn!(%reason, "a message of the hand-over can't be used");
                    match *message {
                        Message::State { offer, .. } => {
                            self.say(Message::Refused { offer, reason, again: false });
                        }
                        Message::RolePart { .. } => self.bad_part = Some(reason),
                        // Without the lock the role can't be had.
                        _ => return self.lost(),
                    }
                }
                Err(error) => {
                    if !matches!(error, ReceiveError::Gone) {
                        tracing::warn!(%error, "the hand-over session is broken off");
                    }
                    return self.lost();
                }
            }
        }
    }

    fn lost(&mut self) {
        if !std::mem::replace(&mut self.gone, true) {
            self.happened(Event::RoleCommitted(false));
            self.happened(Event::PeerGone);
            for (_, waiting) in self.waiting.drain(..) {
                let _ = waiting.send(());
            }
        }
    }

    fn received(&mut self, message: Message, descriptors: Vec<OwnedFd>) {
        pause::at_message(&message);
        let message = match saying::say(message) {
            Ok(say) => return self.happened(Event::Heard(say)),
            Err(message) => message,
        };
        match message {
            Message::RolePart { kind, piece } => match self.part_pieces.add(piece, descriptors) {
                Ok(None) => {}
                Ok(Some(Whole { bytes, descriptors })) => match Part::decode(kind, &bytes, descriptors) {
                    // Between different meshes not even a certificate passes.
                    Ok(Part::Certificate(_)) if self.differs.is_some() => self.parts_skipped += 1,
                    Ok(part) => self.parts.push(part),
                    Err(error) => self.bad_part = Some(error.to_string()),
                },
                Err(error) => self.bad_part = Some(error.to_string()),
            },
            Message::RoleState { epoch, parts } => {
                let got = self.parts.len() + self.parts_skipped;
                if got != parts as usize {
                    self.bad_part.get_or_insert_with(|| format!("{got} of {parts} parts of the role came"));
                }
                self.happened(Event::Heard(Say::RoleState { epoch }));
            }
            Message::RoleCommit { epoch } => {
                self.seat = descriptors;
                self.happened(Event::Heard(Say::RoleCommit { epoch }));
            }
            Message::State { offer, canary, frozen_at_ns, piece } => {
                match self.taking.piece(offer, frozen_at_ns, piece, descriptors) {
                    Ok(false) => {}
                    Ok(true) => self.happened(Event::Heard(Say::State { offer, canary })),
                    Err(error) => {
                        self.say(Message::Refused { offer, reason: error.to_string(), again: false });
                    }
                }
            }
            Message::Commit { offer, secrets } => {
                self.secrets = Some(secrets);
                self.happened(Event::Heard(Say::Commit { offer }));
                self.secrets = None;
            }
            Message::Room { descriptors } => self.giving.room = descriptors as usize,
            Message::Running { pause_us, .. } => {
                self.status.update(|summary| summary.given.pause.add(Duration::from_micros(pause_us)));
            }
            Message::PodDeleted { uid } => {
                let role = self.role.clone();
                self.beside(async move {
                    role.pod_deleted(&uid).await;
                    Done::PodClosed(uid)
                });
            }
            Message::PodClosed { uid } => {
                for (_, waiting) in self.waiting.extract_if(.., |(waiting, _)| **waiting == *uid) {
                    let _ = waiting.send(());
                }
            }
            Message::Goodbye { reason } => {
                tracing::info!(peer = %self.peer.pod, %reason, "the other side says goodbye");
            }
            // Nothing that decides anything, or of a later build.
            _ => {}
        }
    }

    fn completed(&mut self, done: Done) {
        match done {
            Done::Offered(Ok(parts)) => {
                self.parts_sent = u32::try_from(parts.len()).unwrap_or(u32::MAX);
                for part in parts {
                    let (kind, bytes) = part.encode();
                    for (piece, range) in cut(&bytes, &part.descriptors()) {
                        let message = Message::RolePart { kind, piece };
                        self.outgoing.push(message, Descriptors::Part(part.clone(), range));
                    }
                }
                self.happened(Event::RoleOffered(Ok(())));
            }
            Done::Offered(Err(reason)) => self.happened(Event::RoleOffered(Err(reason))),
            Done::Stopped => self.happened(Event::Stopped),
            Done::Wave(given) => {
                let offers = self.giving.offer(given, self.canary, &mut self.outgoing);
                self.happened(Event::Wave(offers));
            }
            Done::Ran(offer, info, Ok(taken)) => {
                self.running -= 1;
                // It may have ended at once: the policies here forbid it, for example.
                let pause = match taken {
                    Taken::Running { pause } => pause,
                    Taken::Ended => Duration::ZERO,
                };
                self.status.update(|summary| {
                    summary.taken.moved(info.kind, info.streams, info.bytes);
                    summary.taken.pause.add(pause);
                });
                self.status.metrics().pause(pause);
                self.count("taken", info.kind, info.bytes, "moved");
                let pause_us = u64::try_from(pause.as_micros()).unwrap_or(u64::MAX);
                self.say(Message::Running { offer, pause_us });
                if !info.canary {
                    pause::at("done");
                }
            }
            // Who wants a proof hears of it, too.
            Done::Ran(_, info, Err(error)) => {
                self.running -= 1;
                tracing::error!(%error, "a connection was lost on its way here; please report it");
                self.count("taken", info.kind, info.bytes, "lost");
            }
            Done::Proved(offer, result) => self.happened(Event::Proof(offer, result)),
            Done::PodClosed(uid) => self.say(Message::PodClosed { uid }),
            Done::Kept => {}
        }
    }

    fn count(&self, direction: &'static str, kind: FrozenKind, bytes: usize, result: &'static str) {
        let labels = ConnectionLabels { direction, kind: kind.name(), result };
        self.status.metrics().connection(&labels, bytes);
    }

    fn carry_out(&mut self, actions: Vec<Action>) {
        for action in actions {
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        let role = self.role.clone();
        match action {
            Action::Send(say) => {
                if let Some(message) = saying::message(say, self.parts_sent) {
                    self.say(message);
                }
            }
            Action::OfferRole => {
                tracing::info!(peer = %self.peer.pod, "the role is offered to the successor");
                self.beside(async move { Done::Offered(role.offer().await) });
            }
            Action::StopAccepting => self.beside(async move {
                role.stop_accepting().await;
                Done::Stopped
            }),
            Action::CommitRole { epoch } => match self.role.seat() {
                Ok(seat) => {
                    let message = Message::RoleCommit { epoch };
                    self.outgoing.push_commit(message, Descriptors::Some(seat), Commits::Role);
                }
                Err(error) => {
                    tracing::warn!(%error, "the role can't be handed over");
                    self.happened(Event::RoleCommitted(false));
                }
            },
            Action::KeepRole { reason } => {
                tracing::warn!(peer = %self.peer.pod, %reason, "the role stays here");
                self.outgoing.withdraw(Commits::Role);
                self.beside(async move {
                    role.keep().await;
                    Done::Kept
                });
            }
            Action::RoleGiven => {
                tracing::info!(peer = %self.peer.pod, "the successor accepts from now on");
                self.phase("role");
                self.status.standing(Standing::Standby);
                self.role.given();
            }
            Action::CheckRole => {
                let result = match self.bad_part.take() {
                    Some(reason) => Err(reason),
                    None => self.role.check(&self.parts),
                };
                self.happened(Event::RoleChecked(result));
            }
            Action::TakeRole(took) => {
                self.took = Some(took);
                let (parts, seat) = (std::mem::take(&mut self.parts), std::mem::take(&mut self.seat));
                self.status.standing(Standing::Owner);
                self.phase("role");
                self.role.take(took, parts, seat);
            }
            Action::DropRole => {
                self.parts.clear();
                self.parts_skipped = 0;
                self.bad_part = None;
            }
            Action::TryLock => {
                let ours = self.role.try_lock();
                self.happened(Event::Lock(ours));
            }
            Action::GiveWave { canary } => {
                self.canary = canary;
                let (shared, room, stay) = (self.shared.clone(), self.giving.room, self.stay.clone());
                self.beside(async move { Done::Wave(wave(&shared, canary, room, &stay).await) });
            }
            Action::Commit(offer) => self.giving.commit(offer, &mut self.outgoing),
            Action::TakeBack(offer, why) => {
                let Some((connection, kept)) = self.giving.take_back(offer, &mut self.outgoing) else {
                    return;
                };
                if let BackWhy::Refused(reason) = &why {
                    tracing::info!(%reason, "a connection stays here");
                    self.status.update(|summary| summary.given.refused(reason));
                    self.count("given", connection.kind, connection.record.len(), "refused");
                    let cookie = connection.sockets.first().map(rustix::net::sockopt::socket_cookie);
                    if let Some(Ok(cookie)) = cookie {
                        Arc::make_mut(&mut self.stay).insert(cookie);
                    }
                }
                let worker = self.shared.loads.idlest();
                self.shared.post(worker, ToWorker::TakeBack(Box::new(connection), kept));
            }
            Action::Check(offer) => {
                let result = match &self.differs {
                    Some(reason) => Err(reason.clone()),
                    None => self.taking.check(offer, &self.shared),
                };
                self.happened(Event::Checked(offer, result));
            }
            Action::Run { offer, canary } => self.run_connection(offer, canary),
            Action::Drop(offer) => self.taking.drop(offer),
            Action::Report(report) => self.report(&report),
        }
    }

    fn run_connection(&mut self, offer: Offer, canary: bool) {
        let Some(Committed { connection, size }) = self.taking.commit(offer) else { return };
        // A connection that is no tunnel has none, which travels as no bytes.
        let secrets = self.secrets.take().filter(|secrets| !secrets.is_empty());
        let secrets = secrets.map(|secrets| Secrets::from_bytes(secrets.to_vec()));
        let (kind, streams) = (connection.kind(), connection.streams());
        let info = FrozenInfo { kind, streams, bytes: size, canary };
        let (ran, proved) = (self.done.0.clone(), self.done.0.clone());
        let taken = Box::new(move |result| {
            let _ = ran.send(Done::Ran(offer, info, result));
        });
        let proved = canary.then(|| -> Reply<Result<(), String>> {
            Box::new(move |result| {
                let _ = proved.send(Done::Proved(offer, result));
            })
        });
        self.running += 1;
        let worker = self.shared.loads.idlest();
        self.shared.loads.sent(worker);
        self.shared.post(worker, ToWorker::TakeConnection { prepared: connection, secrets, taken, proved });
    }

    fn phase(&self, name: &'static str) {
        let elapsed = self.now();
        self.status.update(|summary| {
            summary.phases.insert(name, elapsed);
        });
    }

    fn report(&mut self, report: &Report) {
        let peer = &self.peer.pod;
        match report {
            Report::CanaryProved => {
                tracing::info!(%peer, "the successor has proved that it can run what it is given");
                self.phase("canary");
            }
            Report::CanaryFailed(reason) => {
                tracing::warn!(%peer, %reason, "a connection was not proved at the successor");
            }
            Report::GivenUp => {
                tracing::error!(%peer, "no connection was proved at the successor: those that are left drain here");
                self.role.cannot_give();
            }
            Report::NothingLeft => pause::at("done"),
        }
    }

    /// Does something that takes time.
    fn beside(&self, work: impl Future<Output = Done> + Send + 'static) {
        let done = self.done.0.clone();
        tokio::spawn(async move {
            let _ = done.send(work.await);
        });
    }
}

/// Freezes some connections of all workers, or just one of any: as a canary, or because it is too large to go with others.
async fn wave(
    shared: &Arc<Shared>,
    canary: bool,
    room: usize,
    but: &Arc<BTreeSet<u64>>,
) -> Vec<(FrozenConnection, Kept)> {
    let workers = shared.workers.get().map_or(0, Vec::len);
    let ask = |worker, most, descriptors| {
        let (reply, given) = oneshot::channel();
        let reply = Box::new(move |connections| {
            let _ = reply.send(connections);
        });
        shared.post(worker, ToWorker::GiveConnections { most, descriptors, canary, but: but.clone(), reply });
        given
    };
    let mut all = Vec::new();
    if !canary {
        let share = WAVE_DESCRIPTORS.min(room / workers.max(1));
        let asked: Vec<_> = (0..workers).map(|worker| ask(worker, WAVE, share)).collect();
        for given in asked {
            all.extend(given.await.unwrap_or_default());
        }
    }
    for worker in 0..workers {
        if !all.is_empty() {
            break;
        }
        all = ask(worker, 1, room).await.unwrap_or_default();
    }
    all
}

async fn sleep_ms(ms: Option<u64>) {
    match ms {
        Some(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
        None => std::future::pending().await,
    }
}
