//! The mesh, the peers and the applications change while connections are on their way.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use demo::traffic::socks5;
use socket2::SockRef;
use tests::daemonset::{DaemonSet, PodName, run, run_for, settle};
use tests::longlived::Mix;
use tests::stock::{Server, ServerConfig};
use tests::wait::until_blocking;
use tests::world::{APPLICATION, Host, World};
use tokio::runtime::{Builder, Runtime};
use xds::Authorization;

use crate::connection::{Seen, exchange, joined, seen_soon};
use crate::scene::{Handover, SHORT_BAKE, Scene, Side, world};

/// A policy that comes at some moment of an upgrade ends the connections that it forbids, wherever they are, and no others. Once
/// every process has said that it knows the policy, nobody gets in. By a seed; `HANDOVER_SEED=N` plays other moments,
/// `HANDOVER_LONG=1` many more.
#[test]
fn what_a_policy_forbids_during_a_move_ends() {
    let seed = std::env::var("HANDOVER_SEED").map_or(1, |seed| seed.parse().expect("a number"));
    let mut random = fastrand::Rng::with_seed(seed);
    let rounds = if std::env::var("HANDOVER_LONG").is_ok() { 40 } else { 3 };
    let world = world();
    let mut scene = Scene::start(&world, Handover::On, SHORT_BAKE);
    let load = scene.load(Mix::SMALL);
    let target = world.at(Host::Server, GUARDED);
    let door = Door::open(&scene, world.at(Host::Server, GUARDED_DOOR));
    for round in 1..=rounds {
        let guarded: Vec<_> = (0..8).map(|_| joined(scene.nodes[0].only(), target)).collect();
        assert!(door.lets_in());
        // From the meeting of the two processes to the end of the waves.
        let moment = Duration::from_millis(random.u64(0..600));
        let what = format!("seed {seed}, round {round}, after {moment:?}");
        scene.begin_roll_out();
        run(&mut scene.nodes, "new pods run", |nodes| nodes.iter().all(|node| node.created() == round + 1));
        run_for(&mut scene.nodes, moment);

        guarded.iter().for_each(|(near, far)| exchange(near, far));
        let before = scene.istiod.replica().statistics();
        scene.istiod.cluster().edit(|edit| edit.policy(&guard()));
        for (near, far) in &guarded {
            for end in [near, far] {
                assert_eq!(seen_soon(end), Seen::Reset, "{what}\n{}", scene.history());
            }
        }
        let replica = scene.istiod.replica();
        run(&mut scene.nodes, "the upgrade is over, and the policy known", |nodes| {
            let settled = nodes.iter().all(DaemonSet::is_settled);
            // A process that has ended meanwhile may have said nothing.
            let asked = if settled { 2 } else { before.streams_open };
            let known = replica.statistics().policies.acks >= before.policies.acks + asked;
            assert!(!known || !door.lets_in(), "{what}: somebody got in");
            settled && known
        });

        scene.istiod.cluster().edit(|edit| edit.remove_policy("demo/guard"));
        until_blocking("somebody gets in again", || door.lets_in());
        let losses = load.seen().losses();
        assert!(losses.is_empty(), "{what}: {losses:#?}\n{}", scene.history());
    }
    load.go_on();
    load.stop().all_whole();
    scene.ended_well();
}

/// The peer of a tunnel says goodbye while that is on its way: its streams go on, and new ones get another tunnel.
#[test]
fn a_goodbye_during_a_move_is_heard() {
    let world = world();
    let peers = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let mut frozen = Frozen::tunnel(&world, &peers);
    frozen.server.go_away();
    frozen.thaw();
    let node = frozen.scene.nodes[0].only();
    frozen.streams.iter().for_each(|(near, far)| exchange(near, far));
    let (near, far) = joined(node, world.at(Host::Stock, APPLICATION));
    exchange(&near, &far);
    assert_eq!(frozen.server.handshakes(), 2);
    frozen.scene.ended_well();
}

/// The peer of a tunnel is gone with all of its sockets while that is on its way: applications are told at once.
#[test]
fn a_peers_death_during_a_move_is_noticed() {
    let world = world();
    let peers = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let frozen = Frozen::tunnel(&world, &peers);
    let Frozen { mut scene, halted, streams, server } = frozen;
    peers.block_on(server.kill());
    scene.go_on(&halted);
    for (near, _) in &streams {
        assert_eq!(seen_soon(near), Seen::Reset);
    }
    settle(&mut scene.nodes[..1]);
    scene.ended_well();
}

/// Applications end their connections while the tunnel is on its way: the other ends hear of it. A reset becomes an end where stock
/// makes it one.
#[test]
fn ends_during_a_move_arrive() {
    let world = world();
    let peers = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let mut frozen = Frozen::tunnel(&world, &peers);
    let [(near, far), (cut, uncut)] = <[_; 2]>::try_from(std::mem::take(&mut frozen.streams)).expect("two");
    (&near).write_all(b"last words").expect("an open connection");
    near.shutdown(Shutdown::Write).expect("an open connection");
    SockRef::from(&cut).set_linger(Some(Duration::ZERO)).expect("a socket option");
    drop(cut);
    frozen.thaw();
    let mut heard = [0; 10];
    (&far).read_exact(&mut heard).expect("what was sent before the end");
    assert_eq!((&heard, seen_soon(&far)), (b"last words", Seen::End));
    drop(far);
    assert_eq!(seen_soon(&near), Seen::End);
    assert_eq!(seen_soon(&uncut), Seen::End);
    frozen.scene.ended_well();
}

/// A tunnel to a stock server, with two streams, that is frozen in a process that stands still.
struct Frozen<'w> {
    scene: Scene<'w>,
    halted: PodName,
    streams: Vec<(TcpStream, TcpStream)>,
    server: Server,
}

impl<'w> Frozen<'w> {
    fn tunnel(world: &'w World, peers: &Runtime) -> Self {
        let server = peers.block_on(world.stock_server(ServerConfig::default()));
        // The stock server needs a certificate of the same root, and istiod does not give its key away.
        let environment = [SHORT_BAKE, &[("FAKE_CA", "true")]].concat();
        let mut scene = Scene::halting(world, Side::Predecessor, "canary", &environment);
        let target = world.at(Host::Stock, APPLICATION);
        let streams: Vec<_> = (0..2).map(|_| joined(scene.nodes[0].only(), target)).collect();
        streams.iter().for_each(|(near, far)| exchange(near, far));
        let halted = scene.halt(Side::Predecessor, "canary");
        Self { scene, halted, streams, server }
    }

    /// The upgrade goes on to its end.
    fn thaw(&mut self) {
        self.scene.go_on(&self.halted);
        settle(&mut self.scene.nodes[..1]);
    }
}

/// An application that says a byte to everybody who comes to it, and the way there.
struct Door {
    proxy: SocketAddr,
    address: SocketAddr,
    runtime: Runtime,
}

impl Door {
    fn open(scene: &Scene<'_>, address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).expect("a free port");
        // It ends with the test's process.
        thread::spawn(move || {
            for guest in listener.incoming() {
                // Who has gone again was let in, and knows it.
                guest.and_then(|mut guest| guest.write_all(b"!")).ok();
            }
        });
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self { proxy: scene.nodes[0].only().socks5(), address, runtime }
    }

    fn lets_in(&self) -> bool {
        let Ok(guest) = self.runtime.block_on(socks5::connect(self.proxy, self.address)) else {
            return false;
        };
        let mut guest = guest.into_std().expect("a socket");
        guest.set_nonblocking(false).expect("a socket option");
        guest.set_read_timeout(Some(Duration::from_secs(1))).expect("a socket option");
        guest.read_exact(&mut [0; 1]).is_ok()
    }
}

/// A policy that denies [`GUARDED`] and [`GUARDED_DOOR`].
fn guard() -> Authorization {
    let namespace = demo::mesh::NAMESPACE;
    let rules = format!("[[[{{destinationPorts: [{GUARDED}, {GUARDED_DOOR}]}}]]]");
    let policy =
        format!("name: guard, namespace: {namespace}, scope: Namespace, action: Deny, rules: {rules}");
    let mesh = xds::local::load(&format!("policies: [{{{policy}}}]"));
    mesh.expect("a policy").policies.remove(0)
}

const GUARDED: u16 = APPLICATION + 1;
const GUARDED_DOOR: u16 = APPLICATION + 2;
