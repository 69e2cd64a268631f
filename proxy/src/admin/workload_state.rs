//! The key `workloadState` of `/config_dump`: whom this proxy serves, and over which connections.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use drain::{Kind, Registry};
use serde::Serialize;
use xds::Snapshot;

use super::Admin;
use crate::pod::WorkloadName;
use crate::telemetry::{ConnectionFacts, Direction};

/// By what istio-cni calls the pod. The pod that the process itself lives in has no such name: its key is the workload's
/// uid, or `namespace/name` while mesh state doesn't know it.
pub(super) type WorkloadStates = BTreeMap<Arc<str>, WorkloadState>;

#[derive(Serialize)]
pub(super) struct WorkloadState {
    state: State,
    info: WorkloadName,
    connections: Connections,
}

#[derive(Clone, Copy, Serialize)]
enum State {
    /// It is served.
    Up,
    /// It isn't yet: it has no listeners, or, for the process's own, mesh state doesn't know it and connections wait.
    Pending,
}

#[derive(Clone, Default, Serialize)]
struct Connections {
    inbound: Vec<Connection>,
    outbound: Vec<Connection>,
}

#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Connection {
    src: String,
    original_dst: String,
    actual_dst: String,
    protocol: &'static str,
}

/// The states of the pods that are served, and of those that are still to be.
pub(super) fn of(admin: &Admin, snapshot: &Snapshot) -> WorkloadStates {
    let pods = admin.pods.load();
    let served = pods.values().map(|pod| match &**pod.uid() {
        "" => own(pod.workload(), admin.node.as_deref(), snapshot),
        _ => (pod.uid().clone(), State::Up, pod.workload().clone()),
    });
    let pending = (admin.pending)().into_iter().map(|(uid, name)| (uid, State::Pending, name));
    let connections = Connections::by_pod(&admin.connections);
    // A pod that is served and is to be served anew is pending no less for that.
    let states = served.chain(pending).map(|(uid, state, info)| {
        let pod = PodName { namespace: info.namespace.clone(), name: info.name.clone() };
        let connections = connections.get(&pod).cloned().unwrap_or_default();
        (uid, WorkloadState { state, info, connections })
    });
    states.collect()
}

fn own(name: &WorkloadName, node: Option<&str>, snapshot: &Snapshot) -> (Arc<str>, State, WorkloadName) {
    let WorkloadName { namespace, name: pod, service_account } = name;
    match snapshot.local_workload(namespace, pod, service_account, node) {
        Some(known) => (known.uid.clone(), State::Up, name.clone()),
        None => (format!("{namespace}/{pod}").into(), State::Pending, name.clone()),
    }
}

/// By this the connections of a pod are known.
#[derive(PartialEq, Eq, Hash)]
struct PodName {
    namespace: Arc<str>,
    name: Arc<str>,
}

impl Connections {
    /// What carries bytes of workloads: neither tunnels as such, nor what is not joined yet.
    fn by_pod(registry: &Registry<ConnectionFacts>) -> HashMap<PodName, Self> {
        let mut pods: HashMap<PodName, Self> = HashMap::new();
        for entry in registry.snapshot() {
            if !matches!(entry.kind(), Kind::Plain | Kind::Stream) {
                continue;
            }
            let facts = entry.facts();
            let local = match facts.direction {
                Direction::Inbound => &facts.destination_party,
                Direction::Outbound => &facts.source_party,
            };
            let (Some(namespace), Some(name)) = (local.namespace.clone(), local.name.clone()) else {
                continue;
            };
            let connections = pods.entry(PodName { namespace, name }).or_default();
            match facts.direction {
                Direction::Inbound => connections.inbound.push(Connection::of(&facts)),
                Direction::Outbound => connections.outbound.push(Connection::of(&facts)),
            }
        }
        pods
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
