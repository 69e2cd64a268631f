//! What runs out: a reader's patience, a peer's, descriptors.

use std::time::{Duration, Instant};

use demo::traffic::pattern::{Cursor, Direction};
use demo::traffic::{Dial, Plan, socks5};
use tests::process::{processor_time, resident};
use tests::stock::LARGE_FRAMES;
use tests::traffic::{Traffic, all_whole, converse, idle, mixture, nothing};
use tests::wait;
use tests::world::{APPLICATION, Host, Variant, World, log};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::NODE;

in_both_variants! {
    a_slow_reader_costs_little_memory
    a_peer_that_stops_reading_costs_little_memory
    accepting_waits_for_descriptors
}

/// What a stalled connection may cost a node. What is kept of it is copied several times in each move, and the allocator
/// doesn't return that at once: a node whose tunnels move all the time may have more.
fn growth(variant: Variant) -> u64 {
    match variant {
        Variant::Still => 8 << 20,
        Variant::Moving => 32 << 20,
    }
}

/// A sender that has not got rid of a byte for so long is stalled.
const REST: Duration = Duration::from_millis(500);

async fn a_slow_reader_costs_little_memory(variant: Variant) {
    let world = World::new(NODE, variant);
    let (client, server) = (world.node(Host::Client, &[]), world.node(Host::Server, &[]));
    let dial = Dial::Socks5(client.socks5());
    // Buffers that belong to the workers have their size after this.
    let application = world.application(Host::Server);
    converse(dial, vec![application.address()], mixture(10)).await;
    drop(application);

    let target = world.at(Host::Server, APPLICATION + 1);
    let listener = TcpListener::bind(target).await.expect("a free port");
    let memory = || [resident(client.id()), resident(server.id())];
    let before = memory();
    let sender = socks5::connect(client.socks5(), target).await.expect("a SOCKS5 server");
    let (mut reader, _) = listener.accept().await.expect("a connection");
    let sent = stalled(sender).await;
    costs_at_most(growth(variant), before, memory).await;

    // It was waiting, not lost.
    let mut cursor = Cursor::new(1, Direction::Upload);
    let mut buffer = vec![0; 64 << 10];
    while cursor.offset() < sent {
        let count = reader.read(&mut buffer).await.expect("an open connection");
        assert!(count > 0, "it ended after {} of {sent} bytes", cursor.offset());
        cursor.check(&buffer[..count]).expect("the bytes that were sent");
    }
    world.check(&client);
    world.check(&server);
}

/// Memory of both nodes comes below the limit. Two copies of what is kept, which a move has for a moment, and pages
/// that the allocator is about to give back are no cost of a stalled connection.
async fn costs_at_most(limit: u64, before: [u64; 2], memory: impl Fn() -> [u64; 2]) {
    wait::until(format_args!("a stalled connection costs less than {} KiB", limit >> 10), || {
        before.into_iter().zip(memory()).all(|(before, after)| after < before + limit)
    })
    .await;
}

/// Writes until nothing moves any more; what was taken by then. Writing goes on in the background.
async fn stalled(mut sender: TcpStream) -> u64 {
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counter = sent.clone();
    tokio::spawn(async move {
        let mut cursor = Cursor::new(1, Direction::Upload);
        while cursor.offset() < 1 << 30 {
            let bytes = cursor.next(64 << 10);
            if sender.write_all(bytes).await.is_err() {
                return;
            }
            counter.store(cursor.offset(), std::sync::atomic::Ordering::Release);
        }
    });
    let count = || sent.load(std::sync::atomic::Ordering::Acquire);
    let total = wait::until_steady("the sender", REST, count).await;
    assert!(total > 0 && total < 1 << 30, "{total} bytes are no stall");
    total
}

async fn a_peer_that_stops_reading_costs_little_memory(variant: Variant) {
    const STREAMS: usize = 8;
    let world = World::new(NODE, variant);
    let (client, server) = (world.node(Host::Client, &[]), world.node(Host::Server, &[]));
    let application = world.application(Host::Server);
    // Not bulk: what is under way of it would count, too.
    let plan = Plan { requests: 1, ..nothing() };
    let traffic = Traffic::start(Dial::Socks5(client.socks5()), vec![application.address()], plan);
    traffic.progress().await;

    let target = world.at(Host::Server, APPLICATION + 1);
    let listener = TcpListener::bind(target).await.expect("a free port");
    let tunnel = world.stock_tunnel(LARGE_FRAMES).await;
    let mut streams = Vec::new();
    let mut senders = Vec::new();
    for _ in 0..STREAMS {
        let authority = target.to_string();
        let (reply, accepted) = tokio::join!(tunnel.open(&authority), listener.accept());
        streams.push(reply.expect("an answer").stream);
        senders.push(accepted.expect("a connection").0);
    }
    tunnel.stall();
    let before = resident(server.id());
    for sender in senders {
        stalled(sender).await;
    }
    let after = resident(server.id());
    assert!(after < before + growth(variant), "{} KiB more for a stalled peer", (after - before) >> 10);
    traffic.progress().await;
    traffic.finish();
    all_whole(application.tally()).await;
    world.check(&server);
}

async fn accepting_waits_for_descriptors(variant: Variant) {
    const CONNECTIONS: usize = 150;
    let world = World::new(NODE, variant);
    let node = world.node_after("ulimit -n 80", Host::Client, &[]);
    let server = world.node(Host::Server, &[]);
    let application = world.application(Host::Server);
    let dial = Dial::Socks5(node.socks5());
    let traffic = Traffic::start(dial, vec![application.address()], idle(2));
    traffic.progress().await;

    let (begun, time) = (Instant::now(), processor_time(node.id()));
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(TcpStream::connect(node.socks5()).await.expect("the kernel queues it"));
    }
    let said = || log(&node).lines().filter(|line| line.contains("accepting pauses")).count();
    wait::until("accepting pauses", || said() > 0).await;
    // The node has no descriptor left to answer with how often it has paused.
    wait::until("it has paused again and again", || begun.elapsed() > Duration::from_secs(1)).await;
    let used = processor_time(node.id()) - time;
    assert!(used < begun.elapsed() / 2, "it spins: {used:?} of processor time in {:?}", begun.elapsed());
    // Connections that are open are not touched.
    traffic.progress().await;
    assert_eq!(traffic.counts().opened, 2);

    drop(connections);
    converse(dial, vec![application.address()], mixture(5)).await;
    traffic.finish();
    // Each pause is 100 ms, however many connections come meanwhile.
    let pauses = node.metrics().expect("metrics").sum("ztunnel_accept_paused_total", &[]);
    let most = 1.0 + begun.elapsed().as_secs_f64() * 10.0;
    assert!((5.0..=most).contains(&pauses), "{pauses} pauses in {:?}", begun.elapsed());
    assert!(said() * 5 <= pauses as usize, "{} lines for {pauses} pauses", said());
    world.check(&node);
    world.check(&server);
}
