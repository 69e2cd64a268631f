//! The bytes of a frozen connection: a checksum (CRC-32 of what follows, big-endian) and a protocol buffer.
//!
//! A reader skips fields that it doesn't know; a field is never given a new meaning, nor its number to another one. What a
//! reader *must* know is named in `features`. Times are elapsed or remaining milliseconds, since clocks differ between
//! processes. No secret is in here. The checksum is against accidents, not against an attacker.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use prost::{Message, Oneof};
use rustix::net::sockopt::socket_cookie;

use super::MoveError;
use super::facts::address;
use crate::namespace::NamespaceId;
use crate::pod::{Pod, Pods};
use crate::socket;
use crate::worker::dial::moving::KnockRecord;
use crate::worker::pair::moving::PairRecord;
use crate::worker::tunnel::moving::record::TunnelRecord;
use crate::worker::user::moving::UserRecord;

/// The one version that this build writes and reads.
const VERSION: u32 = 1;

/// What a record may need of its reader. A name is never used for something else.
const FEATURES: &[&str] = &[];

/// Bytes before the protocol buffer.
const CHECKSUM: usize = 4;

#[derive(Clone, PartialEq, Message)]
pub(in crate::worker) struct ConnectionRecord {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(string, repeated, tag = "2")]
    features: Vec<String>,
    /// Which sockets come along, in their order.
    #[prost(message, repeated, tag = "3")]
    sockets: Vec<SocketRecord>,
    /// Whose it is.
    #[prost(message, optional, tag = "4")]
    pod: Option<PodRecord>,
    #[prost(oneof = "Body", tags = "5, 6, 7, 8")]
    pub(in crate::worker) body: Option<Body>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(in crate::worker) enum Body {
    #[prost(message, tag = "5")]
    Tunnel(TunnelRecord),
    #[prost(message, tag = "6")]
    Plain(PairRecord),
    #[prost(message, tag = "7")]
    User(UserRecord),
    #[prost(message, tag = "8")]
    Knock(KnockRecord),
}

/// A socket as the kernel knows it, so that no connection is ever joined to another one's socket.
#[derive(Clone, PartialEq, Message)]
struct SocketRecord {
    /// Never the same for two sockets, and the same for all copies of one.
    #[prost(uint64, tag = "1")]
    cookie: u64,
    #[prost(string, optional, tag = "2")]
    local: Option<String>,
    /// None while it is being connected, or when it has failed.
    #[prost(string, optional, tag = "3")]
    peer: Option<String>,
}

/// What istio-cni calls the pod, and the number of its network namespace.
#[derive(Clone, PartialEq, Message)]
struct PodRecord {
    #[prost(string, tag = "1")]
    uid: String,
    #[prost(uint64, tag = "2")]
    namespace_device: u64,
    #[prost(uint64, tag = "3")]
    namespace_inode: u64,
}

/// The record of a connection of this pod with these sockets.
pub(in crate::worker) fn write(pod: &Pod, sockets: &[OwnedFd], body: Body) -> Vec<u8> {
    let namespace = pod.namespace_id();
    let record = ConnectionRecord {
        version: VERSION,
        features: Vec::new(),
        sockets: sockets.iter().map(SocketRecord::of).collect(),
        pod: Some(PodRecord {
            uid: pod.uid().to_string(),
            namespace_device: namespace.device,
            namespace_inode: namespace.inode,
        }),
        body: Some(body),
    };
    record.seal()
}

/// Reads a record of one of these pods, and checks that these are its sockets.
pub(in crate::worker) fn read(
    bytes: &[u8],
    sockets: &[OwnedFd],
    pods: &Pods,
) -> Result<(Arc<Pod>, Body), MoveError> {
    let record = ConnectionRecord::open(bytes)?;
    let pod = record.pod.ok_or(MoveError::Record("no pod"))?;
    let namespace = NamespaceId { device: pod.namespace_device, inode: pod.namespace_inode };
    let pod = pods.find(&pod.uid, namespace).filter(|pod| !pod.is_gone()).ok_or(MoveError::PodGone)?;
    let expected = record.sockets.len();
    if sockets.len() != expected {
        return Err(MoveError::Sockets { expected, got: sockets.len() });
    }
    for (index, (told, socket)) in record.sockets.iter().zip(sockets).enumerate() {
        if !told.is(&SocketRecord::of(socket))? {
            return Err(MoveError::WrongSocket(index));
        }
    }
    Ok((pod, record.body.ok_or(MoveError::Record("a kind of connection that this build doesn't know"))?))
}

impl ConnectionRecord {
    fn seal(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(CHECKSUM + self.encoded_len());
        bytes.extend_from_slice(&[0; CHECKSUM]);
        self.encode_raw(&mut bytes);
        let checksum = crc32fast::hash(&bytes[CHECKSUM..]);
        bytes[..CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    fn open(bytes: &[u8]) -> Result<Self, MoveError> {
        let (checksum, bytes) = bytes.split_first_chunk::<CHECKSUM>().ok_or(MoveError::Damaged)?;
        if crc32fast::hash(bytes) != u32::from_be_bytes(*checksum) {
            return Err(MoveError::Damaged);
        }
        let record = Self::decode(bytes).map_err(|_| MoveError::Record("it isn't one"))?;
        if record.version != VERSION {
            return Err(MoveError::Version(record.version));
        }
        match record.features.iter().find(|feature| !FEATURES.contains(&feature.as_str())) {
            Some(unknown) => Err(MoveError::Feature(unknown.clone())),
            None => Ok(record),
        }
    }
}

impl SocketRecord {
    fn of(socket: &OwnedFd) -> Self {
        let socket = socket2::SockRef::from(socket);
        let text = |address: std::io::Result<socket2::SockAddr>| {
            address.ok()?.as_socket().map(|address| socket::canonical(address).to_string())
        };
        Self {
            // A kernel that doesn't tell has no 0 for a real one.
            cookie: socket_cookie(socket.as_fd()).unwrap_or(0),
            local: text(socket.local_addr()),
            peer: text(socket.peer_addr()),
        }
    }

    /// Whether this is the other one, which was looked at later: it may have been connected or lost in between.
    fn is(&self, now: &Self) -> Result<bool, MoveError> {
        let parse = |text: &Option<String>| text.as_deref().map(address).transpose();
        let same = |then: Option<SocketAddr>, now: Option<SocketAddr>| match (then, now) {
            (Some(then), Some(now)) => then == now,
            _ => true,
        };
        Ok(self.cookie == now.cookie
            && same(parse(&self.local)?, parse(&now.local)?)
            && same(parse(&self.peer)?, parse(&now.peer)?))
    }
}

#[cfg(test)]
mod tests;
