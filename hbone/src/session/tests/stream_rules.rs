//! Rules whose breach ends one stream.

use super::*;

fn request(list: &[(&str, &str)]) -> Vec<Vec<u8>> {
    vec![frame(HEADERS, END_HEADERS, 3, fields(list))]
}

#[test]
fn requests() {
    let (connect_, authority) = ((":method", "CONNECT"), (":authority", "a:1"));
    let malformed = || stream(3, ErrorCode::PROTOCOL_ERROR);
    check(vec![
        ("8.5: CONNECT", Peer::server, request(&[connect_, authority]), tolerated()),
        ("8.5: without authority", Peer::server, request(&[connect_]), malformed()),
        ("8.5: with path", Peer::server, request(&[connect_, authority, (":path", "/")]), malformed()),
        ("8.5: with scheme", Peer::server, request(&[connect_, authority, (":scheme", "http")]), malformed()),
        (
            "8.3: unknown pseudo-header",
            Peer::server,
            request(&[connect_, authority, (":x", "y")]),
            malformed(),
        ),
        ("8.3: twice", Peer::server, request(&[connect_, authority, authority]), malformed()),
        ("8.3: status", Peer::server, request(&[connect_, authority, (":status", "200")]), malformed()),
        ("8.3: behind a field", Peer::server, request(&[connect_, ("a", "b"), authority]), malformed()),
        (
            "8.3.1: GET",
            Peer::server,
            request(&[(":method", "GET"), (":scheme", "http"), (":path", "/")]),
            tolerated(),
        ),
        (
            "8.3.1: GET without path",
            Peer::server,
            request(&[(":method", "GET"), (":scheme", "http")]),
            malformed(),
        ),
        ("8.2.1: upper case", Peer::server, request(&[connect_, authority, ("X", "y")]), malformed()),
        ("8.2.1: line break", Peer::server, request(&[connect_, authority, ("x", "a\nb")]), malformed()),
        (
            "8.2.2: connection",
            Peer::server,
            request(&[connect_, authority, ("connection", "x")]),
            malformed(),
        ),
        ("8.2.2: te", Peer::server, request(&[connect_, authority, ("te", "gzip")]), malformed()),
        ("8.1: empty", Peer::server, request(&[]), malformed()),
        (
            "10.5.1: too large",
            Peer::server,
            vec![frame(HEADERS, END_HEADERS, 3, fields(&[("a", &"b".repeat(100))]).repeat(600))],
            malformed(),
        ),
        (
            "5.1.2: one too many",
            Peer::server,
            vec![connect(3), connect(5), connect(7)],
            stream(7, ErrorCode::REFUSED_STREAM),
        ),
        (
            "5.1.2: refused, then more on it",
            Peer::server,
            vec![
                connect(3),
                connect(5),
                connect(7),
                frame(DATA, 0, 7, b"x"),
                frame(RST_STREAM, 0, 7, [0; 4]),
            ],
            stream(7, ErrorCode::REFUSED_STREAM),
        ),
    ]);
}

#[test]
fn responses() {
    let answer = |list: &[(&str, &str)]| vec![frame(HEADERS, END_HEADERS, 1, fields(list))];
    let malformed = || stream(1, ErrorCode::PROTOCOL_ERROR);
    let interim = || frame(HEADERS, END_HEADERS, 1, fields(&[(":status", "103")]));
    let final_ = || frame(HEADERS, END_HEADERS, 1, ok_block());
    check(vec![
        ("8.3.2: 200", Peer::client, answer(&[(":status", "200")]), tolerated()),
        ("8.3.2: none", Peer::client, answer(&[("server", "x")]), malformed()),
        ("8.3.2: no number", Peer::client, answer(&[(":status", "ok!")]), malformed()),
        ("8.3.2: :path", Peer::client, answer(&[(":status", "200"), (":path", "/")]), malformed()),
        ("8.6: 101", Peer::client, answer(&[(":status", "101")]), malformed()),
        ("8.1: 1xx first", Peer::client, vec![interim(), interim(), final_()], tolerated()),
        (
            "8.1: 1xx at the end",
            Peer::client,
            vec![frame(HEADERS, END_HEADERS | END_STREAM, 1, fields(&[(":status", "103")]))],
            malformed(),
        ),
        ("8.1: DATA first", Peer::client, vec![frame(DATA, 0, 1, b"x")], malformed()),
        ("8.1: DATA behind 1xx", Peer::client, vec![interim(), frame(DATA, 0, 1, b"x")], malformed()),
        ("8.1: a second response", Peer::client, vec![final_(), final_()], malformed()),
        (
            "8.1: too large",
            Peer::client,
            vec![frame(
                HEADERS,
                END_HEADERS,
                1,
                [ok_block(), fields(&[("a", &"b".repeat(100))]).repeat(200)].concat(),
            )],
            malformed(),
        ),
    ]);
}

#[test]
fn trailers_and_ends() {
    let trailers = |flags, list: &[(&str, &str)]| frame(HEADERS, END_HEADERS | flags, 1, fields(list));
    let malformed = || stream(1, ErrorCode::PROTOCOL_ERROR);
    let closed = || stream(1, ErrorCode::STREAM_CLOSED);
    let end = || frame(DATA, END_STREAM, 1, b"");
    check(vec![
        ("8.1: trailers", Peer::server, vec![trailers(END_STREAM, &[("a", "b")])], tolerated()),
        ("8.1: trailers go on", Peer::server, vec![trailers(0, &[("a", "b")])], malformed()),
        ("8.1: pseudo-header", Peer::server, vec![trailers(END_STREAM, &[(":path", "/")])], malformed()),
        ("5.1: DATA behind the end", Peer::server, vec![end(), frame(DATA, 0, 1, b"x")], closed()),
        ("5.1: trailers behind the end", Peer::server, vec![end(), trailers(END_STREAM, &[])], closed()),
        ("5.1: the end again", Peer::server, vec![end(), end()], closed()),
        (
            "5.1: fine behind the end",
            Peer::server,
            vec![end(), frame(WINDOW_UPDATE, 0, 1, [0, 0, 0, 1]), frame(PRIORITY, 0, 1, [0; 5])],
            tolerated(),
        ),
        (
            "6.9.1: window beyond 2^31-1",
            Peer::server,
            vec![frame(WINDOW_UPDATE, 0, 1, [0x7f, 255, 255, 255])],
            stream(1, ErrorCode::FLOW_CONTROL_ERROR),
        ),
        (
            "6.9: more than the window",
            Peer::server,
            vec![frame(DATA, 0, 1, vec![0; 262_145])],
            stream(1, ErrorCode::FLOW_CONTROL_ERROR),
        ),
        (
            "6.9: padding counts",
            Peer::server,
            vec![frame(DATA, PADDED, 1, [&[0], vec![0; 262_144].as_slice()].concat())],
            stream(1, ErrorCode::FLOW_CONTROL_ERROR),
        ),
        ("6.9: the whole window", Peer::server, vec![frame(DATA, 0, 1, vec![0; 262_144])], tolerated()),
    ]);
}

#[test]
fn late_frames_on_a_stream_that_we_reset_are_dropped() {
    let reset: fn() -> Peer = || {
        let mut peer = Peer::server();
        peer.session.reset(id(1), ErrorCode::CANCEL);
        peer.sent();
        peer
    };
    let client: fn() -> Peer = || {
        let mut peer = Peer::client();
        peer.session.reset(id(1), ErrorCode::CANCEL);
        peer.sent();
        peer
    };
    check(vec![
        ("5.1: DATA", reset, vec![frame(DATA, 0, 1, b"x"), frame(DATA, END_STREAM, 1, b"y")], tolerated()),
        ("5.1: trailers", reset, vec![frame(HEADERS, END_HEADERS | END_STREAM, 1, b"")], tolerated()),
        ("5.1: RST_STREAM", reset, vec![frame(RST_STREAM, 0, 1, [0; 4])], tolerated()),
        ("5.1: WINDOW_UPDATE", reset, vec![frame(WINDOW_UPDATE, 0, 1, [0x7f, 255, 255, 255])], tolerated()),
        ("5.1: response", client, vec![frame(HEADERS, END_HEADERS, 1, ok_block())], tolerated()),
        (
            "5.1: undecodable",
            client,
            vec![frame(HEADERS, END_HEADERS, 1, [0x80])],
            connection(ErrorCode::COMPRESSION_ERROR),
        ),
        (
            "6.9: beyond the connection's window",
            reset,
            vec![frame(DATA, 0, 1, vec![0; 1 << 20]), frame(DATA, 0, 1, b"x")],
            connection(ErrorCode::FLOW_CONTROL_ERROR),
        ),
    ]);
}
