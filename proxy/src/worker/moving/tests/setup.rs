//! Connections that move before their bytes flow.

use std::io::Write;
use std::net::TcpStream;

use crate::worker::bench::{Application, Bench, Heard, LOCAL, hear, mesh, played};
use crate::worker::user::Stage;
use crate::worker::{FrozenKind, Listening, Message, Taken};

/// Workers of a workload that isn't at 127.0.0.1, of which nothing is known.
fn bench(workers: usize) -> Bench {
    Bench::new(workers, &mesh(&LOCAL.replace("127.0.0.1", "127.0.0.2")))
}

fn asked(bench: &Bench) -> Vec<String> {
    std::mem::take(&mut *bench.asked.lock().unwrap())
}

/// Takes the one user of the first worker out of it and gives it back.
fn back_and_forth(bench: &mut Bench) {
    let (frozen, kept) = bench.give(1, 2, false).pop().unwrap();
    assert_eq!(frozen.kind, FrozenKind::Setup);
    assert!(bench.workers[0].users.is_empty());
    bench.handles[0].post(Message::TakeBack(Box::new(frozen), kept));
    bench.turn();
}

#[test]
fn a_socks_client_may_be_moved_between_any_two_bytes() {
    played(|| {
        let mut bench = bench(1);
        let application = Application::new();
        bench.shared.store.update(|edit| edit.answer("/127.0.0.1"));
        let mut client = bench.greeting();
        let port = application.address.port().to_be_bytes();
        let said = [5, 1, 0, 5, 1, 0, 1, 127, 0, 0, 1, port[0], port[1]];
        let mut replies = Vec::new();
        for (n, byte) in said.into_iter().enumerate() {
            client.write_all(&[byte]).unwrap();
            bench.turn();
            bench.turn();
            if n + 1 < said.len() {
                assert!(matches!(
                    bench.workers[0].users.iter().next().unwrap().1.stage,
                    Stage::Greeting { .. }
                ));
                back_and_forth(&mut bench);
            }
            if let Heard::Bytes(bytes) = hear(&client) {
                replies.extend(bytes);
            }
        }
        let mut far = bench.until("accept", |_| application.accept());
        far.write_all(b"hello").unwrap();
        bench.until("the greeting", |_| {
            if let Heard::Bytes(bytes) = hear(&client) {
                replies.extend(bytes);
            }
            replies.ends_with(b"hello").then_some(())
        });
        assert_eq!(replies, [&[5, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], b"hello"].concat());
    });
}

#[test]
fn one_that_waits_for_the_control_plane_has_it_asked_again_elsewhere() {
    played(|| {
        let mut bench = bench(2);
        let application = Application::new();
        let (key, _client) = bench.user(Listening::Outbound, application.address);
        assert!(matches!(bench.workers[0].users[key].stage, Stage::AwaitAnswer { .. }));
        assert_eq!(asked(&bench), ["/127.0.0.1"]);
        back_and_forth(&mut bench);
        assert_eq!(asked(&bench), [""; 0], "this process knows that it has asked");
        let frozen = bench.frozen();
        assert!(matches!(bench.thaw(frozen), Ok(Taken::Running { .. })));
        assert_eq!(asked(&bench), ["/127.0.0.1"], "the other one doesn't");
        bench.shared.store.update(|edit| edit.answer("/127.0.0.1"));
        bench.recheck();
        bench.until("accept", |_| application.accept());
    });
}

#[test]
fn one_whose_workload_is_unknown_waits_on_with_what_is_left_of_its_time() {
    played(|| {
        let mut bench = bench(2);
        bench.shared.store.update(|edit| edit.remove_address("local"));
        let application = Application::new();
        let (key, _client) = bench.user(Listening::Passthrough, application.address);
        bench.workers[0].users[key].deadline = bench.workers[0].core.now + 2_000;
        let deadline = bench.workers[0].users[key].deadline;
        let frozen = bench.frozen();
        bench.thaw(frozen).unwrap();
        let user = bench.workers[1].users.iter().next().unwrap().1;
        assert!(matches!(user.stage, Stage::AwaitWorkload { .. }));
        assert!(user.deadline.abs_diff(deadline) < 1_000, "{} {deadline}", user.deadline);
        bench.change(&mesh(&LOCAL.replace("127.0.0.1", "127.0.0.2")));
        bench.until("accept", |_| application.accept());
    });
}

#[test]
fn one_that_is_being_connected_takes_both_sockets_along() {
    played(|| {
        let mut bench = Bench::new(2, &mesh(LOCAL));
        let application = Application::stuck();
        let client = bench.plain(application.address);
        bench.until("it connects", |bench| {
            let mut users = bench.workers[0].users.iter();
            users.next().filter(|(_, user)| matches!(user.stage, Stage::Connecting { .. })).map(|_| ())
        });
        assert!(bench.give(1, 1, false).is_empty(), "two descriptors are needed");
        let frozen = bench.frozen();
        assert_eq!(frozen.sockets.len(), 2);
        bench.thaw(frozen).unwrap();
        let user = bench.workers[1].users.iter().next().unwrap().1;
        assert!(matches!(user.stage, Stage::Connecting { .. }));
        assert_eq!(hear(&client), Heard::Nothing);
    });
}

#[test]
fn one_that_waits_for_a_tunnel_leaves_the_queue_and_stands_in_the_next() {
    played(|| {
        let mut bench = bench(1);
        bench.apply(&mesh("{uid: db, namespace: shop, workloadIps: [192.0.2.7], protocol: HBONE}"));
        let (_, client) = bench.user(Listening::Outbound, "192.0.2.7:80".parse().unwrap());
        assert!(matches!(bench.workers[0].users.iter().next().unwrap().1.stage, Stage::AwaitTunnel { .. }));
        back_and_forth(&mut bench);
        let (key, user) = bench.workers[0].users.iter().next().unwrap();
        let Stage::AwaitTunnel { key: pool_key, .. } = &user.stage else { panic!("it doesn't wait") };
        let (key, pool_key) = (key, pool_key.clone());
        assert_eq!(bench.workers[0].pool.entry(&pool_key).waiting, [key]);
        assert_eq!(hear(&client), Heard::Nothing);
    });
}

#[test]
fn a_peer_that_nobody_has_listened_to_yet_is_listened_to_elsewhere() {
    played(|| {
        let mut bench = Bench::new(2, &mesh(LOCAL));
        bench.shared.store.update(|edit| edit.remove_address("local"));
        let peer: TcpStream = bench.knock();
        bench.turn();
        assert_eq!(bench.workers[0].dials.len(), 1);
        let frozen = bench.frozen();
        assert_eq!(frozen.kind, FrozenKind::Setup);
        bench.thaw(frozen).unwrap();
        assert_eq!(bench.workers[1].dials.len(), 1);
        bench.change(&mesh(LOCAL));
        // What it says is no handshake: it is told so, by who reads it.
        (&peer).write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        bench.until("an alert", |_| {
            matches!(hear(&peer), Heard::Bytes(alert) if alert[0] == 21).then_some(())
        });
    });
}
