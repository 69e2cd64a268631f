//! What the machine is told, and what it tells to do.

/// The number of an offer of a connection; never used twice in a session.
pub type Offer = u64;

/// What the two sides tell each other, as far as it decides anything. Descriptors, records and secrets travel beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Say {
    /// The sender could take the role.
    Able {
        /// It could live without anybody's help: its own stream of mesh state, its own certificate.
        alone: bool,
    },
    /// The sender has been told to end: it takes nothing any more.
    Terminating,
    /// All of the role's parts have been sent.
    RoleState {
        /// Which offer of the role this is.
        epoch: u32,
    },
    /// All parts came and can be used. A promise without a limit in time.
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
    /// The role is the receiver's from now on.
    RoleCommit {
        /// Of which offer.
        epoch: u32,
    },
    /// The offer is void.
    RoleAbort {
        /// Which offer.
        epoch: u32,
    },
    /// The whole state of a connection has been sent.
    State {
        /// Its offer.
        offer: Offer,
        /// The receiver is to prove that it can run it.
        canary: bool,
    },
    /// The state can be used. A promise without a limit in time.
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
        /// It may be if it is offered again.
        again: bool,
    },
    /// The connection is the receiver's from now on.
    Commit {
        /// Of which offer.
        offer: Offer,
    },
    /// The offer is void.
    Abort {
        /// Which offer.
        offer: Offer,
    },
    /// The peer of this connection has answered what the new owner sent.
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
}

/// What happens to one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The other side has said this.
    Heard(Say),
    /// The other side's end of the socket is over; everything that it had sent was passed on before.
    PeerGone,
    /// This process could take the role.
    Able {
        /// As [`Say::Able`].
        alone: bool,
    },
    /// This process has been told to end.
    Terminate,
    /// [`Action::OfferRole`] is done: the parts are sent, or why they can't be.
    RoleOffered(Result<(), String>),
    /// [`Action::StopAccepting`] is done.
    Stopped,
    /// [`Action::CommitRole`] was sent, or could not be.
    RoleCommitted(bool),
    /// What came of [`Action::CheckRole`].
    RoleChecked(Result<(), String>),
    /// What came of [`Action::TryLock`]: whether the lock is ours.
    Lock(bool),
    /// [`Action::GiveWave`] is done: these connections are frozen here, and their state is sent. None if there is none.
    Wave(Vec<Offer>),
    /// [`Action::Commit`] was sent, or could not be.
    Committed(Offer, bool),
    /// What came of [`Action::Check`].
    Checked(Offer, Result<(), Refusal>),
    /// The peer of a canary has answered, or why not.
    Proof(Offer, Result<(), String>),
    /// The time that [`Session::timeout`](super::Session::timeout) told has come.
    Tick,
}

/// What one side has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Tell the other side.
    Send(Say),
    /// Send everything that the role is made of; then [`Event::RoleOffered`].
    OfferRole,
    /// Accept nothing any more, keep copies of the listening sockets; then [`Event::Stopped`].
    StopAccepting,
    /// Send [`Say::RoleCommit`] of this epoch with the lock, in one piece or not at all; then [`Event::RoleCommitted`].
    CommitRole {
        /// Which offer.
        epoch: u32,
    },
    /// The role stays here: accept again if that was stopped.
    KeepRole {
        /// Why it could not be given.
        reason: String,
    },
    /// The role is the other side's now: let go of the lock.
    RoleGiven,
    /// Look whether the parts of the role that came can be used; then [`Event::RoleChecked`].
    CheckRole,
    /// The role is ours now: accept.
    TakeRole(Took),
    /// What came of the role is void.
    DropRole,
    /// The holder is gone: see whether its lock is free; then [`Event::Lock`].
    TryLock,
    /// Freeze some connections and send their state; then [`Event::Wave`].
    GiveWave {
        /// Just one, a tunnel if there is any.
        canary: bool,
    },
    /// Send [`Say::Commit`] with the secrets, in one piece or not at all; then [`Event::Committed`].
    Commit(Offer),
    /// This connection runs here again.
    TakeBack(Offer, BackWhy),
    /// Look whether the state of this connection can be used; then [`Event::Checked`].
    Check(Offer),
    /// The connection is ours: run it. If it is a canary, tell by [`Event::Proof`] whether its peer answers.
    Run {
        /// Which.
        offer: Offer,
        /// Whether to prove it.
        canary: bool,
    },
    /// What came of this connection is void: close our copies.
    Drop(Offer),
    /// The operator should know.
    Report(Report),
}

/// How the role came here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Took {
    /// The other side gave it.
    Given,
    /// The other side is gone; the lock was free.
    Inherited,
}

/// Why a connection can't be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Neither now nor later.
    Never(String),
    /// But soon, perhaps.
    NotYet(String),
}

/// Why a connection stays with its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackWhy {
    /// The other side can't take it; it drains here.
    Refused(String),
    /// Not now; it will be offered again.
    Later(&'static str),
}

/// What operators should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// The first connection has proved that the other side can run what it is given.
    CanaryProved,
    /// It has not; another one is tried.
    CanaryFailed(String),
    /// No canary was proved: the connections that are left here drain here.
    GivenUp,
    /// Everything that could be given has been.
    NothingLeft,
}

/// How a process comes into a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// It has the role.
    pub holds: bool,
    /// The other side wants it.
    pub peer_wants: bool,
    /// It had it once, so it may have connections for whoever has it now.
    pub had_role: bool,
    /// It has been told to end.
    pub terminating: bool,
    /// From the giving of the role until the rest follows the canary, ms.
    pub bake_ms: u64,
}
