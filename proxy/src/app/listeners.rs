//! The listening sockets of a pod, made in the network namespace of the calling thread.

use std::io;
use std::net::{SocketAddr, TcpListener};

use super::StartError;
use crate::config::{ListenerConfig, SocketConfig, Transparent};
use crate::dns::{self, DnsSockets};
use crate::socket::{self, ListenerKind};
use crate::worker::Listening;
use crate::zds::StartPodError;

/// A listener that can't be bound.
#[derive(Debug)]
pub(super) struct ListenError {
    /// What it is for.
    pub(super) what: &'static str,
    pub(super) address: SocketAddr,
    pub(super) error: io::Error,
}

/// Bound, and waiting for somebody who accepts.
pub(super) struct Listeners {
    pub(super) sockets: Vec<(Listening, TcpListener)>,
    /// Where the pod's questions of names come in, if they are answered.
    pub(super) dns: Option<DnsSockets>,
    /// They can take and give foreign addresses: applications see where connections really come from.
    pub(super) transparent: bool,
}

impl Listeners {
    /// Everything that a pod needs; names are answered at these addresses.
    pub(super) fn bind(
        config: &ListenerConfig,
        names: &[SocketAddr],
        sockets: &SocketConfig,
    ) -> Result<Self, ListenError> {
        let mut wanted = vec![
            (Listening::Outbound, config.outbound, ListenerKind::Users),
            (Listening::Passthrough, config.passthrough, ListenerKind::Users),
            (Listening::Tunnels, config.hbone, ListenerKind::Tunnels),
        ];
        wanted.extend(config.socks5.map(|address| (Listening::Socks5, address, ListenerKind::Tunnels)));
        let mut transparent = config.transparent != Transparent::Never;
        let mut bound = Vec::with_capacity(wanted.len());
        for (listening, address, kind) in wanted {
            let mut listen = || -> io::Result<TcpListener> {
                let listener = socket::listen(address, kind, config.reuse_port, sockets)?;
                if transparent && let Err(error) = socket::set_transparent(&listener) {
                    if config.transparent == Transparent::Required {
                        return Err(error);
                    }
                    tracing::info!(%error, "original source addresses will not be kept");
                    transparent = false;
                }
                Ok(listener)
            };
            let what = listening.name();
            bound.push((listening, listen().map_err(|error| ListenError { what, address, error })?));
        }
        let dns = names.first().map(|first| {
            let bound = dns::bind(names, sockets, config.reuse_port);
            bound.map_err(|error| ListenError { what: "DNS", address: *first, error })
        });
        Ok(Self { sockets: bound, dns: dns.transpose()?, transparent })
    }

    /// Only tunnels, for this process as a workload of its own: what peers want of it lies on its other ports.
    pub(super) fn bind_own(address: SocketAddr) -> Result<Self, ListenError> {
        let plain = SocketConfig { keepalive: None, user_timeout: None, mark: None };
        let what = "own HBONE";
        let listener = socket::listen(address, ListenerKind::Tunnels, false, &plain)
            .map_err(|error| ListenError { what, address, error })?;
        Ok(Self { sockets: vec![(Listening::Tunnels, listener)], dns: None, transparent: false })
    }
}

impl From<ListenError> for StartError {
    fn from(ListenError { what, address, error }: ListenError) -> Self {
        Self::Listen { what, address, error }
    }
}

impl From<ListenError> for StartPodError {
    fn from(ListenError { what, address, error }: ListenError) -> Self {
        Self::Listen { what, address, error }
    }
}
