use super::*;
use std::net::TcpStream;

use crate::worker::bench::{Application, Bench, LOCAL, Peer, hear, mesh, played};
use crate::worker::{FrozenConnection, Listening};

/// A tunnel with an open stream, a plain pair and a SOCKS5 client, frozen.
fn frozen(bench: &mut Bench) -> Vec<FrozenConnection> {
    let application = Application::new();
    let mut peer = bench.tunnel();
    peer.connect(application.address);
    let _stream = bench.until("the stream", |_| {
        peer.exchange();
        application.accept()
    });
    let _client = bench.plain(application.address);
    let _far = bench.until("the pair", |_| application.accept());
    bench.until("the pair", |bench| (bench.workers[0].pairs.len() == 1).then_some(()));
    let _greeting = bench.greeting();
    let given = bench.give(usize::MAX, usize::MAX, false);
    assert_eq!(given.len(), 3);
    let connections = given.into_iter().map(|(connection, kept)| {
        kept.released();
        connection
    });
    connections.collect()
}

fn copies(connection: &FrozenConnection) -> Vec<OwnedFd> {
    connection.sockets.iter().map(|socket| socket.try_clone().unwrap()).collect()
}

/// With the checksum that fits.
fn sealed(bytes: &[u8]) -> Vec<u8> {
    [&crc32fast::hash(bytes).to_be_bytes()[..], bytes].concat()
}

#[test]
fn no_flipped_bit_and_no_missing_end_goes_unnoticed() {
    played(|| {
        let mut bench = Bench::new(1, &mesh(LOCAL));
        for connection in frozen(&mut bench) {
            bench.prepare(&connection.record, copies(&connection)).unwrap();
            let mut record = connection.record.clone();
            for bit in 0..record.len() * 8 {
                record[bit / 8] ^= 1 << (bit % 8);
                let refused = bench.prepare(&record, Vec::new());
                assert!(matches!(refused, Err(MoveError::Damaged)), "bit {bit}: {refused:?}");
                record[bit / 8] ^= 1 << (bit % 8);
            }
            for length in 0..record.len() {
                let refused = bench.prepare(&record[..length], Vec::new());
                assert!(matches!(refused, Err(MoveError::Damaged)), "{length} bytes: {refused:?}");
            }
        }
    });
}

#[test]
fn nonsense_with_a_good_checksum_never_panics() {
    played(|| {
        let mut bench = Bench::new(1, &mesh(LOCAL));
        let mut random = fastrand::Rng::with_seed(7);
        for connection in frozen(&mut bench) {
            let mut refused = 0;
            for _ in 0..2_000 {
                let mut record = connection.record.clone();
                for _ in 0..random.usize(1..4) {
                    let at = random.usize(CHECKSUM..record.len());
                    record[at] = random.u8(..);
                }
                record.truncate(random.usize(CHECKSUM..=record.len() * 2).min(record.len()));
                let record = sealed(&record[CHECKSUM..]);
                refused += u32::from(bench.prepare(&record, copies(&connection)).is_err());
            }
            assert!(refused > 100, "{refused}");
        }
    });
}

#[test]
fn a_reader_refuses_what_it_does_not_know() {
    played(|| {
        let mut bench = Bench::new(1, &mesh(LOCAL));
        for connection in frozen(&mut bench) {
            let record = ConnectionRecord::open(&connection.record).unwrap();
            let newer = ConnectionRecord { version: 2, ..record.clone() };
            let refused = bench.prepare(&newer.seal(), copies(&connection));
            assert!(matches!(refused, Err(MoveError::Version(2))), "{refused:?}");
            let features = vec!["teleport".to_owned()];
            let needs = ConnectionRecord { features, ..record.clone() };
            let refused = bench.prepare(&needs.seal(), copies(&connection));
            assert!(matches!(&refused, Err(MoveError::Feature(name)) if name == "teleport"), "{refused:?}");
            let unknown = ConnectionRecord { body: None, ..record.clone() };
            assert!(matches!(bench.prepare(&unknown.seal(), copies(&connection)), Err(MoveError::Record(_))));
            // A field that nobody must understand.
            let mut bytes = record.seal().split_off(CHECKSUM);
            bytes.extend_from_slice(&[0xF8, 0x06, 1]);
            bench.prepare(&sealed(&bytes), copies(&connection)).unwrap();
        }
    });
}

/// What is at the other ends of a connection. It answers, as far as it understands.
#[derive(Default)]
struct Outside {
    peer: Option<Peer>,
    sockets: Vec<TcpStream>,
}

impl Outside {
    fn turn(&mut self) {
        // The wrong field may have it sent anything, and sockets may be gone.
        self.peer.iter_mut().filter(|peer| !peer.ended).for_each(|peer| drop(peer.exchange()));
        self.sockets.iter().for_each(|socket| drop(hear(socket)));
    }
}

/// Sets every field of a record wrong. Each record that is accepted runs on sockets of its own, goes on, and can be frozen again. The
/// numbers of those that were refused and accepted.
fn set_every_field_wrong(
    bench: &mut Bench,
    mut make: impl FnMut(&mut Bench) -> (FrozenConnection, Outside),
) -> (usize, usize) {
    let (mut next, mut refused, mut accepted) = (0, 0, 0);
    loop {
        let (connection, mut outside) = make(bench);
        let all = damage::every(&connection.record[CHECKSUM..]);
        let prepared = all.iter().skip(next).find_map(|damaged| {
            next += 1;
            let prepared = bench.prepare(&sealed(&damaged.bytes), copies(&connection));
            refused += usize::from(prepared.is_err());
            Some((&damaged.what, prepared.ok()?))
        });
        let Some((what, prepared)) = prepared else { return (refused, accepted) };
        accepted += 1;
        let news = bench.take(prepared, connection.secrets);
        drop(connection.sockets);
        let taken = bench.until("it runs", |_| {
            outside.turn();
            news.taken.try_recv().ok()
        });
        assert!(taken.is_ok(), "{what}: {taken:?}, which should have been known before");
        for _ in 0..3 {
            bench.turn();
            outside.turn();
        }
        for (connection, kept) in bench.give(usize::MAX, usize::MAX, false) {
            kept.released();
            let again = bench.prepare(&connection.record, connection.sockets);
            assert!(again.is_ok(), "{what}: accepted, but not as it froze again: {again:?}");
        }
        drop(outside);
        bench.until("it is over", |bench| {
            drop(bench.give(usize::MAX, usize::MAX, false));
            bench.shared.registry.is_empty().then_some(())
        });
    }
}

#[test]
fn a_tunnel_with_one_wrong_field_is_refused_or_lived_with() {
    played(|| {
        let mut bench = Bench::new(1, &mesh(LOCAL));
        let application = Application::new();
        let (refused, accepted) = set_every_field_wrong(&mut bench, |bench| {
            let mut peer = bench.tunnel();
            peer.connect(application.address);
            let stream = bench.until("the stream", |_| {
                peer.exchange();
                application.accept()
            });
            (bench.frozen(), Outside { peer: Some(peer), sockets: vec![stream] })
        });
        assert!(refused > 100 && accepted > 50, "{refused} refused, {accepted} accepted");
    });
}

#[test]
fn a_plain_connection_with_one_wrong_field_is_refused_or_lived_with() {
    played(|| {
        let mut bench = Bench::new(1, &mesh(LOCAL));
        let application = Application::new();
        let (refused, accepted) = set_every_field_wrong(&mut bench, |bench| {
            let client = bench.plain(application.address);
            let far = bench.until("the pair", |_| application.accept());
            bench.until("the pair", |bench| (bench.workers[0].pairs.len() == 1).then_some(()));
            (bench.frozen(), Outside { sockets: vec![client, far], ..Outside::default() })
        });
        assert!(refused > 100 && accepted > 50, "{refused} refused, {accepted} accepted");
    });
}

#[test]
fn a_connection_on_its_way_up_with_one_wrong_field_is_refused_or_lived_with() {
    type Begin = fn(&mut Bench, &Application) -> TcpStream;
    let begins: [(&str, Begin); 4] = [
        ("a SOCKS5 client", |bench, _| bench.greeting()),
        ("one that is asked about", |bench, _| {
            bench.user(Listening::Outbound, ([127, 0, 0, 9], 80).into()).1
        }),
        ("one that is being connected", |bench, stuck| bench.plain(stuck.address)),
        ("a peer that has not been heard yet", |bench, _| bench.knock()),
    ];
    played(|| {
        let mut bench = Bench::new(1, &mesh(LOCAL));
        let stuck = Application::stuck();
        for (name, begin) in begins {
            let (refused, accepted) = set_every_field_wrong(&mut bench, |bench| {
                let client = begin(bench, &stuck);
                (bench.frozen(), Outside { sockets: vec![client], ..Outside::default() })
            });
            assert!(refused > 50 && accepted > 20, "{name}: {refused} refused, {accepted} accepted");
        }
    });
}
