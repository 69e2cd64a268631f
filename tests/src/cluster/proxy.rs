//! How the proxy of a Kubernetes node is started: as a pod of Istio's chart is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use demo::node::Proxy;

use crate::world::Variant;

/// How a proxy is started.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The program.
    pub program: PathBuf,
    /// What it may do.
    pub confinement: Confinement,
    /// Data-plane threads.
    pub workers: usize,
    /// How often every tunnel moves to the next worker; `None` is never.
    pub move_interval: Option<Duration>,
    /// Whether it may take the place of another proxy of its node, and another one its.
    pub handover: bool,
    /// More environment variables; they win over those that follow from the rest.
    pub environment: Vec<(String, String)>,
}

/// What a process may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confinement {
    /// What the test may.
    None,
    /// What the chart leaves to the proxy's container: user 0, group 1337, the capabilities `NET_ADMIN`, `SYS_ADMIN` and
    /// `NET_RAW`, and a root file system that cannot be written to, but for the folder of istio-cni's socket.
    Chart,
}

impl Launch {
    /// A start of `program` with two workers and nothing special.
    pub fn of(program: &str) -> Self {
        Self {
            program: program.into(),
            confinement: Confinement::None,
            workers: 2,
            move_interval: None,
            handover: false,
            environment: Vec::new(),
        }
    }

    /// The same with the workers of a variant.
    #[must_use]
    pub fn variant(mut self, variant: Variant) -> Self {
        (self.workers, self.move_interval) = variant.workers();
        self
    }

    /// The same, confined as by the chart.
    #[must_use]
    pub fn confined(mut self) -> Self {
        self.confinement = Confinement::Chart;
        self
    }

    /// The same as one of several that take each other's place.
    #[must_use]
    pub fn replaceable(mut self) -> Self {
        self.handover = true;
        self
    }

    /// The same with one more environment variable.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The command; `writable` is the folder of istio-cni's socket, `resolver` what shall be in place of
    /// `/etc/resolv.conf`.
    pub(super) fn proxy(&self, writable: &Path, resolver: &Path) -> Proxy {
        let script = match self.confinement {
            Confinement::None => UNCONFINED,
            Confinement::Chart => CONFINED,
        };
        let before = ["--mount", "--propagation", "private", "sh", "-ec", script, "sh"];
        let paths = [resolver, writable, &self.program].map(|path| path.display().to_string());
        let arguments = before.map(ToOwned::to_owned).into_iter().chain(paths);
        let arguments = arguments.chain(["proxy", "ztunnel"].map(ToOwned::to_owned));
        Proxy { program: "unshare".into(), arguments: arguments.collect() }
    }
}

/// Each step replaces the process or ends before the next, so that the process that was started is the proxy in the end.
const UNCONFINED: &str = "
mount --bind \"$1\" /etc/resolv.conf
shift 2
exec \"$@\"
";

const CONFINED: &str = "
mount --bind \"$1\" /etc/resolv.conf
mount --bind \"$2\" \"$2\"
mount -o remount,bind,ro /
shift 2
capabilities=-all,+net_admin,+sys_admin,+net_raw
exec setpriv --regid 1337 --clear-groups --inh-caps=-all --bounding-set=$capabilities \"$@\"
";
