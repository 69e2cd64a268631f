//! Both nodes' proxies are replaced while connections run: with a hand-over, and, as a control, without.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde::Serialize;
use serde_json::Value;

use crate::display::Display;
use crate::node::metrics::Buckets;
use crate::node::{ADMIN_PORT, Node, NodeError, READINESS_PORT};
use crate::stage::{Side, Stage, StageError};
use crate::traffic::{ApplicationError, Clients, Counts, Ends, Plan};

pub mod timeline;

use timeline::{Moment, Timeline};

/// How a proxy is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The successor comes up beside its predecessor and takes everything from it.
    HandOver,
    /// The predecessor is told to end, and drains; then the successor begins.
    OneAfterTheOther,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct UpgradeFigures {
    /// One after the other.
    pub replacements: Vec<Replacement>,
    /// Connections that were to live through it.
    pub long_lived: u64,
    /// Those that did not.
    pub lost: Ends,
    /// Connections that were opened meanwhile for one request each.
    pub fresh: u64,
    /// Those that failed.
    pub fresh_lost: Ends,
    /// Payload bytes that arrived at either end, all of them right.
    pub bytes_checked: u64,
    /// How long connections stood still while they went over, as the successors say: upper bounds in ms (`None` above the
    /// last one), and how many were within each and above the one before.
    pub pauses: Vec<(Option<f64>, u64)>,
    /// Moment by moment.
    pub timeline: Vec<Moment>,
    /// What else went wrong.
    pub incidents: Vec<String>,
}

/// One proxy in another one's place.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Replacement {
    /// The node's name.
    pub node: String,
    /// When it began, by the timeline.
    pub begun_seconds: f64,
    /// When the predecessor was gone and the successor ready.
    pub ended_seconds: f64,
    /// The process that accepted connections before.
    pub pid_before: u32,
    /// The one that does now.
    pub pid_after: u32,
    /// Connections that went over, and how long they stood still; `None` if there was no hand-over.
    pub moved: Option<Moved>,
}

/// What the successor says of the connections that it took.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Moved {
    /// How many: plain ones, those that were being set up, and tunnels with all of their streams.
    pub connections: u64,
    /// Half of them stood still for at most so long.
    pub pause_p50_ms: f64,
    /// 99 of 100.
    pub pause_p99_ms: f64,
    /// All.
    pub pause_max_ms: f64,
}

/// It did not come to figures.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// The stage could not be set up.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// A node.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// An application.
    #[error(transparent)]
    Application(#[from] ApplicationError),
    /// Nobody reads, or there is no thread.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A step of a replacement took too long.
    #[error("{node}: after {} s still not: {what}", limit.as_secs())]
    Late {
        /// The successor.
        node: String,
        /// What should have become true.
        what: &'static str,
        /// How long it was given.
        limit: Duration,
    },
    /// The predecessor did not end as it should.
    #[error("{node}: the proxy that was replaced ended with {status}")]
    End {
        /// Its node.
        node: String,
        /// How.
        status: std::process::ExitStatus,
    },
    /// It was told to stop.
    #[error("interrupted")]
    Interrupted,
}

/// Replaces the proxies of both nodes of `stage` `times` times each, in turn, under load.
///
/// # Errors
/// See [`UpgradeError`]. That connections were lost is no error.
pub fn run<W: Write>(
    mut stage: Stage,
    way: Way,
    times: usize,
    interrupted: &AtomicBool,
    display: &mut Display<W>,
) -> Result<UpgradeFigures, UpgradeError> {
    let long = stage.clients(long_lived())?;
    let fresh = stage.clients(fresh())?;
    until("connections", interrupted, "every connection is open", || {
        Ok(long.tally().counts().answers >= long_lived().idle as u64)
    })?;
    let timeline = Timeline::begin(vec![long.shared_tally(), fresh.shared_tally()])?;
    let mut upgrade = Upgrade { stage: &mut stage, way, interrupted, pauses: Buckets::default() };
    let mut replacements = Vec::new();
    upgrade.calm(&timeline)?;
    for number in 0..times {
        for (side, name) in [(Side::Client, "node-client"), (Side::Server, "node-server")] {
            let before = lost(&long, &fresh);
            let replacement = upgrade.replace(side, name, number + 2, &timeline)?;
            upgrade.calm(&timeline)?;
            display.say(&line(&replacement, lost(&long, &fresh) - before))?;
            replacements.push(replacement);
        }
    }
    let pauses = upgrade.pauses.within();
    let pauses = pauses.into_iter().map(|(seconds, count)| (seconds.map(|bound| bound * 1000.0), count));
    let moments = timeline.end();
    let ended = [&long, &fresh].map(|clients| clients.finish(FINISH_PATIENCE));
    settle(&stage);
    let (long, fresh, server) =
        (long.tally().counts(), fresh.tally().counts(), stage.server.tally().counts());
    let figures = UpgradeFigures {
        replacements,
        long_lived: long_lived().connections() as u64,
        lost: long.ends,
        fresh: fresh.opened,
        fresh_lost: fresh.ends,
        bytes_checked: long.checked + fresh.checked + server.checked,
        pauses: pauses.collect(),
        timeline: moments,
        incidents: incidents(&long, &fresh, &server, ended == [true; 2]),
    };
    stage.stop()?;
    Ok(figures)
}

struct Upgrade<'s> {
    stage: &'s mut Stage,
    way: Way,
    interrupted: &'s AtomicBool,
    pauses: Buckets,
}

impl Upgrade<'_> {
    fn replace(
        &mut self,
        side: Side,
        node: &str,
        generation: usize,
        timeline: &Timeline,
    ) -> Result<Replacement, UpgradeError> {
        let (begun_seconds, pid_before) = (timeline.seconds(), self.stage.node(side).id());
        let name = format!("{node}-{generation}");
        let moved = match self.way {
            Way::HandOver => {
                let mut successor = self.stage.start_successor(side, &name)?;
                self.wait(&name, "it has taken the role, and is ready", || {
                    successor.check_alive()?;
                    Ok(has_role(&successor, &name))
                })?;
                let predecessor = std::mem::replace(self.stage.node(side), successor);
                self.end(node, predecessor)?;
                let successor = self.stage.node(side);
                let pauses = successor.metrics()?.histogram("ztunnel_handover_pause_seconds");
                self.pauses = std::mem::take(&mut self.pauses).merged(&pauses);
                Some(taken(self.stage.node(side))?)
            }
            Way::OneAfterTheOther => {
                // It has to be gone before the other one can listen.
                self.stage.node(side).send(Signal::TERM)?;
                let (stage, interrupted) = (&mut *self.stage, self.interrupted);
                until(node, interrupted, "it has ended", || Ok(stage.node(side).ended()?.is_some()))?;
                let mut successor = self.stage.start_successor(side, &name)?;
                successor.wait_ready(LIMIT)?;
                *self.stage.node(side) = successor;
                None
            }
        };
        Ok(Replacement {
            node: node.to_owned(),
            begun_seconds,
            ended_seconds: timeline.seconds(),
            pid_before,
            pid_after: self.stage.node(side).id(),
            moved,
        })
    }

    /// Tells a proxy to end that has been replaced, and waits until it has.
    fn end(&self, node: &str, mut predecessor: Node) -> Result<(), UpgradeError> {
        predecessor.send(Signal::TERM)?;
        let mut status = None;
        self.wait(node, "the proxy that was replaced has ended", || {
            status = predecessor.ended()?;
            Ok(status.is_some())
        })?;
        match status {
            Some(status) if !status.success() => Err(UpgradeError::End { node: node.to_owned(), status }),
            _ => Ok(()),
        }
    }

    /// Lets the traffic run.
    fn calm(&self, timeline: &Timeline) -> Result<(), UpgradeError> {
        let begun = timeline.seconds();
        self.wait("the demo", "a moment has passed", || Ok(timeline.seconds() >= begun + CALM_SECONDS))
    }

    fn wait(
        &self,
        node: &str,
        what: &'static str,
        holds: impl FnMut() -> Result<bool, NodeError>,
    ) -> Result<(), UpgradeError> {
        until(node, self.interrupted, what, holds)
    }
}

fn until(
    node: &str,
    interrupted: &AtomicBool,
    what: &'static str,
    mut holds: impl FnMut() -> Result<bool, NodeError>,
) -> Result<(), UpgradeError> {
    let begun = Instant::now();
    while !holds()? {
        if interrupted.load(Ordering::Relaxed) {
            return Err(UpgradeError::Interrupted);
        }
        if begun.elapsed() > LIMIT {
            return Err(UpgradeError::Late { node: node.to_owned(), what, limit: LIMIT });
        }
        thread::sleep(POLL);
    }
    Ok(())
}

/// Whether the operators' pages are those of this very process, and say that all is well.
fn has_role(node: &Node, name: &str) -> bool {
    let page = |port, path| node.page_within(PAGE_LIMIT, port, path).ok();
    let Some(status) = page(ADMIN_PORT, "/handover").and_then(|answer| json(&answer.body)) else {
        return false;
    };
    let its_own = status["pod"].as_str().is_some_and(|pod| pod.ends_with(&format!("/{name}")));
    its_own
        && status["role"] == "owner"
        && page(READINESS_PORT, "/healthz/ready").is_some_and(|answer| answer.status == 200)
}

/// What a successor says of what it has taken.
fn taken(node: &Node) -> Result<Moved, NodeError> {
    let status = json(&node.page(ADMIN_PORT, "/handover")?.body).unwrap_or_default();
    let empty = Vec::new();
    let sessions = status["sessions"].as_array().unwrap_or(&empty);
    let taken = sessions.last().map_or(&Value::Null, |session| &session["taken"]);
    let moved = taken["moved"].as_object();
    let count = |kind: &str| moved.and_then(|moved| moved.get(kind)?.as_u64()).unwrap_or_default();
    let pause = |name: &str| taken["pause"][name].as_f64().unwrap_or_default();
    Ok(Moved {
        connections: count("stream") + count("plain") + count("setup"),
        pause_p50_ms: pause("p50Ms"),
        pause_p99_ms: pause("p99Ms"),
        pause_max_ms: pause("maxMs"),
    })
}

fn json(body: &str) -> Option<Value> {
    serde_json::from_str(body).ok()
}

fn lost(long: &Clients, fresh: &Clients) -> u64 {
    [long, fresh].map(|clients| clients.tally().counts().failed).iter().sum()
}

fn line(replacement: &Replacement, lost: u64) -> String {
    let Replacement { node, pid_before, pid_after, moved, .. } = replacement;
    let went = moved.as_ref().map_or_else(String::new, |moved| {
        format!(
            "{} connections went over, each stood still for at most {:.1} ms (half of them {:.1}); ",
            moved.connections, moved.pause_max_ms, moved.pause_p50_ms
        )
    });
    format!("  {node}: process {pid_before} is replaced by {pid_after}; {went}{lost} reset")
}

/// What failed beside the connections that are counted, and what only a whole run can tell.
fn incidents(long: &Counts, fresh: &Counts, server: &Counts, ended: bool) -> Vec<String> {
    let mut incidents = Vec::new();
    let open = long.open() + fresh.open() + server.open();
    if !ended || open > 0 {
        incidents.push(format!("{open} connections did not come to an end"));
    }
    // Broken connections lose bytes by nature.
    if long.failed + fresh.failed + server.failed == 0 {
        for (sent, checked) in
            [(long.sent + fresh.sent, server.checked), (server.sent, long.checked + fresh.checked)]
        {
            if sent != checked {
                incidents.push(format!("{sent} bytes were sent, {checked} arrived"));
            }
        }
    }
    let wrong = long.ends.wrong + fresh.ends.wrong + server.ends.wrong;
    if wrong > 0 {
        let failures = [long, fresh, server].into_iter().find_map(|counts| counts.failures.first());
        incidents.push(format!("{wrong} connections with wrong bytes, among them: {failures:?}"));
    }
    incidents
}

/// The clients have ended; the server learns of the last ends a moment later.
fn settle(stage: &Stage) {
    let begun = Instant::now();
    while stage.server.tally().counts().open() > 0 && begun.elapsed() < FINISH_PATIENCE {
        thread::sleep(POLL);
    }
}

impl UpgradeFigures {
    /// Everything that is not as promised of a hand-over.
    pub fn judge(&self) -> Vec<String> {
        let mut reasons = self.incidents.clone();
        for (what, lost) in [("long-lived", self.lost), ("fresh", self.fresh_lost)] {
            if lost.total() > 0 {
                reasons.push(format!("replacements were noticed by {what} connections: {lost}"));
            }
        }
        for replacement in &self.replacements {
            if replacement.moved.is_none_or(|moved| moved.connections == 0) {
                reasons.push(format!("no connection went over on {}", replacement.node));
            }
            if replacement.pid_before == replacement.pid_after {
                reasons.push(format!("{} has the same process as before", replacement.node));
            }
        }
        reasons
    }

    /// Why this run without a hand-over proves nothing about those with one.
    pub fn judge_control(&self) -> Vec<String> {
        let mut reasons = self.incidents.clone();
        if self.lost.total() < self.long_lived {
            reasons.push(format!(
                "without a hand-over {} of {} long-lived connections were lost: who kept the others?",
                self.lost.total(),
                self.long_lived
            ));
        }
        reasons
    }
}

fn long_lived() -> Plan {
    Plan { bulk: 2, idle: 100, ..nothing() }
}

fn fresh() -> Plan {
    Plan { fresh: 2, seed: 2, ..nothing() }
}

fn nothing() -> Plan {
    let idle_pause = Duration::from_millis(300);
    Plan { bulk: 0, requests: 0, fresh: 0, half_close: 0, idle: 0, idle_pause, seed: 1 }
}

/// How often each proxy is replaced.
pub const TIMES: usize = 3;

const CALM_SECONDS: f64 = 1.0;
const LIMIT: Duration = Duration::from_secs(20);
const PAGE_LIMIT: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(20);
const FINISH_PATIENCE: Duration = Duration::from_secs(15);
