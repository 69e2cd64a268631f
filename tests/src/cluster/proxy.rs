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
    /// The same, with processes of its own: it is number 1 of them, and sees no others. What is started is its container
    /// runtime, which passes SIGTERM on and ends as the proxy does; see [`innermost`](crate::process::innermost).
    Container,
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

    /// The same in a container.
    #[must_use]
    pub fn contained(mut self) -> Self {
        self.confinement = Confinement::Container;
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
        let before: &[&str] = match self.confinement {
            Confinement::None => &["unshare", "--mount", "--propagation", "private", "sh", "-ec", UNCONFINED],
            Confinement::Chart => &["unshare", "--mount", "--propagation", "private", "sh", "-ec", CONFINED],
            Confinement::Container => &["sh", "-c", CONTAINER, CONFINED],
        };
        let (program, before) = before.split_first().expect("none of them is empty");
        // What a shell calls itself comes before its arguments.
        let before = before.iter().copied().chain(["sh"]).map(ToOwned::to_owned);
        let paths = [resolver, writable, &self.program].map(|path| path.display().to_string());
        let arguments = before.chain(paths).chain(["proxy", "ztunnel"].map(ToOwned::to_owned));
        Proxy { program: program.into(), arguments: arguments.collect() }
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

/// The confining script, as it calls itself; the rest is for that. The shell stays, since a process can't enter another
/// numbering of processes by itself. Its standard input would be taken from what it does in the background.
const CONTAINER: &str = r#"
exec 3<&0
unshare --mount --propagation private --pid --fork --kill-child --mount-proc sh -ec "$0" "$@" <&3 3<&- &
runtime=$!
trap 'kill -TERM $(cat /proc/$runtime/task/$runtime/children)' TERM
until wait $runtime; status=$?; ! kill -0 $runtime 2>/dev/null; do :; done
exit $status
"#;
