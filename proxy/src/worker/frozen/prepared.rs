//! A frozen connection that was read and checked, and waits for its commit.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use hbone::{Secrets, Time};

use super::record::{self, Body};
use super::{FrozenConnection, FrozenKind, MoveError};
use crate::pod::{Pod, Pods};
use crate::pool::PoolKey;
use crate::socket;
use crate::worker::dial::moving::PreparedKnock;
use crate::worker::pair::moving::PreparedPair;
use crate::worker::tunnel::moving::PreparedTunnel;
use crate::worker::user::moving::PreparedUser;

/// A connection whose record fits its sockets and this process. Everything that can fail has not; what is missing is the
/// owner's word. It can neither read nor write: it has no keys, and its sockets are in no event loop.
pub struct PreparedConnection {
    pub(in crate::worker) pod: Arc<Pod>,
    pub(in crate::worker) sockets: Vec<OwnedFd>,
    pub(in crate::worker) frozen_at: u64,
    content: Content,
}

/// What it is, without keys.
enum Content {
    Tunnel(Box<hbone::Prepared>, Box<PreparedTunnel>),
    Other(Box<PreparedOther>),
}

/// What it is, with keys.
pub(in crate::worker) enum Committed {
    Tunnel(Box<hbone::Connection>, Box<PreparedTunnel>),
    Other(Box<PreparedOther>),
}

/// What has no keys.
pub(in crate::worker) enum PreparedOther {
    Pair(PreparedPair),
    User(PreparedUser),
    Knock(PreparedKnock),
}

impl PreparedConnection {
    /// Reads the record of a connection of one of these pods. `frozen_at` is [`FrozenConnection::frozen_at`], `now` the
    /// time of this process's [`Clock`](crate::clock::Clock).
    ///
    /// # Errors
    /// The connection can't run here. These copies of its sockets are closed then, and nothing else is done to them: its
    /// owner goes on with his.
    pub fn read(
        record: &[u8],
        sockets: Vec<OwnedFd>,
        frozen_at: u64,
        pods: &Pods,
        now: u64,
    ) -> Result<Self, MoveError> {
        let (pod, content) = check(record, &sockets, pods, now)?;
        Ok(Self { pod, sockets, frozen_at, content })
    }

    /// What it is.
    pub fn kind(&self) -> FrozenKind {
        match &self.content {
            Content::Tunnel(..) => FrozenKind::Tunnel,
            Content::Other(other) => match &**other {
                PreparedOther::Pair(_) => FrozenKind::Plain,
                PreparedOther::User(_) | PreparedOther::Knock(_) => FrozenKind::Setup,
            },
        }
    }

    /// Streams of a tunnel; 0 for others.
    pub fn streams(&self) -> usize {
        match &self.content {
            Content::Tunnel(_, tunnel) => tunnel.streams(),
            Content::Other(_) => 0,
        }
    }

    /// Who may use a tunnel that we dialled; none of others.
    pub fn pool_key(&self) -> Option<&PoolKey> {
        match &self.content {
            Content::Tunnel(_, tunnel) => tunnel.key(),
            Content::Other(_) => None,
        }
    }

    /// Whose it is.
    pub fn pod(&self) -> &Arc<Pod> {
        &self.pod
    }

    /// It is ours from here on, whatever comes.
    ///
    /// # Errors
    /// These aren't its secrets, or its pod has gone meanwhile. Its sockets are reset: nobody must take what was cut for
    /// whole.
    pub(in crate::worker) fn commit(
        self,
        secrets: Option<Secrets>,
        now: u64,
    ) -> Result<(Arc<Pod>, Vec<OwnedFd>, Committed), MoveError> {
        let Self { pod, sockets, content, .. } = self;
        let committed = if pod.is_gone() { Err(MoveError::PodGone) } else { content.commit(secrets, now) };
        match committed {
            Ok(committed) => Ok((pod, sockets, committed)),
            Err(error) => {
                sockets.iter().for_each(socket::abort);
                Err(error)
            }
        }
    }
}

impl Content {
    fn commit(self, secrets: Option<Secrets>, now: u64) -> Result<Committed, MoveError> {
        match (self, secrets) {
            (Self::Tunnel(connection, tunnel), Some(secrets)) => {
                Ok(Committed::Tunnel(Box::new(connection.commit(Time(now), &secrets)?), tunnel))
            }
            (Self::Other(other), None) => Ok(Committed::Other(other)),
            (Self::Tunnel(..), None) | (Self::Other(_), Some(_)) => Err(MoveError::Secrets),
        }
    }
}

/// Whose connection this is, and what it is.
fn check(
    record: &[u8],
    sockets: &[OwnedFd],
    pods: &Pods,
    now: u64,
) -> Result<(Arc<Pod>, Content), MoveError> {
    let (pod, body) = record::read(record, sockets, pods)?;
    let other = |other| Content::Other(Box::new(other));
    let content = match body {
        Body::Tunnel(tunnel) => {
            let (connection, tunnel) = tunnel.read(&pod, sockets.len(), now)?;
            Content::Tunnel(Box::new(connection), Box::new(tunnel))
        }
        Body::Plain(pair) => other(PreparedOther::Pair(pair.read(sockets.len(), now)?)),
        Body::User(user) => other(PreparedOther::User(user.read(&pod, sockets.len(), now)?)),
        Body::Knock(knock) => other(PreparedOther::Knock(knock.read(sockets.len(), now)?)),
    };
    Ok((pod, content))
}

impl FrozenConnection {
    /// Reads what was frozen in this very process, and is nobody else's.
    ///
    /// # Errors
    /// As [`PreparedConnection::read`]; but there is no other owner, so its sockets are reset.
    pub(in crate::worker) fn prepare(
        self,
        pods: &Pods,
        now: u64,
    ) -> Result<(PreparedConnection, Option<Secrets>), MoveError> {
        let Self { record, secrets, sockets, frozen_at, .. } = self;
        match check(&record, &sockets, pods, now) {
            Ok((pod, content)) => Ok((PreparedConnection { pod, sockets, frozen_at, content }, secrets)),
            Err(error) => {
                sockets.iter().for_each(socket::abort);
                Err(error)
            }
        }
    }
}

/// Says what it is and whose, and nothing of what it holds.
impl fmt::Debug for PreparedConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreparedConnection")
            .field("kind", &self.kind())
            .field("streams", &self.streams())
            .field("pod", &self.pod)
            .finish_non_exhaustive()
    }
}
