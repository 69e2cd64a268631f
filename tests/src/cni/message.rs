//! The messages of ZDS as istio-cni sends and reads them. Written down anew from the wire, and not shared with the proxy: a
//! peer that shared them would prove nothing.

use prost::{Message, Oneof};

/// The first message of a connection, from the proxy.
#[derive(Clone, PartialEq, Message)]
pub struct Hello {
    /// The version of the protocol: 1.
    #[prost(int32, tag = "1")]
    pub version: i32,
}

/// The version that there is.
pub const VERSION: i32 = 1;

/// From istio-cni.
#[derive(Clone, PartialEq, Message)]
pub struct Request {
    /// What is asked.
    #[prost(oneof = "Payload", tags = "1, 2, 3, 5")]
    pub payload: Option<Payload>,
}

/// What istio-cni asks.
#[derive(Clone, PartialEq, Oneof)]
pub enum Payload {
    /// Serve a pod; its network namespace comes along.
    #[prost(message, tag = "1")]
    Add(Add),
    /// Serve a pod no more.
    #[prost(message, tag = "2")]
    Delete(Delete),
    /// All pods were named.
    #[prost(message, tag = "3")]
    SnapshotSent(SnapshotSent),
    /// Go on serving a pod, if it is served.
    #[prost(message, tag = "5")]
    Keep(Keep),
}

/// See [`Payload::Add`].
#[derive(Clone, PartialEq, Message)]
pub struct Add {
    /// The pod's uid.
    #[prost(string, tag = "1")]
    pub uid: String,
    /// Which workload it is.
    #[prost(message, optional, tag = "2")]
    pub workload: Option<WorkloadInfo>,
}

/// A pod by its names.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct WorkloadInfo {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its Kubernetes namespace.
    #[prost(string, tag = "2")]
    pub namespace: String,
    /// Its service account.
    #[prost(string, tag = "3")]
    pub service_account: String,
}

/// See [`Payload::Keep`].
#[derive(Clone, PartialEq, Message)]
pub struct Keep {
    /// The pod's uid.
    #[prost(string, tag = "1")]
    pub uid: String,
}

/// See [`Payload::Delete`].
#[derive(Clone, PartialEq, Message)]
pub struct Delete {
    /// The pod's uid.
    #[prost(string, tag = "2")]
    pub uid: String,
}

/// See [`Payload::SnapshotSent`].
#[derive(Clone, PartialEq, Message)]
pub struct SnapshotSent {}

/// From the proxy.
#[derive(Clone, PartialEq, Message)]
pub struct Response {
    /// The answer to the oldest message that has none.
    #[prost(message, optional, tag = "1")]
    pub ack: Option<Ack>,
}

/// An answer.
#[derive(Clone, PartialEq, Message)]
pub struct Ack {
    /// What went wrong; empty if all went well.
    #[prost(string, tag = "1")]
    pub error: String,
}

impl Request {
    /// The message of `payload`.
    pub(crate) fn new(payload: Payload) -> Self {
        Self { payload: Some(payload) }
    }

    /// What it is, for people: `add uid`.
    pub(crate) fn title(&self) -> String {
        match &self.payload {
            Some(Payload::Add(add)) => format!("add {}", add.uid),
            Some(Payload::Delete(delete)) => format!("delete {}", delete.uid),
            Some(Payload::SnapshotSent(SnapshotSent {})) => "snapshot sent".to_owned(),
            Some(Payload::Keep(keep)) => format!("keep {}", keep.uid),
            None => "nothing".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes as Istio's schema has them, written by hand.
    #[test]
    fn the_bytes_are_those_of_istio() {
        let workload =
            WorkloadInfo { name: "n".to_owned(), namespace: "s".to_owned(), service_account: "a".to_owned() };
        let bytes = |payload| Request::new(payload).encode_to_vec();
        let uid = || "u".to_owned();
        assert_eq!(
            bytes(Payload::Add(Add { uid: uid(), workload: Some(workload) })),
            b"\x0a\x0e\x0a\x01u\x12\x09\x0a\x01n\x12\x01s\x1a\x01a"
        );
        assert_eq!(bytes(Payload::Keep(Keep { uid: uid() })), b"\x2a\x03\x0a\x01u");
        assert_eq!(bytes(Payload::Delete(Delete { uid: uid() })), b"\x12\x03\x12\x01u");
        assert_eq!(bytes(Payload::SnapshotSent(SnapshotSent {})), b"\x1a\x00");
        assert_eq!(Hello { version: VERSION }.encode_to_vec(), b"\x08\x01");
        let refused = Response::decode(&b"\x0a\x05\x0a\x03bad"[..]).expect("a response");
        assert_eq!(refused.ack.map(|ack| ack.error).as_deref(), Some("bad"));
        assert_eq!(Response::decode(&b"\x0a\x00"[..]).expect("a response").ack, Some(Ack::default()));
    }
}
