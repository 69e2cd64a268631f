//! Processes on a virtual clock, two in a session at a time, with everything that a session decides about: who accepts, who
//! has the lock, where each connection is. After every event the promises are checked.
//!
//! Each step is one of the things that could happen next, drawn by a seed: a message is read, work gets done, time passes,
//! somebody is told to end, is killed, stands still, breaks the socket off, or starts.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use super::*;
use crate::handover::limits;

mod acting;
mod promises;

type Connection = u32;

/// Why a state can never be used.
const UNREADABLE: &str = "not readable";

/// What goes wrong in a run, and how often (one of so many steps; 0: never).
#[derive(Clone, Copy, Debug)]
pub(super) struct Faults {
    pub(super) kill: u32,
    pub(super) terminate: u32,
    pub(super) stop: u32,
    pub(super) break_off: u32,
    /// One of so many checks finds something that can't be used.
    pub(super) refuse: u32,
    /// One of so many canaries is not answered, or badly.
    pub(super) no_proof: u32,
}

impl Faults {
    pub(super) const NONE: Self =
        Self { kill: 0, terminate: 0, stop: 0, break_off: 0, refuse: 0, no_proof: 0 };
}

pub(super) struct World {
    random: fastrand::Rng,
    faults: Faults,
    pub(super) now: u64,
    pub(super) processes: Vec<Process>,
    /// Messages that the kernel takes ahead of the reader.
    capacity: usize,
    /// How many processes may still start.
    starts_left: u32,
    /// Connections that have ended with their owner.
    ended: BTreeSet<Connection>,
    connections: Connection,
    /// What happened, if anybody wants to know.
    log: Option<Vec<String>>,
}

#[derive(Debug, Default)]
pub(super) struct Process {
    pub(super) alive: bool,
    pub(super) terminating: bool,
    stopped_until: u64,
    session: Option<Session>,
    /// The other one in the session.
    peer: usize,
    /// Its end of the socket is closed.
    closed: bool,
    /// It knows that the other's is.
    gone: bool,
    pub(super) accepting: bool,
    /// Of the listening sockets.
    copies: bool,
    lock: bool,
    node_agent: bool,
    /// Of the role, that came.
    parts: u32,
    /// And whether it may be offered.
    pub(super) running: BTreeMap<Connection, bool>,
    freezing: Vec<Connection>,
    frozen: BTreeMap<Offer, (Connection, u64)>,
    states: BTreeMap<Offer, Connection>,
    outgoing: VecDeque<Packet>,
    incoming: VecDeque<Packet>,
    work: Vec<(u64, Done)>,
    next_offer: Offer,
    able: bool,
    /// It will never be able to take the role.
    hopeless: bool,
    /// It never had the role.
    wants: bool,
    given_up: bool,
    /// It has the role and accepts nothing.
    deaf_since: Option<u64>,
    /// A connection that it gave was proved, or there was none.
    proved: bool,
    /// Connections that it gave before that.
    unproved: u8,
}

#[derive(Clone, Debug)]
enum Packet {
    Say(Say),
    /// One of the two that the role has.
    RolePart,
    State {
        offer: Offer,
        canary: bool,
        connection: Connection,
    },
    Commit {
        offer: Offer,
        connection: Connection,
    },
}

/// Work that takes time.
#[derive(Debug)]
enum Done {
    Offered(Result<(), String>),
    Stopped,
    Wave { canary: bool },
    Proof(Offer, Result<(), String>),
}

impl World {
    /// One process that serves these connections, and one that has just come.
    pub(super) fn new(
        seed: u64,
        faults: Faults,
        connections: Connection,
        starts_left: u32,
        tell: bool,
    ) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let capacity = random.usize(1..20);
        let first = Process {
            alive: true,
            accepting: true,
            copies: true,
            lock: true,
            node_agent: true,
            gone: true,
            closed: true,
            running: (0..connections).map(|connection| (connection, true)).collect(),
            ..Process::default()
        };
        let mut world = Self {
            random,
            faults,
            now: 0,
            processes: vec![first],
            capacity,
            starts_left,
            ended: BTreeSet::new(),
            connections,
            log: tell.then(Vec::new),
        };
        world.start();
        world
    }

    fn one_of(&mut self, count: u32) -> bool {
        count > 0 && self.random.u32(..count) == 0
    }

    fn note(&mut self, text: fmt::Arguments<'_>) {
        if let Some(log) = &mut self.log {
            log.push(format!("{:>6} {text}", self.now));
        }
    }

    /// A candidate comes, if there is somebody to come to.
    fn start(&mut self) {
        // As long as somebody has not noticed that a session is over, its socket is still that one's.
        let free = |is_free: fn(&Process) -> bool| {
            (0..self.processes.len()).find(|index| {
                let missed =
                    self.processes.iter().any(|other| other.alive && !other.gone && other.peer == *index);
                is_free(&self.processes[*index]) && !missed
            })
        };
        let (Some(holder), back) = (free(Process::is_free_holder), free(Process::is_free_standby)) else {
            return;
        };
        // A candidate may call before those that were there.
        let back = back.filter(|_| self.starts_left == 0 || self.random.bool());
        let caller = match back {
            Some(back) => back,
            None if self.starts_left == 0 => return,
            None => {
                self.starts_left -= 1;
                let hopeless = self.one_of(10);
                self.processes.push(Process { alive: true, wants: true, hopeless, ..Process::default() });
                self.processes.len() - 1
            }
        };
        self.note(format_args!("{caller} calls {holder}"));
        let bake_ms = self.random.u64(..5_000);
        let peer_wants = self.processes[caller].wants;
        for (index, peer, holds) in [(holder, caller, true), (caller, holder, false)] {
            let process = &mut self.processes[index];
            let terminating = process.terminating;
            let had_role = !process.wants;
            let start = Start { holds, peer_wants: holds && peer_wants, had_role, terminating, bake_ms };
            process.session = Some(Session::new(start));
            process.begin(peer);
        }
        for index in [holder, caller] {
            let actions = self.session(index).begin();
            self.carry_out(index, actions);
        }
    }

    fn session(&mut self, index: usize) -> &mut Session {
        self.processes[index].session.as_mut().expect("it is in a session")
    }

    /// One thing happens.
    pub(super) fn step(&mut self) {
        let index = self.random.usize(..self.processes.len());
        if self.one_of(self.faults.kill) {
            self.end(index, "is killed");
        } else if self.one_of(self.faults.terminate) {
            self.terminate(index);
        } else if self.one_of(self.faults.stop) {
            self.stop(index);
        } else if self.one_of(self.faults.break_off) {
            self.break_off(index);
        } else if self.one_of(200) {
            self.start();
        } else if self.one_of(20) {
            let ms = if self.one_of(30) { self.random.u64(..4_000) } else { self.random.u64(..60) };
            self.pass(ms);
        } else if self.acts(index) {
            match self.random.u8(..4) {
                0 => {
                    self.get_done(index);
                }
                1 => self.leave(index),
                2 => self.become_able(index),
                _ => {
                    self.read(index);
                }
            }
        }
        self.check();
    }

    /// Lets everything that has begun come to its end.
    pub(super) fn settle(&mut self) {
        self.faults = Faults { kill: 0, terminate: 0, stop: 0, break_off: 0, ..self.faults };
        let end = self.now + 60_000;
        while self.now < end {
            let mut idle = true;
            for index in 0..self.processes.len() {
                if self.acts(index) {
                    idle &= !self.read(index);
                    self.get_done(index);
                    self.leave(index);
                    self.become_able(index);
                    self.check();
                }
            }
            if idle {
                self.pass(250);
                self.check();
            }
        }
    }

    fn acts(&self, index: usize) -> bool {
        let process = &self.processes[index];
        process.alive && process.stopped_until <= self.now
    }

    pub(super) fn terminate(&mut self, index: usize) {
        if self.acts(index) && !self.processes[index].terminating {
            self.note(format_args!("{index} is told to end"));
            self.processes[index].terminating = true;
            self.happens(index, Event::Terminate);
        }
    }

    pub(super) fn stop(&mut self, index: usize) {
        if self.acts(index) {
            let ms = self.random.u64(1..6_000);
            self.note(format_args!("{index} stands still for {ms} ms"));
            self.processes[index].stopped_until = self.now + ms;
        }
    }

    /// It ends. What it had sent can still be read; what it has not read is lost.
    pub(super) fn end(&mut self, index: usize, how: &str) {
        if !self.processes[index].alive {
            return;
        }
        self.note(format_args!("{index} {how}"));
        self.close(index);
        let process = &mut self.processes[index];
        process.alive = false;
        (process.accepting, process.copies, process.lock, process.node_agent) = (false, false, false, false);
        process.session = None;
        process.work.clear();
        let running = std::mem::take(&mut process.running).into_keys();
        let frozen = std::mem::take(&mut process.frozen).into_values().map(|(connection, _)| connection);
        self.ended.extend(running.chain(frozen).chain(std::mem::take(&mut process.freezing)));
    }

    /// It closes its end of the socket, whatever is in there.
    fn close(&mut self, index: usize) {
        let process = &mut self.processes[index];
        process.closed = true;
        process.outgoing.clear();
        let unread = std::mem::take(&mut process.incoming);
        self.ended.extend(unread.iter().filter_map(Packet::committed));
    }

    /// It does not understand the other side, or can't read any more.
    fn break_off(&mut self, index: usize) {
        if self.acts(index) && !self.processes[index].gone {
            self.note(format_args!("{index} breaks off"));
            self.close(index);
            self.lost(index);
        }
    }

    fn pass(&mut self, ms: u64) {
        let end = self.now + ms;
        loop {
            self.tick();
            let next = (0..self.processes.len()).filter_map(|index| {
                let process = &self.processes[index];
                let work = process.work.iter().map(|(due, _)| *due).min();
                let timeout = process.session.as_ref().and_then(Session::timeout);
                let due = [work, timeout].into_iter().flatten().min()?;
                process.alive.then_some(due.max(process.stopped_until))
            });
            let next = next.min().unwrap_or(end).min(end);
            assert!(next > self.now || next == end, "{}", self.failed("it spins"));
            self.now = next.max(self.now);
            if next >= end {
                return self.tick();
            }
        }
    }

    /// Everybody does what is due. After that nothing is late.
    fn tick(&mut self) {
        for index in 0..self.processes.len() {
            let now = self.now;
            if !self.acts(index) {
                continue;
            }
            if self.processes[index].session.as_ref().and_then(Session::timeout).is_some_and(|due| due <= now)
            {
                self.happens(index, Event::Tick);
                let timeout = self.processes[index].session.as_ref().and_then(Session::timeout);
                assert!(
                    timeout.is_none_or(|due| due > now),
                    "{}",
                    self.failed("a tick that changes nothing")
                );
            }
            while self.get_done(index) {}
            let late =
                self.processes[index].frozen.values().any(|(_, since)| now - since >= limits::PREPARED_MS);
            assert!(!late, "{}", self.failed("a connection is frozen for too long"));
            let process = &mut self.processes[index];
            let holds = process.session.as_ref().is_some_and(Session::holds_role);
            if holds && !process.accepting {
                let since = (*process.deaf_since.get_or_insert(now)).max(process.stopped_until);
                // The last connections are accepted first.
                assert!(
                    now - since <= limits::COMMIT_MS + 100,
                    "{}",
                    self.failed("nobody accepts for too long")
                );
            } else {
                process.deaf_since = None;
            }
        }
    }

    fn become_able(&mut self, index: usize) {
        let process = &self.processes[index];
        if !process.able && !process.hopeless && process.session.is_some() {
            let alone = !self.one_of(3);
            self.processes[index].able = alone;
            self.happens(index, Event::Able { alone });
        }
    }

    /// A process that was told to end and has nothing left ends; with the role not before its time is over.
    fn leave(&mut self, index: usize) {
        let patient = !self.one_of(20);
        let process = &self.processes[index];
        let empty = process.running.is_empty() && process.frozen.is_empty() && process.freezing.is_empty();
        let session = process.session.as_ref();
        let promised = session.is_some_and(Session::has_promised);
        let holds = process.accepting || session.is_some_and(Session::holds_role);
        if process.terminating && empty && !promised && !(holds && patient) {
            self.end(index, "has nothing left");
        }
    }

    /// Work whose time has come is done.
    fn get_done(&mut self, index: usize) -> bool {
        let now = self.now;
        let Some(at) = self.processes[index].work.iter().position(|(due, _)| *due <= now) else {
            return false;
        };
        let (_, done) = self.processes[index].work.swap_remove(at);
        self.note(format_args!("{index} has done {done:?}"));
        match done {
            Done::Offered(result) => {
                let process = &mut self.processes[index];
                assert!(process.node_agent, "two offers of the role at a time");
                // The connection to istio-cni is held still, to be sent.
                process.node_agent = result.is_err();
                if result.is_ok() {
                    process.outgoing.extend([Packet::RolePart, Packet::RolePart]);
                }
                self.happens(index, Event::RoleOffered(result));
            }
            Done::Stopped => {
                self.processes[index].accepting = false;
                self.happens(index, Event::Stopped);
            }
            Done::Wave { canary } => self.wave(index, canary),
            Done::Proof(offer, result) => self.happens(index, Event::Proof(offer, result)),
        }
        true
    }

    fn wave(&mut self, index: usize, canary: bool) {
        let now = self.now;
        let process = &mut self.processes[index];
        let mut offers = Vec::new();
        process.proved |= canary && process.freezing.is_empty();
        for connection in std::mem::take(&mut process.freezing) {
            process.next_offer += 1;
            let offer = process.next_offer;
            offers.push(offer);
            process.frozen.insert(offer, (connection, now));
            process.outgoing.push_back(Packet::State { offer, canary, connection });
        }
        self.happens(index, Event::Wave(offers));
    }

    /// Reads one message, or the end. Whether there was anything.
    fn read(&mut self, index: usize) -> bool {
        if self.processes[index].gone {
            return false;
        }
        self.flush(index);
        match self.processes[index].incoming.pop_front() {
            Some(packet) => {
                self.hear(index, packet);
                true
            }
            None if self.processes[self.processes[index].peer].closed => {
                self.lost(index);
                true
            }
            None => false,
        }
    }

    fn hear(&mut self, index: usize, packet: Packet) {
        self.note(format_args!("{index} hears {packet:?}"));
        let process = &mut self.processes[index];
        let say = match packet {
            Packet::RolePart => {
                process.parts += 1;
                return;
            }
            Packet::State { offer, canary, connection } => {
                process.states.insert(offer, connection);
                Say::State { offer, canary }
            }
            Packet::Commit { offer, .. } => Say::Commit { offer },
            Packet::Say(say) => say,
        };
        if let Say::RoleCommit { .. } = say {
            // Its descriptor came; it is ours to keep or to close.
            process.lock = true;
        }
        self.happens(index, Event::Heard(say));
        let process = &self.processes[index];
        let holds = process.session.as_ref().is_some_and(Session::holds_role);
        assert_eq!(process.lock, holds, "{}", self.failed("a lock without the role, or the role without"));
    }

    /// The other side has gone, and everything that it had sent was read.
    fn lost(&mut self, index: usize) {
        if std::mem::replace(&mut self.processes[index].gone, true) {
            return;
        }
        self.note(format_args!("{index} sees the other side gone"));
        // Nobody reads on here either.
        self.processes[index].closed = true;
        self.processes[index].outgoing.clear();
        self.happens(index, Event::RoleCommitted(false));
        self.happens(index, Event::PeerGone);
    }

    /// How many connections have ended with their owner.
    pub(super) fn ended(&self) -> usize {
        self.ended.len()
    }

    fn failed(&self, what: &str) -> String {
        let log = self.log.as_ref().map(|log| log.join("\n")).unwrap_or_default();
        format!("{what}\n{log}\n{what}")
    }
}

impl Packet {
    /// The connection that it makes the reader's.
    fn committed(&self) -> Option<Connection> {
        if let Self::Commit { connection, .. } = self { Some(*connection) } else { None }
    }

    fn gives_role(&self) -> bool {
        matches!(self, Self::Say(Say::RoleCommit { .. }))
    }
}

impl Process {
    /// It has the role and could begin a session.
    fn is_free_holder(&self) -> bool {
        self.alive && self.gone && self.accepting && self.session.as_ref().is_none_or(Session::is_over)
    }

    /// It has no role, and nobody to talk to.
    fn is_free_standby(&self) -> bool {
        self.alive && self.gone && !self.accepting && self.session.as_ref().is_none_or(Session::is_over)
    }

    /// With a socket that is new.
    fn begin(&mut self, peer: usize) {
        assert!(self.freezing.is_empty() && self.frozen.is_empty(), "the last session is not over");
        self.peer = peer;
        (self.closed, self.gone, self.able) = (false, false, self.accepting);
        self.incoming.clear();
        self.outgoing.clear();
        self.parts = 0;
        self.states.clear();
        // What becomes of a canary is of no interest any more.
        self.work.clear();
        // What was refused by one may be taken by another.
        self.running.values_mut().for_each(|movable| *movable = true);
        (self.given_up, self.proved, self.unproved) = (false, false, 0);
    }
}
