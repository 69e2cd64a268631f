//! Listeners of a worker.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use drain::Kind;
use mio::net::{TcpListener, TcpStream};

use super::Worker;
use super::connecting::stage_failed;
use super::core::{Job, Source};
use super::jobs::Queued;
use super::leg::Adrift;
use super::placing::Fresh;
use super::user::{Listening, Origin, Stage, User};
use crate::pod::Pod;
use crate::socket;
use crate::telemetry::{ConnectionFacts, Failure, Party, ResponseFlags};

/// Connections accepted in one turn, before others have theirs.
const ACCEPTS_A_TURN: usize = 16;

/// How long accepting pauses when descriptors have run out, ms.
const PAUSE: u64 = 100;

/// See the module.
pub(super) struct Listener {
    pub(super) socket: TcpListener,
    pub(super) listening: Listening,
    pub(super) pod: Arc<Pod>,
    queued: Queued,
    /// Until when it pauses, ms.
    pub(super) armed: Option<u64>,
    /// The last try to accept ended in a pause: the next one is no news.
    pauses: bool,
}

impl Worker {
    pub(super) fn listen(&mut self, listening: Listening, listener: std::net::TcpListener, pod: Arc<Pod>) {
        if pod.is_gone() {
            return;
        }
        let index = self.listeners.keys().max().map_or(0, |last| last + 1);
        let mut socket = TcpListener::from_std(listener);
        if let Err(error) = self.core.add_listener(&mut socket, index) {
            tracing::error!(?listening, pod = %pod.workload(), %error, "a listener can't be used");
            return;
        }
        let queued = Queued::of(&pod);
        self.listeners.insert(index, Listener { socket, listening, pod, queued, armed: None, pauses: false });
        self.listener_ready(index);
    }

    /// Queues the job of a listener, unless it pauses: then its timer does.
    pub(super) fn listener_ready(&mut self, index: usize) {
        if let Some(listener) = self.listeners.get_mut(&index).filter(|listener| listener.armed.is_none()) {
            self.core.enqueue(Job::Listener(index), &mut listener.queued);
        }
    }

    pub(super) fn listener_timeout(&mut self, index: usize) {
        if let Some(listener) = self.listeners.get_mut(&index) {
            listener.armed = None;
        }
        self.listener_ready(index);
    }

    pub(super) fn accept(&mut self, index: usize) {
        let Some(listener) = self.listeners.get_mut(&index) else { return };
        listener.queued.done();
        let (listening, pod) = (listener.listening, listener.pod.clone());
        for _ in 0..ACCEPTS_A_TURN {
            if !self.core.shared.may_accept(&pod) {
                return self.pause(index, &"the pod has its share of this process's open files");
            }
            let Some(listener) = self.listeners.get_mut(&index) else { return };
            match listener.socket.accept() {
                Ok((stream, source)) => {
                    listener.pauses = false;
                    self.accepted(listening, &pod, stream, socket::canonical(source));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // It was reset before we came to it.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                // Mostly "too many open files".
                Err(error) => return self.pause(index, &error),
            }
        }
        self.listener_ready(index);
    }

    /// The kernel keeps what comes queued meanwhile.
    fn pause(&mut self, index: usize, why: &dyn std::fmt::Display) {
        let Some(listener) = self.listeners.get_mut(&index) else { return };
        self.core.shared.telemetry.accept_paused();
        let (listening, pod) = (listener.listening, listener.pod.workload());
        if !std::mem::replace(&mut listener.pauses, true) {
            tracing::warn!(?listening, %pod, "accepting pauses, {PAUSE} ms at a time: {why}");
        }
        let at = self.core.now + PAUSE;
        self.core.timers.set(Job::Listener(index), &mut listener.armed, Some(at));
    }

    /// Accepts what the kernel has completed already, then closes the listeners.
    pub(super) fn stop_accepting(&mut self) {
        let indexes: Vec<usize> = self.listeners.keys().copied().collect();
        for index in indexes {
            while let Some(listener) = self.listeners.get_mut(&index) {
                let (listening, pod) = (listener.listening, listener.pod.clone());
                let Ok((stream, source)) = listener.socket.accept() else { break };
                self.accepted(listening, &pod, stream, socket::canonical(source));
            }
            self.close_listener(index);
        }
    }

    fn accepted(&mut self, listening: Listening, pod: &Arc<Pod>, stream: TcpStream, source: SocketAddr) {
        let facts = socket_facts(listening, source);
        let tracked = self.core.shared.registry.track(self.core.id, Kind::Setup, facts, self.core.now);
        let origin = Origin { source, listener: listening, tracked };
        let stream = Adrift::new(stream, pod.clone());
        match listening {
            Listening::Tunnels => {
                origin.tracked.set_kind(Kind::Tunnel);
                let worker = self.core.shared.loads.idlest();
                self.hand_over(worker, Fresh::Tunnel { stream, origin });
            }
            Listening::Socks5 => {
                let stage = Stage::Greeting { buffer: Vec::new(), agreed: false, origin };
                self.add_user(stream, stage);
            }
            Listening::Outbound | Listening::Passthrough => {
                match socket::original_destination(stream.socket()) {
                    Ok(destination) => self.add_user(stream, Stage::AwaitWorkload { destination, origin }),
                    Err(error) => self.refuse_early(&origin, None, &format!("original destination: {error}")),
                }
            }
        }
    }

    /// Registers an accepted socket as a user's connection and does what can be done for it at once.
    fn add_user(&mut self, stream: Adrift, stage: Stage) {
        if let Some(key) = self.insert_user(stream, stage) {
            self.drive_user(key);
        }
    }

    /// Registers a socket as a user's connection. If that fails the connection ends, and says why.
    pub(super) fn insert_user(&mut self, stream: Adrift, stage: Stage) -> Option<usize> {
        let entry = self.users.vacant_entry();
        let key = entry.key();
        match self.core.register(stream, Source::User(key)) {
            Ok(leg) => {
                let deadline = self.core.now + stage.flow().limit();
                entry.insert(User::new(leg, stage, deadline));
                Some(key)
            }
            Err(error) => {
                let failure = Failure::new(ResponseFlags::None, format!("event loop: {error}"));
                stage_failed(stage, &mut self.core, &failure);
                None
            }
        }
    }
}

/// What is known of a connection at its accept.
pub(super) fn socket_facts(listening: Listening, source: SocketAddr) -> ConnectionFacts {
    ConnectionFacts {
        direction: listening.direction(),
        source: Some(source),
        source_party: Party::default(),
        destination: None,
        destination_party: Party::default(),
        application: None,
        hbone_destination: None,
        service: None,
        mutual_tls: false,
    }
}
