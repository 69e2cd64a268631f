//! A scripted peer against a session, in cleartext: bytes on the page, one case a rule.

mod connection_rules;
mod flow;
mod life;
mod stream_rules;

use super::Session;
use super::output::PREFACE;
use crate::connect::ConnectRequest;
use crate::error::{ConnectionError, ErrorCode};
use crate::event::{Event, StreamId};
use crate::frame::{HEAD_LEN, Head, Kind};
use crate::role::Role;
use crate::settings::SessionConfig;
use crate::snapshot::{Reader, Writer};
use crate::time::Time;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

fn frame(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

fn setting(id: u16, value: u32) -> Vec<u8> {
    [id.to_be_bytes().as_slice(), &value.to_be_bytes()].concat()
}

/// Literals without indexing (RFC 7541 section 6.2.2).
fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127);
            block.push(text.len() as u8);
            block.extend(text.as_bytes());
        }
    }
    block
}

fn connect_block() -> Vec<u8> {
    fields(&[(":method", "CONNECT"), (":authority", "10.0.0.1:80")])
}

fn ok_block() -> Vec<u8> {
    fields(&[(":status", "200")])
}

fn connect(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, connect_block())
}

fn id(stream: u32) -> StreamId {
    StreamId::new(stream).unwrap()
}

/// A session and the peer's pen.
struct Peer {
    session: Session,
    now: Time,
}

impl Peer {
    /// Nothing said yet by either side.
    fn new(role: Role) -> Self {
        let config = match role {
            Role::Client => SessionConfig::client(),
            Role::Server => SessionConfig { max_concurrent_streams: 3, ..SessionConfig::server() },
        };
        Self::with(role, config)
    }

    fn with(role: Role, config: SessionConfig) -> Self {
        Self { session: Session::new(role, config, Time(0)), now: Time(0) }
    }

    /// Prefaces and SETTINGS are through in both directions.
    fn greeted(role: Role) -> Self {
        Self::new(role).greet()
    }

    fn greet(mut self) -> Self {
        if self.session.role() == Role::Server {
            self.receive(PREFACE).unwrap();
        }
        self.receive(&frame(SETTINGS, 0, 0, b"")).unwrap();
        self.receive(&frame(SETTINGS, ACK, 0, b"")).unwrap();
        self.sent();
        self
    }

    /// A server with stream 1 open and unanswered.
    fn server() -> Self {
        let mut peer = Self::greeted(Role::Server);
        peer.receive(&connect(1)).unwrap();
        peer
    }

    /// A client with stream 1 open and unanswered.
    fn client() -> Self {
        let mut peer = Self::greeted(Role::Client);
        assert_eq!(peer.session.connect(&ConnectRequest::connect("10.0.0.1:80", Vec::new())), Ok(id(1)));
        peer.sent();
        peer
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<Vec<Event>, ConnectionError> {
        let mut events = Vec::new();
        self.session.receive(self.now, bytes, 0, &mut events)?;
        self.session.settle(&mut events);
        Ok(events)
    }

    /// The frames that the session wants to send, without its greeting.
    fn sent(&mut self) -> Vec<(Head, Vec<u8>)> {
        let control = std::mem::take(self.session.control());
        let mut rest = control.strip_prefix(PREFACE).unwrap_or(&control);
        let mut frames = Vec::new();
        while let Some((head, behind)) = rest.split_first_chunk::<HEAD_LEN>() {
            let head = Head::parse(head);
            let (payload, behind) = behind.split_at(head.length as usize);
            frames.push((head, payload.to_vec()));
            rest = behind;
        }
        frames
    }

    /// RST_STREAM frames among what is sent.
    fn resets(&mut self) -> Vec<(u32, ErrorCode)> {
        let resets = self.sent().into_iter().filter(|(head, _)| head.kind == Kind::Reset);
        let code = |payload: Vec<u8>| u32::from_be_bytes(payload.try_into().unwrap());
        resets.map(|(head, payload)| (head.stream, ErrorCode::new(code(payload)))).collect()
    }

    /// The same session, moved.
    fn moved(self) -> Self {
        let mut state = Writer::with_capacity(0);
        self.session.freeze(&mut state, self.now);
        let mut reader = Reader::new(state.written());
        let mut session = Session::thaw(&mut reader).unwrap();
        reader.end().unwrap();
        session.rebase(self.now);
        Self { session, now: self.now }
    }
}

/// What a case must lead to.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// GOAWAY with this code.
    Connection(ErrorCode),
    /// RST_STREAM for these streams; the connection goes on.
    Streams(Vec<(u32, ErrorCode)>),
}

fn connection(code: ErrorCode) -> Outcome {
    Outcome::Connection(code)
}

fn stream(stream: u32, code: ErrorCode) -> Outcome {
    Outcome::Streams(vec![(stream, code)])
}

fn tolerated() -> Outcome {
    Outcome::Streams(Vec::new())
}

type Case = (&'static str, fn() -> Peer, Vec<Vec<u8>>, Outcome);

/// Runs each case with all bytes at once, and byte by byte with a move after each: the outcome must be the same.
fn check(cases: Vec<Case>) {
    for (name, start, frames, expected) in cases {
        let bytes = frames.concat();
        let mut whole = start();
        let outcome = match whole.receive(&bytes) {
            Err(ConnectionError::Http2 { code, .. }) => connection(code),
            Err(other) => panic!("{name}: {other}"),
            Ok(_) => Outcome::Streams(whole.resets()),
        };
        assert_eq!(outcome, expected, "{name}");

        let mut cut = start();
        let mut failed = None;
        for byte in bytes.chunks(1) {
            if let Err(error) = cut.receive(byte) {
                failed = Some(error);
                break;
            }
            cut = cut.moved();
        }
        let outcome = match failed {
            Some(error) => connection(error.code().unwrap()),
            None => Outcome::Streams(cut.resets()),
        };
        assert_eq!(outcome, expected, "{name}, byte by byte");
        if let Outcome::Streams(_) = expected {
            assert_eq!(whole.receive(&frame(PING, 0, 0, [7; 8])), Ok(Vec::new()), "{name}: goes on");
            assert_eq!(whole.sent().last().map(|(head, _)| head.kind), Some(Kind::Ping), "{name}: answers");
        }
    }
}
