//! Connections without a tunnel.

use demo::node::{INBOUND_PLAINTEXT_PORT, OUTBOUND_PORT, SOCKS5_PORT, TUNNEL_PORT};
use demo::traffic::{Dial, socks5};
use tests::traffic::{all_whole, converse, mixture};
use tests::world::{Host, Variant, World, log, log_line};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::NODE;

in_both_variants! {
    what_is_not_in_the_mesh_gets_plain_tcp
}

async fn what_is_not_in_the_mesh_gets_plain_tcp(variant: Variant) {
    let world = World::new(NODE, variant);
    let node = world.node(Host::Client, &[]);
    for (host, workload) in [(Host::Stranger, "unknown"), (Host::Plain, "plain")] {
        let application = world.application(host);
        let counts = converse(Dial::Socks5(node.socks5()), vec![application.address()], mixture(20)).await;
        all_whole(application.tally()).await;
        let line =
            log_line(&node, &["connection complete", &format!("dst.addr={}", application.address())]).await;
        assert!(!line.contains("identity") && !line.contains("hbone"), "{line}");
        let metrics = node.metrics().expect("metrics");
        let labels = [("connection_security_policy", "unknown"), ("destination_workload", workload)];
        let opened = metrics.sum("istio_tcp_connections_opened_total", &labels);
        assert_eq!(opened, counts.opened as f64);
        assert_eq!(metrics.sum("istio_tcp_connections_failed_total", &labels), 0.0);
    }
    world.check(&node);
}

/// Without redirection a connection to a capturing port has that port as its destination: the proxy itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn loops_are_refused() {
    let world = World::new(NODE, Variant::Still);
    let node = world.node(Host::Client, &[]);
    for port in [OUTBOUND_PORT, INBOUND_PLAINTEXT_PORT] {
        let address = world.at(Host::Client, port);
        // It may be reset before it is seen here.
        if let Ok(mut connection) = TcpStream::connect(address).await {
            assert_ends_empty(&mut connection).await;
        }
        log_line(&node, &["connection failed", &format!("{address} is the proxy itself")]).await;
    }
    for port in [OUTBOUND_PORT, INBOUND_PLAINTEXT_PORT, TUNNEL_PORT, SOCKS5_PORT] {
        let before = log(&node).lines().count();
        let own = world.at(Host::Client, port);
        let mut connection = socks5::connect(node.socks5(), own).await.expect("a SOCKS5 server");
        assert_ends_empty(&mut connection).await;
        let lines =
            || log(&node).lines().skip(before).filter(|line| line.contains("is the proxy itself")).count();
        tests::wait::until("one line is logged", || lines() == 1).await;
    }
    assert_eq!(node.metrics().expect("metrics").sum("ztunnel_tunnels_open", &[]), 0.0);
    world.check(&node);
}

async fn assert_ends_empty(connection: &mut TcpStream) {
    let seen = connection.read(&mut [0; 16]).await;
    assert!(matches!(seen, Ok(0) | Err(_)), "{seen:?}");
}
