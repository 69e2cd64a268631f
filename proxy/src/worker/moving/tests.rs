mod listeners;
mod pairs;
mod setup;

use std::time::Duration;

use crate::worker::bench::{Application, Bench, Heard, LOCAL, Peer, hear, mesh, played};
use crate::worker::{Message, MoveError, Taken};

/// A peer's tunnel that the first worker has.
fn tunnel(bench: &mut Bench) -> Peer {
    let before = bench.workers[0].tunnels.len();
    let mut peer = bench.tunnel();
    bench.until("the tunnel is up", |bench| {
        peer.exchange();
        (bench.workers[0].tunnels.len() > before).then_some(())
    });
    peer
}

#[test]
fn a_tunnel_that_was_taken_says_when_it_runs_and_proves_that_its_peer_answers() {
    played(|| {
        let mut bench = Bench::new(2, &mesh(LOCAL));
        let mut peer = tunnel(&mut bench);
        let frozen = bench.frozen();
        let prepared = bench.prepare(&frozen.record, frozen.sockets).unwrap();
        let news = bench.take(prepared, frozen.secrets);
        let taken = bench.until("it runs", |_| news.taken.try_recv().ok());
        assert!(matches!(taken, Ok(Taken::Running { pause }) if pause < Duration::from_secs(10)));
        assert!(news.proved.try_recv().is_err(), "nobody has answered yet");
        let proved = bench.until("the answer", |_| {
            peer.exchange();
            news.proved.try_recv().ok()
        });
        assert_eq!(proved, Ok(()));
        assert!(news.taken.try_recv().is_err(), "it was said twice");
    });
}

#[test]
fn a_tunnel_that_ends_before_its_peer_has_answered_proves_nothing() {
    played(|| {
        let mut bench = Bench::new(2, &mesh(LOCAL));
        let peer = tunnel(&mut bench);
        let frozen = bench.frozen();
        let prepared = bench.prepare(&frozen.record, frozen.sockets).unwrap();
        let news = bench.take(prepared, frozen.secrets);
        drop(peer);
        assert!(bench.until("news", |_| news.proved.try_recv().ok()).is_err());
    });
}

#[test]
fn it_counts_what_could_be_moved_and_says_what_could_not() {
    played(|| {
        let mut bench = Bench::new(1, &mesh(LOCAL));
        let _peer = tunnel(&mut bench);
        let _handshake = bench.knock();
        bench.turn();
        let counts = bench.workers[0].count_connections();
        assert_eq!((counts.tunnels, counts.streams, counts.plain, counts.setup), (1, 0, 0, 0));
        assert_eq!(counts.unmovable.into_iter().collect::<Vec<_>>(), [("its handshake is under way", 1)]);
    });
}

#[test]
fn a_connection_that_has_just_arrived_stays_until_it_has_proved_itself() {
    played(|| {
        let mut bench = Bench::new(1, &mesh(LOCAL));
        let mut peer = tunnel(&mut bench);
        let frozen = bench.frozen();
        let prepared = bench.prepare(&frozen.record, frozen.sockets).unwrap();
        let news = bench.take(prepared, frozen.secrets);
        bench.until("it runs", |_| news.taken.try_recv().ok()).unwrap();
        assert!(bench.give(usize::MAX, usize::MAX, false).is_empty());
        bench
            .until("the answer", |_| {
                peer.exchange();
                news.proved.try_recv().ok()
            })
            .unwrap();
        assert_eq!(bench.give(usize::MAX, usize::MAX, true).len(), 1);
    });
}

#[test]
fn a_tunnel_that_is_taken_back_goes_on_with_its_streams() {
    let lines = played(|| {
        let mut bench = Bench::new(1, &mesh(LOCAL));
        let application = Application::new();
        let mut peer = tunnel(&mut bench);
        let id = peer.connect(application.address);
        let socket = bench.until("accept", |_| {
            peer.exchange();
            application.accept()
        });
        for said in [&b"before"[..], b"after"] {
            peer.send(id, said);
            let heard =
                bench.until("bytes", |_| Some(hear(&socket)).filter(|heard| *heard != Heard::Nothing));
            assert_eq!(heard, Heard::Bytes(said.to_vec()));
            let (frozen, kept) = bench.give(1, 2, true).pop().unwrap();
            assert_eq!((frozen.streams, frozen.sockets.len()), (1, 2));
            assert_eq!(bench.shared.registry.len(), 2, "tunnel and stream are still ours");
            bench.handles[0].post(Message::TakeBack(Box::new(frozen), kept));
            bench.turn();
            assert_eq!(bench.shared.registry.len(), 2);
        }
        drop(peer);
        bench.until("it is over", |bench| bench.shared.registry.is_empty().then_some(()));
    });
    let access: Vec<_> = lines.iter().filter(|line| line.contains("connection complete")).collect();
    assert_eq!(access.len(), 1, "{lines:?}");
    assert!(access[0].contains("bytes_sent=0 bytes_recv=11"), "{access:?}");
}

#[test]
fn without_its_keys_a_tunnel_does_not_run() {
    played(|| {
        let mut bench = Bench::new(1, &mesh(LOCAL));
        let _peer = tunnel(&mut bench);
        let frozen = bench.frozen();
        let prepared = bench.prepare(&frozen.record, frozen.sockets).unwrap();
        let news = bench.take(prepared, None);
        let refused = bench.until("an answer", |_| news.taken.try_recv().ok());
        assert!(matches!(refused, Err(MoveError::Secrets)));
        assert!(news.proved.try_recv().unwrap().is_err());
    });
}
