//! `/connections` (an extension): the live connections.

use std::net::SocketAddr;
use std::sync::Arc;

use drain::{Entry, Kind};
use http::request::Parts;
use serde::Serialize;
use xds::Identity;

use super::{Admin, json, parameter};
use crate::http_server::{Response, StatusCode, text};
use crate::telemetry::{ConnectionFacts, Direction, Party};

/// The reply: how many there are, and the oldest of them.
#[derive(Serialize)]
struct Connections<'a> {
    total: usize,
    connections: Vec<Connection<'a>>,
}

/// One live connection.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Connection<'a> {
    id: u64,
    kind: Kind,
    direction: Direction,
    source: End<'a>,
    destination: End<'a>,
    hbone_destination: Option<&'a str>,
    service: Option<&'a str>,
    mutual_tls: bool,
    /// Towards the source.
    bytes_sent: u64,
    /// Towards the destination.
    bytes_received: u64,
    age_ms: u64,
    worker: usize,
}

#[derive(Serialize)]
struct End<'a> {
    address: Option<SocketAddr>,
    workload: Option<&'a str>,
    namespace: Option<&'a str>,
    identity: Option<&'a Identity>,
}

pub(super) fn handle(admin: &Admin, head: &Parts) -> Response {
    let limit = match parameter(head, "limit").map(|limit| limit.parse::<usize>()) {
        None => usize::MAX,
        Some(Ok(limit)) => limit,
        Some(Err(_)) => {
            return text(StatusCode::BAD_REQUEST, "limit is not a number; use /connections?limit=100\n");
        }
    };
    let now_ms = admin.telemetry.now_ms();
    let entries = admin.connections.snapshot();
    let shown: Vec<(&Entry<_>, Arc<_>)> =
        entries.iter().take(limit).map(|entry| (&**entry, entry.facts())).collect();
    let connections = shown.iter().map(|(entry, facts)| Connection::new(entry, facts, now_ms)).collect();
    json(&Connections { total: entries.len(), connections })
}

impl<'a> Connection<'a> {
    fn new(entry: &Entry<ConnectionFacts>, facts: &'a ConnectionFacts, now_ms: u64) -> Self {
        Self {
            id: entry.id(),
            kind: entry.kind(),
            direction: facts.direction,
            source: End::new(facts.source, &facts.source_party),
            destination: End::new(facts.destination, &facts.destination_party),
            hbone_destination: facts.hbone_destination.as_deref(),
            service: facts.service.as_ref().map(|service| &*service.hostname),
            mutual_tls: facts.mutual_tls,
            bytes_sent: entry.sent(),
            bytes_received: entry.received(),
            age_ms: now_ms.saturating_sub(entry.opened_ms()),
            worker: entry.worker(),
        }
    }
}

impl<'a> End<'a> {
    fn new(address: Option<SocketAddr>, party: &'a Party) -> Self {
        Self {
            address,
            workload: party.log_name(),
            namespace: party.namespace.as_deref(),
            identity: party.identity.as_ref(),
        }
    }
}
