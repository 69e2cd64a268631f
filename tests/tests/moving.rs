//! Tunnels move between two processes, over a Unix socket and with their descriptors, while stock peers use them.
//!
//! ```text
//!  client role   applications ──▶ mover ⇄ mover ══ HBONE ══▶ stock server ──▶ application
//!  server role   applications ──▶ stock client ══ HBONE ══▶ mover ⇄ mover ──▶ application
//! ```

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use demo::addresses::LoopbackAddresses;
use demo::mesh::{Mesh, Workload};
use demo::place::Place;
use demo::traffic::{Clients, Counts, Dial, Plan, Server};
use tempfile::TempDir;
use tests::certificates::{Credentials, Root};
use tests::mover::{Fault, Move, MoverConfig, Movers, Report};
use tests::stock::{self, HBONE_PORT, LARGE_FRAMES, Tunnel};
use tests::wait;
use tokio::runtime::Runtime;

#[test]
fn a_thousand_moves_between_two_processes_are_seen_by_nobody() {
    let seed = seed();
    let mut scene = Scene::new(seed, 1_000, None);
    let traffic = scene.traffic();
    let moves = scene.until_done();
    let counts = traffic.finish();
    println!("{}", summary(&moves, &counts, &scene));
    assert!(scene.movers.alive());
    assert!(moves.iter().filter(|moved| moved.counts()).count() >= 1_000);
    for counts in &counts {
        assert!(counts.failures.is_empty(), "seed {seed}: {:?}\n{}", counts.failures, scene.words());
        assert_eq!((counts.failed, counts.open()), (0, 0), "seed {seed}\n{}", scene.words());
        assert!(counts.checked > 10 << 20, "seed {seed}: the connections were idle: {counts:?}");
    }
    // Streams that were opened and ended in both ways during the moves.
    assert!(counts.iter().map(|counts| counts.closed).sum::<u64>() > 200, "seed {seed}: {counts:?}");
}

#[test]
fn a_tunnel_that_vanishes_on_its_way_is_noticed() {
    let mut scene = Scene::new(seed(), 60, Some((20, Fault::Vanishes)));
    let traffic = scene.traffic();
    scene.until_done();
    let failed: u64 = traffic.finish().iter().map(|counts| counts.failed).sum();
    assert!(failed > 0, "connections were cut, and the applications saw nothing");
}

#[test]
fn a_flipped_bit_is_refused() {
    refused(Fault::FlippedBit, "the record is damaged");
}

#[test]
fn a_missing_socket_is_refused() {
    refused(Fault::LostSocket, "sockets came with a record of");
}

#[test]
fn a_record_that_ends_early_is_refused() {
    refused(Fault::CutRecord, "the record is damaged");
}

/// The damaged tunnel is refused and its connections end at once; everything else goes on.
fn refused(fault: Fault, reason: &str) {
    let mut scene = Scene::new(seed(), 60, Some((20, fault)));
    let traffic = scene.traffic();
    let mut refusals = Vec::new();
    let mut done = 0;
    while done < 2 {
        match scene.movers.report() {
            Report::Refused(why) => refusals.push(why),
            Report::Done => done += 1,
            Report::Listening | Report::Moved(_) => {}
        }
    }
    assert!(matches!(&refusals[..], [why] if why.contains(reason)), "{refusals:?}");
    assert!(scene.movers.alive(), "{}", scene.words());
    // The sockets of the refused tunnel are closed: whoever used it isn't left waiting.
    traffic.until_failed();
    // Moves went on, 40 of them, so other tunnels lived; and new connections still come up by way of each process.
    let again = scene.traffic();
    again.until_closed();
    let counts = again.finish();
    assert!(counts.iter().all(|counts| counts.failed == 0), "{counts:?}\n{}", scene.words());
}

/// Everything but the clients.
struct Scene {
    movers: Movers,
    peers: Runtime,
    server: stock::Server,
    applications: [Server; 2],
    addresses: LoopbackAddresses,
    root: Root,
    seed: u64,
    _directory: TempDir,
}

impl Scene {
    fn new(seed: u64, moves: u32, fault: Option<(u32, Fault)>) -> Self {
        let addresses =
            LoopbackAddresses::claim(&[HBONE_PORT, APPLICATION, SOCKS5, SOCKS5 + 1]).expect("addresses");
        let directory = tempfile::tempdir().expect("a directory");
        let root = Root::new("the root of a test");
        let files = root.write(directory.path());
        let local = Workload::new("local", "node-local", addresses.client);
        let remote = Workload::new("remote", "node-remote", addresses.server);
        let mesh = Mesh { workloads: vec![local.clone(), remote], ..Mesh::default() };
        let config = |index: u16| MoverConfig {
            mesh: mesh.to_string(),
            workload: local.proxy_workload_info(),
            node: local.node.clone(),
            root: files.clone(),
            address: addresses.client,
            tunnels: (index == 0).then_some(SocketAddr::new(addresses.client, HBONE_PORT)),
            socks5: SocketAddr::new(addresses.client, SOCKS5 + index),
            gives_first: index == 0,
            moves,
            seed: seed + u64::from(index),
            fault,
        };
        let mut movers = Movers::start(Path::new(env!("CARGO_BIN_EXE_mover")), [config(0), config(1)]);
        for _ in 0..2 {
            while movers.report() != Report::Listening {}
        }
        let peers = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let address = SocketAddr::new(addresses.server, HBONE_PORT);
        let settings = stock::ServerConfig::default();
        let server = peers.block_on(stock::Server::start(address, credentials(&root, "remote"), settings));
        let application =
            |ip| Server::start(&Place::Here, SocketAddr::new(ip, APPLICATION)).expect("a free address");
        let applications = [addresses.client, addresses.server].map(application);
        let server = server.expect("a free address");
        Self { movers, peers, server, applications, addresses, root, seed, _directory: directory }
    }

    /// Starts clients for both roles of the movers, and for both of them.
    fn traffic(&self) -> Traffic {
        let local = SocketAddr::new(self.addresses.client, APPLICATION);
        let remote = SocketAddr::new(self.addresses.server, APPLICATION);
        let gateway = self.peers.block_on(async {
            let tls = stock::client_config(credentials(&self.root, "remote"), &identity("local"), true);
            let to = SocketAddr::new(self.addresses.client, HBONE_PORT);
            let tunnel =
                Tunnel::connect(self.addresses.server, to, tls, LARGE_FRAMES).await.expect("a tunnel");
            Arc::new(tunnel).forward(self.addresses.server, local.to_string()).await.expect("a free port")
        });
        let start = |dial, server, bulk| {
            let plan = Plan {
                bulk,
                requests: 2,
                fresh: 1,
                half_close: 1,
                idle: 1,
                idle_pause: Duration::from_millis(50),
                seed: self.seed,
            };
            Clients::start(&Place::Here, dial, vec![server], plan).expect("clients start")
        };
        let socks5 = |index| Dial::Socks5(SocketAddr::new(self.addresses.client, SOCKS5 + index));
        Traffic([start(socks5(0), remote, 1), start(socks5(1), remote, 1), start(Dial::Direct, gateway, 2)])
    }

    /// Waits until both processes have made all moves.
    fn until_done(&mut self) -> Vec<Move> {
        let mut moves = Vec::new();
        let mut done = 0;
        while done < 2 {
            match self.movers.report() {
                Report::Moved(moved) => moves.push(moved),
                Report::Done => done += 1,
                Report::Refused(why) => {
                    panic!("seed {}: a tunnel was refused: {why}\n{}", self.seed, self.words())
                }
                Report::Listening => {}
            }
        }
        moves
    }

    fn words(&self) -> String {
        self.movers.words().join("\n")
    }
}

/// Clients of each mover, and of the stock client.
struct Traffic([Clients; 3]);

impl Traffic {
    fn finish(&self) -> [Counts; 3] {
        self.0.each_ref().map(|clients| {
            // Failures show in the counts.
            clients.finish(GRACE);
            clients.tally().counts()
        })
    }

    /// Waits until a connection has failed, then for the end of all.
    fn until_failed(&self) {
        let failed = |counts: [Counts; 3]| counts.iter().any(|counts| counts.failed > 0);
        self.until(failed, "connections of a tunnel that is gone fail");
        self.finish();
    }

    /// Waits until a connection has come to its proper end at each of the clients.
    fn until_closed(&self) {
        let closed = |counts: [Counts; 3]| counts.iter().all(|counts| counts.closed > 0);
        self.until(closed, "connections end");
    }

    fn until(&self, condition: impl Fn([Counts; 3]) -> bool, what: &str) {
        wait::until_blocking(what, || condition(self.counts()));
    }

    fn counts(&self) -> [Counts; 3] {
        self.0.each_ref().map(|clients| clients.tally().counts())
    }
}

fn summary(moves: &[Move], counts: &[Counts], scene: &Scene) -> String {
    let counting: Vec<&Move> = moves.iter().filter(|moved| moved.counts()).collect();
    let quantiles = |of: fn(&Move) -> u64| {
        let mut values: Vec<u64> = counting.iter().map(|moved| of(moved)).collect();
        values.sort_unstable();
        let at = |permille: usize| values[(values.len() - 1) * permille / 1_000];
        format!("p50 {}, p99 {}, max {}", at(500), at(990), at(1_000))
    };
    let sum = |of: fn(&Counts) -> u64| counts.iter().map(of).sum::<u64>();
    format!(
        "seed {}: {} moves (and {} of less); pause in us: {}; before it, until the turn is over: {}; state in bytes: {}; tunnels: {}; streams: {}; \
         {} connections; {} MiB checked by clients, {} MiB by servers; {} tunnels to the stock server",
        scene.seed,
        counting.len(),
        moves.len() - counting.len(),
        quantiles(|moved| moved.pause),
        quantiles(|moved| moved.wait),
        quantiles(|moved| moved.bytes as u64),
        quantiles(|moved| moved.tunnels as u64),
        quantiles(|moved| moved.streams as u64),
        sum(|counts| counts.opened),
        sum(|counts| counts.checked) >> 20,
        scene.applications.iter().map(|server| server.tally().counts().checked).sum::<u64>() >> 20,
        scene.server.handshakes(),
    )
}

/// Another run of the same: `TEST_SEED`. It decides when tunnels move and what the applications say.
fn seed() -> u64 {
    std::env::var("TEST_SEED").map_or(1, |seed| seed.parse().expect("TEST_SEED is a number"))
}

/// A stock peer that renews its keys often: some 3 MiB of full records.
fn credentials(root: &Root, workload: &str) -> Credentials {
    Credentials { renew_key_after: Some(200), ..root.certify(&identity(workload)) }
}

fn identity(workload: &str) -> String {
    Workload::new(workload, "", IpAddr::from([127, 0, 0, 1])).identity()
}

const APPLICATION: u16 = 8_080;
const SOCKS5: u16 = 15_080;
const GRACE: Duration = Duration::from_secs(20);
