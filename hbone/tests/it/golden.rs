//! Snapshots of released versions: each must thaw and go on for ever, or be refused by name.
//!
//! `HBONE_WRITE_GOLDEN=1 cargo test -p hbone --test it golden` writes a new pair where the format has changed; the old
//! ones stay.

use std::fs;
use std::path::PathBuf;

use fastrand::Rng;
use hbone::{
    ConnectRequest, ConnectResponse, Connection, ErrorCode, Event, Inbox, Outbox, Prepared, Role, Secrets,
    SessionConfig, Snapshot, ThawError, Time,
};

use crate::established;

/// Moves all that one end has to say to the other.
fn pass(from: &mut Connection, to: &mut Connection, now: u64) -> (Vec<Event>, Vec<u8>) {
    let mut outbox = Outbox::with_capacity(0);
    let unsent = from.unsent().to_vec();
    from.advance(unsent.len());
    from.flush(&mut outbox).unwrap();
    let bytes = [&unsent, outbox.sealed()].concat();
    from.written(&mut outbox, bytes.len() - unsent.len());
    receive(to, now, &bytes)
}

fn receive(to: &mut Connection, now: u64, bytes: &[u8]) -> (Vec<Event>, Vec<u8>) {
    let mut inbox = Inbox::with_capacity(0);
    inbox.space(to)[..bytes.len()].copy_from_slice(bytes);
    let mut events = Vec::new();
    to.receive(Time(now), &mut inbox, bytes.len(), &mut events).unwrap();
    let mut payload = Vec::new();
    for event in &events {
        if let Event::Data { range, .. } = event {
            payload.extend(inbox.bytes(range.clone()));
        }
    }
    (events, payload)
}

/// Payload sealed and left with the connection as unsent.
fn send(from: &mut Connection, stream: hbone::StreamId, payload: &[u8]) {
    let mut outbox = Outbox::with_capacity(0);
    assert_eq!(from.send(stream, payload, &mut outbox).unwrap(), payload.len());
    from.written(&mut outbox, 0);
}

/// A tunnel caught in the midst of everything: one stream half-closed with stashed payload, one waiting for its answer,
/// one reset; a record half received, sealed bytes unsent, a PING out, control frames queued, a key update owed.
fn busy_pair() -> (Connection, Connection) {
    let (mut client, mut server) = established(SessionConfig::client(), SessionConfig::server());
    let request = |port: u16| ConnectRequest::connect(format!("10.0.0.1:{port}"), Vec::new());
    let first = client.connect(&request(80)).unwrap();
    let second = client.connect(&request(81)).unwrap();
    let third = client.connect(&request(82)).unwrap();
    pass(&mut client, &mut server, 5);
    server.respond(first, &ConnectResponse::status(200), false);
    pass(&mut server, &mut client, 5);
    send(&mut client, first, b"from the client");
    client.finish(first);
    let (_, payload) = pass(&mut client, &mut server, 5);
    server.stash(first, &payload);
    server.reset(third, ErrorCode::CONNECT_ERROR);
    client.handle_timeout(Time(10_005)).unwrap();
    server.handle_timeout(Time(10_005)).unwrap();
    pass(&mut server, &mut client, 10_005);
    send(&mut server, first, b"from the server");
    // The socket takes all but the last 20 bytes.
    let taken = server.unsent()[..server.unsent().len() - 20].to_vec();
    server.advance(taken.len());
    receive(&mut client, 10_006, &taken);
    server.update_keys(false);
    server.respond(second, &ConnectResponse::status(200), false);
    (client, server)
}

/// What a thawed busy pair must still be able to do.
fn go_on(mut client: Connection, mut server: Connection) {
    assert_eq!((client.role(), server.role()), (Role::Client, Role::Server));
    let streams: Vec<_> = server.streams().collect();
    let &[first, second] = streams.as_slice() else { panic!("two streams: {streams:?}") };
    assert_eq!(server.pending(first), b"from the client");
    server.consume_pending(first, 15);
    assert!(!server.unsent().is_empty());
    let (events, payload) = pass(&mut server, &mut client, 10_010);
    assert_eq!(payload, b"from the server");
    assert!(events.iter().any(|event| matches!(event, Event::Response { stream, .. } if *stream == second)));
    server.finish(first);
    let (events, _) = pass(&mut server, &mut client, 10_011);
    assert_eq!(events, [Event::End { stream: first }]);
    pass(&mut client, &mut server, 10_011);
    pass(&mut server, &mut client, 10_011);
    assert_eq!((client.open_streams(), server.open_streams()), (1, 1));
    send(&mut client, second, &[7; 10_000]);
    assert_eq!(pass(&mut client, &mut server, 10_012).1, [7; 10_000]);
    // The PINGs were answered after the move: the next are due 10 s later.
    assert_eq!(client.timeout(), Some(Time(20_011)));
}

pub(crate) fn commit(state: &[u8], secrets: &[u8]) -> Connection {
    let secrets = Secrets::from_bytes(secrets.to_vec());
    Prepared::read(state).unwrap().commit(Time(10_007), &secrets).unwrap()
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// The state and the secrets of one end of a busy pair.
pub(crate) fn golden(role: &str) -> (Vec<u8>, Vec<u8>) {
    let name = folder().join(format!("v1-{role}"));
    let read = |extension| fs::read(name.with_extension(extension)).unwrap();
    (read("state"), read("secrets"))
}

#[test]
fn a_busy_pair_goes_on() {
    let (client, server) = busy_pair();
    let [client, server] = [client, server].map(|connection| {
        let Snapshot { state, secrets } = connection.freeze().snapshot(Time(10_007));
        if std::env::var_os("HBONE_WRITE_GOLDEN").is_some() {
            let name =
                folder().join(format!("v1-{:?}", Prepared::read(&state).unwrap().role()).to_lowercase());
            fs::write(name.with_extension("state"), &state).unwrap();
            fs::write(name.with_extension("secrets"), secrets.expose()).unwrap();
        }
        commit(&state, secrets.expose())
    });
    go_on(client, server);
}

#[test]
fn golden_snapshots_go_on() {
    let connection = |role: &str| {
        let (state, secrets) = golden(role);
        commit(&state, &secrets)
    };
    go_on(connection("client"), connection("server"));
}

/// The state of a busy server, with its envelope taken apart: magic, version, length, checksum, body.
fn busy_state() -> Vec<u8> {
    golden("server").0
}

/// An envelope around `body` that is right but for what the caller changed.
pub(crate) fn envelope(version: u16, body: &[u8]) -> Vec<u8> {
    let mut state = busy_state()[..8].to_vec();
    state.extend(version.to_be_bytes());
    state.extend((body.len() as u32).to_be_bytes());
    state.extend(crc32fast::hash(body).to_be_bytes());
    state.extend(body);
    state
}

/// Bytes before the body.
pub(crate) const BODY: usize = 18;

#[test]
fn what_is_not_known_is_refused_by_name() {
    let state = busy_state();
    assert_eq!(envelope(1, &state[BODY..]), state);
    let refusal = |state: &[u8]| Prepared::read(state).err().unwrap();
    assert_eq!(refusal(&envelope(2, &state[BODY..])), ThawError::Version(2));
    assert_eq!(refusal(b"not a snapshot at all"), ThawError::NotASnapshot);
    let feature = b"websockets";
    let count = u32::from_be_bytes(state[BODY..BODY + 4].try_into().unwrap());
    let mut body = (count + 1).to_be_bytes().to_vec();
    body.extend((feature.len() as u32).to_be_bytes());
    body.extend(feature);
    body.extend(&state[BODY + 4..]);
    assert_eq!(refusal(&envelope(1, &body)), ThawError::Feature("websockets".to_owned()));
    let longer = [&state[BODY..], b"x"].concat();
    assert!(matches!(refusal(&envelope(1, &longer)), ThawError::Invalid(_)));
}

#[test]
fn damage_is_refused_and_never_panics() {
    let state = busy_state();
    for length in 0..state.len() {
        assert!(Prepared::read(&state[..length]).is_err(), "{length} bytes");
        if length >= BODY {
            // Even if the checksum is right.
            assert!(
                Prepared::read(&envelope(1, &state[BODY..length])).is_err(),
                "{length} bytes, sealed anew"
            );
        }
    }
    let mut rng = Rng::with_seed(7);
    for round in 0..20_000 {
        let mut broken = state.clone();
        for _ in 0..rng.usize(1..4) {
            let at = rng.usize(..broken.len());
            broken[at] ^= 1 << rng.u32(..8);
        }
        if broken != state {
            assert!(Prepared::read(&broken).is_err(), "round {round}");
        }
        // With the checksum set right it may pass for a connection, and must behave like one.
        exercise(&envelope(1, &broken[BODY..]));
    }
}

/// Runs a connection that no honest peer led to: errors are fine, panics aren't.
fn exercise(state: &[u8]) {
    let Ok(prepared) = Prepared::read(state) else { return };
    let (_, mut secrets) = golden("server");
    let checksum = secrets.len() - 4;
    secrets[checksum..].copy_from_slice(&crc32fast::hash(&state[BODY..]).to_be_bytes());
    let Ok(mut connection) = prepared.commit(Time(0), &Secrets::from_bytes(secrets)) else { return };
    let mut outbox = Outbox::with_capacity(0);
    let _ = connection.receive(Time(1), &mut Inbox::with_capacity(0), 0, &mut Vec::new());
    let _ = connection.handle_timeout(Time(10_000));
    connection.advance(usize::MAX);
    let streams: Vec<_> = connection.streams().collect();
    for stream in streams {
        connection.respond(stream, &ConnectResponse::status(200), false);
        let _ = connection.send(stream, &[0; 100], &mut outbox);
        connection.consume_pending(stream, 3);
        connection.consumed(stream, usize::MAX);
        connection.finish(stream);
    }
    let _ = connection.connect(&ConnectRequest::connect("a:1", Vec::new()));
    let _ = connection.flush(&mut outbox);
    connection.written(&mut outbox, usize::MAX);
    let Snapshot { state, .. } = connection.freeze().snapshot(Time(20_000));
    assert!(Prepared::read(&state).is_ok());
}

#[test]
fn secrets_of_another_state_are_refused() {
    let (client, server) = busy_pair();
    let [client, server] = [client, server].map(|connection| connection.freeze().snapshot(Time(10_007)));
    let prepared = Prepared::read(&client.state).unwrap();
    assert!(prepared.commit(Time(0), &server.secrets).is_err());
    for n in 0..client.secrets.expose().len() {
        let cut = Secrets::from_bytes(client.secrets.expose()[..n].to_vec());
        assert!(Prepared::read(&client.state).unwrap().commit(Time(0), &cut).is_err());
    }
}
