//! The other end is Istio's own stack, `h2` and `rustls`, which takes every liberty that it has, and a proxy of ours is replaced
//! again and again: the other end does not notice.

use std::sync::Arc;
use std::time::Duration;

use demo::place::Place;
use demo::traffic::{Dial, Plan};
use http::StatusCode;
use tests::certificates::Credentials;
use tests::daemonset::settle;
use tests::longlived::{Line, LongLived};
use tests::stock::{self, HBONE_PORT, LARGE_FRAMES, Server, ServerConfig, Tunnel};
use tests::traffic::nothing;
use tests::world::{Host, World, identity};
use tokio::runtime::{Builder, Runtime};

use crate::scene::{Handover, Scene, world};

/// Five replacements of a node that has stock tunnels in both directions; `HANDOVER_LONG=1` makes it fifty. All the time the
/// stock ends renew their keys, and ask ours to.
#[test]
fn stock_peers_notice_nothing() {
    let count = if std::env::var("HANDOVER_LONG").is_ok() { 50 } else { 5 };
    let world = world();
    // The stock peers need certificates of the same root, and istiod does not give its key away.
    let environment = [("HANDOVER_BAKE", "200ms"), ("FAKE_CA", "true")];
    let mut scene = Scene::start(&world, Handover::On, &environment);
    let peers = Peers::start(&world);
    let load = peers.load(&world, Dial::Socks5(scene.nodes[1].only().socks5()));
    let node = &mut scene.nodes[1..];
    for number in 1..=count {
        node[0].update(number + 1);
        settle(node);
        println!("replacement {number}: {}", load.stalls());
        let losses = load.seen().losses();
        assert!(losses.is_empty(), "replacement {number}: {losses:#?}\n{}", node[0].history());
    }
    // Long-lived streams tell that theirs is the one of the beginning. A fresh stream may come to the new process before the
    // tunnel does: then another one is dialled.
    assert!(peers.server.handshakes() <= 1 + count as usize, "{} tunnels", peers.server.handshakes());
    load.go_on();
    peers.may_still_open(&world);
    let seen = load.stop();
    seen.all_whole();
    assert_eq!(peers.server.broken(), [""; 0]);
    let keys = (seen.long.sent + seen.long.checked) / FULL_RECORD / RENEW_KEY_AFTER;
    println!("after {count} replacements: {seen}; about {keys} keys of the stock side");
    assert!(keys > 20 * u64::from(count), "the keys were hardly ever renewed: {keys}");
    scene.ended_well();
}

/// A stock node with tunnels to and from the node of `server`.
struct Peers {
    runtime: Runtime,
    tunnels: Vec<Arc<Tunnel>>,
    server: Server,
}

impl Peers {
    fn start(world: &World) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let credentials =
            || Credentials { renew_key_after: Some(RENEW_KEY_AFTER), ..world.credentials("stock") };
        let tls = stock::client_config(credentials(), &identity("server"), true);
        let (from, to) = (world.ip(Host::Stock), world.at(Host::Server, HBONE_PORT));
        let connect = || runtime.block_on(Tunnel::connect(from, to, tls.clone(), LARGE_FRAMES));
        let tunnels = (0..2).map(|_| Arc::new(connect().expect("a tunnel"))).collect();
        let address = world.at(Host::Stock, HBONE_PORT);
        let server = runtime.block_on(Server::start(address, credentials(), ServerConfig::default()));
        Self { server: server.expect("the server listens"), runtime, tunnels }
    }

    /// Many streams on each tunnel, busy and idle, long-lived and fresh; `outbound` leads to the stock server.
    fn load(&self, world: &World, outbound: Dial) -> LongLived {
        let servers = [Host::Server, Host::Stock].map(|host| world.application(host));
        let mut ways = vec![(outbound, servers[1].address())];
        for tunnel in &self.tunnels {
            let forward = tunnel.forward(world.ip(Host::Stock), servers[0].address().to_string());
            ways.push((Dial::Direct, self.runtime.block_on(forward).expect("a free port")));
        }
        let lines = |plan: Plan| {
            let line = |&(dial, to)| Line { place: Place::Here, dial, servers: vec![to], plan: plan.clone() };
            ways.iter().map(line).collect::<Vec<_>>()
        };
        let busy = lines(Plan { bulk: 1, idle: 20, ..nothing() });
        let idle = lines(Plan { idle: 30, idle_pause: IDLE_PAUSE, ..nothing() });
        LongLived::start([busy, idle].concat(), lines(Plan { fresh: 1, ..nothing() }), servers.into())
    }

    /// The tunnels of the beginning take new streams: no GOAWAY has come. Nobody listens there, which is the answer.
    fn may_still_open(&self, world: &World) {
        let authority = world.at(Host::Server, NOBODY).to_string();
        for tunnel in &self.tunnels {
            let reply = self.runtime.block_on(tunnel.open(&authority)).expect("the tunnel goes on");
            assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
        }
    }
}

/// A port that no application has.
const NOBODY: u16 = 9;
/// So often that there is always a renewal near.
const RENEW_KEY_AFTER: u64 = 40;
/// Bytes, of a TLS record.
const FULL_RECORD: u64 = 16 << 10;
const IDLE_PAUSE: Duration = Duration::from_millis(500);
