//! One TCP socket of the data path and what the kernel last said of it.
//!
//! Sockets are registered once, edge-triggered, for both directions. So each one remembers whether it may still be
//! read or written; the memory is cleared when the kernel has nothing more, and set by the next event.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

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
    pub(super) fn register(mut socket: TcpStream, source: usize, registry: &Registry) -> io::Result<Self> {
        registry.register(&mut socket, Token(source), Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self { socket, source, readable: false, writable: false, read_closed: false, failed: false })
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

    /// Makes the coming close an abort (RST): the peer must not take a cut stream for a whole one.
    pub(super) fn abort(&self) {
        let _ = socket2::SockRef::from(&self.socket).set_linger(Some(Duration::ZERO));
    }

    /// Takes the socket out of the event loop, for another owner. That must come before it is passed on: epoll follows
    /// the open file and not the descriptor.
    pub(super) fn into_socket(mut self, registry: &Registry) -> TcpStream {
        let _ = registry.deregister(&mut self.socket);
        self.socket
    }
}
