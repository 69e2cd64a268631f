use rustls::{AlertDescription, CertificateError};

use super::*;
use crate::error::Fault;

/// Runs a handshake that must fail on our side. Returns the error, and what the peer makes of the alert.
#[track_caller]
fn fail(mut ours: Handshake, mut theirs: Peer) -> (HandshakeError, rustls::Error) {
    let error = loop {
        theirs.receive(ours.output());
        ours.advance(ours.output().len());
        if let Err(error) = ours.receive(&theirs.output()) {
            break error;
        }
    };
    assert!(!ours.is_complete());
    let seen = theirs.try_receive(ours.output()).unwrap_err();
    assert!(matches!(ours.receive(b"x"), Err(HandshakeError::Misuse)));
    assert!(matches!(ours.finish(Time(0)), Err(HandshakeError::Misuse)));
    (error, seen)
}

fn alert(alert: AlertDescription) -> rustls::Error {
    rustls::Error::AlertReceived(alert)
}

#[test]
fn a_client_without_certificate() {
    let authority = Authority::new();
    let options = Options { anonymous: true, ..Options::default() };
    let (error, seen) = fail(ours(Role::Server, &authority), Peer::client(&authority, &options));
    assert_eq!(error.to_string(), "tls handshake: peer sent no certificate");
    assert!(matches!(error, HandshakeError::NoCertificate));
    assert_eq!(error.fault(), Fault::Peer);
    assert_eq!(seen, alert(AlertDescription::CertificateRequired));
}

#[test]
fn a_client_with_a_certificate_of_another_mesh() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (error, seen) = fail(
        ours(Role::Server, &authority),
        Peer::client(&other.with_roots_of(&authority), &Options::default()),
    );
    assert!(matches!(error, HandshakeError::CertificateRefused(CertificateError::UnknownIssuer)), "{error}");
    assert_eq!(error.to_string(), "tls handshake: peer's certificate refused: UnknownIssuer");
    assert_eq!(error.fault(), Fault::Peer);
    assert_eq!(seen, alert(AlertDescription::UnknownCA));
}

#[test]
fn a_server_with_a_certificate_of_another_mesh() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (error, seen) = fail(ours(Role::Client, &authority), Peer::server(&other, &Options::default()));
    assert!(matches!(error, HandshakeError::CertificateRefused(CertificateError::UnknownIssuer)), "{error}");
    assert_eq!(seen, alert(AlertDescription::UnknownCA));
}

/// A client learns that its certificate was refused only when its handshake is complete.
#[test]
fn our_certificate_is_refused() {
    let (authority, other) = (Authority::new(), Authority::new());
    let mut ours = ours(Role::Client, &other.with_roots_of(&authority));
    let mut theirs = Peer::server(&authority, &Options::default());
    theirs.receive(ours.output());
    ours.advance(ours.output().len());
    ours.receive(&theirs.output()).unwrap();
    assert!(ours.is_complete());
    theirs.try_receive(ours.output()).unwrap_err();
    ours.receive(&theirs.output()).unwrap();
    let (mut records, mut carry, _) = records(ours);
    let error = records.open(&mut carry).unwrap_err();
    assert_eq!(error.to_string(), "peer sent the TLS alert UnknownCA");
}

#[test]
fn other_application_protocols() {
    let authority = Authority::new();
    for role in ROLES {
        for alpn in [vec![], vec![b"http/1.1".to_vec()], vec![b"h2c".to_vec(), b"h3".to_vec()]] {
            if role == Role::Client && !alpn.is_empty() {
                continue; // A server that has no protocol in common refuses us.
            }
            let options = Options { alpn, ..Options::default() };
            let (error, seen) = fail(ours(role, &authority), theirs(role, &authority, &options));
            assert!(matches!(error, HandshakeError::NotH2), "{role:?} {error}");
            assert_eq!(seen, alert(AlertDescription::NoApplicationProtocol), "{role:?}");
        }
    }
    let options = Options { alpn: vec![b"http/1.1".to_vec()], ..Options::default() };
    let mut ours = ours(Role::Client, &authority);
    let mut theirs = Peer::server(&authority, &options);
    theirs.try_receive(ours.output()).unwrap_err();
    let error = ours.receive(&theirs.output()).unwrap_err();
    assert!(matches!(error, HandshakeError::Alert(AlertDescription::NoApplicationProtocol)), "{error}");
}

#[test]
fn nothing_in_common() {
    let authority = Authority::new();
    let suites = vec![aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256];
    let groups: Vec<&'static dyn SupportedKxGroup> = vec![aws_lc_rs::kx_group::MLKEM1024];
    for options in [Options { suites, ..Options::default() }, Options { groups, ..Options::default() }] {
        let (error, seen) = fail(ours(Role::Server, &authority), Peer::client(&authority, &options));
        assert!(matches!(error, HandshakeError::Incompatible(_)), "{error}");
        assert_eq!(error.fault(), Fault::Peer);
        assert_eq!(seen, alert(AlertDescription::HandshakeFailure));
    }
}

/// A ClientHello of TLS 1.2: one suite, no compression, and the extensions that it needs.
#[test]
fn an_older_version() {
    let extensions = [
        &[0, 10, 0, 4, 0, 2, 0, 29][..], // supported_groups: x25519
        &[0, 11, 0, 2, 1, 0],            // ec_point_formats: uncompressed
        &[0, 13, 0, 4, 0, 2, 4, 3],      // signature_algorithms: ecdsa_secp256r1_sha256
    ]
    .concat();
    let mut hello = vec![3, 3];
    hello.extend_from_slice(&[7; 32]);
    hello.extend_from_slice(&[0, 0, 2, 0xc0, 0x2b, 1, 0, 0, u8::try_from(extensions.len()).unwrap()]);
    hello.extend_from_slice(&extensions);
    let length = u8::try_from(hello.len()).unwrap();
    let record = [&[22, 3, 1, 0, length + 4, 1, 0, 0, length][..], &hello].concat();
    let mut ours = ours(Role::Server, &Authority::new());
    let error = ours.receive(&record).unwrap_err();
    assert!(matches!(error, HandshakeError::Incompatible(_)), "{error}");
    assert_eq!(ours.output(), [21, 3, 3, 0, 2, 2, 70], "protocol_version");
}

#[test]
fn garbage_is_refused_at_once() {
    let authority = Authority::new();
    let mut hello = Peer::client(&authority, &Options::default()).output();
    hello[5] = 0x77;
    let http = b"GET / HTTP/1.1\r\nhost: here\r\n\r\n";
    for (garbage, expected) in [
        (&http[..], 50),
        (&http[..5], 50),
        (&[0; 100], 50),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 50),
        (&[22, 3, 1, 0xff, 0xff], 50),
        (&[23, 3, 3, 0, 1, 0], 10),
        (&[20, 3, 3, 0, 1, 2], 50),
        (&hello, 10),
    ] {
        for cut in [1, usize::MAX] {
            let mut ours = ours(Role::Server, &authority);
            let error = garbage.chunks(cut).find_map(|piece| ours.receive(piece).err()).unwrap();
            assert!(matches!(error, HandshakeError::Misbehaved(_)), "{garbage:?} {error}");
            assert_eq!(error.fault(), Fault::Peer);
            assert_eq!(ours.output().first(), Some(&21), "an alert: {garbage:?}");
            assert_eq!(ours.output()[5..], [2, expected], "{garbage:?} {error}");
        }
    }
}

#[test]
fn alerts_of_the_peer_are_told() {
    let authority = Authority::new();
    for role in ROLES {
        let mut ours = ours(role, &authority);
        ours.advance(ours.output().len());
        let error = ours.receive(&[21, 3, 3, 0, 2, 2, 40]).unwrap_err();
        assert_eq!(error.to_string(), "tls handshake: peer sent alert HandshakeFailure");
        assert!(ours.output().is_empty(), "an alert is not answered");
    }
}

/// Whatever bit of the client's flights is altered, there is no tunnel; only a record's version means nothing.
#[test]
fn no_altered_flight_completes() {
    let authority = Authority::new();
    for seed in 0..300 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut ours = ours(Role::Server, &authority);
        let mut theirs = Peer::client(&authority, &Options::default());
        let altered = random.usize(..2);
        let mut means_nothing = false;
        for flight in 0..2 {
            let mut bytes = theirs.output();
            if flight == altered {
                let position = random.usize(..bytes.len());
                means_nothing = is_version(&bytes, position);
                bytes[position] ^= 1 << random.u8(..8);
            }
            // After an error on either side the other may still be fed.
            let _ = ours.receive(&bytes);
            let _ = theirs.try_receive(ours.output());
            ours.advance(ours.output().len());
        }
        assert!(means_nothing || !ours.is_complete(), "flight {altered}, seed {seed}");
    }
}

/// Whether the byte at `position` is of the version in a record's header.
fn is_version(records: &[u8], position: usize) -> bool {
    let mut start = 0;
    loop {
        let end = start + HEADER + usize::from(u16::from_be_bytes([records[start + 3], records[start + 4]]));
        if position < end {
            return (start + 1..start + 3).contains(&position);
        }
        start = end;
    }
}

#[test]
fn an_endless_handshake_is_cut() {
    let authority = Authority::new();
    let mut ours = ours(Role::Server, &authority);
    // The longest ClientHello that may be announced, in records of one byte.
    let mut sent = 0;
    let mut error = None;
    for byte in [1, 0, 0xff, 0xff].into_iter().chain(std::iter::repeat(0)) {
        if let Err(refused) = ours.receive(&[22, 3, 1, 0, 1, byte]) {
            error = Some(refused);
            break;
        }
        sent += 6;
        assert!(sent <= 70_000, "{sent}");
    }
    assert!(matches!(error, Some(HandshakeError::TooLong)), "{error:?}");
}

#[test]
fn configurations_that_cannot_work_are_refused() {
    let authority = Authority::new();
    let (key, other) = (authority.certificate(), Authority::new().certificate());
    let mixed = std::sync::Arc::new(rustls::sign::CertifiedKey::new(key.cert.clone(), other.key.clone()));
    let empty = std::sync::Arc::new(rustls::sign::CertifiedKey::new(Vec::new(), other.key.clone()));
    for certificate in [mixed, empty] {
        assert!(TlsClient::new(authority.server_verifier(), certificate.clone()).is_err());
        assert!(TlsServer::new(authority.client_verifier(), certificate).is_err());
    }
    let anybody = rustls::server::WebPkiClientVerifier::no_client_auth();
    assert!(TlsServer::new(anybody, key).is_err());
}
