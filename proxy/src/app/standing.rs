//! Where this process stands among those that hand over to each other, from its first call to its end.
//!
//! ```text
//!  start ── lock free ──────────────────► Owner ◄───────────────────── the other one died, or gave the role back
//!    │                                      │ gave the role                        │
//!    ╰───── lock held ──► Candidate ────────┼──── (session) ──────────────────► Standby
//!             │                            ▼
//!             ╰── nobody answers ──► alone, beside whoever holds the lock, as stock would
//! ```

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use drain::handover::channel::Channel;
use drain::handover::limits;
use drain::handover::message::{Hello, Verdict};
use drain::handover::seat::{Seat, Taken};
use drain::handover::session::{Start, Took};
use tokio::sync::{mpsc, oneshot};

use super::doorkeeper::Doorkeeper;
use super::node_role::NodeRole;
use crate::config::HandoverConfig;
use crate::handover::driver::{Command, Driver, Ended, Meeting};
use crate::handover::greeting::{self, Card, GreetingError};
use crate::handover::line::Line;
use crate::handover::mesh::{self, LocalMesh, Part as MeshPart};
use crate::handover::pause;
use crate::handover::role::Role;
use crate::handover::status::{Standing, Status};
use crate::readiness::Readiness;
use crate::shared::Shared;

/// How long a process waits whose last take-over ended by its death; doubled with each.
const AFTER_CRASH: Duration = Duration::from_secs(10);

/// Between calls to a holder that is busy, or can't be reached.
const CALL_AGAIN: Duration = Duration::from_millis(500);

/// How often a process that could end looks whether its promises are answered.
const PROMISE_POLL: Duration = Duration::from_millis(5);

/// How the rest of the process speaks to its hand-over; clones are the same.
#[derive(Clone)]
pub(super) struct Handover {
    commands: mpsc::UnboundedSender<Command>,
    facts: Arc<Facts>,
}

#[derive(Default)]
struct Facts {
    able: AtomicBool,
    terminating: AtomicBool,
    promised: AtomicBool,
}

impl Handover {
    /// And what [`Candidacy`] listens to.
    pub(super) fn new() -> (Self, Ear) {
        let (commands, received) = mpsc::unbounded_channel();
        let facts: Arc<Facts> = Arc::default();
        (Self { commands, facts: facts.clone() }, Ear { commands: received, facts })
    }

    /// This process could live alone.
    pub(super) fn able(&self) {
        self.facts.able.store(true, Ordering::Release);
        let _ = self.commands.send(Command::Able { alone: true });
    }

    /// This process has been told to end.
    pub(super) fn terminate(&self) {
        self.facts.terminating.store(true, Ordering::Release);
        let _ = self.commands.send(Command::Terminate);
    }

    /// Returns when nothing was promised to the other side that may be ours already, or it doesn't answer.
    pub(super) async fn nothing_promised(&self) {
        let limit = Duration::from_millis(limits::PREPARED_MS);
        let answered = async {
            while self.facts.promised.load(Ordering::Acquire) {
                tokio::time::sleep(PROMISE_POLL).await;
            }
        };
        let _ = tokio::time::timeout(limit, answered).await;
    }

    /// istio-cni has deleted a pod: returns when the other side has nothing of it, or doesn't say so in time.
    pub(super) async fn pod_deleted(&self, uid: &str) {
        let (done, closed) = oneshot::channel();
        if self.commands.send(Command::PodDeleted(uid.into(), done)).is_ok() {
            let limit = Duration::from_millis(limits::POD_CLOSED_MS);
            let _ = tokio::time::timeout(limit, closed).await;
        }
    }
}

/// What [`Handover`] says.
pub(super) struct Ear {
    commands: mpsc::UnboundedReceiver<Command>,
    facts: Arc<Facts>,
}

/// See the module.
pub(super) struct Candidacy {
    pub(super) config: HandoverConfig,
    pub(super) card: Card,
    pub(super) role: Arc<NodeRole>,
    pub(super) shared: Arc<Shared>,
    pub(super) status: Status,
    pub(super) readiness: Readiness,
    pub(super) mesh: LocalMesh,
    pub(super) ear: Ear,
    pub(super) memory: Memory,
}

/// What an owner remembers of those that it dealt with.
#[derive(Default)]
pub(super) struct Memory {
    /// Whose successor we are.
    predecessor: Option<String>,
    /// Who had the role when the last session ended without it.
    successor: Option<String>,
    /// Successors that died: how often, and when last.
    crashes: HashMap<String, (u32, Instant)>,
}

/// Why a call to the holder came to nothing.
enum Missed {
    /// It should be tried again.
    Later(Duration),
    /// The holder can't be dealt with.
    Never(String),
}

impl Candidacy {
    /// Runs for the life of the process. `first` is what was found at the start; None if this process has begun as the owner.
    pub(super) async fn run(mut self, first: Option<Channel>) {
        let (callers, mut calls) = mpsc::unbounded_channel();
        let busy = Arc::new(AtomicBool::new(false));
        let hello = self.hello(false, true);
        let doorkeeper = Doorkeeper { role: self.role.clone(), busy: busy.clone(), callers, hello };
        tokio::spawn(doorkeeper.run());
        if let Some(step) = self.config.pause_at.take() {
            pause::set(step);
        }
        let mut called = first;
        let mut wants = called.is_some();
        let mesh = self.mesh.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(limits::WARM_MS)).await;
            mesh.begin();
        });
        loop {
            if self.role.current_seat().is_some() {
                wants = false;
                self.own(&mut calls, &busy).await;
                continue;
            }
            let channel = match called.take() {
                Some(channel) => Ok(channel),
                None => self.call(),
            };
            let missed = match channel {
                Ok(channel) => {
                    busy.store(true, Ordering::Release);
                    let asked = self.ask(channel, &mut wants).await;
                    busy.store(false, Ordering::Release);
                    asked
                }
                Err(missed) => Err(missed),
            };
            if missed.is_err() {
                self.mesh.begin();
            }
            match missed {
                Ok(()) => {}
                Err(Missed::Later(pause)) => self.pause(pause).await,
                Err(Missed::Never(cause)) if wants => {
                    tracing::error!(%cause, "there is nobody to take over from in good order: starting beside");
                    self.status.available(Some(&cause));
                    if let Err(error) = self.role.begin_alone(None) {
                        tracing::error!(%error, "this process can't accept");
                        self.role.cannot_begin();
                    }
                    return std::future::pending().await;
                }
                Err(Missed::Never(cause)) => {
                    tracing::warn!(%cause, "the owner can't be dealt with");
                    self.pause(CALL_AGAIN).await;
                }
            }
        }
    }

    /// Looks who holds the lock; takes it if nobody does.
    fn call(&self) -> Result<Channel, Missed> {
        if self.ear.facts.terminating.load(Ordering::Acquire) {
            // It accepts nothing any more, but what it has may go to whoever does.
            return Seat::call(&self.config.socket).map_err(|_| Missed::Later(CALL_AGAIN));
        }
        match Seat::take(&self.config.socket) {
            Ok(Taken::Held(channel)) => Ok(channel),
            Ok(Taken::Free(seat)) => {
                tracing::warn!("the owner is gone: its role is taken");
                self.status.standing(Standing::Owner);
                self.role.inherit(seat);
                Err(Missed::Later(Duration::ZERO))
            }
            Err(error) => {
                tracing::debug!(%error, "the owner can't be called");
                Err(Missed::Later(CALL_AGAIN))
            }
        }
    }

    /// A session with the holder, as somebody who wants the role or stands by.
    async fn ask(&mut self, channel: Channel, wants: &mut bool) -> Result<(), Missed> {
        let line = Line::new(channel).map_err(|error| Missed::Never(error.to_string()))?;
        let hello = self.hello(*wants, false);
        let (theirs, verdict) = match greeting::call(&line, hello).await {
            Ok(answer) => answer,
            Err(error @ GreetingError::Silent) => return Err(Missed::Never(error.to_string())),
            Err(error) => {
                tracing::warn!(%error, "the owner did not greet");
                return Err(Missed::Later(CALL_AGAIN));
            }
        };
        match verdict {
            Verdict::Welcome => {}
            Verdict::StayStandby => {
                tracing::info!(owner = %theirs.pod, "the owner has this pod's role: standing by");
                *wants = false;
                self.role.stand_by();
            }
            Verdict::Wait { ms } => {
                tracing::warn!(ms, "the owner asks to wait: the last take-over by this pod ended badly");
                return Err(Missed::Later(Duration::from_millis(ms)));
            }
            Verdict::Busy => return Err(Missed::Later(CALL_AGAIN)),
            Verdict::Incompatible { reason } => return Err(Missed::Never(reason)),
        }
        if !*wants && self.memory.successor.as_deref() != Some(&theirs.pod) {
            // Another one accepts, at sockets of its own: what comes to ours would wait for ever.
            self.role.forget_copies();
        }
        self.status.standing(if *wants { Standing::Candidate } else { Standing::Standby });
        let ended = self.session(line, &theirs, false, *wants).await;
        match ended {
            Ended::WithRole(took) => {
                *wants = false;
                self.memory.predecessor = (took == Some(Took::Given)).then_some(theirs.pod);
            }
            Ended::WithoutRole => {
                self.memory.successor = Some(theirs.pod);
                if self.ear.facts.terminating.load(Ordering::Acquire) {
                    // It may be about to give the role to somebody who could take what is left here.
                    return Err(Missed::Later(CALL_AGAIN));
                }
            }
        }
        Ok(())
    }

    /// Waits for a successor, and deals with it.
    async fn own(&mut self, calls: &mut mpsc::UnboundedReceiver<Channel>, busy: &AtomicBool) {
        self.status.standing(Standing::Owner);
        self.status.available(None);
        let channel = loop {
            tokio::select! {
                Some(command) = self.ear.commands.recv() => nobody_hears(command),
                Some(channel) = calls.recv() => break channel,
            }
        };
        busy.store(true, Ordering::Release);
        self.deal(channel).await;
        busy.store(false, Ordering::Release);
    }

    async fn deal(&mut self, channel: Channel) {
        let Ok(line) = Line::new(channel) else { return };
        let ours = self.hello(false, true);
        let verdict = |theirs: &Hello| self.memory.verdict(theirs, &self.card, ours.terminating);
        let greeted = greeting::answer(&line, ours.clone(), verdict).await;
        let theirs = match greeted {
            Ok((theirs, Verdict::Welcome | Verdict::StayStandby)) => theirs,
            Ok((_, Verdict::Busy)) => return,
            Ok((theirs, verdict)) => {
                tracing::info!(pod = %theirs.pod, ?verdict, "a call for the hand-over");
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "somebody called for the hand-over and did not greet");
                return;
            }
        };
        let wants = theirs.wants_role && self.memory.predecessor.as_deref() != Some(&theirs.pod);
        let ended = self.session(line, &theirs, true, wants).await;
        if ended == Ended::WithoutRole {
            self.memory.successor = Some(theirs.pod.clone());
        }
        if ended == Ended::WithRole(Some(Took::Inherited)) {
            let crashes = self.memory.crashes.entry(theirs.pod.clone()).or_insert((0, Instant::now()));
            *crashes = (crashes.0 + 1, Instant::now());
            tracing::error!(pod = %theirs.pod, times = crashes.0, "the successor died: this process has its role again");
        }
    }

    async fn session(&mut self, line: Line, theirs: &Hello, holds: bool, wants: bool) -> Ended {
        let _latch = self.readiness.latch();
        let start = Start {
            holds,
            peer_wants: holds && wants,
            had_role: holds || !wants,
            terminating: self.ear.facts.terminating.load(Ordering::Acquire),
            bake_ms: u64::try_from(self.config.bake.as_millis()).unwrap_or(u64::MAX),
        };
        let able = self.ear.facts.able.load(Ordering::Acquire);
        let differs = self.card.differs(theirs);
        let speaks_of_mesh =
            differs.is_none() && theirs.features.iter().any(|feature| feature == mesh::FEATURE);
        let mesh = match (wants, holds) {
            (true, true) if speaks_of_mesh => MeshPart::Teller,
            (true, false) if speaks_of_mesh => MeshPart::Learner,
            _ => MeshPart::Nobody,
        };
        let meeting = Meeting { hello: theirs, start, differs, mesh };
        let role: Arc<dyn Role> = self.role.clone();
        let (shared, status) = (self.shared.clone(), self.status.clone());
        let driver = Driver::new(line, meeting, role, shared, status, self.mesh.clone());
        let ended = driver.run(able, &self.ear.facts.promised, &mut self.ear.commands).await;
        if ended == Ended::WithoutRole && self.ear.facts.terminating.load(Ordering::Acquire) {
            self.role.forget_copies();
        }
        ended
    }

    fn hello(&self, wants: bool, holds: bool) -> Hello {
        let hello = self.card.hello(wants, holds, self.shared.descriptors_left());
        Hello { terminating: self.ear.facts.terminating.load(Ordering::Acquire), ..hello }
    }

    async fn pause(&mut self, pause: Duration) {
        let until = tokio::time::Instant::now() + pause;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return,
                Some(command) = self.ear.commands.recv() => nobody_hears(command),
            }
        }
    }
}

/// Outside of a session there is nobody to be told; what stays true is kept as a fact.
fn nobody_hears(command: Command) {
    if let Command::PodDeleted(_, done) = command {
        let _ = done.send(());
    }
}

impl Memory {
    fn verdict(&self, theirs: &Hello, card: &Card, terminating: bool) -> Verdict {
        if terminating && theirs.terminating {
            // It would hang up, and call again, until one of us has gone.
            return Verdict::Busy;
        }
        if let Some(mode) = card.compatibility.get("mode")
            && theirs.compatibility.get("mode") != Some(mode)
        {
            return Verdict::Incompatible { reason: format!("the owner's PROXY_MODE is {mode}") };
        }
        if !theirs.wants_role {
            return Verdict::Welcome;
        }
        if self.predecessor.as_deref() == Some(&theirs.pod) {
            return Verdict::StayStandby;
        }
        if let Some((times, last)) = self.crashes.get(&theirs.pod) {
            let wait = AFTER_CRASH.saturating_mul(1 << (times - 1).min(8)).saturating_sub(last.elapsed());
            if !wait.is_zero() {
                return Verdict::Wait { ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX) };
            }
        }
        Verdict::Welcome
    }
}

#[cfg(test)]
mod tests;
