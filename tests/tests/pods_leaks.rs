//! Of pods that have gone nothing is left in the proxy, however many they were and whatever went on in them.
//!
//! A thousand pods come and go in 54 network namespaces, each with something going on when it goes ([`Doing`]), all served
//! by one proxy beside a pod that stays. `PODS_LONG=true` makes it ten thousand.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use demo::node::{ADMIN_PORT, Node, TUNNEL_PORT};
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tests::cluster::{Call, Cluster, Greeter, KubeNode, Launch, Pod, PodSpec};
use tests::cni::message::WorkloadInfo;
use tests::cni::{Timing, UpdateError};
use tests::process::{descriptors, namespaces_of_threads, resident};
use tests::wait::{PATIENCE, until_blocking};
use tests::world::Variant;

mod nothing_is_left_of_pods_that_have_gone {
    use super::Variant;

    #[test]
    fn still() {
        super::nothing_is_left(Variant::Still);
    }

    #[test]
    fn moving() {
        super::nothing_is_left(Variant::Moving);
    }
}

/// The kernel has one table of neighbours (1,024 in most installations) for all namespaces: twice as many pods as these
/// fill it, and connections between them hang.
static ALONE: Mutex<()> = Mutex::new(());

fn nothing_is_left(variant: Variant) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(mut cluster) = Cluster::create(Timing::UNLIMITED) else { return };
    let neighbours = Neighbours::start(&mut cluster);
    let pods = namespaces(&mut cluster);
    let proxy = cluster.proxy(KubeNode::A, &launch(variant));
    let scene = Scene { cluster: &cluster, proxy: &proxy, neighbours: &neighbours, pods: &pods };

    // What is made once, and kept, is made now.
    scene.come_and_go(0);
    scene.rest(1);
    let before = descriptors(proxy.id());
    let rounds = if std::env::var("PODS_LONG").is_ok() { 10 * ROUNDS } else { ROUNDS };
    (1..=rounds / 2).for_each(|round| scene.come_and_go(round));
    scene.rest(1);
    let half = memory_at_rest(proxy.id());
    (rounds / 2 + 1..=rounds).for_each(|round| scene.come_and_go(round));
    scene.rest(1);
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE && descriptors(proxy.id()) != before {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(descriptors(proxy.id()), before, "other descriptors than before");
    let mut grown = 0;
    until_blocking(format_args!("memory grows by less than {} KiB", GROWTH >> 10), || {
        grown = resident(proxy.id()).saturating_sub(half);
        grown < GROWTH
    });
    let moved = proxy.metrics().expect("metrics").sum("ztunnel_tunnel_moves_total", &[]);
    assert_eq!(moved > 0.0, variant == Variant::Moving, "{moved} moves");
    println!("memory: {} KiB, and {} KiB more after as many pods again", half >> 10, grown >> 10);
    // The proxy's own stays, too.
    until_blocking("keys of those that are gone are forgotten", || scene.certified() == ["peer", "ztunnel"]);

    // With the last pod, the last foreign namespace is left.
    cluster.cni(KubeNode::A).delete(neighbours.peer.uid()).expect("the proxy answers");
    scene.rest(0);
    let home = format!("net:[{}]", inode(&format!("/proc/{}/ns/net", proxy.id())));
    let threads = namespaces_of_threads(proxy.id());
    assert_eq!(
        threads.keys().collect::<Vec<_>>(),
        [&home],
        "a thread is in a foreign namespace: {threads:?}"
    );
    let held = descriptors(proxy.id());
    let held: Vec<&String> = held.keys().filter(|kind| kind.starts_with("net:[")).collect();
    assert!(held.iter().all(|namespace| **namespace == home), "a foreign namespace is held: {held:?}");

    let cables: Vec<_> = pods.iter().map(|pod| cluster.let_go(pod)).collect();
    drop(pods);
    let there = || cables.iter().filter(|cable| cable.is_there()).count();
    until_blocking("the kernel has no namespace of theirs any more", || there() == 0);
}

/// The namespaces in which pods come and go.
fn namespaces(cluster: &mut Cluster) -> Vec<Pod> {
    let specs: Vec<_> = (0..PODS).map(|number| PodSpec::new(&format!("pod-{number}"), KubeNode::A)).collect();
    let pods = cluster.pods(&specs);
    for pod in &pods {
        cluster.cni(KubeNode::A).delete(pod.uid()).expect("no proxy is asked");
    }
    pods
}

fn launch(variant: Variant) -> Launch {
    // The allocator gives pages back at once, so that no test has to wait for that.
    let launch = Launch::of(env!("CARGO_BIN_EXE_node"))
        .with("_RJEM_MALLOC_CONF", "dirty_decay_ms:100,muzzy_decay_ms:0")
        .with("RUST_LOG", "warn");
    let move_interval = (variant == Variant::Moving).then(|| Duration::from_millis(5));
    Launch { move_interval, ..launch }
}

/// Whom the pods deal with.
struct Neighbours {
    /// On the same node, in the mesh.
    peer: Pod,
    /// Outside of the mesh.
    plain: Pod,
    /// In the mesh, but its node's proxy says nothing.
    silent: Pod,
    /// Accepts what it is told nothing of.
    tunnels: TcpListener,
    _greeters: [Greeter; 2],
    /// There is no room for another connection.
    _full: [Socket; 2],
}

impl Neighbours {
    fn start(cluster: &mut Cluster) -> Self {
        let [peer, plain, silent] = <[Pod; 3]>::try_from(cluster.pods(&[
            PodSpec::new("peer", KubeNode::A),
            PodSpec::new("plain", KubeNode::B).plain(),
            PodSpec::new("silent", KubeNode::B),
        ]))
        .expect("three pods");
        let greeters = [peer.greet(APPLICATION), plain.greet(APPLICATION)];
        let tunnels = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, TUNNEL_PORT)).expect("a free port");
        let tunnels = silent.place().run(tunnels).expect("the namespace is there");
        tunnels.set_nonblocking(true).expect("a socket option");
        let full = plain.place().run(|| full(plain.at(FULL))).expect("the namespace is there");
        let full = full.expect("a connection");
        Self { peer, plain, silent, tunnels, _greeters: greeters, _full: full }
    }
}

/// A listener, and the one connection that it has room for.
fn full(address: SocketAddr) -> io::Result<[Socket; 2]> {
    let (listener, visitor) = (socket()?, socket()?);
    listener.bind(&address.into())?;
    listener.listen(0)?;
    visitor.connect(&address.into())?;
    Ok([listener, visitor])
}

fn socket() -> io::Result<Socket> {
    Socket::new(Domain::IPV4, Type::STREAM, None)
}

/// What goes on in a pod when it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    /// A tunnel's client side.
    Tunnelling,
    /// A tunnel's server side.
    Tunnelled,
    /// A plain connection to somebody outside of the mesh.
    PlainOut,
    /// A plain connection from there.
    PlainIn,
    /// A plain connection is under way.
    Connecting,
    /// Half a TLS handshake came.
    Handshaking,
    /// Half a TLS handshake went.
    Dialling,
    /// Nobody knows which workload it is.
    Waiting,
    /// Connections begin at the very moment.
    Beginning,
    /// It could not be served.
    Refused,
}

impl Doing {
    const ALL: [Self; 10] = [
        Self::Tunnelling,
        Self::Tunnelled,
        Self::PlainOut,
        Self::PlainIn,
        Self::Connecting,
        Self::Handshaking,
        Self::Dialling,
        Self::Waiting,
        Self::Beginning,
        Self::Refused,
    ];
}

/// Connections of a pod, and its applications.
#[derive(Default)]
struct Held {
    calls: Vec<Call>,
    sockets: Vec<TcpStream>,
    _greeter: Option<Greeter>,
}

impl Held {
    /// The addresses that connections come from which are not relayed yet.
    fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.sockets.iter().map(|socket| socket.local_addr().expect("an open socket"))
    }

    /// Every connection has ended, or does as soon as the kernel has passed it on: not only when its own time is up.
    fn ended(self) {
        for call in self.calls {
            call.ended();
        }
        for mut socket in self.sockets {
            socket.set_nonblocking(false).expect("a socket option");
            socket.set_read_timeout(Some(SOON)).expect("a socket option");
            match socket.read_to_end(&mut Vec::new()) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("a connection goes on"),
                // However it ended.
                Ok(_) | Err(_) => {}
            }
        }
    }
}

struct Scene<'c> {
    cluster: &'c Cluster,
    proxy: &'c Node,
    neighbours: &'c Neighbours,
    pods: &'c [Pod],
}

impl Scene<'_> {
    /// All pods come, do something, and go.
    fn come_and_go(&self, round: usize) {
        let cni = self.cluster.cni(KubeNode::A);
        let does = |number: usize| Doing::ALL[(number + round) % Doing::ALL.len()];
        // No uid ever comes again.
        let uid = |pod: &Pod| format!("{}-{round}", pod.uid());
        let mut blockers = Vec::new();
        for (number, pod) in self.pods.iter().enumerate() {
            let doing = does(number);
            if doing == Doing::Refused {
                let blocker = Greeter::start(pod.place(), "blocker", TUNNEL_PORT);
                blockers.push(blocker.expect("a free port"));
            }
            let info = match doing {
                Doing::Waiting => WorkloadInfo { name: "nobody".to_owned(), ..pod.info() },
                _ => pod.info(),
            };
            match (cni.add(&uid(pod), info, pod.namespace()), doing) {
                (Err(UpdateError::Refused(_)), Doing::Refused) => {}
                (Ok(()), _) if doing != Doing::Refused => {}
                (consent, _) => panic!("{doing:?}: {consent:?}"),
            }
        }
        let numbered: Vec<(usize, &Pod)> = self.pods.iter().enumerate().collect();
        // Some connections wait for seconds only, and on a slow machine it takes seconds until all have begun.
        let mut seen = BTreeSet::new();
        let held: Vec<Held> = std::thread::scope(|scope| {
            let part = |part: &[(usize, &Pod)]| -> Vec<Held> {
                part.iter().map(|(number, pod)| self.begin(does(*number), pod)).collect()
            };
            let threads: Vec<_> = numbered
                .chunks(PODS.div_ceil(THREADS))
                .map(|chunk| scope.spawn(move || part(chunk)))
                .collect();
            while threads.iter().any(|thread| !thread.is_finished()) {
                seen.extend(self.connections());
                std::thread::sleep(Duration::from_millis(100));
            }
            threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
        });
        let begun = Instant::now();
        let stranger = self.neighbours.plain.at(APPLICATION).ip();
        let missing = loop {
            seen.extend(self.connections());
            // What leaves a pod is redirected, for which the kernel gives it another port if it remembers an earlier connection of
            // the same one. Each pod does one thing.
            let came = |address: SocketAddr| {
                let same_pod = |seen: &SocketAddr| seen.ip() == address.ip() && address.ip() != stranger;
                seen.contains(&address) || seen.iter().any(same_pod)
            };
            let missing: Vec<_> = (0..).zip(&held).filter(|(_, held)| !held.addresses().all(came)).collect();
            if missing.is_empty() || begun.elapsed() > PATIENCE {
                break missing.iter().map(|(number, _)| does(*number)).collect::<Vec<_>>();
            }
        };
        assert!(missing.is_empty(), "the proxy has never had a connection of those that are {missing:?}");
        let beginning: Vec<Held> = numbered
            .iter()
            .filter(|(number, _)| does(*number) == Doing::Beginning)
            .map(|(_, pod)| self.connections_begin(pod))
            .collect();
        for pod in self.pods {
            cni.delete(&uid(pod)).expect("the proxy answers");
        }
        held.into_iter().chain(beginning).for_each(Held::ended);
        while self.neighbours.tunnels.accept().is_ok() {}
    }

    fn begin(&self, doing: Doing, pod: &Pod) -> Held {
        let Neighbours { peer, plain, silent, .. } = self.neighbours;
        let called = |call: io::Result<Call>| {
            let mut call = call.unwrap_or_else(|error| panic!("{doing:?}: {error}"));
            call.exchange().expect("an answer");
            vec![call]
        };
        let opened = |by: &Pod, to| {
            let opened = by.place().run(|| TcpStream::connect(to)).expect("the namespace is there");
            opened.unwrap_or_else(|error| panic!("{doing:?}: {error}"))
        };
        match doing {
            Doing::Tunnelling => Held { calls: called(pod.call(peer.at(APPLICATION))), ..Held::default() },
            Doing::PlainOut => Held { calls: called(pod.call(plain.at(APPLICATION))), ..Held::default() },
            Doing::Tunnelled | Doing::PlainIn => {
                let greeter = pod.greet(APPLICATION);
                let by = if doing == Doing::Tunnelled { peer } else { plain };
                let calls = called(by.call(pod.at(APPLICATION)));
                Held { calls, _greeter: Some(greeter), ..Held::default() }
            }
            Doing::Connecting => Held { sockets: vec![opened(pod, plain.at(FULL))], ..Held::default() },
            Doing::Dialling => Held { sockets: vec![opened(pod, silent.at(APPLICATION))], ..Held::default() },
            Doing::Waiting => Held { sockets: vec![opened(pod, peer.at(APPLICATION))], ..Held::default() },
            Doing::Handshaking => {
                let mut socket = opened(plain, pod.at(TUNNEL_PORT));
                // The head of a record that is never whole.
                socket.write_all(&[22, 3, 1, 2, 0, 1]).expect("an open connection");
                Held { sockets: vec![socket], ..Held::default() }
            }
            Doing::Beginning | Doing::Refused => Held::default(),
        }
    }

    /// Connections that nobody waits for.
    fn connections_begin(&self, pod: &Pod) -> Held {
        let Neighbours { peer, plain, .. } = self.neighbours;
        let begin = || {
            let targets = [peer, plain, peer, plain].map(|neighbour| neighbour.at(APPLICATION));
            let begun = targets.map(|target| {
                let socket = socket().expect("a socket");
                socket.set_nonblocking(true).expect("a socket option");
                // It is under way, or was refused.
                socket.connect(&target.into()).ok();
                TcpStream::from(socket)
            });
            Vec::from(begun)
        };
        let sockets = pod.place().run(begin).expect("the namespace is there");
        Held { sockets, ..Held::default() }
    }

    /// Waits until the proxy has nothing but `pods` pods.
    fn rest(&self, pods: usize) {
        let gauges = BTreeMap::from(GAUGES.map(|name| (name, 0)));
        let expected = Counted { gauges, pods, connections: BTreeSet::new() };
        let begun = Instant::now();
        loop {
            let counted = self.counted();
            if counted == expected {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "not at rest: {counted:#?}");
            std::thread::sleep(POLL);
        }
    }

    fn counted(&self) -> Counted {
        let metrics = self.proxy.metrics().expect("metrics");
        let sum = |name| metrics.sum(name, &[]) as usize;
        Counted {
            gauges: BTreeMap::from(GAUGES.map(|name| (name, sum(name)))),
            pods: sum("workload_manager_active_proxy_count"),
            connections: self.connections(),
        }
    }

    /// Where the live connections come from.
    fn connections(&self) -> BTreeSet<SocketAddr> {
        let page: Value = serde_json::from_str(&self.proxy.connections().expect("a page")).expect("JSON");
        let connections = page["connections"].as_array().expect("a list").iter();
        let addresses = connections.map(|connection| connection["source"]["address"].as_str());
        addresses
            .map(|address| address.and_then(|address| address.parse().ok()).expect("an address"))
            .collect()
    }

    /// The service accounts for which it has certificates, or wants them.
    fn certified(&self) -> Vec<String> {
        let page = self.proxy.page(ADMIN_PORT, "/config_dump").expect("a page");
        let page: Value = serde_json::from_str(&page.body).expect("JSON");
        let certificates = page["certificates"].as_array().expect("a list").iter();
        let identities = certificates.map(|certificate| certificate["identity"].as_str().expect("a name"));
        identities.map(|identity| identity.rsplit('/').next().unwrap_or_default().to_owned()).collect()
    }
}

/// What the proxy says of itself.
#[derive(Debug, PartialEq, Eq)]
struct Counted {
    gauges: BTreeMap<&'static str, usize>,
    pods: usize,
    connections: BTreeSet<SocketAddr>,
}

/// Nothing of this is there at rest.
const GAUGES: [&str; 4] = [
    "istio_tcp_sockets_open",
    "ztunnel_tunnels_open",
    "ztunnel_worker_panics_total",
    "workload_manager_pending_proxy_count",
];

/// Resident memory, as soon as it doesn't fall any more.
fn memory_at_rest(id: u32) -> u64 {
    const PAUSE: Duration = Duration::from_millis(300);
    let mut last = resident(id);
    loop {
        std::thread::sleep(PAUSE);
        let now = resident(id);
        if now + (64 << 10) >= last {
            return now.min(last);
        }
        last = now;
    }
}

fn inode(path: &str) -> u64 {
    fs::metadata(path).expect("the process runs").ino()
}

/// Namespaces.
const PODS: usize = 54;
/// Of all of them; together with those of the beginning, a thousand pods.
const ROUNDS: usize = 18;
/// That hold connections.
const THREADS: usize = 6;
/// What the second half of the rounds may add to the memory of the first: less than 9 KiB a pod.
const GROWTH: u64 = 4 << 20;
/// Less than the proxy gives any step of a connection on its way.
const SOON: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(20);
const APPLICATION: u16 = 8_080;
const FULL: u16 = 8_081;
