//! Micro benches of a tunnel: the parts of a turn without sockets, so that a change of one of them shows.
//!
//! `cargo bench -p benches --bench tunnel` runs all, with `-- small` those with `small` in their name.

use std::hint::black_box;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use benches::micro::{Figures, nanos, run};
use benches::tunnel::{Tunnel, TunnelError, request};
use hbone::{ConnectResponse, Event, Prepared, Time};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    run(&[
        ("bulk: seal and receive 256 KiB turns", || Ok(bulk(256 << 10)?)),
        ("small: seal and receive 128 byte turns", || Ok(bulk(128)?)),
        ("connect: encode and decode a request", || Ok(connect()?)),
        ("many: 16 streams of 128 bytes in one turn", || Ok(many()?)),
        ("move: freeze and thaw, 10 streams, 16 KiB of a record", || Ok(freeze()?)),
    ])
}

/// Turns until scratch pages are there and windows have grown.
const WARM_UP: u32 = 8;

/// A turn: payload laid out and sealed here, opened and consumed there.
fn bulk(size: usize) -> Result<Figures, TunnelError> {
    let turns = if size > 4096 { 20 } else { 2000 };
    let mut tunnel = Tunnel::open()?;
    let stream = tunnel.connect()?;
    let (mut sealing, mut receiving, mut bytes) = (Duration::ZERO, Duration::ZERO, 0);
    for turn in 0..WARM_UP + turns {
        if turn == WARM_UP {
            (sealing, receiving, bytes) = Default::default();
        }
        let Tunnel { client, server } = &mut tunnel;
        let begun = Instant::now();
        let mut slots = Vec::new();
        let room = client.connection.slots(stream, &mut client.outbox, size, &mut slots);
        black_box(&slots);
        drop(slots);
        client.connection.seal(stream, &mut client.outbox, room)?;
        sealing += begun.elapsed();
        bytes += room;

        let fresh = server.copy_from(client);
        let begun = Instant::now();
        server.receive(fresh)?;
        server.consume();
        receiving += begun.elapsed();
        // Window updates go back, outside of the measured time.
        tunnel.settle()?;
    }
    if size > 4096 {
        let rate = |time: Duration| bytes as f64 / 1e9 / time.as_secs_f64();
        return Ok(vec![("seal", "GB/s", rate(sealing)), ("receive", "GB/s", rate(receiving))]);
    }
    Ok(vec![("seal", "ns a turn", nanos(sealing, turns)), ("receive", "ns a turn", nanos(receiving, turns))])
}

/// Many small messages sealed into one write: what they cost once the system calls are shared.
fn many() -> Result<Figures, TunnelError> {
    const TURNS: u32 = 200;
    let mut tunnel = Tunnel::open()?;
    let streams = (0..16).map(|_| tunnel.connect()).collect::<Result<Vec<_>, _>>()?;
    let payload = [0x5a; 128];
    let (mut sealing, mut receiving) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..TURNS {
        let Tunnel { client, server } = &mut tunnel;
        let begun = Instant::now();
        for &stream in &streams {
            client.connection.send(stream, &payload, &mut client.outbox)?;
        }
        sealing += begun.elapsed();
        let fresh = server.copy_from(client);
        let begun = Instant::now();
        server.receive(fresh)?;
        server.consume();
        receiving += begun.elapsed();
        tunnel.settle()?;
    }
    let messages = TURNS * 16;
    Ok(vec![
        ("seal", "ns a message", nanos(sealing, messages)),
        ("receive", "ns a message", nanos(receiving, messages)),
    ])
}

/// A CONNECT with the headers of a node proxy: HPACK and stream set-up on both ends.
fn connect() -> Result<Figures, TunnelError> {
    const REQUESTS: u32 = 500;
    let mut tunnel = Tunnel::open()?;
    let request = request();
    let (mut encoding, mut decoding) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..REQUESTS {
        let Tunnel { client, server } = &mut tunnel;
        let begun = Instant::now();
        let stream = client.connection.connect(&request)?;
        client.connection.flush(&mut client.outbox)?;
        encoding += begun.elapsed();
        let fresh = server.copy_from(client);
        let begun = Instant::now();
        server.receive(fresh)?;
        decoding += begun.elapsed();
        assert!(matches!(server.events[..], [Event::Request { .. }]), "one request came");
        server.events.clear();
        // Both ends finish in order: resets in numbers would be taken for an attack.
        server.connection.respond(stream, &ConnectResponse::status(200), true);
        tunnel.settle()?;
        tunnel.client.connection.finish(stream);
        tunnel.settle()?;
    }
    Ok(vec![
        ("connect and flush", "ns a request", nanos(encoding, REQUESTS)),
        ("receive", "ns a request", nanos(decoding, REQUESTS)),
    ])
}

/// A tunnel in the midst of a record.
fn freeze() -> Result<Figures, TunnelError> {
    const MOVES: u32 = 100;
    let mut tunnel = Tunnel::open()?;
    let streams = (0..10).map(|_| tunnel.connect()).collect::<Result<Vec<_>, _>>()?;
    let Tunnel { client, mut server } = tunnel;
    let mut client = client;
    let mut slots = Vec::new();
    let room = client.connection.slots(streams[0], &mut client.outbox, 16_000, &mut slots);
    drop(slots);
    client.connection.seal(streams[0], &mut client.outbox, room)?;
    let fresh = server.copy_from(&mut client);
    server.receive(fresh - 1)?;
    let mut connection = server.connection;
    let (mut freezing, mut thawing) = (Duration::ZERO, Duration::ZERO);
    let mut size = 0;
    for _ in 0..MOVES {
        let begun = Instant::now();
        let snapshot = connection.freeze().snapshot(Time(0));
        freezing += begun.elapsed();
        size = snapshot.state.len();
        let begun = Instant::now();
        connection = Prepared::read(&snapshot.state)?.commit(Time(0), &snapshot.secrets)?;
        thawing += begun.elapsed();
    }
    Ok(vec![
        ("state", "bytes", size as f64),
        ("freeze and snapshot", "ns", nanos(freezing, MOVES)),
        ("read and commit", "ns", nanos(thawing, MOVES)),
    ])
}
