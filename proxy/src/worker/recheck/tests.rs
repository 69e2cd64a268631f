use hbone::{ErrorCode, Event, StreamId};

use super::*;
use crate::worker::Message;
use crate::worker::bench::{Application, Bench, Heard, LOCAL, Peer, hear, mesh, played};

/// A policy that denies a port.
fn deny(port: u16) -> String {
    format!(
        "policies: [{{name: no-{port}, namespace: shop, scope: Namespace, action: Deny, \
         rules: [[[{{destinationPorts: [{port}]}}]]]}}]"
    )
}

const CHANGED: &str = "connection closed due to policy change: explicitly denied by: shop/no-";

/// A stream from the peer to the application, open in both directions.
fn open(bench: &mut Bench, peer: &mut Peer, application: &Application) -> (StreamId, std::net::TcpStream) {
    let id = peer.connect(application.address);
    bench.until("200", |_| {
        let events = peer.exchange();
        events.iter().find_map(|event| match event {
            Event::Response { stream, response } if *stream == id => {
                assert_eq!(response.status, 200);
                Some(())
            }
            _ => None,
        })
    });
    (id, bench.until("accept", |_| application.accept()))
}

/// The codes of the streams that were reset.
fn resets(events: &[Event]) -> Vec<(StreamId, ErrorCode)> {
    let reset = |event: &Event| match event {
        Event::Reset { stream, code, .. } => Some((*stream, *code)),
        _ => None,
    };
    events.iter().filter_map(reset).collect()
}

fn assert_talks(bench: &mut Bench, peer: &mut Peer, id: StreamId, socket: &std::net::TcpStream) {
    peer.send(id, b"still here");
    let heard = bench.until("bytes", |_| Some(hear(socket)).filter(|heard| *heard != Heard::Nothing));
    assert_eq!(heard, Heard::Bytes(b"still here".to_vec()));
}

#[test]
fn a_new_policy_ends_the_one_stream_and_the_other_goes_on() {
    let lines = played(|| {
        let mut bench = Bench::new(1, &mesh(LOCAL));
        let applications = [Application::new(), Application::new()];
        let mut peer = bench.tunnel();
        let [denied, allowed] = applications.each_ref().map(|app| open(&mut bench, &mut peer, app));
        bench.change(&deny(applications[0].address.port()));
        let ended = bench.until("a reset", |_| Some(resets(&peer.exchange())).filter(|r| !r.is_empty()));
        assert_eq!(ended, [(denied.0, ErrorCode::CANCEL)]);
        assert_eq!(hear(&denied.1), Heard::Reset);
        assert_talks(&mut bench, &mut peer, allowed.0, &allowed.1);
        let text = bench.shared.telemetry.exposition();
        let closed = text
            .lines()
            .find(|line| line.starts_with("istio_tcp_connections_closed_total") && line.ends_with(" 1"));
        assert!(closed.unwrap().contains("response_flags=\"DENY\""), "{text}");
    });
    let closed: Vec<_> = lines.iter().filter(|line| line.contains(CHANGED)).collect();
    assert_eq!(closed.len(), 1, "{lines:?}");
}

#[test]
fn both_ends_of_a_plain_connection_are_reset() {
    played(|| {
        let mut bench = Bench::new(1, &mesh(LOCAL));
        let applications = [Application::new(), Application::new()];
        let [denied, allowed] = applications.each_ref().map(|app| {
            let client = bench.plain(app.address);
            (client, bench.until("accept", |_| app.accept()))
        });
        bench.until("pairs", |bench| (bench.workers[0].pairs.len() == 2).then_some(()));
        let before = bench.judged();
        bench.change(&deny(applications[0].address.port()));
        bench.settle();
        assert_eq!((hear(&denied.0), hear(&denied.1)), (Heard::Reset, Heard::Reset));
        assert_eq!((hear(&allowed.0), hear(&allowed.1)), (Heard::Nothing, Heard::Nothing));
        assert_eq!(bench.judged(), before + 2);
    });
}

#[test]
fn applications_that_are_still_being_connected_are_left() {
    played(|| {
        let mut bench = Bench::new(1, &mesh(LOCAL));
        let stuck = Application::stuck();
        let mut peer = bench.tunnel();
        let id = peer.connect(stuck.address);
        let client = bench.plain(stuck.address);
        bench.until("both connect", |bench| {
            let worker = &bench.workers[0];
            let streams: usize = worker.tunnels.iter().map(|(_, tunnel)| tunnel.streams()).sum();
            (streams == 1 && worker.users.len() == 1).then_some(())
        });
        bench.change(&deny(stuck.address.port()));
        let status = bench.until("an answer", |_| {
            peer.exchange().iter().find_map(|event| match event {
                Event::Response { stream, response } if *stream == id => Some(response.status),
                _ => None,
            })
        });
        assert_eq!(status, 401);
        assert_eq!(hear(&client), Heard::Reset);
    });
}

#[test]
fn what_was_on_its_way_is_judged_when_it_arrives() {
    played(|| {
        let mut bench = Bench::new(2, &mesh(LOCAL));
        let application = Application::new();
        let mut peer = bench.tunnel();
        let (id, socket) = open(&mut bench, &mut peer, &application);
        let (fresh, client) = bench.judged_plain(application.address);
        let policy = deny(application.address.port());
        bench.move_tunnel(|bench| {
            bench.change(&policy);
            bench.settle();
            assert_eq!(hear(&socket), Heard::Nothing);
        });
        let ended = bench.until("a reset", |_| Some(resets(&peer.exchange())).filter(|r| !r.is_empty()));
        assert_eq!(ended, [(id, ErrorCode::CANCEL)]);
        assert_eq!(hear(&socket), Heard::Reset);
        bench.handles[1].post(Message::Fresh(Box::new(fresh)));
        bench.turn();
        assert_eq!(hear(&client), Heard::Reset);
        assert!(application.accept().is_none(), "the application was bothered");
    });
}

#[test]
fn a_moved_tunnel_goes_on_if_it_may_and_is_still_judged() {
    played(|| {
        let mut bench = Bench::new(2, &mesh(LOCAL));
        let applications = [Application::new(), Application::new()];
        let mut peer = bench.tunnel();
        let [first, second] = applications.each_ref().map(|app| open(&mut bench, &mut peer, app));
        bench.move_tunnel(|_| {});
        assert_talks(&mut bench, &mut peer, first.0, &first.1);
        bench.change(&deny(applications[1].address.port()));
        let ended = bench.until("a reset", |_| Some(resets(&peer.exchange())).filter(|r| !r.is_empty()));
        assert_eq!(ended, [(second.0, ErrorCode::CANCEL)]);
        assert_talks(&mut bench, &mut peer, first.0, &first.1);
    });
}

#[test]
fn everything_ends_with_the_workload_and_begins_with_it_again() {
    let lines = played(|| {
        let mut bench = Bench::new(2, &mesh(LOCAL));
        let application = Application::new();
        let mut peer = bench.tunnel();
        let (_, socket) = open(&mut bench, &mut peer, &application);
        let client = bench.plain(application.address);
        let far = bench.until("accept", |_| application.accept());
        bench.until("a pair", |bench| (bench.workers[0].pairs.len() == 1).then_some(()));
        bench.shared.store.update(|edit| edit.remove_address("local"));
        bench.recheck();
        bench.until("the tunnel ends", |_| {
            peer.exchange();
            peer.ended.then_some(())
        });
        assert_eq!([hear(&socket), hear(&client), hear(&far)], [Heard::Reset, Heard::Reset, Heard::Reset]);
        bench.change(&mesh(LOCAL));
        let mut peer = bench.tunnel();
        let (_, socket) = open(&mut bench, &mut peer, &application);
        // What leaves with the workload gone, and arrives so, ends too.
        bench.move_tunnel(|bench| {
            bench.shared.store.update(|edit| edit.remove_address("local"));
            bench.recheck();
            bench.settle();
        });
        assert_eq!(hear(&socket), Heard::Reset);
    });
    let reason = "connection closed: the workload is no longer in the mesh";
    assert_eq!(lines.iter().filter(|line| line.contains(reason)).count(), 3, "{lines:?}");
}

#[test]
fn a_workload_that_nobody_has_named_yet_is_not_gone() {
    played(|| {
        let mut bench = Bench::new(2, &mesh(LOCAL));
        let application = Application::new();
        let mut peer = bench.tunnel();
        let (id, socket) = open(&mut bench, &mut peer, &application);
        // The second worker is that of a process that has just begun, and learns of the mesh piece by piece.
        bench.shared.store.update(xds::store::Edit::clear);
        bench.workers[1].recheck = Recheck::new(&bench.shared);
        bench.move_tunnel(|bench| {
            bench.apply("workloads: [{uid: other, namespace: shop, workloadIps: [10.0.0.1]}]");
            bench.handles[1].post(Message::Recheck);
            bench.turn();
        });
        assert_talks(&mut bench, &mut peer, id, &socket);
        bench.apply(&deny(application.address.port()));
        bench.handles[1].post(Message::Recheck);
        bench.turn();
        assert_talks(&mut bench, &mut peer, id, &socket);
        bench.apply(&mesh(LOCAL));
        bench.handles[1].post(Message::Recheck);
        bench.settle();
        assert_eq!(hear(&socket), Heard::Reset);
    });
}

#[test]
fn a_workload_that_leaves_before_its_coming_was_told_has_gone() {
    let lines = played(|| {
        let mut bench = Bench::new(1, "");
        for _ in 0..2 {
            bench.apply(&mesh(LOCAL));
            let application = Application::new();
            let mut peer = bench.tunnel();
            let (_, socket) = open(&mut bench, &mut peer, &application);
            bench.shared.store.update(|edit| edit.remove_address("local"));
            bench.recheck();
            bench.settle();
            assert_eq!(hear(&socket), Heard::Reset);
        }
    });
    let reason = "connection closed: the workload is no longer in the mesh";
    assert_eq!(lines.iter().filter(|line| line.contains(reason)).count(), 2, "{lines:?}");
}

#[test]
fn changes_of_others_cost_nothing() {
    played(|| {
        let mut bench = Bench::new(1, &mesh(LOCAL));
        let application = Application::new();
        let mut peer = bench.tunnel();
        for _ in 0..3 {
            open(&mut bench, &mut peer, &application);
        }
        for change in [
            "workloads: [{uid: other, namespace: shop, workloadIps: [10.0.0.1]}]",
            "services: [{namespace: shop, hostname: other, vips: [/10.1.0.1]}]",
        ] {
            bench.change(change);
            bench.settle();
            assert_eq!(bench.judged(), 0, "{change}");
        }
        bench.change(&deny(1));
        bench.settle();
        assert_eq!(bench.judged(), 3, "a policy");
        // The workload itself: it may name other policies now.
        bench.change(&mesh(LOCAL));
        bench.settle();
        assert_eq!(bench.judged(), 6, "the workload");
        bench.recheck();
        bench.settle();
        assert_eq!(bench.judged(), 6, "nothing");
    });
}

#[test]
fn a_policy_that_the_workload_names_later_is_applied() {
    played(|| {
        let mut bench = Bench::new(1, &mesh(LOCAL));
        let application = Application::new();
        let mut peer = bench.tunnel();
        let (_, socket) = open(&mut bench, &mut peer, &application);
        let policy = deny(application.address.port()).replace("Namespace", "WorkloadSelector");
        bench.change(&policy);
        bench.settle();
        assert_eq!(hear(&socket), Heard::Nothing);
        let named = format!("authorizationPolicies: [shop/no-{}], ", application.address.port());
        bench.change(&mesh(&LOCAL.replacen('{', &format!("{{{named}"), 1)));
        bench.settle();
        assert_eq!(hear(&socket), Heard::Reset);
    });
}

#[test]
fn dry_runs_are_not_told_again() {
    let lines = played(|| {
        let mut bench = Bench::new(1, &mesh(LOCAL));
        let application = Application::new();
        let mut peer = bench.tunnel();
        let (id, socket) = open(&mut bench, &mut peer, &application);
        bench.change(&deny(application.address.port()).replace("action:", "dryRun: true, action:"));
        bench.settle();
        assert_eq!(bench.judged(), 1);
        assert_talks(&mut bench, &mut peer, id, &socket);
    });
    assert!(!lines.iter().any(|line| line.contains("dry-run")), "{lines:?}");
}

#[test]
fn tunnels_of_another_identity_end() {
    played(|| {
        let mut bench = Bench::new(1, &mesh(LOCAL));
        let application = Application::new();
        let mut peer = bench.tunnel();
        let (_, socket) = open(&mut bench, &mut peer, &application);
        let client = bench.plain(application.address);
        bench.until("accept", |_| application.accept());
        bench.change(&mesh(&LOCAL.replacen('{', "{trustDomain: example.org, ", 1)));
        bench.until("the tunnel ends", |_| {
            peer.exchange();
            peer.ended.then_some(())
        });
        assert_eq!(hear(&socket), Heard::Reset);
        assert_eq!(hear(&client), Heard::Nothing, "a plain connection has no identity");
    });
}

#[test]
fn a_tunnel_that_waits_for_a_certificate_asks_for_that_of_the_new_identity() {
    played(|| {
        let of =
            |trust_domain: &str| mesh(&LOCAL.replacen('{', &format!("{{trustDomain: {trust_domain}, "), 1));
        let mut bench = Bench::new(1, &of("old.example"));
        let _peer = bench.knock();
        bench.turn();
        bench.change(&of("new.example"));
        let new = "spiffe://new.example/ns/shop/sa/local".parse().unwrap();
        bench.until("a certificate", |bench| {
            (!bench.shared.certificates.lookup(&new).is_pending()).then_some(())
        });
    });
}

#[test]
fn a_round_goes_in_slices_and_a_change_meanwhile_begins_another() {
    played(|| {
        let mut bench = Bench::new(1, &mesh(LOCAL));
        let application = Application::new();
        let client = bench.plain(application.address);
        let far = bench.until("accept", |_| application.accept());
        bench.until("a pair", |bench| (bench.workers[0].pairs.len() == 1).then_some(()));
        let before = bench.judged();
        let nobody = Live::Pair(usize::MAX);
        bench.workers[0].recheck.left = vec![nobody; 2 * SLICE + 1];
        bench.workers[0].go_on_rechecking();
        let mut left = Vec::new();
        bench.change(&deny(2));
        for _ in 0..3 {
            bench.turn();
            left.push(bench.workers[0].recheck.left.len());
        }
        // The third slice ends the round; the next one holds the pair.
        assert_eq!(left, [SLICE + 1, 1, 1]);
        assert_eq!(bench.judged(), before);
        bench.settle();
        assert_eq!(bench.judged(), before + 1);
        assert_eq!([hear(&client), hear(&far)], [Heard::Nothing, Heard::Nothing]);
    });
}
