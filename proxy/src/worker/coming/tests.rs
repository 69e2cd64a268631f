use std::net::SocketAddr;

use super::*;
use crate::worker::bench::{Bench, Heard, LOCAL, hear, mesh, played};
use crate::worker::user::Stage;
use crate::worker::{Listening, Message};

/// Somebody in the mesh whom nobody can reach.
const PEER: &str =
    "{uid: db, namespace: shop, serviceAccount: db, workloadIps: [192.0.2.7], protocol: HBONE}";
const APPLICATION: &str = "192.0.2.7:80";

/// Workers, of which the last one expects the tunnel to [`PEER`].
fn expecting(workers: usize) -> (Bench, PoolKey) {
    let mut bench = Bench::new(workers, &mesh(&format!("{LOCAL}, {PEER}")));
    let (key, _gone) = want(&mut bench);
    let Stage::AwaitTunnel { key: pool_key, .. } = &bench.workers[0].users[key].stage else {
        panic!("a tunnel")
    };
    let pool_key = pool_key.clone();
    bench.workers[0].end_connections(None, &crate::worker::removing::removed());
    assert!(bench.shared.directory.keys().is_empty());
    bench.shared.directory.expect(pool_key.clone(), workers - 1);
    (bench, pool_key)
}

/// The first worker's user of the tunnel; its client.
fn want(bench: &mut Bench) -> (usize, std::net::TcpStream) {
    let application: SocketAddr = APPLICATION.parse().unwrap();
    bench.user(Listening::Outbound, application)
}

fn dials(bench: &Bench) -> usize {
    bench.workers.iter().map(|worker| worker.dials.len()).sum()
}

/// As if so many ms had passed for the last worker.
fn pass(bench: &mut Bench, ms: u64) {
    let worker = bench.workers.last_mut().unwrap();
    worker.core.now += ms;
    while let Some(job) = worker.core.timers.pop(worker.core.now) {
        worker.timeout(job);
    }
}

#[test]
fn who_wants_what_comes_waits_at_its_worker_and_dials_when_it_has_not_come() {
    played(|| {
        let (mut bench, pool_key) = expecting(2);
        let clients = [want(&mut bench).1, want(&mut bench).1];
        bench.turn();
        assert_eq!(bench.workers.iter().map(|worker| worker.users.len()).collect::<Vec<_>>(), [0, 2]);
        assert_eq!((dials(&bench), bench.shared.directory.expected(&pool_key)), (0, Some(1)));
        // Only the word of the clock: the machine's own would let it pass at any time.
        let begun = bench.workers[1].coming.until[0].0 - COMING_MS;
        bench.workers[1].core.now = begun;
        pass(&mut bench, COMING_MS - 1);
        assert_eq!(dials(&bench), 0);
        pass(&mut bench, 1);
        assert_eq!((dials(&bench), bench.shared.directory.expected(&pool_key)), (1, None));
        assert!(bench.workers[1].coming.until.is_empty());
        drop(clients);
    });
}

#[test]
fn when_nothing_comes_those_who_wait_dial_at_once() {
    played(|| {
        let (mut bench, pool_key) = expecting(1);
        let _client = want(&mut bench);
        assert_eq!(dials(&bench), 0);
        bench.shared.directory.expect_nothing();
        bench.handles[0].post(Message::NothingComes);
        bench.turn();
        assert_eq!(dials(&bench), 1);
        assert_eq!(bench.shared.directory.keys(), [pool_key]);
        // Nobody waits twice.
        let _other = want(&mut bench);
        assert!(bench.workers[0].coming.until.is_empty());
    });
}

#[test]
fn who_waited_and_went_leaves_no_tunnel_dialled() {
    played(|| {
        let (mut bench, pool_key) = expecting(1);
        let (key, client) = want(&mut bench);
        bench.workers[0].fail_user(key, &crate::worker::removing::removed());
        assert_eq!(hear(&client), Heard::Reset);
        assert_eq!(bench.shared.directory.expected(&pool_key), Some(0), "it may still come");
        pass(&mut bench, COMING_MS);
        assert_eq!((dials(&bench), bench.shared.directory.expected(&pool_key)), (0, None));
    });
}

#[test]
fn who_waits_can_move_on() {
    played(|| {
        let (mut bench, pool_key) = expecting(1);
        let (_, _client) = want(&mut bench);
        // However slow the machine is.
        bench.workers[0].coming.until.clear();
        bench.workers[0].arm_coming();
        let frozen = bench.frozen();
        assert!(bench.workers[0].users.is_empty());
        assert_eq!(bench.shared.directory.expected(&pool_key), Some(0));
        // It is the same to whoever takes it, or takes it back.
        bench.thaw(frozen).unwrap();
        assert_eq!((bench.workers[0].users.len(), dials(&bench)), (1, 0));
        pass(&mut bench, COMING_MS);
        assert_eq!(dials(&bench), 1);
    });
}
