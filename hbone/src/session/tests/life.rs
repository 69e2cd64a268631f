//! How connections and streams begin and end when nobody breaks a rule.

use super::*;
use crate::{ConnectResponse, OpenError};

fn request() -> ConnectRequest {
    ConnectRequest::connect("10.0.0.1:80", Vec::new())
}

fn go_away(last: u32, code: u32) -> Vec<u8> {
    frame(GOAWAY, 0, 0, [last.to_be_bytes(), code.to_be_bytes()].concat())
}

#[test]
fn a_server_stream_from_request_to_end() {
    let mut peer = Peer::greeted(Role::Server);
    let events = peer.receive(&connect(1)).unwrap();
    assert_eq!(events, [Event::Request { stream: id(1), request: request() }]);
    assert_eq!(peer.session.send_room(id(1)), 0, "no payload before the response");
    peer.session.finish(id(1));
    assert_eq!(peer.sent(), [], "nor an end");
    peer.session.respond(id(1), &ConnectResponse::status(200), false);
    peer.session.respond(id(1), &ConnectResponse::status(503), true);
    assert_eq!(peer.sent().len(), 1, "one response");
    let bytes =
        [frame(DATA, 0, 1, b"hello"), frame(HEADERS, END_HEADERS | END_STREAM, 1, fields(&[("a", "b")]))]
            .concat();
    let events = peer.receive(&bytes).unwrap();
    assert_eq!(events, [Event::Data { stream: id(1), range: 9..14 }, Event::End { stream: id(1) }]);
    peer.session.stash(id(1), b"hello");
    peer.session.finish(id(1));
    assert_eq!(peer.session.open_streams(), 0);
    assert_eq!(peer.session.pending(id(1)), b"hello", "kept until it is read");
    let mut peer = peer.moved();
    assert_eq!(peer.session.pending(id(1)), b"hello");
    peer.session.consume_pending(id(1), 2);
    assert_eq!(peer.session.pending(id(1)), b"llo");
    peer.session.consume_pending(id(1), 3);
    assert_eq!(peer.session.streams().len(), 0);
}

#[test]
fn a_reset_leaves_the_payload_before_it() {
    for flags in [0, END_STREAM] {
        let mut peer = Peer::server();
        let bytes = [frame(DATA, flags, 1, b"hello"), frame(RST_STREAM, 0, 1, [0; 4])].concat();
        let events = peer.receive(&bytes).unwrap();
        let reset = Event::Reset { stream: id(1), code: ErrorCode::NO_ERROR, retryable: false };
        assert_eq!(events.last(), Some(&reset));
        assert_eq!(peer.session.open_streams(), 0);
        peer.session.consumed(id(1), 1);
        peer.session.stash(id(1), b"ello");
        let mut peer = peer.moved();
        assert_eq!(peer.session.pending(id(1)), b"ello");
        peer.session.reset(id(1), ErrorCode::CANCEL);
        assert_eq!(peer.session.streams().len(), 0);
        assert_eq!(peer.sent(), []);
    }
}

#[test]
fn a_client_opens_as_many_streams_as_both_allow() {
    let mut peer = Peer::greeted(Role::Client);
    assert_eq!(peer.session.stream_room(), 100);
    peer.receive(&frame(SETTINGS, 0, 0, setting(3, 2))).unwrap();
    assert_eq!(peer.session.connect(&request()), Ok(id(1)));
    assert_eq!(peer.session.connect(&request()), Ok(id(3)));
    assert_eq!(peer.session.connect(&request()), Err(OpenError::Full));
    let events = peer.receive(&frame(RST_STREAM, 0, 1, [0, 0, 0, 7])).unwrap();
    let code = ErrorCode::REFUSED_STREAM;
    assert_eq!(events, [Event::Reset { stream: id(1), code, retryable: true }, Event::Room]);
    peer.receive(&frame(SETTINGS, 0, 0, setting(3, 0))).unwrap();
    assert_eq!(peer.session.connect(&request()), Err(OpenError::Full));
    let events = peer.receive(&frame(SETTINGS, 0, 0, setting(3, 1000))).unwrap();
    assert_eq!((events, peer.session.stream_room()), (vec![Event::Room], 99));
}

#[test]
fn stream_ids_run_out() {
    let mut peer = Peer::greeted(Role::Client);
    peer.session.last_id = StreamId::MAX - 2;
    assert_eq!(peer.session.connect(&request()), Ok(id(StreamId::MAX)));
    assert!(peer.session.is_draining());
    assert_eq!(peer.session.connect(&request()), Err(OpenError::Draining));
}

#[test]
fn a_peer_that_goes_away_leaves_what_it_processed() {
    let mut peer = Peer::greeted(Role::Client);
    for _ in 0..3 {
        peer.session.connect(&request()).unwrap();
    }
    assert_eq!(peer.receive(&go_away(StreamId::MAX, 0)), Ok(vec![Event::Draining]));
    assert_eq!(peer.session.connect(&request()), Err(OpenError::Draining));
    let events = peer.moved().receive(&go_away(1, 0)).unwrap();
    let refused = |n| Event::Reset { stream: id(n), code: ErrorCode::REFUSED_STREAM, retryable: true };
    assert_eq!(events, [refused(3), refused(5)]);
}

#[test]
fn a_peer_that_went_away_is_done_with_its_last_stream() {
    let mut peer = Peer::client();
    peer.receive(&go_away(1, 0)).unwrap();
    peer.receive(&frame(HEADERS, END_HEADERS | END_STREAM, 1, ok_block())).unwrap();
    peer.session.finish(id(1));
    assert_eq!(peer.receive(&frame(PING, 0, 0, [0; 8])), Ok(vec![Event::Closed]));
    assert_eq!(peer.receive(&frame(PING, 0, 0, [0; 8])), Ok(vec![]), "told once");
}

#[test]
fn our_going_away_has_two_steps() {
    let mut peer = Peer::server();
    peer.session.shutdown(Time(0));
    peer.session.shutdown(Time(0));
    let mut frames = peer.sent();
    let (ping, payload) = frames.pop().unwrap();
    assert_eq!((ping.kind, frames.len()), (Kind::Ping, 1));
    assert_eq!(frames[0].1[..4], StreamId::MAX.to_be_bytes());
    // A stream that was on its way is served.
    assert!(matches!(peer.receive(&connect(3)).unwrap()[..], [Event::Request { .. }]));
    let mut peer = peer.moved();
    peer.receive(&frame(PING, ACK, 0, payload)).unwrap();
    let frames = peer.sent();
    assert_eq!((frames[0].0.kind, &frames[0].1), (Kind::GoAway, &[3_u32.to_be_bytes(), [0; 4]].concat()));
    // One behind it isn't, but what comes on it does no harm.
    let late = [connect(5), frame(DATA, 0, 5, b"x"), frame(RST_STREAM, 0, 5, [0; 4])].concat();
    assert_eq!(peer.receive(&late), Ok(vec![]));
    assert_eq!(peer.sent(), []);
    for n in [1, 3] {
        peer.session.reset(id(n), ErrorCode::CANCEL);
    }
    assert_eq!(peer.receive(&frame(PING, 0, 0, [0; 8])), Ok(vec![Event::Closed]));
}

#[test]
fn our_going_away_does_not_wait_for_ever() {
    let mut peer = Peer::server();
    peer.session.shutdown(Time(0));
    peer.sent();
    peer.session.keepalive.answered(Time(0), &SessionConfig::server());
    peer.session.handle_timeout(Time(10_000)).unwrap();
    let mut peer = peer.moved();
    peer.receive(&frame(PING, ACK, 0, super::super::KEEPALIVE)).unwrap();
    peer.sent();
    peer.session.handle_timeout(Time(19_999)).unwrap();
    assert!(peer.sent().iter().all(|(head, _)| head.kind != Kind::GoAway));
    peer.now = Time(20_000);
    peer.session.handle_timeout(peer.now).unwrap();
    assert!(peer.sent().iter().any(|(head, _)| head.kind == Kind::GoAway));
}

#[test]
fn the_answer_to_a_probe_is_told_once_and_only_to_who_asked() {
    let ack = frame(PING, ACK, 0, super::super::PROBE);
    let mut peer = Peer::client();
    assert_eq!(peer.receive(&ack), Ok(vec![]), "nobody has asked yet");
    peer.session.probe();
    peer.session.probe();
    let pings = peer.sent().into_iter().filter(|(head, _)| head.kind == Kind::Ping).count();
    assert_eq!(pings, 1);
    assert_eq!(peer.receive(&ack), Ok(vec![Event::Answered]));
    assert_eq!(peer.receive(&ack), Ok(vec![]));
    peer.session.probe();
    let mut moved = peer.moved();
    assert_eq!(moved.receive(&ack), Ok(vec![]), "the question stayed behind");
    moved.session.probe();
    assert_eq!(moved.receive(&ack), Ok(vec![Event::Answered]));
    // Nor may a peer answer without end what nobody asked.
    let flood = (0..100_000).find_map(|_| moved.receive(&ack).err());
    assert!(flood.is_some());
}

#[test]
fn a_silent_peer_is_given_up() {
    let mut peer = Peer::client();
    assert_eq!(peer.session.timeout(), Time(10_000));
    peer.session.handle_timeout(Time(9_999)).unwrap();
    assert_eq!(peer.sent(), []);
    peer.now = Time(10_000);
    peer.session.handle_timeout(peer.now).unwrap();
    let frames = peer.sent();
    assert_eq!((frames.len(), frames[0].0.kind), (1, Kind::Ping));
    let mut peer = peer.moved();
    peer.now = Time(15_000);
    peer.receive(&frame(PING, ACK, 0, &frames[0].1)).unwrap();
    assert_eq!(peer.session.timeout(), Time(25_000));
    peer.session.handle_timeout(Time(25_000)).unwrap();
    assert_eq!(peer.session.timeout(), Time(45_000));
    peer.session.handle_timeout(Time(44_999)).unwrap();
    assert_eq!(peer.session.handle_timeout(Time(45_000)), Err(ConnectionError::PingTimeout));
}

#[test]
fn the_header_table_moves_along() {
    // Indexed before the peer knows that our table has size 0 (RFC 7541 section 6.2.1).
    let mut peer = Peer::new(Role::Server);
    let mut block = vec![0x40 | 2, 7];
    block.extend(b"CONNECT");
    block.extend([0x40 | 1, 3]);
    block.extend(b"a:1");
    let first = frame(HEADERS, END_HEADERS, 1, block);
    peer.receive(&[PREFACE.as_slice(), &frame(SETTINGS, 0, 0, b""), &first].concat()).unwrap();
    let mut peer = peer.moved();
    let events = peer.receive(&frame(HEADERS, END_HEADERS, 3, [0x80 | 63, 0x80 | 62])).unwrap();
    let request = ConnectRequest::connect("a:1", Vec::new());
    assert_eq!(events, [Event::Request { stream: id(3), request }]);
    // Once it has acknowledged, it must empty its table (RFC 9113 section 4.3.1).
    peer.receive(&frame(SETTINGS, ACK, 0, b"")).unwrap();
    let mut peer = peer.moved();
    let error = peer.receive(&frame(HEADERS, END_HEADERS, 5, [0x80 | 63, 0x80 | 62])).unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::COMPRESSION_ERROR));
}

#[test]
fn an_idle_session_is_small() {
    let size = |peer: &Peer| {
        let mut state = Writer::with_capacity(0);
        peer.session.freeze(&mut state, peer.now);
        state.written().len()
    };
    let mut peer = Peer::server();
    peer.session.respond(id(1), &ConnectResponse::status(200), false);
    peer.sent();
    let one = size(&peer);
    assert!(one < 400, "{one}");
    peer.receive(&connect(3)).unwrap();
    assert!(size(&peer) - one <= 80, "{}", size(&peer) - one);
}

#[test]
fn whatever_a_snapshot_and_a_peer_say_nothing_panics() {
    let mut peer = Peer::server();
    peer.receive(&[connect(3), frame(DATA, PADDED, 1, [9; 300])[..200].to_vec()].concat()).unwrap();
    peer.session.stash(id(1), &[9; 100]);
    let mut state = Writer::with_capacity(0);
    peer.session.freeze(&mut state, peer.now);
    let mut rng = fastrand::Rng::with_seed(3);
    let mut survivors = 0;
    for _ in 0..20_000 {
        let mut broken = state.written().to_vec();
        for _ in 0..rng.usize(1..4) {
            let at = rng.usize(..broken.len());
            broken[at] = rng.u8(..);
        }
        let Ok(session) = Session::thaw(&mut Reader::new(&broken)) else { continue };
        survivors += 1;
        let mut peer = Peer { session, now: Time(5) };
        let rest = [9; 109];
        let script = [
            rest.to_vec(),
            frame(DATA, END_STREAM, 3, [1; 50]),
            connect(5),
            frame(SETTINGS, 0, 0, setting(4, 1)),
            go_away(1, 0),
        ];
        for bytes in script {
            let _ = peer.receive(&bytes);
            let streams: Vec<_> = peer.session.streams().collect();
            for stream in streams {
                peer.session.consumed(stream, rng.usize(..100));
                peer.session.respond(stream, &ConnectResponse::status(200), false);
            }
            peer.session.control().clear();
        }
        let _ = peer.session.handle_timeout(Time(20_000));
    }
    assert!(survivors > 1000, "{survivors}");
}
