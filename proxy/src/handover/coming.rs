//! Tunnels that come soon: the giver names them before it gives any, so that nobody dials a second one to the same peer.
//!
//! It is a hint. Who waits for what doesn't come has one dialled after [`COMING_MS`](crate::pool::COMING_MS), or as soon as it is
//! known that nothing more comes.
//!
//! ```text
//!   what we announced:  Nothing ──► Everything ──► Over
//!                          ▲           │            │
//!                          ╰───────────┴────────────╯ the role stays here, or has come back
//! ```

use std::sync::Arc;

use drain::handover::message::{Assembler, Message, Piece};
use prost::Message as _;

use super::outgoing::cut;
use crate::namespace::NamespaceId;
use crate::pod::Pod;
use crate::pool::{Directory, PoolKey};
use crate::shared::Shared;
use crate::worker::{ClientRecord, Message as ToWorker};

/// What was announced on either side of one session.
#[derive(Default)]
pub struct Coming {
    announced: Announced,
    pieces: Assembler,
    /// Announced to us, for pods that aren't served here yet.
    early: Vec<TunnelRecord>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Announced {
    #[default]
    Nothing,
    Everything,
    Over,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ListRecord {
    #[prost(message, repeated, tag = "1")]
    tunnels: Vec<TunnelRecord>,
}

/// A key of a pool.
#[derive(Clone, PartialEq, prost::Message)]
struct TunnelRecord {
    #[prost(string, tag = "1")]
    pod: String,
    #[prost(uint64, tag = "2")]
    namespace_device: u64,
    #[prost(uint64, tag = "3")]
    namespace_inode: u64,
    #[prost(message, optional, tag = "4")]
    to: Option<ClientRecord>,
}

impl Coming {
    /// What to say before tunnels are given: all that are held or dialled here. Nothing if that was said.
    pub fn announce(&mut self, directory: &Directory) -> Vec<Message> {
        if self.announced != Announced::Nothing {
            return Vec::new();
        }
        self.announced = Announced::Everything;
        let tunnels: Vec<_> = directory.keys().iter().map(TunnelRecord::of).collect();
        if tunnels.is_empty() {
            return Vec::new();
        }
        tracing::debug!(tunnels = tunnels.len(), "tunnels that will move are announced");
        let bytes = ListRecord { tunnels }.encode_to_vec();
        cut(&bytes, &[]).into_iter().map(|(piece, _)| Message::Coming(piece)).collect()
    }

    /// What to say when nothing is left to give, or nothing can be given.
    pub fn nothing_left(&mut self) -> Option<Message> {
        let announced = self.announced == Announced::Everything;
        announced.then(|| {
            self.announced = Announced::Over;
            Message::Done
        })
    }

    /// The role stays here, or has come back: what was announced doesn't go.
    pub fn withdraw(&mut self) {
        self.announced = Announced::Nothing;
    }

    /// The other side has announced something.
    pub fn heard(&mut self, piece: Piece, shared: &Shared) {
        match self.pieces.add(piece, Vec::new()) {
            Ok(None) => {}
            Ok(Some(whole)) => match ListRecord::decode(&whole.bytes[..]) {
                Ok(list) => {
                    self.early.extend(list.tunnels);
                    self.expect(shared);
                }
                Err(error) => tracing::debug!(%error, "what comes can't be read"),
            },
            Err(error) => tracing::debug!(%error, "what comes can't be read"),
        }
    }

    /// Has the announced tunnels of all pods that are served here expected, each by a worker.
    pub fn expect(&mut self, shared: &Shared) {
        let workers = shared.workers.get().map_or(1, |workers| workers.len().max(1));
        let mut worker = shared.loads.idlest();
        self.early.retain(|tunnel| {
            let Some(pod) = tunnel.pod(shared) else { return true };
            match tunnel.key(&pod) {
                Some(key) => {
                    shared.directory.expect(key, worker);
                    worker = (worker + 1) % workers;
                }
                None => tracing::debug!(pod = %pod.workload(), "what comes to a pod can't be read"),
            }
            false
        });
    }

    /// Nothing that the other side has announced comes any more: who waits for it waits no longer.
    pub fn nothing_comes(&mut self, shared: &Shared) {
        self.early.clear();
        shared.directory.expect_nothing();
        for worker in 0..shared.workers.get().map_or(0, Vec::len) {
            shared.post(worker, ToWorker::NothingComes);
        }
    }
}

impl TunnelRecord {
    fn of(key: &PoolKey) -> Self {
        let namespace = key.pod.namespace_id();
        Self {
            pod: key.pod.uid().to_string(),
            namespace_device: namespace.device,
            namespace_inode: namespace.inode,
            to: Some(ClientRecord::of(key, 0)),
        }
    }

    fn pod(&self, shared: &Shared) -> Option<Arc<Pod>> {
        let namespace = NamespaceId { device: self.namespace_device, inode: self.namespace_inode };
        shared.pods.find(&self.pod, namespace)
    }

    fn key(&self, pod: &Arc<Pod>) -> Option<PoolKey> {
        self.to.as_ref()?.key(pod).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace::Namespace;
    use crate::pod::WorkloadName;

    fn pod() -> Arc<Pod> {
        let name = || Arc::from("web");
        let workload = WorkloadName { namespace: name(), name: name(), service_account: name() };
        Arc::new(Pod::new("uid-1", workload, Arc::new(Namespace::current().unwrap()), false))
    }

    fn key(pod: &Arc<Pod>, port: u16) -> PoolKey {
        PoolKey {
            pod: pod.clone(),
            source: "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap(),
            source_address: Some([192, 0, 2, 1].into()),
            address: ([192, 0, 2, 2], port).into(),
            expected: Arc::new(["spiffe://cluster.local/ns/shop/sa/db".parse().unwrap()]),
        }
    }

    /// The keys that are announced, as the other side reads them for its own pod.
    fn read(messages: Vec<Message>, pod: &Arc<Pod>) -> Vec<PoolKey> {
        let mut pieces = Assembler::new();
        let mut whole = None;
        for message in messages {
            let Message::Coming(piece) = message else { panic!("{message:?}") };
            assert!(whole.is_none(), "a piece too many");
            whole = pieces.add(piece, Vec::new()).unwrap();
        }
        let list = ListRecord::decode(&whole.unwrap().bytes[..]).unwrap();
        let named = |tunnel: &TunnelRecord| {
            assert_eq!(tunnel.pod, "uid-1");
            assert_eq!(tunnel.namespace_inode, pod.namespace_id().inode);
            tunnel.key(pod).unwrap()
        };
        list.tunnels.iter().map(named).collect()
    }

    #[test]
    fn all_that_is_held_is_announced_in_as_many_pieces_as_it_takes() {
        let (ours, theirs) = (pod(), pod());
        let directory = Directory::new();
        for port in 1..=2_000 {
            directory.enter(&key(&ours, port), 0);
        }
        directory.expect(key(&ours, 2_001), 0);
        let messages = Coming::default().announce(&directory);
        assert!(messages.len() > 1);
        let mut read = read(messages, &theirs);
        read.sort();
        assert!(read == (1..=2_000).map(|port| key(&theirs, port)).collect::<Vec<_>>());
    }

    #[test]
    fn it_is_said_once_and_once_that_it_is_over() {
        let directory = Directory::new();
        directory.enter(&key(&pod(), 1), 0);
        let mut coming = Coming::default();
        assert_eq!(coming.nothing_left(), None);
        for _ in 0..2 {
            assert_eq!([(); 2].map(|()| coming.announce(&directory).len()), [1, 0]);
            assert_eq!([(); 2].map(|()| coming.nothing_left()), [Some(Message::Done), None]);
            assert!(coming.announce(&directory).is_empty(), "later waves are leftovers");
            coming.withdraw();
        }
    }
}
