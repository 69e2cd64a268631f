//! A tunnel on its way up, of either role.

pub(super) mod moving;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use drain::Tracked;
use hbone::{Established, Handshake, Time};
use xds::Identity;

use super::core::{Core, Job, Source};
use super::jobs::Queued;
use super::leg::{Leg, Taken};
use crate::flow::{Dial as Flow, DialEvent, DialNext};
use crate::identity::{Credentials, Lookup, peer_identity};
use crate::inbound::TunnelPeer;
use crate::pod::Pod;
use crate::pool::PoolKey;
use crate::socket;
use crate::telemetry::{ConnectionFacts, Failure, ResponseFlags};

/// How often a missing workload is looked for, ms.
const LOOK_AGAIN: u64 = 100;

/// See the module.
pub(super) struct Dial {
    pub(super) pod: Arc<Pod>,
    stage: Stage,
    pub(super) role: DialRole,
    /// When the stage's time is up, ms.
    deadline: u64,
    /// Whose certificate was asked for: the answer wakes us.
    asked: Option<Identity>,
    pub(super) armed: Option<u64>,
    pub(super) queued: Queued,
}

/// Our part in the tunnel.
pub(super) enum DialRole {
    Client { key: PoolKey },
    Server { source: SocketAddr, tracked: Tracked<ConnectionFacts> },
}

/// The steps of [`Flow`] with what each needs.
enum Stage {
    AwaitCertificate {
        /// The accepted socket, in the server's role.
        accepted: Option<Leg>,
    },
    Connecting {
        leg: Leg,
        credentials: Arc<Credentials>,
    },
    Handshaking {
        leg: Leg,
        handshake: Box<Handshake>,
        /// Whose certificate we show.
        identity: Identity,
    },
    /// The tunnel is up and was taken; or it failed.
    Over,
}

impl Stage {
    fn flow(&self) -> Option<Flow> {
        match self {
            Self::AwaitCertificate { .. } => Some(Flow::AwaitCertificate),
            Self::Connecting { .. } => Some(Flow::Connecting),
            Self::Handshaking { .. } => Some(Flow::Handshaking),
            Self::Over => None,
        }
    }

    fn into_leg(self) -> Option<Leg> {
        match self {
            Self::AwaitCertificate { accepted } => accepted,
            Self::Connecting { leg, .. } | Self::Handshaking { leg, .. } => Some(leg),
            Self::Over => None,
        }
    }
}

/// What a dial came to.
pub(super) enum Dialled {
    /// It goes on.
    Waiting,
    /// A tunnel: its socket, connection and peer.
    Up { leg: Leg, established: Box<Established>, peer: TunnelPeer },
    /// It failed; its socket is closed.
    Failed(Failure),
}

impl Dial {
    pub(super) fn client(key: PoolKey, now: u64) -> Self {
        let pod = key.pod.clone();
        Self::new(pod, Stage::AwaitCertificate { accepted: None }, DialRole::Client { key }, now)
    }

    pub(super) fn server(leg: Leg, source: SocketAddr, tracked: Tracked<ConnectionFacts>, now: u64) -> Self {
        let (pod, role) = (leg.pod().clone(), DialRole::Server { source, tracked });
        Self::new(pod, Stage::AwaitCertificate { accepted: Some(leg) }, role, now)
    }

    fn new(pod: Arc<Pod>, stage: Stage, role: DialRole, now: u64) -> Self {
        Self {
            queued: Queued::of(&pod),
            pod,
            stage,
            role,
            deadline: now + Flow::AwaitCertificate.limit(),
            asked: None,
            armed: None,
        }
    }

    pub(super) fn leg(&mut self) -> Option<&mut Leg> {
        match &mut self.stage {
            Stage::AwaitCertificate { accepted } => accepted.as_mut(),
            Stage::Connecting { leg, .. } | Stage::Handshaking { leg, .. } => Some(leg),
            Stage::Over => None,
        }
    }

    /// Does what can be done now.
    pub(super) fn drive(&mut self, key: usize, core: &mut Core) -> Dialled {
        loop {
            let flow = self.stage.flow();
            let stage = std::mem::replace(&mut self.stage, Stage::Over);
            let step = match stage {
                Stage::AwaitCertificate { accepted } => self.certificate(key, core, accepted),
                Stage::Connecting { leg, credentials } => self.connecting(core, leg, &credentials),
                Stage::Handshaking { leg, handshake, identity } => {
                    Self::handshake(core, leg, handshake, identity)
                }
                Stage::Over => return Dialled::Waiting,
            };
            match step {
                Step::Next(event, stage) => {
                    self.stage = stage;
                    if let Some(DialNext::Go(flow)) = flow.and_then(|flow| flow.on(event)) {
                        self.deadline = core.now + flow.limit();
                    }
                }
                Step::Stay(stage) => {
                    self.stage = stage;
                    if core.now >= self.deadline {
                        return self.expire(core);
                    }
                    self.arm(key, core);
                    return Dialled::Waiting;
                }
                Step::Up(leg, established, identity) => {
                    core.timers.set(Job::Dial(key), &mut self.armed, None);
                    return self.up(leg, established, identity);
                }
                Step::Fail(leg, failure) => {
                    if let Some(leg) = leg {
                        core.close(leg);
                    }
                    core.timers.set(Job::Dial(key), &mut self.armed, None);
                    return Dialled::Failed(failure);
                }
            }
        }
    }

    /// Whose certificate it shows, once that is decided.
    pub(super) fn local_identity(&self) -> Option<&Identity> {
        match &self.stage {
            Stage::Connecting { credentials, .. } => Some(credentials.identity()),
            Stage::Handshaking { identity, .. } => Some(identity),
            Stage::AwaitCertificate { .. } | Stage::Over => None,
        }
    }

    /// Closes it for a reason of the worker's own.
    pub(super) fn abandon(self, core: &mut Core) -> DialRole {
        if let Some(leg) = self.stage.into_leg() {
            core.close(leg);
        }
        self.role
    }

    fn expire(&mut self, core: &mut Core) -> Dialled {
        let Some(flow) = self.stage.flow() else { return Dialled::Waiting };
        if let Some(leg) = std::mem::replace(&mut self.stage, Stage::Over).into_leg() {
            core.close(leg);
        }
        let flags = match flow {
            Flow::AwaitCertificate => ResponseFlags::IdentityError,
            Flow::Connecting => ResponseFlags::NetworkPolicy,
            Flow::Handshaking => ResponseFlags::TlsFailure,
        };
        match flow.on(DialEvent::Timeout) {
            Some(DialNext::Fail(error)) => Dialled::Failed(Failure::new(flags, error.to_string())),
            _ => Dialled::Waiting,
        }
    }

    fn arm(&mut self, key: usize, core: &mut Core) {
        let waits_for_workload = matches!(self.stage, Stage::AwaitCertificate { .. });
        let at = if waits_for_workload { self.deadline.min(core.now + LOOK_AGAIN) } else { self.deadline };
        core.timers.set(Job::Dial(key), &mut self.armed, Some(at));
    }

    fn certificate(&mut self, key: usize, core: &mut Core, accepted: Option<Leg>) -> Step {
        let identity = match &self.role {
            DialRole::Client { key } => Some(key.source.clone()),
            DialRole::Server { .. } => {
                core.shared.local_workload(&self.pod).map(|workload| workload.identity())
            }
        };
        let Some(identity) = identity else { return Step::Stay(Stage::AwaitCertificate { accepted }) };
        let credentials = match core.shared.certificates.lookup(&identity) {
            Lookup::Ready(credentials) => credentials,
            Lookup::Pending => {
                // The local workload may have become another one since.
                if self.asked.as_ref() != Some(&identity) {
                    self.asked = Some(identity.clone());
                    let (shared, worker) = (core.shared.clone(), core.id);
                    let wake = move || shared.post(worker, super::Message::Wake(key));
                    core.shared.certificates.request(&identity, Box::new(wake));
                }
                return Step::Stay(Stage::AwaitCertificate { accepted });
            }
            Lookup::Unavailable(reason) => {
                let failure = Failure::new(ResponseFlags::IdentityError, format!("certificate: {reason}"));
                return Step::Fail(accepted, failure);
            }
        };
        match (&self.role, accepted) {
            (DialRole::Server { .. }, Some(leg)) => {
                let config = core.shared.http2.server.clone();
                match Handshake::server(credentials.server(), config) {
                    Ok(handshake) => Step::Next(
                        DialEvent::Certificate { connected: true },
                        Stage::Handshaking { leg, handshake: Box::new(handshake), identity },
                    ),
                    Err(error) => Step::Fail(Some(leg), tls_failure(&error)),
                }
            }
            (DialRole::Client { key: pool_key }, None) => {
                let from = pool_key.source_address.map(socket::Source::Own);
                match core.connect(pool_key.address, from, Source::Dial(key), &self.pod) {
                    Ok(leg) => Step::Next(
                        DialEvent::Certificate { connected: false },
                        Stage::Connecting { leg, credentials },
                    ),
                    Err(error) => Step::Fail(None, connect_failure(pool_key.address, &error)),
                }
            }
            (_, accepted) => Step::Stay(Stage::AwaitCertificate { accepted }),
        }
    }

    fn connecting(&self, core: &Core, leg: Leg, credentials: &Arc<Credentials>) -> Step {
        let DialRole::Client { key } = &self.role else { return Step::Stay(Stage::Over) };
        if !leg.writable && !leg.has_failed() {
            return Step::Stay(Stage::Connecting { leg, credentials: credentials.clone() });
        }
        match leg.connected() {
            Ok(true) => {}
            Ok(false) => return Step::Stay(Stage::Connecting { leg, credentials: credentials.clone() }),
            Err(error) => return Step::Fail(Some(leg), connect_failure(key.address, &error)),
        }
        let tls = match credentials.client(key.expected.iter()) {
            Ok(tls) => tls,
            Err(error) => return Step::Fail(Some(leg), tls_failure(&error)),
        };
        match Handshake::client(&tls, core.shared.http2.client.clone()) {
            Ok(handshake) => {
                let (handshake, identity) = (Box::new(handshake), key.source.clone());
                Step::Next(DialEvent::Connected, Stage::Handshaking { leg, handshake, identity })
            }
            Err(error) => Step::Fail(Some(leg), tls_failure(&error)),
        }
    }

    fn handshake(core: &mut Core, mut leg: Leg, mut handshake: Box<Handshake>, identity: Identity) -> Step {
        loop {
            while leg.writable && !handshake.output().is_empty() {
                match leg.write(handshake.output()) {
                    Ok(n) => handshake.advance(n),
                    Err(error) => return Step::Fail(Some(leg), tls_failure(&error)),
                }
            }
            if handshake.is_complete() {
                return match handshake.finish(Time(core.now)) {
                    Ok(established) => Step::Up(leg, Box::new(established), identity),
                    Err(error) => Step::Fail(Some(leg), tls_failure(&error)),
                };
            }
            if !leg.readable {
                return Step::Stay(Stage::Handshaking { leg, handshake, identity });
            }
            match leg.read(&mut core.plain[..16 * 1024]) {
                Taken::Bytes(n) => {
                    if let Err(error) = handshake.receive(&core.plain[..n]) {
                        // The alert that tells the peer why.
                        let _ = leg.write(handshake.output());
                        return Step::Fail(Some(leg), tls_failure(&error));
                    }
                }
                Taken::Blocked => {}
                Taken::End => {
                    let failure = Failure::new(
                        ResponseFlags::TlsFailure,
                        "tls handshake: the peer closed the connection".to_owned(),
                    );
                    return Step::Fail(Some(leg), failure);
                }
                Taken::Failed(error) => return Step::Fail(Some(leg), tls_failure(&error)),
            }
        }
    }

    fn up(&self, leg: Leg, established: Box<Established>, local_identity: Identity) -> Dialled {
        let address = match &self.role {
            DialRole::Client { key } => key.address,
            DialRole::Server { source, .. } => *source,
        };
        let local = match leg.local_addr() {
            Ok(local) => socket::canonical(local),
            Err(error) => return Dialled::Failed(tls_failure(&error)),
        };
        let identity = peer_identity(&established.peer_certificates);
        Dialled::Up { leg, established, peer: TunnelPeer { address, local, identity, local_identity } }
    }
}

/// What one step came to. Failures carry the socket that is to be closed.
enum Step {
    Next(DialEvent, Stage),
    Stay(Stage),
    Up(Leg, Box<Established>, Identity),
    Fail(Option<Leg>, Failure),
}

fn connect_failure(to: SocketAddr, error: &io::Error) -> Failure {
    Failure::new(ResponseFlags::Connect, format!("connect to {to}: {error}"))
}

fn tls_failure(error: &dyn std::fmt::Display) -> Failure {
    Failure::new(ResponseFlags::TlsFailure, format!("tls handshake: {error}"))
}
