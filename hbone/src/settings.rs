//! Settings: what we are configured for and announce, and what the peer announced (RFC 9113 section 6.5).

use crate::error::ThawError;
use crate::frame::{MAX_MAX_FRAME_SIZE, MAX_WINDOW, MIN_MAX_FRAME_SIZE, Setting, Settings};
use crate::role::Role;
use crate::snapshot::{Reader, Writer};

/// What a connection is configured for. Moves with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// How far a stream's receive window may grow, in bytes. It starts at 256 KiB, or here if that is less.
    pub stream_window: u32,
    /// How far the connection's receive window may grow, in bytes. It starts at 1 MiB, or here if that is less.
    pub connection_window: u32,
    /// Largest frame that we receive, in bytes; 2^14 to 2^24-1.
    pub max_frame_size: u32,
    /// Server: streams that the peer may have open. Client: streams that we open at most, however many the peer allows.
    pub max_concurrent_streams: u32,
    /// Largest header list that we take, in bytes as RFC 9113 section 6.5.2 counts them.
    pub max_header_list_size: u32,
    /// From the start or the last answer to the next keepalive PING, in ms.
    pub ping_interval: u64,
    /// How long its answer may take, in ms, before the connection is given up.
    pub ping_timeout: u64,
}

impl SessionConfig {
    /// What the stock node proxy uses as a client, save that windows start small.
    #[must_use]
    pub fn client() -> Self {
        Self {
            stream_window: 4 << 20,
            connection_window: 16 << 20,
            max_frame_size: 1 << 20,
            max_concurrent_streams: 100,
            max_header_list_size: 16 << 10,
            ping_interval: 10_000,
            ping_timeout: 20_000,
        }
    }

    /// What the stock node proxy uses as a server, save that windows start small.
    #[must_use]
    pub fn server() -> Self {
        Self { max_concurrent_streams: 200, max_header_list_size: 64 << 10, ..Self::client() }
    }

    /// The same, forced into the ranges that RFC 9113 allows.
    pub(crate) fn clamped(self) -> Self {
        Self {
            stream_window: self.stream_window.min(MAX_WINDOW),
            connection_window: self.connection_window.clamp(DEFAULT_WINDOW, MAX_WINDOW),
            max_frame_size: self.max_frame_size.clamp(MIN_MAX_FRAME_SIZE, MAX_MAX_FRAME_SIZE),
            ..self
        }
    }

    /// The window that a stream of ours starts with and falls back to when its reader is slow.
    pub(crate) fn initial_stream_window(&self) -> u32 {
        self.stream_window.min(INITIAL_STREAM_WINDOW)
    }

    /// The window that the connection starts with.
    pub(crate) fn initial_connection_window(&self) -> u32 {
        self.connection_window.min(INITIAL_CONNECTION_WINDOW)
    }

    /// Appends the SETTINGS frame that announces this. Dynamic header compression is switched off: it would be
    /// state that grows, for header lists that are short.
    pub(crate) fn announce(&self, role: Role, out: &mut Vec<u8>) {
        let about_streams = match role {
            Role::Client => Setting::EnablePush(false),
            Role::Server => Setting::MaxConcurrentStreams(self.max_concurrent_streams),
        };
        let entries = [
            Setting::HeaderTableSize(0),
            about_streams,
            Setting::InitialWindowSize(self.initial_stream_window()),
            Setting::MaxFrameSize(self.max_frame_size),
            Setting::MaxHeaderListSize(self.max_header_list_size),
        ];
        Settings::encode(&entries, out);
    }

    pub(crate) fn freeze(&self, state: &mut Writer) {
        state.u32(self.stream_window);
        state.u32(self.connection_window);
        state.u32(self.max_frame_size);
        state.u32(self.max_concurrent_streams);
        state.u32(self.max_header_list_size);
        state.u64(self.ping_interval);
        state.u64(self.ping_timeout);
    }

    pub(crate) fn thaw(state: &mut Reader<'_>) -> Result<Self, ThawError> {
        let config = Self {
            stream_window: state.u32()?,
            connection_window: state.u32()?,
            max_frame_size: state.u32()?,
            max_concurrent_streams: state.u32()?,
            max_header_list_size: state.u32()?,
            ping_interval: state.u64()?,
            ping_timeout: state.u64()?,
        };
        if config.clone().clamped() != config {
            return Err(ThawError::Invalid("configuration"));
        }
        Ok(config)
    }
}

/// What the peer announced and we honour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerSettings {
    /// Window that our sending starts with on a new stream, in bytes.
    pub(crate) initial_window: u32,
    /// Largest frame that it takes, in bytes.
    pub(crate) max_frame_size: u32,
    /// Streams that we may have open; `u32::MAX` until it says otherwise.
    pub(crate) max_concurrent_streams: u32,
}

/// What holds before the peer's SETTINGS arrive (RFC 9113 section 6.5.2).
impl Default for PeerSettings {
    fn default() -> Self {
        Self {
            initial_window: DEFAULT_WINDOW,
            max_frame_size: MIN_MAX_FRAME_SIZE,
            max_concurrent_streams: u32::MAX,
        }
    }
}

impl PeerSettings {
    /// Takes over what a SETTINGS frame names. Its window change for live streams is the caller's.
    pub(crate) fn apply(&mut self, settings: &Settings) {
        self.initial_window = settings.initial_window_size.unwrap_or(self.initial_window);
        self.max_frame_size = settings.max_frame_size.unwrap_or(self.max_frame_size);
        self.max_concurrent_streams = settings.max_concurrent_streams.unwrap_or(self.max_concurrent_streams);
    }

    pub(crate) fn freeze(&self, state: &mut Writer) {
        state.u32(self.initial_window);
        state.u32(self.max_frame_size);
        state.u32(self.max_concurrent_streams);
    }

    pub(crate) fn thaw(state: &mut Reader<'_>) -> Result<Self, ThawError> {
        let peer = Self {
            initial_window: state.u32()?,
            max_frame_size: state.u32()?,
            max_concurrent_streams: state.u32()?,
        };
        let frame_size = MIN_MAX_FRAME_SIZE..=MAX_MAX_FRAME_SIZE;
        if peer.initial_window > MAX_WINDOW || !frame_size.contains(&peer.max_frame_size) {
            return Err(ThawError::Invalid("peer's settings"));
        }
        Ok(peer)
    }
}

/// A window before any SETTINGS or WINDOW_UPDATE, in bytes (RFC 9113 section 6.9.2).
pub(crate) const DEFAULT_WINDOW: u32 = 65_535;

/// Where a stream's receive window starts: a slow reader costs this much memory, and a snapshot stays small.
const INITIAL_STREAM_WINDOW: u32 = 256 << 10;

/// Where the connection's receive window starts.
const INITIAL_CONNECTION_WINDOW: u32 = 1 << 20;
