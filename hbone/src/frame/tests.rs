//! RFC 9113 section 6, rule by rule; what is written is read back; noise never panics.

use super::*;

const MAX_FRAME_SIZE: u32 = 1 << 14;

/// Receives one frame the way a session does.
fn receive(head: Head, payload: &[u8]) -> Result<(), FrameError> {
    head.check(MAX_FRAME_SIZE)?;
    if head.kind != Kind::Data {
        return Frame::parse(&head, payload).map(drop);
    }
    let mut data = Data::begin(&head)?;
    pieces(&mut data, payload).map(drop)
}

/// The payload and the number of padding bytes that `bytes` bring.
fn pieces(data: &mut Data, bytes: &[u8]) -> Result<(Vec<u8>, usize), FrameError> {
    let (mut rest, mut payload, mut padding) = (bytes, Vec::new(), 0);
    loop {
        let n = match data.next_piece(rest)? {
            Piece::Payload(n) => {
                payload.extend_from_slice(&rest[..n]);
                n
            }
            Piece::Padding(n) => {
                padding += n;
                n
            }
            Piece::Incomplete | Piece::Complete => return Ok((payload, padding)),
        };
        assert!(n > 0, "a piece moves on");
        rest = &rest[n..];
    }
}

fn head(kind: Kind, flags: u8, stream: u32, payload: &[u8]) -> Head {
    Head { length: payload.len() as u32, kind, flags, stream }
}

/// A rule, a frame that breaks it (type, flags, stream, payload), and what it must come to.
type Row<'a> = (&'a str, Kind, u8, u32, &'a [u8], ErrorCode, Reach);

const FRAME_SIZE: ErrorCode = ErrorCode::FRAME_SIZE_ERROR;
const PROTOCOL: ErrorCode = ErrorCode::PROTOCOL_ERROR;
const FLOW_CONTROL: ErrorCode = ErrorCode::FLOW_CONTROL_ERROR;
const ALL: Reach = Reach::Connection;
const TOO_LARGE: &[u8] = &[0; MAX_FRAME_SIZE as usize + 1];

#[rustfmt::skip]
const BROKEN: &[Row<'_>] = &[
    ("4.2 oversized DATA",             Kind::Data, 0, 1, TOO_LARGE, FRAME_SIZE, ALL),
    ("4.2 oversized HEADERS",          Kind::Headers, flag::END_HEADERS, 1, TOO_LARGE, FRAME_SIZE, ALL),
    ("4.2 oversized unknown type",     Kind::Unknown(0xbe), 0, 1, TOO_LARGE, FRAME_SIZE, ALL),
    ("6.1 DATA on 0",                  Kind::Data, 0, 0, b"x", PROTOCOL, ALL),
    ("6.1 DATA, no pad length",        Kind::Data, flag::PADDED, 1, b"", FRAME_SIZE, ALL),
    ("6.1 DATA, padding = length",     Kind::Data, flag::PADDED, 1, &[3, 0, 0], PROTOCOL, ALL),
    ("6.1 DATA, padding > length",     Kind::Data, flag::PADDED, 1, &[255, 0, 0], PROTOCOL, ALL),
    ("6.1 DATA, only padding, 1 over", Kind::Data, flag::PADDED, 1, &[1], PROTOCOL, ALL),
    ("6.2 HEADERS on 0",               Kind::Headers, flag::END_HEADERS, 0, b"x", PROTOCOL, ALL),
    ("6.2 HEADERS, no pad length",     Kind::Headers, flag::PADDED, 1, b"", FRAME_SIZE, ALL),
    ("6.2 HEADERS, short priority",    Kind::Headers, flag::PRIORITY, 1, &[0; 4], FRAME_SIZE, ALL),
    ("6.2 HEADERS, both, short",       Kind::Headers, flag::PRIORITY | flag::PADDED, 1, &[0; 5], FRAME_SIZE, ALL),
    ("6.2 HEADERS, padding > rest",    Kind::Headers, flag::PADDED, 1, &[3, 0, 0], PROTOCOL, ALL),
    ("6.2 HEADERS, padding > block",   Kind::Headers, flag::PADDED | flag::PRIORITY, 1, &[2, 0, 0, 0, 0, 0, 0], PROTOCOL, ALL),
    ("6.3 PRIORITY on 0",              Kind::Priority, 0, 0, &[0; 5], PROTOCOL, ALL),
    ("6.3 PRIORITY of 4",              Kind::Priority, 0, 7, &[0; 4], FRAME_SIZE, Reach::Stream(7)),
    ("6.3 PRIORITY of 6",              Kind::Priority, 0, 7, &[0; 6], FRAME_SIZE, Reach::Stream(7)),
    ("6.4 RST_STREAM on 0",            Kind::Reset, 0, 0, &[0; 4], PROTOCOL, ALL),
    ("6.4 RST_STREAM of 3",            Kind::Reset, 0, 1, &[0; 3], FRAME_SIZE, ALL),
    ("6.4 RST_STREAM of 5",            Kind::Reset, 0, 1, &[0; 5], FRAME_SIZE, ALL),
    ("6.5 SETTINGS on a stream",       Kind::Settings, 0, 1, b"", PROTOCOL, ALL),
    ("6.5 SETTINGS of 5",              Kind::Settings, 0, 0, &[0; 5], FRAME_SIZE, ALL),
    ("6.5 SETTINGS of 7",              Kind::Settings, 0, 0, &[0; 7], FRAME_SIZE, ALL),
    ("6.5 ACK with a payload",         Kind::Settings, flag::ACK, 0, &[0; 6], FRAME_SIZE, ALL),
    ("6.5 ACK on a stream",            Kind::Settings, flag::ACK, 3, b"", PROTOCOL, ALL),
    ("6.5.2 ENABLE_PUSH 2",            Kind::Settings, 0, 0, &[0, 2, 0, 0, 0, 2], PROTOCOL, ALL),
    ("6.5.2 INITIAL_WINDOW 2^31",      Kind::Settings, 0, 0, &[0, 4, 0x80, 0, 0, 0], FLOW_CONTROL, ALL),
    ("6.5.2 MAX_FRAME 2^14-1",         Kind::Settings, 0, 0, &[0, 5, 0, 0, 0x3f, 0xff], PROTOCOL, ALL),
    ("6.5.2 MAX_FRAME 2^24",           Kind::Settings, 0, 0, &[0, 5, 1, 0, 0, 0], PROTOCOL, ALL),
    ("6.5.2 second entry wrong",       Kind::Settings, 0, 0, &[0, 1, 0, 0, 0, 0, 0, 2, 0, 0, 0, 9], PROTOCOL, ALL),
    ("6.6 PUSH_PROMISE",               Kind::PushPromise, flag::END_HEADERS, 1, &[0, 0, 0, 2], PROTOCOL, ALL),
    ("6.6 PUSH_PROMISE on 0",          Kind::PushPromise, flag::END_HEADERS, 0, &[0, 0, 0, 2], PROTOCOL, ALL),
    ("6.7 PING on a stream",           Kind::Ping, 0, 1, &[0; 8], PROTOCOL, ALL),
    ("6.7 PING of 7",                  Kind::Ping, 0, 0, &[0; 7], FRAME_SIZE, ALL),
    ("6.7 PING of 9",                  Kind::Ping, flag::ACK, 0, &[0; 9], FRAME_SIZE, ALL),
    ("6.8 GOAWAY on a stream",         Kind::GoAway, 0, 1, &[0; 8], PROTOCOL, ALL),
    ("6.8 GOAWAY of 7",                Kind::GoAway, 0, 0, &[0; 7], FRAME_SIZE, ALL),
    ("6.9 WINDOW_UPDATE of 3",         Kind::WindowUpdate, 0, 1, &[0; 3], FRAME_SIZE, ALL),
    ("6.9 WINDOW_UPDATE of 5",         Kind::WindowUpdate, 0, 0, &[0, 0, 0, 1, 0], FRAME_SIZE, ALL),
    ("6.9 by 0, stream",               Kind::WindowUpdate, 0, 5, &[0; 4], PROTOCOL, Reach::Stream(5)),
    ("6.9 by 0, reserved bit set",     Kind::WindowUpdate, 0, 5, &[0x80, 0, 0, 0], PROTOCOL, Reach::Stream(5)),
    ("6.9 by 0, connection",           Kind::WindowUpdate, 0, 0, &[0; 4], PROTOCOL, ALL),
    ("6.10 CONTINUATION on 0",         Kind::Continuation, flag::END_HEADERS, 0, b"x", PROTOCOL, ALL),
];

#[test]
fn a_frame_that_breaks_a_rule_is_refused() {
    for &(rule, kind, flags, stream, payload, code, reach) in BROKEN {
        let error = receive(head(kind, flags, stream, payload), payload).expect_err(rule);
        assert_eq!((error.code, error.reach), (code, reach), "{rule}: {error}");
    }
}

#[test]
fn sizes_are_refused_before_the_payload_arrives() {
    for &(rule, kind, flags, stream, payload, code, reach) in BROKEN {
        if code == FRAME_SIZE {
            let error = head(kind, flags, stream, payload).check(MAX_FRAME_SIZE).expect_err(rule);
            assert_eq!((error.code, error.reach), (code, reach), "{rule}");
        }
    }
}

#[test]
fn what_the_rules_just_allow_is_accepted() {
    let largest = &TOO_LARGE[1..];
    for (what, kind, flags, stream, payload) in [
        ("DATA as large as allowed", Kind::Data, 0, 1, largest),
        ("empty DATA", Kind::Data, flag::END_STREAM, 1, b""),
        ("DATA of padding only", Kind::Data, flag::PADDED, 1, &[2, 0, 0]),
        ("DATA, pad length 0", Kind::Data, flag::PADDED, 1, &[0]),
        ("HEADERS of padding only", Kind::Headers, flag::PADDED, 1, &[2, 0, 0]),
        ("HEADERS of priority and padding only", Kind::Headers, flag::PADDED | flag::PRIORITY, 1, &[0; 6]),
        ("HEADERS, unknown flags", Kind::Headers, 0xd2, 1, b""),
        ("PRIORITY that depends on itself (5.3.2: ignored)", Kind::Priority, 0, 1, &[0, 0, 0, 1, 9]),
        ("unknown type on 0", Kind::Unknown(0xff), 0xff, 0, b"any"),
        ("unknown type, empty, on a stream", Kind::Unknown(10), 0, 9, b""),
        ("unknown setting (6.5.2: ignored)", Kind::Settings, 0, 0, &[0xfa, 0xce, 1, 2, 3, 4]),
        ("empty SETTINGS", Kind::Settings, 0, 0, b""),
        ("empty CONTINUATION", Kind::Continuation, 0, 1, b""),
        ("WINDOW_UPDATE by 2^31-1", Kind::WindowUpdate, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
    ] {
        assert_eq!(receive(head(kind, flags, stream, payload), payload), Ok(()), "{what}");
    }
}

#[test]
fn data_may_arrive_in_any_pieces() {
    for (payload, padding) in [(0, None), (5, None), (0, Some(0)), (5, Some(0)), (0, Some(4)), (5, Some(4))] {
        let content: Vec<u8> = (1..=payload).collect();
        let mut bytes: Vec<u8> = padding.into_iter().collect();
        bytes.extend_from_slice(&content);
        bytes.resize(bytes.len() + usize::from(padding.unwrap_or(0)), 0);
        let flags = flag::END_STREAM | if padding.is_some() { flag::PADDED } else { 0 };
        let head = head(Kind::Data, flags, 3, &bytes);
        let overhead = bytes.len() - content.len();
        bytes.extend_from_slice(b"the next frame");
        for cut in 0..=head.length as usize {
            let mut data = Data::begin(&head).unwrap();
            assert_eq!((data.stream, data.end_stream), (3, true));
            let (mut got, skipped) = pieces(&mut data, &bytes[..cut]).unwrap();
            assert_eq!(data.is_complete(), cut == head.length as usize);
            let mut thawed = data; // all of its state is in plain view
            let (rest, skipped_later) = pieces(&mut thawed, &bytes[cut..]).unwrap();
            assert!(thawed.is_complete());
            got.extend_from_slice(&rest);
            assert_eq!((&got, skipped + skipped_later), (&content, overhead), "cut at {cut}");
        }
    }
}

/// Splits what an encoder wrote into frames and reads them.
fn read_back(bytes: &[u8]) -> Vec<(Head, Frame<'_>)> {
    let mut frames = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (head, tail) = rest.split_first_chunk().unwrap();
        let head = Head::parse(head);
        assert_eq!(head.check(MAX_MAX_FRAME_SIZE), Ok(()));
        let (payload, tail) = tail.split_at(head.length as usize);
        frames.push((head, Frame::parse(&head, payload).unwrap()));
        rest = tail;
    }
    frames
}

fn only(bytes: &[u8]) -> Frame<'_> {
    let frames = read_back(bytes);
    assert_eq!(frames.len(), 1);
    frames[0].1
}

#[test]
fn what_is_written_is_read_back() {
    let mut out = Vec::new();
    let mut written = |write: &dyn Fn(&mut Vec<u8>)| {
        out.clear();
        write(&mut out);
        out.clone()
    };
    let reset = Reset { stream: 5, code: ErrorCode::CANCEL };
    assert_eq!(only(&written(&|out| reset.encode(out))), Frame::Reset(reset));
    for ack in [false, true] {
        let ping = Ping { ack, payload: *b"pingpong" };
        assert_eq!(only(&written(&|out| ping.encode(out))), Frame::Ping(ping));
    }
    let go_away = GoAway { last_stream: MAX_WINDOW, code: ErrorCode::new(0xdead), debug: b"why" };
    assert_eq!(only(&written(&|out| go_away.encode(out))), Frame::GoAway(go_away));
    let update = WindowUpdate { stream: 0, increment: MAX_WINDOW };
    assert_eq!(only(&written(&|out| update.encode(out))), Frame::WindowUpdate(update));
    assert_eq!(only(&written(&Settings::encode_ack)), Frame::SettingsAck);
}

#[test]
fn settings_are_read_back_and_the_last_of_two_counts() {
    let entries = [
        Setting::HeaderTableSize(0),
        Setting::EnablePush(false),
        Setting::MaxConcurrentStreams(200),
        Setting::InitialWindowSize(7),
        Setting::MaxFrameSize(1 << 20),
        Setting::MaxHeaderListSize(1 << 14),
        Setting::InitialWindowSize(MAX_WINDOW),
    ];
    let mut out = Vec::new();
    Settings::encode(&entries, &mut out);
    let settings = Settings {
        header_table_size: Some(0),
        enable_push: Some(false),
        max_concurrent_streams: Some(200),
        initial_window_size: Some(MAX_WINDOW),
        max_frame_size: Some(1 << 20),
        max_header_list_size: Some(1 << 14),
    };
    assert_eq!(only(&out), Frame::Settings(settings));
    out.clear();
    Settings::encode(&[], &mut out);
    assert_eq!(only(&out), Frame::Settings(Settings::default()));
}

#[test]
fn a_header_block_is_split_where_the_peer_wants_it() {
    let block: Vec<u8> = (0..=255).cycle().take(50_000).collect();
    for (length, frames) in [(0, 1), (1, 1), (16_384, 1), (16_385, 2), (32_768, 2), (50_000, 4)] {
        let mut out = Vec::new();
        Headers::encode(9, true, &block[..length], MIN_MAX_FRAME_SIZE, &mut out);
        let read = read_back(&out);
        assert_eq!(read.len(), frames);
        let mut joined = Vec::new();
        for (number, (head, frame)) in read.iter().enumerate() {
            assert!(head.length <= MIN_MAX_FRAME_SIZE);
            let (stream, end_headers, fragment) = match frame {
                Frame::Headers(headers) if number == 0 => {
                    assert!(headers.end_stream);
                    (headers.stream, headers.end_headers, headers.fragment)
                }
                Frame::Continuation(more) if number > 0 => (more.stream, more.end_headers, more.fragment),
                other => panic!("{other:?} as frame {number}"),
            };
            assert_eq!((stream, end_headers), (9, number == frames - 1));
            joined.extend_from_slice(fragment);
        }
        assert_eq!(joined, block[..length]);
    }
}

#[test]
fn padding_and_priority_are_cut_off_headers() {
    let payload = [&[3, 0x80, 0, 0, 1, 200][..], b"block", &[0; 3]].concat();
    let head = head(Kind::Headers, flag::PADDED | flag::PRIORITY | flag::END_HEADERS, 1, &payload);
    let headers = Headers { stream: 1, end_stream: false, end_headers: true, fragment: b"block" };
    assert_eq!(Frame::parse(&head, &payload), Ok(Frame::Headers(headers)));
}

#[test]
fn every_head_survives_and_the_reserved_bit_is_ignored() {
    for kind in 0..=255 {
        let bytes = [0x12, 0x34, 0x56, kind, 0xa5, 0x7f, 0xfe, 0xdc, 0xba];
        let head = Head::parse(&bytes);
        assert_eq!((head.length, head.flags, head.stream), (0x12_3456, 0xa5, 0x7ffe_dcba));
        assert_eq!(head.to_bytes(), bytes);
        assert_eq!(matches!(head.kind, Kind::Unknown(_)), kind > 9);
    }
    assert_eq!(Head::parse(&[0, 0, 0, 0, 0, 0x80, 0, 0, 1]).stream, 1);
    let head = Head::data(1, 5, true);
    assert_eq!(head.to_bytes(), [0, 0, 5, 0, 1, 0, 0, 0, 1]);
}

#[test]
fn noise_never_panics() {
    for seed in 0..20_000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let payload: Vec<u8> = (0..random.usize(..40)).map(|_| random.u8(..)).collect();
        let mut bytes = [0; HEAD_LEN];
        random.fill(&mut bytes);
        let mut head = Head {
            kind: Head::parse(&[0, 0, 0, random.u8(..12), 0, 0, 0, 0, 0]).kind,
            ..Head::parse(&bytes)
        };
        if random.bool() {
            head.length = payload.len() as u32;
        }
        let outcome = std::panic::catch_unwind(|| {
            let _ = receive(head, &payload);
            let _ = Frame::parse(&head, &payload); // even unchecked
        });
        assert!(outcome.is_ok(), "seed {seed}: {head:?} {payload:x?}");
    }
}
