//! What the two sides of a hand-over say to each other, and how it is written down.
//!
//! One message is one packet of the socket. On the wire:
//!
//! ```text
//!   length     of the envelope: 32 bits, little endian
//!   envelope   protocol buffers: the count of the packet's descriptors, and one of the messages
//!   payload    the rest: what is opaque to this crate, or secret
//! ```
//!
//! The payload is beside the envelope so that secrets are never in a value that prints, copies or forgets them by
//! itself: a payload is wiped when it is dropped, and shows nothing in `Debug`.
//!
//! The two sides are of different builds. Fields that are not known are skipped; a message that is not known is
//! [`Message::Unknown`], to be ignored. A tag never gets a new meaning.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use super::session::Offer;

pub use pieces::{Assembler, AssemblyError, MAX_STATE_BYTES, MAX_STATE_DESCRIPTORS, Piece, Whole, pieces};

mod pieces;
mod wire;

pub(super) use wire::{decode, encode};

/// The version of what is said here.
pub const VERSION: u32 = 1;

/// Bytes that this crate does not look into.
pub type Payload = Zeroizing<Vec<u8>>;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The first of each side.
    Hello(Hello),
    /// The answer to the hello of the side that connected; the other's own hello precedes it.
    Verdict(Verdict),
    /// For how many descriptors the sender has room now.
    Room {
        /// Its limit, without those that are open or needed otherwise.
        descriptors: u32,
    },
    /// The sender could take the role.
    Able {
        /// It could live without anybody's help.
        alone: bool,
    },
    /// The sender has been told to end: it takes nothing any more.
    Terminating,
    /// A piece of one of the things that the role is made of.
    RolePart {
        /// Of which kind; the daemon knows them.
        kind: u32,
        /// Which piece.
        piece: Piece,
    },
    /// All of the role's parts have been sent.
    RoleState {
        /// Which offer of the role this is.
        epoch: u32,
        /// How many parts it has, counted whole.
        parts: u32,
    },
    /// All parts came and can be used.
    RolePrepared {
        /// Of which offer.
        epoch: u32,
    },
    /// They can't be.
    RoleRefused {
        /// Of which offer.
        epoch: u32,
        /// Why.
        reason: String,
    },
    /// The role is the receiver's from now on. With it come the lock and the listener of the hand-over.
    RoleCommit {
        /// Of which offer.
        epoch: u32,
    },
    /// The offer is void.
    RoleAbort {
        /// Which offer.
        epoch: u32,
        /// Why.
        reason: String,
    },
    /// A piece of what the sender knows of the mesh, or of what has changed there; the daemon knows how it is written.
    Mesh(Piece),
    /// A piece of what the sender has counted so far, and leaves to the receiver from now on.
    Counters(Piece),
    /// A piece of the state of a connection that the sender offers.
    State {
        /// Its offer.
        offer: Offer,
        /// The receiver is to prove that it can run it.
        canary: bool,
        /// At which change of the mesh it was allowed: the number of a [`Message::Mesh`] before, or 0.
        mesh: u64,
        /// Since when it does not run, in nanoseconds of `CLOCK_MONOTONIC`, which both sides share.
        frozen_at_ns: u64,
        /// Which piece.
        piece: Piece,
    },
    /// The whole state came and can be used.
    Prepared {
        /// Of which offer.
        offer: Offer,
    },
    /// It can't be.
    Refused {
        /// Of which offer.
        offer: Offer,
        /// Why.
        reason: String,
        /// The same connection may be taken if it is offered again.
        again: bool,
    },
    /// The connection is the receiver's from now on.
    Commit {
        /// Of which offer.
        offer: Offer,
        /// What it takes to write to it.
        secrets: Payload,
    },
    /// The offer is void.
    Abort {
        /// Which offer.
        offer: Offer,
    },
    /// The connection runs at the sender.
    Running {
        /// Of which offer.
        offer: Offer,
        /// How long it did not run, in microseconds.
        pause_us: u64,
    },
    /// The peer of this connection has answered what its new owner sent.
    Proved {
        /// Of which offer.
        offer: Offer,
    },
    /// It has not.
    NotProved {
        /// Of which offer.
        offer: Offer,
        /// Why.
        reason: String,
    },
    /// This pod is gone: the receiver is to end what it has of it.
    PodDeleted {
        /// The pod's uid.
        uid: String,
    },
    /// The sender has nothing of this pod any more.
    PodClosed {
        /// The pod's uid.
        uid: String,
    },
    /// A piece of the list of tunnels that the sender will offer soon: a hint, by which the receiver need not dial others. The
    /// daemon knows what is in it.
    Coming(Piece),
    /// The sender has nothing left that it could give: who waits for what it said to be [coming](Self::Coming) waits in vain.
    Done,
    /// The sender ends the session.
    Goodbye {
        /// Why.
        reason: String,
    },
    /// A message of a later build: to be ignored.
    Unknown,
}

/// Who somebody is, and what it wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// The version that it speaks: [`VERSION`].
    pub version: u32,
    /// The oldest one that it understands.
    pub oldest_version: u32,
    /// Its pod: namespace/name, and uid.
    pub pod: String,
    /// Its build, for people.
    pub build: String,
    /// Its process id, as it sees it itself.
    pub pid: u32,
    /// It is fresh and wants the role.
    pub wants_role: bool,
    /// It has the role.
    pub holds_role: bool,
    /// As [`Message::Terminating`]; a build before this field says it only there.
    pub terminating: bool,
    /// As [`Message::Room`].
    pub room: u32,
    /// What must be equal on both sides for connections to move, by name.
    pub compatibility: BTreeMap<String, String>,
    /// What its build can do beyond this version.
    pub features: Vec<String>,
}

/// What the holder of the role says to somebody who connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The session begins.
    Welcome,
    /// It begins, but the role is not for the one who asks: its pod had it before.
    StayStandby,
    /// Not now.
    Wait {
        /// When to connect again, in milliseconds from now.
        ms: u64,
    },
    /// The two can't hand over anything.
    Incompatible {
        /// Why.
        reason: String,
    },
    /// Not now: there is a session with somebody else, or both have been told to end.
    Busy,
}

#[cfg(test)]
mod tests;
