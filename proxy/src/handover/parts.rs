//! What the role is made of, as it travels: pods with their namespaces and listening sockets, the servers for operators, the
//! connection to istio-cni.

use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::{fmt, io};

use drain::handover::message::Payload;
use prost::Message;

use crate::dns::DnsSockets;
use crate::namespace::{Namespace, NamespaceId};
use crate::pod::{Pod, WorkloadName};
use crate::worker::Listening;
use crate::zds;

/// A pod and where its connections come in. The sockets are copies: whoever holds them may accept, or not.
#[derive(Debug)]
pub struct PodPart {
    /// What istio-cni calls it.
    pub uid: Arc<str>,
    /// What Kubernetes calls it.
    pub workload: WorkloadName,
    /// Where its sockets are made.
    pub namespace: Arc<Namespace>,
    /// Whether its listeners take and give foreign addresses.
    pub transparent: bool,
    /// For TCP.
    pub listeners: Vec<(Listening, TcpListener)>,
    /// For questions of names.
    pub dns: Option<DnsSockets>,
}

/// The servers for operators, where both processes share a network namespace.
#[derive(Debug)]
pub struct OperatorSockets {
    /// One for each address of loopback.
    pub admin: Vec<TcpListener>,
    /// Metrics.
    pub stats: TcpListener,
    /// Readiness.
    pub readiness: TcpListener,
}

impl OperatorSockets {
    /// A copy of each.
    ///
    /// # Errors
    /// If descriptors have run out.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            admin: self.admin.iter().map(TcpListener::try_clone).collect::<io::Result<_>>()?,
            stats: self.stats.try_clone()?,
            readiness: self.readiness.try_clone()?,
        })
    }
}

/// One part of the role. Some hold keys.
pub enum Part {
    /// A pod that is served.
    Pod(PodPart),
    /// Where operators ask.
    Operators(OperatorSockets),
    /// The connection to istio-cni, at a packet's boundary, with nothing unanswered.
    NodeAgent(zds::Transfer),
    /// A certificate with its key.
    Certificate(Payload),
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pod(_) => "Pod",
            Self::Operators(_) => "Operators",
            Self::NodeAgent(_) => "NodeAgent",
            Self::Certificate(_) => "Certificate",
        })
    }
}

/// Why a part can't be used.
#[derive(Debug, thiserror::Error)]
pub enum PartError {
    /// It isn't one.
    #[error("a part of the role can't be read: {0}")]
    Record(#[from] prost::DecodeError),
    /// This build doesn't know what it is.
    #[error("a part of the role is of kind {0}, which this version doesn't know")]
    Kind(u32),
    /// Another number of descriptors came than it names.
    #[error("a part of the role came with {got} descriptors instead of {expected}")]
    Descriptors {
        /// What the part says.
        expected: usize,
        /// What came.
        got: usize,
    },
    /// The namespace is another one than the part says.
    #[error("a pod came with another network namespace than its own")]
    Namespace,
    /// The kernel refused something.
    #[error("a part of the role can't be used: {0}")]
    System(#[from] io::Error),
}

const POD: u32 = 1;
const OPERATORS: u32 = 2;
const NODE_AGENT: u32 = 3;
const CERTIFICATE: u32 = 4;

/// A pod that is served.
#[derive(Clone, PartialEq, Message)]
struct PodRecord {
    #[prost(message, optional, tag = "1")]
    named: Option<NamedRecord>,
    #[prost(bool, tag = "2")]
    transparent: bool,
    /// The ports' purposes, in the order of the descriptors that follow the namespace's.
    #[prost(uint32, repeated, tag = "3")]
    listeners: Vec<u32>,
    #[prost(bool, tag = "4")]
    answers_names: bool,
    #[prost(uint32, tag = "5")]
    dns_udp: u32,
    #[prost(uint32, tag = "6")]
    dns_tcp: u32,
}

#[derive(Clone, PartialEq, Message)]
struct OperatorsRecord {
    #[prost(uint32, tag = "1")]
    admin: u32,
}

#[derive(Clone, PartialEq, Message)]
struct NodeAgentRecord {
    #[prost(bool, tag = "1")]
    connected: bool,
    #[prost(uint64, tag = "2")]
    unread_since_ns: u64,
    #[prost(message, repeated, tag = "3")]
    served: Vec<NamedRecord>,
    #[prost(message, repeated, tag = "4")]
    pending: Vec<NamedRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct NamedRecord {
    #[prost(string, tag = "1")]
    uid: String,
    #[prost(string, tag = "2")]
    namespace: String,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(string, tag = "4")]
    service_account: String,
    #[prost(uint64, tag = "5")]
    device: u64,
    #[prost(uint64, tag = "6")]
    inode: u64,
    #[prost(string, tag = "7")]
    error: String,
}

impl NamedRecord {
    fn new(uid: &str, workload: &WorkloadName, id: NamespaceId, error: &str) -> Self {
        Self {
            uid: uid.to_owned(),
            namespace: workload.namespace.to_string(),
            name: workload.name.to_string(),
            service_account: workload.service_account.to_string(),
            device: id.device,
            inode: id.inode,
            error: error.to_owned(),
        }
    }

    fn workload(&self) -> WorkloadName {
        WorkloadName {
            namespace: self.namespace.as_str().into(),
            name: self.name.as_str().into(),
            service_account: self.service_account.as_str().into(),
        }
    }

    fn id(&self) -> NamespaceId {
        NamespaceId { device: self.device, inode: self.inode }
    }

    /// The namespace, if the descriptor is of the one that is meant.
    fn namespace(&self, descriptor: OwnedFd) -> Result<Namespace, PartError> {
        let namespace = Namespace::new(descriptor)?;
        if namespace.id() == self.id() { Ok(namespace) } else { Err(PartError::Namespace) }
    }
}

impl From<&zds::Transfer> for NodeAgentRecord {
    fn from(transfer: &zds::Transfer) -> Self {
        let served = transfer.served.iter();
        let pending = transfer.pending.iter();
        Self {
            connected: transfer.socket.is_some(),
            unread_since_ns: transfer.unread_since_ns,
            served: served.map(|pod| NamedRecord::new(&pod.uid, &pod.workload, pod.namespace, "")).collect(),
            pending: pending
                .map(|pod| NamedRecord::new(&pod.uid, &pod.workload, pod.namespace.id(), &pod.error))
                .collect(),
        }
    }
}

impl NodeAgentRecord {
    fn read(self, rest: &mut impl Iterator<Item = OwnedFd>) -> Result<zds::Transfer, PartError> {
        let missing = || PartError::Descriptors { expected: 1, got: 0 };
        let socket = if self.connected { Some(rest.next().ok_or_else(missing)?) } else { None };
        let served = self.served.iter().map(|pod| zds::ServedPod {
            uid: pod.uid.as_str().into(),
            workload: pod.workload(),
            namespace: pod.id(),
        });
        let mut pending = Vec::with_capacity(self.pending.len());
        for pod in &self.pending {
            let namespace = pod.namespace(rest.next().ok_or_else(missing)?)?;
            pending.push(zds::UnservedPod {
                uid: pod.uid.as_str().into(),
                workload: pod.workload(),
                namespace: Arc::new(namespace),
                error: pod.error.as_str().into(),
            });
        }
        Ok(zds::Transfer { socket, unread_since_ns: self.unread_since_ns, served: served.collect(), pending })
    }
}

impl Part {
    /// Its kind and its bytes.
    pub fn encode(&self) -> (u32, Payload) {
        match self {
            Self::Pod(pod) => (POD, pod.record().encode_to_vec().into()),
            Self::Operators(sockets) => {
                (OPERATORS, OperatorsRecord { admin: sockets.admin.len() as u32 }.encode_to_vec().into())
            }
            Self::NodeAgent(transfer) => (NODE_AGENT, NodeAgentRecord::from(transfer).encode_to_vec().into()),
            Self::Certificate(parcel) => (CERTIFICATE, parcel.clone()),
        }
    }

    /// What travels with it.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            Self::Pod(pod) => pod.descriptors(),
            Self::Operators(OperatorSockets { admin, stats, readiness }) => {
                admin.iter().chain([stats, readiness]).map(AsFd::as_fd).collect()
            }
            Self::NodeAgent(transfer) => {
                let connection = transfer.socket.iter().map(AsFd::as_fd);
                connection.chain(transfer.pending.iter().map(|pod| pod.namespace.as_fd())).collect()
            }
            Self::Certificate(_) => Vec::new(),
        }
    }

    /// Reads what [`Part::encode`] wrote.
    ///
    /// # Errors
    /// [`PartError`]; then all descriptors are closed.
    pub fn decode(kind: u32, bytes: &[u8], descriptors: Vec<OwnedFd>) -> Result<Self, PartError> {
        let got = descriptors.len();
        let mut rest = descriptors.into_iter();
        let part = match kind {
            POD => {
                let record = PodRecord::decode(bytes)?;
                let expected =
                    1 + record.listeners.len() + record.dns_udp.saturating_add(record.dns_tcp) as usize;
                if got != expected {
                    return Err(PartError::Descriptors { expected, got });
                }
                Self::Pod(PodPart::read(record, &mut rest)?)
            }
            OPERATORS => {
                let record = OperatorsRecord::decode(bytes)?;
                let expected = 2 + record.admin as usize;
                if got != expected {
                    return Err(PartError::Descriptors { expected, got });
                }
                let mut next =
                    || rest.next().map(TcpListener::from).ok_or(PartError::Descriptors { expected, got });
                Self::Operators(OperatorSockets {
                    admin: (0..record.admin).map(|_| next()).collect::<Result<_, _>>()?,
                    stats: next()?,
                    readiness: next()?,
                })
            }
            NODE_AGENT => {
                let record = NodeAgentRecord::decode(bytes)?;
                let expected = usize::from(record.connected) + record.pending.len();
                if got != expected {
                    return Err(PartError::Descriptors { expected, got });
                }
                Self::NodeAgent(record.read(&mut rest)?)
            }
            CERTIFICATE => Self::Certificate(bytes.to_vec().into()),
            other => return Err(PartError::Kind(other)),
        };
        Ok(part)
    }
}

impl PodPart {
    /// A pod with copies of its sockets. None if it is gone.
    pub fn new(pod: &Pod, listeners: Vec<(Listening, TcpListener)>, dns: Option<DnsSockets>) -> Option<Self> {
        Some(Self {
            uid: pod.uid().clone(),
            workload: pod.workload().clone(),
            namespace: pod.namespace()?,
            transparent: pod.is_transparent(),
            listeners,
            dns,
        })
    }

    /// A copy of each socket; the namespace is shared.
    ///
    /// # Errors
    /// If descriptors have run out.
    pub fn try_clone(&self) -> io::Result<Self> {
        let listeners =
            self.listeners.iter().map(|(listening, socket)| Ok((*listening, socket.try_clone()?)));
        Ok(Self {
            uid: self.uid.clone(),
            workload: self.workload.clone(),
            namespace: self.namespace.clone(),
            transparent: self.transparent,
            listeners: listeners.collect::<io::Result<_>>()?,
            dns: self.dns.as_ref().map(DnsSockets::try_clone).transpose()?,
        })
    }

    fn record(&self) -> PodRecord {
        let count = |of: fn(&DnsSockets) -> usize| self.dns.as_ref().map_or(0, of) as u32;
        PodRecord {
            named: Some(NamedRecord::new(&self.uid, &self.workload, self.namespace.id(), "")),
            transparent: self.transparent,
            listeners: self.listeners.iter().map(|(listening, _)| number(*listening)).collect(),
            answers_names: self.dns.is_some(),
            dns_udp: count(|dns| dns.udp.len()),
            dns_tcp: count(|dns| dns.tcp.len()),
        }
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let listeners = self.listeners.iter().map(|(_, listener)| listener.as_fd());
        let udp = self.dns.iter().flat_map(|dns| dns.udp.iter().map(AsFd::as_fd));
        let tcp = self.dns.iter().flat_map(|dns| dns.tcp.iter().map(AsFd::as_fd));
        std::iter::once(self.namespace.as_fd()).chain(listeners).chain(udp).chain(tcp).collect()
    }

    fn read(record: PodRecord, rest: &mut impl Iterator<Item = OwnedFd>) -> Result<Self, PartError> {
        let missing = || PartError::Descriptors { expected: 1, got: 0 };
        let named = record.named.unwrap_or_default();
        let namespace = named.namespace(rest.next().ok_or_else(missing)?)?;
        let listeners = record
            .listeners
            .iter()
            .map(|&number| Ok((listening(number)?, rest.next().ok_or_else(missing)?.into())))
            .collect::<Result<_, PartError>>()?;
        let udp: Vec<UdpSocket> = rest.by_ref().take(record.dns_udp as usize).map(Into::into).collect();
        let tcp = rest.by_ref().take(record.dns_tcp as usize).map(Into::into).collect();
        Ok(Self {
            uid: named.uid.as_str().into(),
            workload: named.workload(),
            namespace: Arc::new(namespace),
            transparent: record.transparent,
            listeners,
            dns: record.answers_names.then_some(DnsSockets { udp, tcp }),
        })
    }
}

fn number(listening: Listening) -> u32 {
    match listening {
        Listening::Outbound => 1,
        Listening::Passthrough => 2,
        Listening::Tunnels => 3,
        Listening::Socks5 => 4,
    }
}

fn listening(number: u32) -> Result<Listening, PartError> {
    Ok(match number {
        1 => Listening::Outbound,
        2 => Listening::Passthrough,
        3 => Listening::Tunnels,
        4 => Listening::Socks5,
        other => return Err(PartError::Kind(other)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> PodPart {
        let socket = || TcpListener::bind("127.0.0.1:0").unwrap();
        PodPart {
            uid: "uid-1".into(),
            workload: WorkloadName {
                namespace: "shop".into(),
                name: "web".into(),
                service_account: "web-account".into(),
            },
            namespace: Arc::new(Namespace::current().unwrap()),
            transparent: true,
            listeners: vec![(Listening::Outbound, socket()), (Listening::Tunnels, socket())],
            dns: Some(DnsSockets { udp: vec![UdpSocket::bind("127.0.0.1:0").unwrap()], tcp: vec![socket()] }),
        }
    }

    fn copies(part: &Part) -> Vec<OwnedFd> {
        part.descriptors().iter().map(|descriptor| descriptor.try_clone_to_owned().unwrap()).collect()
    }

    #[test]
    fn a_pod_arrives_with_its_sockets() {
        let part = Part::Pod(pod());
        let (kind, bytes) = part.encode();
        let Ok(Part::Pod(arrived)) = Part::decode(kind, &bytes, copies(&part)) else { panic!("a pod") };
        let Part::Pod(pod) = part else { panic!("a pod") };
        assert_eq!((&arrived.uid, &arrived.workload), (&pod.uid, &pod.workload));
        assert_eq!((arrived.namespace.id(), arrived.transparent), (pod.namespace.id(), true));
        let ends = |pod: &PodPart| {
            let listeners =
                pod.listeners.iter().map(|(of, socket)| (Some(*of), socket.local_addr().unwrap()));
            let dns = pod.dns.as_ref().unwrap();
            let udp = dns.udp.iter().map(|socket| (None, socket.local_addr().unwrap()));
            let tcp = dns.tcp.iter().map(|socket| (None, socket.local_addr().unwrap()));
            listeners.chain(udp).chain(tcp).collect::<Vec<_>>()
        };
        assert_eq!(ends(&arrived), ends(&pod));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let part = Part::Pod(pod());
        let (kind, bytes) = part.encode();
        let mut fewer = copies(&part);
        fewer.pop();
        let error = Part::decode(kind, &bytes, fewer).unwrap_err();
        assert!(matches!(error, PartError::Descriptors { expected: 5, got: 4 }), "{error}");

        let mut swapped = copies(&part);
        swapped.swap(0, 1);
        let error = Part::decode(kind, &bytes, swapped).unwrap_err();
        assert!(matches!(error, PartError::Namespace), "{error}");

        assert!(matches!(Part::decode(99, &bytes, copies(&part)), Err(PartError::Kind(99))));
        for length in 0..bytes.len() {
            // Whatever it is taken for, nothing panics.
            let _ = Part::decode(kind, &bytes[..length], copies(&part));
        }
    }

    #[test]
    fn one_wrong_field_is_refused_or_makes_a_part_that_can_go_on() {
        let socket = || TcpListener::bind("127.0.0.1:0").unwrap();
        let pod = pod();
        let (uid, workload, namespace) = (pod.uid.clone(), pod.workload.clone(), pod.namespace.clone());
        let served =
            zds::ServedPod { uid: uid.clone(), workload: workload.clone(), namespace: namespace.id() };
        let unserved = zds::UnservedPod { uid, workload, namespace, error: "no room".into() };
        let transfer = zds::Transfer {
            socket: Some(socket().into()),
            unread_since_ns: 1 << 60,
            served: vec![served],
            pending: vec![unserved],
        };
        let operators =
            OperatorSockets { admin: vec![socket(), socket()], stats: socket(), readiness: socket() };
        for part in [Part::Pod(pod), Part::NodeAgent(transfer), Part::Operators(operators)] {
            let (kind, bytes) = part.encode();
            let (mut refused, mut accepted) = (0, 0);
            for damage::Damaged { what, bytes } in damage::every(&bytes) {
                let Ok(read) = Part::decode(kind, &bytes, copies(&part)) else {
                    refused += 1;
                    continue;
                };
                accepted += 1;
                let (kind, bytes) = read.encode();
                let again = Part::decode(kind, &bytes, copies(&read));
                assert!(again.is_ok(), "{part:?}, {what}: {again:?}");
            }
            assert!(refused > 5 && accepted > 0, "{part:?}: {refused} refused, {accepted} accepted");
        }
    }
}
