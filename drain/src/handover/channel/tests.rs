//! Two ends, over pairs of connected sockets.

use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process::Command;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::handover::message::{Payload, Piece};

use super::*;

#[test]
fn messages_arrive_in_order_with_their_own_descriptors() {
    let (left, right) = pair();
    let (one, two) = (Files::new(1), Files::new(MAX_DESCRIPTORS));
    left.send(&Message::Terminating, &[]).expect("room");
    left.send(&prepared(1), &one.borrowed()).expect("room");
    left.send(&note(MAX_BYTES - 100), &two.borrowed()).expect("room");
    drop(left);
    let received = [(); 3].map(|()| right.receive().expect("it was sent"));
    assert_eq!(
        received.each_ref().map(|received| &received.message),
        [&Message::Terminating, &prepared(1), &note(MAX_BYTES - 100)]
    );
    assert!(received[0].descriptors.is_empty());
    one.assert_same(&received[1].descriptors);
    two.assert_same(&received[2].descriptors);
    assert!(matches!(right.receive(), Err(ReceiveError::Gone)));
}

#[test]
fn descriptors_arrive_close_on_exec() {
    let (left, right) = pair();
    left.send(&Message::Done, &Files::new(3).borrowed()).expect("room");
    for descriptor in right.receive().expect("it was sent").descriptors {
        let flags = rustix::io::fcntl_getfd(&descriptor).expect("it is open");
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }
}

#[test]
fn nothing_there_is_no_end() {
    let (left, right) = pair();
    assert!(matches!(right.receive(), Err(ReceiveError::NotReady)));
    left.send(&Message::Done, &[]).expect("room");
    right.receive().expect("it was sent");
    assert!(matches!(right.receive(), Err(ReceiveError::NotReady)));
}

/// What a receiver that stands still costs: nothing, and each message was sent whole or not at all.
#[test]
fn a_full_socket_takes_whole_messages_or_nothing() {
    let (left, right) = pair();
    let file = Files::new(1);
    let mut sent = 0;
    loop {
        match left.send(&commit(sent), &file.borrowed()) {
            Ok(()) => sent += 1,
            Err(error) => break assert_eq!(error, SendError::NotReady),
        }
    }
    assert!(sent >= 5, "{sent} messages are no buffer");
    for offer in 0..sent {
        let received = right.receive().expect("it was sent");
        assert_eq!((received.message, received.descriptors.len()), (commit(offer), 1));
    }
    assert!(matches!(right.receive(), Err(ReceiveError::NotReady)), "a part of one was sent");
    left.send(&commit(sent), &[]).expect("there is room again");
    assert_eq!(right.receive().expect("it was sent").message, commit(sent));
}

/// The kernel tells the reset before what is queued (measured); the commit must be read all the same.
#[test]
fn what_the_dead_had_sent_is_read_to_its_end() {
    // Whether this side notices when it receives, or already when it sends.
    for sends_first in [false, true] {
        let (left, right) = pair();
        right.send(&Message::Terminating, &[]).expect("room");
        left.send(&prepared(1), &[]).expect("room");
        left.send(&commit(2), &Files::new(2).borrowed()).expect("room");
        drop(left);
        if sends_first {
            assert_eq!(right.send(&Message::Done, &[]), Err(SendError::Gone));
        }
        assert_eq!(right.receive().expect("it was sent").message, prepared(1), "{sends_first}");
        let received = right.receive().expect("it was sent");
        assert_eq!((received.message, received.descriptors.len()), (commit(2), 2));
        for _ in 0..2 {
            assert!(matches!(right.receive(), Err(ReceiveError::Gone)));
        }
        assert_eq!(right.send(&Message::Done, &[]), Err(SendError::Gone), "an error and no signal");
    }
}

#[test]
fn what_is_too_large_is_not_sent() {
    let (left, right) = pair();
    let file = Files::new(1);
    let too_many = vec![file.borrowed()[0]; MAX_DESCRIPTORS + 1];
    let result = left.send(&Message::Done, &too_many);
    assert!(matches!(result, Err(SendError::TooLarge { descriptors: 201, .. })), "{result:?}");
    let result = left.send(&note(MAX_BYTES), &[]);
    assert!(matches!(result, Err(SendError::TooLarge { bytes, .. }) if bytes > MAX_BYTES), "{result:?}");
    assert!(matches!(right.receive(), Err(ReceiveError::NotReady)));
}

#[test]
fn what_should_not_be_there_is_malformed() {
    let (left, right) = pair();
    let files = Files::new(3);
    let (good, _) = encode(&Message::Done, 2);
    let packets = [
        (vec![0; MAX_BYTES + 1], 0, "more than 65536 bytes"),
        (vec![1, 2], 0, "too short"),
        (vec![1, 0, 0, 0, 0xff], 0, "not readable"),
        (good.clone(), 0, "0 descriptors, and should have with 2"),
        (good.clone(), 1, "1 descriptors, and should have with 2"),
        (good.clone(), 3, "3 descriptors, and should have with 2"),
    ];
    for (bytes, count, expected) in packets {
        raw_packet(&left, &bytes, &files.borrowed()[..count]);
        match right.receive() {
            Err(ReceiveError::Malformed(reason)) => assert!(reason.contains(expected), "{reason}"),
            other => panic!("{expected}: {other:?}"),
        }
    }
    raw_packet(&left, &good, &files.borrowed()[..2]);
    right.receive().expect("the next one is not to blame");
}

/// The kernel's most, which is more than this side sends, is counted right.
#[test]
fn more_descriptors_than_allowed_are_counted_and_closed() {
    let (left, right) = pair();
    let (passed, mut far_end) = UnixStream::pair().expect("a pair of sockets");
    let (head, _) = encode(&Message::Done, 2);
    raw_packet(&left, &head, &vec![passed.as_fd(); KERNEL_DESCRIPTORS]);
    drop(passed);
    let result = right.receive();
    assert!(matches!(&result, Err(ReceiveError::Malformed(reason)) if reason.contains("253")), "{result:?}");
    assert_eq!(far_end.read(&mut [0]).expect("it is open"), 0, "all 253 copies are closed");
}

/// The limit holds for a whole process, so it is lowered in one of its own: this test, started again.
#[test]
fn descriptors_without_room_are_missed_and_their_message_is_known() {
    const NAME: &str =
        "handover::channel::tests::descriptors_without_room_are_missed_and_their_message_is_known";
    alone(NAME, || {
        const ROOM: usize = 10;
        let (left, right) = pair();
        let files = Files::new(50);
        left.send(&prepared(7), &files.borrowed()).expect("room");
        left.send(&Message::Done, &[]).expect("room");
        // Descriptors are given out lowest first, so the next one's number is the count of those in use.
        let next = || left.socket.try_clone().map(|copy| copy.as_raw_fd());
        let used = next().expect("there is room still");
        let limit = Rlimit { current: Some(used as u64 + ROOM as u64), ..getrlimit(Resource::Nofile) };
        setrlimit(Resource::Nofile, limit).expect("a limit can be lowered");
        match right.receive() {
            Err(ReceiveError::DescriptorsLost { message, expected: 50, got: ROOM }) => {
                assert_eq!(*message, prepared(7));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(next().expect("what fitted is closed again"), used);
        assert_eq!(right.receive().expect("the next one is whole").message, Message::Done);
    });
}

/// Only without CAP_SYS_RESOURCE and CAP_SYS_ADMIN, which root has: it is another user's limit then.
#[test]
fn too_many_in_flight_can_be_tried_again() {
    const NAME: &str = "handover::channel::tests::too_many_in_flight_can_be_tried_again";
    alone(NAME, || {
        if rustix::process::geteuid().is_root() {
            let nobody = rustix::process::Uid::from_raw(65_534);
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).expect("root may be anybody");
        }
        let limit = Rlimit { current: Some(64), ..getrlimit(Resource::Nofile) };
        setrlimit(Resource::Nofile, limit).expect("a limit can be lowered");
        let (left, right) = pair();
        let file = Files::new(1);
        let batch = vec![file.borrowed()[0]; 20];
        let mut sent = 0;
        loop {
            match left.send(&prepared(sent), &batch) {
                Ok(()) => sent += 1,
                Err(error) => break assert_eq!(error, SendError::TooManyInFlight),
            }
        }
        assert!(sent >= 3, "{sent}");
        right.receive().expect("it was sent");
        left.send(&prepared(sent), &batch).expect("some were taken");
        for offer in 1..=sent {
            assert_eq!(right.receive().expect("it was sent").message, prepared(offer));
        }
    });
}

#[test]
fn the_peer_is_the_user_who_runs_this() {
    let (left, _right) = pair();
    assert_eq!(left.peer_uid().expect("it is a Unix socket"), rustix::process::geteuid().as_raw());
}

#[test]
fn a_socket_that_joins_messages_is_none() {
    let (stream, _) = UnixStream::pair().expect("a pair of sockets");
    assert_eq!(Channel::new(stream.into()).err(), Some(Errno::PROTOTYPE));
}

fn pair() -> (Channel, Channel) {
    Channel::pair().expect("a pair of sockets")
}

fn prepared(offer: u64) -> Message {
    Message::Prepared { offer }
}

fn commit(offer: u64) -> Message {
    Message::Commit { offer, secrets: Payload::new(vec![offer as u8; 60_000]) }
}

fn note(bytes: usize) -> Message {
    let piece = Piece { part: 0, parts: 1, bytes: Payload::new(vec![7; bytes]) };
    Message::RolePart { kind: 1, piece }
}

/// Runs a part of the test of this name in a process of its own.
fn alone(name: &str, part: impl FnOnce()) {
    const CHILD: &str = "DRAIN_TEST_ALONE";
    if std::env::var_os(CHILD).is_some() {
        return part();
    }
    let binary = std::env::current_exe().expect("a test knows its binary");
    let output = Command::new(binary).args([name, "--exact", "--nocapture"]).env(CHILD, "1").output();
    let output = output.expect("the binary can be started");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{errors}");
}

/// A packet as a peer could send it that breaks the format.
fn raw_packet(channel: &Channel, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(KERNEL_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
    }
    let sent = sendmsg(&channel.socket, &[IoSlice::new(bytes)], &mut control, SendFlags::empty());
    assert_eq!(sent, Ok(bytes.len()));
}

/// Sockets that can be told apart, to be passed.
struct Files(Vec<(UnixStream, UnixStream)>);

impl Files {
    fn new(count: usize) -> Self {
        Self((0..count).map(|_| UnixStream::pair().expect("a pair of sockets")).collect())
    }

    fn borrowed(&self) -> Vec<BorrowedFd<'_>> {
        self.0.iter().map(|(passed, _)| passed.as_fd()).collect()
    }

    /// These are the same sockets, in this order: what is written to a copy comes out at the far end.
    fn assert_same(&self, descriptors: &[OwnedFd]) {
        assert_eq!(descriptors.len(), self.0.len());
        for (descriptor, (_, far_end)) in descriptors.iter().zip(&self.0) {
            rustix::io::write(descriptor, b"!").expect("it is open");
            far_end.set_nonblocking(true).expect("a socket can be told not to block");
            assert_eq!((&*far_end).read(&mut [0; 2]).expect("the byte is there"), 1);
        }
    }
}
