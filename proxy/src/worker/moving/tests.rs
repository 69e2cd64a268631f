use std::io::Write;
use std::time::Duration;

use crate::worker::Taken;
use crate::worker::bench::{Application, Bench, Heard, LOCAL, Peer, hear, mesh, played};

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
fn a_plain_connection_moves() {
    played(|| {
        let mut bench = Bench::new(2, &mesh(LOCAL));
        let application = Application::new();
        let mut client = bench.plain(application.address);
        let mut far = bench.until("accept", |_| application.accept());
        bench.until("a pair", |bench| (bench.workers[0].pairs.len() == 1).then_some(()));
        let frozen = bench.frozen();
        // Bytes and an end that come while nobody looks.
        client.write_all(b"request").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(matches!(bench.thaw(frozen), Ok(Taken::Running { .. })));
        let heard = bench.until("the request", |_| Some(hear(&far)).filter(|heard| *heard != Heard::Nothing));
        assert_eq!(heard, Heard::Bytes(b"request".to_vec()));
        bench.until("the end", |_| (hear(&far) == Heard::End).then_some(()));
        far.write_all(b"response").unwrap();
        let heard =
            bench.until("the response", |_| Some(hear(&client)).filter(|heard| *heard != Heard::Nothing));
        assert_eq!(heard, Heard::Bytes(b"response".to_vec()));
    });
}
