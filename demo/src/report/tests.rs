//! The verdict: good figures pass, and each thing that may be wrong fails alone.

use super::*;
use crate::traffic::{Ends, Tally};
use crate::upgrade::timeline::Moment;
use crate::upgrade::{Moved, Replacement};

const CLIENT: &str = "spiffe://cluster.local/ns/demo/sa/client";

fn acts() -> ActFigures {
    ActFigures { policy_closed_ms: 80.0, outage_seconds: 5.0, back_after_seconds: 2.0, sent_again: 0 }
}

fn counts(sent: u64, checked: u64) -> Counts {
    let ends = Ends::default();
    Counts { opened: 10, closed: 10, failed: 0, ends, sent, checked, answers: 7, failures: Vec::new() }
}

fn node(moves: u64, inbound: u64) -> NodeFigures {
    NodeFigures {
        moves,
        identities: BTreeMap::from([(CLIENT.to_owned(), inbound)]),
        ..NodeFigures::default()
    }
}

fn good() -> Observations {
    Observations {
        duration: Duration::from_secs(2),
        clients: counts(1_000, 3_000),
        server: counts(3_000, 1_000),
        latencies: Tally::new().latencies(),
        client_node: [node(5, 0), node(25, 0)],
        server_node: [node(0, 0), node(30, 8)],
        server_node_after: node(31, 10),
        moving: true,
        control_plane: Some(acts()),
        expected_identity: CLIENT.to_owned(),
        incidents: Vec::new(),
    }
}

#[test]
fn good_figures_pass() {
    let report = Report::of(&good());
    assert_eq!((report.passed, report.reasons), (true, Vec::new()));
    let figures = report.figures.expect("figures");
    assert_eq!((figures.bytes_checked, figures.bytes_per_second), (4_000, 2_000.0));
    assert_eq!((figures.tunnels.moves_client_node, figures.tunnels.moves_server_node), (20, 30));
}

/// Makes one thing wrong.
type Spoil = fn(&mut Observations);

#[test]
fn each_fault_fails_alone_and_is_named() {
    let faults: [(&str, Spoil); 18] = [
        ("a policy took 1500 ms to reach a live connection", |seen| {
            seen.control_plane = Some(ActFigures { policy_closed_ms: 1500.0, ..acts() });
        }),
        ("istiod had to send 3 unchanged resources again", |seen| {
            seen.control_plane = Some(ActFigures { sent_again: 3, ..acts() });
        }),
        ("the clients had 1 failed connections, among them: broken", |seen| {
            (seen.clients.failed, seen.clients.closed) = (1, 9);
            seen.clients.failures.push("broken".to_owned());
        }),
        ("the server had 1 failed connections, among them: wrong byte", |seen| {
            (seen.server.failed, seen.server.closed) = (1, 9);
            seen.server.failures.push("wrong byte".to_owned());
        }),
        ("the server said: no more", |seen| seen.server.failures.push("no more".to_owned())),
        ("2 connections of the clients did not come to an end", |seen| seen.clients.closed = 8),
        ("1 connections of the server did not come to an end", |seen| seen.server.closed = 9),
        ("no byte reached the server", |seen| (seen.server.checked, seen.clients.sent) = (0, 0)),
        ("the server sent 3000 bytes, 2999 reached the clients", |seen| seen.clients.checked = 2_999),
        ("the clients sent 1000 bytes, 999 reached the server", |seen| seen.server.checked = 999),
        ("no request was answered", |seen| seen.clients.answers = 0),
        ("no tunnel moved on the clients' node", |seen| seen.client_node[1].moves = 5),
        ("no tunnel moved on the server's node", |seen| seen.server_node[1].moves = 0),
        ("1 panics on the server's node", |seen| seen.server_node[1].panics = 1),
        ("the server's node saw the wrong identity \"unknown\" on 1", |seen| {
            seen.server_node_after.identities.insert("unknown".to_owned(), 1);
        }),
        ("1 connections reached the server's node as plaintext", |seen| seen.server_node_after.plaintext = 1),
        ("10 connections reached the server, only 9 of them by mutual TLS", |seen| {
            seen.server_node_after = node(31, 9);
        }),
        ("node-server ended", |seen| seen.incidents.push("node-server ended".to_owned())),
    ];
    for (expected, spoil) in faults {
        let mut seen = good();
        spoil(&mut seen);
        let report = Report::of(&seen);
        assert!(!report.passed, "{expected}");
        assert_eq!(report.reasons.len(), 1, "{:?}", report.reasons);
        assert!(report.reasons[0].starts_with(expected), "{:?} instead of {expected}", report.reasons);
    }
}

#[test]
fn after_an_incident_only_failures_are_told_beside_it() {
    let mut seen = good();
    seen.incidents.push("interrupted".to_owned());
    seen.clients.closed = 0;
    seen.server_node[1].moves = 0;
    assert_eq!(Report::of(&seen).reasons, ["interrupted"]);
    seen.server.failures.push("wrong byte".to_owned());
    assert_eq!(Report::of(&seen).reasons, ["interrupted", "the server said: wrong byte"]);
}

#[test]
fn an_unseen_identity_fails() {
    let mut seen = good();
    seen.server_node_after.identities.clear();
    let report = Report::of(&seen);
    assert!(
        report.reasons.contains(&format!("the server's node never saw {CLIENT}")),
        "{:?}",
        report.reasons
    );
}

#[test]
fn tunnels_that_are_not_asked_to_move_need_not() {
    let mut seen = good();
    seen.client_node[1].moves = 5;
    seen.moving = false;
    assert!(Report::of(&seen).passed);
}

#[test]
fn node_figures_come_from_the_metrics() {
    let text = r#"
istio_tcp_connections_opened_total{reporter="source",source_principal="spiffe://a/ns/b/sa/c",connection_security_policy="mutual_tls"} 9
istio_tcp_connections_opened_total{reporter="destination",source_principal="spiffe://a/ns/b/sa/c",connection_security_policy="mutual_tls",destination_service="x"} 3
istio_tcp_connections_opened_total{reporter="destination",source_principal="spiffe://a/ns/b/sa/c",connection_security_policy="mutual_tls",destination_service="y"} 4
istio_tcp_connections_opened_total{reporter="destination",source_principal="unknown",connection_security_policy="unknown"} 2
ztunnel_tunnel_moves_total{result="moved"} 12
ztunnel_tunnel_moves_total{result="refused"} 3
ztunnel_tunnels_open{role="client"} 2
ztunnel_tunnels_open{role="server"} 3
ztunnel_tunnel_move_pause_seconds_bucket{le="0.001"} 12
ztunnel_tunnel_move_pause_seconds_bucket{le="+Inf"} 12
ztunnel_worker_panics_total 1
"#;
    let figures = NodeFigures::read(&Metrics::parse(text));
    assert_eq!((figures.moves, figures.moves_failed, figures.tunnels_open), (12, 3, 5));
    assert_eq!((figures.plaintext, figures.mutual_tls(), figures.panics), (2, 7, 1));
    assert_eq!(figures.identities, BTreeMap::from([("spiffe://a/ns/b/sa/c".to_owned(), 7)]));
    assert_eq!(figures.pause.bound(0.99), Some(0.001));
}

#[test]
fn the_json_has_the_figures() {
    let json = serde_json::to_value(Report::of(&good())).expect("a report is JSON");
    assert_eq!(json["passed"], true);
    assert_eq!(json["figures"]["connections"]["opened"], 10);
    assert_eq!(json["figures"]["identities"][CLIENT], 10);
    assert_eq!(json["figures"]["tunnels"]["pause_p99_at_most_ms"], serde_json::Value::Null);
}

/// Two runs that are as they should be.
pub(crate) fn upgrades() -> Upgrades {
    let moved = Moved { connections: 51, pause_p50_ms: 0.8, pause_p99_ms: 3.0, pause_max_ms: 4.0 };
    let replacement = |moved| Replacement {
        node: "node-client".to_owned(),
        begun_seconds: 1.0,
        ended_seconds: 2.0,
        pid_before: 10,
        pid_after: 11,
        moved,
    };
    let moment = Moment { seconds: 3.0, bytes_per_second: 1e6, longest_wait_ms: 2.0, lost: 0 };
    let handover = UpgradeFigures {
        replacements: vec![replacement(Some(moved))],
        long_lived: 102,
        lost: Ends::default(),
        fresh: 70,
        fresh_lost: Ends::default(),
        bytes_checked: 4_000,
        pauses: vec![(Some(0.5), 0), (Some(1.0), 3), (Some(2.0), 1), (None, 0)],
        timeline: vec![Moment { seconds: 1.0, ..moment }, moment],
        incidents: Vec::new(),
    };
    let control = UpgradeFigures {
        replacements: vec![replacement(None)],
        lost: Ends { reset: 102, ..Ends::default() },
        pauses: Vec::new(),
        ..handover.clone()
    };
    Upgrades { handover, control }
}

/// Makes one thing wrong about replacements.
type SpoilUpgrade = fn(&mut Upgrades);

#[test]
fn each_fault_of_a_replacement_fails_alone_and_is_named() {
    let report = Report::of(&good()).upgraded(upgrades());
    assert_eq!((report.passed, report.reasons), (true, Vec::new()));
    let faults: [(&str, SpoilUpgrade); 6] = [
        ("noticed by long-lived connections: 1 reset", |all| all.handover.lost.reset = 1),
        ("noticed by fresh connections: 0 reset, 2 refused", |all| all.handover.fresh_lost.refused = 2),
        ("no connection went over on node-client", |all| all.handover.replacements[0].moved = None),
        ("node-client has the same process", |all| all.handover.replacements[0].pid_after = 10),
        ("5 bytes were sent", |all| all.handover.incidents.push("5 bytes were sent, 4 arrived".to_owned())),
        ("101 of 102 long-lived connections were lost: who", |all| all.control.lost.reset = 101),
    ];
    for (reason, spoil) in faults {
        let mut all = upgrades();
        spoil(&mut all);
        let report = Report::of(&good()).upgraded(all);
        assert!(!report.passed && report.reasons.len() == 1, "{reason}: {:?}", report.reasons);
        assert!(report.reasons[0].contains(reason), "{reason}: {:?}", report.reasons);
    }
}
