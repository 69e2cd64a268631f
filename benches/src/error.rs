//! Why a measurement could not be made.

use std::io;

use demo::addresses::NoAddresses;
use demo::control_plane::AuthorityError;
use demo::node::NodeError;
use demo::stage::StageError;
use demo::traffic::socks5::Socks5Error;

/// Why a measurement could not be made.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The nodes could not be set up.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// A node failed.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The loopback addresses are all in use.
    #[error(transparent)]
    Addresses(#[from] NoAddresses),
    /// A connection through a node could not be opened.
    #[error(transparent)]
    Socks5(#[from] Socks5Error),
    /// A connection, a process, a file.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Bytes were lost on the way, or came twice: no figure is worth anything then.
    #[error("{sent} bytes were sent and {received} arrived")]
    Miscounted {
        /// What the client wrote.
        sent: u64,
        /// What the server says that it read.
        received: u64,
    },
    /// An answer is not what was asked for.
    #[error("an answer differs from its request")]
    WrongAnswer,
    /// The nodes did not come to rest after their clients were gone.
    #[error("{left} tunnelled connections are still open {seconds} s after their clients closed them")]
    NeverIdle {
        /// Connections of the node on the server's side.
        left: u64,
        /// How long it was waited.
        seconds: u64,
    },
    /// A step of a replacement took too long.
    #[error("after {seconds} s still not: {what}")]
    Late {
        /// What should have become true.
        what: &'static str,
        /// How long it was waited.
        seconds: u64,
    },
    /// A process that was told to end did not end well.
    #[error("the proxy that was replaced ended with {status}")]
    End {
        /// How it ended.
        status: std::process::ExitStatus,
    },
    /// The control plane has no certificate or token.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// A node refused what the control plane sent.
    #[error("the node refused a part of the mesh: {complaint}")]
    Refused {
        /// What it said.
        complaint: String,
    },
    /// A node did not acknowledge what the control plane sent.
    #[error("the node has not acknowledged {what} after {seconds} s")]
    NotAcknowledged {
        /// What was sent.
        what: &'static str,
        /// How long it was waited.
        seconds: u64,
    },
    /// There are no network namespaces to be had; why was said.
    #[error("no network namespaces")]
    NoNamespaces,
    /// The tunnel in memory broke.
    #[error("the tunnel in memory: {0}")]
    Tunnel(String),
}

/// Names what was tried, for `map_err`.
pub fn during(what: &'static str) -> impl FnOnce(io::Error) -> LoadError {
    move |source| LoadError::Io { what, source }
}
