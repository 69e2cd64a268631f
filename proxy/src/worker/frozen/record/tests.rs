use super::*;
use crate::worker::FrozenConnection;
use crate::worker::bench::{Application, Bench, LOCAL, mesh, played};

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
                let checksum = crc32fast::hash(&record[CHECKSUM..]);
                record[..CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
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
            let sealed = [&crc32fast::hash(&bytes).to_be_bytes()[..], &bytes].concat();
            bench.prepare(&sealed, copies(&connection)).unwrap();
        }
    });
}
