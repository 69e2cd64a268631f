//! One TCP socket of the data path and what the kernel last said of it.
//!
//! Sockets are registered once, edge-triggered, for both directions. So each one remembers whether it may still be
//! read or written; the memory is cleared when the kernel has nothing more, and set by the next event.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use crate::pod::Pod;
use crate::socket;

/// A socket of a pod that no worker looks after: just accepted or connected, or on its way to another worker. It counts as
/// the pod's all the time.
#[derive(Debug)]
pub struct Adrift {
    socket: TcpStream,
    held: Held,
}

impl Adrift {
    pub(super) fn new(socket: TcpStream, pod: Arc<Pod>) -> Self {
        Self { socket, held: Held::new(pod) }
    }

    /// On whose behalf it is held.
    pub(super) fn pod(&self) -> &Arc<Pod> {
        &self.held.0
    }

    pub(super) fn socket(&self) -> &TcpStream {
        &self.socket
    }
}

/// A registered socket.
#[derive(Debug)]
pub(super) struct Leg {
    socket: TcpStream,
    /// Its key among the worker's sources.
    pub(super) source: usize,
    /// A read may give bytes.
    pub(super) readable: bool,
    /// A write may take bytes.
    pub(super) writable: bool,
    /// The kernel has said that the peer's direction is over: a short read isn't the last one then.
    read_closed: bool,
    /// The kernel has said that the connection is gone.
    failed: bool,
    held: Held,
}

/// The pod's count of its sockets, as long as this one is held.
#[derive(Debug)]
struct Held(Arc<Pod>);

impl Held {
    fn new(pod: Arc<Pod>) -> Self {
        pod.sockets().fetch_add(1, Ordering::Relaxed);
        Self(pod)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.sockets().fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a read gave.
#[derive(Debug)]
pub(super) enum Taken {
    Bytes(usize),
    /// The peer's direction is over (FIN).
    End,
    /// Nothing now; an event will tell.
    Blocked,
    Failed(io::Error),
}

impl Leg {
    pub(super) fn register(adrift: Adrift, source: usize, registry: &Registry) -> io::Result<Self> {
        let Adrift { mut socket, held } = adrift;
        let interest = Interest::READABLE | Interest::WRITABLE;
        registry.register(&mut socket, Token(source), interest).inspect_err(|_| socket::abort(&socket))?;
        Ok(Self { socket, source, readable: false, writable: false, read_closed: false, failed: false, held })
    }

    /// On whose behalf it is held.
    pub(super) fn pod(&self) -> &Arc<Pod> {
        &self.held.0
    }

    /// Its next turn finds out what the kernel has for it and takes, without waiting for an event.
    pub(super) fn try_at_once(&mut self) {
        self.readable = true;
        self.writable = true;
    }

    /// What the kernel calls it, in every process; never used again.
    pub(super) fn cookie(&self) -> Option<u64> {
        rustix::net::sockopt::socket_cookie(&self.socket).ok()
    }

    /// Takes note of an event.
    pub(super) fn note(&mut self, event: &Event) {
        self.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
        self.writable |= event.is_writable() || event.is_write_closed() || event.is_error();
        self.read_closed |= event.is_read_closed() || event.is_error();
        self.failed |= event.is_error();
    }

    pub(super) fn read(&mut self, buf: &mut [u8]) -> Taken {
        let room = buf.len();
        let result = self.socket.read(buf);
        self.taken(result, room)
    }

    pub(super) fn read_vectored(&mut self, slots: &mut [IoSliceMut<'_>]) -> Taken {
        let room = slots.iter().map(|slot| slot.len()).sum();
        let result = self.socket.read_vectored(slots);
        self.taken(result, room)
    }

    fn taken(&mut self, result: io::Result<usize>, room: usize) -> Taken {
        match result {
            Ok(0) if room > 0 => {
                self.readable = false;
                Taken::End
            }
            Ok(n) => {
                // A short read has emptied the queue: no second read, unless the end is known to be behind it.
                if n < room && !self.read_closed {
                    self.readable = false;
                }
                Taken::Bytes(n)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Taken::Blocked
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Taken::Blocked,
            Err(e) => {
                self.readable = false;
                Taken::Failed(e)
            }
        }
    }

    /// Writes what the kernel takes now: 0 if nothing.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let result = self.socket.write(bytes);
        self.given(result, bytes.len())
    }

    pub(super) fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let total = slices.iter().map(|slice| slice.len()).sum();
        let result = self.socket.write_vectored(slices);
        self.given(result, total)
    }

    fn given(&mut self, result: io::Result<usize>, total: usize) -> io::Result<usize> {
        match result {
            Ok(n) => {
                self.writable = n == total;
                Ok(n)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.writable = false;
                Ok(0)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(e) => Err(e),
        }
    }

    /// Whether an outgoing connection has come up; `Ok(false)` while it is under way.
    pub(super) fn connected(&self) -> io::Result<bool> {
        if let Some(error) = self.socket.take_error()? {
            return Err(error);
        }
        match self.socket.peer_addr() {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// The connection is gone, whatever a read could still find.
    pub(super) fn has_failed(&self) -> bool {
        self.failed
    }

    /// The error that the kernel holds for the socket, if any (a reset, for example).
    pub(super) fn error(&self) -> Option<io::Error> {
        self.socket.take_error().unwrap_or_else(Some)
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Our direction is over: FIN. A socket that is gone already needs none.
    pub(super) fn shutdown_write(&self) {
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// Ends the connection by an abort.
    pub(super) fn abort(&self) {
        socket::abort(&self.socket);
    }

    /// Takes the socket out of the event loop, for another owner. That must come before it is passed on: epoll follows
    /// the open file and not the descriptor.
    pub(super) fn into_adrift(mut self, registry: &Registry) -> Adrift {
        let _ = registry.deregister(&mut self.socket);
        Adrift { socket: self.socket, held: self.held }
    }

    /// The same for an owner who counts for himself.
    pub(super) fn into_socket(self, registry: &Registry) -> TcpStream {
        self.into_adrift(registry).socket
    }
}
