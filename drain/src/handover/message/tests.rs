//! Messages to bytes and back.

use super::*;

#[test]
fn every_message_comes_back_as_it_was() {
    for message in one_of_each() {
        let packet = packet(&message, 3);
        assert_eq!(decode(&packet).expect("it was just encoded"), (message, 3));
    }
}

/// All of them, with every field set.
fn one_of_each() -> Vec<Message> {
    let text = || "text".to_owned();
    let payload = || Payload::new(b"payload".to_vec());
    let piece = || Piece { part: 2, parts: 5, bytes: payload() };
    let hello = Hello {
        version: VERSION,
        oldest_version: 7,
        pod: text(),
        build: text(),
        pid: 4711,
        wants_role: true,
        holds_role: true,
        terminating: true,
        room: 1000,
        compatibility: BTreeMap::from([("cluster".to_owned(), text()), ("mode".to_owned(), text())]),
        features: vec![text(), String::new()],
    };
    let (offer, epoch) = (u64::MAX, u32::MAX);
    let verdicts = [
        Verdict::Welcome,
        Verdict::StayStandby,
        Verdict::Wait { ms: 10_000 },
        Verdict::Incompatible { reason: text() },
        Verdict::Busy,
    ];
    let others = [
        Message::Hello(hello),
        Message::Room { descriptors: 12 },
        Message::Able { alone: true },
        Message::Able { alone: false },
        Message::Terminating,
        Message::RolePart { kind: 9, piece: piece() },
        Message::RoleState { epoch, parts: 3 },
        Message::RolePrepared { epoch },
        Message::RoleRefused { epoch, reason: text() },
        Message::RoleCommit { epoch },
        Message::RoleAbort { epoch, reason: text() },
        Message::Mesh(piece()),
        Message::Counters(piece()),
        Message::State { offer, canary: true, mesh: 7, frozen_at_ns: 1 << 60, piece: piece() },
        Message::Prepared { offer },
        Message::Refused { offer, reason: text(), again: true },
        Message::Commit { offer, secrets: payload() },
        Message::Abort { offer },
        Message::Running { offer, pause_us: 900 },
        Message::Proved { offer },
        Message::NotProved { offer, reason: text() },
        Message::PodDeleted { uid: text() },
        Message::PodClosed { uid: text() },
        Message::Coming(piece()),
        Message::Done,
        Message::Goodbye { reason: text() },
        Message::Unknown,
    ];
    verdicts.into_iter().map(Message::Verdict).chain(others).collect()
}

fn packet(message: &Message, descriptors: usize) -> Vec<u8> {
    let (mut packet, payload) = encode(message, descriptors);
    packet.extend(payload);
    packet
}

#[test]
fn no_bytes_at_all_make_it_panic() {
    let mut random = fastrand::Rng::with_seed(6);
    let good: Vec<_> = one_of_each().iter().map(|message| packet(message, 0)).collect();
    for packet in &good {
        for len in 0..packet.len() {
            // What is cut inside of the payload is a message with a shorter one.
            let _ = decode(&packet[..len]);
        }
    }
    for _ in 0..100_000 {
        let mut packet = random.choice(&good).expect("there are some").clone();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..packet.len());
            packet[at] = random.u8(..);
        }
        if let Ok((message, _)) = decode(&packet)
            && let Message::State { piece, .. }
            | Message::RolePart { piece, .. }
            | Message::Coming(piece)
            | Message::Mesh(piece) = message
        {
            assert!(piece.part < piece.parts);
        }
        let noise: Vec<u8> = (0..random.usize(..40)).map(|_| random.u8(..)).collect();
        let _ = decode(&noise);
    }
}

#[test]
fn one_wrong_field_is_refused_or_makes_another_message() {
    let (mut refused, mut accepted) = (0, 0);
    for message in one_of_each() {
        let (head, payload) = encode(&message, 3);
        for damage::Damaged { what, bytes } in damage::every(&head[4..]) {
            let mut damaged = (bytes.len() as u32).to_le_bytes().to_vec();
            damaged.extend([&bytes, payload].concat());
            let Ok((read, descriptors)) = decode(&damaged) else {
                refused += 1;
                continue;
            };
            accepted += 1;
            let again = decode(&packet(&read, descriptors)).expect("it was just encoded");
            // What isn't known is not kept.
            assert!(read == Message::Unknown || again == (read.clone(), descriptors), "{message:?}, {what}");
            if let Message::State { piece, .. } | Message::RolePart { piece, .. } = read {
                assert!(piece.part < piece.parts, "{message:?}, {what}");
                let mut assembler = Assembler::new();
                for _ in 0..3 {
                    // Whatever it comes to, nothing is reserved on the word of a number.
                    let _ = assembler.add(piece.clone(), Vec::new());
                }
            }
        }
    }
    assert!(refused > 100 && accepted > 100, "{refused} refused, {accepted} accepted");
}

#[test]
fn what_is_too_short_is_no_message() {
    for message in one_of_each() {
        let (head, _) = encode(&message, 1);
        for len in 0..head.len() {
            assert!(decode(&head[..len]).is_err(), "{message:?}, {len} bytes");
        }
    }
}

#[test]
fn what_a_later_build_adds_is_skipped() {
    // Prepared (15) with a field 9 more than we know, then a field 1000 of the envelope.
    let body = [8, 42, 72, 1];
    let mut envelope = vec![8, 2, 15 << 3 | 2, body.len() as u8];
    envelope.extend(body);
    envelope.extend([0xc0, 0x3e, 1]);
    assert_eq!(decode(&framed(&envelope)).expect("readable"), (Message::Prepared { offer: 42 }, 2));
    // Message 500 alone.
    let envelope = [8, 2, 0xa2, 0x1f, 1, 0];
    assert_eq!(decode(&framed(&envelope)).expect("readable"), (Message::Unknown, 2));
    // A verdict 9.
    let envelope = [3 << 3 | 2, 2, 9 << 3, 1];
    assert_eq!(decode(&framed(&envelope)).expect("readable"), (Message::Unknown, 0));
}

fn framed(envelope: &[u8]) -> Vec<u8> {
    let mut packet = (envelope.len() as u32).to_le_bytes().to_vec();
    packet.extend(envelope);
    packet.extend(b"a payload");
    packet
}

#[test]
fn secrets_show_nowhere() {
    let secrets = Payload::new(b"secret".to_vec());
    let piece = Piece { part: 0, parts: 1, bytes: secrets.clone() };
    let messages = [
        Message::Commit { offer: 1, secrets: secrets.clone() },
        Message::State { offer: 1, canary: false, mesh: 0, frozen_at_ns: 0, piece: piece.clone() },
        Message::RolePart { kind: 1, piece: piece.clone() },
        Message::Mesh(piece),
    ];
    for message in messages {
        for shown in [format!("{message:?}"), format!("{message:#?}")] {
            let shown: String = shown.split_whitespace().collect();
            assert!(!shown.contains("secret\"") && !shown.contains("115,101,99"), "{shown}");
        }
        let (head, payload) = encode(&message, 0);
        assert!(!head.windows(6).any(|part| part == b"secret") && payload == b"secret");
    }
}
