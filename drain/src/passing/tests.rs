//! Both sides, over pairs of connected sockets.

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::thread;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::*;

#[test]
fn a_record_arrives_whole_and_in_order() {
    let sizes = [(0, 0), (1, 0), (0, 1), (10, 1), (10, 64), (0, 65), (70_000, 300), (PIECE - Head::LEN, 2)];
    for (bytes, count) in sizes.into_iter().chain([(5 << 20, 3)]) {
        let (left, right) = pair();
        let sent = noise(bytes);
        let files = Files::new(count);
        let received = thread::scope(|scope| {
            scope.spawn(|| send(&left, &sent, &files.borrowed()).expect("the receiver reads"));
            receive(&right).expect("the sender sends")
        });
        assert!(received.bytes == sent, "{bytes} bytes, {count} descriptors");
        files.assert_same(&received.descriptors);
        files.assert_open();
    }
}

#[test]
fn records_do_not_run_into_each_other() {
    let (left, right) = pair();
    let (one, two) = (Files::new(2), Files::new(70));
    send(&left, b"one", &one.borrowed()).expect("it fits in the socket");
    send(&left, b"", &[]).expect("it fits in the socket");
    send(&left, b"two", &two.borrowed()).expect("it fits in the socket");
    drop(left);
    let records = [(); 3].map(|()| receive(&right).expect("it was sent"));
    assert_eq!(records.each_ref().map(|record| &record.bytes[..]), [b"one", &b""[..], b"two"]);
    one.assert_same(&records[0].descriptors);
    two.assert_same(&records[2].descriptors);
    assert!(matches!(receive(&right), Err(PassingError::Closed)));
}

#[test]
fn descriptors_arrive_close_on_exec() {
    let (left, right) = pair();
    send(&left, b"", &Files::new(3).borrowed()).expect("it fits in the socket");
    for descriptor in receive(&right).expect("it was sent").descriptors {
        let flags = rustix::io::fcntl_getfd(&descriptor).expect("it is open");
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }
}

#[test]
fn neither_side_needs_to_block() {
    let (left, right) = pair();
    left.set_nonblocking(true).expect("a socket can be told not to block");
    right.set_nonblocking(true).expect("a socket can be told not to block");
    let (sent, files) = (noise(3 << 20), Files::new(130));
    let borrowed = files.borrowed();
    let mut outgoing = Outgoing::new(&sent, &borrowed).expect("within the limits");
    let mut incoming = Incoming::new();
    assert!(incoming.read(&right).expect("an idle socket is no error").is_none());
    let (mut turns, mut sent_all) = (0, false);
    let received = loop {
        sent_all = sent_all || outgoing.write(&left).expect("the receiver is there");
        turns += 1;
        if let Some(record) = incoming.read(&right).expect("the sender is there") {
            break record;
        }
        assert!(!sent_all, "everything is sent, and the record is not whole");
    };
    assert!(turns > 3, "the socket was never full: {turns} turns test nothing");
    assert!(received.bytes == sent);
    files.assert_same(&received.descriptors);
    assert!(matches!(receive(&right), Err(PassingError::NotReady)));
}

#[test]
fn a_sender_that_dies_is_noticed_wherever_it_stopped() {
    let head = Head::new(100, 2).expect("within the limits").encode();
    let mut wire = head.to_vec();
    wire.extend([7; 100]);
    for stop in 1..=wire.len() {
        let (mut left, right) = pair();
        left.write_all(&wire[..stop]).expect("it fits in the socket");
        drop(left);
        let expected = if stop < Head::LEN { (Head::LEN - stop, 0) } else { (wire.len() - stop, 2) };
        match receive(&right) {
            Err(PassingError::BrokenOff { bytes, descriptors }) => {
                assert_eq!((bytes, descriptors), expected, "stopped after {stop}");
            }
            other => panic!("stopped after {stop}: {other:?}"),
        }
    }
}

#[test]
fn a_receiver_that_fails_closes_what_it_got() {
    let (left, right) = pair();
    let (pipe, mut far_end) = pair();
    let head = Head::new(0, BATCH + 1).expect("within the limits").encode();
    (&left).write_all(&head).expect("it fits in the socket");
    let batch = vec![pipe.as_fd(); BATCH];
    raw_message(&left, &batch);
    drop((left, pipe));
    let result = receive(&right);
    assert!(matches!(result, Err(PassingError::BrokenOff { bytes: 0, descriptors: 1 })), "{result:?}");
    assert_eq!(far_end.read(&mut [0]).expect("it is open"), 0, "all 64 copies of its other end are closed");
}

#[test]
fn a_receiver_that_is_gone_is_an_error_and_no_signal() {
    let (left, right) = pair();
    drop(right);
    assert!(matches!(send(&left, b"x", &[]), Err(PassingError::Closed)));
}

#[test]
fn a_message_with_the_wrong_count_of_descriptors_is_refused() {
    // Announced, carried by the bytes (one message), carried by the byte after them.
    for (announced, early, late) in [(0, 1, 0), (2, 0, 1), (2, 0, 3), (2, 2, 0), (BATCH, 0, 100)] {
        let (left, right) = pair();
        let files = Files::new(100);
        let head = Head::new(1, announced).expect("within the limits").encode();
        (&left).write_all(&head).expect("it fits in the socket");
        for count in [early, late] {
            raw_message(&left, &files.borrowed()[..count]);
        }
        drop(left);
        let result = receive(&right);
        assert!(
            matches!(result, Err(PassingError::WrongCount { .. })),
            "{announced}, {early}, {late}: {result:?}"
        );
    }
}

#[test]
fn what_is_beyond_the_limits_is_refused_by_both_sides() {
    let (left, right) = pair();
    let file = Files::new(1);
    let too_many = vec![file.borrowed()[0]; MAX_DESCRIPTORS + 1];
    let result = send(&left, b"", &too_many);
    assert!(
        matches!(result, Err(PassingError::TooManyDescriptors { count }) if count == MAX_DESCRIPTORS + 1)
    );
    let result = send(&left, &vec![0; MAX_BYTES + 1], &[]);
    assert!(matches!(result, Err(PassingError::RecordTooLarge { bytes }) if bytes == MAX_BYTES + 1));

    (&left).write_all(&[0xff; Head::LEN]).expect("it fits in the socket");
    let result = receive(&right);
    assert!(matches!(result, Err(PassingError::RecordTooLarge { bytes }) if bytes == u32::MAX as usize));
}

/// The limit holds for a whole process, so it is lowered in one of its own: this test, started again.
#[test]
fn a_receiver_without_room_says_so_and_closes_what_did_fit() {
    const CHILD: &str = "DRAIN_TEST_WITHOUT_ROOM";
    const NAME: &str = "passing::tests::a_receiver_without_room_says_so_and_closes_what_did_fit";
    if std::env::var_os(CHILD).is_some() {
        return receive_without_room();
    }
    let binary = std::env::current_exe().expect("a test knows its binary");
    let output = Command::new(binary).args([NAME, "--exact", "--nocapture"]).env(CHILD, "1").output();
    let output = output.expect("the binary can be started");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn receive_without_room() {
    const ROOM: usize = 10;
    let (left, right) = pair();
    let files = Files::new(50);
    send(&left, b"state", &files.borrowed()).expect("it fits in the socket");
    // Descriptors are given out lowest first, so the next one's number is the count of those in use.
    let next = || left.try_clone().map(|copy| copy.as_raw_fd());
    let used = next().expect("there is room still");
    let limit = Rlimit { current: Some(used as u64 + ROOM as u64), ..getrlimit(Resource::Nofile) };
    setrlimit(Resource::Nofile, limit).expect("a limit can be lowered");
    let result = receive(&right);
    assert!(matches!(result, Err(PassingError::NoRoom { expected: 50, got: ROOM })), "{result:?}");
    assert_eq!(next().expect("what fitted is closed again"), used);
    files.assert_open();
}

#[test]
fn the_peer_is_the_user_who_runs_this() {
    let (left, _right) = pair();
    assert_eq!(peer_uid(&left).expect("it is a Unix socket"), rustix::process::geteuid().as_raw());
    let (no_socket, _) = std::io::pipe().expect("a pipe");
    assert!(matches!(peer_uid(no_socket), Err(PassingError::Socket(_))));
}

/// One byte that carries these descriptors, however many, in one message.
fn raw_message(socket: &UnixStream, descriptors: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(200))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
    }
    let sent = sendmsg(socket, &[IoSlice::new(&[0])], &mut control, SendFlags::empty());
    assert_eq!(sent, Ok(1));
}

fn pair() -> (UnixStream, UnixStream) {
    UnixStream::pair().expect("a pair of sockets")
}

fn noise(len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(len as u64);
    (0..len).map(|_| random.u8(..)).collect()
}

/// Sockets that can be told apart, to be passed.
struct Files(Vec<(UnixStream, UnixStream)>);

impl Files {
    fn new(count: usize) -> Self {
        Self((0..count).map(|_| pair()).collect())
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

    /// The sender's own copies are as they were.
    fn assert_open(&self) {
        for (passed, far_end) in &self.0 {
            (&*passed).write_all(b"?").expect("it is open");
            assert_eq!((&*far_end).read(&mut [0; 2]).expect("the byte is there"), 1);
        }
    }
}
