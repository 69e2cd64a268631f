//! One session, from the greeting to its end: what the machine decides ([`drain::handover::session`]) is carried out, what happens is
//! told to it.
//!
//! ```text
//!   socket ──► Message ──► Say ──► ┌─────────┐ ──► Action ──► role (app), workers ──► Done
//!   SIGTERM, able ───────────────► │ Session │                                        │
//!   time ────────────────────────► └─────────┘ ◄──────────────────────────────────────┘
//! ```
//!
//! Nothing in here waits for anything but the next event: what takes time runs beside it and comes back as `Done`.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use drain::handover::channel::{ReceiveError, Received};
use drain::handover::limits;
use drain::handover::message::{Assembler, Hello, Message, Payload};
use drain::handover::session::{Action, Event, Offer, Session, Start, Took};
use tokio::sync::{mpsc, oneshot};

use super::coming::Coming;
use super::giving::Giving;
use super::line::Line;
use super::mesh::{LocalMesh, MeshExchange, Part as MeshPart};
use super::outgoing::{Commits, Descriptors, Flushed, Outgoing};
use super::parts::Part;
use super::pause;
use super::role::Role;
use super::status::{PeerName, Status};
use super::taking::Taking;
use crate::shared::Shared;
use crate::worker::{FrozenConnection, FrozenKind, Kept, MoveError, Taken};

mod acting;
mod done;
mod hearing;
mod wave;

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
    /// Who tells whom of the mesh.
    pub mesh: MeshPart,
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
    coming: Coming,
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
    mesh: MeshExchange,
    counters: Assembler,
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
        mesh: LocalMesh,
    ) -> Self {
        let Meeting { hello, start, differs, mesh: part } = meeting;
        let peer = PeerName { pod: hello.pod.clone(), pid: hello.pid, build: hello.build.clone() };
        status.begins(peer.clone());
        Self {
            session: Session::new(start),
            line,
            outgoing: Outgoing::default(),
            giving: Giving::new(hello.room as usize),
            taking: Taking::default(),
            coming: Coming::default(),
            parts: Vec::new(),
            bad_part: None,
            part_pieces: Assembler::new(),
            parts_skipped: 0,
            parts_sent: 0,
            seat: Vec::new(),
            secrets: None,
            mesh: MeshExchange::new(mesh, part),
            counters: Assembler::new(),
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
            if self.session.is_useless() && self.outgoing.is_empty() {
                tracing::info!(peer = %self.peer.pod, "both have been told to end: nothing more can go there");
                self.lost();
            }
            // What was committed to us is nowhere to be seen until a worker runs it.
            promised.store(self.session.has_promised() || self.running > 0, Ordering::Release);
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
                due = self.mesh.due(self.outgoing.len()), if !self.gone => self.mesh_due(due),
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

    /// Names the tunnels that will follow, once.
    fn announce(&mut self) {
        for message in self.coming.announce(&self.shared.directory) {
            self.say(message);
        }
    }

    fn announce_nothing(&mut self) {
        if let Some(message) = self.coming.nothing_left() {
            self.say(message);
        }
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
                Ok(received) => {
                    self.received(received.message, received.descriptors);
                    // The other side goes on with the first of a wave while we look at the next.
                    self.flush();
                }
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
            self.mesh.over();
            self.coming.nothing_comes(&self.shared);
            for (_, waiting) in self.waiting.drain(..) {
                let _ = waiting.send(());
            }
        }
    }

    fn carry_out(&mut self, actions: Vec<Action>) {
        for action in actions {
            self.act(action);
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

async fn sleep_ms(ms: Option<u64>) {
    match ms {
        Some(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
        None => std::future::pending().await,
    }
}
