//! What it costs to move a tunnel: between workers under load, and in memory.

use std::time::{Duration, Instant};

use demo::node::{Node, NodeError, metrics::Buckets};
use hbone::{Prepared, Time};

use crate::bulk::{self, Transfer};
use crate::error::LoadError;
use crate::exchange::{self, Exchange};
use crate::figures::{Line, Section};
use crate::measure::{Bench, Build, compare};
use crate::route::Route;
use crate::tunnel::{Tunnel, TunnelError};

/// How often every tunnel moves under load.
const INTERVAL: Duration = Duration::from_millis(5);

/// Bulk and requests through nodes whose tunnels move all the time, beside nodes whose tunnels stay.
///
/// # Errors
/// See [`LoadError`].
pub fn under_load(bench: &Bench, build: &Build) -> Result<Section, LoadError> {
    let route = |label, interval| Route::through(label, &build.proxy, &bench.settings(interval), &bench.logs);
    let routes = || Ok(vec![route("staying", None)?, route("moving", Some(INTERVAL))?]);
    let runs = bench.rounds(routes, |route| Load::carry(route, bench.duration))?;
    let title = format!("tunnels that move every {} ms, {}", INTERVAL.as_millis(), build.label);
    let mut section = Section::new(title);
    compare(&mut section, &runs, "bulk, 1 connection", "Gb/s", |load| load.bulk.gigabits());
    compare(&mut section, &runs, "16 connections, requests", "1/s", |load| load.requests.rate());
    compare(&mut section, &runs, "16 connections, p99", "µs", |load| load.requests.micros(0.99));
    let moving = runs.last().map(|runs| runs.results.as_slice()).unwrap_or_default();
    for (place, who) in ["client node", "server node"].into_iter().enumerate() {
        let all = moving.iter().map(|load| &load.pauses[place]);
        pauses(&mut section, who, &all.fold(Buckets::default(), Buckets::merged));
    }
    Ok(section)
}

/// What one round carries over one route.
struct Load {
    bulk: Transfer,
    requests: Exchange,
    /// Of the client's node and of the server's.
    pauses: [Buckets; 2],
}

impl Load {
    fn carry(route: &Route, duration: Duration) -> Result<Self, LoadError> {
        let bulk = bulk::transfer(route, 1, duration)?;
        let requests = exchange::requests(route, 16, duration)?;
        let pauses =
            |node: &Node| Ok::<_, NodeError>(node.metrics()?.histogram("ztunnel_tunnel_move_pause_seconds"));
        let pauses = match route.stage() {
            Some(stage) => [pauses(&stage.client_node)?, pauses(&stage.server_node)?],
            None => Default::default(),
        };
        Ok(Self { bulk, requests, pauses })
    }
}

/// Freezes and thaws one idle tunnel with several streams, `rounds` times in batches.
///
/// # Errors
/// The tunnel broke.
pub fn in_memory(rounds: usize) -> Result<Section, LoadError> {
    let mut section = Section::new("an idle tunnel in memory, its client's end");
    for streams in [1, 10, 100] {
        let figures: Vec<Move> = (0..rounds)
            .map(|_| move_once(streams))
            .collect::<Result<_, _>>()
            .map_err(|error| LoadError::Tunnel(error.to_string()))?;
        let of = |value: fn(&Move) -> f64| figures.iter().map(value).collect();
        section.push(Line::new(format!("streams: {streams}, state"), "bytes", of(|it| it.state as f64)));
        section.push(Line::new(format!("streams: {streams}, freeze and snapshot"), "µs", of(|it| it.freeze)));
        section.push(Line::new(format!("streams: {streams}, read and commit"), "µs", of(|it| it.thaw)));
    }
    Ok(section)
}

/// The mean of many moves.
struct Move {
    state: usize,
    /// Microseconds.
    freeze: f64,
    /// Microseconds.
    thaw: f64,
}

fn move_once(streams: usize) -> Result<Move, TunnelError> {
    const MOVES: u32 = 1000;
    let mut tunnel = Tunnel::open()?;
    for _ in 0..streams {
        tunnel.connect()?;
    }
    let mut connection = tunnel.client.connection;
    let (mut freeze, mut thaw, mut state) = (Duration::ZERO, Duration::ZERO, 0);
    for _ in 0..MOVES {
        let begun = Instant::now();
        let snapshot = connection.freeze().snapshot(Time(0));
        let frozen = Instant::now();
        connection = Prepared::read(&snapshot.state)?.commit(Time(0), &snapshot.secrets)?;
        thaw += frozen.elapsed();
        freeze += frozen - begun;
        state = snapshot.state.len();
    }
    let micros = |total: Duration| total.as_secs_f64() * 1e6 / f64::from(MOVES);
    Ok(Move { state, freeze: micros(freeze), thaw: micros(thaw) })
}

/// A histogram knows of a value only which bounds it lies between.
fn pauses(section: &mut Section, who: &str, pauses: &Buckets) {
    section.push(Line::new(format!("{who}, moves"), "moves", vec![pauses.count()]));
    let Some(mean) = pauses.mean() else { return };
    section.push(Line::new(format!("{who}, pause, mean"), "µs", vec![mean * 1e6]));
    for (name, quantile) in [("half", 0.5), ("99 %", 0.99), ("99.9 %", 0.999), ("all", 1.0)] {
        if let Some(bound) = pauses.bound(quantile) {
            section.push(Line::new(format!("{who}, pause, {name} at most"), "µs", vec![bound * 1e6]));
        }
    }
}
