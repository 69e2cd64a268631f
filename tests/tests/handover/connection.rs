//! One connection of applications, whose both ends the test holds.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use demo::addresses::listen_again;
use demo::node::Node;
use demo::traffic::pattern::{Cursor, Direction, WINDOW};
use demo::traffic::socks5;
use tests::wait::PATIENCE;

/// An application's connection, by way of `node`, to `target`, where nobody listens yet, and its other end.
pub(crate) fn joined(node: &Node, target: SocketAddr) -> (TcpStream, TcpStream) {
    let listener = listen_again(target).expect("a free port");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let near = runtime.block_on(socks5::connect(node.socks5(), target)).expect("a SOCKS5 server");
    let near = near.into_std().expect("a socket");
    near.set_nonblocking(false).expect("a socket option");
    let far = listener.accept().expect("a connection").0;
    for end in [&near, &far] {
        end.set_read_timeout(Some(PATIENCE)).expect("a socket option");
        end.set_write_timeout(Some(PATIENCE)).expect("a socket option");
    }
    (near, far)
}

/// Writes until nothing has gone for a while; how many bytes went.
pub(crate) fn fill(mut stream: &TcpStream, direction: Direction) -> u64 {
    stream.set_write_timeout(Some(Duration::from_millis(300))).expect("a socket option");
    let mut cursor = Cursor::new(1, direction);
    let mut sent = 0;
    loop {
        let mut bytes = cursor.next(WINDOW);
        while !bytes.is_empty() {
            let Ok(count) = stream.write(bytes) else { return sent };
            sent += count as u64;
            bytes = &bytes[count..];
        }
    }
}

/// Reads so many bytes, all of them right.
pub(crate) fn empty(mut stream: &TcpStream, count: u64, direction: Direction) {
    let mut cursor = Cursor::new(1, direction);
    let mut buffer = vec![0; 64 * 1024];
    while cursor.offset() < count {
        let room = buffer.len().min(usize::try_from(count - cursor.offset()).expect("not so much"));
        let read = stream.read(&mut buffer[..room]).expect("an open connection");
        assert_ne!(read, 0, "an early end");
        cursor.check(&buffer[..read]).expect("the bytes that were sent");
    }
}

/// A word each way.
pub(crate) fn exchange(near: &TcpStream, far: &TcpStream) {
    for (mut from, mut to) in [(near, far), (far, near)] {
        from.write_all(b"still here").expect("an open connection");
        let mut heard = [0; 10];
        to.read_exact(&mut heard).expect("an open connection");
        assert_eq!(&heard, b"still here");
    }
}

/// Everything that comes before an orderly end.
pub(crate) fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).expect("an orderly end");
    all
}

/// What an application sees of the other one's end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    End,
    Reset,
    /// Within a second.
    Nothing,
}

/// What comes next, when that is no byte.
pub(crate) fn seen_soon(mut stream: &TcpStream) -> Seen {
    stream.set_read_timeout(Some(Duration::from_secs(1))).expect("a socket option");
    match stream.read(&mut [0; 1]) {
        Ok(0) => Seen::End,
        Ok(_) => panic!("a byte that nobody sent"),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Seen::Reset,
        Err(_) => Seen::Nothing,
    }
}
