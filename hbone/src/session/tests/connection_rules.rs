//! Rules whose breach ends the connection, and breaches that must not.

use super::*;

#[test]
fn the_beginning() {
    let unmet: fn() -> Peer = || Peer::new(Role::Server);
    let unmet_client: fn() -> Peer = || Peer::new(Role::Client);
    let settings = frame(SETTINGS, 0, 0, b"");
    check(vec![
        ("3.4: preface", unmet, vec![PREFACE.to_vec(), settings.clone()], tolerated()),
        (
            "3.4: not HTTP/2",
            unmet,
            vec![b"GET / HTTP/1.1\r\n\r\n".to_vec()],
            connection(ErrorCode::PROTOCOL_ERROR),
        ),
        (
            "3.4: SETTINGS come first",
            unmet,
            vec![PREFACE.to_vec(), frame(PING, 0, 0, [0; 8])],
            connection(ErrorCode::PROTOCOL_ERROR),
        ),
        (
            "3.4: an acknowledgement isn't SETTINGS",
            unmet_client,
            vec![frame(SETTINGS, ACK, 0, b"")],
            connection(ErrorCode::PROTOCOL_ERROR),
        ),
        ("3.4: SETTINGS alone", unmet_client, vec![settings], tolerated()),
    ]);
}

#[test]
fn frames_that_are_wrong_by_themselves() {
    let huge = [&[0x10, 0, 1, DATA, 0, 0, 0, 0, 1], [0; 100].as_slice()].concat();
    check(vec![
        ("4.2: larger than we allow", Peer::server, vec![huge], connection(ErrorCode::FRAME_SIZE_ERROR)),
        ("4.1: unknown type", Peer::server, vec![frame(0xbe, 0xff, 1, [0; 99])], tolerated()),
        ("4.1: unknown type, idle stream", Peer::server, vec![frame(0xbe, 0xff, 77, b"")], tolerated()),
        (
            "6.1: DATA on 0",
            Peer::server,
            vec![frame(DATA, 0, 0, b"x")],
            connection(ErrorCode::PROTOCOL_ERROR),
        ),
        ("6.1: all padding", Peer::server, vec![frame(DATA, PADDED, 1, [3, 0, 0, 0])], tolerated()),
        (
            "6.1: too much padding",
            Peer::server,
            vec![frame(DATA, PADDED, 1, [4, 0, 0, 0])],
            connection(ErrorCode::PROTOCOL_ERROR),
        ),
        ("6.2: HEADERS on 0", Peer::server, vec![connect(0)], connection(ErrorCode::PROTOCOL_ERROR)),
        ("6.3: PRIORITY", Peer::server, vec![frame(PRIORITY, 0, 9, [0; 5])], tolerated()),
        (
            "6.3: PRIORITY on 0",
            Peer::server,
            vec![frame(PRIORITY, 0, 0, [0; 5])],
            connection(ErrorCode::PROTOCOL_ERROR),
        ),
        (
            "6.3: PRIORITY of 4",
            Peer::server,
            vec![frame(PRIORITY, 0, 1, [0; 4])],
            stream(1, ErrorCode::FRAME_SIZE_ERROR),
        ),
        (
            "6.4: RST_STREAM on 0",
            Peer::server,
            vec![frame(RST_STREAM, 0, 0, [0; 4])],
            connection(ErrorCode::PROTOCOL_ERROR),
        ),
        (
            "6.4: RST_STREAM of 3",
            Peer::server,
            vec![frame(RST_STREAM, 0, 1, [0; 3])],
            connection(ErrorCode::FRAME_SIZE_ERROR),
        ),
        (
            "6.5: SETTINGS on a stream",
            Peer::server,
            vec![frame(SETTINGS, 0, 1, b"")],
            connection(ErrorCode::PROTOCOL_ERROR),
        ),
        (
            "6.5: SETTINGS of 5",
            Peer::server,
            vec![frame(SETTINGS, 0, 0, [0; 5])],
            connection(ErrorCode::FRAME_SIZE_ERROR),
        ),
        (
            "6.5: ACK with payload",
            Peer::server,
            vec![frame(SETTINGS, ACK, 0, [0; 6])],
            connection(ErrorCode::FRAME_SIZE_ERROR),
        ),
        (
            "6.5: ACK of nothing",
            Peer::server,
            vec![frame(SETTINGS, ACK, 0, b"")],
            connection(ErrorCode::PROTOCOL_ERROR),
        ),
        ("6.5.2: unknown setting", Peer::server, vec![frame(SETTINGS, 0, 0, setting(0x99, 7))], tolerated()),
        (
            "6.5.2: push",
            Peer::client,
            vec![frame(SETTINGS, 0, 0, setting(2, 1))],
            connection(ErrorCode::PROTOCOL_ERROR),
        ),
        (
            "6.5.2: push of 2",
            Peer::server,
            vec![frame(SETTINGS, 0, 0, setting(2, 2))],
            connection(ErrorCode::PROTOCOL_ERROR),
        ),
        (
            "6.5.2: window",
            Peer::server,
            vec![frame(SETTINGS, 0, 0, setting(4, 1 << 31))],
            connection(ErrorCode::FLOW_CONTROL_ERROR),
        ),
        (
            "6.5.2: frame size",
            Peer::server,
            vec![frame(SETTINGS, 0, 0, setting(5, 16_383))],
            connection(ErrorCode::PROTOCOL_ERROR),
        ),
        (
            "6.6: PUSH_PROMISE",
            Peer::client,
            vec![frame(PUSH_PROMISE, 4, 1, [0, 0, 0, 2])],
            connection(ErrorCode::PROTOCOL_ERROR),
        ),
        (
            "6.7: PING on a stream",
            Peer::server,
            vec![frame(PING, 0, 1, [0; 8])],
            connection(ErrorCode::PROTOCOL_ERROR),
        ),
        (
            "6.7: PING of 7",
            Peer::server,
            vec![frame(PING, 0, 0, [0; 7])],
            connection(ErrorCode::FRAME_SIZE_ERROR),
        ),
        ("6.7: answer to nothing", Peer::server, vec![frame(PING, ACK, 0, [0; 8])], tolerated()),
        (
            "6.8: GOAWAY on a stream",
            Peer::server,
            vec![frame(GOAWAY, 0, 1, [0; 8])],
            connection(ErrorCode::PROTOCOL_ERROR),
        ),
        (
            "6.8: GOAWAY of 7",
            Peer::server,
            vec![frame(GOAWAY, 0, 0, [0; 7])],
            connection(ErrorCode::FRAME_SIZE_ERROR),
        ),
        (
            "6.9: WINDOW_UPDATE of 3",
            Peer::server,
            vec![frame(WINDOW_UPDATE, 0, 0, [0; 3])],
            connection(ErrorCode::FRAME_SIZE_ERROR),
        ),
        (
            "6.9: WINDOW_UPDATE by 0",
            Peer::server,
            vec![frame(WINDOW_UPDATE, 0, 0, [0; 4])],
            connection(ErrorCode::PROTOCOL_ERROR),
        ),
        (
            "6.9: the same on a stream",
            Peer::server,
            vec![frame(WINDOW_UPDATE, 0, 1, [0; 4])],
            stream(1, ErrorCode::PROTOCOL_ERROR),
        ),
    ]);
}

#[test]
fn header_blocks() {
    let begun = || frame(HEADERS, 0, 3, &connect_block()[..5]);
    let rest = || frame(CONTINUATION, END_HEADERS, 3, &connect_block()[5..]);
    check(vec![
        ("6.10: in pieces", Peer::server, vec![begun(), rest()], tolerated()),
        (
            "6.10: interrupted",
            Peer::server,
            vec![begun(), frame(PING, 0, 0, [0; 8])],
            connection(ErrorCode::PROTOCOL_ERROR),
        ),
        (
            "6.10: interrupted by DATA",
            Peer::server,
            vec![begun(), frame(DATA, 0, 1, b"x")],
            connection(ErrorCode::PROTOCOL_ERROR),
        ),
        (
            "6.10: of unknown type",
            Peer::server,
            vec![begun(), frame(0xbe, 0, 0, b"")],
            connection(ErrorCode::PROTOCOL_ERROR),
        ),
        (
            "6.10: another stream's",
            Peer::server,
            vec![begun(), frame(CONTINUATION, END_HEADERS, 5, &connect_block()[5..])],
            connection(ErrorCode::PROTOCOL_ERROR),
        ),
        ("6.10: of nothing", Peer::server, vec![rest()], connection(ErrorCode::PROTOCOL_ERROR)),
        (
            "6.10: behind the end",
            Peer::server,
            vec![connect(3), frame(CONTINUATION, END_HEADERS, 3, b"")],
            connection(ErrorCode::PROTOCOL_ERROR),
        ),
        (
            "4.3: undecodable",
            Peer::server,
            vec![frame(HEADERS, END_HEADERS, 3, [0x80])],
            connection(ErrorCode::COMPRESSION_ERROR),
        ),
        (
            "4.3: undecodable on a refused stream",
            Peer::server,
            vec![connect(3), connect(5), connect(7), frame(HEADERS, END_HEADERS, 9, [0xff; 9])],
            connection(ErrorCode::COMPRESSION_ERROR),
        ),
        (
            "10.5: endless",
            Peer::server,
            [vec![begun()], vec![frame(CONTINUATION, 0, 3, b""); 64]].concat(),
            connection(ErrorCode::ENHANCE_YOUR_CALM),
        ),
        (
            "10.5: huge",
            Peer::server,
            vec![frame(HEADERS, 0, 3, vec![0; 100_000]), frame(CONTINUATION, 0, 3, vec![0; 100_000])],
            connection(ErrorCode::ENHANCE_YOUR_CALM),
        ),
        (
            "10.5: huge GOAWAY",
            Peer::server,
            vec![frame(GOAWAY, 0, 0, vec![0; 70_000])],
            connection(ErrorCode::ENHANCE_YOUR_CALM),
        ),
    ]);
}

#[test]
fn idle_and_closed_streams() {
    let ended: fn() -> Peer = || {
        let mut peer = Peer::server();
        peer.receive(&frame(DATA, END_STREAM, 1, b"")).unwrap();
        peer.session.respond(id(1), &crate::ConnectResponse::status(200), true);
        assert_eq!(peer.session.streams().len(), 0);
        peer.sent();
        peer
    };
    let protocol = || connection(ErrorCode::PROTOCOL_ERROR);
    let code = [0, 0, 0, 8];
    check(vec![
        ("5.1: DATA on idle", Peer::server, vec![frame(DATA, 0, 3, b"x")], protocol()),
        ("5.1: RST_STREAM on idle", Peer::server, vec![frame(RST_STREAM, 0, 3, code)], protocol()),
        ("5.1: WINDOW_UPDATE on idle", Peer::server, vec![frame(WINDOW_UPDATE, 0, 3, code)], protocol()),
        ("5.1: our side's idle", Peer::server, vec![frame(DATA, 0, 2, b"x")], protocol()),
        ("5.1: client, idle", Peer::client, vec![frame(DATA, 0, 3, b"x")], protocol()),
        ("5.1.1: even", Peer::server, vec![connect(2)], protocol()),
        ("5.1.1: a server opens", Peer::client, vec![frame(HEADERS, END_HEADERS, 2, ok_block())], protocol()),
        (
            "5.1.1: an answer to nothing",
            Peer::client,
            vec![frame(HEADERS, END_HEADERS, 3, ok_block())],
            protocol(),
        ),
        ("5.1.1: skipping is fine", Peer::server, vec![connect(9)], tolerated()),
        ("5.1.1: going back isn't", Peer::server, vec![connect(9), connect(3)], protocol()),
        ("5.1: HEADERS on closed", ended, vec![connect(1)], connection(ErrorCode::STREAM_CLOSED)),
        ("5.1: DATA on closed", ended, vec![frame(DATA, 0, 1, b"x")], stream(1, ErrorCode::STREAM_CLOSED)),
        ("5.1: late WINDOW_UPDATE", ended, vec![frame(WINDOW_UPDATE, 0, 1, code)], tolerated()),
        ("5.1: late RST_STREAM", ended, vec![frame(RST_STREAM, 0, 1, code)], tolerated()),
        ("5.1: PRIORITY anywhere", ended, vec![frame(PRIORITY, 0, 1, [0; 5])], tolerated()),
        (
            "6.9.1: window beyond 2^31-1",
            Peer::server,
            vec![frame(WINDOW_UPDATE, 0, 0, [0x7f, 255, 255, 255])],
            connection(ErrorCode::FLOW_CONTROL_ERROR),
        ),
        (
            "6.9.2: by SETTINGS",
            Peer::server,
            vec![
                frame(WINDOW_UPDATE, 0, 1, [0x7f, 255, 0, 0]),
                frame(SETTINGS, 0, 0, setting(4, 0x7fff_ffff)),
            ],
            connection(ErrorCode::FLOW_CONTROL_ERROR),
        ),
        (
            "6.8: GOAWAY going up",
            Peer::client,
            vec![
                frame(GOAWAY, 0, 0, [0, 0, 0, 1, 0, 0, 0, 0]),
                frame(GOAWAY, 0, 0, [0, 0, 0, 3, 0, 0, 0, 0]),
            ],
            protocol(),
        ),
    ]);
}

#[test]
fn floods() {
    let calm = || connection(ErrorCode::ENHANCE_YOUR_CALM);
    let reset_flood: Vec<_> =
        (0..501).flat_map(|n| [connect(3 + 2 * n), frame(RST_STREAM, 0, 3 + 2 * n, [0, 0, 0, 8])]).collect();
    check(vec![
        ("10.5: PING", Peer::server, vec![frame(PING, 0, 0, [0; 8]); 3000], tolerated()),
        ("10.5: empty DATA", Peer::server, vec![frame(DATA, 0, 1, b""); 2001], calm()),
        ("10.5: padded empty DATA", Peer::server, vec![frame(DATA, PADDED, 1, [1, 0]); 2001], calm()),
        ("10.5: PRIORITY", Peer::server, vec![frame(PRIORITY, 0, 1, [0; 5]); 2001], calm()),
        ("10.5: SETTINGS", Peer::server, vec![frame(SETTINGS, 0, 0, b""); 2001], calm()),
        ("10.5: opened and reset", Peer::server, reset_flood.clone(), calm()),
        ("10.5: almost", Peer::server, reset_flood[..900].to_vec(), tolerated()),
        ("10.5: opened and refused", Peer::server, (0..600).map(|n| connect(3 + 2 * n)).collect(), calm()),
    ]);
}

#[test]
fn a_peer_that_never_reads_its_answers() {
    let mut peer = Peer::server();
    let error = peer.receive(&frame(PING, 0, 0, [0; 8]).repeat(4000)).unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::ENHANCE_YOUR_CALM));
}
