//! Two nodes with a proxy each, the first one confined as by Istio's chart.

use std::net::SocketAddr;

use demo::node::{Node, READINESS_PORT};
use demo::traffic::{Plan, Server};
use rustix::process::{Pid, Signal, kill_process};
use tests::cluster::{Call, Cluster, KubeNode, Launch, Pod, PodSpec};
use tests::cni::Timing;
use tests::said::dump;
use tests::traffic::{Traffic, all_whole, idle};
use tests::wait;
use tests::world::{Variant, check, identity};

use crate::NODE;

/// The port of applications.
pub(crate) const APPLICATION: u16 = 8_080;
/// The port of applications that check every byte.
pub(crate) const CHECKED: u16 = 8_081;

/// See the module.
pub(crate) struct Scene {
    pub(crate) a: Node,
    pub(crate) b: Node,
    // Last: it has to outlive the processes in it.
    pub(crate) cluster: Cluster,
    variant: Variant,
}

impl Scene {
    /// Makes the pods, then starts the proxies.
    pub(crate) fn new(variant: Variant, specs: &[PodSpec]) -> Option<(Self, Vec<Pod>)> {
        let mut cluster = Cluster::create(Timing::UNLIMITED)?;
        let pods = cluster.pods(specs);
        Some((Self::start(variant, cluster, &launch(variant)), pods))
    }

    /// Starts the proxies, the second one by `second`.
    pub(crate) fn start(variant: Variant, mut cluster: Cluster, second: &Launch) -> Self {
        let a = cluster.proxy(KubeNode::A, &launch(variant).confined());
        let b = cluster.proxy(KubeNode::B, second);
        Self { a, b, cluster, variant }
    }

    /// Waits until there is a certificate for each of these pods: from then on they need no istiod.
    pub(crate) fn certified(&self, pods: &[Pod]) {
        for pod in pods {
            let node = match pod.node() {
                KubeNode::A => &self.a,
                KubeNode::B => &self.b,
            };
            wait::until_blocking(format_args!("{} is certified", pod.name()), || {
                certificate_state(node, &pod.workload().service_account) == Some("Available".to_owned())
            });
        }
    }

    /// What must be true at the end of every test.
    pub(crate) fn check(&self) {
        check(self.variant, &self.a);
        check(self.variant, &self.b);
    }
}

/// How proxies of a variant are started.
pub(crate) fn launch(variant: Variant) -> Launch {
    Launch::of(NODE).variant(variant)
}

/// Pods `a-0`, `a-1`, … on the first node, `b-0`, … on the other.
pub(crate) fn specs(on_a: usize, on_b: usize) -> Vec<PodSpec> {
    let on = |node, letter, count| (0..count).map(move |i| PodSpec::new(&format!("{letter}-{i}"), node));
    on(KubeNode::A, "a", on_a).chain(on(KubeNode::B, "b", on_b)).collect()
}

/// Whether a node says that it is ready.
pub(crate) fn is_ready(node: &Node) -> bool {
    node.page(READINESS_PORT, "/healthz/ready").expect("a page").status == 200
}

/// A sum of a node's metrics.
pub(crate) fn sum(node: &Node, name: &str, labels: &[(&str, &str)]) -> f64 {
    node.metrics().expect("metrics").sum(name, labels)
}

/// What the dump says of the certificate of a service account.
pub(crate) fn certificate_state(node: &Node, account: &str) -> Option<String> {
    let dump = dump(node);
    let all = dump["certificates"].as_array().expect("a list");
    let entry = all.iter().find(|entry| entry["identity"] == identity(account))?;
    Some(entry["state"].as_str().expect("a text").to_owned())
}

/// Sends a signal to a node's process.
pub(crate) fn send(signal: Signal, node: &Node) {
    let id = i32::try_from(node.id()).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(id, signal).expect("the process runs");
}

/// Calls a greeter and has a word with it; the call goes on.
pub(crate) fn talk(from: &Pod, to: SocketAddr) -> Call {
    let mut call = from.call(to).unwrap_or_else(|error| panic!("{} to {to}: {error}", from.name()));
    call.exchange().unwrap_or_else(|error| panic!("{} to {to}: {error}", from.name()));
    call
}

/// Long-lived conversations between pods, which have no end but their own.
pub(crate) struct Conversations {
    traffic: Vec<Traffic>,
    servers: Vec<Server>,
}

impl Conversations {
    /// Each pod talks to the next one, the last to the first, by both address families in turn; the first has most to say.
    pub(crate) fn round(pods: &[Pod]) -> Self {
        let servers = pods.iter().map(|pod| pod.serve(CHECKED)).collect();
        let nexts = pods.iter().cycle().skip(1);
        let traffic = pods.iter().zip(nexts).enumerate().map(|(number, (pod, next))| {
            let plan = Plan { bulk: usize::from(number == 0), ..idle(3) };
            pod.converse(vec![next.at(CHECKED), next.at_v6(CHECKED)], plan)
        });
        Self { traffic: traffic.collect(), servers }
    }

    /// Waits until every one has got somewhere; none has failed or was begun anew.
    pub(crate) async fn go_on(&self) {
        for traffic in &self.traffic {
            traffic.progress().await;
        }
        let opened: u64 = self.traffic.iter().map(|traffic| traffic.counts().opened).sum();
        assert_eq!(opened, 3 * self.traffic.len() as u64 + 1, "a conversation was begun anew");
    }

    /// Ends them; every byte was right.
    pub(crate) async fn finish(self) {
        for traffic in self.traffic {
            traffic.finish();
        }
        for server in &self.servers {
            all_whole(server.tally()).await;
        }
    }
}
