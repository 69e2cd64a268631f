//! The server's side of a tunnel frame by frame, for what no library lets one do. TLS is genuine, HTTP/2 is by hand.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::server_config;
use crate::certificates::Credentials;

/// An HTTP/2 frame (RFC 9113, 4.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The type.
    pub kind: u8,
    /// The flags.
    pub flags: u8,
    /// The stream, 0 for the connection.
    pub stream: u32,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Frame {
    /// HEADERS.
    pub const HEADERS: u8 = 1;
    /// SETTINGS.
    pub const SETTINGS: u8 = 4;
    /// PING.
    pub const PING: u8 = 6;

    /// A 200 that leaves the stream open: HEADERS with the static entry of `:status 200` (RFC 7541, appendix A).
    pub fn ok(stream: u32) -> Self {
        Self { kind: Self::HEADERS, flags: 4, stream, payload: vec![0x88] }
    }

    /// GOAWAY with NO_ERROR: streams above `last` were not and will not be processed.
    pub fn go_away(last: u32) -> Self {
        let payload = [last.to_be_bytes(), 0_u32.to_be_bytes()].concat();
        Self { kind: 7, flags: 0, stream: 0, payload }
    }
}

/// A tunnel that was accepted and whose SETTINGS are exchanged.
#[derive(Debug)]
pub struct Scripted(TlsStream<TcpStream>);

impl Scripted {
    /// Takes the next tunnel of `listener`.
    ///
    /// # Errors
    /// It does not come up.
    pub async fn accept(listener: &TcpListener, credentials: Credentials) -> io::Result<Self> {
        let (tcp, _) = listener.accept().await?;
        let mut tls = TlsAcceptor::from(server_config(credentials)).accept(tcp).await?;
        let mut preface = [0; 24];
        tls.read_exact(&mut preface).await?;
        if &preface != b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" {
            return Err(io::Error::other("not the preface of HTTP/2"));
        }
        let mut scripted = Self(tls);
        let settings = |flags| Frame { kind: Frame::SETTINGS, flags, stream: 0, payload: Vec::new() };
        scripted.send(&settings(0)).await?;
        scripted.send(&settings(1)).await?;
        Ok(scripted)
    }

    /// Writes a frame.
    ///
    /// # Errors
    /// The peer is gone.
    pub async fn send(&mut self, frame: &Frame) -> io::Result<()> {
        let length = u32::try_from(frame.payload.len()).map_err(io::Error::other)?;
        let mut bytes = length.to_be_bytes()[1..].to_vec();
        bytes.extend([frame.kind, frame.flags]);
        bytes.extend(frame.stream.to_be_bytes());
        bytes.extend(&frame.payload);
        self.0.write_all(&bytes).await?;
        self.0.flush().await
    }

    /// The next frame of this kind; others are passed over.
    ///
    /// # Errors
    /// The peer is gone.
    pub async fn next(&mut self, kind: u8) -> io::Result<Frame> {
        loop {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await?;
            let [l0, l1, l2, found, flags, stream @ ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, l0, l1, l2]) as usize];
            self.0.read_exact(&mut payload).await?;
            if found == kind {
                return Ok(Frame { kind, flags, stream: u32::from_be_bytes(stream), payload });
            }
        }
    }

    /// Reads, and answers nothing, until the peer ends the connection.
    ///
    /// # Errors
    /// It ends by a reset; that is an end, too.
    pub async fn swallow(mut self) -> io::Result<u64> {
        tokio::io::copy(&mut self.0, &mut tokio::io::sink()).await
    }

    /// Where the peer's socket is.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn peer(&self) -> io::Result<SocketAddr> {
        self.0.get_ref().0.peer_addr()
    }
}
