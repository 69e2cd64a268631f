//! What a replica has seen.

use super::ResourceType;

/// What a replica has seen since it started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Statistics {
    /// TCP connections accepted.
    pub connections: u64,
    /// Discovery streams opened (with a valid token).
    pub streams_opened: u64,
    /// Discovery streams that are open now.
    pub streams_open: u64,
    /// About workloads and services.
    pub addresses: TypeStatistics,
    /// About policies.
    pub policies: TypeStatistics,
    /// Streams and certificate requests without a valid token.
    pub token_failures: u64,
    /// Requests for a certificate (with a valid token), granted or not.
    pub certificate_requests: u64,
}

/// What a replica has seen of one type of resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TypeStatistics {
    /// Requests, all kinds: first ones, ACKs, NACKs, changes of the subscription.
    pub requests: u64,
    /// First requests of a stream.
    pub first_requests: u64,
    /// How many `initial_resource_versions` the last first request had.
    pub initial_versions: usize,
    /// Responses.
    pub responses: u64,
    /// Resources in them.
    pub resources: u64,
    /// Names that they called removed.
    pub removed: u64,
    /// Bytes of the messages, encoded.
    pub bytes: u64,
    /// Responses that were acknowledged.
    pub acks: u64,
    /// What the client said about each response that it refused.
    pub nacks: Vec<String>,
}

impl Statistics {
    /// The part about one type.
    pub fn of(&self, resource_type: ResourceType) -> &TypeStatistics {
        match resource_type {
            ResourceType::Address => &self.addresses,
            ResourceType::Authorization => &self.policies,
        }
    }

    pub(super) fn of_mut(&mut self, resource_type: ResourceType) -> &mut TypeStatistics {
        match resource_type {
            ResourceType::Address => &mut self.addresses,
            ResourceType::Authorization => &mut self.policies,
        }
    }
}
