//! `/handover` and `/handover/plan` (extensions): replacing this process.

use drain::Kind;
use serde::Serialize;

use super::{Admin, json};
use crate::http_server::Response;

/// What a successor would get now, and what not.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Plan {
    /// Whether there would be a hand-over at all.
    available: bool,
    /// Why not.
    cause: Option<String>,
    /// Connections that would move, by kind; streams go with their tunnels.
    moves: [Count; 3],
    /// Connections that are being set up: those that do a TLS handshake finish it here and move then, the others move at once.
    setting_up: usize,
    /// What would stay here, and drain under the deadline.
    stays: [Stays; 2],
}

#[derive(Serialize)]
struct Count {
    kind: &'static str,
    connections: usize,
}

#[derive(Serialize)]
struct Stays {
    what: &'static str,
    why: &'static str,
}

const STAYS: [Stays; 2] = [
    Stays { what: "tunnels that are saying goodbye", why: "they end within a second" },
    Stays {
        what: "questions of names under way",
        why: "they are answered within seconds; new ones go to the successor",
    },
];

pub(super) fn status(admin: &Admin) -> Response {
    json(&admin.handover.json())
}

pub(super) fn plan(admin: &Admin) -> Response {
    let counts = admin.connections.counts();
    let count = |name, kind| Count { kind: name, connections: counts.of(kind) };
    let cause = admin.handover.cause();
    json(&Plan {
        available: cause.is_none(),
        cause,
        moves: [count("tunnel", Kind::Tunnel), count("stream", Kind::Stream), count("plain", Kind::Plain)],
        setting_up: counts.of(Kind::Setup),
        stays: STAYS,
    })
}
