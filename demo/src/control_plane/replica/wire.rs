//! A TCP connection that can be made to break in the middle.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Burns as bytes are written; when it is burnt down its connection breaks.
#[derive(Debug)]
pub(crate) struct Fuse(AtomicUsize);

impl Fuse {
    pub(super) fn unlit() -> Self {
        Self(AtomicUsize::new(UNLIT))
    }

    /// The connection breaks after `bytes` more bytes.
    pub(crate) fn light(&self, bytes: usize) {
        // A shorter one that burns already is left alone.
        self.0.fetch_min(bytes, Ordering::Relaxed);
    }

    fn left(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn burn(&self, bytes: usize) {
        if self.left() != UNLIT {
            self.0.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

const UNLIT: usize = usize::MAX;

/// A connection that is reset, not closed, however it ends: as if the process had been killed.
pub(super) struct Wire {
    socket: TcpStream,
    fuse: Arc<Fuse>,
}

impl Wire {
    /// # Errors
    /// The connection is broken already.
    pub(super) fn new(socket: TcpStream, fuse: Arc<Fuse>) -> io::Result<Self> {
        socket.set_zero_linger()?;
        socket.set_nodelay(true)?;
        Ok(Self { socket, fuse })
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let allowed = bytes.len().min(self.fuse.left());
        if allowed == 0 && !bytes.is_empty() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let written = Pin::new(&mut self.socket).poll_write(cx, &bytes[..allowed]);
        if let Poll::Ready(Ok(count)) = written {
            self.fuse.burn(count);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
