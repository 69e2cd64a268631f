//! The other side of a tunnel, as Istio's own proxy makes it: `h2` and `rustls`, with its settings.
//!
//! ```text
//!   application ──▶ Tunnel::forward ══ HBONE ══▶ our node ──▶ application
//!   application ──▶ our node ══ HBONE ══▶ Server ──▶ application
//! ```

mod client;
mod script;
mod server;
mod stream;
mod tls;

pub use client::{Reply, Tunnel, connect_method};
pub use script::{Frame, Scripted};
pub use server::{Answer, Server, ServerConfig};
pub use stream::Stream;
pub use tls::{client_config, connect_tls, server_config};

/// The port of tunnels.
pub const HBONE_PORT: u16 = 15_008;
/// What stock advertises as `SETTINGS_MAX_FRAME_SIZE`.
pub const LARGE_FRAMES: u32 = 1 << 20;
/// What a peer that says nothing takes (RFC 9113, 6.5.2).
pub const SMALL_FRAMES: u32 = 1 << 14;

const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
