//! From the first byte to an established tunnel: rustls does the handshake, we own every byte around it.
//!
//! ```text
//!             receive*              receive              finish
//!   client ─┐         ┌─────────┐            ┌──────────┐
//!           ├────────▶│ Driving │───────────▶│ Complete │─────────▶ Established
//!   server ─┘         └─────────┘            └──────────┘
//!                          │ error                │ error: not h2, keys disagree
//!                          ▼                      ▼
//!                     ┌─────────────────────────────────┐
//!                     │ Failed: output() holds an alert │
//!                     └─────────────────────────────────┘
//! ```
//!
//! A connection cannot be moved before it is `Established`: the state of a handshake is rustls' own.

mod driver;
mod error;
#[cfg(test)]
mod tests;

use std::mem;

use rustls::pki_types::CertificateDer;

pub use error::HandshakeError;

use crate::connection::Connection;
use crate::record::Records;
use crate::role::Role;
use crate::session::Session;
use crate::settings::SessionConfig;
use crate::time::Time;
use crate::tls::{TlsClient, TlsServer};
use driver::{Driver, Outcome};

/// A TLS 1.3 handshake of either role. Bytes go in, bytes come out, at last a [`Connection`].
///
/// A call runs the handshake as far as it gets, signatures and certificate checks included: expect up to a
/// millisecond or two of computing in one [`receive`](Self::receive). There is no timeout in here.
pub struct Handshake {
    role: Role,
    config: SessionConfig,
    state: State,
    /// Bytes for the peer; those before `written` have left already.
    output: Vec<u8>,
    written: usize,
}

enum State {
    Driving(Box<Driver>),
    Complete(Box<Complete>),
    Failed,
}

/// All that is left of a handshake.
struct Complete {
    records: Records,
    peer_certificates: Vec<CertificateDer<'static>>,
    /// What the peer has sent behind its handshake.
    carry: Vec<u8>,
}

/// What a handshake ends in.
pub struct Established {
    /// The tunnel. It may hold bytes from the peer already, so receive once without fresh bytes; and may have bytes
    /// to send.
    pub connection: Connection,
    /// The chain that the verifier accepted, the peer's own certificate first. Never empty.
    pub peer_certificates: Vec<CertificateDer<'static>>,
}

impl Handshake {
    /// Starts as client: [`output`](Self::output) holds the ClientHello.
    ///
    /// # Errors
    /// [`HandshakeError::Local`] if rustls cannot even start, for example for lack of randomness.
    pub fn client(tls: &TlsClient, config: SessionConfig) -> Result<Self, HandshakeError> {
        let driver = Driver::client(tls.connect()?);
        let mut handshake = Self::start(Role::Client, config, driver);
        handshake.receive(&[])?;
        Ok(handshake)
    }

    /// Starts as server, waiting for a ClientHello.
    ///
    /// # Errors
    /// [`HandshakeError::Local`] if rustls cannot even start.
    pub fn server(tls: &TlsServer, config: SessionConfig) -> Result<Self, HandshakeError> {
        let driver = Driver::server(tls.accept()?);
        Ok(Self::start(Role::Server, config, driver))
    }

    /// Takes bytes from the peer, cut anywhere. What lies behind the handshake is kept for the connection.
    ///
    /// # Errors
    /// The handshake has failed, and [`output`](Self::output) may end in an alert that tells the peer so. Send it,
    /// then close; any further call is a [`HandshakeError::Misuse`].
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), HandshakeError> {
        match mem::replace(&mut self.state, State::Failed) {
            State::Driving(mut driver) => {
                self.state = if driver.receive(bytes, &mut self.output)? {
                    State::Complete(Box::new(self.complete(*driver)?))
                } else {
                    State::Driving(driver)
                };
                Ok(())
            }
            State::Complete(mut complete) => {
                complete.carry.extend_from_slice(bytes);
                self.state = State::Complete(complete);
                Ok(())
            }
            State::Failed => Err(HandshakeError::Misuse),
        }
    }

    /// Bytes that the peer is to get, after an error too.
    #[must_use]
    pub fn output(&self) -> &[u8] {
        &self.output[self.written..]
    }

    /// The first `written` bytes of [`output`](Self::output) have left.
    pub fn advance(&mut self, written: usize) {
        self.written = self.output.len().min(self.written + written);
        if self.written == self.output.len() {
            self.output.clear();
            self.written = 0;
        }
    }

    /// Whether [`finish`](Self::finish) may be called. Output need not have left before.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        matches!(self.state, State::Complete(_))
    }

    /// The tunnel, with every byte that was received or is to be sent.
    ///
    /// # Errors
    /// [`HandshakeError::Misuse`] if it is not complete.
    pub fn finish(mut self, now: Time) -> Result<Established, HandshakeError> {
        let State::Complete(complete) = self.state else {
            return Err(HandshakeError::Misuse);
        };
        let Complete { records, peer_certificates, carry } = *complete;
        let unsent = self.output.split_off(self.written);
        let session = Session::new(self.role, self.config, now);
        let connection = Connection::new(records, session, carry, unsent);
        Ok(Established { connection, peer_certificates })
    }

    fn start(role: Role, config: SessionConfig, driver: Driver) -> Self {
        let state = State::Driving(Box::new(driver));
        Self { role, config, state, output: Vec::new(), written: 0 }
    }

    /// The handshake proper is done: what came of it must be a tunnel.
    fn complete(&mut self, driver: Driver) -> Result<Complete, HandshakeError> {
        let Outcome { mut records, h2, peer_certificates, carry } = driver.finish(self.role)?;
        let refusal = if !h2 {
            HandshakeError::NotH2
        } else if peer_certificates.is_empty() {
            HandshakeError::NoCertificate
        } else {
            return Ok(Complete { records, peer_certificates, carry });
        };
        if let Some(alert) = refusal.late_alert() {
            records.seal_alert(alert, &mut self.output)?;
        }
        Err(refusal)
    }
}
