//! Two nodes with a proxy each, the first one confined as by Istio's chart.

use std::net::SocketAddr;

use demo::node::Node;
use tests::cluster::{Call, Cluster, KubeNode, Launch, Pod, PodSpec};
use tests::cni::Timing;
use tests::world::{Variant, check};

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

/// A sum of a node's metrics.
pub(crate) fn sum(node: &Node, name: &str, labels: &[(&str, &str)]) -> f64 {
    node.metrics().expect("metrics").sum(name, labels)
}

/// Calls a greeter and has a word with it; the call goes on.
pub(crate) fn talk(from: &Pod, to: SocketAddr) -> Call {
    let mut call = from.call(to).unwrap_or_else(|error| panic!("{} to {to}: {error}", from.name()));
    call.exchange().unwrap_or_else(|error| panic!("{} to {to}: {error}", from.name()));
    call
}
