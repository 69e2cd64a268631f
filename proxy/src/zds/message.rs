//! What istio-cni and a proxy say to each other, one protocol buffer in each packet.

use std::sync::Arc;

use prost::{Message, Oneof};

use crate::pod::WorkloadName;
use crate::telemetry::ZdsMessage;

/// The only version of the protocol that there is.
const VERSION_1: i32 = 1;

/// istio-cni reads no more than 1 024 bytes of an answer.
const MAX_ERROR: usize = 900;

/// A message of istio-cni; an Add comes with `N`, which stands for the pod's network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request<N> {
    /// Serve this pod.
    Add { uid: Arc<str>, workload: WorkloadName, namespace: N },
    /// This pod lives, but its namespace is not known (only in a snapshot).
    Keep { uid: Arc<str> },
    /// Serve this pod no more.
    Del { uid: Arc<str> },
    /// All pods that live have been named.
    SnapshotSent,
}

/// Why a packet is no message.
#[derive(thiserror::Error, Debug, PartialEq, Eq)]
pub(super) enum RequestError {
    #[error("it is not a message: {0}")]
    Decode(#[from] prost::DecodeError),
    #[error("it has no known payload")]
    NoPayload,
    #[error("it names no pod")]
    NoUid,
    #[error("a pod is added without workload_info")]
    NoWorkload,
    #[error("a pod is added without its network namespace")]
    NoNamespace,
    #[error("a file descriptor came with a message that has none")]
    UnexpectedNamespace,
}

impl<N> Request<N> {
    /// What a packet says that brought these bytes, and a namespace or none.
    pub(super) fn decode(bytes: &[u8], namespace: Option<N>) -> Result<Self, RequestError> {
        let payload = WorkloadRequest::decode(bytes)?.payload.ok_or(RequestError::NoPayload)?;
        match (payload, namespace) {
            (Payload::Add(add), Some(namespace)) => {
                let info = add.workload_info.ok_or(RequestError::NoWorkload)?;
                let workload = WorkloadName {
                    namespace: info.namespace.into(),
                    name: info.name.into(),
                    service_account: info.service_account.into(),
                };
                Ok(Self::Add { uid: uid(add.uid)?, workload, namespace })
            }
            (Payload::Add(_), None) => Err(RequestError::NoNamespace),
            (_, Some(_)) => Err(RequestError::UnexpectedNamespace),
            (Payload::Keep(keep), None) => Ok(Self::Keep { uid: uid(keep.uid)? }),
            (Payload::Del(del), None) => Ok(Self::Del { uid: uid(del.uid)? }),
            (Payload::SnapshotSent(_), None) => Ok(Self::SnapshotSent),
        }
    }

    /// What it is counted as.
    pub(super) fn kind(&self) -> ZdsMessage {
        match self {
            Self::Add { .. } => ZdsMessage::Add,
            Self::Keep { .. } => ZdsMessage::Keep,
            Self::Del { .. } => ZdsMessage::Del,
            Self::SnapshotSent => ZdsMessage::SnapshotSent,
        }
    }
}

/// The empty one is that of a proxy's own pod.
fn uid(uid: String) -> Result<Arc<str>, RequestError> {
    if uid.is_empty() { Err(RequestError::NoUid) } else { Ok(uid.into()) }
}

/// What a proxy says first.
pub(super) fn hello() -> Vec<u8> {
    ZdsHello { version: VERSION_1 }.encode_to_vec()
}

/// The answer to a message: that it was done, or why it was refused.
pub(super) fn answer(refusal: Option<&str>) -> Vec<u8> {
    let error = refusal.unwrap_or_default();
    let end = (0..=error.len().min(MAX_ERROR)).rev().find(|end| error.is_char_boundary(*end)).unwrap_or(0);
    let error = error[..end].to_owned();
    WorkloadResponse { ack: Some(Ack { error }) }.encode_to_vec()
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ZdsHello {
    #[prost(int32, tag = "1")]
    pub(super) version: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WorkloadRequest {
    #[prost(oneof = "Payload", tags = "1, 2, 3, 5")]
    pub(super) payload: Option<Payload>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Payload {
    #[prost(message, tag = "1")]
    Add(AddWorkload),
    #[prost(message, tag = "2")]
    Del(DelWorkload),
    #[prost(message, tag = "3")]
    SnapshotSent(SnapshotSent),
    #[prost(message, tag = "5")]
    Keep(KeepWorkload),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct AddWorkload {
    #[prost(string, tag = "1")]
    pub(super) uid: String,
    #[prost(message, optional, tag = "2")]
    pub(super) workload_info: Option<WorkloadInfo>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WorkloadInfo {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) namespace: String,
    #[prost(string, tag = "3")]
    pub(super) service_account: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct KeepWorkload {
    #[prost(string, tag = "1")]
    pub(super) uid: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DelWorkload {
    #[prost(string, tag = "2")]
    pub(super) uid: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SnapshotSent {}

/// The schema has its one field in a oneof, which looks the same on the wire.
#[derive(Clone, PartialEq, Message)]
pub(super) struct WorkloadResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) ack: Option<Ack>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Ack {
    #[prost(string, tag = "1")]
    pub(super) error: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    type Decoded = Result<Request<()>, RequestError>;

    fn shop_web() -> WorkloadName {
        WorkloadName { namespace: "shop".into(), name: "web".into(), service_account: "sa".into() }
    }

    #[test]
    fn the_bytes_are_those_of_the_protocol() {
        assert_eq!(hello(), [0x08, 1]);
        assert_eq!(answer(None), [0x0a, 0]);
        assert_eq!(answer(Some("no")), b"\x0a\x04\x0a\x02no");

        let add = b"\x0a\x14\x0a\x01u\x12\x0f\x0a\x03web\x12\x04shop\x1a\x02sa";
        let expected = Request::Add { uid: "u".into(), workload: shop_web(), namespace: () };
        assert_eq!(Decoded::Ok(expected), Request::decode(add, Some(())));
        assert_eq!(
            Decoded::Ok(Request::Keep { uid: "u".into() }),
            Request::decode(b"\x2a\x03\x0a\x01u", None)
        );
        assert_eq!(
            Decoded::Ok(Request::Del { uid: "u".into() }),
            Request::decode(b"\x12\x03\x12\x01u", None)
        );
        assert_eq!(Decoded::Ok(Request::SnapshotSent), Request::decode(b"\x1a\x00", None));
    }

    #[test]
    fn fields_of_later_versions_are_skipped() {
        // As stock, which once had a trust domain here.
        let add = b"\x0a\x17\x0a\x01u\x12\x12\x0a\x03web\x12\x04shop\x1a\x02sa\x22\x01t";
        let expected = Request::Add { uid: "u".into(), workload: shop_web(), namespace: () };
        assert_eq!(Decoded::Ok(expected), Request::decode(add, Some(())));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let cases: [(&[u8], Option<()>, RequestError); 8] = [
            (b"", None, RequestError::NoPayload),
            (b"\x22\x00", None, RequestError::NoPayload),
            (b"\x0a\x03\x0a\x01u", Some(()), RequestError::NoWorkload),
            (b"\x0a\x02\x12\x00", Some(()), RequestError::NoUid),
            (b"\x0a\x03\x0a\x01u", None, RequestError::NoNamespace),
            (b"\x12\x03\x12\x01u", Some(()), RequestError::UnexpectedNamespace),
            // The number that Keep has its uid under.
            (b"\x12\x03\x0a\x01u", None, RequestError::NoUid),
            (b"\x2a\x00", None, RequestError::NoUid),
        ];
        for (bytes, namespace, error) in cases {
            assert_eq!(Request::decode(bytes, namespace), Err(error), "{bytes:?}");
        }
        assert!(matches!(Request::decode(b"\x0a\x7f", Some(())), Err(RequestError::Decode(_))));
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..random.usize(..40)).map(|_| random.u8(..)).collect();
            let _ = Request::decode(&bytes, random.bool().then_some(()));
        }
    }

    #[test]
    fn a_long_error_is_cut_between_characters() {
        let bytes = answer(Some(&"ü".repeat(5_000)));
        assert!(bytes.len() <= 1_024, "{}", bytes.len());
        let error = WorkloadResponse::decode(&bytes[..]).unwrap().ack.unwrap().error;
        assert!(error.chars().all(|char| char == 'ü') && error.len() >= MAX_ERROR - 1, "{error}");
    }
}
