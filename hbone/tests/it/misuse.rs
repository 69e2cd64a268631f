//! Ends of a connection, orderly and not, and callers that ask for what isn't there.

use hbone::{
    ConnectRequest, ConnectResponse, Connection, ConnectionError, ErrorCode, Event, Fault, Inbox, OpenError,
    Outbox, SessionConfig, StreamId, Time,
};

use crate::established;

struct Pair {
    client: Connection,
    server: Connection,
    stream: StreamId,
}

/// A pair with one stream, answered.
fn open() -> Pair {
    let (mut client, mut server) = established(SessionConfig::client(), SessionConfig::server());
    let stream = client.connect(&ConnectRequest::connect("10.0.0.1:80", Vec::new())).unwrap();
    pass(&mut client, &mut server).unwrap();
    server.respond(stream, &ConnectResponse::status(200), false);
    pass(&mut server, &mut client).unwrap();
    pass(&mut client, &mut server).unwrap();
    Pair { client, server, stream }
}

fn pass(from: &mut Connection, to: &mut Connection) -> Result<Vec<Event>, (ConnectionError, Vec<Event>)> {
    let bytes = output(from);
    receive(to, &bytes)
}

fn output(from: &mut Connection) -> Vec<u8> {
    let mut outbox = Outbox::with_capacity(0);
    from.flush(&mut outbox).unwrap();
    let bytes = [from.unsent(), outbox.sealed()].concat();
    from.written(&mut outbox, 0);
    from.advance(bytes.len());
    bytes
}

fn receive(to: &mut Connection, bytes: &[u8]) -> Result<Vec<Event>, (ConnectionError, Vec<Event>)> {
    let mut inbox = Inbox::with_capacity(0);
    inbox.space(to)[..bytes.len()].copy_from_slice(bytes);
    let mut events = Vec::new();
    match to.receive(Time(0), &mut inbox, bytes.len(), &mut events) {
        Ok(()) => Ok(events),
        Err(error) => Err((error, events)),
    }
}

#[test]
fn close_tells_the_peer_and_is_the_end() {
    let Pair { mut client, mut server, stream } = open();
    client.close(ErrorCode::NO_ERROR);
    assert!(client.is_closed() && client.is_draining() && client.wants_flush());
    let events = pass(&mut client, &mut server).unwrap();
    let reset = Event::Reset { stream, code: ErrorCode::CONNECT_ERROR, retryable: false };
    assert_eq!(events, [Event::Draining, reset, Event::Closed]);
    assert!(server.is_closed() && !client.wants_flush());
    assert_eq!(client.timeout(), None);
    assert_eq!(client.connect(&ConnectRequest::connect("a:1", Vec::new())), Err(OpenError::Draining));
    assert_eq!(output(&mut client), []);
    assert_eq!(receive(&mut client, b"whatever comes is ignored"), Ok(vec![]));
    assert_eq!(server.receive_end(&mut Vec::new()), Ok(()), "the end was announced");
}

#[test]
fn an_end_in_the_middle_is_an_error() {
    let Pair { mut client, mut server, stream } = open();
    let mut outbox = Outbox::with_capacity(0);
    client.send(stream, b"hello", &mut outbox).unwrap();
    client.written(&mut outbox, 0);
    pass(&mut client, &mut server).unwrap();
    server.stash(stream, b"hello");
    let mut events = Vec::new();
    assert_eq!(server.receive_end(&mut events), Err(ConnectionError::Truncated));
    let reset = Event::Reset { stream, code: ErrorCode::CONNECT_ERROR, retryable: false };
    assert_eq!(events, [reset, Event::Closed]);
    assert_eq!(server.pending(stream), b"hello", "what came may be read");
    let (mut client, _) = established(SessionConfig::client(), SessionConfig::server());
    assert_eq!(client.receive_end(&mut Vec::new()), Ok(()), "nothing was open");
}

#[test]
fn a_forged_record_ends_the_connection_with_an_alert() {
    let Pair { mut client, mut server, stream } = open();
    server.update_keys(false);
    let mut bytes = output(&mut server);
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let (error, events) = receive(&mut client, &bytes).unwrap_err();
    assert_eq!((error.alert(), error.fault(), error.code()), (Some(20), Fault::Peer, None));
    assert!(matches!(events[..], [Event::Reset { stream: which, .. }] if which == stream));
    let (error, _) = pass(&mut client, &mut server).unwrap_err();
    assert!(error.to_string().contains("BadRecordMac"), "{error}");
    assert_eq!(error.alert(), None, "an alert isn't answered");
    assert_eq!(output(&mut server), []);
}

#[test]
fn a_silent_peer_is_told_and_left() {
    let Pair { mut client, mut server, .. } = open();
    client.handle_timeout(Time(10_000)).unwrap();
    output(&mut client);
    assert_eq!(client.timeout(), Some(Time(30_000)));
    assert_eq!(client.handle_timeout(Time(30_000)), Err(ConnectionError::PingTimeout));
    assert_eq!(client.handle_timeout(Time(30_001)), Ok(()));
    assert!(client.is_closed());
    // What was lost on the way makes the next record unreadable; here is only what is said last.
    assert!(!output(&mut client).is_empty());
    server.handle_timeout(Time(9_999)).unwrap();
    assert!(!server.wants_flush());
}

#[test]
fn unknown_streams_do_nothing() {
    let Pair { mut client, .. } = open();
    let nobody = StreamId::new(99).unwrap();
    client.consumed(nobody, 5);
    client.stash(nobody, b"x");
    client.consume_pending(nobody, 5);
    client.finish(nobody);
    client.reset(nobody, ErrorCode::CANCEL);
    client.respond(nobody, &ConnectResponse::status(200), false);
    assert_eq!((client.send_room(nobody), client.pending(nobody)), (0, [].as_slice()));
    let mut outbox = Outbox::with_capacity(0);
    assert_eq!(client.send(nobody, b"x", &mut outbox), Ok(0));
    assert!(outbox.is_empty() && !client.wants_flush());
    let (_, mut server) = established(SessionConfig::client(), SessionConfig::server());
    assert_eq!(server.connect(&ConnectRequest::connect("a:1", Vec::new())), Err(OpenError::NotClient));
}

#[test]
fn slots_may_be_given_up() {
    let Pair { mut client, mut server, stream } = open();
    let mut outbox = Outbox::with_capacity(0);
    let mut slots = Vec::new();
    assert_eq!(client.slots(stream, &mut outbox, 30_000, &mut slots), 30_000);
    assert_eq!(slots.iter().map(|slot| slot.len()).sum::<usize>(), 30_000);
    drop(slots);
    client.seal(stream, &mut outbox, 0).unwrap();
    client.seal(stream, &mut outbox, 10).unwrap();
    assert!(outbox.is_empty(), "nothing is laid out any more");
    assert_eq!(client.send(stream, b"hello", &mut outbox), Ok(5));
    let bytes = outbox.sealed().to_vec();
    client.written(&mut outbox, bytes.len());
    assert!(matches!(receive(&mut server, &bytes).unwrap()[..], [Event::Data { .. }]));
}

#[test]
fn nothing_overtakes_unsent_bytes() {
    let Pair { mut client, server, stream } = open();
    let mut outbox = Outbox::with_capacity(0);
    client.send(stream, b"hello", &mut outbox).unwrap();
    client.written(&mut outbox, 3);
    assert_eq!(client.send_room(stream), 0);
    client.finish(stream);
    assert!(!client.wants_flush());
    client.flush(&mut outbox).unwrap();
    assert_eq!(client.send(stream, b"more", &mut outbox), Ok(0));
    assert!(outbox.is_empty());
    let rest = client.unsent().len();
    client.advance(rest - 1);
    assert_eq!(client.unsent().len(), 1);
    client.advance(1);
    assert!(client.wants_flush());
    assert!(!output(&mut client).is_empty());
    assert_eq!(server.open_streams(), 1);
}

#[test]
fn payload_never_overtakes_its_headers() {
    let Pair { mut client, mut server, .. } = open();
    let stream = client.connect(&ConnectRequest::connect("10.0.0.1:81", Vec::new())).unwrap();
    let mut outbox = Outbox::with_capacity(0);
    assert_eq!(client.send(stream, b"hello", &mut outbox), Ok(5));
    let bytes = outbox.sealed().to_vec();
    client.written(&mut outbox, bytes.len());
    let events = receive(&mut server, &bytes).unwrap();
    assert!(matches!(events[..], [Event::Request { .. }, Event::Data { .. }]), "{events:?}");
}
