//! Our nodes and stock peers: every byte, every way to end, every status.

use std::sync::Arc;
use std::time::Duration;

use demo::node::Node;
use demo::traffic::{Dial, socks5};
use h2::Reason;
use http::{Method, Request};
use socket2::SockRef;
use tests::stock::{Answer, LARGE_FRAMES, SMALL_FRAMES, ServerConfig, Tunnel, connect_method};
use tests::traffic::{all_whole, converse, mixture};
use tests::wait;
use tests::world::{APPLICATION, Host, Variant, World, log_line};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::NODE;

in_both_variants! {
    stock_client_to_our_node
    our_node_to_stock_server
    trailers_end_a_stream
    resets_reach_the_other_side
    a_lost_tunnel_resets_its_connections
    statuses_are_those_of_stock
}

const COUNTS: [usize; 3] = [1, 10, 100];

async fn stock_client_to_our_node(variant: Variant) {
    let world = World::new(NODE, variant);
    let (node, application) = (world.node(Host::Server, &[]), world.application(Host::Server));
    for frame in [SMALL_FRAMES, LARGE_FRAMES] {
        let tunnel = world.stock_tunnel(frame).await;
        let authority = application.address().to_string();
        let entrance = tunnel.forward(world.ip(Host::Stock), authority).await.expect("a listener");
        for count in COUNTS {
            converse(Dial::Direct, vec![entrance], mixture(count)).await;
        }
    }
    all_whole(application.tally()).await;
    world.check(&node);
}

async fn our_node_to_stock_server(variant: Variant) {
    let world = World::new(NODE, variant);
    let (node, application) = (world.node(Host::Client, &[]), world.application(Host::Stock));
    for frame in [SMALL_FRAMES, LARGE_FRAMES] {
        let server = world.stock_server(ServerConfig { frame, ..ServerConfig::default() }).await;
        for count in COUNTS {
            converse(Dial::Socks5(node.socks5()), vec![application.address()], mixture(count)).await;
        }
        // The last bytes may still be on their way when the clients are done.
        all_whole(application.tally()).await;
        assert!(server.handshakes() > 0, "the connections went past the server");
        assert_eq!(server.broken(), [""; 0]);
        server.kill().await;
        wait::until("the node knows that its tunnels are gone", || tunnels(&node) == 0.0).await;
    }
    world.check(&node);
}

fn tunnels(node: &Node) -> f64 {
    node.metrics().expect("metrics").sum("ztunnel_tunnels_open", &[])
}

async fn trailers_end_a_stream(variant: Variant) {
    let world = World::new(NODE, variant);
    let (node, application) = (world.node(Host::Client, &[]), world.application(Host::Stock));
    let answer = Answer::JoinWithTrailers;
    let _server = world.stock_server(ServerConfig { answer, ..ServerConfig::default() }).await;
    converse(Dial::Socks5(node.socks5()), vec![application.address()], mixture(10)).await;
    all_whole(application.tally()).await;
    world.check(&node);
}

async fn resets_reach_the_other_side(variant: Variant) {
    let world = World::new(NODE, variant);
    let node = world.node(Host::Server, &[]);
    let listener = TcpListener::bind(world.at(Host::Server, APPLICATION)).await.expect("a free port");
    let tunnel = world.stock_tunnel(LARGE_FRAMES).await;
    let bystander = pair(&tunnel, &listener).await;

    let (stream, mut application) = pair(&tunnel, &listener).await;
    stream.reset(Reason::CANCEL);
    let seen = application.read(&mut [0; 16]).await;
    assert!(seen.is_err(), "the application takes a cut stream for a whole one: {seen:?}");

    let (mut stream, application) = pair(&tunnel, &listener).await;
    SockRef::from(&application).set_linger(Some(Duration::ZERO)).expect("an open socket");
    drop(application);
    let seen = stream.read(&mut [0; 16]).await.expect_err("the peer takes a cut stream for a whole one");
    let error = seen.get_ref().and_then(|error| error.downcast_ref::<h2::Error>());
    assert_eq!(error.and_then(h2::Error::reason), Some(Reason::CANCEL), "{seen}");

    let (mut stream, mut application) = bystander;
    stream.write_all(b"still here").await.expect("an open stream");
    let mut read = [0; 10];
    application.read_exact(&mut read).await.expect("an open stream");
    assert_eq!(&read, b"still here");
    world.check(&node);
    reset_by_stock_server(&world).await;
}

async fn reset_by_stock_server(world: &World) {
    let node = world.node(Host::Client, &[]);
    let answer = Answer::Reset(Reason::INTERNAL_ERROR);
    let _server = world.stock_server(ServerConfig { answer, ..ServerConfig::default() }).await;
    let target = world.at(Host::Stock, APPLICATION);
    let mut application = socks5::connect(node.socks5(), target).await.expect("a connection");
    let mut read = Vec::new();
    let seen = application.read_to_end(&mut read).await;
    assert!(seen.is_err(), "the application takes a cut stream for a whole one: {seen:?}");
    log_line(&node, &["connection complete", "error=", "INTERNAL_ERROR"]).await;
    world.check(&node);
}

async fn a_lost_tunnel_resets_its_connections(variant: Variant) {
    let world = World::new(NODE, variant);
    let node = world.node(Host::Client, &[]);
    let server = world.stock_server(ServerConfig::default()).await;
    let target = world.at(Host::Stock, APPLICATION);
    let listener = TcpListener::bind(target).await.expect("a free port");
    let (user, accepted) = tokio::join!(socks5::connect(node.socks5(), target), listener.accept());
    let (mut user, (mut application, _)) = (user.expect("a SOCKS5 server"), accepted.expect("a connection"));
    user.write_all(b"hello").await.expect("an open connection");
    application.read_exact(&mut [0; 5]).await.expect("an open connection");
    server.kill().await;
    let seen = user.read(&mut [0; 16]).await;
    assert!(seen.is_err(), "the application takes a cut connection for a whole one: {seen:?}");
    log_line(&node, &["error\taccess\tconnection complete", "error=\"tunnel: ", "bytes_sent=5"]).await;
    world.check(&node);
}

/// A stream over `tunnel` and the application's end of it.
async fn pair(tunnel: &Arc<Tunnel>, listener: &TcpListener) -> (tests::stock::Stream, TcpStream) {
    let authority = listener.local_addr().expect("a listener").to_string();
    let (reply, accepted) = tokio::join!(tunnel.open(&authority), listener.accept());
    let (mut stream, (mut application, _)) =
        (reply.expect("an answer").stream, accepted.expect("a connection"));
    stream.write_all(b"hello").await.expect("an open stream");
    let mut read = [0; 5];
    application.read_exact(&mut read).await.expect("an open stream");
    (stream, application)
}

async fn statuses_are_those_of_stock(variant: Variant) {
    let mut world = World::new(NODE, variant);
    world.add_policy(
        r#"{"name": "no-81", "namespace": "demo", "scope": "Namespace", "action": "Deny",
            "rules": [[[{"destinationPorts": [81]}]]]}"#,
    );
    let (node, application) = (world.node(Host::Server, &[]), world.application(Host::Server));
    let tunnel = world.stock_tunnel(LARGE_FRAMES).await;
    let own = world.ip(Host::Server);
    let elsewhere = world.at(Host::Stranger, APPLICATION);
    let get = Request::builder().method(Method::GET).uri(format!("https://{own}:8080/")).body(());
    let table = [
        (connect_method(&application.address().to_string()), 200, None),
        (connect_method("server.demo.svc.cluster.local:80"), 200, None),
        (get.expect("a request"), 400, Some("method GET is not CONNECT")),
        (connect_method("nonsense"), 400, Some("nonsense")),
        (connect_method(&elsewhere.to_string()), 400, Some("ip mismatch")),
        (connect_method(&format!("{own}:81")), 401, Some("explicitly denied by: demo/no-81")),
        (connect_method(&format!("{own}:15008")), 503, Some("recursive call")),
        (connect_method("nobody.demo.svc.cluster.local:80"), 503, Some("no service")),
        (connect_method(&format!("{own}:1")), 503, Some("Connection refused")),
    ];
    for (request, status, reason) in table {
        let what = format!("{} {}", request.method(), request.uri());
        let mut reply = tunnel.send(request).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(reply.status.as_u16(), status, "{what}");
        match reason {
            None => assert!(reply.headers.contains_key("baggage"), "{what}: {:?}", reply.headers),
            Some(reason) => {
                let rest = reply.stream.read(&mut [0; 16]).await;
                assert!(matches!(rest, Ok(0)), "{what}: a refusal ends the stream, but {rest:?}");
                let who = tests::world::identity("stock");
                log_line(&node, &["connection complete", &who, "error=", reason]).await;
            }
        }
    }
    let metrics = node.metrics().expect("metrics");
    let failed = |flags| metrics.sum("istio_tcp_connections_failed_total", &[("response_flags", flags)]);
    assert_eq!((failed("DENY"), failed("CONNECT"), failed("-")), (1.0, 1.0, 5.0));
    world.check(&node);
}
