//! What the test tiers share: worlds of real proxy processes, peers that are not ours, and traffic that checks itself.
//!
//! - [`world`]: addresses, certificates and mesh of one test, and the nodes in it;
//! - [`istiod`]: a control plane for a world, from `demo`, and nodes that learn from it;
//! - [`stock`]: the other side of a tunnel as Istio's proxy makes it, from `h2` and `rustls`, and a scripted one for faults;
//! - [`traffic`]: conversations through the world, every byte checked (the applications are those of `demo`);
//! - [`longlived`]: connections that shall live through everything, and fresh ones all the time;
//! - [`said`]: what a node says of itself: log and dump;
//! - [`relay`]: TCP connections that can be cut;
//! - [`process`]: what a process costs: memory, processor time, descriptors;
//! - [`host`]: the data plane as a library, in the test's own process;
//! - [`mover`]: two processes that pass their tunnels to one another;
//! - [`cluster`]: two Kubernetes nodes of network namespaces, their pods and proxies;
//! - [`cni`]: an istio-cni in miniature: the server of ZDS, and a proxy by script;
//! - [`daemonset`]: the DaemonSet controller and the kubelet in miniature, over real processes;
//! - [`flood`]: what one pod can do to its node's proxy; [`latency`]: how soon another one is answered meanwhile;
//! - [`pods`]: three network namespaces, for proxies that serve one workload;
//! - [`redirection`]: what istio-cni sets in a pod;
//! - [`skipped`]: what a machine does not allow;
//! - [`wait`]: waiting for something to become true, with a limit.
//!
//! The tiers are in `tests/`. Nothing here sleeps to synchronise: all waiting is for a condition.

pub mod certificates;
pub mod cluster;
pub mod cni;
pub mod daemonset;
pub mod flood;
pub mod host;
pub mod istiod;
pub mod latency;
pub mod longlived;
pub mod mover;
pub mod pods;
pub mod process;
pub mod redirection;
pub mod relay;
pub mod said;
pub mod skipped;
pub mod stock;
pub mod traffic;
pub mod wait;
pub mod world;
