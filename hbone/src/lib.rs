//! HBONE as a value: HTTP/2 CONNECT (RFC 9113) inside TLS 1.3 (RFC 8446), without I/O.
//!
//! A [`Connection`] takes bytes and time and gives bytes and [events](Event). It knows no socket, clock, task or lock,
//! so the whole of it can be [frozen](Connection::freeze) into bytes between any two turns and go on in another process,
//! while its peer, any HTTP/2 implementation, notices nothing.
//!
//! ```text
//!   TlsClient / TlsServer ──> Handshake ──finish──> Connection ──freeze──> Frozen ──> Snapshot
//!                             (rustls)              ├ records: TLS 1.3                   │
//!                                                   └ session: HTTP/2      Prepared <────┘
//!                                                        ^                    │
//!                                                        └───────commit───────┘
//! ```
//!
//! What a caller must do is told at [`Connection`], what moving demands at [`Frozen`] and in `SNAPSHOT.md`.

#![forbid(unsafe_code)]

mod connect;
mod connection;
mod error;
mod event;
mod frame;
mod freeze;
mod handshake;
mod hpack;
mod record;
mod role;
mod session;
mod settings;
mod snapshot;
mod stream;
mod time;
mod tls;

pub use connect::{ConnectRequest, ConnectResponse, Method};
pub use connection::{Connection, Inbox, Outbox};
pub use error::{ConnectionError, ErrorCode, Fault, OpenError, ThawError};
pub use event::{Event, StreamId};
pub use freeze::{Frozen, Prepared};
pub use handshake::{Established, Handshake, HandshakeError};
pub use record::RecordError;
pub use role::Role;
pub use settings::SessionConfig;
pub use snapshot::{Secrets, Snapshot};
pub use time::Time;
pub use tls::{TlsClient, TlsServer, provider};
