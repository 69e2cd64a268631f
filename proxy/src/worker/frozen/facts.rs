//! Who talks to whom, and how much they have said: the part of a record that is the same for all kinds of connections.

use std::net::SocketAddr;
use std::sync::Arc;

use drain::Kind;
use prost::Message;
use xds::Identity;

use super::MoveError;
use crate::telemetry::{ConnectionFacts, Direction, Observation, Party, ServiceFacts};
use crate::worker::core::Core;

#[derive(Clone, PartialEq, Message)]
pub(in crate::worker) struct FactsRecord {
    #[prost(bool, tag = "1")]
    inbound: bool,
    #[prost(string, optional, tag = "2")]
    source: Option<String>,
    #[prost(message, optional, tag = "3")]
    source_party: Option<PartyRecord>,
    #[prost(string, optional, tag = "4")]
    destination: Option<String>,
    #[prost(message, optional, tag = "5")]
    destination_party: Option<PartyRecord>,
    #[prost(string, optional, tag = "6")]
    hbone_destination: Option<String>,
    #[prost(string, repeated, tag = "7")]
    service: Vec<String>,
    #[prost(bool, tag = "8")]
    mutual_tls: bool,
    #[prost(string, optional, tag = "9")]
    application: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct PartyRecord {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(string, optional, tag = "2")]
    workload: Option<String>,
    #[prost(string, optional, tag = "3")]
    namespace: Option<String>,
    #[prost(string, optional, tag = "4")]
    canonical_service: Option<String>,
    #[prost(string, optional, tag = "5")]
    canonical_revision: Option<String>,
    #[prost(string, optional, tag = "6")]
    app: Option<String>,
    #[prost(string, optional, tag = "7")]
    version: Option<String>,
    #[prost(string, optional, tag = "8")]
    cluster: Option<String>,
    #[prost(string, optional, tag = "9")]
    region: Option<String>,
    #[prost(string, optional, tag = "10")]
    zone: Option<String>,
    #[prost(string, optional, tag = "11")]
    identity: Option<String>,
}

/// A connection's facts and counters.
#[derive(Clone, PartialEq, Message)]
pub(in crate::worker) struct ObservationRecord {
    #[prost(message, optional, tag = "1")]
    facts: Option<FactsRecord>,
    #[prost(uint64, tag = "2")]
    sent: u64,
    #[prost(uint64, tag = "3")]
    received: u64,
    #[prost(uint64, tag = "4")]
    age: u64,
}

/// An observation as a record tells it, on this process's clock.
pub(in crate::worker) struct PreparedObservation {
    pub(in crate::worker) facts: ConnectionFacts,
    pub(in crate::worker) sent: u64,
    pub(in crate::worker) received: u64,
    pub(in crate::worker) opened: u64,
}

impl ObservationRecord {
    pub(in crate::worker) fn of(observation: &Observation, now: u64) -> Self {
        let Some(tracked) = observation.tracked() else { return Self::default() };
        Self {
            facts: Some(FactsRecord::from(&*tracked.facts())),
            sent: tracked.sent(),
            received: tracked.received(),
            age: now.saturating_sub(tracked.opened_ms()),
        }
    }

    pub(in crate::worker) fn read(self, now: u64) -> Result<PreparedObservation, MoveError> {
        let Self { facts: record, sent, received, age } = self;
        Ok(PreparedObservation { facts: facts(record)?, sent, received, opened: now.saturating_sub(age) })
    }
}

impl PreparedObservation {
    /// Goes on counting here.
    pub(in crate::worker) fn resume(self, kind: Kind, core: &Core) -> Observation {
        let shared = &core.shared;
        let tracked = shared.registry.track(core.id, kind, self.facts, self.opened);
        Observation::resume(&shared.telemetry, tracked, self.sent, self.received)
    }
}

impl From<&ConnectionFacts> for FactsRecord {
    fn from(facts: &ConnectionFacts) -> Self {
        let service = facts.service.iter();
        Self {
            inbound: facts.direction == Direction::Inbound,
            source: facts.source.map(|address| address.to_string()),
            source_party: Some(PartyRecord::from(&facts.source_party)),
            destination: facts.destination.map(|address| address.to_string()),
            destination_party: Some(PartyRecord::from(&facts.destination_party)),
            hbone_destination: facts.hbone_destination.clone(),
            service: service
                .flat_map(|s| [&s.hostname, &s.name, &s.namespace].map(ToString::to_string))
                .collect(),
            mutual_tls: facts.mutual_tls,
            application: facts.application.map(|address| address.to_string()),
        }
    }
}

pub(in crate::worker) fn facts(record: Option<FactsRecord>) -> Result<ConnectionFacts, MoveError> {
    let record = record.ok_or(MoveError::Record("no facts"))?;
    let service = match record.service.as_slice() {
        [hostname, name, namespace] => Some(ServiceFacts {
            hostname: hostname.as_str().into(),
            name: name.as_str().into(),
            namespace: namespace.as_str().into(),
        }),
        _ => None,
    };
    Ok(ConnectionFacts {
        direction: if record.inbound { Direction::Inbound } else { Direction::Outbound },
        source: record.source.as_deref().map(address).transpose()?,
        source_party: party(record.source_party)?,
        destination: record.destination.as_deref().map(address).transpose()?,
        destination_party: party(record.destination_party)?,
        application: record.application.as_deref().map(address).transpose()?,
        hbone_destination: record.hbone_destination,
        service,
        mutual_tls: record.mutual_tls,
    })
}

impl From<&Party> for PartyRecord {
    fn from(party: &Party) -> Self {
        let text = |value: &Option<Arc<str>>| value.as_deref().map(str::to_owned);
        Self {
            name: text(&party.name),
            workload: text(&party.workload),
            namespace: text(&party.namespace),
            canonical_service: text(&party.canonical_service),
            canonical_revision: text(&party.canonical_revision),
            app: text(&party.app),
            version: text(&party.version),
            cluster: text(&party.cluster),
            region: text(&party.region),
            zone: text(&party.zone),
            identity: party.identity.as_ref().map(ToString::to_string),
        }
    }
}

fn party(record: Option<PartyRecord>) -> Result<Party, MoveError> {
    let record = record.unwrap_or_default();
    let text = |value: Option<String>| value.map(Arc::<str>::from);
    Ok(Party {
        name: text(record.name),
        workload: text(record.workload),
        namespace: text(record.namespace),
        canonical_service: text(record.canonical_service),
        canonical_revision: text(record.canonical_revision),
        app: text(record.app),
        version: text(record.version),
        cluster: text(record.cluster),
        region: text(record.region),
        zone: text(record.zone),
        identity: record.identity.as_deref().map(identity).transpose()?,
    })
}

pub(in crate::worker) fn address(text: &str) -> Result<SocketAddr, MoveError> {
    text.parse().map_err(|_| MoveError::Record("a socket address"))
}

pub(in crate::worker) fn identity(text: &str) -> Result<Identity, MoveError> {
    text.parse().map_err(|_| MoveError::Record("an identity"))
}
