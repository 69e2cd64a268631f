//! What a worker does with a user's connection, once it is decided.

use std::net::SocketAddr;

use hbone::ConnectRequest;

use crate::pool::PoolKey;
use crate::socket::Source;
use crate::telemetry::{ConnectionFacts, Failure};

/// What a worker does with a user's connection.
pub enum Plan {
    /// Through a tunnel.
    Tunnel {
        /// Whose tunnels it may use.
        key: PoolKey,
        /// What is asked of the peer.
        request: ConnectRequest,
        /// For metrics and log.
        facts: Box<ConnectionFacts>,
    },
    /// In plain TCP.
    Direct {
        /// The address.
        to: SocketAddr,
        /// Where it comes from.
        from: Option<Source>,
        /// For metrics and log.
        facts: Box<ConnectionFacts>,
    },
    /// Not at all, and it is known who wanted to talk to whom.
    Refuse {
        /// Why.
        failure: Failure,
        /// For metrics and log.
        facts: Box<ConnectionFacts>,
    },
    /// Not at all, before that is known.
    Close {
        /// Why.
        reason: String,
    },
}
