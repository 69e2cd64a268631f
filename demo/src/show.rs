//! The demonstration: a stage, load for a while, a look at everything several times a second, a verdict.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::acts::{ActError, Acts};
use crate::addresses::NoAddresses;
use crate::arguments::Arguments;
use crate::display::{Display, Moment};
use crate::netns::NetnsError;
use crate::node::{Node, NodeError, Proxy};
use crate::page;
use crate::report::{LatencyFigures, NodeFigures, Observations, Report, Upgrades};
use crate::stage::{NodeSettings, Site, Stage, StageError};
use crate::traffic::{ApplicationError, Clients, Plan};
use crate::upgrade::{self, TIMES, UpgradeError, Way};

/// Why it did not come to a verdict on traffic.
#[derive(Debug, thiserror::Error)]
pub enum ShowError {
    /// The stage could not be set up.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// A node failed.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The clients could not be started.
    #[error(transparent)]
    Application(#[from] ApplicationError),
    /// The acts could not begin.
    #[error(transparent)]
    Acts(#[from] ActError),
    /// The loopback addresses are all in use.
    #[error(transparent)]
    Addresses(#[from] NoAddresses),
    /// The network namespaces could not be made.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The replacements.
    #[error(transparent)]
    Upgrade(#[from] UpgradeError),
    /// The report could not be written.
    #[error("the report cannot be written to {path}: {source}")]
    Write {
        /// Where to.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// No directory for logs, or nobody reads what is shown.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It was told to stop before any traffic.
    #[error("interrupted")]
    Interrupted,
}

/// Shows the mesh at work, writes the JSON file if there shall be one, and returns the verdict. Every process and
/// namespace is gone afterwards. Once `interrupted` is true it comes to an end soon.
pub fn run<W: Write>(arguments: &Arguments, interrupted: &AtomicBool, display: &mut Display<W>) -> Report {
    let report = match try_run(arguments, interrupted, display) {
        Ok(report) => report,
        Err(error) => {
            // In full here, with its lines; the verdict has it in one.
            display.say(&format!("\n{error}\n")).ok();
            Report::failed(error.to_string())
        }
    };
    let json = arguments.json.as_ref().map(|path| (path, write_json(path, &report)));
    let page = page::html(&report).map(|html| (&arguments.page, fs::write(&arguments.page, html)));
    if let Some((path, Ok(()))) = &page {
        display.say(&format!("The replacements, moment by moment: {}", path.display())).ok();
    }
    json.into_iter().chain(page).fold(report, |report, (path, written)| match written {
        Ok(()) => report,
        Err(source) => {
            report.spoilt(ShowError::Write { path: path.display().to_string(), source }.to_string())
        }
    })
}

fn write_json(path: &Path, report: &Report) -> io::Result<()> {
    let mut json = serde_json::to_vec_pretty(report)?;
    json.push(b'\n');
    fs::write(path, json)
}

fn try_run<W: Write>(
    arguments: &Arguments,
    interrupted: &AtomicBool,
    display: &mut Display<W>,
) -> Result<Report, ShowError> {
    let logs = tempfile::Builder::new().prefix("demo-").tempdir()?;
    let proxy = match &arguments.proxy {
        Some(program) => Proxy::at(program),
        None => Proxy::own()?,
    };
    let settings = NodeSettings {
        workers: WORKERS,
        move_interval: arguments.move_interval,
        handover: false,
        // Several tunnels side by side are more to look at than one.
        environment: vec![("POOL_MAX_STREAMS_PER_CONNECTION".to_owned(), STREAMS_PER_TUNNEL.to_string())],
    };
    display.say(introduction(arguments))?;
    let report = Stage::start(site(arguments)?, &proxy, &settings, logs.path())
        .map_err(ShowError::from)
        .and_then(|stage| perform(stage, arguments, interrupted, display))
        .and_then(|report| {
            let upgrade = arguments.upgrade && report.passed;
            if !upgrade {
                return Ok(report);
            }
            match upgrades(arguments, &proxy, logs.path(), interrupted, display) {
                Ok(upgrades) => Ok(report.upgraded(upgrades)),
                Err(error) => {
                    display.say(&format!("\n{error}\n"))?;
                    Ok(report.spoilt(error.to_string()))
                }
            }
        });
    if !report.as_ref().is_ok_and(|report| report.passed) {
        let kept = logs.keep();
        display.say(&format!("The logs of both nodes are in {}", kept.display()))?;
    }
    report
}

fn site(arguments: &Arguments) -> Result<Site, ShowError> {
    Ok(if arguments.netns { Site::namespaces()? } else { Site::loopback()? })
}

/// Replaces both proxies by hand-overs, then on another stage once without.
fn upgrades<W: Write>(
    arguments: &Arguments,
    proxy: &Proxy,
    logs: &Path,
    interrupted: &AtomicBool,
    display: &mut Display<W>,
) -> Result<Upgrades, ShowError> {
    let stage = |way: Way, folder: &str| {
        let logs = logs.join(folder);
        fs::create_dir(&logs)?;
        let settings = NodeSettings {
            workers: WORKERS,
            move_interval: None,
            handover: way == Way::HandOver,
            environment: vec![("HANDOVER_BAKE".to_owned(), "1s".to_owned())],
        };
        Ok::<_, ShowError>(Stage::start(site(arguments)?, proxy, &settings, &logs)?)
    };
    display.say(&format!("\nBoth proxies are replaced {TIMES} times each, connections running:"))?;
    let way = Way::HandOver;
    let handover = upgrade::run(stage(way, "handover")?, way, TIMES, interrupted, display)?;
    display.say("The same once without a hand-over, as everybody else does it:")?;
    let way = Way::OneAfterTheOther;
    let control = upgrade::run(stage(way, "control")?, way, 1, interrupted, display)?;
    Ok(Upgrades { handover, control })
}

fn introduction(arguments: &Arguments) -> &'static str {
    if arguments.netns {
        "Two network namespaces, a node proxy in each. Applications dial each other; iptables hands\n\
         their connections to the proxies, which carry them through a tunnel (HBONE: HTTP/2 over mutual TLS).\n\
         An istiod in miniature tells the nodes of the mesh and signs their certificates. It will be killed.\n"
    } else {
        "Two node proxies on loopback addresses. Clients dial the server through their node (SOCKS5);\n\
         the nodes carry the connections through a tunnel (HBONE: HTTP/2 over mutual TLS):\n\n  \
         clients --> node-client == tunnels ==> node-server --> server\n\n\
         An istiod in miniature tells the nodes of the mesh and signs their certificates. It will be killed.\n\
         Every byte is checked at both ends. All the while the tunnels move between worker threads.\n\
         Bulk transfers take all the processor that they can get; requests are timed beside them.\n"
    }
}

fn perform<W: Write>(
    mut stage: Stage,
    arguments: &Arguments,
    interrupted: &AtomicBool,
    display: &mut Display<W>,
) -> Result<Report, ShowError> {
    let (client_before, server_before) = look(&mut stage)?;
    if interrupted.load(Ordering::Relaxed) {
        return Err(ShowError::Interrupted);
    }
    let clients = stage.clients(plan())?;
    let begun = Instant::now();
    let scene = if arguments.acts { stage.scene() } else { None };
    let acts = scene.map(Acts::begin).transpose()?;
    let mut watch = Watch { begun, total: arguments.duration, last: (begun, 0) };
    let mut incidents = Vec::new();
    let (mut client_last, mut server_last) = (client_before.clone(), server_before.clone());
    while begun.elapsed() < arguments.duration || acts.as_ref().is_some_and(|acts| !acts.are_over()) {
        thread::sleep(LOOK_INTERVAL);
        for news in acts.iter().flat_map(Acts::news) {
            display.say(&news)?;
        }
        if interrupted.load(Ordering::Relaxed) {
            incidents.push("interrupted".to_owned());
            break;
        }
        match look(&mut stage) {
            Ok((client, server)) => (client_last, server_last) = (client, server),
            Err(error) => {
                display.say(&format!("\n{error}\n"))?;
                incidents.push(error.to_string());
                break;
            }
        }
        display.show(&watch.moment(&clients, &stage, &client_last, &server_last))?;
    }
    let duration = begun.elapsed();
    let control_plane = match acts.map(Acts::end).transpose() {
        Ok(figures) => figures,
        Err(error) => {
            incidents.push(error.to_string());
            None
        }
    };
    // After an incident nobody waits for connections that cannot end.
    clients.finish(if incidents.is_empty() { FINISH_PATIENCE } else { Duration::ZERO });
    settle(&stage);
    let server_node_after = look_at(&mut stage.server_node).unwrap_or_else(|error| {
        if incidents.is_empty() {
            incidents.push(error.to_string());
        }
        server_last.clone()
    });
    let observations = Observations {
        duration,
        clients: clients.tally().counts(),
        server: stage.server.tally().counts(),
        latencies: clients.tally().latencies(),
        client_node: [client_before, client_last],
        server_node: [server_before, server_last],
        server_node_after,
        moving: arguments.move_interval.is_some(),
        control_plane,
        expected_identity: stage.client_identity.clone(),
        incidents,
    };
    stage.stop()?;
    Ok(Report::of(&observations))
}

fn look(stage: &mut Stage) -> Result<(NodeFigures, NodeFigures), NodeError> {
    Ok((look_at(&mut stage.client_node)?, look_at(&mut stage.server_node)?))
}

fn look_at(node: &mut Node) -> Result<NodeFigures, NodeError> {
    match node.metrics() {
        Ok(metrics) => Ok(NodeFigures::read(&metrics)),
        Err(silent) => {
            // A process that is dying stops answering first; its end says more than its silence.
            thread::sleep(DYING);
            node.check_alive()?;
            Err(silent)
        }
    }
}

/// The clients have ended; the server learns of the last ends a moment later.
fn settle(stage: &Stage) {
    let begun = Instant::now();
    while stage.server.tally().counts().open() > 0 && begun.elapsed() < SETTLE_PATIENCE {
        thread::sleep(Duration::from_millis(10));
    }
}

/// What is needed to tell a rate.
struct Watch {
    begun: Instant,
    total: Duration,
    last: (Instant, u64),
}

impl Watch {
    fn moment(
        &mut self,
        clients: &Clients,
        stage: &Stage,
        client_node: &NodeFigures,
        server_node: &NodeFigures,
    ) -> Moment {
        let now = Instant::now();
        let (client, server) = (clients.tally().counts(), stage.server.tally().counts());
        let bytes = client.checked + server.checked;
        let (before, bytes_before) = std::mem::replace(&mut self.last, (now, bytes));
        let passed = now.duration_since(before).as_secs_f64().max(f64::MIN_POSITIVE);
        let pause = client_node.pause.clone().merged(&server_node.pause);
        Moment {
            elapsed: now.duration_since(self.begun),
            total: self.total,
            open: client.open(),
            opened: client.opened,
            failed: client.failed + server.failed,
            bytes,
            bytes_per_second: (bytes - bytes_before) as f64 / passed,
            requests: client.answers,
            latency: LatencyFigures::of(&clients.tally().latencies().recent),
            tunnels: client_node.tunnels_open,
            moves: client_node.moves + server_node.moves,
            pause_bound: pause.bound(0.99),
            identities: server_node.identities.clone(),
        }
    }
}

fn plan() -> Plan {
    Plan {
        bulk: 4,
        requests: 8,
        fresh: 2,
        half_close: 2,
        idle: 100,
        idle_pause: Duration::from_secs(3),
        seed: fastrand::u64(1..1 << 31),
    }
}

const WORKERS: usize = 2;
const STREAMS_PER_TUNNEL: usize = 32;
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
const DYING: Duration = Duration::from_millis(200);
const FINISH_PATIENCE: Duration = Duration::from_secs(15);
const SETTLE_PATIENCE: Duration = Duration::from_secs(3);
