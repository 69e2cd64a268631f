//! What has to be known of a server.

use std::fmt;
use std::path::PathBuf;

use http::{HeaderName, HeaderValue, Uri};
use serde::Serialize;

use super::error::{ConnectError, Purpose};

/// How to reach a server of the control plane. `Debug` shows no secret.
#[derive(Clone)]
pub struct ServerConfig {
    /// `https://host:port`; without a port 443.
    pub address: Uri,
    /// What the server's certificate must chain to.
    pub roots: RootCertificates,
    /// What we show to prove who we are, if anything.
    pub token: Option<Token>,
    /// A name that the certificate may carry in place of the address's host.
    pub alternative_name: Option<String>,
    /// The cluster that we belong to: the header `clusterid`.
    pub cluster_id: String,
    /// Sent along with each request.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// Trusted roots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum RootCertificates {
    /// A PEM file, which may be renewed while we run.
    File(PathBuf),
    /// The operating system's.
    System,
    /// PEM given in the variable itself.
    Pem(String),
}

/// A bearer token. Neither `Debug` nor serialising shows a secret.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Token {
    /// A file that is read again for each request, since Kubernetes renews it.
    File(PathBuf),
    /// The token itself.
    Static(#[serde(serialize_with = "hidden")] String),
}

impl RootCertificates {
    pub(super) fn read(&self) -> Result<Option<Vec<u8>>, ConnectError> {
        match self {
            Self::File(path) => match std::fs::read(path) {
                Ok(pem) => Ok(Some(pem)),
                Err(source) => {
                    Err(ConnectError::File { purpose: Purpose::Roots, path: path.clone(), source })
                }
            },
            Self::System => Ok(None),
            Self::Pem(pem) => Ok(Some(pem.clone().into_bytes())),
        }
    }
}

impl Token {
    /// The value of the header `authorization`, read now.
    pub(super) fn bearer(&self) -> Result<HeaderValue, ConnectError> {
        let (token, from) = match self {
            Self::File(path) => match std::fs::read_to_string(path) {
                Ok(token) => (token, path.display().to_string()),
                Err(source) => {
                    return Err(ConnectError::File { purpose: Purpose::Token, path: path.clone(), source });
                }
            },
            Self::Static(token) => (token.clone(), "the configuration".to_owned()),
        };
        let refused = |problem| ConnectError::Token { from, problem };
        let token = token.trim();
        if token.is_empty() {
            return Err(refused("is empty"));
        }
        let mut bearer = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| refused("has bytes that a header cannot carry"))?;
        bearer.set_sensitive(true);
        Ok(bearer)
    }
}

impl fmt::Debug for ServerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("ServerConfig")
            .field("address", &self.address)
            .field("roots", &self.roots)
            .field("token", &self.token)
            .field("alternative_name", &self.alternative_name)
            .field("cluster_id", &self.cluster_id)
            .field("headers", &headers)
            .finish()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Static(_) => f.write_str("Static(hidden)"),
        }
    }
}

fn hidden<S: serde::Serializer>(_: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str("hidden")
}
