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

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use demo::netns::{Namespace, NetnsError, command};
use demo::place::Place;

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
        match Self::try_create() {
            Ok(pods) => Some(pods),
            Err(NetnsError::Missing { missing })
                if std::env::var("CI").is_ok_and(|value| value == "true") =>
            {
                panic!("CI must have {}", missing.join(" and "));
            }
            Err(NetnsError::Missing { missing }) => {
                // Not by `eprintln`, which the test harness keeps to itself when a test passes.
                let what = missing.join(" and ");
                writeln!(io::stderr(), "\n*** SKIPPED: network namespaces need {what} ***\n").ok();
                None
            }
            Err(error) => panic!("{error}"),
        }
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
            let place = pods[proxied as usize].place();
            for rule in REDIRECTION {
                place.run(|| command(rule))??;
            }
        }
        Ok(Self { pods, _network: network })
    }
}

/// What istio-cni sets in a pod. The proxy's packets carry the mark 0x539 and are left alone. Where it connects to an
/// application in the name of a foreign address, the answers would leave the pod: the connection gets the mark 0x111, by
/// which they are led back to the proxy.
const REDIRECTION: [&str; 10] = [
    "iptables -w -t mangle -A PREROUTING -m mark --mark 0x539/0xfff -j CONNMARK --set-xmark 0x111/0xfff",
    "iptables -w -t mangle -A OUTPUT -m connmark --mark 0x111/0xfff -j CONNMARK --restore-mark \
     --nfmask 0xffffffff --ctmask 0xffffffff",
    "iptables -w -t nat -A PREROUTING -s 169.254.7.127/32 -p tcp -j ACCEPT",
    "iptables -w -t nat -A PREROUTING ! -d 127.0.0.1/32 -p tcp ! --dport 15008 -m mark ! --mark 0x539/0xfff \
     -j REDIRECT --to-ports 15006",
    "iptables -w -t nat -A OUTPUT -d 169.254.7.127/32 -p tcp -j ACCEPT",
    "iptables -w -t nat -A OUTPUT -p tcp -m mark --mark 0x111/0xfff -j ACCEPT",
    "iptables -w -t nat -A OUTPUT ! -d 127.0.0.1/32 -o lo -j ACCEPT",
    "iptables -w -t nat -A OUTPUT ! -d 127.0.0.1/32 -p tcp -m mark ! --mark 0x539/0xfff \
     -j REDIRECT --to-ports 15001",
    "ip rule add fwmark 0x111/0xfff pref 32764 lookup 100",
    "ip route add local 0.0.0.0/0 dev lo table 100",
];
