//! The control thread: mesh state, certificates, the servers for operators, signals, and the process's way to its end.

use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use drain::DrainMachine;
use drain::handover::channel::Channel;
use drain::handover::seat::Seat;
use drain::machine::{Action, Event, Left, Phase};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use xds::Identity;

use super::StartError;
use super::ending::Ending;
use super::hosting::Hosting;
use super::mesh::{self, Mesh};
use super::node_agent::NodeAgent;
use super::node_role::{NodeRole, Notice};
use super::standing::{Candidacy, Handover};
use crate::config::{DrainConfig, Standby};
use crate::handover::mesh::LocalMesh;
use crate::handover::status::Status;
use crate::identity::Lookup;
use crate::readiness::{self, Readiness};
use crate::rival;
use crate::shared::Shared;
use crate::worker::Message;

/// What the control thread runs.
pub(super) struct Control {
    pub(super) shared: Arc<Shared>,
    /// How long the process's end may take.
    pub(super) drain: DrainConfig,
    pub(super) manager: Manager,
    pub(super) mesh: Option<Mesh>,
    pub(super) local_mesh: LocalMesh,
    pub(super) node_agent: Option<NodeAgent>,
    pub(super) hosting: Arc<Hosting>,
    pub(super) role: Arc<NodeRole>,
    pub(super) notices: mpsc::UnboundedReceiver<Notice>,
    pub(super) candidature: Candidature,
    pub(super) readiness: Readiness,
    /// `POST /quitquitquit`.
    pub(super) quits: mpsc::Receiver<()>,
}

/// How this process comes to accept.
pub(super) struct Candidature {
    pub(super) handover: Handover,
    pub(super) status: Status,
    /// None if hand-over is off.
    pub(super) candidacy: Option<Candidacy>,
    /// The hand-over's lock, if nobody had it.
    pub(super) seat: Option<Seat>,
    /// Whoever has it.
    pub(super) call: Option<Channel>,
    /// Whose certificate proves that we can live alone.
    pub(super) identity: Option<Identity>,
    /// A candidate is not ready until that is proved, though it may have to serve before.
    pub(super) unproved: Option<readiness::Pending>,
}

/// The manager of certificates.
pub(super) type Manager = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs the control thread until the process may end.
pub(super) fn lead(control: Control) -> ExitCode {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(control.run()),
        Err(error) => {
            tracing::error!(%error, "no runtime for the control thread");
            ExitCode::FAILURE
        }
    }
}

impl Control {
    async fn run(self) -> ExitCode {
        let Self { shared, drain, manager, mesh, local_mesh, node_agent, hosting, role, .. } = self;
        let (mut notices, mut quits) = (self.notices, self.quits);
        let Candidature { handover, status, candidacy, seat, call, identity, unproved } = self.candidature;
        let readiness = self.readiness;
        let [deadline, accept_window] = [drain.deadline, drain.accept_window]
            .map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
        let mut machine = DrainMachine::new(deadline, accept_window);
        if call.is_some() {
            // Whoever answers has them.
            machine.handle(Event::ListenersGone { handing_over: false }, shared.clock.now());
        }
        let in_pods = node_agent.is_some();
        tokio::spawn(manager);
        if let Some(mesh) = mesh {
            mesh.start(&readiness);
        }
        let own_stream = local_mesh.clone();
        tokio::spawn(async move { own_stream.synced().await });
        if let Some(agent) = node_agent {
            agent.start();
        }
        tokio::spawn(mesh::follow(shared.clone()));
        let standby = candidacy.as_ref().map(|candidacy| candidacy.config.standby);
        if let Err(error) = begin(&role, call.is_some(), seat) {
            tracing::error!(%error, "the process can't begin");
            return ExitCode::FAILURE;
        }
        drop(readiness.pending("proxy"));
        if let Some(candidacy) = candidacy {
            tokio::spawn(prove_able(
                shared.clone(),
                local_mesh.clone(),
                identity,
                handover.clone(),
                unproved,
            ));
            tokio::spawn(candidacy.run(call));
        }
        let (mut terminate, mut interrupt) =
            match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
                (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
                (Err(error), _) | (_, Err(error)) => {
                    tracing::error!(%error, "signals can't be received");
                    return ExitCode::FAILURE;
                }
            };
        let (emptied, mut empty) = mpsc::unbounded_channel();
        let (gone, mut all_gone) = mpsc::unbounded_channel();
        // From the first signal on.
        let mut ending = None;
        let mut rival: Option<Rival> = None;
        let mut waits_for_empty = false;
        let mut drains = false;
        loop {
            let tick = machine.next_tick_ms().map(|at| at.saturating_sub(shared.clock.now()));
            let event = tokio::select! {
                _ = terminate.recv() => Event::Terminate,
                _ = interrupt.recv() => Event::Interrupt,
                Some(()) = quits.recv() => Event::Terminate,
                Some(()) = empty.recv() => {
                    waits_for_empty = false;
                    // What was promised may be ours already, and come.
                    handover.nothing_promised().await;
                    if !notices.is_empty() {
                        // Perhaps of the role, with which connections come.
                        continue;
                    }
                    Event::ConnectionsLeft(left(&shared))
                }
                Some(()) = all_gone.recv(), if machine.phase() == Phase::StandingBy => return ExitCode::SUCCESS,
                Some(notice) = notices.recv() => match notice {
                    Notice::Taken => Event::ListenersBack,
                    Notice::Given => {
                        if standby == Some(Standby::Exit) {
                            wake_when_empty(&shared, &gone);
                        }
                        Event::ListenersGone { handing_over: true }
                    }
                    Notice::CannotGive if matches!(machine.phase(), Phase::StandingBy | Phase::Draining) => {
                        Event::ListenersGone { handing_over: false }
                    }
                    // They are here.
                    Notice::CannotGive => continue,
                    Notice::CannotBegin => return ExitCode::FAILURE,
                },
                () = appears(&mut rival) => Event::ForeignListener,
                () = sleep(tick) => Event::Tick,
            };
            if matches!(event, Event::Terminate | Event::Interrupt) {
                readiness.end("draining");
                handover.terminate();
                ending.get_or_insert_with(|| Ending::begin(&shared));
            }
            let mut actions = Vec::new();
            if event == Event::Tick {
                actions = machine.handle(Event::ConnectionsLeft(left(&shared)), shared.clock.now());
            }
            actions.extend(machine.handle(event, shared.clock.now()));
            if machine.phase() == Phase::Draining && !drains {
                drains = true;
                rival = None;
                role.drain();
            }
            for action in actions {
                match action {
                    Action::AwaitSuccessor { for_ms } => {
                        let accepts_for = Duration::from_millis(for_ms);
                        tracing::info!(?accepts_for, "told to end: accepting until a successor comes");
                        if in_pods {
                            rival =
                                Some(Box::pin(rival::appears(shared.pods.clone(), hosting.tunnel_port())));
                        }
                    }
                    Action::StopAccepting => {
                        hosting.drain();
                        stop_accepting(&shared).await;
                    }
                    Action::TellPeers => tell_all(&shared, || Message::TellPeers),
                    Action::SayProgress { left, accepts_for_ms, time_left_ms } => {
                        Ending::say_progress(left, accepts_for_ms, time_left_ms);
                    }
                    Action::CutAll => {
                        if let Some(ending) = &mut ending {
                            ending.cut(&shared);
                        }
                        let reason = "connection closed due to connection drain";
                        tell_all(&shared, || Message::CutAll(reason.into()));
                    }
                    Action::Exit { code } => {
                        if let Some(ending) = &ending {
                            ending.sum_up(&shared, status.given());
                        }
                        return ExitCode::from(code);
                    }
                }
            }
            if machine.phase() == Phase::Draining && !waits_for_empty {
                waits_for_empty = true;
                wake_when_empty(&shared, &emptied);
            }
        }
    }
}

fn wake_when_empty(shared: &Shared, woken: &mpsc::UnboundedSender<()>) {
    let woken = woken.clone();
    shared.registry.when_empty(move || {
        let _ = woken.send(());
    });
}

/// Ends when somebody else listens in the pods.
type Rival = Pin<Box<dyn Future<Output = ()> + Send>>;

async fn appears(rival: &mut Option<Rival>) {
    match rival {
        Some(appears) => appears.await,
        None => std::future::pending().await,
    }
    tracing::info!("another proxy listens in the pods");
    *rival = None;
}

/// A process that finds nobody begins at once; a candidate only shows itself to operators, where it may.
fn begin(role: &NodeRole, candidate: bool, seat: Option<Seat>) -> Result<(), StartError> {
    if candidate { role.show() } else { role.begin_alone(seat) }
}

/// Finds out whether this process could live alone: it knows the mesh, and its certificate authority signs for it.
async fn prove_able(
    shared: Arc<Shared>,
    mesh: LocalMesh,
    identity: Option<Identity>,
    handover: Handover,
    unproved: Option<readiness::Pending>,
) {
    mesh.synced().await;
    if let Some(identity) = identity.or_else(|| local_identity(&shared)) {
        while !matches!(shared.certificates.lookup(&identity), Lookup::Ready(_)) {
            let (wake, woken) = oneshot::channel();
            let wake = Box::new(move || {
                let _ = wake.send(());
            });
            shared.certificates.request(&identity, wake);
            let _ = woken.await;
            if let Lookup::Unavailable(reason) = shared.certificates.lookup(&identity) {
                tracing::warn!(%identity, %reason, "no certificate yet: the role is not taken over");
                tokio::time::sleep(PROVE_AGAIN).await;
            }
        }
    }
    drop(unproved);
    handover.able();
}

/// Somebody who lives on this node.
fn local_identity(shared: &Shared) -> Option<Identity> {
    let node = shared.location.node.as_deref()?;
    let snapshot = shared.store.load();
    snapshot.workloads().find(|workload| *workload.node == *node).map(|workload| workload.identity())
}

/// Between tries to have a certificate signed.
const PROVE_AGAIN: Duration = Duration::from_secs(1);

/// Returns when what the kernel had accepted is taken and the listeners are closed.
async fn stop_accepting(shared: &Shared) {
    tracing::info!("draining: nothing new is accepted, established connections go on");
    for worker in workers(shared) {
        let (done, stopped) = oneshot::channel();
        shared.post(
            worker,
            Message::StopAccepting(Box::new(move |()| {
                let _ = done.send(());
            })),
        );
        let _ = stopped.await;
    }
}

fn tell_all(shared: &Shared, message: impl Fn() -> Message) {
    for worker in workers(shared) {
        shared.post(worker, message());
    }
}

pub(super) fn workers(shared: &Shared) -> std::ops::Range<usize> {
    0..shared.workers.get().map_or(0, Vec::len)
}

fn left(shared: &Shared) -> Left {
    let (connections, kinds) = (shared.registry.len(), shared.registry.counts());
    let oldest = shared
        .registry
        .snapshot()
        .first()
        .map_or(0, |entry| shared.clock.now().saturating_sub(entry.opened_ms()));
    Left { connections, kinds, oldest_ms: oldest }
}

async fn sleep(milliseconds: Option<u64>) {
    match milliseconds {
        Some(milliseconds) => tokio::time::sleep(Duration::from_millis(milliseconds)).await,
        None => std::future::pending().await,
    }
}
