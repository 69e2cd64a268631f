//! The figures, and whether they are good enough.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::acts::ActFigures;
use crate::node::metrics::{Buckets, Metrics};
use crate::traffic::{Counts, Latencies};
use crate::upgrade::UpgradeFigures;

/// What one node counted, at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeFigures {
    /// Tunnels that are open now.
    pub tunnels_open: u64,
    /// Moves of a tunnel from one worker to another.
    pub moves: u64,
    /// Moves that were begun and given up; the tunnel stayed where it was.
    pub moves_failed: u64,
    /// How long a tunnel stood still while it moved, in seconds.
    pub pause: Buckets,
    /// Panics that were caught.
    pub panics: u64,
    /// Connections that came in through mutual TLS, by the identity of the peer.
    pub identities: BTreeMap<String, u64>,
    /// Connections that came in any other way.
    pub plaintext: u64,
}

impl NodeFigures {
    /// Reads them from the node's metrics.
    pub fn read(metrics: &Metrics) -> Self {
        const OPENED: &str = "istio_tcp_connections_opened_total";
        const INBOUND: (&str, &str) = ("reporter", "destination");
        let inbound = metrics.sum(OPENED, &[INBOUND]);
        let mutual_tls = [INBOUND, ("connection_security_policy", "mutual_tls")];
        let by_identity = metrics.by_label(OPENED, &mutual_tls, "source_principal");
        let moves = metrics.by_label("ztunnel_tunnel_moves_total", &[], "result");
        let moved = moves.get(MOVED).copied().unwrap_or_default();
        Self {
            tunnels_open: whole(metrics.sum("ztunnel_tunnels_open", &[])),
            moves: whole(moved),
            moves_failed: whole(moves.values().sum::<f64>() - moved),
            pause: metrics.histogram("ztunnel_tunnel_move_pause_seconds"),
            panics: whole(metrics.sum("ztunnel_worker_panics_total", &[])),
            plaintext: whole(inbound - by_identity.values().sum::<f64>()),
            identities: by_identity.into_iter().map(|(name, count)| (name, whole(count))).collect(),
        }
    }

    /// Connections that came in through mutual TLS.
    pub fn mutual_tls(&self) -> u64 {
        self.identities.values().sum()
    }
}

/// The value of the label `result` of a move that succeeded.
const MOVED: &str = "moved";

/// A counter as the whole number that it is.
fn whole(value: f64) -> u64 {
    // Negative and fractional values do not occur in counters; `as` makes them the nearest that does.
    value.round() as u64
}

/// Everything that was seen, from which the report is made.
#[derive(Debug, Clone)]
pub struct Observations {
    /// How long the load ran.
    pub duration: Duration,
    /// What the client application counted, after its end.
    pub clients: Counts,
    /// What the server application counted, after the clients' end.
    pub server: Counts,
    /// The measured times.
    pub latencies: Latencies,
    /// The clients' node when the load began, and when it was told to stop.
    pub client_node: [NodeFigures; 2],
    /// The server's node when the load began, and when it was told to stop.
    pub server_node: [NodeFigures; 2],
    /// The server's node after the end.
    pub server_node_after: NodeFigures,
    /// Whether tunnels were asked to move.
    pub moving: bool,
    /// What came of the acts, if they were played to their end.
    pub control_plane: Option<ActFigures>,
    /// The identity that the server's node has to see.
    pub expected_identity: String,
    /// What else went wrong: a node that died, a signal.
    pub incidents: Vec<String>,
}

/// The verdict and its figures; what `--json` writes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Whether everything was as promised.
    pub passed: bool,
    /// Why not; empty if it was.
    pub reasons: Vec<String>,
    /// The figures. `None` if it did not come to any traffic.
    pub figures: Option<Figures>,
    /// The replacements of proxies. `None` if it did not come to them.
    pub upgrades: Option<Upgrades>,
}

/// Both proxies were replaced under load, in both ways.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Upgrades {
    /// By hand-over.
    pub handover: UpgradeFigures,
    /// Without: what everybody else has.
    pub control: UpgradeFigures,
}

/// The figures.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// How long the load ran.
    pub seconds: f64,
    /// Payload bytes that arrived at either end, each compared with what was sent.
    pub bytes_checked: u64,
    /// `bytes_checked` by time, both directions together.
    pub bytes_per_second: f64,
    /// The connections of the clients.
    pub connections: ConnectionFigures,
    /// Requests that were answered.
    pub requests: u64,
    /// Request to answer on an open connection.
    pub request_latency: LatencyFigures,
    /// Opening a connection, one request and its answer.
    pub new_connection_latency: LatencyFigures,
    /// Tunnels and their moves.
    pub tunnels: TunnelFigures,
    /// The policy that came and went, and istiod's outage.
    pub control_plane: Option<ActFigures>,
    /// What the server's node saw, by identity of the peer: connections through mutual TLS.
    pub identities: BTreeMap<String, u64>,
    /// Connections that reached the server's node without mutual TLS.
    pub plaintext_connections: u64,
    /// The first few failures of the clients and of the server, in words.
    pub failures: Vec<String>,
}

/// Connections of the clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ConnectionFigures {
    /// Begun.
    pub opened: u64,
    /// Ended as both sides wanted.
    pub closed: u64,
    /// Ended otherwise.
    pub failed: u64,
    /// Not ended when the clients had to be.
    pub unfinished: u64,
}

/// A distribution of times, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LatencyFigures {
    /// Half were faster.
    pub p50_ms: f64,
    /// 99 of 100 were faster.
    pub p99_ms: f64,
    /// The slowest.
    pub max_ms: f64,
}

impl LatencyFigures {
    /// From a histogram in microseconds.
    pub fn of(micros: &Histogram<u64>) -> Self {
        let at = |quantile| micros.value_at_quantile(quantile) as f64 / 1000.0;
        Self { p50_ms: at(0.5), p99_ms: at(0.99), max_ms: micros.max() as f64 / 1000.0 }
    }
}

/// Tunnels and their moves between workers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct TunnelFigures {
    /// Tunnels that were open on the clients' node when the load was told to stop.
    pub open: u64,
    /// Moves on the clients' node under load.
    pub moves_client_node: u64,
    /// Moves on the server's node under load.
    pub moves_server_node: u64,
    /// Moves that were begun and given up.
    pub moves_failed: u64,
    /// Mean standstill of a move. `None` without a move.
    pub pause_mean_ms: Option<f64>,
    /// A bound that 99 of 100 standstills do not pass. `None` without a move, or if it is above every bucket.
    pub pause_p99_at_most_ms: Option<f64>,
}

impl Report {
    /// Judges what was seen.
    pub fn of(seen: &Observations) -> Self {
        let reasons = judge(seen);
        Self { passed: reasons.is_empty(), reasons, figures: Some(figures(seen)), upgrades: None }
    }

    /// The same, with what came of the replacements.
    #[must_use]
    pub fn upgraded(mut self, upgrades: Upgrades) -> Self {
        let Upgrades { handover, control } = &upgrades;
        self.reasons.extend([handover.judge(), control.judge_control()].concat());
        self.passed = self.reasons.is_empty();
        Self { upgrades: Some(upgrades), ..self }
    }

    /// The same, and something went wrong.
    #[must_use]
    pub fn spoilt(mut self, reason: String) -> Self {
        self.reasons.push(reason);
        Self { passed: false, ..self }
    }

    /// It did not come to any traffic.
    pub fn failed(reason: String) -> Self {
        Self { passed: false, reasons: vec![reason], figures: None, upgrades: None }
    }
}

fn figures(seen: &Observations) -> Figures {
    let seconds = seen.duration.as_secs_f64();
    let bytes_checked = seen.clients.checked + seen.server.checked;
    let (clients, [client_before, client]) = (&seen.clients, &seen.client_node);
    let [server_before, server] = &seen.server_node;
    let pause = client.pause.clone().merged(&server.pause);
    let milliseconds = |seconds: f64| seconds * 1000.0;
    Figures {
        seconds,
        bytes_checked,
        bytes_per_second: bytes_checked as f64 / seconds.max(f64::MIN_POSITIVE),
        connections: ConnectionFigures {
            opened: clients.opened,
            closed: clients.closed,
            failed: clients.failed,
            unfinished: clients.open(),
        },
        requests: clients.answers,
        request_latency: LatencyFigures::of(&seen.latencies.answer),
        new_connection_latency: LatencyFigures::of(&seen.latencies.fresh),
        tunnels: TunnelFigures {
            open: client.tunnels_open,
            moves_client_node: client.moves.saturating_sub(client_before.moves),
            moves_server_node: server.moves.saturating_sub(server_before.moves),
            moves_failed: client.moves_failed + server.moves_failed,
            pause_mean_ms: pause.mean().map(milliseconds),
            pause_p99_at_most_ms: pause.bound(0.99).filter(|bound| bound.is_finite()).map(milliseconds),
        },
        control_plane: seen.control_plane,
        identities: seen.server_node_after.identities.clone(),
        plaintext_connections: seen.server_node_after.plaintext,
        failures: [seen.clients.failures.clone(), seen.server.failures.clone()].concat(),
    }
}

/// Everything that is not as promised.
fn judge(seen: &Observations) -> Vec<String> {
    let mut reasons = seen.incidents.clone();
    for (who, counts) in [("clients", &seen.clients), ("server", &seen.server)] {
        match (counts.failed, counts.failures.first()) {
            (0, None) => {}
            (0, Some(said)) => reasons.push(format!("the {who} said: {said}")),
            (failed, None) => reasons.push(format!("the {who} had {failed} failed connections")),
            (failed, Some(first)) => {
                reasons.push(format!("the {who} had {failed} failed connections, among them: {first}"));
            }
        }
    }
    // What broke off has no end that could be judged.
    if seen.incidents.is_empty() {
        judge_traffic(seen, &mut reasons);
        judge_moves(seen, &mut reasons);
        judge_identities(seen, &mut reasons);
        judge_control_plane(seen, &mut reasons);
    }
    reasons
}

fn judge_traffic(seen: &Observations, reasons: &mut Vec<String>) {
    for (who, counts) in [("clients", &seen.clients), ("server", &seen.server)] {
        if counts.open() > 0 {
            reasons.push(format!("{} connections of the {who} did not come to an end", counts.open()));
        }
        if counts.checked == 0 {
            reasons.push(format!("no byte reached the {who}"));
        }
    }
    for (from, sent, to, checked) in [
        ("clients", seen.clients.sent, "server", seen.server.checked),
        ("server", seen.server.sent, "clients", seen.clients.checked),
    ] {
        // Broken connections lose bytes by nature, and have been named.
        if sent != checked && seen.clients.failed + seen.server.failed == 0 {
            reasons.push(format!("the {from} sent {sent} bytes, {checked} reached the {to}"));
        }
    }
    if seen.clients.answers == 0 {
        reasons.push("no request was answered".to_owned());
    }
}

fn judge_moves(seen: &Observations, reasons: &mut Vec<String>) {
    for (node, [before, after]) in [("clients'", &seen.client_node), ("server's", &seen.server_node)] {
        if seen.moving && after.moves <= before.moves {
            reasons.push(format!("no tunnel moved on the {node} node under load"));
        }
        if after.panics > 0 {
            reasons.push(format!("{} panics on the {node} node", after.panics));
        }
    }
}

fn judge_control_plane(seen: &Observations, reasons: &mut Vec<String>) {
    let Some(acts) = &seen.control_plane else { return };
    if acts.policy_closed_ms > 1000.0 {
        reasons.push(format!("a policy took {:.0} ms to reach a live connection", acts.policy_closed_ms));
    }
    if acts.sent_again > 0 {
        reasons.push(format!("istiod had to send {} unchanged resources again", acts.sent_again));
    }
}

fn judge_identities(seen: &Observations, reasons: &mut Vec<String>) {
    let node = &seen.server_node_after;
    let expected = &seen.expected_identity;
    if !node.identities.contains_key(expected) {
        reasons.push(format!("the server's node never saw {expected}"));
    }
    for (other, count) in node.identities.iter().filter(|(identity, _)| *identity != expected) {
        reasons.push(format!("the server's node saw the wrong identity {other:?} on {count} connections"));
    }
    if node.plaintext > 0 {
        reasons.push(format!("{} connections reached the server's node as plaintext", node.plaintext));
    }
    if seen.server.opened > node.mutual_tls() {
        let (all, tunnelled) = (seen.server.opened, node.mutual_tls());
        reasons.push(format!("{all} connections reached the server, only {tunnelled} of them by mutual TLS"));
    }
}

#[cfg(test)]
pub(crate) mod tests;
