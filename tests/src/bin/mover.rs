//! A process of the tests that gives its connections to another one, takes them back, gives them again.
//!
//! ```text
//!   giver                                               taker
//!     │  freezes all connections                          │
//!     │ ───────────── how many, moves so far ───────────► │
//!     │ ───────────── state and sockets of each ────────► │  holds them, but cannot write: it has no keys
//!     │ ◄──────────────────── prepared ────────────────── │
//!     │ ───────────── secrets of each, or none ─────────► │  runs them
//!     │ ◄─────────── which of them run ────────────────── │
//!     ▼  becomes the taker                                ▼  becomes the giver, after a pause
//! ```
//!
//! Standard input is the socket between the two. The real hand-over's care for either side's death is not in here.

use std::error::Error;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use drain::passing::{PassingError, Record, receive, send};
use hbone::Secrets;
use rustix::process::{Signal, set_parent_process_death_signal};
use tests::host::{Host, HostConfig};
use tests::mover::{Fault, Move, MoverConfig, Report};
use ztunnel::config::{Environment, LocationConfig, LogConfig, ProxyMode};
use ztunnel::telemetry::log;
use ztunnel::worker::{FrozenConnection, FrozenKind, Listening, Taken};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("mover: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    // None outlives its test, however that ends.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let argument = std::env::args().nth(1).ok_or("the configuration is missing")?;
    let config: MoverConfig = serde_json::from_str(&argument)?;
    let environment = Environment::from_variables([
        ("PROXY_MODE", "dedicated"),
        ("PROXY_WORKLOAD_INFO", config.workload.as_str()),
        ("NODE_NAME", &config.node),
        ("RUST_LOG", "warn"),
    ]);
    let (_, _log) = log::install(&LogConfig::from_environment(&environment)?)?;
    let ProxyMode::Dedicated(workload) = ProxyMode::from_environment(&environment)? else {
        return Err("it serves one workload".into());
    };
    let host = Host::start(HostConfig {
        mesh: config.mesh.clone(),
        workload,
        location: LocationConfig::from_environment(&environment)?,
        address: config.address,
        root: config.root.clone(),
        unused_release_timeout: RELEASE,
    });
    if let Some(address) = config.tunnels {
        host.listen(Listening::Tunnels, address)?;
    }
    host.listen(Listening::Socks5, config.socks5)?;
    tell(&Report::Listening);
    let random = fastrand::Rng::with_seed(config.seed);
    Mover { host, config, random, moves: 0 }.run()
}

/// Tunnels come and go while they are moved.
const RELEASE: Duration = Duration::from_millis(300);

struct Mover {
    host: Host,
    config: MoverConfig,
    random: fastrand::Rng,
    /// Those that count, of both processes.
    moves: u32,
}

impl Mover {
    fn run(mut self) -> Result<(), Box<dyn Error>> {
        let mut giving = self.config.gives_first;
        while self.moves < self.config.moves {
            if giving {
                thread::sleep(Duration::from_micros(self.random.u64(100..8_000)));
                self.give()?;
            } else {
                self.take()?;
            }
            giving = !giving;
        }
        tell(&Report::Done);
        // What runs goes on until the other process, or the test, ends.
        match receive(io::stdin()) {
            Err(PassingError::Closed) => Ok(()),
            other => Err(format!("nothing more should come: {other:?}").into()),
        }
    }

    fn give(&mut self) -> Result<(), Box<dyn Error>> {
        let socket = io::stdin();
        let begun = Instant::now();
        let (given, frozen) = self.host.give();
        let (connections, kept): (Vec<_>, Vec<_>) = given.into_iter().unzip();
        let mut moved = Move {
            tunnels: connections.iter().filter(|given| given.kind == FrozenKind::Tunnel).count(),
            streams: connections.iter().map(|given| given.streams).sum(),
            bytes: connections.iter().map(|given| given.record.len()).sum(),
            wait: u64::try_from(frozen.duration_since(begun).as_micros())?,
            pause: 0,
        };
        self.moves += u32::from(moved.counts());
        let head = [u32::try_from(connections.len())?, self.moves].map(u32::to_be_bytes);
        send(&socket, head.as_flattened(), &[])?;
        for FrozenConnection { record, sockets, .. } in &connections {
            let sockets: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
            send(&socket, record, &sockets)?;
        }
        receive(&socket)?;
        for connection in connections {
            // Our copies of its sockets and of its secrets go with this turn.
            send(&socket, connection.secrets.as_ref().map_or(&[], |secrets| secrets.expose()), &[])?;
        }
        let running = receive(&socket)?.bytes;
        moved.pause = u64::try_from(frozen.elapsed().as_micros())?;
        for (kept, runs) in kept.into_iter().zip(running) {
            if runs == RUNS {
                kept.released();
            }
        }
        tell(&Report::Moved(moved));
        Ok(())
    }

    fn take(&mut self) -> Result<(), Box<dyn Error>> {
        let socket = io::stdin();
        let head = receive(&socket)?.bytes;
        let [t0, t1, t2, t3, m0, m1, m2, m3] = head[..] else {
            return Err("a head of another length".into());
        };
        let connections = u32::from_be_bytes([t0, t1, t2, t3]);
        let moves = u32::from_be_bytes([m0, m1, m2, m3]);
        let mut records = (0..connections).map(|_| receive(&socket)).collect::<Result<Vec<_>, _>>()?;
        let fault = self.config.fault.filter(|(at, _)| self.moves < *at && *at <= moves);
        let victim = (0..records.len()).max_by_key(|index| records[*index].descriptors.len());
        let vanishing = match (fault, victim) {
            (Some((_, Fault::Vanishes)), Some(victim)) => Some(victim),
            (Some((_, fault)), Some(victim)) => {
                spoil(&mut records[victim], fault);
                None
            }
            _ => None,
        };
        self.moves = moves;
        let prepare = |record: Record| self.host.prepare(&record.bytes, record.descriptors);
        let prepared: Vec<_> = records.into_iter().map(prepare).collect();
        send(&socket, &[], &[])?;
        let mut answers = Vec::with_capacity(prepared.len());
        for (index, prepared) in prepared.into_iter().enumerate() {
            let secrets = Some(receive(&socket)?.bytes).filter(|secrets| !secrets.is_empty());
            let secrets = secrets.map(Secrets::from_bytes);
            answers.push(match prepared {
                Err(error) => Err(error),
                Ok(_) if vanishing == Some(index) => Ok(None),
                Ok(prepared) => Ok(Some(self.host.take(prepared, secrets))),
            });
        }
        let mut running = Vec::with_capacity(answers.len());
        for answer in answers {
            let taken = match answer {
                Err(error) => Err(error),
                Ok(None) => Ok(Taken::Ended),
                Ok(Some(answer)) => answer.recv()?,
            };
            running.push(match taken {
                Ok(_) => RUNS,
                Err(error) => {
                    tell(&Report::Refused(error.to_string()));
                    REFUSED
                }
            });
        }
        send(&socket, &running, &[])?;
        Ok(())
    }
}

/// The taker's answer about one connection.
const RUNS: u8 = 1;
const REFUSED: u8 = 0;

fn spoil(record: &mut Record, fault: Fault) {
    match fault {
        Fault::Vanishes => {}
        Fault::FlippedBit => {
            let state = record.bytes.windows(STATE.len()).position(|window| window == STATE);
            record.bytes[state.expect("a record holds a connection") + 50] ^= 4;
        }
        Fault::LostSocket => drop(record.descriptors.pop()),
        Fault::CutRecord => record.bytes.truncate(record.bytes.len() / 2),
    }
}

/// What a connection's state begins with.
const STATE: &[u8] = b"HBONE\0";

fn tell(report: &Report) {
    println!("{}", serde_json::to_string(report).expect("plain data"));
}
