//! Tunnels that are about to move: whoever wants one meanwhile waits for it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};

use demo::traffic::socks5;
use rustix::process::Signal;
use tests::daemonset::{run, settle};
use tests::longlived::Mix;
use tests::process::is_stopped;
use tests::wait::PATIENCE;
use tests::world::{APPLICATION, Host};

use crate::scene::{Handover, Scene, world};

/// A connection that the successor accepts when the predecessor has not yet given it a single one: it goes through the tunnel
/// that comes, and no other is dialled.
///
/// On a machine that does too much at once the tunnel may come after the time that is waited for it: then once more. Who
/// doesn't wait dials every time.
#[test]
fn no_second_tunnel_is_dialled_to_a_peer_whose_tunnel_comes() {
    let mut seen = Vec::new();
    while seen.len() < 3 && !seen.contains(&1.0) {
        seen.push(tunnels_after_a_replacement());
    }
    assert!(seen.contains(&1.0), "{seen:?}");
}

/// How many tunnels the server's node has then from that of the clients.
fn tunnels_after_a_replacement() -> f64 {
    let world = world();
    let mut scene =
        Scene::start(&world, Handover::On, &[("HANDOVER_BAKE", "0ms"), (PAUSE_AT, "role-commit")]);
    let load = scene.load(Mix { bulk: 0, requests: 4, idle: 0, plain: 0, fresh: 0 });
    let proxy = scene.nodes[0].only().socks5();
    let target = SocketAddr::new(world.at(Host::Server, APPLICATION).ip(), OTHER_APPLICATION);
    let application = TcpListener::bind(target).expect("a free port");
    let node = &mut scene.nodes[..1];
    let first = node[0].active().next().cloned().expect("a pod");
    node[0].containers().set(PAUSE_AT, "nowhere");
    node[0].update(2);
    run(node, "the role is given, and nothing else", |node| {
        node[0].node(&first).is_some_and(|process| is_stopped(process.id()))
    });
    // SOCKS5 success is said before the tunnel is needed, so this doesn't wait for it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let near = runtime.block_on(socks5::connect(proxy, target)).expect("the successor accepts");
    node[0].node(&first).expect("it stands still").send(Signal::CONT).expect("it stands still");
    let mut near = near.into_std().expect("a socket");
    near.set_nonblocking(false).expect("a socket option");
    near.set_read_timeout(Some(PATIENCE)).expect("a socket option");
    let (mut far, _) = application.accept().expect("a connection");
    far.write_all(b"through").expect("an open connection");
    let mut heard = [0; 7];
    near.read_exact(&mut heard).expect("an open connection");
    settle(node);
    load.go_on();
    let metrics = scene.nodes[1].only().metrics().expect("metrics");
    drop((near, far));
    load.stop().all_whole();
    metrics.sum("ztunnel_tunnels_open", &[("role", "server")])
}

/// Where nobody listens besides.
const OTHER_APPLICATION: u16 = APPLICATION + 1;

const PAUSE_AT: &str = "HANDOVER_PAUSE_AT";
