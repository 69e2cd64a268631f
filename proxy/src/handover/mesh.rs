//! What the owner tells a candidate of the mesh, and when a connection may run by it.
//!
//! ```text
//!   owner                                              candidate
//!   everything it knows ────────────── Mesh … ───────► its store: now it subscribes itself, with the versions told
//!   each change, numbered ──────────── Mesh 7 ───────► applied, or awaited of its own stream
//!   a connection, allowed at 7 ─────── State 7 ──────► checked once it has caught up with 7
//! ```
//!
//! So a candidate can take over from an owner that must end even while istiod is away, and no connection is judged by
//! policies older than those that allowed it. To anybody but a candidate nothing is told: it has its own stream.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use drain::handover::limits;
use drain::handover::message::{Assembler, Message, Piece, Whole};
use drain::handover::session::Offer;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use xds::Store;
use xds::client::Client;
use xds::telling::Telling;

use super::outgoing::{Descriptors, Outgoing, cut};

/// What says in a hello that mesh state can be told and learned.
pub const FEATURE: &str = "mesh";

/// Messages that may wait to be sent while more is told of the mesh.
const WAITING: usize = 16;

/// The mesh state of this process. Clones are the same.
#[derive(Clone)]
pub struct LocalMesh {
    /// None if it comes from a file.
    client: Option<Client>,
    store: Store,
    known: Arc<watch::Sender<bool>>,
}

impl LocalMesh {
    /// Of this store, as this client keeps it; `known` is told when it is whole, by whomever.
    pub fn new(client: Option<Client>, store: Store, known: watch::Sender<bool>) -> Self {
        Self { client, store, known: Arc::new(known) }
    }

    /// Waits until the own stream has brought everything, if there is one.
    pub async fn synced(&self) {
        if let Some(client) = &self.client {
            client.synced().await;
        }
        self.known.send_replace(true);
    }

    /// Nobody will tell anything (more): the own stream begins, if it has not yet.
    pub fn begin(&self) {
        if let Some(client) = &self.client {
            client.begin();
        }
    }
}

/// Which side of it this process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// It tells the other side.
    Teller,
    /// It is told.
    Learner,
    /// Neither.
    Nobody,
}

/// See the module.
pub(super) struct MeshExchange {
    mesh: LocalMesh,
    told: Option<mpsc::Receiver<Telling>>,
    learns: bool,
    pieces: Assembler,
    caught_up: Option<watch::Receiver<u64>>,
    /// The number with which everything is known here, once that was told: to be told is not to have it.
    whole_at: Option<u64>,
    /// Connections that were allowed at changes that are not known here yet.
    parked: BTreeMap<Offer, Parked>,
    /// Since when something had to wait too long, and nothing new has come.
    behind_since: Option<Instant>,
}

struct Parked {
    number: u64,
    until: Instant,
}

/// What there is to do.
pub(super) enum Due {
    /// The other side should know.
    Tell(Telling),
    /// Everything that the other side knows is known here, too.
    Known,
    /// See what [`MeshExchange::unpark`] says.
    Unpark,
}

/// A connection that was waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unparked {
    /// What allowed it is known here.
    Known,
    /// It would take too long.
    Late,
}

impl MeshExchange {
    pub(super) fn new(mesh: LocalMesh, part: Part) -> Self {
        let told = mesh.client.as_ref().filter(|_| part == Part::Teller).map(Client::tell);
        let learns = part == Part::Learner && mesh.client.is_some();
        if !learns {
            mesh.begin();
        }
        let caught_up = mesh.client.as_ref().filter(|_| learns).map(Client::caught_up);
        Self {
            mesh,
            told,
            learns,
            pieces: Assembler::new(),
            caught_up,
            whole_at: None,
            parked: BTreeMap::new(),
            behind_since: None,
        }
    }

    /// Waits for something to do.
    pub(super) async fn due(&mut self, waiting: usize) -> Due {
        if self.whole_at.is_some_and(|number| self.has_caught_up_with(number)) {
            self.whole_at = None;
            self.mesh.known.send_replace(true);
            return Due::Known;
        }
        let first = self.parked.values().map(|parked| parked.until).min();
        let (told, caught_up) = (&mut self.told, &mut self.caught_up);
        tokio::select! {
            telling = next(told), if waiting < WAITING => Due::Tell(telling),
            () = moved(caught_up) => {
                self.behind_since = None;
                Due::Unpark
            }
            () = until(first) => Due::Unpark,
        }
    }

    /// The number at which everything that is allowed here now was allowed; 0 if numbers mean nothing to the other side.
    pub(super) fn number(&self) -> u64 {
        if self.told.is_some() { self.mesh.store.load().generation() } else { 0 }
    }

    /// Takes in what the other side tells.
    ///
    /// # Errors
    /// If it can't be read: then the own stream has to bring everything.
    pub(super) fn heard(&mut self, piece: Piece) -> Result<(), String> {
        let Some(client) = self.mesh.client.as_ref().filter(|_| self.learns) else { return Ok(()) };
        let learned = match self.pieces.add(piece, Vec::new()) {
            Ok(None) => return Ok(()),
            Ok(Some(Whole { bytes, .. })) => Telling::decode(&bytes).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match learned {
            Ok(telling) => {
                let whole_at = telling.is_complete().then(|| telling.generation());
                client.learn(telling);
                if whole_at.is_some() {
                    client.begin();
                    self.whole_at = whole_at;
                }
                Ok(())
            }
            Err(reason) => {
                client.begin();
                Err(reason)
            }
        }
    }

    /// Whether what allowed a connection is known here. If not, it waits.
    pub(super) fn knows(&mut self, offer: Offer, number: u64) -> bool {
        let known = self.is_caught_up_with(number);
        if !known {
            let until = Instant::now() + Duration::from_millis(limits::MESH_MS);
            self.parked.insert(offer, Parked { number, until });
        }
        known
    }

    /// The connections that wait no longer.
    pub(super) fn unpark(&mut self) -> Vec<(Offer, Unparked)> {
        let now = Instant::now();
        let mut unparked = Vec::new();
        for (offer, parked) in std::mem::take(&mut self.parked) {
            if self.is_caught_up_with(parked.number) {
                unparked.push((offer, Unparked::Known));
            } else if parked.until <= now {
                self.behind_since.get_or_insert(now);
                unparked.push((offer, Unparked::Late));
            } else {
                self.parked.insert(offer, parked);
            }
        }
        unparked
    }

    /// Nobody waits for this one any more.
    pub(super) fn forget(&mut self, offer: Offer) {
        self.parked.remove(&offer);
    }

    /// The other side is gone.
    pub(super) fn over(&mut self) {
        self.told = None;
        self.mesh.begin();
    }

    fn is_caught_up_with(&self, number: u64) -> bool {
        // Two servers of the control plane that don't agree for so long: the own one counts.
        let patience = Duration::from_millis(limits::MESH_PATIENCE_MS);
        if self.behind_since.is_some_and(|since| since.elapsed() >= patience) {
            return true;
        }
        self.has_caught_up_with(number)
    }

    fn has_caught_up_with(&self, number: u64) -> bool {
        self.caught_up.as_ref().is_none_or(|caught_up| *caught_up.borrow() >= number)
    }
}

/// Puts a telling into the queue.
pub(super) fn send(telling: &Telling, outgoing: &mut Outgoing) {
    for (piece, _) in cut(&telling.encode(), &[]) {
        outgoing.push(Message::Mesh(piece), Descriptors::None);
    }
}

async fn next(told: &mut Option<mpsc::Receiver<Telling>>) -> Telling {
    if let Some(receiver) = told {
        if let Some(telling) = receiver.recv().await {
            return telling;
        }
        // The stream of mesh state is gone, and the process with it.
        *told = None;
    }
    std::future::pending().await
}

async fn moved(caught_up: &mut Option<watch::Receiver<u64>>) {
    if let Some(caught_up) = caught_up
        && caught_up.changed().await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a candidate whose store follows `caught_up`.
    fn learner(caught_up: watch::Receiver<u64>) -> MeshExchange {
        let mesh = LocalMesh::new(None, Store::new(), watch::Sender::new(false));
        MeshExchange { caught_up: Some(caught_up), ..MeshExchange::new(mesh, Part::Learner) }
    }

    async fn unparked(exchange: &mut MeshExchange) -> Vec<(Offer, Unparked)> {
        assert!(matches!(exchange.due(0).await, Due::Unpark));
        exchange.unpark()
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_waits_for_what_allowed_it_but_not_for_long() {
        let (mesh, caught_up) = watch::channel(3);
        let (mut exchange, begun) = (learner(caught_up), Instant::now());
        assert!(exchange.knows(1, 3));
        for (offer, number) in [(2, 4), (3, 5), (4, 5)] {
            assert!(!exchange.knows(offer, number));
        }
        exchange.forget(4);
        mesh.send_replace(4);
        assert_eq!(unparked(&mut exchange).await, [(2, Unparked::Known)]);
        assert_eq!(unparked(&mut exchange).await, [(3, Unparked::Late)]);
        assert_eq!(begun.elapsed(), Duration::from_millis(limits::MESH_MS));
    }

    #[tokio::test(start_paused = true)]
    async fn everything_is_known_once_the_store_has_it() {
        let (mesh, caught_up) = watch::channel(0);
        let mut exchange = learner(caught_up);
        exchange.whole_at = Some(5);
        for (number, known) in [(4, false), (5, true)] {
            mesh.send_replace(number);
            assert!(matches!(exchange.due(0).await, Due::Unpark) != known, "at {number}");
            assert_eq!(*exchange.mesh.known.borrow(), known, "at {number}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn two_servers_that_do_not_agree_hold_nothing_up_for_ever() {
        let (mesh, caught_up) = watch::channel(3);
        let (mut exchange, begun) = (learner(caught_up), Instant::now());
        let mut offer = 0;
        while !exchange.knows(offer, 4) && unparked(&mut exchange).await != [(offer, Unparked::Known)] {
            offer += 1;
        }
        assert!(exchange.knows(offer, 4), "it was not by accident");
        let patience = Duration::from_millis(limits::MESH_PATIENCE_MS);
        assert!(begun.elapsed() >= patience && begun.elapsed() < 2 * patience, "{:?}", begun.elapsed());
        // As soon as something comes it is waited for again.
        mesh.send_replace(4);
        unparked(&mut exchange).await;
        assert!(!exchange.knows(offer, 5));
    }

    #[test]
    fn who_is_told_nothing_waits_for_nothing() {
        let mesh = LocalMesh::new(None, Store::new(), watch::Sender::new(false));
        let mut exchange = MeshExchange::new(mesh, Part::Nobody);
        assert!(exchange.knows(1, u64::MAX));
        assert_eq!(exchange.number(), 0);
    }
}
