//! How a connection comes up, as data.
//!
//! No `await` stands between the accept and the first relayed byte: each step is a value with a time limit, so that it
//! can be looked at, tested on virtual time, cut at its limit and (where its sockets can) moved. The worker carries out
//! what a step asks for and reports back by an event. Two machines are enough: [`User`] for a connection of an
//! application, [`Dial`] for a tunnel.
//!
//! ```text
//!  User            accept 15001/15006      accept 15080 (SOCKS5)
//!                        │                      │
//!                        │◄──────target────── Greeting ──────10 s──────┐
//!                        ▼                                            │
//!                  AwaitWorkload ──────────────5 s────────────────────┤
//!                    │ │      │ demanded                              │
//!                    │ │      └──► AwaitAnswer ────5 s────────────────┤
//!                    │ │             │ answered, then as without      │
//!             direct ▼ ▼ tunnel ◄────┘                                │
//!              Connecting    AwaitTunnel ◄──not processed, 3 tries──┐ │
//!               │   │10 s     │   │ 30 s, no tunnel                 │ │
//!               │   │    sent │   │                                 │ │
//!               │   │         ▼   │                                 │ │
//!               │   │     AwaitReply ───────────────────────────────┘ │
//!               │   │        │  │ other status, reset, 20 s           │
//!               ▼   │    200 ▼  │                                     ▼
//!             Open  └────► Open └────────────────────────────────► Failed
//!
//!  Dial     client: AwaitCertificate ──► Connecting ──► Handshaking ──► Up
//!           server: AwaitCertificate ─────────────────► Handshaking ──► Up
//!                     10 s                10 s            10 s        (else Failed)
//! ```

use std::fmt;

/// How often a connection is offered to another tunnel after one closed without having processed it (RFC 9113, 8.7).
const TRIES: u8 = 3;

/// A user's connection on its way to being relayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// The SOCKS5 client hasn't said yet where it wants to go.
    Greeting,
    /// The resource of the local workload isn't known yet.
    AwaitWorkload,
    /// The control plane hasn't said yet what is at the destination: only where resources come on demand.
    AwaitAnswer,
    /// A plain TCP connection is under way.
    Connecting,
    /// No tunnel has room yet; one may be dialled for us.
    AwaitTunnel {
        /// How many tunnels have refused us unprocessed.
        tries: u8,
    },
    /// CONNECT is sent.
    AwaitReply {
        /// As in `AwaitTunnel`.
        tries: u8,
    },
}

/// What happens to a user's connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserEvent {
    /// The SOCKS5 client has named its target.
    Target,
    /// The control plane was asked for the destination.
    Demanded,
    /// It goes out in plain TCP.
    Direct,
    /// It goes through a tunnel.
    Tunnel,
    /// The plain connection is up.
    Connected,
    /// CONNECT was sent on a tunnel.
    Requested,
    /// The peer's answer.
    Reply {
        /// The status code.
        status: u16,
    },
    /// The tunnel ended, or refused the stream, before the peer processed anything of it.
    NotProcessed,
    /// The time limit of the state has passed.
    Timeout,
}

/// What a user's connection does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserNext {
    /// It goes on in this state, with that state's time limit from now.
    Go(User),
    /// Bytes flow.
    Open,
    /// It ends.
    Fail(FlowError),
}

impl User {
    /// How long the state may last, in milliseconds.
    pub fn limit(self) -> u64 {
        match self {
            Self::Greeting | Self::Connecting => 10_000,
            Self::AwaitWorkload | Self::AwaitAnswer => 5_000,
            // Certificate, connect and handshake of a tunnel together.
            Self::AwaitTunnel { .. } => 30_000,
            // The peer's own connect takes up to 10 s; then its answer must travel.
            Self::AwaitReply { .. } => 20_000,
        }
    }

    /// The transition table. A pair that can't happen is `None`: the worker counts it and ends the connection.
    pub fn on(self, event: &UserEvent) -> Option<UserNext> {
        use UserEvent as E;
        use UserNext::{Fail, Go, Open};
        Some(match (self, event) {
            (Self::Greeting, E::Target) => Go(Self::AwaitWorkload),
            (Self::AwaitWorkload, E::Demanded) => Go(Self::AwaitAnswer),
            (Self::AwaitWorkload | Self::AwaitAnswer, E::Direct) => Go(Self::Connecting),
            (Self::AwaitWorkload | Self::AwaitAnswer, E::Tunnel) => Go(Self::AwaitTunnel { tries: 0 }),
            (Self::Connecting, E::Connected) => Open,
            (Self::AwaitTunnel { tries }, E::Requested) => Go(Self::AwaitReply { tries }),
            (Self::AwaitReply { .. }, E::Reply { status: 200 }) => Open,
            (Self::AwaitReply { .. }, E::Reply { status }) => Fail(FlowError::Status(*status)),
            (Self::AwaitReply { tries }, E::NotProcessed) if tries + 1 < TRIES => {
                Go(Self::AwaitTunnel { tries: tries + 1 })
            }
            (Self::AwaitReply { .. }, E::NotProcessed) => Fail(FlowError::NotProcessed),
            (state, E::Timeout) => Fail(FlowError::Timeout(state.awaited())),
            _ => return None,
        })
    }

    fn awaited(self) -> Awaited {
        match self {
            Self::Greeting => Awaited::Greeting,
            Self::AwaitWorkload => Awaited::Workload,
            Self::AwaitAnswer => Awaited::Answer,
            Self::Connecting => Awaited::Connect,
            Self::AwaitTunnel { .. } => Awaited::Tunnel,
            Self::AwaitReply { .. } => Awaited::Reply,
        }
    }
}

/// A tunnel on its way up, of either role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dial {
    /// Our own certificate isn't there yet.
    AwaitCertificate,
    /// TCP is under way (client role).
    Connecting,
    /// TLS is under way.
    Handshaking,
}

/// What happens to a tunnel on its way up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialEvent {
    /// Our certificate is there; a client has to connect first.
    Certificate {
        /// Whether the TCP connection is up (server role).
        connected: bool,
    },
    /// TCP is up.
    Connected,
    /// TLS is up.
    Secured,
    /// The time limit of the state has passed.
    Timeout,
}

/// What a tunnel does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialNext {
    /// It goes on in this state, with that state's time limit from now.
    Go(Dial),
    /// Streams may be opened.
    Up,
    /// It ends.
    Fail(FlowError),
}

impl Dial {
    /// How long the state may last, in milliseconds.
    pub fn limit(self) -> u64 {
        10_000
    }

    /// The transition table, as [`User::on`].
    pub fn on(self, event: DialEvent) -> Option<DialNext> {
        use DialEvent as E;
        Some(match (self, event) {
            (Self::AwaitCertificate, E::Certificate { connected: false }) => DialNext::Go(Self::Connecting),
            (Self::AwaitCertificate, E::Certificate { connected: true }) => DialNext::Go(Self::Handshaking),
            (Self::Connecting, E::Connected) => DialNext::Go(Self::Handshaking),
            (Self::Handshaking, E::Secured) => DialNext::Up,
            (state, E::Timeout) => DialNext::Fail(FlowError::Timeout(match state {
                Self::AwaitCertificate => Awaited::Certificate,
                Self::Connecting => Awaited::TunnelConnect,
                Self::Handshaking => Awaited::Handshake,
            })),
            _ => return None,
        })
    }
}

/// Why a connection didn't come up, as far as this machine decides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlowError {
    /// A time limit has passed.
    #[error("timed out: {0}")]
    Timeout(Awaited),
    /// The other node's proxy refused.
    #[error("http status: {0}")]
    Status(u16),
    /// Tunnel after tunnel closed before the request was processed.
    #[error("{TRIES} tunnels closed before the peer processed the request")]
    NotProcessed,
}

/// What was waited for when a time limit passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// The target of a SOCKS5 client.
    Greeting,
    /// The resource of the local workload.
    Workload,
    /// What the control plane has at the destination.
    Answer,
    /// A plain TCP connection.
    Connect,
    /// Room on a tunnel.
    Tunnel,
    /// The answer to CONNECT.
    Reply,
    /// Our own certificate.
    Certificate,
    /// The TCP connection of a tunnel.
    TunnelConnect,
    /// The TLS handshake of a tunnel.
    Handshake,
}

impl fmt::Display for Awaited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Greeting => "the SOCKS5 client named no target",
            Self::Workload => "the local workload is unknown",
            Self::Answer => "the control plane did not answer for the destination",
            Self::Connect => "connect",
            Self::Tunnel => "no tunnel to the peer had room",
            Self::Reply => "the peer did not answer CONNECT",
            Self::Certificate => "our own certificate is not available",
            Self::TunnelConnect => {
                "connect to the peer's port 15008 (maybe a NetworkPolicy is blocking HBONE port 15008)"
            }
            Self::Handshake => "tls handshake",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: [User; 6] = [
        User::Greeting,
        User::AwaitWorkload,
        User::AwaitAnswer,
        User::Connecting,
        User::AwaitTunnel { tries: 2 },
        User::AwaitReply { tries: 2 },
    ];

    fn user_events() -> Vec<UserEvent> {
        use UserEvent as E;
        vec![
            E::Target,
            E::Demanded,
            E::Direct,
            E::Tunnel,
            E::Connected,
            E::Requested,
            E::Reply { status: 200 },
            E::Reply { status: 503 },
            E::NotProcessed,
            E::Timeout,
        ]
    }

    /// One character a cell: `.` can't happen, `>` goes on, `O` opens, `x` fails.
    fn cell(next: Option<&UserNext>) -> char {
        match next {
            None => '.',
            Some(UserNext::Go(_)) => '>',
            Some(UserNext::Open) => 'O',
            Some(UserNext::Fail(_)) => 'x',
        }
    }

    #[test]
    fn every_user_state_meets_every_event_as_drawn() {
        let matrix: Vec<String> = USER
            .iter()
            .map(|state| user_events().iter().map(|event| cell(state.on(event).as_ref())).collect())
            .collect();
        // Columns: Target Demanded Direct Tunnel Connected Requested Reply200 Reply503 NotProcessed Timeout
        assert_eq!(
            matrix,
            [
                ">........x", // Greeting
                ".>>>.....x", // AwaitWorkload
                "..>>.....x", // AwaitAnswer
                "....O....x", // Connecting
                ".....>...x", // AwaitTunnel
                "......Oxxx", // AwaitReply, third try
            ]
        );
    }

    /// Plays a whole set-up on virtual time: `(milliseconds since the step before, event)`.
    fn play(mut state: User, script: &[(u64, UserEvent)]) -> (u64, UserNext) {
        let mut now = 0;
        let mut deadline = state.limit();
        for (wait, event) in script {
            let due = now + wait;
            let event = if due >= deadline { &UserEvent::Timeout } else { event };
            now = due.min(deadline);
            match state.on(event).expect("the script follows the diagram") {
                UserNext::Go(next) => {
                    state = next;
                    deadline = now + state.limit();
                }
                end => return (now, end),
            }
        }
        (deadline, state.on(&UserEvent::Timeout).expect("every state has a limit"))
    }

    #[test]
    fn a_tunnelled_connection_opens() {
        use UserEvent as E;
        let script = [(1, E::Tunnel), (40, E::Requested), (3, E::Reply { status: 200 })];
        assert_eq!(play(User::AwaitWorkload, &script), (44, UserNext::Open));
    }

    #[test]
    fn a_tunnel_that_goes_away_costs_no_connection_but_not_for_ever() {
        use UserEvent as E;
        let again = [(1, E::Requested), (1, E::NotProcessed)];
        let mut script = vec![(0, E::Tunnel)];
        script.extend(again.iter().cloned().cycle().take(4));
        script.extend([(1, E::Requested), (1, E::Reply { status: 200 })]);
        assert_eq!(play(User::AwaitWorkload, &script).1, UserNext::Open, "the third tunnel serves it");
        let mut script = vec![(0, E::Tunnel)];
        script.extend(again.iter().cloned().cycle().take(6));
        assert_eq!(play(User::AwaitWorkload, &script), (6, UserNext::Fail(FlowError::NotProcessed)));
    }

    #[test]
    fn each_wait_ends_at_its_own_limit() {
        use UserEvent as E;
        let silent = FlowError::Timeout(Awaited::Reply);
        let script = [(4_999, E::Tunnel), (29_999, E::Requested), (20_000, E::Reply { status: 200 })];
        assert_eq!(play(User::AwaitWorkload, &script), (4_999 + 29_999 + 20_000, UserNext::Fail(silent)));
        assert_eq!(
            play(User::AwaitWorkload, &[(5_000, E::Tunnel)]),
            (5_000, UserNext::Fail(FlowError::Timeout(Awaited::Workload)))
        );
        assert_eq!(
            play(User::AwaitWorkload, &[(4_999, E::Demanded), (5_000, E::Direct)]),
            (4_999 + 5_000, UserNext::Fail(FlowError::Timeout(Awaited::Answer))),
            "an answer that doesn't come opens nothing"
        );
        assert_eq!(
            play(User::Greeting, &[(1, E::Target), (1, E::Direct)]),
            (10_002, UserNext::Fail(FlowError::Timeout(Awaited::Connect)))
        );
    }

    #[test]
    fn tunnels_come_up_in_both_roles() {
        let mut dial = Dial::AwaitCertificate;
        for event in [DialEvent::Certificate { connected: false }, DialEvent::Connected] {
            let Some(DialNext::Go(next)) = dial.on(event) else { panic!("{dial:?} stops at {event:?}") };
            dial = next;
        }
        assert_eq!(dial.on(DialEvent::Secured), Some(DialNext::Up));
        assert_eq!(
            Dial::AwaitCertificate.on(DialEvent::Certificate { connected: true }),
            Some(DialNext::Go(Dial::Handshaking))
        );
        assert_eq!(Dial::Connecting.on(DialEvent::Secured), None);
        assert!(matches!(
            Dial::Handshaking.on(DialEvent::Timeout),
            Some(DialNext::Fail(FlowError::Timeout(Awaited::Handshake)))
        ));
    }
}
