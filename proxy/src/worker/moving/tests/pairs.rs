//! Plain connections that are frozen when it is least convenient.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};

use crate::worker::bench::{Application, Bench, Heard, LOCAL, hear, mesh, played};
use crate::worker::{FrozenKind, Message, MoveError, Taken};

/// A plain connection of the first worker: the client's end and the application's.
fn pair(bench: &mut Bench) -> (TcpStream, TcpStream) {
    let before = bench.workers[0].pairs.len();
    let application = Application::new();
    let client = bench.plain(application.address);
    let far = bench.until("accept", |_| application.accept());
    bench.until("a pair", |bench| (bench.workers[0].pairs.len() > before).then_some(()));
    (client, far)
}

fn heard(bench: &mut Bench, socket: &TcpStream) -> Heard {
    bench.until("something", |_| Some(hear(socket)).filter(|heard| *heard != Heard::Nothing))
}

/// Byte number `n` of a direction.
fn pattern(n: usize) -> u8 {
    (n % 251) as u8
}

/// Writes until nothing more is taken, however often the workers turn; how many bytes that was.
fn flood(bench: &mut Bench, mut socket: &TcpStream) -> usize {
    let (mut sent, mut refused) = (0, 0);
    while refused < 20 {
        let chunk: Vec<u8> = (sent..sent + 64 * 1024).map(pattern).collect();
        match socket.write(&chunk) {
            Ok(n) => (sent, refused) = (sent + n, 0),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                refused += 1;
            }
        }
        bench.turn();
    }
    sent
}

fn assert_whole(bench: &mut Bench, mut socket: &TcpStream, sent: usize) {
    let mut got = Vec::with_capacity(sent);
    bench.until("all bytes", |_| {
        let mut chunk = [0; 64 * 1024];
        while let Ok(n) = socket.read(&mut chunk) {
            if n == 0 {
                break;
            }
            got.extend_from_slice(&chunk[..n]);
        }
        (got.len() >= sent).then_some(())
    });
    assert_eq!(got.len(), sent);
    assert!(got.iter().enumerate().all(|(n, byte)| *byte == pattern(n)));
}

#[test]
fn what_nobody_has_taken_yet_travels_along() {
    played(|| {
        let mut bench = Bench::new(2, &mesh(LOCAL));
        let (client, far) = pair(&mut bench);
        let (up, down) = (flood(&mut bench, &client), flood(&mut bench, &far));
        client.shutdown(Shutdown::Write).unwrap();
        bench.turn();
        let frozen = bench.frozen();
        assert_eq!(frozen.kind, FrozenKind::Plain);
        assert!(frozen.record.len() > 1024, "nothing was pending: {} bytes", frozen.record.len());
        assert!(matches!(bench.thaw(frozen), Ok(Taken::Running { .. })));
        assert_whole(&mut bench, &far, up);
        assert_whole(&mut bench, &client, down);
        assert_eq!(heard(&mut bench, &far), Heard::End);
        assert_eq!(hear(&client), Heard::Nothing, "the other direction is open");
    });
}

#[test]
fn a_half_that_is_closed_stays_closed_and_the_other_open() {
    played(|| {
        for closes_first in [0, 1] {
            let mut bench = Bench::new(2, &mesh(LOCAL));
            let (client, far) = pair(&mut bench);
            let ends = if closes_first == 0 { [client, far] } else { [far, client] };
            ends[0].shutdown(Shutdown::Write).unwrap();
            assert_eq!(heard(&mut bench, &ends[1]), Heard::End);
            let frozen = bench.frozen();
            assert!(matches!(bench.thaw(frozen), Ok(Taken::Running { .. })));
            (&ends[1]).write_all(b"answer").unwrap();
            assert_eq!(heard(&mut bench, &ends[0]), Heard::Bytes(b"answer".to_vec()));
            ends[1].shutdown(Shutdown::Write).unwrap();
            assert_eq!(heard(&mut bench, &ends[0]), Heard::End);
            bench.until("it is over", |bench| bench.workers[1].pairs.is_empty().then_some(()));
        }
    });
}

#[test]
fn bytes_and_an_end_that_come_while_it_is_frozen_are_found() {
    played(|| {
        let mut bench = Bench::new(2, &mesh(LOCAL));
        let (mut client, mut far) = pair(&mut bench);
        let frozen = bench.frozen();
        client.write_all(b"request").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert!(matches!(bench.thaw(frozen), Ok(Taken::Running { .. })));
        assert_eq!(heard(&mut bench, &far), Heard::Bytes(b"request".to_vec()));
        assert_eq!(heard(&mut bench, &far), Heard::End);
        far.write_all(b"response").unwrap();
        assert_eq!(heard(&mut bench, &client), Heard::Bytes(b"response".to_vec()));
    });
}

#[test]
fn a_reset_that_comes_while_it_is_frozen_goes_through() {
    played(|| {
        for resets in [0, 1] {
            let mut bench = Bench::new(2, &mesh(LOCAL));
            let (client, far) = pair(&mut bench);
            let [gone, left] = if resets == 0 { [client, far] } else { [far, client] };
            let frozen = bench.frozen();
            crate::socket::abort(&gone);
            drop(gone);
            // Its addresses have changed with it; it is still the same socket.
            bench.thaw(frozen).unwrap();
            assert_eq!(heard(&mut bench, &left), Heard::Reset);
            assert!(bench.workers[1].pairs.is_empty());
        }
    });
}

#[test]
fn what_is_taken_back_is_as_it_was() {
    let lines = played(|| {
        let mut bench = Bench::new(1, &mesh(LOCAL));
        let (mut client, mut far) = pair(&mut bench);
        client.write_all(b"before").unwrap();
        assert_eq!(heard(&mut bench, &far), Heard::Bytes(b"before".to_vec()));
        let (frozen, kept) = bench.give(1, 2, false).pop().unwrap();
        assert_eq!(bench.shared.registry.len(), 1, "it is still ours");
        far.write_all(b"meanwhile").unwrap();
        // Somebody has looked at it, and said no.
        let copies = frozen.sockets.iter().map(|socket| socket.try_clone().unwrap()).collect();
        drop(bench.prepare(&frozen.record, copies).unwrap());
        bench.handles[0].post(Message::TakeBack(Box::new(frozen), kept));
        assert_eq!(heard(&mut bench, &client), Heard::Bytes(b"meanwhile".to_vec()));
        assert_eq!(bench.shared.registry.len(), 1);
        client.shutdown(Shutdown::Write).unwrap();
        far.shutdown(Shutdown::Write).unwrap();
        bench.until("it is over", |bench| bench.shared.registry.is_empty().then_some(()));
        let text = bench.shared.telemetry.exposition();
        for family in ["opened", "closed"] {
            let name = format!("istio_tcp_connections_{family}_total{{");
            let counted = text.lines().filter(|line| line.starts_with(&name) && line.ends_with(" 1"));
            assert_eq!(counted.count(), 1, "{text}");
        }
    });
    let access: Vec<_> = lines.iter().filter(|line| line.contains("connection complete")).collect();
    assert_eq!(access.len(), 1, "{lines:?}");
    assert!(access[0].contains("bytes_sent=9 bytes_recv=6"), "{access:?}");
}

#[test]
fn what_policy_lets_in_no_more_ends_when_it_arrives() {
    played(|| {
        let mut bench = Bench::new(2, &mesh(LOCAL));
        let (client, far) = pair(&mut bench);
        let port = far.local_addr().unwrap().port();
        let frozen = bench.frozen();
        bench.change(&format!(
            "policies: [{{name: no, namespace: shop, scope: Namespace, action: Deny, \
             rules: [[[{{destinationPorts: [{port}]}}]]]}}]"
        ));
        bench.settle();
        assert_eq!(hear(&client), Heard::Nothing);
        assert!(matches!(bench.thaw(frozen), Ok(Taken::Ended)));
        assert_eq!([hear(&client), hear(&far)], [Heard::Reset, Heard::Reset]);
    });
}

#[test]
fn another_connections_sockets_are_refused() {
    played(|| {
        let mut bench = Bench::new(1, &mesh(LOCAL));
        let (_client, _far) = pair(&mut bench);
        let (_other_client, _other_far) = pair(&mut bench);
        let [(one, _one), (other, _other)] = <[_; 2]>::try_from(bench.give(2, 4, false)).ok().unwrap();
        let copies =
            |order: [&std::os::fd::OwnedFd; 2]| order.map(|socket| socket.try_clone().unwrap()).into();
        let wrong = bench.prepare(&one.record, copies([&one.sockets[0], &other.sockets[1]]));
        assert!(matches!(wrong, Err(MoveError::WrongSocket(1))));
        let swapped = bench.prepare(&one.record, copies([&one.sockets[1], &one.sockets[0]]));
        assert!(matches!(swapped, Err(MoveError::WrongSocket(0))));
        let few = bench.prepare(&one.record, vec![one.sockets[0].try_clone().unwrap()]);
        assert!(matches!(few, Err(MoveError::Sockets { expected: 2, got: 1 })));
        bench.prepare(&one.record, copies([&one.sockets[0], &one.sockets[1]])).unwrap();
    });
}
