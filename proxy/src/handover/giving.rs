//! The connections that are on their way to the other side: frozen here, ours until their commit is sent.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use drain::handover::message::Message;
use drain::handover::session::Offer;

use super::outgoing::{Commits, Descriptors, Outgoing, cut};
use super::status::Tally;
use crate::worker::{FrozenConnection, FrozenKind, Kept};

/// See the module.
#[derive(Default)]
pub struct Giving {
    next: Offer,
    frozen: BTreeMap<Offer, Frozen>,
    /// Descriptors that the other side has room for.
    pub room: usize,
}

struct Frozen {
    connection: FrozenConnection,
    /// Its sockets, shared with the messages that carry them.
    sockets: Arc<Vec<OwnedFd>>,
    kept: Kept,
}

impl Giving {
    /// Towards somebody with room for so many descriptors.
    pub fn new(room: usize) -> Self {
        Self { room, ..Self::default() }
    }

    /// Sends the state of these connections, allowed at this change of the mesh; returns their offers.
    pub fn offer(
        &mut self,
        given: Vec<(FrozenConnection, Kept)>,
        canary: bool,
        mesh: u64,
        outgoing: &mut Outgoing,
    ) -> Vec<Offer> {
        let mut offers = Vec::with_capacity(given.len());
        for (mut connection, kept) in given {
            self.next += 1;
            let offer = self.next;
            let sockets = Arc::new(std::mem::take(&mut connection.sockets));
            self.room = self.room.saturating_sub(sockets.len());
            let borrowed: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
            for (piece, range) in cut(&connection.record, &borrowed) {
                let frozen_at_ns = connection.frozen_at;
                let message = Message::State { offer, canary, mesh, frozen_at_ns, piece };
                outgoing.push(message, Descriptors::Sockets(sockets.clone(), range));
            }
            self.frozen.insert(offer, Frozen { connection, sockets, kept });
            offers.push(offer);
        }
        offers
    }

    /// For the metrics: what it is, and how large its state.
    pub fn info(&self, offer: Offer) -> Option<(FrozenKind, usize)> {
        self.frozen.get(&offer).map(|frozen| (frozen.connection.kind, frozen.connection.record.len()))
    }

    /// Puts the commit, with the secrets, into the queue.
    pub fn commit(&mut self, offer: Offer, outgoing: &mut Outgoing) {
        let Some(frozen) = self.frozen.get(&offer) else { return };
        let secrets =
            frozen.connection.secrets.as_ref().map_or_else(Vec::new, |secrets| secrets.expose().to_vec());
        let message = Message::Commit { offer, secrets: secrets.into() };
        outgoing.push_commit(message, Descriptors::None, Commits::Connection(offer));
    }

    /// The commit was sent: our copies of the sockets and of the secrets go.
    pub fn committed(&mut self, offer: Offer, tally: &mut Tally) {
        if let Some(Frozen { connection, kept, .. }) = self.frozen.remove(&offer) {
            tally.moved(connection.kind, connection.streams, connection.record.len());
            kept.released();
        }
    }

    /// The connection runs here again; what is to be thawed.
    pub fn take_back(&mut self, offer: Offer, outgoing: &mut Outgoing) -> Option<(FrozenConnection, Kept)> {
        outgoing.withdraw(Commits::Connection(offer));
        let Frozen { mut connection, sockets, kept } = self.frozen.remove(&offer)?;
        self.room += sockets.len();
        connection.sockets = match Arc::try_unwrap(sockets) {
            Ok(sockets) => sockets,
            // Messages that still wait hold them, too.
            Err(shared) => shared.iter().map_while(|socket| socket.try_clone().ok()).collect(),
        };
        Some((connection, kept))
    }
}
