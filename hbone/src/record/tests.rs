mod freeze;
mod key_update;
mod rfc8448;

use super::*;
use crate::snapshot::{Reader, Writer};

const SUITES: [Suite; 3] = [Suite::Aes128Gcm, Suite::Aes256Gcm, Suite::ChaCha20Poly1305];

/// Client and server of a fresh connection.
fn pair(suite: Suite) -> (Records, Records) {
    let length = if suite == Suite::Aes256Gcm { 48 } else { 32 };
    let (client, server) = (vec![0xc1; length], vec![0x5e; length]);
    let end = |role| Records::new(role, suite, &client, &server).unwrap();
    (end(Role::Client), end(Role::Server))
}

/// `records`, moved, having opened and sealed that many records under the current keys.
fn at(records: &Records, opened: u64, sealed: u64) -> Records {
    let (mut state, mut secrets) = (Writer::with_capacity(256), Writer::with_capacity(256));
    records.freeze(&mut state, &mut secrets);
    let (mut state, secrets) = (state.written().to_vec(), secrets.written().to_vec());
    state[3..11].copy_from_slice(&opened.to_be_bytes());
    state[11..19].copy_from_slice(&sealed.to_be_bytes());
    let state = RecordsState::read(&mut Reader::new(&state)).unwrap();
    Records::thaw(&state, &mut Reader::new(&secrets)).unwrap()
}

/// A client and a server that have exchanged so many records already.
fn pair_at(suite: Suite, client_sealed: u64, server_sealed: u64) -> (Records, Records) {
    let (client, server) = pair(suite);
    (at(&client, server_sealed, client_sealed), at(&server, client_sealed, server_sealed))
}

fn data(records: &mut Records, payload: &[u8]) -> Vec<u8> {
    let mut record = vec![0; HEADER + payload.len() + TRAILER];
    record[HEADER..HEADER + payload.len()].copy_from_slice(payload);
    let length = records.seal(&mut record, payload.len()).unwrap();
    assert_eq!(length, record.len());
    record
}

/// A record with any content of any inner type. Inner type 0 makes what ends `content` the type, and the rest padding.
fn raw(records: &mut Records, content: &[u8], inner_type: u8) -> Vec<u8> {
    let mut out = Vec::new();
    records.sealer.append(content, inner_type, &mut out).unwrap();
    out
}

/// Opens a record that must hold application data.
#[track_caller]
fn payload(records: &mut Records, mut record: Vec<u8>) -> Vec<u8> {
    match records.open(&mut record).unwrap() {
        Opened::Data { consumed, range } => {
            assert_eq!(consumed, record.len());
            record[range].to_vec()
        }
        other => panic!("{other:?}"),
    }
}

/// Opens a record that must hold nothing for the layer above.
#[track_caller]
fn handled(records: &mut Records, mut record: Vec<u8>) {
    let consumed = record.len();
    assert_eq!(records.open(&mut record), Ok(Opened::Handled { consumed }));
}

#[track_caller]
fn refused(records: &mut Records, mut record: Vec<u8>) -> RecordError {
    records.open(&mut record).unwrap_err()
}

#[test]
fn both_directions_at_any_sequence_number() {
    for suite in SUITES {
        for sequence in [0, 1, 15, 255, 256, 1000, 1023, 1024, 65535, (1 << 23) - 40] {
            let (mut client, mut server) = pair_at(suite, sequence, sequence + 17);
            for count in 0..20_u8 {
                let there = data(&mut client, &[count; 33]);
                assert_eq!(payload(&mut server, there), [count; 33], "{suite:?} {sequence}+{count}");
                let back = data(&mut server, &[!count; 1]);
                assert_eq!(payload(&mut client, back), [!count], "{suite:?} {sequence}+{count}");
            }
        }
    }
}

#[test]
fn a_full_record_and_no_more() {
    let (mut client, mut server) = pair(Suite::Aes256Gcm);
    let mut record = vec![7; HEADER + MAX_PAYLOAD + 1 + TRAILER];
    assert_eq!(client.seal(&mut record, MAX_PAYLOAD + 1), Err(RecordError::NoRoom));
    assert_eq!(client.seal(&mut record[..HEADER + 10 + TRAILER - 1], 10), Err(RecordError::NoRoom));
    let length = client.seal(&mut record, MAX_PAYLOAD).unwrap();
    record.truncate(length);
    assert_eq!(payload(&mut server, record), vec![7; MAX_PAYLOAD]);
}

#[test]
fn only_the_first_record_is_touched() {
    let (mut client, mut server) = pair(Suite::Aes128Gcm);
    let (first, second) = (data(&mut client, b"one"), data(&mut client, b"two"));
    let mut both = [&first[..], &second].concat();
    for length in 0..first.len() {
        let mut partial = first[..length].to_vec();
        assert_eq!(server.open(&mut partial), Ok(Opened::Incomplete));
        assert_eq!(partial, first[..length]);
    }
    let consumed = first.len();
    assert_eq!(server.open(&mut both), Ok(Opened::Data { consumed, range: HEADER..HEADER + 3 }));
    assert_eq!(both[consumed..], second);
    assert_eq!(payload(&mut server, second), b"two");
}

#[test]
fn altered_repeated_and_reordered_records_are_refused() {
    for bit in 0..8 * (HEADER + 3 + TRAILER) {
        let (mut client, mut server) = pair(Suite::Aes256Gcm);
        let mut record = data(&mut client, b"abc");
        record[bit / 8] ^= 1 << (bit % 8);
        record.extend_from_slice(&[0; 1 << 15]);
        let error = refused(&mut server, record);
        match bit / 8 {
            0 => assert!(matches!(error, RecordError::Unprotected(_)), "{error}"),
            3 => assert!(matches!(error, RecordError::BadMac | RecordError::Overflow), "{error}"),
            _ => assert_eq!(error, RecordError::BadMac),
        }
    }
    let (mut client, mut server) = pair(Suite::Aes256Gcm);
    let (first, second) = (data(&mut client, b"one"), data(&mut client, b"two"));
    assert_eq!(refused(&mut at(&server, 0, 0), second), RecordError::BadMac);
    payload(&mut server, first.clone());
    assert_eq!(refused(&mut server, first), RecordError::BadMac);
}

#[test]
fn a_record_too_short_for_a_tag_is_refused() {
    let (_, mut server) = pair(Suite::Aes256Gcm);
    for length in 0..=16 {
        let mut record = vec![23, 3, 3, 0, length];
        record.resize(HEADER + usize::from(length), 0);
        assert_eq!(refused(&mut server, record), RecordError::BadMac);
    }
}

#[test]
fn padding_is_taken_off() {
    let (mut client, mut server) = pair(Suite::Aes256Gcm);
    for padding in [1, 2, 255, MAX_PAYLOAD - 4] {
        let content = [b"abc".as_slice(), &[APPLICATION_DATA], &vec![0; padding - 1]].concat();
        let record = raw(&mut client, &content, 0);
        assert_eq!(payload(&mut server, record), b"abc");
    }
    let only_padding = raw(&mut client, &[0; 100], 0);
    assert_eq!(refused(&mut server, only_padding), RecordError::UnexpectedContent(0));
}

#[test]
fn padding_does_not_make_room_for_more_than_a_record() {
    let (mut client, mut server) = pair(Suite::Aes256Gcm);
    // As `Sealer::seal`, but a byte longer.
    let mut inner = vec![0; MAX_PAYLOAD + 2];
    inner[0] = APPLICATION_DATA;
    let [high, low] = u16::try_from(inner.len() + 16).unwrap().to_be_bytes();
    let header = [23, 3, 3, high, low];
    let key = TrafficSecret::new(Suite::Aes256Gcm, client.sealer.secret()).unwrap().material().unwrap();
    let key = key.into_key().unwrap();
    let aad = aws_lc_rs::aead::Aad::from(header);
    key.aead.seal_in_place_append_tag(key.nonce(0), aad, &mut inner).unwrap();
    let record = [&header[..], &inner].concat();
    assert_eq!(refused(&mut server, record), RecordError::Overflow);
    client.request_key_update(false);
}

#[test]
fn empty_records_are_fine_but_not_for_ever() {
    let (mut client, mut server) = pair(Suite::Aes256Gcm);
    for _ in 0..2 {
        for _ in 0..MAX_FRUITLESS {
            let empty = data(&mut client, b"");
            handled(&mut server, empty);
        }
        let full = data(&mut client, b"x");
        payload(&mut server, full);
    }
    for _ in 0..MAX_FRUITLESS {
        let empty = data(&mut client, b"");
        handled(&mut server, empty);
    }
    let empty = data(&mut client, b"");
    assert_eq!(refused(&mut server, empty), RecordError::Fruitless);
}

#[test]
fn alerts() {
    let (mut client, mut server) = pair(Suite::Aes256Gcm);
    let mut seal = |alert| {
        let mut out = Vec::new();
        client.seal_alert(alert, &mut out).unwrap();
        out
    };
    handled(&mut server, seal(USER_CANCELED));
    let mut close = seal(CLOSE_NOTIFY);
    let consumed = close.len();
    assert_eq!(server.open(&mut close), Ok(Opened::CloseNotify { consumed }));
    assert_eq!(close[HEADER..HEADER + 2], [WARNING, CLOSE_NOTIFY]);
    let error = refused(&mut server, seal(48));
    assert_eq!(error, RecordError::Alert(rustls::AlertDescription::UnknownCA));
    assert_eq!(error.alert(), None, "an alert is not answered");
    for malformed in [&[][..], &[2], &[2, 10, 0]] {
        let record = raw(&mut client, malformed, ALERT);
        assert_eq!(refused(&mut server, record), RecordError::Malformed("alert"));
    }
}

#[test]
fn other_content_is_refused() {
    let (mut client, mut server) = pair(Suite::Aes256Gcm);
    for inner_type in [1, 20, 24, 255] {
        let record = raw(&mut client, &[1], inner_type);
        assert_eq!(refused(&mut server, record), RecordError::UnexpectedContent(inner_type));
    }
    let change_cipher_spec = vec![20, 3, 3, 0, 1, 1];
    assert_eq!(refused(&mut server, change_cipher_spec), RecordError::Unprotected(20));
}

#[test]
fn secrets_must_fit_the_suite() {
    for suite in SUITES {
        for length in [0, 31, 33, 47, 49, 64, 1000] {
            let secret = vec![1; length];
            assert!(matches!(
                Records::new(Role::Client, suite, &secret, &secret),
                Err(RecordError::SecretLength)
            ));
        }
    }
}

#[test]
fn disagreement_with_the_handshake_is_seen() {
    let material =
        |suite, byte, length| TrafficSecret::new(suite, &vec![byte; length]).unwrap().material().unwrap();
    let (client, _) = pair(Suite::Aes256Gcm);
    let received = material(Suite::Aes256Gcm, 0x5e, 48);
    let sent = material(Suite::Aes256Gcm, 0xc1, 48);
    assert!(client.agrees_with((0, &received), (0, &sent)));
    assert!(!client.agrees_with((1, &received), (0, &sent)));
    assert!(!client.agrees_with((0, &received), (2, &sent)));
    assert!(!client.agrees_with((0, &sent), (0, &received)));
    assert!(!client.agrees_with((0, &received), (0, &material(Suite::Aes128Gcm, 0xc1, 32))));
}
