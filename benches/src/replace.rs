//! Proxies that take each other's place, and what connections notice of it.
//!
//! ```text
//!   idle, busy ──SOCKS5──► client node ══ HBONE ══► server node ──► application
//!                          │ its proxy is replaced K times; then that of the other node
//! ```

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use demo::node::{Node, NodeError, Proxy};
use demo::stage::{NodeSettings, Side, Site, Stage};
use rustix::process::Signal;

use crate::error::{LoadError, during};
use crate::figures::{Line, Section};

pub mod cores;
pub mod load;
pub mod status;
pub mod waits;

use cores::Cores;
use load::{Load, Plan};
use status::{Standing, Taken};
use waits::Waits;

/// How a proxy is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// When its successor has the role, it is told to end.
    Sigterm,
    /// Nobody is told anything: connections follow when the successor has had the role for a while.
    Bake,
    /// The successor is killed when the first connection is offered to it.
    Kill,
    /// There is no hand-over: it is told to end, then the successor starts.
    Control,
}

impl Way {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Sigterm, Self::Bake, Self::Kill, Self::Control];

    /// What the command line calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sigterm => "sigterm",
            Self::Bake => "bake",
            Self::Kill => "kill",
            Self::Control => "control",
        }
    }
}

/// What is replaced, under which load.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The proxy program.
    pub proxy: Proxy,
    /// Data-plane threads of each node.
    pub workers: usize,
    /// Connections that say nothing.
    pub idle: usize,
    /// Connections with requests all the time.
    pub busy: usize,
    /// From an answer to the next request, on average.
    pub gap: Duration,
    /// How often each node's proxy is replaced.
    pub replacements: usize,
    /// The least time that round trips are collected for.
    pub window: Duration,
    /// Whether the replaced node has one processor.
    pub one_core: bool,
    /// Where logs go.
    pub logs: PathBuf,
}

/// Replaces the proxies of both nodes, each on nodes of its own, and gives the figures to `show`.
///
/// # Errors
/// See [`LoadError`]. That connections were lost is no error, but a figure.
pub fn measure(setting: &Setting, way: Way, show: &mut impl FnMut(Section)) -> Result<(), LoadError> {
    for (side, name) in [(Side::Client, "client"), (Side::Server, "server")] {
        let mut run = Run::start(setting, way, side, name)?;
        let mut figures = Figures::default();
        // Without a hand-over nothing is left that a second one could lose.
        let times = if way == Way::Control { 1 } else { setting.replacements };
        for number in 0..times {
            run.replace(number, &mut figures)?;
        }
        let cores = if setting.one_core { ", one processor" } else { "" };
        let (idle, busy) = (setting.idle, setting.busy);
        let title = format!("{}, {name}'s node{cores}: {idle} idle, {busy} busy", way.name());
        show(figures.section(title));
    }
    Ok(())
}

/// Two nodes under load, of which one is replaced.
struct Run<'s> {
    setting: &'s Setting,
    way: Way,
    side: Side,
    name: &'static str,
    cores: Cores,
    load: Load,
    stage: Stage,
}

impl<'s> Run<'s> {
    fn start(setting: &'s Setting, way: Way, side: Side, name: &'static str) -> Result<Self, LoadError> {
        let logs = tempfile::Builder::new().prefix("nodes-").tempdir_in(&setting.logs);
        let logs = logs.map_err(during("no directory for logs"))?.keep();
        let cores = if setting.one_core { Cores::OneForTheNode } else { Cores::Shared };
        cores.apart()?;
        let bake = if way == Way::Sigterm { NEVER } else { BAKE };
        let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let nodes = NodeSettings {
            workers: setting.workers,
            move_interval: None,
            handover: way != Way::Control,
            environment: vec![variable("HANDOVER_BAKE", bake)],
        };
        let mut stage = Stage::start(Site::loopback()?, &setting.proxy, &nodes, &logs)?;
        cores.place(stage.node(side).id(), true)?;
        let Setting { idle, busy, gap, .. } = *setting;
        let (node, server) = (stage.client_node.socks5(), stage.server.address().ip());
        let load = Load::open(node, server, Plan { idle, busy, gap })?;
        Ok(Self { setting, way, side, name, cores, load, stage })
    }

    fn replace(&mut self, number: usize, figures: &mut Figures) -> Result<(), LoadError> {
        // Whatever the last replacement has left in the queues goes first.
        thread::sleep(SETTLE);
        self.load.waits();
        thread::sleep(self.setting.window);
        let before = self.load.waits();
        let name = format!("{}-{}", self.name, number + 2);
        match self.way {
            Way::Sigterm | Way::Bake => {
                let mut successor = self.start_successor(&name, &[])?;
                until("the successor has the role and runs its canary", || {
                    successor.check_alive()?;
                    let standing = Standing::of(&successor)?;
                    Ok(standing.pod_is(&name) && standing.owns && standing.taken.pauses > 0)
                })?;
                let starting = self.load.waits();
                let predecessor = std::mem::replace(self.stage.node(self.side), successor);
                let took = self.give(predecessor)?;
                thread::sleep(self.setting.window.saturating_sub(took));
                let meanwhile = self.load.waits();
                figures.round_trips(&before, &starting, &meanwhile);
                figures.add("time to move all", "ms", took.as_secs_f64() * 1000.0);
                figures.taken(&Standing::of(self.stage.node(self.side))?.taken);
            }
            Way::Kill => {
                let mut successor = self.start_successor(&name, &[("HANDOVER_PAUSE_AT", "canary")])?;
                until("the successor has read the first connection", || {
                    successor.check_alive()?;
                    Ok(status::is_stopped(successor.id()))
                })?;
                let starting = self.load.waits();
                let begun = Instant::now();
                drop(successor);
                until("its predecessor has the role again", || {
                    // Until then nobody may be there to answer.
                    let standing = Standing::of(self.stage.node(self.side));
                    Ok(standing.is_ok_and(|standing| standing.owns))
                })?;
                let took = begun.elapsed();
                thread::sleep(self.setting.window.saturating_sub(took));
                figures.round_trips(&before, &starting, &self.load.waits());
                figures.add(
                    "from the kill until the predecessor has the role",
                    "ms",
                    took.as_secs_f64() * 1000.0,
                );
            }
            Way::Control => {
                let begun = Instant::now();
                end(self.stage.node(self.side))?;
                let mut successor = self.start_successor(&name, &[])?;
                successor.wait_ready(PATIENCE)?;
                *self.stage.node(self.side) = successor;
                figures.add(
                    "from SIGTERM until a proxy is ready again",
                    "ms",
                    begun.elapsed().as_secs_f64() * 1000.0,
                );
            }
        }
        let lost = self.load.lost();
        if let Some(why) = lost.first() {
            eprintln!("{name}: {} connections were lost, the first one: {why}", lost.len());
        }
        figures.add("connections lost", "", lost.len() as f64);
        Ok(())
    }

    fn start_successor(&self, name: &str, more: &[(&str, &str)]) -> Result<Node, LoadError> {
        let started = self.cores.with_the_node(|| self.stage.start_successor_with(self.side, name, more))?;
        started.map_err(LoadError::from)
    }

    /// Waits until a process that was replaced has given everything; how long that took.
    fn give(&mut self, mut predecessor: Node) -> Result<Duration, LoadError> {
        let begun = Instant::now();
        if self.way == Way::Sigterm {
            end(&mut predecessor)?;
            return Ok(begun.elapsed());
        }
        let all = self.setting.idle + self.setting.busy;
        let (successor, mut still) = (&*self.stage.node(self.side), begun);
        let canary = Standing::of(successor)?.taken.connections;
        until("every connection has followed", || {
            let asked = Instant::now();
            let taken = Standing::of(successor)?.taken.connections;
            if taken <= canary {
                still = asked;
            }
            Ok(taken >= all)
        })?;
        let took = still.elapsed();
        end(&mut predecessor)?;
        Ok(took)
    }
}

/// Tells a proxy to end, and waits until it has.
fn end(node: &mut Node) -> Result<(), LoadError> {
    node.send(Signal::TERM)?;
    let mut ended = None;
    until("the proxy that is replaced has ended", || {
        ended = node.ended()?;
        Ok(ended.is_some())
    })?;
    match ended {
        Some(status) if !status.success() => Err(LoadError::End { status }),
        _ => Ok(()),
    }
}

fn until(what: &'static str, mut holds: impl FnMut() -> Result<bool, NodeError>) -> Result<(), LoadError> {
    let begun = Instant::now();
    while !holds()? {
        if begun.elapsed() > PATIENCE {
            return Err(LoadError::Late { what, seconds: PATIENCE.as_secs() });
        }
        thread::sleep(POLL);
    }
    Ok(())
}

/// Values of every replacement, line by line in the order in which they first came.
#[derive(Default)]
struct Figures(Vec<Line>);

impl Figures {
    fn add(&mut self, item: &str, unit: &'static str, value: f64) {
        match self.0.iter_mut().find(|line| line.item == item) {
            Some(line) => line.values.push(value),
            None => self.0.push(Line::new(item, unit, vec![value])),
        }
    }

    fn round_trips(&mut self, before: &Waits, starting: &Waits, meanwhile: &Waits) {
        for (when, waits) in [("before", before), ("successor starts", starting), ("moving", meanwhile)] {
            self.add(&format!("{when}: round trips"), "", waits.count() as f64);
            for (what, share) in SHARES {
                self.add(&format!("{when}: round trip, {what}"), "ms", waits.round_trip(share));
            }
            for (what, share) in [("p50", 0.5), ("p99", 0.99)] {
                self.add(&format!("{when}: longest of a connection, {what}"), "ms", waits.longest(share));
            }
        }
        let ratio = meanwhile.round_trip(0.99) / before.round_trip(0.99);
        self.add("round trip, p99, moving / before", "ratio", ratio);
    }

    fn taken(&mut self, taken: &Taken) {
        self.add("connections moved", "", taken.connections as f64);
        for ((what, _), ms) in SHARES.into_iter().zip(taken.pause_ms) {
            self.add(&format!("pause of a tunnel, {what}"), "ms", ms);
        }
        self.add("state", "bytes a connection", taken.bytes as f64 / taken.connections.max(1) as f64);
    }

    fn section(self, title: String) -> Section {
        Section { title, lines: self.0 }
    }
}

const SHARES: [(&str, f64); 3] = [("p50", 0.5), ("p99", 0.99), ("longest", 1.0)];
const BAKE: &str = "1s";
const NEVER: &str = "600s";
const SETTLE: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(30);
