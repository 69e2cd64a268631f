//! The requests that a subscription consists of.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Arc;

use super::Answer;
use crate::decode::Complaint;
use crate::proto::ResourceType;
use crate::proto::discovery::{DeltaDiscoveryRequest, Status};

/// Follows all resources of a type.
pub(super) fn everything(r#type: ResourceType) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { type_url: r#type.url().to_owned(), ..DeltaDiscoveryRequest::default() }
}

/// Follows these names. A first request without any would mean everything, which is therefore asked for and refused in
/// one breath.
pub(super) fn only(r#type: ResourceType, names: &BTreeSet<Arc<str>>) -> DeltaDiscoveryRequest {
    let names = names.iter().map(ToString::to_string);
    DeltaDiscoveryRequest {
        resource_names_subscribe: std::iter::once(EVERYTHING.to_owned()).chain(names).collect(),
        resource_names_unsubscribe: vec![EVERYTHING.to_owned()],
        ..everything(r#type)
    }
}

/// Follows one name more.
pub(super) fn one_more(r#type: ResourceType, name: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { resource_names_subscribe: vec![name.to_owned()], ..everything(r#type) }
}

/// An ACK, or with complaints a NACK.
pub(super) fn acknowledge(answer: Answer) -> DeltaDiscoveryRequest {
    let refused = || Status { code: INVALID_ARGUMENT, message: joined(&answer.complaints) };
    DeltaDiscoveryRequest {
        error_detail: (!answer.complaints.is_empty()).then(refused),
        type_url: answer.type_url,
        response_nonce: answer.nonce,
        ..DeltaDiscoveryRequest::default()
    }
}

/// All in one text, as many as go into [`MESSAGE_LIMIT`].
pub(super) fn joined(complaints: &[Complaint]) -> String {
    let mut text = String::new();
    for (n, complaint) in complaints.iter().enumerate() {
        let separator = if n == 0 { "" } else { "; " };
        let complaint = format!("{separator}{complaint}");
        if text.len() + complaint.len() > MESSAGE_LIMIT {
            let room = MESSAGE_LIMIT - text.len();
            let fitting = (0..=room).rev().find(|end| complaint.is_char_boundary(*end)).unwrap_or(0);
            let _ = write!(text, "{}… ({} in all)", &complaint[..fitting], complaints.len());
            break;
        }
        text.push_str(&complaint);
    }
    text
}

/// Of all resources of a type.
const EVERYTHING: &str = "*";
/// A google.rpc.Code.
const INVALID_ARGUMENT: i32 = 3;
/// Bytes. The text goes through istiod's log.
pub(super) const MESSAGE_LIMIT: usize = 4096;
