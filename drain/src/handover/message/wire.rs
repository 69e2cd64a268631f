//! Messages as bytes.

use std::collections::BTreeMap;

use prost::Message as _;

use super::{Hello, Message, Payload, Piece, Verdict};

/// A packet that is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::handover) enum Malformed {
    #[error("it is too short")]
    TooShort,
    #[error("its envelope is not readable")]
    Envelope,
    #[error("a field has an impossible value")]
    Field,
}

const LENGTH: usize = 4;

/// What goes ahead of the payload, and the payload.
pub(in crate::handover) fn encode(message: &Message, descriptors: usize) -> (Vec<u8>, &[u8]) {
    let (body, payload) = body_of(message);
    // More than a packet can have is refused before anything is sent.
    let envelope = Envelope { descriptors: u32::try_from(descriptors).unwrap_or(u32::MAX), body };
    let len = envelope.encoded_len();
    let mut head = Vec::with_capacity(LENGTH + len);
    head.extend((len as u32).to_le_bytes());
    head.extend(envelope.encode_to_vec());
    (head, payload)
}

/// The message in a packet, and how many descriptors it should have come with.
pub(in crate::handover) fn decode(packet: &[u8]) -> Result<(Message, usize), Malformed> {
    let (len, rest) = packet.split_first_chunk::<LENGTH>().ok_or(Malformed::TooShort)?;
    let (envelope, payload) =
        rest.split_at_checked(u32::from_le_bytes(*len) as usize).ok_or(Malformed::TooShort)?;
    let envelope = Envelope::decode(envelope).map_err(|_| Malformed::Envelope)?;
    let message = match envelope.body {
        Some(body) => message_of(body, payload)?,
        None => Message::Unknown,
    };
    Ok((message, envelope.descriptors as usize))
}

#[derive(Clone, PartialEq, prost::Message)]
struct Envelope {
    #[prost(uint32, tag = "1")]
    descriptors: u32,
    #[prost(
        oneof = "Body",
        tags = "2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27"
    )]
    body: Option<Body>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Body {
    #[prost(message, tag = "2")]
    Hello(HelloBody),
    #[prost(message, tag = "3")]
    Verdict(VerdictBody),
    #[prost(uint32, tag = "4")]
    Room(u32),
    #[prost(bool, tag = "5")]
    Able(bool),
    #[prost(message, tag = "6")]
    Terminating(()),
    #[prost(message, tag = "7")]
    RolePart(PieceBody),
    #[prost(message, tag = "8")]
    RoleState(RoleBody),
    #[prost(message, tag = "9")]
    RolePrepared(RoleBody),
    #[prost(message, tag = "10")]
    RoleRefused(RoleBody),
    #[prost(message, tag = "11")]
    RoleCommit(RoleBody),
    #[prost(message, tag = "12")]
    RoleAbort(RoleBody),
    #[prost(message, tag = "13")]
    Mesh(PieceBody),
    #[prost(message, tag = "14")]
    State(PieceBody),
    #[prost(message, tag = "15")]
    Prepared(OfferBody),
    #[prost(message, tag = "16")]
    Refused(OfferBody),
    #[prost(message, tag = "17")]
    Commit(OfferBody),
    #[prost(message, tag = "18")]
    Abort(OfferBody),
    #[prost(message, tag = "19")]
    Running(OfferBody),
    #[prost(message, tag = "20")]
    Proved(OfferBody),
    #[prost(message, tag = "21")]
    NotProved(OfferBody),
    #[prost(string, tag = "22")]
    PodDeleted(String),
    #[prost(string, tag = "23")]
    PodClosed(String),
    #[prost(message, tag = "24")]
    Counters(PieceBody),
    #[prost(message, tag = "25")]
    Done(()),
    #[prost(string, tag = "26")]
    Goodbye(String),
    #[prost(message, tag = "27")]
    Coming(PieceBody),
}

#[derive(Clone, PartialEq, prost::Message)]
struct HelloBody {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(uint32, tag = "2")]
    oldest_version: u32,
    #[prost(string, tag = "3")]
    pod: String,
    #[prost(string, tag = "4")]
    build: String,
    #[prost(uint32, tag = "5")]
    pid: u32,
    #[prost(bool, tag = "6")]
    wants_role: bool,
    #[prost(bool, tag = "7")]
    holds_role: bool,
    #[prost(uint32, tag = "8")]
    room: u32,
    #[prost(btree_map = "string, string", tag = "9")]
    compatibility: BTreeMap<String, String>,
    #[prost(string, repeated, tag = "10")]
    features: Vec<String>,
    #[prost(bool, tag = "11")]
    terminating: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct VerdictBody {
    #[prost(oneof = "VerdictKind", tags = "1, 2, 3, 4, 5")]
    kind: Option<VerdictKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum VerdictKind {
    #[prost(message, tag = "1")]
    Welcome(()),
    #[prost(message, tag = "2")]
    StayStandby(()),
    #[prost(uint64, tag = "3")]
    Wait(u64),
    #[prost(string, tag = "4")]
    Incompatible(String),
    #[prost(message, tag = "5")]
    Busy(()),
}

/// A piece: of a part of the role (`kind`), of a connection's state (the other fields), or of something else.
#[derive(Clone, PartialEq, prost::Message)]
struct PieceBody {
    #[prost(uint32, tag = "1")]
    part: u32,
    #[prost(uint32, tag = "2")]
    parts: u32,
    #[prost(uint32, tag = "3")]
    kind: u32,
    #[prost(uint64, tag = "4")]
    offer: u64,
    #[prost(bool, tag = "5")]
    canary: bool,
    #[prost(uint64, tag = "6")]
    frozen_at_ns: u64,
    #[prost(uint64, tag = "7")]
    mesh: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RoleBody {
    #[prost(uint32, tag = "1")]
    epoch: u32,
    #[prost(string, tag = "2")]
    reason: String,
    #[prost(uint32, tag = "3")]
    parts: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct OfferBody {
    #[prost(uint64, tag = "1")]
    offer: u64,
    #[prost(string, tag = "2")]
    reason: String,
    #[prost(bool, tag = "3")]
    again: bool,
    #[prost(uint64, tag = "4")]
    pause_us: u64,
}

fn body_of(message: &Message) -> (Option<Body>, &[u8]) {
    let offer = |offer| OfferBody { offer, ..OfferBody::default() };
    let role = |epoch| RoleBody { epoch, ..RoleBody::default() };
    let mut payload: &[u8] = &[];
    let body = match message {
        Message::Hello(hello) => Body::Hello(hello.clone().into()),
        Message::Verdict(verdict) => Body::Verdict(VerdictBody { kind: Some(verdict.clone().into()) }),
        Message::Room { descriptors } => Body::Room(*descriptors),
        Message::Able { alone } => Body::Able(*alone),
        Message::Terminating => Body::Terminating(()),
        Message::RolePart { kind, piece } => {
            payload = &piece.bytes;
            Body::RolePart(PieceBody { kind: *kind, ..PieceBody::of(piece) })
        }
        Message::RoleState { epoch, parts } => Body::RoleState(RoleBody { parts: *parts, ..role(*epoch) }),
        Message::RolePrepared { epoch } => Body::RolePrepared(role(*epoch)),
        Message::RoleRefused { epoch, reason } => {
            Body::RoleRefused(RoleBody { reason: reason.clone(), ..role(*epoch) })
        }
        Message::RoleCommit { epoch } => Body::RoleCommit(role(*epoch)),
        Message::RoleAbort { epoch, reason } => {
            Body::RoleAbort(RoleBody { reason: reason.clone(), ..role(*epoch) })
        }
        Message::Mesh(piece) => {
            payload = &piece.bytes;
            Body::Mesh(PieceBody::of(piece))
        }
        Message::Counters(piece) => {
            payload = &piece.bytes;
            Body::Counters(PieceBody::of(piece))
        }
        Message::State { offer, canary, mesh, frozen_at_ns, piece } => {
            payload = &piece.bytes;
            let (offer, canary, mesh, frozen_at_ns) = (*offer, *canary, *mesh, *frozen_at_ns);
            Body::State(PieceBody { offer, canary, mesh, frozen_at_ns, ..PieceBody::of(piece) })
        }
        Message::Prepared { offer: of } => Body::Prepared(offer(*of)),
        Message::Refused { offer: of, reason, again } => {
            Body::Refused(OfferBody { reason: reason.clone(), again: *again, ..offer(*of) })
        }
        Message::Commit { offer: of, secrets } => {
            payload = secrets;
            Body::Commit(offer(*of))
        }
        Message::Abort { offer: of } => Body::Abort(offer(*of)),
        Message::Running { offer: of, pause_us } => {
            Body::Running(OfferBody { pause_us: *pause_us, ..offer(*of) })
        }
        Message::Proved { offer: of } => Body::Proved(offer(*of)),
        Message::NotProved { offer: of, reason } => {
            Body::NotProved(OfferBody { reason: reason.clone(), ..offer(*of) })
        }
        Message::PodDeleted { uid } => Body::PodDeleted(uid.clone()),
        Message::PodClosed { uid } => Body::PodClosed(uid.clone()),
        Message::Coming(piece) => {
            payload = &piece.bytes;
            Body::Coming(PieceBody::of(piece))
        }
        Message::Done => Body::Done(()),
        Message::Goodbye { reason } => Body::Goodbye(reason.clone()),
        Message::Unknown => return (None, payload),
    };
    (Some(body), payload)
}

fn message_of(body: Body, payload: &[u8]) -> Result<Message, Malformed> {
    let payload = || Payload::new(payload.to_vec());
    Ok(match body {
        Body::Hello(hello) => Message::Hello(hello.into()),
        // A verdict of a later build; who waits for one it knows will wait in vain.
        Body::Verdict(VerdictBody { kind: None }) => Message::Unknown,
        Body::Verdict(VerdictBody { kind: Some(kind) }) => Message::Verdict(kind.into()),
        Body::Room(descriptors) => Message::Room { descriptors },
        Body::Able(alone) => Message::Able { alone },
        Body::Terminating(()) => Message::Terminating,
        Body::RolePart(body) => Message::RolePart { kind: body.kind, piece: body.piece(payload())? },
        Body::RoleState(body) => Message::RoleState { epoch: body.epoch, parts: body.parts },
        Body::RolePrepared(body) => Message::RolePrepared { epoch: body.epoch },
        Body::RoleRefused(body) => Message::RoleRefused { epoch: body.epoch, reason: body.reason },
        Body::RoleCommit(body) => Message::RoleCommit { epoch: body.epoch },
        Body::RoleAbort(body) => Message::RoleAbort { epoch: body.epoch, reason: body.reason },
        Body::Mesh(body) => Message::Mesh(body.piece(payload())?),
        Body::Counters(body) => Message::Counters(body.piece(payload())?),
        Body::State(body) => Message::State {
            offer: body.offer,
            canary: body.canary,
            mesh: body.mesh,
            frozen_at_ns: body.frozen_at_ns,
            piece: body.piece(payload())?,
        },
        Body::Prepared(body) => Message::Prepared { offer: body.offer },
        Body::Refused(body) => Message::Refused { offer: body.offer, reason: body.reason, again: body.again },
        Body::Commit(body) => Message::Commit { offer: body.offer, secrets: payload() },
        Body::Abort(body) => Message::Abort { offer: body.offer },
        Body::Running(body) => Message::Running { offer: body.offer, pause_us: body.pause_us },
        Body::Proved(body) => Message::Proved { offer: body.offer },
        Body::NotProved(body) => Message::NotProved { offer: body.offer, reason: body.reason },
        Body::PodDeleted(uid) => Message::PodDeleted { uid },
        Body::PodClosed(uid) => Message::PodClosed { uid },
        Body::Coming(body) => Message::Coming(body.piece(payload())?),
        Body::Done(()) => Message::Done,
        Body::Goodbye(reason) => Message::Goodbye { reason },
    })
}

impl PieceBody {
    fn of(piece: &Piece) -> Self {
        Self { part: piece.part, parts: piece.parts, ..Self::default() }
    }

    fn piece(&self, bytes: Payload) -> Result<Piece, Malformed> {
        let Self { part, parts, .. } = *self;
        if part < parts { Ok(Piece { part, parts, bytes }) } else { Err(Malformed::Field) }
    }
}

impl From<Hello> for HelloBody {
    fn from(hello: Hello) -> Self {
        let Hello { version, oldest_version, pod, build, pid, wants_role, holds_role, room, .. } = hello;
        let Hello { compatibility, features, terminating, .. } = hello;
        Self {
            version,
            oldest_version,
            pod,
            build,
            pid,
            wants_role,
            holds_role,
            room,
            compatibility,
            features,
            terminating,
        }
    }
}

impl From<HelloBody> for Hello {
    fn from(body: HelloBody) -> Self {
        let HelloBody { version, oldest_version, pod, build, pid, wants_role, holds_role, room, .. } = body;
        let HelloBody { compatibility, features, terminating, .. } = body;
        Self {
            version,
            oldest_version,
            pod,
            build,
            pid,
            wants_role,
            holds_role,
            room,
            compatibility,
            features,
            terminating,
        }
    }
}

impl From<Verdict> for VerdictKind {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Welcome => Self::Welcome(()),
            Verdict::StayStandby => Self::StayStandby(()),
            Verdict::Wait { ms } => Self::Wait(ms),
            Verdict::Incompatible { reason } => Self::Incompatible(reason),
            Verdict::Busy => Self::Busy(()),
        }
    }
}

impl From<VerdictKind> for Verdict {
    fn from(kind: VerdictKind) -> Self {
        match kind {
            VerdictKind::Welcome(()) => Self::Welcome,
            VerdictKind::StayStandby(()) => Self::StayStandby,
            VerdictKind::Wait(ms) => Self::Wait { ms },
            VerdictKind::Incompatible(reason) => Self::Incompatible { reason },
            VerdictKind::Busy(()) => Self::Busy,
        }
    }
}
