//! Where a connection goes: the decision tables for both directions, as pure functions of the mesh.
//!
//! Whatever the tables cannot serve yet is refused, never sent another way: a destination behind a waypoint must not
//! be reached past it.

mod authority;
mod inbound;
mod outbound;

use std::sync::Arc;

use xds::{Service, Workload};

pub use authority::{Authority, AuthorityError};
pub use inbound::{InboundRefusal, InboundTarget, destination_service, inbound};
pub use outbound::{Route, RouteError, TunnelRoute, outbound};

/// What a decision needs to know of the proxy that makes it.
#[derive(Clone, Copy, Debug)]
pub struct LocalProxy<'a> {
    /// The network it serves; empty is the default one.
    pub network: &'a str,
    /// The port on which other proxies accept tunnels.
    pub hbone_port: u16,
    /// The ports it listens on itself, tunnels included. Traffic to them would come back to it, or enter it by a door
    /// that is not meant for it.
    pub reserved_ports: &'a [u16],
}

impl LocalProxy<'_> {
    /// The outbound, inbound plaintext and HBONE ports of every node proxy.
    pub const CAPTURE_PORTS: [u16; 3] = [15001, 15006, 15008];
}

/// What is known about the far end of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Destination {
    /// The workload that is dialled.
    pub workload: Option<Arc<Workload>>,
    /// The service that was asked for.
    pub service: Option<Arc<Service>>,
}
