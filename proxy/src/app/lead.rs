//! The control thread: mesh state, certificates, the servers for operators, signals, and the process's way to its end.

use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use drain::DrainMachine;
use drain::machine::{Action, Event, Left};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use super::hosting::Hosting;
use super::mesh::{self, Mesh};
use super::node_agent::NodeAgent;
use super::servers::Servers;
use crate::config::DrainConfig;
use crate::shared::Shared;
use crate::worker::Message;

/// What the control thread runs.
pub(super) struct Control {
    pub(super) shared: Arc<Shared>,
    /// How long the process's end may take.
    pub(super) drain: DrainConfig,
    pub(super) manager: Manager,
    pub(super) mesh: Option<Mesh>,
    pub(super) node_agent: Option<NodeAgent>,
    pub(super) hosting: Arc<Hosting>,
    pub(super) servers: Servers,
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
        let Self { shared, drain, manager, mesh, node_agent, hosting, servers } = self;
        let deadline = u64::try_from(drain.deadline.as_millis()).unwrap_or(u64::MAX);
        let mut machine = DrainMachine::new(deadline);
        tokio::spawn(manager);
        let mut running = match servers.start() {
            Ok(running) => running,
            Err(error) => {
                tracing::error!(%error, "the servers for operators can't start");
                return ExitCode::FAILURE;
            }
        };
        let synced = mesh.as_ref().map(Mesh::synced);
        if let Some(mesh) = mesh {
            mesh.start(&running);
        }
        let pods = node_agent.as_ref().map(|agent| agent.client().clone());
        if let Some(agent) = node_agent {
            agent.start(async {
                if let Some(synced) = synced {
                    synced.await;
                }
            });
        }
        tokio::spawn(mesh::follow(shared.clone()));
        let (mut terminate, mut interrupt) =
            match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
                (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
                (Err(error), _) | (_, Err(error)) => {
                    tracing::error!(%error, "signals can't be received");
                    return ExitCode::FAILURE;
                }
            };
        let (emptied, mut empty) = mpsc::unbounded_channel();
        loop {
            let tick = machine.next_tick_ms().map(|at| at.saturating_sub(shared.clock.now()));
            let event = tokio::select! {
                _ = terminate.recv() => Event::Terminate,
                _ = interrupt.recv() => Event::Interrupt,
                Some(()) = running.quits.recv() => Event::Terminate,
                Some(()) = empty.recv() => Event::ConnectionsLeft(left(&shared)),
                () = sleep(tick) => Event::Tick,
            };
            if matches!(event, Event::Terminate | Event::Interrupt) {
                running.not_ready();
                if let Some(pods) = &pods {
                    pods.drain();
                }
            }
            let mut actions = Vec::new();
            if event == Event::Tick {
                actions = machine.handle(Event::ConnectionsLeft(left(&shared)), shared.clock.now());
            }
            actions.extend(machine.handle(event, shared.clock.now()));
            for action in actions {
                if let Action::Exit { code } = action {
                    return ExitCode::from(code);
                }
                if action == Action::StopAccepting {
                    hosting.drain();
                }
                carry_out(action, &shared, &emptied).await;
            }
        }
    }
}

async fn carry_out(action: Action, shared: &Arc<Shared>, emptied: &mpsc::UnboundedSender<()>) {
    match action {
        Action::StopAccepting => {
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
        Action::TellPeers => {
            for worker in workers(shared) {
                shared.post(worker, Message::TellPeers);
            }
            let emptied = emptied.clone();
            shared.registry.when_empty(move || {
                let _ = emptied.send(());
            });
        }
        Action::SayProgress { left, time_left_ms } => tracing::info!(
            connections = left.connections,
            oldest = ?Duration::from_millis(left.oldest_ms),
            time_left = ?Duration::from_millis(time_left_ms),
            "draining"
        ),
        Action::CutAll => {
            let left = left(shared);
            tracing::warn!(connections = left.connections, "the drain deadline has come: the rest is cut");
            for worker in workers(shared) {
                shared.post(worker, Message::CutAll("connection closed due to connection drain".into()));
            }
        }
        Action::Exit { .. } => {}
    }
}

pub(super) fn workers(shared: &Shared) -> std::ops::Range<usize> {
    0..shared.workers.get().map_or(0, Vec::len)
}

fn left(shared: &Shared) -> Left {
    let connections = shared.registry.len();
    let oldest = shared
        .registry
        .snapshot()
        .first()
        .map_or(0, |entry| shared.clock.now().saturating_sub(entry.opened_ms()));
    Left { connections, oldest_ms: oldest }
}

async fn sleep(milliseconds: Option<u64>) {
    match milliseconds {
        Some(milliseconds) => tokio::time::sleep(Duration::from_millis(milliseconds)).await,
        None => std::future::pending().await,
    }
}
