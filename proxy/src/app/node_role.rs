//! The role of this process on its node: who accepts, who listens to istio-cni, who holds the lock.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use drain::handover::seat::Seat;
use drain::handover::session::Took;
use tokio::sync::{mpsc, watch};

use super::StartError;
use super::hosting::Hosting;
use super::listeners::Listeners;
use super::servers::Operators;
use crate::handover::parts::{Part, PodPart};
use crate::handover::role::{Role, Work};
use crate::pod::WorkloadName;
use crate::readiness;
use crate::zds::{self, NotReleased};

/// What the process's lead is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// A successor accepts from now on.
    Given,
    /// This process accepts from now on.
    Taken,
    /// What is left here can't be handed over.
    CannotGive,
    /// The role is here, and what it takes can't be bound.
    CannotBegin,
}

/// See the module.
pub(super) struct NodeRole {
    hosting: Arc<Hosting>,
    /// In shared mode.
    node_agent: Option<zds::Client>,
    operators: Operators,
    /// In dedicated mode: how the one workload's listeners are bound if nobody gives them.
    resident: Option<Resident>,
    path: PathBuf,
    /// The mesh is known.
    known: watch::Receiver<bool>,
    notices: mpsc::UnboundedSender<Notice>,
    state: Mutex<State>,
    /// Ours, as long as the role is.
    seat: watch::Sender<Option<Arc<Seat>>>,
}

/// The workload of a dedicated proxy.
pub(super) struct Resident {
    workload: WorkloadName,
    bound: Mutex<Option<Listeners>>,
    bind: Bind,
}

type Bind = Box<dyn Fn() -> Result<Listeners, StartError> + Send + Sync>;

impl Resident {
    /// Its listeners are bound when they are needed.
    pub(super) fn new(workload: WorkloadName, bind: Bind) -> Self {
        Self { workload, bound: Mutex::default(), bind }
    }

    /// Binds them now.
    pub(super) fn bind(&self) -> Result<(), StartError> {
        let listeners = (self.bind)()?;
        *self.bound.lock().unwrap_or_else(PoisonError::into_inner) = Some(listeners);
        Ok(())
    }

    fn listeners(&self) -> Result<Listeners, StartError> {
        let bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner).take();
        bound.map_or_else(&self.bind, Ok)
    }
}

#[derive(Default)]
struct State {
    /// Of everything that listens: since the role was offered, for as long as somebody else has it.
    copies: Vec<Arc<Part>>,
    /// The listeners are closed here.
    stopped: bool,
    /// A candidate is not ready until the role is here.
    unready: Option<readiness::Pending>,
}

impl NodeRole {
    pub(super) fn new(
        hosting: Arc<Hosting>,
        node_agent: Option<zds::Client>,
        operators: Operators,
        resident: Option<Resident>,
        path: PathBuf,
        known: watch::Receiver<bool>,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Notice>) {
        let (notices, received) = mpsc::unbounded_channel();
        let state = Mutex::default();
        (
            Arc::new(Self {
                hosting,
                node_agent,
                operators,
                resident,
                path,
                known,
                notices,
                state,
                seat: watch::Sender::new(None),
            }),
            received,
        )
    }

    /// The seat, if the role is here.
    pub(super) fn current_seat(&self) -> Option<Arc<Seat>> {
        self.seat.borrow().clone()
    }

    /// Tells when the seat comes or goes. Nobody may keep it: the lock must be free when the role's holder is gone.
    pub(super) fn seats(&self) -> watch::Receiver<Option<Arc<Seat>>> {
        self.seat.subscribe()
    }

    /// The listening sockets are nobody's any more: whoever takes the role must be able to bind new ones.
    pub(super) fn forget_copies(&self) {
        self.lock().copies.clear();
    }

    /// Begins without anybody's help: everything is bound, istio-cni is called. Without a seat nobody will be able to take over
    /// from here.
    ///
    /// # Errors
    /// What can't be bound.
    pub(super) fn begin_alone(&self, seat: Option<Seat>) -> Result<(), StartError> {
        self.seat.send_replace(seat.map(Arc::new));
        self.bind_and_call()?;
        self.notify(Notice::Taken);
        Ok(())
    }

    /// Shows itself to operators where that takes nothing from the owner.
    pub(super) fn show(&self) -> Result<(), StartError> {
        if self.resident.is_none() { self.operators.start() } else { Ok(()) }
    }

    /// The process has been told to end: pods may go, but none comes.
    pub(super) fn drain(&self) {
        if let Some(node_agent) = &self.node_agent {
            node_agent.drain();
        }
    }

    fn bind_and_call(&self) -> Result<(), StartError> {
        self.operators.start()?;
        if let Some(resident) = &self.resident {
            self.hosting.serve_resident(resident.workload.clone(), resident.listeners()?);
        }
        self.call_node_agent();
        Ok(())
    }

    /// As soon as we call we are told of new pods, and nobody else is: so not before we know the mesh.
    fn call_node_agent(&self) {
        if let Some(client) = self.node_agent.clone() {
            let mut known = self.known.clone();
            tokio::spawn(async move {
                // An end means that there is nothing to wait for.
                let _ = known.wait_for(|known| *known).await;
                client.go();
            });
        }
    }

    /// Accepts at what was given.
    fn begin_with(&self, parts: Vec<Part>) {
        let mut node_agent = None;
        for part in parts {
            match part {
                Part::Pod(pod) => self.hosting.serve_part(pod),
                Part::Operators(sockets) => self.operators.start_with(sockets),
                Part::NodeAgent(transfer) => node_agent = Some(transfer),
                Part::Certificate(parcel) => self.hosting.adopt_certificate(&parcel),
            }
        }
        match (&self.node_agent, node_agent) {
            (Some(client), Some(transfer)) => client.adopt(transfer),
            (_, None) => self.call_node_agent(),
            (None, _) => {}
        }
    }

    /// Accepts at the copies again, if the listeners were closed.
    fn accept_again(&self) {
        let mut state = self.lock();
        let (copies, stopped) = (std::mem::take(&mut state.copies), std::mem::take(&mut state.stopped));
        drop(state);
        for part in copies.iter().filter(|_| stopped) {
            match &**part {
                Part::Pod(pod) => self.hosting.listen_again(pod),
                Part::Operators(sockets) => match sockets.try_clone() {
                    Ok(sockets) => self.operators.start_with(sockets),
                    Err(error) => tracing::error!(%error, "the servers for operators can't start again"),
                },
                Part::NodeAgent(_) | Part::Certificate(_) => {}
            }
        }
    }

    /// Nobody has the role, and this process has the lock: it accepts.
    pub(super) fn inherit(&self, seat: Seat) {
        self.seat.send_replace(Some(Arc::new(seat)));
        self.take(Took::Inherited, Vec::new(), Vec::new());
    }

    /// The process can't go on.
    pub(super) fn cannot_begin(&self) {
        self.notify(Notice::CannotBegin);
    }

    /// Until the role is here, or it is clear that it won't come, the process is not ready.
    pub(super) fn not_ready_without(&self, pending: readiness::Pending) {
        self.lock().unready = Some(pending);
    }

    /// Somebody else will go on having the role; this process would take it.
    pub(super) fn stand_by(&self) {
        self.lock().unready = None;
    }

    fn notify(&self, notice: Notice) {
        if notice == Notice::Taken {
            self.lock().unready = None;
        }
        // Without a lead the process is at its end.
        let _ = self.notices.send(notice);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn gather(&self) -> Result<Vec<Arc<Part>>, String> {
        let mut parts = Vec::new();
        if let Some(node_agent) = &self.node_agent {
            match node_agent.release().await {
                Ok(transfer) => parts.push(Part::NodeAgent(transfer)),
                // istio-cni was never called from here: the successor does.
                Err(NotReleased::NotHeld) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        parts.extend(self.hosting.certificates().into_iter().map(Part::Certificate));
        let with_resident = self.node_agent.is_none();
        let copies = self.hosting.copies(with_resident).await.map_err(|error| error.to_string())?;
        parts.extend(copies.into_iter().map(Part::Pod));
        if with_resident {
            parts.extend(self.operators.copies().map_err(|error| error.to_string())?.map(Part::Operators));
        }
        Ok(parts.into_iter().map(Arc::new).collect())
    }
}

impl Role for NodeRole {
    fn offer(&self) -> Work<'_, Result<Vec<Arc<Part>>, String>> {
        Box::pin(async move {
            let parts = self.gather().await?;
            self.lock().copies = parts.clone();
            Ok(parts)
        })
    }

    fn stop_accepting(&self) -> Work<'_, ()> {
        Box::pin(async move {
            self.lock().stopped = true;
            self.hosting.let_go_of_listeners(self.node_agent.is_none()).await;
            if self.node_agent.is_none() {
                self.operators.stop();
            }
        })
    }

    fn seat(&self) -> io::Result<Vec<OwnedFd>> {
        let seat = self.current_seat().ok_or_else(|| io::Error::other("this process holds no lock"))?;
        seat.parts().iter().map(BorrowedFd::try_clone_to_owned).collect()
    }

    fn keep(&self) -> Work<'_, ()> {
        Box::pin(async move {
            let transfer = self.lock().copies.iter().find_map(|part| match &**part {
                Part::NodeAgent(transfer) => Some(transfer.try_clone()),
                _ => None,
            });
            self.accept_again();
            match (&self.node_agent, transfer) {
                (Some(client), Some(Ok(transfer))) => client.adopt(transfer),
                (Some(client), Some(Err(error))) => {
                    tracing::warn!(%error, "the connection to istio-cni can't be used again: it is made anew");
                    client.go();
                }
                _ => {}
            }
        })
    }

    fn given(&self) {
        let mut state = self.lock();
        self.seat.send_replace(None);
        // The connection to istio-cni is the successor's: a second holder would keep it open after its death.
        state.copies.retain(|part| !matches!(**part, Part::NodeAgent(_) | Part::Certificate(_)));
        drop(state);
        self.notify(Notice::Given);
    }

    fn check(&self, parts: &[Part]) -> Result<(), String> {
        let has_pod = parts.iter().any(|part| matches!(part, Part::Pod(_)));
        if self.node_agent.is_none() && !has_pod {
            return Err("the workload's listeners did not come".to_owned());
        }
        Ok(())
    }

    fn meet(&self, parts: &[Part]) {
        for part in parts {
            if let Part::Pod(pod) = part {
                self.hosting.meet(pod);
            }
        }
    }

    fn take(&self, took: Took, parts: Vec<Part>, seat: Vec<OwnedFd>) {
        if took == Took::Given {
            let mut seat = seat.into_iter();
            match (seat.next(), seat.next()) {
                (Some(lock), Some(listener)) => match Seat::from_parts(lock, listener) {
                    Ok(seat) => drop(self.seat.send_replace(Some(Arc::new(seat)))),
                    Err(error) => tracing::error!(%error, "no successor will be able to call here"),
                },
                _ => {
                    tracing::error!("the role came without its lock: no successor will be able to call here");
                }
            }
        }
        let was_here = !self.lock().copies.is_empty();
        if !parts.is_empty() {
            let mut state = self.lock();
            state.copies.clear();
            state.stopped = false;
            drop(state);
            self.begin_with(parts);
        } else if was_here {
            // Connections wait at the very sockets that the copies are of.
            self.accept_again();
            self.call_node_agent();
        } else if let Err(error) = self.bind_and_call() {
            tracing::error!(%error, "this process has the role and can't accept");
            return self.notify(Notice::CannotBegin);
        }
        self.notify(Notice::Taken);
    }

    fn try_lock(&self) -> bool {
        match Seat::try_lock(&self.path) {
            Ok(Some(seat)) => {
                self.seat.send_replace(Some(Arc::new(seat)));
                true
            }
            Ok(None) => false,
            Err(error) => {
                tracing::warn!(%error, "the hand-over lock can't be tried");
                false
            }
        }
    }

    fn pod_deleted<'a>(&'a self, uid: &'a str) -> Work<'a, ()> {
        Box::pin(async move {
            self.lock().copies.retain(|part| !matches!(&**part, Part::Pod(pod) if &*pod.uid == uid));
            match &self.node_agent {
                Some(node_agent) => node_agent.stop_pod(uid.into()).await,
                None => self.hosting.stop_pod(uid).await,
            }
        })
    }

    fn cannot_give(&self) {
        self.notify(Notice::CannotGive);
    }
}

/// A pod's part as listeners.
impl From<PodPart> for Listeners {
    fn from(part: PodPart) -> Self {
        Self { sockets: part.listeners, dns: part.dns, transparent: part.transparent }
    }
}
