//! The lines of the access log. Field names and their order are stock's.

use std::net::SocketAddr;

use tracing::{Level, event};

use super::facts::{ConnectionFacts, Direction};

const OPENED: &str = "connection opened";
const COMPLETE: &str = "connection complete";

/// How a connection ended.
pub(super) struct Completion<'a> {
    /// Bytes towards the source.
    pub(super) sent: u64,
    /// Bytes towards the destination.
    pub(super) received: u64,
    pub(super) duration_ms: u64,
    pub(super) error: Option<&'a str>,
}

/// Expands to an event at a level, with the fields that tell who talks to whom, then others, then the message.
macro_rules! access_event {
    ($level:expr, $facts:ident, { $($others:tt)* }, $message:expr) => {{
        let (source, destination) = (&$facts.source_party, &$facts.destination_party);
        // Only what TLS has proved is an identity.
        let identity = |party: &super::facts::Party| {
            party.identity.as_ref().filter(|_| $facts.mutual_tls).map(ToString::to_string)
        };
        event!(
            target: "access",
            parent: None,
            $level,
            src.addr = $facts.source.map(tracing::field::display),
            src.workload = source.log_name(),
            src.namespace = source.namespace.as_deref(),
            src.identity = identity(source),
            src.cluster = source.cluster.as_deref(),
            dst.addr = $facts.destination.map(tracing::field::display),
            dst.hbone_addr = $facts.hbone_destination.as_ref().map(tracing::field::display),
            dst.service = $facts.service.as_ref().map(|service| &*service.hostname),
            dst.workload = destination.log_name(),
            dst.namespace = destination.namespace.as_deref(),
            dst.identity = identity(destination),
            dst.cluster = destination.cluster.as_deref(),
            direction = $facts.direction.as_str(),
            $($others)*
            "{}",
            $message
        );
    }};
}

/// A connection has begun.
pub(super) fn opened(facts: &ConnectionFacts) {
    access_event!(Level::DEBUG, facts, {}, OPENED);
}

/// A connection has ended.
pub(super) fn complete(facts: &ConnectionFacts, completion: &Completion<'_>) {
    // Counters speak of responses and requests; the log speaks of what left and reached the workload.
    let (bytes_sent, bytes_recv) = match facts.direction {
        Direction::Inbound => (completion.sent, completion.received),
        Direction::Outbound => (completion.received, completion.sent),
    };
    let duration = format!("{}ms", completion.duration_ms);
    match completion.error {
        None => access_event!(Level::INFO, facts, { bytes_sent, bytes_recv, duration, }, COMPLETE),
        Some(error) => {
            access_event!(Level::ERROR, facts, { bytes_sent, bytes_recv, duration, error, }, COMPLETE);
        }
    }
}

/// A connection ended before it was known who talks to whom.
pub(super) fn refused_early(
    source: SocketAddr,
    destination: Option<SocketAddr>,
    direction: Direction,
    error: &str,
) {
    event!(
        target: "access",
        parent: None,
        Level::WARN,
        src.addr = %source,
        dst.addr = destination.map(tracing::field::display),
        direction = direction.as_str(),
        error,
        "connection failed"
    );
}
