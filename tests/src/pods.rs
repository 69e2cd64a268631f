//! Three pods on one network, as istio-cni makes them: each is a network namespace, and in two of them iptables leads the
//! applications' connections to the proxy, which they know nothing of.
//!
//! ```text
//!  ┌ client ───────────────┐  ┌ server ───────────────┐  ┌ plain ──────┐
//!  │ application  15001 ◄┐ │  │ application  15006 ◄┐ │  │ application │
//!  │     └──REDIRECT─────┘ │  │ 15008 ◄─┐   REDIRECT┤ │  │             │
//!  └─────────┬─────────────┘  └─────────┴─┬─────────┴─┘  └─────┬───────┘
//!            └──────────── a bridge, in a namespace of its own ┘
//! ```

use std::net::{IpAddr, Ipv4Addr};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use demo::netns::{Namespace, NetnsError, command};
use demo::place::Place;

use crate::redirection;
use crate::skipped::unless_missing;

/// The pods. Dropping this removes their namespaces.
#[derive(Debug)]
pub struct Pods {
    pods: [Namespace; 3],
    _network: Namespace,
}

/// One of the pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pod {
    /// With a proxy.
    Client,
    /// With a proxy.
    Server,
    /// Without one.
    Plain,
}

impl Pod {
    /// Its address.
    pub fn address(self) -> IpAddr {
        let last = match self {
            Self::Client => 1,
            Self::Server => 2,
            Self::Plain => 3,
        };
        Ipv4Addr::new(10, 78, 0, last).into()
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
            Self::Plain => "plain",
        }
    }
}

impl Pods {
    /// Makes all of them. `None` if this machine does not allow it, which is said.
    ///
    /// # Panics
    /// A command fails; or in CI (`CI=true`), where nothing may be left out, something is missing.
    pub fn create() -> Option<Self> {
        unless_missing(Self::try_create())
    }

    /// A pod's namespace.
    pub fn place(&self, pod: Pod) -> Place {
        self.pods[pod as usize].place()
    }

    fn try_create() -> Result<Self, NetnsError> {
        static CREATED: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("t{}-{}", process::id(), CREATED.fetch_add(1, Ordering::Relaxed));
        let network = Namespace::create(&format!("{prefix}-network"))?;
        let switch = network.name();
        command(&format!("ip -n {switch} link add bridge type bridge"))?;
        command(&format!("ip -n {switch} link set bridge up"))?;
        let pod = |pod: Pod| {
            let namespace = Namespace::create(&format!("{prefix}-{}", pod.name()))?;
            let (name, port, address) = (namespace.name(), pod.name(), pod.address());
            command(&format!("ip link add eth0 netns {name} type veth peer name {port} netns {switch}"))?;
            command(&format!("ip -n {switch} link set {port} master bridge up"))?;
            command(&format!("ip -n {name} address add {address}/16 dev eth0"))?;
            command(&format!("ip -n {name} link set lo up"))?;
            command(&format!("ip -n {name} link set eth0 up"))?;
            Ok::<_, NetnsError>(namespace)
        };
        let pods = [pod(Pod::Client)?, pod(Pod::Server)?, pod(Pod::Plain)?];
        for proxied in [Pod::Client, Pod::Server] {
            redirection::install(&pods[proxied as usize].place())?;
        }
        Ok(Self { pods, _network: network })
    }
}
