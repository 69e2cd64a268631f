mod failures;
mod peer;

use rustls::SupportedCipherSuite;
use rustls::crypto::{SupportedKxGroup, aws_lc_rs};

use super::*;
use crate::record::{HEADER, Opened, TRAILER};
use peer::{Authority, Options, Peer};

/// One end: ours.
fn ours(role: Role, authority: &Authority) -> Handshake {
    match role {
        Role::Client => Handshake::client(&authority.client(), SessionConfig::client()),
        Role::Server => Handshake::server(&authority.server(), SessionConfig::server()),
    }
    .unwrap()
}

/// The other end: rustls, buffered, as stock peers use it.
fn theirs(role: Role, authority: &Authority, options: &Options) -> Peer {
    match role {
        Role::Client => Peer::server(authority, options),
        Role::Server => Peer::client(authority, options),
    }
}

/// Carries bytes to and fro, ours in pieces of at most `cut`, until neither end has more to say.
fn drive(ours: &mut Handshake, theirs: &mut Peer, cut: usize) -> Result<(), HandshakeError> {
    loop {
        let out = ours.output().to_vec();
        ours.advance(out.len());
        theirs.receive(&out);
        let back = theirs.output();
        if out.is_empty() && back.is_empty() {
            return Ok(());
        }
        for piece in back.chunks(cut) {
            ours.receive(piece)?;
        }
    }
}

/// What a complete handshake hands to the tunnel: record layer, received and unsent bytes.
#[track_caller]
fn records(handshake: Handshake) -> (Records, Vec<u8>, Vec<u8>) {
    let unsent = handshake.output().to_vec();
    let State::Complete(complete) = handshake.state else { panic!("not complete") };
    assert_eq!(complete.peer_certificates.len(), 1);
    (complete.records, complete.carry, unsent)
}

/// Opens all records in `bytes`; returns their payload.
fn open_all(records: &mut Records, mut bytes: Vec<u8>) -> Vec<u8> {
    let mut payload = Vec::new();
    loop {
        match records.open(&mut bytes).unwrap() {
            Opened::Incomplete => {
                assert!(bytes.is_empty(), "{} bytes left", bytes.len());
                return payload;
            }
            Opened::Data { consumed, range } => {
                payload.extend_from_slice(&bytes[range]);
                bytes.drain(..consumed);
            }
            Opened::Handled { consumed } | Opened::CloseNotify { consumed } => {
                bytes.drain(..consumed);
            }
        }
    }
}

fn seal(records: &mut Records, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    records.seal_owed(&mut out).unwrap();
    let mut record = vec![0; HEADER + payload.len() + TRAILER];
    record[HEADER..HEADER + payload.len()].copy_from_slice(payload);
    records.seal(&mut record, payload.len()).unwrap();
    [out, record].concat()
}

/// Data flows both ways over a tunnel that has just been established.
fn talk(ours: Handshake, theirs: &mut Peer) {
    let (mut records, carry, unsent) = records(ours);
    theirs.receive(&unsent);
    theirs.write(b"from them");
    let received = [carry, theirs.output()].concat();
    assert_eq!(open_all(&mut records, received), b"from them");
    theirs.receive(&seal(&mut records, b"from us"));
    assert_eq!(theirs.read(), b"from us");
}

fn suites() -> [SupportedCipherSuite; 2] {
    [aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256, aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384]
}

fn groups() -> [&'static dyn SupportedKxGroup; 4] {
    [
        aws_lc_rs::kx_group::X25519,
        aws_lc_rs::kx_group::SECP256R1,
        aws_lc_rs::kx_group::SECP384R1,
        aws_lc_rs::kx_group::X25519MLKEM768,
    ]
}

const ROLES: [Role; 2] = [Role::Client, Role::Server];

#[test]
fn every_suite_and_group_in_both_roles() {
    let authority = Authority::new();
    for role in ROLES {
        for suite in suites() {
            for group in groups() {
                let options = Options { suites: vec![suite], groups: vec![group], ..Options::default() };
                let mut ours = ours(role, &authority);
                let mut theirs = theirs(role, &authority, &options);
                drive(&mut ours, &mut theirs, usize::MAX).unwrap();
                assert_eq!(theirs.group(), group.name(), "{role:?} {suite:?}");
                assert_eq!(theirs.suite(), suite.suite(), "{role:?} {group:?}");
                talk(ours, &mut theirs);
            }
        }
    }
}

#[test]
fn what_is_preferred_is_what_stock_prefers() {
    let authority = Authority::new();
    for role in ROLES {
        let mut ours = ours(role, &authority);
        let mut theirs = theirs(role, &authority, &Options::default());
        drive(&mut ours, &mut theirs, usize::MAX).unwrap();
        assert_eq!(theirs.group(), rustls::NamedGroup::X25519);
        assert_eq!(theirs.suite(), rustls::CipherSuite::TLS13_AES_256_GCM_SHA384);
    }
}

/// Handshake messages over many TCP segments, and over many TLS records: a ClientHello with an ML-KEM share has 1.2 KB.
#[test]
fn any_cut_into_segments_and_records() {
    let authority = Authority::new();
    for role in ROLES {
        for fragment in [None, Some(64), Some(600)] {
            for cut in [1, 2, 5, 6, 63, 1000, usize::MAX] {
                let options = Options {
                    groups: vec![aws_lc_rs::kx_group::X25519MLKEM768],
                    fragment,
                    ..Options::default()
                };
                let mut ours = ours(role, &authority);
                let mut theirs = theirs(role, &authority, &options);
                drive(&mut ours, &mut theirs, cut)
                    .unwrap_or_else(|error| panic!("{role:?} {fragment:?} {cut}: {error}"));
                talk(ours, &mut theirs);
            }
        }
    }
}

#[test]
fn a_second_client_hello() {
    let authority = Authority::new();
    // A share of a group that the server does not have comes first.
    let groups = vec![aws_lc_rs::kx_group::SECP256R1MLKEM768, aws_lc_rs::kx_group::SECP384R1];
    let options = Options { groups, ..Options::default() };
    for cut in [1, usize::MAX] {
        let mut ours = ours(Role::Server, &authority);
        let mut theirs = Peer::client(&authority, &options);
        drive(&mut ours, &mut theirs, cut).unwrap();
        assert_eq!(theirs.group(), rustls::NamedGroup::secp384r1);
        talk(ours, &mut theirs);
    }
    let options = Options { groups: vec![aws_lc_rs::kx_group::SECP384R1], ..Options::default() };
    let mut ours = ours(Role::Client, &authority);
    let mut theirs = Peer::server(&authority, &options);
    drive(&mut ours, &mut theirs, 1).unwrap();
    talk(ours, &mut theirs);
}

/// The client does not wait for anybody once it has sent its Finished.
#[test]
fn data_behind_the_clients_finished_survives() {
    let authority = Authority::new();
    for cut in [1, 7, usize::MAX] {
        let mut ours = ours(Role::Server, &authority);
        let mut theirs = Peer::client(&authority, &Options::default());
        ours.receive(&theirs.output()).unwrap();
        theirs.receive(ours.output());
        let flight = ours.output().len();
        ours.advance(flight);
        for payload in [&b"early "[..], b"bird"] {
            theirs.write(payload);
        }
        let mut bytes = theirs.output();
        let late = bytes.split_off(bytes.len() - 5);
        for piece in bytes.chunks(cut) {
            ours.receive(piece).unwrap();
        }
        assert!(ours.is_complete());
        ours.receive(&late).unwrap();
        let (mut records, carry, unsent) = records(ours);
        assert!(unsent.is_empty());
        assert_eq!(open_all(&mut records, carry), b"early bird");
    }
}

#[test]
fn a_flight_that_has_not_left_goes_with_the_tunnel() {
    let authority = Authority::new();
    let mut ours = ours(Role::Client, &authority);
    let mut theirs = Peer::server(&authority, &Options::default());
    theirs.receive(ours.output());
    ours.advance(ours.output().len());
    ours.receive(&theirs.output()).unwrap();
    let flight = ours.output().to_vec();
    theirs.receive(&flight[..11]);
    ours.advance(11);
    let (mut records, carry, unsent) = records(ours);
    assert!(carry.is_empty());
    assert_eq!(unsent, flight[11..]);
    theirs.receive(&unsent);
    theirs.receive(&seal(&mut records, b"hello"));
    assert_eq!(theirs.read(), b"hello");
}

/// The secrets of many handshakes on one thread pass through one variable.
#[test]
fn interleaved_handshakes_keep_their_secrets_apart() {
    let authority = Authority::new();
    let mut pairs: Vec<_> = (0..10)
        .map(|index| {
            let role = ROLES[index % 2];
            (ours(role, &authority), theirs(role, &authority, &Options::default()))
        })
        .collect();
    let mut incoming = vec![Vec::new(); pairs.len()];
    while !pairs.iter().all(|(ours, _)| ours.is_complete()) {
        for ((ours, theirs), incoming) in pairs.iter_mut().zip(&mut incoming) {
            theirs.receive(ours.output());
            ours.advance(usize::MAX / 2);
            incoming.append(&mut theirs.output());
            let piece: Vec<u8> = incoming.drain(..incoming.len().min(100)).collect();
            ours.receive(&piece).unwrap();
        }
    }
    for ((mut ours, mut theirs), incoming) in pairs.into_iter().zip(incoming) {
        ours.receive(&incoming).unwrap();
        talk(ours, &mut theirs);
    }
}

/// Each end of the tunnel changes its key, asks for a change, and is asked.
#[test]
fn stock_key_updates() {
    let authority = Authority::new();
    for role in ROLES {
        let mut ours = ours(role, &authority);
        let mut theirs = theirs(role, &authority, &Options::default());
        drive(&mut ours, &mut theirs, usize::MAX).unwrap();
        let (mut records, carry, _) = records(ours);
        open_all(&mut records, carry);
        for round in 0..10_u8 {
            match round % 3 {
                0 => theirs.refresh_keys(),
                1 => records.request_key_update(true),
                _ => records.request_key_update(false),
            }
            theirs.write(&[round; 3]);
            assert_eq!(open_all(&mut records, theirs.output()), [round; 3]);
            assert!(records.owes(), "asked in round 0, our own in others");
            theirs.receive(&seal(&mut records, &[!round; 2]));
            assert_eq!(theirs.read(), [!round; 2]);
        }
    }
}

#[test]
fn the_end_of_it() {
    let authority = Authority::new();
    for role in ROLES {
        let mut ours = ours(role, &authority);
        assert!(!ours.is_complete());
        drive(&mut ours, &mut theirs(role, &authority, &Options::default()), usize::MAX).unwrap();
        assert!(ours.is_complete());
        // As if the last of our bytes had not left yet.
        ours.output = b"left, not left".to_vec();
        ours.advance(6);
        let established = ours.finish(Time(7)).unwrap();
        assert_eq!(established.peer_certificates, authority.certificate().cert);
        assert_eq!(established.connection.unsent(), b"not left");
    }
}

/// Workers are threads.
#[test]
fn it_may_change_threads() {
    fn is_send<T: Send>(_: &T) {}
    is_send(&ours(Role::Client, &Authority::new()));
}

#[test]
fn misuse_is_an_error() {
    let authority = Authority::new();
    let ours = ours(Role::Client, &authority);
    assert!(!ours.is_complete());
    assert!(matches!(ours.finish(Time(0)), Err(HandshakeError::Misuse)));
}
