//! What the pods of a node cost its proxy: a real proxy process, and a node in small of network namespaces.
//!
//! ```text
//!   istio-cni ══ Add, Delete ══► proxy ◄── one namespace for each pod, all on one switch
//!                                  ▲
//!   istiod ════════════════════════╝
//! ```

use std::cell::Cell;
use std::io;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use demo::node::Node;
use tests::cluster::{Cluster, Greeter, KubeNode, Launch, Pod, PodSpec};
use tests::cni::Timing;

use crate::error::{LoadError, during};

mod admission;
mod alternating;
mod cost;
mod flooded;

/// How it is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The proxy program.
    pub program: PathBuf,
    /// Its data-plane threads.
    pub workers: usize,
    /// Pods of the node.
    pub pods: usize,
    /// How often what has a spread is measured.
    pub rounds: usize,
    /// How long each time.
    pub duration: Duration,
    /// How long the proxy rests before its memory is read: the allocator gives pages back after 10 s.
    pub rest: Duration,
}

/// A node and its pods. No proxy knows of them yet.
#[derive(Debug)]
pub struct Landscape {
    setting: Setting,
    pods: Vec<Pod>,
    /// In the mesh, on the same node.
    peer: Pod,
    /// Without a proxy.
    outside: Pod,
    _greeters: [Greeter; 2],
    /// Pods that were added so far: no uid comes again.
    added: Cell<usize>,
    /// Services that came so far.
    changes: usize,
    cluster: Cluster,
}

/// A pod that a proxy serves, by the uid that it has this time.
type Served = String;

impl Landscape {
    /// Makes everything.
    ///
    /// # Errors
    /// It needs root, iproute2, iptables and unshare.
    ///
    /// # Panics
    /// A command fails.
    pub fn create(setting: Setting) -> Result<Self, LoadError> {
        let mut cluster = Cluster::create(TIMING).ok_or(LoadError::NoNamespaces)?;
        let specs: Vec<PodSpec> =
            (0..setting.pods).map(|number| PodSpec::new(&format!("pod-{number}"), KubeNode::A)).collect();
        let mut pods = cluster.pods(&specs);
        pods.extend(cluster.pods(&[PodSpec::new("peer", KubeNode::A)]));
        for pod in &pods {
            // There is no proxy that could refuse.
            cluster.cni(KubeNode::A).delete(pod.uid()).ok();
        }
        let outside = cluster.pods(&[PodSpec::new("outside", KubeNode::B).plain()]).remove(0);
        let peer = pods.remove(setting.pods);
        let greeters = [peer.greet(APPLICATION), outside.greet(APPLICATION)];
        let (added, changes) = (Cell::new(0), 0);
        Ok(Self { setting, pods, peer, outside, _greeters: greeters, added, changes, cluster })
    }

    fn proxy(&mut self) -> Result<Node, LoadError> {
        let launch = Launch {
            workers: self.setting.workers,
            ..Launch::of(&self.setting.program.display().to_string()).with("RUST_LOG", "error")
        };
        let mut proxy = self.cluster.launch(KubeNode::A, &launch);
        proxy.wait_ready(PATIENCE)?;
        Ok(proxy)
    }

    /// Has a pod served: its uid, and the time from the word until the answer.
    fn add(&self, pod: &Pod) -> Result<(Served, Duration), LoadError> {
        self.added.set(self.added.get() + 1);
        let uid = format!("{}-{}", pod.uid(), self.added.get());
        let begun = Instant::now();
        let answer = self.cluster.cni(KubeNode::A).add(&uid, pod.info(), pod.namespace());
        answer.map_err(|error| during("a pod cannot be added")(io::Error::other(error)))?;
        Ok((uid, begun.elapsed()))
    }

    fn add_all(&self, pods: &[Pod]) -> Result<(Vec<Served>, Vec<Duration>), LoadError> {
        pods.iter().map(|pod| self.add(pod)).collect()
    }

    /// Has a pod served no more: the time from the word until the answer.
    fn remove(&self, uid: &str) -> Result<Duration, LoadError> {
        let begun = Instant::now();
        let failed = |errors| during("a pod cannot be removed")(io::Error::other(format!("{errors:?}")));
        self.cluster.cni(KubeNode::A).delete(uid).map_err(failed)?;
        Ok(begun.elapsed())
    }

    fn remove_all(&self, served: &[Served]) -> Result<Vec<Duration>, LoadError> {
        served.iter().map(|uid| self.remove(uid)).collect()
    }

    /// Ends a proxy, and waits until istio-cni has noticed: it would ask it, too.
    fn stop(&self, proxy: Node) -> Result<(), LoadError> {
        proxy.stop(TIMING.deadline)?;
        while !self.cluster.cni(KubeNode::A).connections().is_empty() {
            thread::sleep(TIMING.keepalive);
        }
        Ok(())
    }

    fn rest(&self) {
        thread::sleep(self.setting.rest);
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

const APPLICATION: u16 = 8_080;
/// It looks often whether a proxy is still there.
const TIMING: Timing = Timing { keepalive: Duration::from_millis(200), ..Timing::UNLIMITED };
const PATIENCE: Duration = Duration::from_secs(60);
