//! Our end: a connection on an in-memory pipe, read and written in random pieces and moved at random turns.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use hbone::{Connection, ErrorCode, Event, Handshake, Inbox, Outbox, Prepared, Snapshot, StreamId, Time};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::Case;

pub(super) struct Tunnel {
    io: DuplexStream,
    /// Always there between two calls.
    connection: Option<Connection>,
    inbox: Inbox,
    outbox: Outbox,
    rng: Rng,
    case: Case,
    /// Payload to be sent.
    queues: BTreeMap<StreamId, Vec<u8>>,
    /// Streams that end once their queue is empty.
    ends: BTreeSet<StreamId>,
    pub(super) moves: usize,
}

impl Tunnel {
    pub(super) async fn establish(mut io: DuplexStream, mut handshake: Handshake, case: Case) -> Self {
        let mut rng = Rng::with_seed(case.seed);
        let mut buffer = [0; 4096];
        while !handshake.is_complete() {
            let n = io.write(handshake.output()).await.unwrap();
            handshake.advance(n);
            if handshake.output().is_empty() && !handshake.is_complete() {
                let most = rng.usize(1..buffer.len());
                let n = io.read(&mut buffer[..most]).await.unwrap();
                assert!(n > 0, "{case:?}: the peer gave up");
                handshake.receive(&buffer[..n]).unwrap();
            }
        }
        Self {
            io,
            connection: Some(handshake.finish(Time(0)).unwrap().connection),
            inbox: Inbox::with_capacity(0),
            outbox: Outbox::with_capacity(256 << 10),
            rng,
            case,
            queues: BTreeMap::new(),
            ends: BTreeSet::new(),
            moves: 0,
        }
    }

    pub(super) fn connection(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("there between two calls")
    }

    /// Sends payload when there is room.
    pub(super) fn queue(&mut self, stream: StreamId, payload: &[u8]) {
        self.queues.entry(stream).or_default().extend(payload);
    }

    /// Ends our direction behind what is queued.
    pub(super) fn end(&mut self, stream: StreamId) {
        self.ends.insert(stream);
    }

    /// Writes what there is, waits until something can be read or written, and gives what was received.
    pub(super) async fn turn(&mut self) -> Vec<(Event, Vec<u8>)> {
        self.fill();
        self.maybe_move();
        let connection = self.connection.as_mut().expect("there between two calls");
        let (mut reader, mut writer) = tokio::io::split(&mut self.io);
        let mut buffer = [0; 30_000];
        let most = self.rng.usize(1..buffer.len());
        let unsent = connection.unsent();
        let part = if unsent.is_empty() { 0 } else { self.rng.usize(1..=unsent.len()) };
        tokio::select! {
            n = reader.read(&mut buffer[..most]) => {
                let n = n.unwrap();
                self.received(&buffer[..n])
            }
            n = writer.write(&unsent[..part]), if part > 0 => {
                let n = n.unwrap();
                connection.advance(n);
                Vec::new()
            }
        }
    }

    fn fill(&mut self) {
        let connection = self.connection.as_mut().expect("there between two calls");
        if !connection.unsent().is_empty() {
            return;
        }
        connection.flush(&mut self.outbox).unwrap();
        for (&stream, queue) in &mut self.queues {
            let n = connection.send(stream, queue, &mut self.outbox).unwrap();
            queue.drain(..n);
        }
        self.queues.retain(|_, queue| !queue.is_empty());
        self.ends.retain(|stream| {
            let done = !self.queues.contains_key(stream);
            if done {
                connection.finish(*stream);
            }
            !done
        });
        connection.flush(&mut self.outbox).unwrap();
        // All through unsent: the pipe takes random pieces of it.
        connection.written(&mut self.outbox, 0);
    }

    fn maybe_move(&mut self) {
        if self.case.keys && self.rng.u32(..20) == 0 {
            let request = self.rng.bool();
            self.connection().update_keys(request);
        }
        if self.rng.u32(..4) > 0 {
            return;
        }
        self.moves += 1;
        let frozen = self.connection.take().expect("there between two calls").freeze();
        let Snapshot { state, secrets } = frozen.snapshot(Time(0));
        drop(frozen);
        self.connection = Some(Prepared::read(&state).unwrap().commit(Time(0), &secrets).unwrap());
    }

    fn received(&mut self, bytes: &[u8]) -> Vec<(Event, Vec<u8>)> {
        let connection = self.connection.as_mut().expect("there between two calls");
        let mut events = Vec::new();
        if bytes.is_empty() {
            connection.receive_end(&mut events).unwrap();
        }
        self.inbox.space(connection)[..bytes.len()].copy_from_slice(bytes);
        connection.receive(Time(0), &mut self.inbox, bytes.len(), &mut events).unwrap();
        let mut with_payload = Vec::new();
        for event in events {
            let mut payload = Vec::new();
            if let Event::Data { stream, range } = &event {
                payload = self.inbox.bytes(range.clone()).to_vec();
                connection.consumed(*stream, payload.len());
            }
            with_payload.push((event, payload));
        }
        with_payload
    }

    /// GOAWAY and close_notify, then what the peer still says to its end: a pipe dropped with that unread breaks.
    pub(super) async fn close(mut self) {
        let connection = self.connection.as_mut().expect("there between two calls");
        while !connection.unsent().is_empty() {
            let n = self.io.write(connection.unsent()).await.unwrap_or(connection.unsent().len());
            connection.advance(n);
        }
        connection.close(ErrorCode::NO_ERROR);
        connection.flush(&mut self.outbox).unwrap();
        // The peer may have gone first.
        let _ = self.io.write_all(self.outbox.sealed()).await;
        let _ = self.io.shutdown().await;
        let _ = self.io.read_to_end(&mut Vec::new()).await;
    }
}
