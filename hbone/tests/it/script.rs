//! A random script, repeatable from its seed, that two ends of a tunnel act out on virtual time.

use std::collections::BTreeMap;

use fastrand::Rng;
use hbone::{ConnectRequest, ConnectResponse, Connection, ErrorCode, Event, StreamId};

use crate::end::{End, Flow, Moves};

/// What a script may do beside opening, sending, reading, ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// Streams are reset and refused.
    pub(crate) resets: bool,
    /// Keys are updated.
    pub(crate) keys: bool,
    /// One end goes away.
    pub(crate) shutdown: bool,
}

/// Everything that an observer of one end could see in a run.
#[derive(PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) log: Vec<String>,
    /// What it sent, encrypted: the same keys and the same plaintext give the same bytes.
    pub(crate) wire: Vec<u8>,
    /// Payload that it received: how much on each stream, and whether to the end.
    pub(crate) payload: BTreeMap<StreamId, (u64, bool)>,
    /// What it was at the end.
    pub(crate) state: Vec<u8>,
}

impl Seen {
    fn of(end: End, now: u64) -> Self {
        let now = end.time(now);
        Self {
            log: end.log,
            wire: end.written,
            payload: end.received.iter().map(|(stream, flow)| (*stream, (flow.at, flow.ended))).collect(),
            state: end.connection.freeze().snapshot(now).state,
        }
    }
}

/// Runs `steps` random steps, then lets both ends finish what is open. `moves` are the client's and the server's.
pub(crate) fn run(
    connections: (Connection, Connection),
    seed: u64,
    steps: usize,
    trouble: Trouble,
    moves: [Moves; 2],
) -> (Vec<Seen>, usize) {
    let mut run = Run {
        rng: Rng::with_seed(seed),
        now: 0,
        ends: vec![End::new(connections.0, moves[0], seed), End::new(connections.1, moves[1], seed)],
        trouble,
    };
    run.end_turn(0);
    run.end_turn(1);
    for _ in 0..steps {
        run.step();
    }
    run.drain(seed);
    let freezes = run.ends.iter().map(|end| end.freezes).sum();
    let now = run.now;
    (run.ends.into_iter().map(|end| Seen::of(end, now)).collect(), freezes)
}

struct Run {
    rng: Rng,
    now: u64,
    /// Client, server.
    ends: Vec<End>,
    trouble: Trouble,
}

impl Run {
    fn step(&mut self) {
        let at = self.rng.usize(..2);
        match self.rng.u32(..100) {
            0..35 => self.read(at),
            35..70 => self.write(at),
            70..78 => self.open(),
            78..85 => self.take_pending(at),
            85..90 => self.finish(at),
            90..93 if self.trouble.resets => self.reset(at),
            93..95 if self.trouble.keys => {
                let request = self.rng.bool();
                self.ends[at].connection.update_keys(request);
            }
            95 if self.trouble.shutdown && self.rng.u32(..8) == 0 => {
                let now = self.ends[at].time(self.now);
                self.ends[at].connection.shutdown(now);
            }
            _ => self.wait(),
        }
        self.end_turn(at);
    }

    fn end_turn(&mut self, at: usize) {
        let end = self.ends.remove(at);
        self.ends.insert(at, end.end_turn(self.now));
    }

    fn read(&mut self, at: usize) {
        let limit = match self.rng.u32(..4) {
            0 => self.rng.usize(..30),
            1 => self.rng.usize(..2000),
            _ => usize::MAX,
        };
        let rng = &mut self.rng;
        let events = self.ends[at].receive(self.now, limit, |n| match rng.u32(..4) {
            0 => rng.usize(..=n),
            1 => 0,
            _ => n,
        });
        for event in events {
            if let Event::Request { stream, request } = event {
                self.answer(at, stream, &request);
            }
        }
    }

    fn answer(&mut self, at: usize, stream: StreamId, request: &ConnectRequest) {
        assert_eq!(request.authority, "10.0.0.1:80");
        let end = &mut self.ends[at];
        match self.rng.u32(..20) {
            0 if self.trouble.resets => end.connection.reset(stream, ErrorCode::REFUSED_STREAM),
            1 => end.connection.respond(stream, &ConnectResponse::status(503), true),
            _ => {
                end.connection.respond(stream, &ConnectResponse::status(200), false);
                end.sent.insert(stream, Flow::default());
            }
        }
    }

    fn write(&mut self, at: usize) {
        let streams: Vec<_> = self.ends[at].connection.streams().collect();
        let mut amounts = Vec::new();
        for stream in streams {
            match self.rng.u32(..5) {
                0 | 1 => {}
                2 if self.rng.u32(..4) == 0 => amounts.push((stream, self.rng.usize(..40_000))),
                _ => amounts.push((stream, self.rng.usize(..1500))),
            }
        }
        let socket = if self.rng.bool() { usize::MAX } else { self.rng.usize(..20_000) };
        let slots = self.rng.bool();
        self.deliver(at, &amounts, socket, slots);
    }

    fn deliver(&mut self, at: usize, amounts: &[(StreamId, usize)], socket: usize, slots: bool) {
        let before = self.ends[at].written.len();
        self.ends[at].write(amounts, socket, slots);
        let fresh = self.ends[at].written[before..].to_vec();
        self.ends[1 - at].wire.extend(fresh);
    }

    fn open(&mut self) {
        let client = &mut self.ends[0];
        let headers = vec![("baggage".to_owned(), vec![b'x'; self.rng.usize(..200)])];
        let request = ConnectRequest::connect("10.0.0.1:80", headers);
        match client.connection.connect(&request) {
            Ok(stream) => _ = client.sent.insert(stream, Flow::default()),
            Err(error) => client.log.push(error.to_string()),
        }
    }

    fn take_pending(&mut self, at: usize) {
        if let Some(stream) = self.any_stream(at) {
            let n = if self.rng.bool() { usize::MAX } else { self.rng.usize(..5000) };
            self.ends[at].take_pending(stream, n);
        }
    }

    fn finish(&mut self, at: usize) {
        if let Some(stream) = self.any_stream(at) {
            self.finish_one(at, stream);
        }
    }

    fn finish_one(&mut self, at: usize, stream: StreamId) {
        self.ends[at].connection.finish(stream);
        if let Some(flow) = self.ends[at].sent.get_mut(&stream) {
            flow.ended = true;
        }
    }

    fn reset(&mut self, at: usize) {
        if let Some(stream) = self.any_stream(at) {
            self.ends[at].connection.reset(stream, ErrorCode::CANCEL);
            self.ends[at].sent.remove(&stream);
            self.ends[at].received.remove(&stream);
        }
    }

    /// Lets time pass to the next deadline, if that is near.
    fn wait(&mut self) {
        let step = self.rng.u64(1..3000);
        self.now += step;
        for end in &mut self.ends {
            if end.timeout().is_some_and(|at| at <= self.now) {
                end.handle_timeout(self.now);
            }
        }
    }

    fn any_stream(&mut self, at: usize) -> Option<StreamId> {
        let streams: Vec<_> = self.ends[at].connection.streams().collect();
        self.rng.choice(streams)
    }

    /// Everything is read and written until nothing moves, streams are ended, and again.
    fn drain(&mut self, seed: u64) {
        self.exchange();
        for at in [0, 1] {
            let streams: Vec<_> = self.ends[at].connection.streams().collect();
            for stream in streams {
                self.finish_one(at, stream);
            }
            self.end_turn(at);
        }
        self.exchange();
        for (at, other) in [(0, 1), (1, 0)] {
            let (end, peer) = (&self.ends[at], &self.ends[other]);
            // PINGs may have timed out where the script let time fly; all else is a fault.
            if self.ends.iter().any(|end| end.failed.is_some()) {
                let silent = self.ends.iter().all(|end| {
                    end.failed.as_ref().is_none_or(|error| *error == hbone::ConnectionError::PingTimeout)
                });
                assert!(silent, "seed {seed}: {:?} {:?}", end.failed, peer.failed);
                return;
            }
            assert_eq!(end.connection.open_streams(), 0, "seed {seed}");
            for (stream, flow) in &end.received {
                let Some(sent) = peer.sent.get(stream) else { continue };
                let (received, sent) = ((flow.at, flow.ended), (sent.at, sent.ended));
                assert_eq!(received, sent, "seed {seed} stream {stream}, to end {at}: {:?}", end.log);
            }
        }
    }

    fn exchange(&mut self) {
        loop {
            let before = self.written();
            for at in [0, 1] {
                self.deliver(at, &[], usize::MAX, false);
                self.deliver(at, &[], usize::MAX, false);
                self.end_turn(at);
            }
            for at in [0, 1] {
                while !self.ends[at].wire.is_empty() {
                    let events = self.ends[at].receive(self.now, usize::MAX, |n| n);
                    for event in events {
                        if let Event::Request { stream, .. } = event {
                            self.ends[at].connection.respond(stream, &ConnectResponse::status(200), false);
                            self.ends[at].sent.insert(stream, Flow::default());
                        }
                    }
                }
                let streams: Vec<_> = self.ends[at].connection.streams().collect();
                for stream in streams {
                    self.ends[at].take_pending(stream, usize::MAX);
                }
                self.end_turn(at);
            }
            if before == self.written() {
                return;
            }
        }
    }

    fn written(&self) -> Vec<usize> {
        self.ends.iter().map(|end| end.written.len()).collect()
    }
}
