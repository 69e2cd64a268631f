//! Connections to the local workload: what a peer may ask for, and whether policy lets it in.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hbone::{ConnectRequest, Method};
use xds::{Identity, Snapshot, Workload};

use crate::headers::{self, Header};
use crate::plan::Plan;
use crate::pod::Pod;
use crate::policy::{self, Peer};
use crate::route;
use crate::shared::Shared;
use crate::socket::Source;
use crate::telemetry::{ConnectionFacts, Direction, Failure, Party, ResponseFlags, ServiceFacts};

/// Who is at the other end of a tunnel, as far as decisions need it.
#[derive(Clone, Debug)]
pub struct TunnelPeer {
    /// Its address.
    pub address: SocketAddr,
    /// Ours on this socket.
    pub local: SocketAddr,
    /// The SPIFFE identity that its certificate proved.
    pub identity: Option<Identity>,
    /// The one that ours proved to it.
    pub local_identity: Identity,
}

/// What happens to a peer's CONNECT request.
pub enum Decision {
    /// Connect the local application, then answer 200.
    Connect {
        /// The application's address.
        to: SocketAddr,
        /// Where the connection comes from.
        from: Option<Source>,
        /// For metrics and log.
        facts: Box<ConnectionFacts>,
    },
    /// Answer with this status.
    Refuse {
        /// 400, 401 or 503, as stock.
        status: u16,
        /// Why.
        failure: Failure,
        /// For metrics and log.
        facts: Box<ConnectionFacts>,
    },
}

/// Decides about a request that came over a tunnel to a pod.
pub fn decide(shared: &Shared, pod: &Pod, peer: &TunnelPeer, request: &ConnectRequest) -> Decision {
    let snapshot = shared.store.load();
    let mut facts = Box::new(ConnectionFacts {
        direction: Direction::Inbound,
        source: Some(peer.address),
        source_party: tunnelled_party(shared, &snapshot, peer, &request.headers),
        destination: Some(peer.local),
        destination_party: Party::default(),
        application: None,
        hbone_destination: Some(request.authority.clone()),
        service: None,
        mutual_tls: true,
    });
    let refuse = |status, flags, reason: String, facts| Decision::Refuse {
        status,
        failure: Failure::new(flags, reason),
        facts,
    };
    if let Method::Other(method) = &request.method {
        return refuse(
            400,
            ResponseFlags::None,
            format!("method {} is not CONNECT", method.escape_debug()),
            facts,
        );
    }
    let Some(workload) = shared.local_workload_in(&snapshot, pod) else {
        return refuse(503, ResponseFlags::None, "the local workload is unknown".to_owned(), facts);
    };
    facts.destination_party = Party::from(&*workload);
    let proxy = shared.local_proxy();
    let target = match route::inbound(&snapshot, &proxy, &workload, peer.local.ip(), &request.authority) {
        Ok(target) => target,
        Err(refusal) => return refuse(refusal.status(), ResponseFlags::None, refusal.to_string(), facts),
    };
    facts.application = Some(target.address);
    let named = headers::forwarded_host(&request.headers);
    facts.service = route::destination_service(&snapshot, &workload, target.address.port(), named)
        .map(|service| ServiceFacts::from(&**service));
    let asked = Peer { source: peer.address, identity: peer.identity.as_ref(), destination: target.address };
    if let Some(failure) = denied(shared, &snapshot, &workload, &asked) {
        return Decision::Refuse { status: 401, failure, facts };
    }
    Decision::Connect { to: target.address, from: keep_source(pod, peer.address.ip(), target.address), facts }
}

/// The plan for a plain connection to the local workload (15006).
pub fn plan_plain(
    shared: &Shared,
    pod: &Pod,
    workload: &Arc<Workload>,
    source: SocketAddr,
    destination: SocketAddr,
) -> Plan {
    if shared.is_own_port(destination) {
        return Plan::Close { reason: format!("{destination} is the proxy itself") };
    }
    let snapshot = shared.store.load();
    let facts = Box::new(ConnectionFacts {
        direction: Direction::Inbound,
        source: Some(source),
        source_party: party_at(shared, &snapshot, source.ip()),
        destination: Some(destination),
        destination_party: Party::from(&**workload),
        application: Some(destination),
        hbone_destination: None,
        service: None,
        mutual_tls: false,
    });
    let asked = Peer { source, identity: None, destination };
    if let Some(failure) = denied(shared, &snapshot, workload, &asked) {
        return Plan::Refuse { failure, facts };
    }
    Plan::Direct { to: destination, from: keep_source(pod, source.ip(), destination), facts }
}

/// The headers of a 200: who answers.
pub fn reply_headers(shared: &Shared, pod: &Pod) -> Vec<Header> {
    let workload = if shared.inbound.response_baggage { shared.local_workload(pod) } else { None };
    workload.map(|workload| headers::baggage(&workload)).into_iter().collect()
}

/// Judges a live connection once more: by the same function as at its accept, and by the same of its properties.
/// `identity` is what the peer's certificate proved. Says why it must end, if it must; dry runs had their say already.
pub fn judge_again(
    snapshot: &Snapshot,
    workload: &Workload,
    facts: &ConnectionFacts,
    identity: Option<&Identity>,
) -> Option<Failure> {
    let denied = |why: &dyn std::fmt::Display| {
        Failure::new(ResponseFlags::Deny, format!("connection closed due to policy change: {why}"))
    };
    let (Some(source), Some(destination)) = (facts.source, facts.application) else {
        return Some(denied(&"who talks to whom is not known"));
    };
    let verdict = policy::authorize(snapshot, workload, &Peer { source, identity, destination });
    (!verdict.is_allowed()).then(|| denied(&verdict))
}

fn denied(shared: &Shared, snapshot: &Snapshot, workload: &Workload, peer: &Peer<'_>) -> Option<Failure> {
    let decision = policy::decide(snapshot, workload, peer);
    let (source, destination, verdict) = (peer.source, peer.destination, &decision.verdict);
    if shared.inbound.policy_decisions_at_info {
        tracing::info!(target: "policy", %source, %destination, "{verdict}");
    } else {
        tracing::debug!(target: "policy", %source, %destination, "{verdict}");
    }
    for finding in &decision.dry_run {
        tracing::info!(target: "policy", %source, %destination, "{finding}");
    }
    (!verdict.is_allowed()).then(|| {
        let reason = format!("connection closed due to policy rejection: {verdict}");
        Failure::new(ResponseFlags::Deny, reason)
    })
}

/// The original source, if the kernel lets us take it and it isn't the destination itself.
fn keep_source(pod: &Pod, source: IpAddr, to: SocketAddr) -> Option<Source> {
    (pod.is_transparent() && source != to.ip()).then_some(Source::Foreign(source))
}

/// Who sits behind a tunnel: the certificate says who it is, mesh state or baggage how it is called.
fn tunnelled_party(shared: &Shared, snapshot: &Snapshot, peer: &TunnelPeer, headers: &[Header]) -> Party {
    let mut party = if headers::is_from_other_network(headers, &shared.location.network) {
        Party::default()
    } else {
        party_at(shared, snapshot, peer.address.ip())
    };
    party.identity.clone_from(&peer.identity);
    party
}

fn party_at(shared: &Shared, snapshot: &Snapshot, address: IpAddr) -> Party {
    snapshot
        .workload_by_address(&shared.location.network, address)
        .map(|workload| Party::from(&**workload))
        .unwrap_or_default()
}
