//! Memory of connections that say nothing.

use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use demo::node::Node;
use demo::stage::Stage;

use crate::application::Service;
use crate::error::LoadError;
use crate::figures::{Line, Section};
use crate::measure::{Bench, Build};
use crate::parallel;
use crate::process::memory;
use crate::route::{Dialer, Route};

/// Memory of both nodes before, with, and after idle connections. Once: a second time on the same nodes starts from
/// what the first has left.
///
/// # Errors
/// See [`LoadError`].
pub fn measure(bench: &Bench, build: &Build) -> Result<Section, LoadError> {
    let route = Route::through(&build.label, &build.proxy, &bench.settings(None), &bench.logs)?;
    let Some(stage) = route.stage() else { return Ok(Section::new("idle")) };
    // Opens a tunnel and whatever is made on first use.
    drop(route.dialer()?.open(Service::Echo)?);
    wait_for_none(stage)?;

    let before = Memory::of(stage)?;
    let connections = open(&route, bench.idle)?;
    let with = Memory::of(stage)?;
    let count = connections.len() as f64;
    drop(connections);
    wait_for_none(stage)?;
    let closed = Memory::of(stage)?;
    thread::sleep(DECAY);
    let later = Memory::of(stage)?;

    let mut section = Section::new(format!("idle connections: {count}, {}", build.label));
    for (who, node) in NODES {
        let mib = |memory: &Memory| vec![node(memory) / f64::from(1 << 20)];
        let each = (node(&with) - node(&before)) / count / 1024.0;
        section.push(Line::new(format!("{who}, before"), "MiB", mib(&before)));
        section.push(Line::new(format!("{who}, with them"), "MiB", mib(&with)));
        section.push(Line::new(format!("{who}, each of them"), "KiB", vec![each]));
        section.push(Line::new(format!("{who}, all closed"), "MiB", mib(&closed)));
        section.push(Line::new(format!("{who}, {} s later", DECAY.as_secs()), "MiB", mib(&later)));
    }
    Ok(section)
}

/// Bytes of both nodes.
struct Memory {
    client_node: u64,
    server_node: u64,
}

impl Memory {
    fn of(stage: &Stage) -> Result<Self, LoadError> {
        Ok(Self {
            client_node: memory(stage.client_node.id())?,
            server_node: memory(stage.server_node.id())?,
        })
    }
}

type Figure = fn(&Memory) -> f64;
const NODES: [(&str, Figure); 2] = [
    ("client node", |memory| memory.client_node as f64),
    ("server node", |memory| memory.server_node as f64),
];

/// Opens `count` connections, a few at a time; each is answered by the application once.
fn open(route: &Route, count: usize) -> Result<Vec<TcpStream>, LoadError> {
    let share = |client: usize| count / OPENERS + usize::from(client < count % OPENERS);
    let shares = std::sync::Mutex::new((0..OPENERS).map(share).collect::<Vec<_>>());
    let next = || shares.lock().map_or(0, |mut shares| shares.pop().unwrap_or(0));
    let work =
        |dialer: Dialer| (0..next()).map(|_| dialer.open(Service::Echo)).collect::<Result<Vec<_>, _>>();
    parallel::clients(route, OPENERS, Ok, work).map(|done| done.results.into_iter().flatten().collect())
}

fn wait_for_none(stage: &Stage) -> Result<(), LoadError> {
    let begun = Instant::now();
    loop {
        let left = streams(&stage.server_node)? + streams(&stage.client_node)?;
        if left == 0 {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            return Err(LoadError::NeverIdle { left, seconds: PATIENCE.as_secs() });
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// User connections that the node has not closed.
fn streams(node: &Node) -> Result<u64, LoadError> {
    let metrics = node.metrics()?;
    let open = metrics.sum("istio_tcp_connections_opened_total", &[])
        - metrics.sum("istio_tcp_connections_closed_total", &[]);
    Ok(open.max(0.0) as u64)
}

const OPENERS: usize = 8;
const PATIENCE: Duration = Duration::from_secs(20);
/// The allocator gives pages back after 10 s.
const DECAY: Duration = Duration::from_secs(15);
