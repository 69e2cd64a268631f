//! The key `workloadState` of `/config_dump`: whom this proxy serves, and over which connections.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use drain::{Kind, Registry};
use serde::Serialize;
use xds::Snapshot;

use crate::config::WorkloadConfig;
use crate::telemetry::{ConnectionFacts, Direction};

/// By the workload's uid, or `namespace/name` while mesh state doesn't know it.
pub(super) type WorkloadStates<'a> = BTreeMap<String, WorkloadState<'a>>;

#[derive(Serialize)]
pub(super) struct WorkloadState<'a> {
    /// `Up` once mesh state knows the workload; until then connections wait.
    state: &'static str,
    info: Info<'a>,
    connections: Connections,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Info<'a> {
    name: &'a str,
    namespace: &'a str,
    service_account: &'a str,
}

#[derive(Default, Serialize)]
struct Connections {
    inbound: Vec<Connection>,
    outbound: Vec<Connection>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Connection {
    src: String,
    original_dst: String,
    actual_dst: String,
    protocol: &'static str,
}

/// The state of the one workload of a dedicated proxy.
pub(super) fn of<'a>(
    workload: &'a WorkloadConfig,
    snapshot: &Snapshot,
    connections: &Registry<ConnectionFacts>,
) -> WorkloadStates<'a> {
    let WorkloadConfig { name, namespace, service_account, node, .. } = workload;
    let known = snapshot.local_workload(namespace, name, service_account, node.as_deref());
    let state = WorkloadState {
        state: if known.is_some() { "Up" } else { "Pending" },
        info: Info { name, namespace, service_account },
        connections: Connections::of(connections),
    };
    let uid = known.map_or_else(|| format!("{namespace}/{name}"), |known| known.uid.to_string());
    BTreeMap::from([(uid, state)])
}

impl Connections {
    /// What carries bytes of the workload: neither tunnels as such, nor what is not joined yet.
    fn of(registry: &Registry<ConnectionFacts>) -> Self {
        let mut connections = Self::default();
        for entry in registry.snapshot() {
            if !matches!(entry.kind(), Kind::Plain | Kind::Stream) {
                continue;
            }
            let facts = entry.facts();
            match facts.direction {
                Direction::Inbound => connections.inbound.push(Connection::of(&facts)),
                Direction::Outbound => connections.outbound.push(Connection::of(&facts)),
            }
        }
        connections
    }
}

impl Connection {
    /// Outbound bytes are meant for the tunnel's target and go to the next hop; inbound ones came to the listener and
    /// go to the target.
    fn of(facts: &ConnectionFacts) -> Self {
        let address =
            |address: Option<SocketAddr>| address.map(|address| address.to_string()).unwrap_or_default();
        let hop = address(facts.destination);
        let target = facts.hbone_destination.clone().unwrap_or_else(|| hop.clone());
        let (original_dst, actual_dst) = match facts.direction {
            Direction::Inbound => (hop, target),
            Direction::Outbound => (target, hop),
        };
        let protocol = if facts.hbone_destination.is_some() { "HBONE" } else { "TCP" };
        Self { src: address(facts.source), original_dst, actual_dst, protocol }
    }
}
