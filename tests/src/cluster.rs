//! A Kubernetes cluster in small: two nodes with pods on them, each a network namespace as istio-cni makes it, with an
//! istio-cni for each node and an istiod for both. Proxies are started by the tests, one for all pods of a node.
//!
//! ```text
//!            ┌ node A ────────────────────────────┐   ┌ node B ────────────────┐
//!            │  pod   pod   pod     proxy ◄─zds─ cni │   │  pod   pod   proxy ◄─ cni │
//!            └───┬─────┬─────┬────────┬───────────┘   └───┬─────┬─────┬────────┘
//!   istiod ──────┴─────┴─────┴────────┴── the switch ─────┴─────┴─────┘
//! ```
//!
//! Everything is named by the process and a count, and removed on drop. Calls block; they are for threads of tests.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use demo::istiod::Istiod;
use demo::mesh::{Mesh, Protocol, Service, Workload};
use demo::netns::NetnsError;
use demo::node::{Control, Node, NodeConfig, OwnPod, Serves};
use demo::place::Place;
use tempfile::TempDir;

use crate::cni::message::WorkloadInfo;
use crate::cni::{Cni, Timing, UpdateError};
use crate::redirection::{self, PROBE_V4, PROBE_V6};
use crate::skipped::unless_missing;
use crate::wait::PATIENCE;

mod call;
pub mod dns;
mod network;
mod pod;
mod proxy;

pub use call::{Call, Greeter};
use dns::NameServer;
pub use network::Cable;
use network::{Connected, Network, on_all};
pub use pod::{NAME_SERVER, Pod, PodSpec};
pub use proxy::{Confinement, Launch};

/// A Kubernetes node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KubeNode {
    /// One.
    A,
    /// The other.
    B,
}

impl KubeNode {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "node-a",
            Self::B => "node-b",
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Cluster {
    cni: [Cni; 2],
    istiod: Istiod,
    istiod_address: SocketAddr,
    name_server: NameServer,
    /// Pods by uid.
    pods: BTreeMap<String, Connected>,
    /// Where proxies live or have lived.
    proxies: Vec<Connected>,
    mesh: Mesh,
    pods_made: u32,
    directory: TempDir,
    istiod_place: Connected,
    network: Network,
}

impl Cluster {
    /// An empty cluster, with an istiod and an istio-cni on each node. `None` if this machine does not allow it, which is
    /// said.
    ///
    /// # Panics
    /// A command fails; or in CI (`CI=true`), where nothing may be left out, something is missing.
    pub fn create(timing: Timing) -> Option<Self> {
        unless_missing(Self::try_create(timing))
    }

    fn try_create(timing: Timing) -> Result<Self, NetnsError> {
        let mut network = Network::create()?;
        let istiod_place = network.connect(&["istiod"])?.remove(0);
        let directory = tempfile::tempdir().expect("a directory");
        let outside = SocketAddr::new(istiod_place.v4(), dns::PORT);
        let name_server = NameServer::start(&istiod_place.place(), outside).expect("the name server listens");
        fs::write(directory.path().join(RESOLVER), format!("nameserver {}\n", outside.ip())).expect("a file");
        let istiod_address = SocketAddr::new(istiod_place.v4(), ISTIOD_PORT);
        let spot = (istiod_place.place(), istiod_address);
        let mesh = Mesh::default();
        let istiod = Istiod::start(directory.path(), vec![spot], &mesh).expect("istiod listens");
        let account = proxy_workload(KubeNode::A, "ztunnel", istiod_place.v4()).identity();
        istiod.authority().trust_node_account(&account.parse().expect("an identity"));
        let cni = [KubeNode::A, KubeNode::B].map(|node| {
            let folder = directory.path().join(node.name());
            fs::create_dir(&folder).expect("a directory");
            Cni::start(folder.join("ztunnel.sock"), timing).expect("it listens")
        });
        Ok(Self {
            cni,
            istiod,
            istiod_address,
            name_server,
            pods: BTreeMap::new(),
            proxies: Vec::new(),
            mesh,
            pods_made: 0,
            directory,
            istiod_place,
            network,
        })
    }

    /// Adds a service with virtual addresses of both families; its ports, each with that of its pods. istiod tells of it.
    pub fn service(&mut self, name: &str, ports: &[(u16, u16)]) -> Service {
        let number = u16::try_from(self.mesh.services.len() + 1).expect("not so many services");
        let [a, b] = (number + FIRST_SERVICE).to_be_bytes();
        let v6 = Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, number);
        self.any_service(name, vec![Ipv4Addr::new(10, 96, a, b).into(), v6.into()], ports)
    }

    /// Adds a service without addresses. istiod tells of it.
    pub fn headless_service(&mut self, name: &str, ports: &[(u16, u16)]) -> Service {
        self.any_service(name, Vec::new(), ports)
    }

    fn any_service(&mut self, name: &str, addresses: Vec<IpAddr>, ports: &[(u16, u16)]) -> Service {
        let (namespace, ports) = (demo::mesh::NAMESPACE.to_owned(), ports.iter().copied().collect());
        let service = Service { name: name.to_owned(), namespace, addresses, ports };
        self.mesh.services.push(service.clone());
        self.publish();
        service
    }

    /// Adds a policy: an item of the mesh file's `policies`, in JSON. istiod tells of it.
    pub fn add_policy(&mut self, policy: &str) {
        self.mesh.policies.push(policy.to_owned());
        self.publish();
    }

    /// Makes pods that were there before the proxies: istio-cni knows them and istiod tells of them, but nobody hears of
    /// them by an update.
    ///
    /// # Panics
    /// A command fails.
    pub fn pods(&mut self, specs: &[PodSpec]) -> Vec<Pod> {
        let pods = self.make(specs);
        for pod in pods.iter().filter(|pod| pod.is_enrolled()) {
            self.cni(pod.node()).know(pod.uid(), pod.info(), pod.namespace());
        }
        self.tell(&pods);
        pods
    }

    /// Starts a pod as a kubelet does: network, redirection, the proxy's consent, and only then does istiod tell of it.
    ///
    /// # Errors
    /// What the proxy says. The pod is there, and istio-cni knows it; istiod doesn't.
    ///
    /// # Panics
    /// A command fails.
    pub fn start_pod(&mut self, spec: PodSpec) -> (Pod, Result<(), UpdateError>) {
        let pod = self.make(&[spec]).remove(0);
        let consent = if pod.is_enrolled() {
            self.cni(pod.node()).add(pod.uid(), pod.info(), pod.namespace())
        } else {
            Ok(())
        };
        if consent.is_ok() {
            self.tell(std::slice::from_ref(&pod));
        }
        (pod, consent)
    }

    /// The namespaces of pods, with their redirection.
    fn make(&mut self, specs: &[PodSpec]) -> Vec<Pod> {
        let names: Vec<&str> = specs.iter().map(PodSpec::name).collect();
        let connected = self.network.connect(&names).expect("pods with a network");
        let mut pods = Vec::new();
        for (spec, place) in specs.iter().zip(connected) {
            self.pods_made += 1;
            // Shaped as Kubernetes' uids are.
            let uid = format!("{:08x}-0000-4000-8000-{:012x}", std::process::id(), self.pods_made);
            pods.push(Pod::new(uid.clone(), spec, &place));
            self.pods.insert(uid, place);
        }
        let enrolled: Vec<&Pod> = pods.iter().filter(|pod| pod.is_enrolled()).collect();
        on_all(&enrolled, |pod| redirection::install(pod.place())).expect("pods with a redirection");
        pods
    }

    /// istiod tells of pods from now on.
    fn tell(&mut self, pods: &[Pod]) {
        self.mesh.workloads.extend(pods.iter().map(|pod| pod.workload().clone()));
        self.publish();
    }

    fn publish(&self) {
        self.istiod.cluster().replace(&xds::local::load(&self.mesh.to_string()).expect("a mesh"));
    }

    /// Ends a pod as a kubelet does: istiod tells of it no more, its proxies are told, its network goes.
    ///
    /// # Panics
    /// There is no such pod, or a proxy does not answer.
    pub fn end_pod(&mut self, pod: &Pod) {
        self.mesh.workloads.retain(|workload| !pod.is(workload));
        self.publish();
        if pod.is_enrolled() {
            self.cni(pod.node()).delete(pod.uid()).expect("proxies answer");
        }
        let place = self.pods.remove(pod.uid()).expect("the pod is there");
        self.network.disconnect(place).expect("its network goes");
    }

    /// Forgets a pod that no proxy serves any more, and leaves its network to the kernel: the pod's cable is there until
    /// nobody holds the namespace. istiod tells of it no more.
    ///
    /// # Panics
    /// There is no such pod.
    pub fn let_go(&mut self, pod: &Pod) -> Cable {
        self.mesh.workloads.retain(|workload| !pod.is(workload));
        self.publish();
        self.network.let_go(self.pods.remove(pod.uid()).expect("the pod is there"))
    }

    /// Takes a running pod out of the mesh as istio-cni does: first the redirection goes, then the proxies are told. istiod
    /// tells of a workload outside of the mesh.
    ///
    /// # Panics
    /// A command fails, or a proxy does not answer.
    pub fn unenrol(&mut self, pod: &Pod) {
        redirection::remove(pod.place()).expect("the redirection goes");
        self.cni(pod.node()).delete(pod.uid()).expect("proxies answer");
        for workload in self.mesh.workloads.iter_mut().filter(|workload| pod.is(workload)) {
            workload.protocol = Protocol::Plain;
        }
        self.publish();
    }

    /// The istio-cni of a node.
    pub fn cni(&self, node: KubeNode) -> &Cni {
        &self.cni[node as usize]
    }

    /// The istio-cni of a node, to stop it and to start it again.
    pub fn cni_mut(&mut self, node: KubeNode) -> &mut Cni {
        &mut self.cni[node as usize]
    }

    /// The istiod, with one replica.
    pub fn istiod(&self) -> &Istiod {
        &self.istiod
    }

    /// The istiod, to stop it and to start it again.
    pub fn istiod_mut(&mut self) -> &mut Istiod {
        &mut self.istiod
    }

    /// The name server that proxies ask about what the mesh does not know.
    pub fn name_server(&self) -> &NameServer {
        &self.name_server
    }

    /// Where it is.
    pub fn name_server_address(&self) -> SocketAddr {
        SocketAddr::new(self.istiod_address.ip(), dns::PORT)
    }

    /// The names of all network namespaces that it has made and not yet removed.
    pub fn namespaces(&self) -> Vec<&str> {
        let connected = self.pods.values().chain(&self.proxies).chain([&self.istiod_place]);
        connected.map(Connected::name).chain([self.network.name()]).collect()
    }

    /// Where files of the test may go.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Starts a proxy on a node, in a pod of its own, and does not wait for it. There can be several on one node. istiod tells
    /// of each as a workload of the mesh.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn launch(&mut self, node: KubeNode, launch: &Launch) -> Node {
        let name = format!("ztunnel-{}", self.proxies.len() + 1);
        let place = self.network.connect(&[&name]).expect("a pod for the proxy").remove(0);
        let account = proxy_workload(node, &name, place.v4());
        self.mesh.workloads.push(Workload { protocol: Protocol::Hbone, ..account.clone() });
        self.publish();
        let socket = self.cni(node).path().to_owned();
        let authority = self.istiod.authority();
        let folder = socket.parent().expect("a socket in a folder").to_owned();
        let config = NodeConfig {
            name: format!("{}-{name}", node.name()),
            serves: Serves::Node {
                node: node.name().to_owned(),
                socket,
                own_pod: OwnPod {
                    name,
                    namespace: account.namespace.clone(),
                    service_account: account.service_account.clone(),
                    address: place.v4(),
                },
            },
            // As istiod would say, also while it is away.
            control: Control::ControlPlane {
                address: format!("https://{}", self.istiod_address),
                root: authority.root_file(),
                token: authority.token(&account.identity().parse().expect("an identity")).expect("a token"),
            },
            place: place.place(),
            workers: launch.workers,
            move_interval: launch.move_interval,
            // Beside istio-cni's socket: the one folder that a proxy of the chart may write to.
            handover: launch.handover.then(|| folder.join("handover").join("handover.sock")),
            environment: launch.environment.clone(),
            directory: self.directory.path().to_owned(),
        };
        self.proxies.push(place);
        Node::start(&launch.proxy(&folder, &self.directory.path().join(RESOLVER)), &config)
            .expect("the proxy starts")
    }

    /// As [`Cluster::launch`], and waits until it is ready.
    ///
    /// # Panics
    /// It does not become ready.
    pub fn proxy(&mut self, node: KubeNode, launch: &Launch) -> Node {
        let mut proxy = self.launch(node, launch);
        if let Err(error) = proxy.wait_ready(PATIENCE) {
            panic!("{error}");
        }
        proxy
    }

    /// The addresses of the pods in which proxies were started, the latest last.
    pub fn proxy_addresses(&self) -> Vec<IpAddr> {
        self.proxies.iter().map(Connected::v4).collect()
    }

    /// Calls a pod as the kubelet's probes do.
    ///
    /// # Errors
    /// As [`Call::open`].
    pub fn probe(&self, target: SocketAddr) -> io::Result<Call> {
        let source: IpAddr = if target.is_ipv4() { PROBE_V4.into() } else { PROBE_V6.into() };
        Call::open(&self.network.host(), Some(source), target)
    }

    /// Where the kubelet is, and whatever else a node has beside its pods.
    pub fn host(&self) -> Place {
        self.network.host()
    }
}

impl Drop for Cluster {
    /// The logs of a failed test stay.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.directory.disable_cleanup(true);
            eprintln!("the proxies' logs are in {}", self.directory.path().display());
        }
    }
}

/// What a proxy proves itself to be.
fn proxy_workload(node: KubeNode, name: &str, address: IpAddr) -> Workload {
    Workload {
        namespace: "istio-system".to_owned(),
        service_account: "ztunnel".to_owned(),
        ..Workload::new(name, node.name(), address).plain()
    }
}

/// Smaller numbers are left to [`NAME_SERVER`].
const FIRST_SERVICE: u16 = 0x100;

const ISTIOD_PORT: u16 = 15_012;
/// The file that is a proxy's `/etc/resolv.conf`.
const RESOLVER: &str = "resolv.conf";
