//! One end of a tunnel with an application: what it sends, what it must receive, and everything it saw.

use std::collections::{BTreeMap, VecDeque};

use hbone::{
    Connection, ConnectionError, Event, Inbox, Outbox, Prepared, Role, Secrets, Snapshot, StreamId, Time,
};

/// What is done with a connection between any two turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moves {
    /// Nothing.
    Never,
    /// It is frozen, and the freeze is aborted.
    Abort,
    /// It is frozen, and goes on from its snapshot on another clock.
    Always,
}

/// One direction of a stream. Each byte tells where it belongs.
#[derive(Default)]
pub(crate) struct Flow {
    /// Bytes so far.
    pub(crate) at: u64,
    /// Ended by END_STREAM.
    pub(crate) ended: bool,
}

pub(crate) struct End {
    pub(crate) connection: Connection,
    pub(crate) moves: Moves,
    /// Names the run where a check fails.
    seed: u64,
    inbox: Inbox,
    outbox: Outbox,
    /// What this process's clock shows at virtual time 0.
    clock: u64,
    /// Ciphertext on its way to this end.
    pub(crate) wire: VecDeque<u8>,
    /// All ciphertext that this end has sent.
    pub(crate) written: Vec<u8>,
    pub(crate) sent: BTreeMap<StreamId, Flow>,
    pub(crate) received: BTreeMap<StreamId, Flow>,
    /// All events, payload apart.
    pub(crate) log: Vec<String>,
    pub(crate) failed: Option<ConnectionError>,
    pub(crate) freezes: usize,
}

impl End {
    pub(crate) fn new(connection: Connection, moves: Moves, seed: u64) -> Self {
        Self {
            connection,
            moves,
            seed,
            inbox: Inbox::with_capacity(0),
            outbox: Outbox::with_capacity(0),
            clock: 0,
            wire: VecDeque::new(),
            written: Vec::new(),
            sent: BTreeMap::new(),
            received: BTreeMap::new(),
            log: Vec::new(),
            failed: None,
            freezes: 0,
        }
    }

    /// Reads up to `limit` bytes off the wire. Of each piece of payload the application takes what `taken` says, and
    /// leaves the rest pending.
    pub(crate) fn receive(
        &mut self,
        now: u64,
        limit: usize,
        mut taken: impl FnMut(usize) -> usize,
    ) -> Vec<Event> {
        let space = self.inbox.space(&self.connection);
        let n = limit.min(self.wire.len()).min(space.len());
        for (to, from) in space.iter_mut().zip(self.wire.drain(..n)) {
            *to = from;
        }
        let mut events = Vec::new();
        let result = self.connection.receive(self.time(now), &mut self.inbox, n, &mut events);
        for event in &events {
            match event {
                Event::Data { stream, range } => {
                    let payload = self.inbox.bytes(range.clone());
                    let take =
                        if self.connection.pending(*stream).is_empty() { taken(payload.len()) } else { 0 };
                    let payload = payload.to_vec();
                    self.check(*stream, &payload[..take]);
                    self.connection.consumed(*stream, take);
                    self.connection.stash(*stream, &payload[take..]);
                    self.log.push(format!("{stream}: {} bytes", payload.len()));
                }
                Event::End { stream } => {
                    self.received.entry(*stream).or_default().ended = true;
                    self.log.push(format!("{event:?}"));
                }
                Event::Reset { stream, .. } => {
                    self.sent.remove(stream);
                    self.log.push(format!("{event:?}"));
                }
                _ => self.log.push(format!("{event:?}")),
            }
        }
        self.note(result);
        events
    }

    /// The application takes up to `n` bytes of what is pending.
    pub(crate) fn take_pending(&mut self, stream: StreamId, n: usize) {
        let pending = self.connection.pending(stream);
        let payload = pending[..n.min(pending.len())].to_vec();
        self.check(stream, &payload);
        self.connection.consume_pending(stream, payload.len());
    }

    /// One turn of output: control frames, then up to `payload` bytes on each of `streams`; the socket takes
    /// `socket` bytes in all. With `slots` payload is laid into record slots, else copied.
    pub(crate) fn write(&mut self, streams: &[(StreamId, usize)], socket: usize, slots: bool) {
        let unsent = self.connection.unsent();
        let first = unsent.len().min(socket);
        self.written.extend(&unsent[..first]);
        self.connection.advance(first);
        if !self.connection.unsent().is_empty() {
            return;
        }
        let result = self.fill(streams, slots);
        self.note(result);
        let sealed = self.outbox.sealed();
        let second = sealed.len().min(socket - first);
        self.written.extend(&sealed[..second]);
        self.connection.written(&mut self.outbox, second);
    }

    fn fill(&mut self, streams: &[(StreamId, usize)], slots: bool) -> Result<(), ConnectionError> {
        self.connection.flush(&mut self.outbox)?;
        for &(stream, n) in streams {
            let Some(flow) = self.sent.get_mut(&stream).filter(|flow| !flow.ended) else { continue };
            let role = self.connection.role();
            let n = if slots {
                let mut room = Vec::new();
                self.connection.slots(stream, &mut self.outbox, n, &mut room);
                let mut at = flow.at;
                for slot in &mut room {
                    for byte in slot.iter_mut() {
                        *byte = pattern(role, stream, at);
                        at += 1;
                    }
                }
                // A socket may give less than there is room for.
                let filled = (at - flow.at) as usize - (at % 3) as usize * usize::from(at - flow.at > 3);
                self.connection.seal(stream, &mut self.outbox, filled)?;
                filled
            } else {
                let payload: Vec<u8> =
                    (flow.at..flow.at + n as u64).map(|at| pattern(role, stream, at)).collect();
                self.connection.send(stream, &payload, &mut self.outbox)?
            };
            flow.at += n as u64;
        }
        Ok(())
    }

    pub(crate) fn handle_timeout(&mut self, now: u64) {
        let result = self.connection.handle_timeout(self.time(now));
        self.note(result);
    }

    pub(crate) fn timeout(&self) -> Option<u64> {
        self.connection.timeout().map(|Time(at)| at - self.clock)
    }

    /// The end of a turn: the connection may be moved.
    pub(crate) fn end_turn(mut self, now: u64) -> Self {
        let time = self.time(now);
        self.connection = match self.moves {
            Moves::Never => return self,
            Moves::Abort => self.connection.freeze().abort(),
            Moves::Always => {
                let Snapshot { state, secrets } = self.connection.freeze().snapshot(time);
                self.clock = (self.clock * 31 + 17) % 1_000_003;
                let prepared = Prepared::read(&state).unwrap();
                let secrets = Secrets::from_bytes(secrets.expose().to_vec());
                prepared.commit(Time(self.clock + now), &secrets).unwrap()
            }
        };
        self.freezes += 1;
        self
    }

    pub(crate) fn time(&self, now: u64) -> Time {
        Time(self.clock + now)
    }

    /// The application reads: each byte must be the one that comes next.
    fn check(&mut self, stream: StreamId, payload: &[u8]) {
        let sender = if self.connection.role() == Role::Client { Role::Server } else { Role::Client };
        let flow = self.received.entry(stream).or_default();
        for &byte in payload {
            let place =
                format_args!("seed {}, from {sender:?}, stream {stream}, byte {}", self.seed, flow.at);
            assert_eq!(byte, pattern(sender, stream, flow.at), "{place}");
            flow.at += 1;
        }
    }

    fn note(&mut self, result: Result<(), ConnectionError>) {
        if let Err(error) = result {
            self.log.push(error.to_string());
            self.failed.get_or_insert(error);
        }
    }
}

/// What byte `at` of a stream is, as sent by `role`.
pub(crate) fn pattern(role: Role, stream: StreamId, at: u64) -> u8 {
    let seed = u64::from(stream.get()) * 7919 + u64::from(role == Role::Client);
    ((at.wrapping_mul(0x9e37_79b9) >> 7) ^ at.wrapping_add(seed).wrapping_mul(31)) as u8
}
