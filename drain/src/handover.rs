//! Handing everything that a process holds to its successor: the role (who accepts), then each connection.
//!
//! [`seat`] is where two processes find each other, [`channel`] what they are joined by, [`message`] what they say,
//! [`session`] what one side does about it, [`limits`] for how long. What a connection or a pod is, this crate does not
//! know: the daemon carries out what the session decides.
//!
//! ```text
//!   has the role (A)                                             wants it (B)
//!        │ ◄──────────────────────── hello ─────────────────────────── │   connects to A's socket
//!        │ ── hello, verdict ────────────────────────────────────────► │   welcome, stay standby, wait, …
//!        │ ◄──────────────────────── able ──────────────────────────── │   own mesh state, own certificate
//!        │ ── parts, role state ─────────────────────────────────────► │   copies of all listeners, istio-cni's socket
//!        │ ◄──────────────────────── role prepared ─────────────────── │
//!   stops accepting                                                    │   what comes now waits in the kernel
//!        │ ── role commit (lock, hand-over socket) ──────────────────► │
//!   closes its lock, keeps copies of the listeners                accepts at the same sockets
//!        │                                                             │
//!        │ ── state, sockets ────────────────────────────────────────► │   one connection, frozen at A: the canary
//!        │ ◄──────────────────────── prepared ──────────────────────── │
//!        │ ── commit (secrets) ──────────────────────────────────────► │   from here on it is B's
//!        │ ◄──────────────────────── proved ────────────────────────── │   its peer has answered
//!        │ ── state, … in waves, when A is told to end or the bake is over
//! ```
//!
//! Both sides are alike: when B is told to end, the same goes the other way. A commit is one message, sent whole or not at
//! all; before it everything is A's, after it B's, and no other message changes an owner. When B dies the lock is free,
//! and A takes the role back with its copies of the listeners. When both are told to end A hangs up, so that a third may call B,
//! and then calls the third.
//!
//! # The traps, and how each is met
//!
//! Where it is not this crate that meets one, the crate that does is named.
//!
//! | | trap | how it is met |
//! |---|---|---|
//! | T1 | what is queued at a closing `SO_REUSEPORT` listener is reset | the listening socket itself moves; both ends hold copies of one queue |
//! | T2 | the same for datagrams | the DNS sockets move with their pod (`proxy`) |
//! | T3 | 253 descriptors fit into a message | 200 at most, states in pieces of 64, counts in the envelope and checked |
//! | T4 | descriptors in flight are limited (ETOOMANYREFS) | `SendError::TooManyInFlight`: nothing was sent, it is tried again |
//! | T5 | descriptors without room are closed in silence | `MSG_CTRUNC` is `ReceiveError::DescriptorsLost`, with the message; the giver keeps its copies until the commit |
//! | T6 | for a time both processes hold every socket | the taker tells its room, waves fit into it (`proxy`) |
//! | T7 | a passed socket stays in the old event loop | freezing takes it out of there before anything is sent (`proxy`) |
//! | T8 | `shutdown` acts for everyone | a frozen connection has no method that does I/O; after the commit its copies are only closed (`proxy`, `hbone`) |
//! | T9 | options belong to the socket, not to its copy | who prepares a connection changes nothing about its sockets before the commit (`proxy`) |
//! | T10 | the last close with unread bytes resets | whoever drops an offer is not the last: the giver closes its copies after its commit is sent, and the message holds its own |
//! | T11 | close-on-exec is lost on receipt | `MSG_CMSG_CLOEXEC` always; a given seat is marked once more |
//! | T12 | TLS ciphers of AWS-LC insist on counting from 0 | plain AEAD keys, whose nonces we count (`hbone`) |
//! | T13 | two writers on one key | secrets travel in the commit alone; before it the taker *cannot* write, after it the giver has wiped them |
//! | T14 | rustls gives keys, not the traffic secrets that later keys follow from | records are ours from the handshake on; the secrets are what travels (`hbone`) |
//! | T15 | later secrets are not logged | we derive them (`hbone`) |
//! | T16 | an owed KeyUpdate gets lost | it is a flag of the connection's state (`hbone`) |
//! | T17 | bytes that were read already | half records, opened and sealed ones are part of the state; nothing is sealed twice (`hbone`) |
//! | T18 | who the peer is does not travel | its certificates' facts are in the state, and policy is asked again before the first byte (`hbone`, `proxy`) |
//! | T19 | counts towards a key's limit begin anew | sequence numbers and the counts of the current key are in the state (`hbone`) |
//! | T20 | tickets | none are sent, those that come are dropped (`hbone`) |
//! | T21 | keys in logs and core dumps | payloads are wiped and show nothing in `Debug`; the receiver wipes its buffer; no core dumps (`proxy`) |
//! | T22 | kernel TLS | not used |
//! | T23 | HPACK tables, windows, half frames | they are the connection's state; we ask for tables of size 0 (`hbone`) |
//! | T24 | GOAWAY makes the peer leave | none is sent while there is somebody to hand over to (`proxy`) |
//! | T25 | a tunnel's streams can't be parted | the unit is the tunnel with all sockets of its streams (`proxy`) |
//! | T26 | the taker dies before it owns | state and sockets stay with the giver until the commit is sent; the end of the session thaws them |
//! | T27 | the giver dies after sending | descriptors come with their record; on end *or reset* the queue is read to its end first |
//! | T28 | versions differ | unknown fields are skipped, unknown messages ignored; a connection that can't be read is refused alone |
//! | T29 | whoever connects gets every key | directory 0700 and ours, `SO_PEERCRED` on both sides, one session at a time |
//! | T30 | fork and exec don't cross pods | a unix socket in a directory that both pods mount |
//! | T31 | half-closed and failing connections | which directions have ended is in the record; what happened meanwhile is found in the socket (`proxy`, `hbone`) |
//! | T32 | thousands at once | waves, of which the next begins when the last is answered; nothing blocks |
//! | T33 | a test that can't fail | checked bytes and no tolerance, a run without hand-over that must fail (`tests`); the bugs that the simulation found failed it |
//!
//! One more, of ours: a lock belongs to an open file, so a copy of its descriptor that is kept keeps it ([`seat`]).

pub mod channel;
pub mod limits;
pub mod message;
pub mod seat;
pub mod session;
