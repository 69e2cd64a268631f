use super::protect::{ASK_AFTER, MAX_RECORDS, UPDATE_AFTER};
use super::*;

fn owed(records: &mut Records) -> Vec<u8> {
    let mut out = Vec::new();
    records.seal_owed(&mut out).unwrap();
    assert!(!records.owes());
    out
}

/// Both directions carry data.
#[track_caller]
fn check(client: &mut Records, server: &mut Records) {
    let there = data(client, b"there");
    assert_eq!(payload(server, there), b"there");
    let back = data(server, b"back");
    assert_eq!(payload(client, back), b"back");
}

/// Records in `bytes`, each handled by `records`; returns how many there were.
#[track_caller]
fn handle_all(records: &mut Records, mut bytes: Vec<u8>) -> usize {
    let mut count = 0;
    while !bytes.is_empty() {
        let Ok(Opened::Handled { consumed }) = records.open(&mut bytes) else { panic!("record {count}") };
        bytes.drain(..consumed);
        count += 1;
    }
    count
}

#[test]
fn our_own_asks_nothing_back() {
    for suite in SUITES {
        let (mut client, mut server) = pair_at(suite, 9, 5);
        check(&mut client, &mut server);
        assert!(!client.owes());
        client.request_key_update(false);
        assert!(client.owes());
        let update = owed(&mut client);
        assert_eq!(handle_all(&mut server, update), 1);
        assert!(!server.owes());
        assert_eq!((client.sealer.sequence(), server.opener.sequence()), (0, 0));
        assert_eq!((client.opener.sequence(), server.sealer.sequence()), (6, 6));
        check(&mut client, &mut server);
    }
}

#[test]
fn asked_for_it_is_answered_once() {
    let (mut client, mut server) = pair(Suite::Aes256Gcm);
    for _ in 0..5 {
        client.request_key_update(true);
        let update = owed(&mut client);
        assert_eq!(handle_all(&mut server, update), 1);
        assert!(server.owes());
    }
    // Until the answer is sealed, data may come under the old key.
    let late = data(&mut server, b"late");
    assert_eq!(payload(&mut client, late), b"late");
    let answer = owed(&mut server);
    assert_eq!(handle_all(&mut client, answer), 1, "five requests, one answer");
    assert!(!client.owes(), "an answer asks nothing back");
    check(&mut client, &mut server);
}

#[test]
fn when_both_ask_at_once_both_are_answered() {
    let (mut client, mut server) = pair(Suite::Aes256Gcm);
    client.request_key_update(true);
    server.request_key_update(true);
    let from_client = owed(&mut client);
    assert_eq!(handle_all(&mut server, from_client), 1);
    // The answer, and only then the question.
    let from_server = owed(&mut server);
    assert_eq!(handle_all(&mut client, from_server), 2);
    let answer = owed(&mut client);
    assert_eq!(handle_all(&mut server, answer), 1);
    assert!(!server.owes());
    check(&mut client, &mut server);
}

#[test]
fn our_key_is_changed_in_time() {
    let (mut client, mut server) = pair_at(Suite::Aes256Gcm, UPDATE_AFTER - 1, 0);
    assert!(!client.owes());
    check(&mut client, &mut server);
    assert!(client.owes());
    let update = owed(&mut client);
    assert_eq!(handle_all(&mut server, update), 1);
    assert!(!server.owes());
    check(&mut client, &mut server);
}

#[test]
fn a_due_update_and_a_request_are_one_message() {
    let (mut client, mut server) = pair_at(Suite::Aes256Gcm, UPDATE_AFTER, 0);
    client.request_key_update(true);
    let update = owed(&mut client);
    assert_eq!(handle_all(&mut server, update), 1);
    assert!(server.owes());
}

#[test]
fn no_key_is_used_beyond_its_limit() {
    let (mut client, mut server) = pair_at(Suite::Aes256Gcm, MAX_RECORDS - 1, MAX_RECORDS - 1);
    check(&mut client, &mut server);
    let mut record = [0; HEADER + TRAILER];
    assert_eq!(client.seal(&mut record, 0), Err(RecordError::KeyWornOut));
    assert_eq!(client.seal_owed(&mut Vec::new()), Err(RecordError::KeyWornOut));
    let error = refused(&mut server, vec![23, 3, 3, 0, 1, 0]);
    assert_eq!(error, RecordError::PeerKeyWornOut);
}

#[test]
fn a_peer_that_never_changes_its_key_is_asked_once() {
    let (mut client, mut server) = pair_at(Suite::Aes256Gcm, ASK_AFTER - 2, 0);
    let before = data(&mut client, b"before");
    payload(&mut server, before);
    assert!(!server.owes());
    let last = data(&mut client, b"last");
    payload(&mut server, last);
    let request = owed(&mut server);
    assert_eq!(handle_all(&mut client, request), 1);
    let more = data(&mut client, b"more");
    payload(&mut server, more);
    assert!(!server.owes());
    let answer = owed(&mut client);
    assert_eq!(handle_all(&mut server, answer), 1);
    check(&mut client, &mut server);
}

#[test]
fn more_than_32_without_data_are_refused() {
    let (mut client, mut server) = pair(Suite::Aes128Gcm);
    let update = |client: &mut Records| {
        client.request_key_update(true);
        owed(client)
    };
    for _ in 0..2 {
        for _ in 0..32 {
            handled(&mut server, update(&mut client));
        }
        let data = data(&mut client, b"x");
        payload(&mut server, data);
    }
    for _ in 0..32 {
        handled(&mut server, update(&mut client));
    }
    assert_eq!(refused(&mut server, update(&mut client)), RecordError::Fruitless);
}

#[test]
fn it_must_end_its_record() {
    let trailing_byte = [24, 0, 0, 1, 0, 24];
    let another = [24, 0, 0, 1, 0, 24, 0, 0, 1, 0];
    for content in [&trailing_byte[..], &another] {
        let (mut client, mut server) = pair(Suite::Aes256Gcm);
        let record = raw(&mut client, content, HANDSHAKE);
        assert_eq!(refused(&mut server, record), RecordError::KeyUpdateNotAligned);
    }
}

#[test]
fn malformed_ones_are_refused() {
    for (content, error) in [
        (&[24, 0, 0, 1, 2][..], RecordError::KeyUpdateIllegal(2)),
        (&[24, 0, 0, 0], RecordError::Malformed("KeyUpdate")),
        (&[24, 0, 0, 2, 0, 0], RecordError::Malformed("KeyUpdate")),
        (&[24, 1, 0, 1], RecordError::MessageTooLong((1 << 16) + 1)),
        (&[], RecordError::EmptyFragment),
    ] {
        let (mut client, mut server) = pair(Suite::Aes256Gcm);
        let record = raw(&mut client, content, HANDSHAKE);
        assert_eq!(refused(&mut server, record), error);
    }
}

#[test]
fn messages_may_be_spread_over_records() {
    let (mut client, mut server) = pair(Suite::Aes256Gcm);
    // Two tickets and a key update, cut everywhere, the client's side receiving.
    let messages = [4, 0, 0, 3, 1, 2, 3, 4, 0, 0, 0, 24, 0, 0, 1, 1];
    for cut in 1..messages.len() {
        for part in [&messages[..cut], &messages[cut..]] {
            let record = raw(&mut server, part, HANDSHAKE);
            handled(&mut client, record);
        }
        server.sealer.update().unwrap();
        let answer = owed(&mut client);
        assert_eq!(handle_all(&mut server, answer), 1);
        check(&mut client, &mut server);
    }
}

#[test]
fn nothing_may_come_between_the_parts_of_a_message() {
    for (content, inner_type) in [(&b"x"[..], 23), (b"", 23), (&[1, 0], 21)] {
        let (mut client, mut server) = pair(Suite::Aes256Gcm);
        let part = raw(&mut client, &[24, 0], HANDSHAKE);
        handled(&mut server, part);
        let other = raw(&mut client, content, inner_type);
        assert_eq!(refused(&mut server, other), RecordError::Interleaved);
    }
}

#[test]
fn long_tickets_are_taken_and_too_long_ones_are_not() {
    let (mut client, mut server) = pair(Suite::Aes256Gcm);
    let ticket = [&[4, 1, 0, 0][..], &[9; 1 << 16]].concat();
    for part in ticket.chunks(MAX_PAYLOAD) {
        let record = raw(&mut server, part, HANDSHAKE);
        handled(&mut client, record);
    }
    check(&mut client, &mut server);
    let record = raw(&mut server, &[4, 1, 0, 1], HANDSHAKE);
    assert_eq!(refused(&mut client, record), RecordError::MessageTooLong((1 << 16) + 1));
}

#[test]
fn other_messages_are_refused_by_their_first_byte() {
    for message in [0, 1, 2, 13, 20, 255] {
        let (mut client, mut server) = pair(Suite::Aes256Gcm);
        let record = raw(&mut server, &[message], HANDSHAKE);
        assert_eq!(refused(&mut client, record), RecordError::UnexpectedMessage(message));
    }
    let (mut client, mut server) = pair(Suite::Aes256Gcm);
    let record = raw(&mut client, &[4, 0, 0, 0], HANDSHAKE);
    assert_eq!(refused(&mut server, record), RecordError::UnexpectedMessage(4), "a client sends no tickets");
}
