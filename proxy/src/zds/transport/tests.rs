//! Packets over a pair of sockets.

use std::io::{Read, pipe};
use std::task::Poll;

use super::testing::Peer;
use super::*;

#[tokio::test]
async fn packets_stay_apart_and_keep_their_descriptors() {
    let (peer, connection) = Peer::pair();
    let (mut reader, writer) = pipe().unwrap();
    peer.send(b"one", &[]).unwrap();
    peer.send(b"two", &[writer.as_fd()]).unwrap();
    peer.send(&[7; MAX_PACKET], &[]).unwrap();
    drop(writer);

    let one = connection.receive().await.unwrap();
    assert!(one.bytes == b"one" && one.descriptor.is_none());
    let two = connection.receive().await.unwrap();
    assert_eq!(two.bytes, b"two");
    let descriptor = two.descriptor.unwrap();
    assert!(rustix::io::fcntl_getfd(&descriptor).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    rustix::io::write(&descriptor, b"!").unwrap();
    reader.read_exact(&mut [0]).unwrap();
    assert_eq!(connection.receive().await.unwrap().bytes, [7; MAX_PACKET]);

    connection.send(b"three").unwrap();
    assert_eq!(peer.receive().await.unwrap().bytes, b"three");
}

#[tokio::test]
async fn of_a_broken_packet_nothing_is_kept() {
    let too_large = &[0; MAX_PACKET + 1][..];
    for (bytes, descriptors) in
        [(&b"x"[..], 2), (b"x", 3), (b"x", 200), (too_large, 0), (too_large, 1), (b"", 1), (b"", 2)]
    {
        let (peer, connection) = Peer::pair();
        let (mut reader, writer) = pipe().unwrap();
        peer.send(bytes, &vec![writer.as_fd(); descriptors]).unwrap();
        drop(writer);
        let error = connection.receive().await.unwrap_err();
        let expected = match (bytes, descriptors) {
            // The kernel has room for some more than one, for the sake of alignment.
            (b"x", 2..10) => matches!(error, ReceiveError::Packet(PacketError::TooManyDescriptors(_))),
            (_, 10..) => matches!(error, ReceiveError::Packet(PacketError::DescriptorsLost)),
            (b"", _) => matches!(error, ReceiveError::Closed),
            _ => matches!(error, ReceiveError::Packet(PacketError::Truncated)),
        };
        assert!(expected, "{} bytes, {descriptors} descriptors: {error}", bytes.len());
        assert_eq!(reader.read(&mut [0]).unwrap(), 0, "all copies of its other end are closed");
    }
}

#[tokio::test]
async fn who_is_gone_is_noticed() {
    let (peer, connection) = Peer::pair();
    peer.send(b"last", &[]).unwrap();
    drop(peer);
    assert_eq!(connection.receive().await.unwrap().bytes, b"last");
    assert!(matches!(connection.receive().await, Err(ReceiveError::Closed)));
    assert_eq!(connection.send(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn who_reads_nothing_is_not_waited_for() {
    let (_peer, connection) = Peer::pair();
    let error = (0..1_000_000).find_map(|_| connection.send(&[0; 1_000]).err()).unwrap();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
}

#[tokio::test]
async fn a_wait_that_is_given_up_loses_nothing() {
    let (peer, connection) = Peer::pair();
    {
        let mut waiting = Box::pin(connection.receive());
        assert!(
            std::future::poll_fn(|context| Poll::Ready(waiting.as_mut().poll(context).is_pending())).await
        );
        peer.send(b"x", &[]).unwrap();
    }
    assert_eq!(connection.receive().await.unwrap().bytes, b"x");
}

#[tokio::test]
async fn without_a_listener_there_is_no_connection() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ztunnel.sock");
    assert_eq!(Connection::open(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
    drop(testing::Listener::bind(&path));
    assert_eq!(Connection::open(&path).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    assert!(Connection::open(Path::new(&"x".repeat(200))).is_err());
}
