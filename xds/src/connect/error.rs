//! Why there is no connection: how far it got.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use http::Uri;

/// What is wrong with a [`ServerConfig`](super::ServerConfig).
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
pub enum ServerConfigError {
    /// Tokens are shown to the server: without TLS anybody could take them.
    #[error("{0} is not of the form https://host:port")]
    NotHttps(Uri),
    /// The host or the alternative name is neither a DNS name nor an IP address.
    #[error("{0:?} is neither a DNS name nor an IP address")]
    Name(String),
    /// The cluster's name cannot be sent.
    #[error("the cluster id {0:?} cannot be sent in a header")]
    ClusterId(String),
}

/// Why there is no connection. The first four are to be mended on this node, or near it.
#[derive(thiserror::Error, Debug)]
pub enum ConnectError {
    /// A file cannot be read.
    #[error("{purpose}: cannot read {}: {source}", path.display())]
    File {
        /// What for.
        purpose: Purpose,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No certificate among the roots can be used.
    #[error("root certificates: {0}")]
    Roots(String),
    /// The token cannot be used.
    #[error("token: that of {from} {problem}")]
    Token {
        /// The file, or the configuration.
        from: String,
        /// Why; nothing of the token itself.
        problem: &'static str,
    },
    /// The host's name has no address.
    #[error("cannot resolve {host}: {reason}")]
    Resolve {
        /// Its name.
        host: String,
        /// Why.
        reason: String,
    },
    /// Each address failed, here in their order.
    #[error("{}", Listed(.0))]
    Addresses(Vec<AddressError>),
}

/// What a file is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To verify the server.
    Roots,
    /// To show who we are.
    Token,
}

/// Why there is no connection to one address.
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
#[error("{address}: {step}: {reason}")]
pub struct AddressError {
    /// The server's.
    pub address: SocketAddr,
    /// How far it got.
    pub step: Step,
    /// What went wrong there.
    pub reason: String,
}

/// A step of making a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nobody is there, or packets do not get there.
    Tcp,
    /// The server is not the one that we trust, or does not speak TLS.
    Tls,
    /// It does not speak HTTP/2.
    Http,
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Roots => "root certificates",
            Self::Token => "token",
        })
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Http => "HTTP/2",
        })
    }
}

/// The first few.
struct Listed<'a>(&'a [AddressError]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, error) in self.0.iter().take(SHOWN).enumerate() {
            write!(f, "{}{error}", if n == 0 { "" } else { "; " })?;
        }
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

const SHOWN: usize = 3;
