//! istiod as a certificate authority.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prost_types::value::Kind;
use prost_types::{Struct, Value};
use tokio::sync::Mutex;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::Identity;
use crate::connect::{ConnectError, Server};
use crate::proto::ca::IstioCertificateRequest;
use crate::proto::ca::istio_certificate_service_client::IstioCertificateServiceClient;

/// Asks istiod for certificates. All requests share one connection, which is made anew when it has failed and when the
/// roots that it was checked against are no longer those of the configuration.
pub struct CaClient {
    server: Server,
    /// What certificates shall live, seconds.
    lifetime: i64,
    impersonate: bool,
    /// Locked while a connection is made, so that requests that come together make one.
    connection: Mutex<Option<Connection>>,
}

/// Why there is no certificate.
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
pub enum CaError {
    /// No answer: the CA or the way to it is down, or something of ours (a token, roots) is missing.
    #[error("the CA cannot be reached: {0}")]
    Unreachable(String),
    /// The CA answered no.
    #[error("the CA refused: {0}")]
    Refused(String),
}

#[derive(Clone)]
struct Connection {
    channel: Channel,
    address: SocketAddr,
    /// The roots that the server was checked against.
    roots: Option<Vec<u8>>,
    /// A request has failed on it, or was given up.
    failed: Arc<AtomicBool>,
}

impl CaClient {
    /// `lifetime` is what to wish for; the CA may give less. With `impersonate` certificates are asked for on behalf of
    /// the workloads of the node, else for the holder of our token.
    pub fn new(server: Server, lifetime: Duration, impersonate: bool) -> Self {
        let lifetime = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX);
        Self { server, lifetime, impersonate, connection: Mutex::default() }
    }

    /// Has a certificate of `identity` signed. `csr` is a PKCS #10 request (RFC 2986) in PEM; the answer is
    /// `[leaf, intermediates…, roots]` in PEM, not checked in any way.
    ///
    /// The caller bounds the time. If it drops the future, the next request uses another connection.
    pub async fn create_certificate(&self, identity: &Identity, csr: &str) -> Result<Vec<String>, CaError> {
        let (connection, kept) = self.connect().await?;
        match self.ask(&connection, identity, csr).await {
            // It may have ended long ago, by a restart of istiod: between two requests nobody looks at it.
            Err(CaError::Unreachable(_)) if kept => {
                let (connection, _) = self.connect().await?;
                self.ask(&connection, identity, csr).await
            }
            answer => answer,
        }
    }

    async fn ask(
        &self,
        connection: &Connection,
        identity: &Identity,
        csr: &str,
    ) -> Result<Vec<String>, CaError> {
        let mut request = Request::new(IstioCertificateRequest {
            csr: csr.to_owned(),
            validity_duration: self.lifetime,
            metadata: self.impersonate.then(|| impersonated(identity)),
        });
        *request.metadata_mut() = self.server.metadata()?;
        let attempt = Attempt(Some(&connection.failed));
        let answer =
            IstioCertificateServiceClient::new(connection.channel.clone()).create_certificate(request).await;
        match answer {
            Ok(answer) => {
                attempt.succeeded();
                Ok(answer.into_inner().cert_chain)
            }
            Err(status) if is_answer(&status) => {
                attempt.succeeded();
                Err(CaError::Refused(said(&status)))
            }
            Err(status) => Err(CaError::Unreachable(format!("{}: {}", connection.address, said(&status)))),
        }
    }

    /// The connection to use now, and whether it was used before.
    async fn connect(&self) -> Result<(Connection, bool), CaError> {
        let mut current = self.connection.lock().await;
        let roots = self.server.roots()?;
        let failed = match &*current {
            Some(connection) if connection.failed.load(Ordering::Relaxed) => Some(connection.address),
            Some(connection) if connection.roots == roots => return Ok((connection.clone(), true)),
            _ => None,
        };
        let (channel, address) = self.server.connect(failed).await?;
        let connection = Connection { channel, address, roots, failed: Arc::default() };
        *current = Some(connection.clone());
        Ok((connection, false))
    }
}

impl fmt::Debug for CaClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaClient").field("server", &self.server).finish_non_exhaustive()
    }
}

impl From<ConnectError> for CaError {
    fn from(error: ConnectError) -> Self {
        Self::Unreachable(error.to_string())
    }
}

/// A request under way; unless it succeeds, also if it is dropped, its connection has failed.
struct Attempt<'a>(Option<&'a AtomicBool>);

impl Attempt<'_> {
    fn succeeded(mut self) {
        self.0 = None;
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if let Some(failed) = self.0 {
            failed.store(true, Ordering::Relaxed);
        }
    }
}

/// For whom istiod shall sign, in the form that it reads.
fn impersonated(identity: &Identity) -> Struct {
    let value = Value { kind: Some(Kind::StringValue(identity.to_string())) };
    Struct { fields: [("ImpersonatedIdentity".to_owned(), value)].into() }
}

/// Whether the CA itself said this, and would say it again on another connection.
fn is_answer(status: &Status) -> bool {
    use Code::{Cancelled, DeadlineExceeded, Internal, Unavailable, Unknown};
    !matches!(status.code(), Cancelled | DeadlineExceeded | Internal | Unavailable | Unknown)
}

fn said(status: &Status) -> String {
    match status.code() {
        Code::Unauthenticated => format!("our token is not accepted: {}", status.message()),
        code => format!("{}: {}", code.description(), status.message()),
    }
}

#[cfg(test)]
mod tests;
