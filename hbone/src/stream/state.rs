//! How far each direction of a stream is (RFC 9113 section 5.1).

use crate::error::ThawError;
use crate::role::Role;

/// One direction of a stream.
///
/// ```text
///   Headers ──header list──> Body ──END_STREAM──> Ended
///      └──────────header list with END_STREAM───────^
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    /// The (final) header list is still to come.
    Headers,
    /// Payload flows.
    Body,
    /// END_STREAM.
    Ended,
}

/// Both directions of a stream that isn't idle. The RFC's names: *open* while neither is `Ended`, *half-closed
/// (local)* once ours is, *half-closed (remote)* once the peer's is, *closed* when both are. A stream that is reset
/// has no state: it is gone.
///
/// ```text
///                       ours, the peer's
///    client: ──HEADERS──> Body, Headers ──response──> Body, Body ─┬─> Ended, Body ─┬─> Ended, Ended
///    server: ──HEADERS──> Headers, Body ──respond───> Body, Body ─┴─> Body, Ended ─┘
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    ours: Half,
    peers: Half,
}

/// What a received header list is to a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeadersAre {
    /// Client: the response, or a 1xx before it.
    Response,
    /// The end of the payload.
    Trailers,
    /// Against the rules: the peer's direction has ended (RFC 9113 section 5.1, STREAM_CLOSED).
    Late,
}

impl State {
    /// A stream right after its request.
    pub(crate) fn opened(role: Role) -> Self {
        match role {
            Role::Client => Self { ours: Half::Body, peers: Half::Headers },
            Role::Server => Self { ours: Half::Headers, peers: Half::Body },
        }
    }

    /// Both directions have ended.
    pub(crate) fn is_closed(self) -> bool {
        self == Self { ours: Half::Ended, peers: Half::Ended }
    }

    /// We may send payload.
    pub(crate) fn can_send(self) -> bool {
        self.ours == Half::Body
    }

    /// We are a server and owe the response.
    pub(crate) fn owes_response(self) -> bool {
        self.ours == Half::Headers
    }

    /// The peer may send payload now.
    pub(crate) fn can_receive(self) -> bool {
        self.peers == Half::Body
    }

    /// The peer has ended its direction.
    pub(crate) fn peer_ended(self) -> bool {
        self.peers == Half::Ended
    }

    /// We send the response.
    pub(crate) fn send_response(&mut self, end: bool) {
        debug_assert!(self.owes_response());
        self.ours = if end { Half::Ended } else { Half::Body };
    }

    /// We send END_STREAM.
    pub(crate) fn send_end(&mut self) {
        debug_assert!(self.can_send());
        self.ours = Half::Ended;
    }

    /// What a header list means that arrives now.
    pub(crate) fn expects(self) -> HeadersAre {
        match self.peers {
            Half::Headers => HeadersAre::Response,
            Half::Body => HeadersAre::Trailers,
            Half::Ended => HeadersAre::Late,
        }
    }

    /// The final response arrived.
    pub(crate) fn receive_response(&mut self) {
        debug_assert!(self.peers == Half::Headers);
        self.peers = Half::Body;
    }

    /// END_STREAM arrived.
    pub(crate) fn receive_end(&mut self) {
        debug_assert!(self.peers == Half::Body);
        self.peers = Half::Ended;
    }

    /// Reset: both directions are over at once.
    pub(crate) fn close(&mut self) {
        *self = Self { ours: Half::Ended, peers: Half::Ended };
    }

    /// As one byte: ours in the high half, the peer's in the low one.
    pub(crate) fn code(self) -> u8 {
        (self.ours.code() << 4) | self.peers.code()
    }

    /// The state that [`State::code`] stands for, if a stream of this role can have it.
    pub(crate) fn from_code(code: u8, role: Role) -> Result<Self, ThawError> {
        let state = Self { ours: Half::from_code(code >> 4)?, peers: Half::from_code(code & 0xf)? };
        let waits = match role {
            Role::Client => state.ours,
            Role::Server => state.peers,
        };
        if waits == Half::Headers { Err(ThawError::Invalid("stream state")) } else { Ok(state) }
    }
}

impl Half {
    fn code(self) -> u8 {
        match self {
            Half::Headers => 0,
            Half::Body => 1,
            Half::Ended => 2,
        }
    }

    fn from_code(code: u8) -> Result<Self, ThawError> {
        match code {
            0 => Ok(Half::Headers),
            1 => Ok(Half::Body),
            2 => Ok(Half::Ended),
            _ => Err(ThawError::Invalid("stream state")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_half_closes_in_either_order() {
        let mut client = State::opened(Role::Client);
        assert!(client.can_send() && !client.can_receive());
        assert_eq!(client.expects(), HeadersAre::Response);
        client.receive_response();
        assert_eq!(client.expects(), HeadersAre::Trailers);
        client.send_end();
        assert!(!client.can_send() && client.can_receive() && !client.is_closed());
        client.receive_end();
        assert!(client.is_closed());
        assert_eq!(client.expects(), HeadersAre::Late);

        let mut server = State::opened(Role::Server);
        assert!(server.owes_response() && !server.can_send() && server.can_receive());
        server.receive_end();
        server.send_response(false);
        assert!(server.can_send() && server.peer_ended());
        server.send_end();
        assert!(server.is_closed());
    }

    #[test]
    fn codes_read_back_and_impossible_ones_are_refused() {
        for role in [Role::Client, Role::Server] {
            let valid: Vec<u8> = (0..=255).filter(|&code| State::from_code(code, role).is_ok()).collect();
            assert_eq!(valid.len(), 6);
            for code in valid {
                assert_eq!(State::from_code(code, role).unwrap().code(), code);
            }
        }
    }
}
