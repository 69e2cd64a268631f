//! Two processes that pass their tunnels to one another: how a test starts them, and what they tell.
//!
//! ```text
//!   test ──starts──► mover ◄══ socket pair: records, secrets, descriptors ══► mover ◄──starts── test
//!    ▲                 │ reports: a line of JSON each                           │
//!    └─────────────────┴────────────────────────────────────────────────────────┘
//! ```

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde::{Deserialize, Serialize};

use crate::wait::PATIENCE;

/// What a mover is told: JSON, its only argument.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MoverConfig {
    /// The mesh: YAML.
    pub mesh: String,
    /// The workload that both serve: `namespace/name/service account`.
    pub workload: String,
    /// The node that it is on.
    pub node: String,
    /// Certificate and key of the root.
    pub root: [PathBuf; 2],
    /// The address that tunnels come from.
    pub address: IpAddr,
    /// Where peers dial, if they may.
    pub tunnels: Option<SocketAddr>,
    /// Where applications dial.
    pub socks5: SocketAddr,
    /// It is the first to give; the other one is the first to take.
    pub gives_first: bool,
    /// Moves to be made. Only those of at least [`LEAST_TUNNELS`] with [`LEAST_STREAMS`] count.
    pub moves: u32,
    /// Decides when it gives.
    pub seed: u64,
    /// What goes wrong, and at which move, when it is the taker.
    pub fault: Option<(u32, Fault)>,
}

/// Tunnels that a move must carry to count.
pub const LEAST_TUNNELS: usize = 2;

/// Streams that a move must carry to count, in all of its tunnels.
pub const LEAST_STREAMS: usize = 4;

/// What happens to the tunnel with the most streams on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// It is thrown away, and nobody is told.
    Vanishes,
    /// One bit of its connection's state is flipped.
    FlippedBit,
    /// Its last socket is lost.
    LostSocket,
    /// Its record ends early.
    CutRecord,
}

/// What a mover tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// It accepts connections.
    Listening,
    /// It has given its tunnels away, and the other one runs them.
    Moved(Move),
    /// As taker, it could not run a tunnel.
    Refused(String),
    /// Enough moves are made; tunnels stay where they are.
    Done,
}

/// One move of all tunnels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// How many there were.
    pub tunnels: usize,
    /// Their streams, in all.
    pub streams: usize,
    /// Their state without secrets, in all.
    pub bytes: usize,
    /// From the wish to move them until all are frozen: the worker ends its turn first. In microseconds.
    pub wait: u64,
    /// From then until the giver knows that all of them run again, in microseconds.
    pub pause: u64,
}

impl Move {
    /// Whether it counts.
    pub fn counts(&self) -> bool {
        self.tunnels >= LEAST_TUNNELS && self.streams >= LEAST_STREAMS
    }
}

/// Both processes; dropping this kills them.
#[derive(Debug)]
pub struct Movers {
    children: [Child; 2],
    lines: Receiver<String>,
    words: Vec<String>,
}

impl Movers {
    /// Starts both; `program` is the binary `mover`.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn start(program: &Path, configs: [MoverConfig; 2]) -> Self {
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .expect("a socket pair");
        let (send, lines) = mpsc::channel();
        let mut ends = [one, other].into_iter();
        let children = configs.map(|config| {
            let end = ends.next().expect("one end for each");
            let argument = serde_json::to_string(&config).expect("plain data");
            let mut child = Command::new(program)
                .arg(argument)
                .stdin(Stdio::from(end))
                .stdout(Stdio::piped())
                .spawn()
                .expect("the mover starts");
            let output = BufReader::new(child.stdout.take().expect("its output is piped"));
            let send = send.clone();
            thread::spawn(move || {
                for line in output.lines().map_while(Result::ok) {
                    // The test may be over.
                    send.send(line).ok();
                }
            });
            child
        });
        Self { children, lines, words: Vec::new() }
    }

    /// The next report of either.
    ///
    /// # Panics
    /// None comes, or both have ended.
    pub fn report(&mut self) -> Report {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => match serde_json::from_str(&line) {
                    Ok(report) => return report,
                    Err(_) => self.words.push(line),
                },
                Err(RecvTimeoutError::Timeout) => {
                    panic!("no report comes any more\n{}", self.words.join("\n"))
                }
                Err(RecvTimeoutError::Disconnected) => panic!("both movers ended\n{}", self.words.join("\n")),
            }
        }
    }

    /// Whether both processes still run.
    ///
    /// # Panics
    /// A process cannot be waited for.
    pub fn alive(&mut self) -> bool {
        self.children.iter_mut().all(|child| child.try_wait().expect("it is our child").is_none())
    }

    /// What they said beside their reports: their logs.
    pub fn words(&self) -> &[String] {
        &self.words
    }
}

impl Drop for Movers {
    fn drop(&mut self) {
        for child in &mut self.children {
            // Both fail only if the process is gone already, which is what is wanted.
            child.kill().ok();
            child.wait().ok();
        }
    }
}
