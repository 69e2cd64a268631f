//! Flow control as both sides see it.

use super::*;
use crate::ConnectResponse;

fn updates(peer: &mut Peer) -> Vec<(u32, u32)> {
    let updates = peer.sent().into_iter().filter(|(head, _)| head.kind == Kind::WindowUpdate);
    updates.map(|(head, payload)| (head.stream, u32::from_be_bytes(payload.try_into().unwrap()))).collect()
}

#[test]
fn the_connection_window_is_raised_at_once() {
    let mut peer = Peer::new(Role::Client);
    assert_eq!(updates(&mut peer), [(0, (1 << 20) - 65_535)]);
}

#[test]
fn windows_are_given_back_in_halves_and_padding_at_once() {
    let mut peer = Peer::server();
    let mut events = peer.receive(&frame(DATA, 0, 1, vec![0; 131_071])).unwrap();
    assert_eq!(events.pop(), Some(Event::Data { stream: id(1), range: 9..9 + 131_071 }));
    peer.session.consumed(id(1), 131_071);
    assert_eq!(updates(&mut peer), []);
    let padded = frame(DATA, PADDED, 1, [&[200], [0; 1000].as_slice()].concat());
    let events = peer.receive(&padded).unwrap();
    assert_eq!(events, [Event::Data { stream: id(1), range: 10..810 }]);
    assert_eq!(updates(&mut peer), [(1, 131_071 + 201)]);
    peer.session.consumed(id(1), 800);
    peer.session.consumed(id(1), 1_000_000);
    assert_eq!(updates(&mut peer), [], "no more than what was received is given back");
}

#[test]
fn windows_grow_with_a_reader_that_keeps_up_and_fall_back_with_one_that_does_not() {
    let mut peer = Peer::server();
    let mut granted = 256 << 10;
    let mut total = 0;
    while total < 64 << 20 {
        let n = granted.min(100_000);
        peer.receive(&frame(DATA, 0, 1, vec![0; n])).unwrap();
        peer.session.consumed(id(1), n);
        total += n;
        granted -= n;
        for (stream, n) in updates(&mut peer) {
            granted += if stream == 1 { n as usize } else { 0 };
        }
    }
    assert!((3 << 20..=4 << 20).contains(&granted), "{granted}");

    // The reader stops: what was granted may come, and nothing is granted until it has read nearly all.
    while granted > 0 {
        let n = granted.min(100_000);
        let bytes = frame(DATA, 0, 1, vec![0; n]);
        peer.receive(&bytes).unwrap();
        peer.session.stash(id(1), &bytes[9..]);
        granted -= n;
    }
    let held = peer.session.pending(id(1)).len();
    assert!(updates(&mut peer).iter().all(|&(stream, _)| stream == 0));
    peer.session.consume_pending(id(1), held - 131_073);
    assert_eq!(updates(&mut peer).iter().filter(|(stream, _)| *stream == 1).count(), 0);
    peer.session.consume_pending(id(1), 1);
    assert_eq!(updates(&mut peer).iter().find(|(stream, _)| *stream == 1), Some(&(1, 131_072)));
}

#[test]
fn a_reset_stream_gives_the_connection_its_window_back() {
    let mut peer = Peer::server();
    for n in [3, 5] {
        peer.receive(&connect(n)).unwrap();
    }
    for round in 0..40 {
        for n in [1, 3, 5] {
            peer.receive(&frame(DATA, 0, n + 6 * round, vec![0; 262_144])).unwrap();
        }
        peer.session.reset(id(1 + 6 * round), ErrorCode::CANCEL);
        peer.receive(&frame(RST_STREAM, 0, 3 + 6 * round, [0, 0, 0, 8])).unwrap();
        peer.session.reset(id(3 + 6 * round), ErrorCode::CANCEL);
        peer.receive(&frame(DATA, 0, 5 + 6 * round, b"x")).unwrap();
        peer.session.consumed(id(5 + 6 * round), 262_144);
        peer.sent();
        peer.receive(&[connect(7 + 6 * round), connect(9 + 6 * round), connect(11 + 6 * round)].concat())
            .unwrap();
    }
}

#[test]
fn sending_stops_at_either_window_and_settings_change_those_of_live_streams() {
    let mut peer = Peer::server();
    peer.session.respond(id(1), &ConnectResponse::status(200), false);
    assert_eq!(peer.session.send_room(id(1)), 65_535);
    peer.session.sent(id(1), 65_535);
    assert_eq!(peer.session.send_room(id(1)), 0);

    assert_eq!(peer.receive(&frame(WINDOW_UPDATE, 0, 1, 1000_u32.to_be_bytes())), Ok(vec![]));
    let events = peer.receive(&frame(WINDOW_UPDATE, 0, 0, 70_000_u32.to_be_bytes()));
    assert_eq!(events, Ok(vec![Event::Window { stream: id(1) }]));
    assert_eq!(peer.session.send_room(id(1)), 1000);

    // 65,535 -> 10,000 leaves -54,535.
    peer.receive(&frame(SETTINGS, 0, 0, setting(4, 10_000))).unwrap();
    assert_eq!(peer.session.send_room(id(1)), 0);
    let mut peer = peer.moved();
    assert_eq!(peer.receive(&frame(WINDOW_UPDATE, 0, 1, 54_535_u32.to_be_bytes())), Ok(vec![]));
    let events = peer.receive(&frame(SETTINGS, 0, 0, setting(4, 10_001)));
    assert_eq!(events, Ok(vec![Event::Window { stream: id(1) }]));
    assert_eq!(peer.session.send_room(id(1)), 1);
}

#[test]
fn a_small_window_of_ours_holds_only_once_it_is_acknowledged() {
    let config = SessionConfig { stream_window: 1000, ..SessionConfig::server() };
    let mut peer = Peer::with(Role::Server, config);
    peer.receive(&[PREFACE.as_slice(), &frame(SETTINGS, 0, 0, b""), &connect(1)].concat()).unwrap();
    peer.receive(&frame(DATA, 0, 1, vec![0; 60_000])).unwrap();
    peer.session.consumed(id(1), 60_000);
    peer.receive(&frame(SETTINGS, ACK, 0, b"")).unwrap();
    assert!(updates(&mut peer).contains(&(1, 60_000)));
    peer.receive(&frame(DATA, 0, 1, vec![0; 1000])).unwrap();
    peer.receive(&frame(DATA, 0, 1, b"x")).unwrap();
    assert_eq!(peer.resets(), [(1, ErrorCode::FLOW_CONTROL_ERROR)]);
}
