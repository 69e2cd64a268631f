//! The connections that are on their way here: not ours until their commit has come.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use drain::handover::message::{Assembler, AssemblyError, Payload, Piece, Whole};
use drain::handover::session::Offer;

use crate::shared::Shared;
use crate::worker::PreparedConnection;

/// See the module.
#[derive(Default)]
pub struct Taking {
    assembler: Assembler,
    states: BTreeMap<Offer, State>,
}

enum State {
    Whole { mesh: u64, frozen_at: u64, record: Payload, sockets: Vec<OwnedFd> },
    Prepared { connection: Box<PreparedConnection>, size: usize },
}

impl Taking {
    /// Takes in a piece of a connection's state; true once it is whole.
    ///
    /// # Errors
    /// If the pieces don't make a whole: that connection can't be taken.
    pub fn piece(
        &mut self,
        offer: Offer,
        mesh: u64,
        frozen_at: u64,
        piece: Piece,
        descriptors: Vec<OwnedFd>,
    ) -> Result<bool, AssemblyError> {
        let Some(Whole { bytes, descriptors }) = self.assembler.add(piece, descriptors)? else {
            return Ok(false);
        };
        self.states.insert(offer, State::Whole { mesh, frozen_at, record: bytes, sockets: descriptors });
        Ok(true)
    }

    /// At which change of the mesh the connection was allowed.
    pub fn mesh(&self, offer: Offer) -> u64 {
        match self.states.get(&offer) {
            Some(State::Whole { mesh, .. }) => *mesh,
            Some(State::Prepared { .. }) | None => 0,
        }
    }

    /// Looks whether the connection can run here.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&mut self, offer: Offer, shared: &Shared) -> Result<(), String> {
        match self.states.remove(&offer) {
            Some(State::Whole { frozen_at, record, sockets, .. }) => {
                let now = shared.clock.now();
                let connection = PreparedConnection::read(&record, sockets, frozen_at, &shared.pods, now)
                    .map_err(|error| error.to_string())?;
                let connection = Box::new(connection);
                self.states.insert(offer, State::Prepared { connection, size: record.len() });
                Ok(())
            }
            _ => Err("its state has not come".to_owned()),
        }
    }

    /// The connection is ours.
    pub fn commit(&mut self, offer: Offer) -> Option<Committed> {
        match self.states.remove(&offer)? {
            State::Prepared { connection, size } => Some(Committed { connection, size }),
            State::Whole { .. } => None,
        }
    }

    /// What came of it is void. Our copies are closed, which the peers of its sockets don't notice.
    pub fn drop(&mut self, offer: Offer) {
        self.states.remove(&offer);
    }
}

/// A connection that is ours, and runs nowhere yet.
pub struct Committed {
    /// It.
    pub connection: Box<PreparedConnection>,
    /// Bytes of its state.
    pub size: usize,
}
