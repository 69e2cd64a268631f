use super::*;
use crate::worker::Message;
use crate::worker::bench::{Application, Bench, Heard, LOCAL, hear, mesh, played};

/// What was asked for since the last time.
fn asked(bench: &Bench) -> Vec<String> {
    std::mem::take(&mut *bench.asked.lock().unwrap())
}

/// Somebody whom the mesh in YAML may name; nobody listens there.
const SOMEBODY: &str = "192.0.2.7:80";

#[test]
fn a_destination_that_nobody_has_answered_for_is_asked_for_once_and_waited_for() {
    played(|| {
        let mut bench = Bench::new(1, &mesh(LOCAL));
        let application = Application::new();
        // An address of the mesh's network that isn't in the mesh.
        let unknown = application.address;
        bench.shared.store.update(|edit| edit.remove_address("local"));
        bench.apply(&mesh(&LOCAL.replace("127.0.0.1", "127.0.0.2")));
        let (key, _client) = bench.user(Listening::Outbound, unknown);
        assert_eq!(asked(&bench), ["/127.0.0.1"]);
        // Somebody else's answer.
        bench.shared.store.update(|edit| edit.answer("/127.0.0.3"));
        bench.recheck();
        bench.turn();
        bench.turn();
        assert_eq!(asked(&bench), [""; 0]);
        assert!(matches!(bench.workers[0].users[key].stage, Stage::AwaitAnswer { .. }));
        assert!(application.accept().is_none());
        // There is nothing: out in plain text, as stock.
        bench.shared.store.update(|edit| edit.answer("/127.0.0.1"));
        bench.recheck();
        bench.until("accept", |_| application.accept());
        assert_eq!(asked(&bench), [""; 0]);
    });
}

#[test]
fn an_answer_decides_where_it_goes() {
    played(|| {
        let mut bench = Bench::new(1, &mesh(LOCAL));
        let (key, _client) = bench.user(Listening::Outbound, SOMEBODY.parse().unwrap());
        assert_eq!(asked(&bench), ["/192.0.2.7"]);
        bench.change(&mesh("{uid: db, namespace: shop, workloadIps: [192.0.2.7], protocol: HBONE}"));
        bench.turn();
        bench.turn();
        assert!(matches!(bench.workers[0].users[key].stage, Stage::AwaitTunnel { .. }));
    });
}

#[test]
fn without_an_answer_in_time_it_is_refused() {
    let lines = played(|| {
        let mut bench = Bench::new(1, &mesh(LOCAL));
        let (key, client) = bench.user(Listening::Outbound, SOMEBODY.parse().unwrap());
        bench.workers[0].users[key].deadline = bench.workers[0].core.now;
        bench.workers[0].user_timeout(key);
        assert_eq!(hear(&client), Heard::Reset);
    });
    assert_eq!(lines.len(), 1, "{lines:?}");
    let reason = "timed out: the control plane did not answer for the destination";
    assert!(lines[0].contains(reason) && lines[0].contains(SOMEBODY), "{lines:?}");
}

#[test]
fn what_is_known_is_not_asked_for() {
    played(|| {
        let mut bench = Bench::new(
            1,
            "{workloads: [
                {uid: local, name: local, namespace: shop, serviceAccount: local, workloadIps: [127.0.0.1]},
                {uid: db, namespace: shop, workloadIps: [192.0.2.7], protocol: HBONE}
            ], services: [{namespace: shop, hostname: db, vips: [/192.0.2.8], ports: {80: 80}}]}",
        );
        for (listener, destination) in [
            (Listening::Outbound, SOMEBODY),
            (Listening::Outbound, "192.0.2.8:80"),
            (Listening::Outbound, "[::ffff:192.0.2.7]:80"),
            // The destination of an inbound connection is the local workload, whatever its address.
            (Listening::Passthrough, "127.0.0.9:80"),
        ] {
            bench.user(listener, destination.parse().unwrap());
            assert_eq!(asked(&bench), [""; 0], "{destination}");
        }
    });
}

#[test]
fn a_workload_that_comes_late_wakes_those_who_wait_for_it() {
    played(|| {
        let mut bench = Bench::new(1, "{}");
        let application = Application::new();
        let (key, _client) = bench.user(Listening::Passthrough, application.address);
        assert!(matches!(bench.workers[0].users[key].stage, Stage::AwaitWorkload { .. }));
        bench.apply(&mesh(LOCAL));
        // Not by its timer.
        let worker = &mut bench.workers[0];
        worker.core.timers.set(Job::User(key), &mut worker.users[key].armed, None);
        bench.handles[0].post(Message::Recheck);
        bench.until("accept", |_| application.accept());
    });
}
