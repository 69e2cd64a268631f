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

use drain::handover::channel::{Channel, ReceiveError, Received, SendError};
use drain::handover::message::{Assembler, Message, Whole, pieces};
use hbone::Secrets;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Signal, set_parent_process_death_signal};
use tests::host::{Host, HostConfig};
use tests::mover::{Fault, Move, MoverConfig, Report};
use ztunnel::config::{Environment, LocationConfig, LogConfig, ProxyMode};
use ztunnel::telemetry::log;
use ztunnel::worker::{FrozenKind, Listening, Taken};

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
    let link = Link(Channel::new(io::stdin().as_fd().try_clone_to_owned()?)?);
    Mover { host, link, config, random, moves: 0 }.run()
}

/// Tunnels come and go while they are moved.
const RELEASE: Duration = Duration::from_millis(300);

struct Mover {
    host: Host,
    link: Link,
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
        match self.link.receive() {
            Err(ReceiveError::Gone) => Ok(()),
            other => Err(format!("nothing more should come: {other:?}").into()),
        }
    }

    fn give(&mut self) -> Result<(), Box<dyn Error>> {
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
        for (offer, connection) in (0..).zip(&connections) {
            let sockets: Vec<BorrowedFd<'_>> = connection.sockets.iter().map(AsFd::as_fd).collect();
            for (piece, sockets) in pieces(&connection.record, &sockets) {
                let frozen_at_ns = connection.frozen_at;
                let state = Message::State { offer, canary: false, mesh: 0, frozen_at_ns, piece };
                self.link.send(&state, sockets)?;
            }
        }
        let parts = u32::try_from(connections.len())?;
        self.link.send(&Message::RoleState { epoch: self.moves, parts }, &[])?;
        self.link.receive()?;
        for (offer, connection) in (0..).zip(connections) {
            // Our copies of its sockets and of its secrets go with this turn.
            let secrets = connection.secrets.map_or_else(Vec::new, |secrets| secrets.expose().to_vec());
            self.link.send(&Message::Commit { offer, secrets: secrets.into() }, &[])?;
        }
        for kept in kept {
            if let Message::Running { .. } = self.link.receive()?.message {
                kept.released();
            }
        }
        moved.pause = u64::try_from(frozen.elapsed().as_micros())?;
        tell(&Report::Moved(moved));
        Ok(())
    }

    fn take(&mut self) -> Result<(), Box<dyn Error>> {
        let mut assembler = Assembler::new();
        let mut records = Vec::new();
        let moves = loop {
            let Received { message, descriptors } = self.link.receive()?;
            match message {
                Message::State { piece, .. } => records.extend(assembler.add(piece, descriptors)?),
                Message::RoleState { epoch, .. } => break epoch,
                other => return Err(format!("another message was due: {other:?}").into()),
            }
        };
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
        let prepare = |record: Whole| self.host.prepare(&record.bytes, record.descriptors);
        let prepared: Vec<_> = records.into_iter().map(prepare).collect();
        self.link.send(&Message::RolePrepared { epoch: moves }, &[])?;
        let mut answers = Vec::with_capacity(prepared.len());
        for (index, prepared) in prepared.into_iter().enumerate() {
            let Message::Commit { secrets, .. } = self.link.receive()?.message else {
                return Err("it should be committed".into());
            };
            let secrets = Some(secrets).filter(|secrets| !secrets.is_empty());
            let secrets = secrets.map(|secrets| Secrets::from_bytes(secrets.to_vec()));
            answers.push(match prepared {
                Err(error) => Err(error),
                Ok(_) if vanishing == Some(index) => Ok(None),
                Ok(prepared) => Ok(Some(self.host.take(prepared, secrets))),
            });
        }
        for (offer, answer) in (0..).zip(answers) {
            let taken = match answer {
                Err(error) => Err(error),
                Ok(None) => Ok(Taken::Ended),
                Ok(Some(answer)) => answer.recv()?,
            };
            let message = match taken {
                Ok(_) => Message::Running { offer, pause_us: 0 },
                Err(error) => {
                    let reason = error.to_string();
                    tell(&Report::Refused(reason.clone()));
                    Message::Refused { offer, reason, again: false }
                }
            };
            self.link.send(&message, &[])?;
        }
        Ok(())
    }
}

/// The socket between the two, whose ends wait for each other.
struct Link(Channel);

impl Link {
    fn send(&self, message: &Message, descriptors: &[BorrowedFd<'_>]) -> Result<(), Box<dyn Error>> {
        loop {
            match self.0.send(message, descriptors) {
                Ok(()) => return Ok(()),
                Err(SendError::NotReady) => self.wait(PollFlags::OUT)?,
                // Until the other side has taken some.
                Err(SendError::TooManyInFlight) => thread::sleep(Duration::from_millis(1)),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn receive(&self) -> Result<Received, ReceiveError> {
        loop {
            match self.0.receive() {
                Err(ReceiveError::NotReady) => self.wait(PollFlags::IN).map_err(ReceiveError::Socket)?,
                other => return other,
            }
        }
    }

    fn wait(&self, direction: PollFlags) -> rustix::io::Result<()> {
        poll(&mut [PollFd::new(&self.0, direction)], None).map(drop)
    }
}

fn spoil(record: &mut Whole, fault: Fault) {
    match fault {
        Fault::Vanishes => {}
        Fault::FlippedBit => {
            let state = record.bytes.windows(STATE.len()).position(|window| window == STATE);
            record.bytes[state.expect("a record holds a connection") + 50] ^= 4;
        }
        Fault::LostSocket => drop(record.descriptors.pop()),
        Fault::CutRecord => {
            let half = record.bytes.len() / 2;
            record.bytes.truncate(half);
        }
    }
}

/// What a connection's state begins with.
const STATE: &[u8] = b"HBONE\0";

fn tell(report: &Report) {
    println!("{}", serde_json::to_string(report).expect("plain data"));
}
