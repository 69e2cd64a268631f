//! Which tunnels our nodes dial, share, leave and close. The stock server counts them.

use demo::traffic::{Dial, Plan, socks5};
use tests::stock::{Answer, Frame, HBONE_PORT, Scripted, ServerConfig};
use tests::traffic::{Traffic, all_whole, bulk, converse, idle, nothing};
use tests::wait;
use tests::world::{APPLICATION, Host, Variant, World};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use crate::NODE;

in_both_variants! {
    first_callers_share_one_handshake
    a_full_tunnel_gets_a_neighbour_and_is_used_again
    go_away_costs_no_connection
    refused_streams_go_to_another_tunnel
    streams_above_the_last_go_to_another_tunnel
    an_unused_tunnel_is_closed
}

async fn first_callers_share_one_handshake(variant: Variant) {
    let world = World::new(NODE, variant);
    let (node, application) = (world.node(Host::Client, &[]), world.application(Host::Stock));
    let server = world.stock_server(ServerConfig::default()).await;
    let traffic = Traffic::start(Dial::Socks5(node.socks5()), vec![application.address()], idle(50));
    wait::until("50 streams are open", || server.streams() == 50).await;
    traffic.progress().await;
    assert!(server.handshakes() <= 1 + unseen(variant), "{} handshakes", server.handshakes());
    traffic.finish();
    world.check(&node);
}

async fn a_full_tunnel_gets_a_neighbour_and_is_used_again(variant: Variant) {
    let world = World::new(NODE, variant);
    let limit = [("POOL_MAX_STREAMS_PER_CONNECTION", "4")];
    let (node, application) = (world.node(Host::Client, &limit), world.application(Host::Stock));
    let server = world.stock_server(ServerConfig::default()).await;
    let dial = Dial::Socks5(node.socks5());
    let ten = Traffic::start(dial, vec![application.address()], idle(10));
    wait::until("10 streams are open", || server.streams() == 10).await;
    let tunnels = server.tunnels();
    assert!((3..=3 + unseen(variant)).contains(&tunnels), "{tunnels} tunnels for 10 streams of 4 each");
    ten.progress().await;
    ten.finish();
    wait::until("they are closed", || server.streams() == 0).await;
    let again = Traffic::start(dial, vec![application.address()], idle(10));
    wait::until("10 streams are open", || server.streams() == 10).await;
    assert_eq!(
        (server.handshakes(), server.tunnels()),
        (tunnels, tunnels),
        "tunnels with room are used again"
    );
    again.finish();
    world.check(&node);
}

/// A tunnel that is on its way to another worker is seen by none: some callers dial one more.
fn unseen(variant: Variant) -> usize {
    match variant {
        Variant::Still => 0,
        Variant::Moving => 3,
    }
}

async fn go_away_costs_no_connection(variant: Variant) {
    let world = World::new(NODE, variant);
    let (node, application) = (world.node(Host::Client, &[]), world.application(Host::Stock));
    let server = world.stock_server(ServerConfig::default()).await;
    let plan = Plan { requests: 4, fresh: 8, ..bulk() };
    let traffic = Traffic::start(Dial::Socks5(node.socks5()), vec![application.address()], plan);
    traffic.progress().await;
    for _ in 0..5 {
        let before = server.handshakes();
        server.go_away();
        wait::until("there is a new tunnel", || server.handshakes() > before).await;
        assert_eq!(server.broken(), [""; 0]);
        traffic.progress().await;
    }
    traffic.finish();
    all_whole(application.tally()).await;
    server.go_away();
    wait::until("tunnels that were told to go are closed", || server.tunnels() == 0).await;
    world.check(&node);
}

async fn refused_streams_go_to_another_tunnel(variant: Variant) {
    let world = World::new(NODE, variant);
    let (node, application) = (world.node(Host::Client, &[]), world.application(Host::Stock));
    let answer = Answer::RefuseFirstTunnel;
    let server = world.stock_server(ServerConfig { answer, ..ServerConfig::default() }).await;
    let plan = Plan { fresh: 4, ..idle(4) };
    converse(Dial::Socks5(node.socks5()), vec![application.address()], plan).await;
    assert!(server.handshakes() > 1, "nothing was refused");
    world.check(&node);
}

async fn streams_above_the_last_go_to_another_tunnel(variant: Variant) {
    let world = World::new(NODE, variant);
    let node = world.node(Host::Client, &[]);
    let listener = TcpListener::bind(world.at(Host::Stock, HBONE_PORT)).await.expect("a free port");
    let target = world.at(Host::Stock, APPLICATION);
    let user = async || socks5::connect(node.socks5(), target).await.expect("a connection");
    let tunnel = async || Scripted::accept(&listener, world.credentials("stock")).await.expect("a tunnel");

    let mut first_user = user().await;
    let mut first = tunnel().await;
    let first_stream = first.next(Frame::HEADERS).await.expect("a request").stream;
    first.send(&Frame::ok(first_stream)).await.expect("a peer");
    let mut late = Vec::new();
    for _ in 0..3 {
        late.push(user().await);
        assert!(first.next(Frame::HEADERS).await.expect("a request").stream > first_stream);
    }
    first.send(&Frame::go_away(first_stream)).await.expect("a peer");

    let mut second = tunnel().await;
    let answer = |stream, payload: &[u8]| Frame { kind: 0, flags: 1, stream, payload: payload.to_vec() };
    for _ in 0..3 {
        let stream = second.next(Frame::HEADERS).await.expect("a request").stream;
        second.send(&Frame::ok(stream)).await.expect("a peer");
        second.send(&answer(stream, b"served")).await.expect("a peer");
    }
    for mut user in late {
        let mut read = String::new();
        user.read_to_string(&mut read).await.expect("a whole answer");
        assert_eq!(read, "served");
    }
    first.send(&answer(first_stream, b"still here")).await.expect("a peer");
    let mut read = String::new();
    first_user.read_to_string(&mut read).await.expect("a whole answer");
    assert_eq!(read, "still here");
    world.check(&node);
}

async fn an_unused_tunnel_is_closed(variant: Variant) {
    let world = World::new(NODE, variant);
    let timeout = [("POOL_UNUSED_RELEASE_TIMEOUT", "300ms")];
    let (node, application) = (world.node(Host::Client, &timeout), world.application(Host::Stock));
    let server = world.stock_server(ServerConfig::default()).await;
    let plan = Plan { requests: 2, ..nothing() };
    for round in 1..=2 {
        converse(Dial::Socks5(node.socks5()), vec![application.address()], plan.clone()).await;
        wait::until("the tunnel is closed", || server.tunnels() == 0).await;
        assert_eq!(server.handshakes(), round);
    }
    let open = || node.metrics().expect("metrics").sum("ztunnel_tunnels_open", &[]);
    wait::until("the node counts no tunnel", || open() == 0.0).await;
    world.check(&node);
}
