//! A user's connection before its bytes flow.

pub(super) mod moving;

use std::net::SocketAddr;

use drain::Tracked;

use super::jobs::Queued;
use super::leg::Leg;
use super::stream::Requested;
use crate::flow;
use crate::pool::PoolKey;
use crate::telemetry::{ConnectionFacts, Direction, Observation};

/// See the module.
pub(super) struct User {
    pub(super) leg: Leg,
    pub(super) stage: Stage,
    /// When the stage's time is up, ms.
    pub(super) deadline: u64,
    pub(super) armed: Option<u64>,
    pub(super) queued: Queued,
}

impl User {
    pub(super) fn new(leg: Leg, stage: Stage, deadline: u64) -> Self {
        let queued = Queued::of(leg.pod());
        Self { leg, stage, deadline, armed: None, queued }
    }
}

/// The steps of [`flow::User`] with what each needs.
pub(super) enum Stage {
    Greeting {
        /// What the SOCKS5 client has said and nobody has read yet.
        buffer: Vec<u8>,
        /// The method is agreed; the request comes next.
        agreed: bool,
        origin: Origin,
    },
    AwaitWorkload {
        destination: SocketAddr,
        origin: Origin,
    },
    AwaitAnswer {
        destination: SocketAddr,
        origin: Origin,
    },
    Connecting {
        onward: Leg,
        observation: Observation,
    },
    AwaitTunnel {
        key: PoolKey,
        requested: Box<Requested>,
        observation: Observation,
    },
    /// Its pieces are on their way elsewhere.
    Gone,
}

/// Where a user's connection was accepted, and its entry in the registry until it has an observation.
pub struct Origin {
    pub(super) source: SocketAddr,
    pub(super) listener: Listening,
    pub(super) tracked: Tracked<ConnectionFacts>,
}

/// What a listener accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Listening {
    /// 15001: applications' outgoing connections, captured.
    Outbound,
    /// 15006: plain connections to the local workload, captured.
    Passthrough,
    /// 15008: tunnels of peers.
    Tunnels,
    /// 15080: SOCKS5 clients.
    Socks5,
}

impl Stage {
    /// It goes on when something is known of the mesh.
    pub(super) fn awaits_mesh(&self) -> bool {
        matches!(self, Self::AwaitWorkload { .. } | Self::AwaitAnswer { .. })
    }

    /// Forgets that the control plane was asked for the destination.
    pub(super) fn ask_again(&mut self) {
        *self = match std::mem::replace(self, Self::Gone) {
            Self::AwaitAnswer { destination, origin } => Self::AwaitWorkload { destination, origin },
            other => other,
        };
    }

    pub(super) fn flow(&self) -> flow::User {
        match self {
            Self::Greeting { .. } => flow::User::Greeting,
            Self::AwaitWorkload { .. } | Self::Gone => flow::User::AwaitWorkload,
            Self::AwaitAnswer { .. } => flow::User::AwaitAnswer,
            Self::Connecting { .. } => flow::User::Connecting,
            Self::AwaitTunnel { requested, .. } => flow::User::AwaitTunnel { tries: requested.tries },
        }
    }
}

impl Listening {
    /// For messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Passthrough => "inbound plaintext",
            Self::Tunnels => "inbound HBONE",
            Self::Socks5 => "SOCKS5",
        }
    }

    /// Seen from the local workload.
    pub fn direction(self) -> Direction {
        match self {
            Self::Outbound | Self::Socks5 => Direction::Outbound,
            Self::Passthrough | Self::Tunnels => Direction::Inbound,
        }
    }
}
