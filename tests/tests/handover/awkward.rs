//! Replacements at moments that suit nobody.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use demo::node::{Node, Proxy};
use demo::traffic::pattern::{Cursor, Direction, WINDOW};
use demo::traffic::socks5;
use socket2::{Domain, SockAddr, Socket, Type};
use tests::daemonset::Timing;
use tests::longlived::Mix;
use tests::wait::PATIENCE;
use tests::world::{APPLICATION, Host};

use crate::NODE;
use crate::scene::{Handover, SHORT_BAKE, Scene, world};

/// A reader that reads nothing: buffers are full on the whole way, in both directions. Not a byte of them is lost.
#[test]
fn full_buffers_go_along() {
    let world = world();
    let mut scene = Scene::start(&world, Handover::On, SHORT_BAKE);
    let target = world.at(Host::Server, APPLICATION);
    let (near, far) = joined(scene.nodes[0].only(), target);
    let (up, down) = (fill(&near, Direction::Upload), fill(&far, Direction::Download));
    assert!(up.min(down) > 1 << 20, "buffers are full already, with {up} and {down} bytes");
    scene.roll_out();
    empty(&far, up, Direction::Upload);
    empty(&near, down, Direction::Download);
    // And on.
    scene.roll_out();
    exchange(&near, &far);
    scene.ended_well();
}

/// Connections of which one side has ended: the other one goes on, and ends when it will.
#[test]
fn half_closed_connections_stay_half_closed() {
    let world = world();
    let mut scene = Scene::start(&world, Handover::On, SHORT_BAKE);
    let target = world.at(Host::Server, APPLICATION);
    let mut pairs: Vec<[TcpStream; 2]> = Vec::new();
    for number in 0..2 {
        let (near, far) = joined(scene.nodes[0].only(), target);
        // Ended, and open.
        pairs.push(if number == 0 { [near, far] } else { [far, near] });
    }
    for [ended, open] in &mut pairs {
        ended.write_all(b"last words").expect("an open connection");
        ended.shutdown(Shutdown::Write).expect("an open connection");
        assert_eq!(read_to_end(open), b"last words");
    }
    scene.roll_out();
    for [ended, open] in &mut pairs {
        let mut cursor = Cursor::new(2, Direction::Download);
        let bytes = cursor.next(100_000);
        open.write_all(bytes).expect("its way is open");
        open.shutdown(Shutdown::Write).expect("an open connection");
        assert!(read_to_end(ended) == bytes, "other bytes");
    }
    scene.ended_well();
}

/// One tunnel with a hundred streams.
#[test]
fn a_full_tunnel_goes_along() {
    let world = world();
    let mut scene = Scene::start(&world, Handover::On, SHORT_BAKE);
    let load = scene.load(Mix { bulk: 0, requests: 100, idle: 0, plain: 0, fresh: 0 });
    scene.roll_out();
    load.go_on();
    println!("{}", load.stalls());
    load.stop().all_whole();
    scene.ended_well();
}

/// Somebody calls at the socket who knows nothing of the protocol, and somebody who says nothing at all.
#[test]
fn strangers_at_the_socket_change_nothing() {
    let world = world();
    let mut scene = Scene::start(&world, Handover::On, SHORT_BAKE);
    let load = scene.load(Mix::SMALL);
    let call = || {
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).expect("a socket");
        socket
            .connect(&SockAddr::unix(scene.socket(Host::Server)).expect("a path"))
            .expect("somebody listens");
        socket
    };
    let (silent, loud) = (call(), call());
    loud.send(b"GET / HTTP/1.1\r\n\r\n").expect("a connection");
    scene.roll_out();
    drop((silent, loud));
    scene.roll_out();
    load.go_on();
    load.stop().all_whole();
    scene.ended_well();
}

/// More connections than a successor has room for all at once, beside its own.
#[test]
fn few_descriptors_are_enough() {
    let world = world();
    let script = format!("ulimit -n 512; exec {NODE} proxy");
    let shell = Proxy { program: "/bin/sh".into(), arguments: vec!["-c".to_owned(), script] };
    let mut scene = Scene::by(&shell, Timing::FAST, &world, Handover::On, SHORT_BAKE);
    let load = scene.load(Mix { bulk: 1, requests: 50, idle: 50, plain: 10, fresh: 1 });
    scene.roll_out();
    load.go_on();
    load.stop().all_whole();
    scene.ended_well();
}

/// An application's connection to `target`, where nobody listens yet, and its other end.
fn joined(node: &Node, target: SocketAddr) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(target).expect("a free port");
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
fn fill(mut stream: &TcpStream, direction: Direction) -> u64 {
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
fn empty(mut stream: &TcpStream, count: u64, direction: Direction) {
    let mut cursor = Cursor::new(1, direction);
    let mut buffer = vec![0; 64 * 1024];
    while cursor.offset() < count {
        let room = buffer.len().min(usize::try_from(count - cursor.offset()).expect("not so much"));
        let read = stream.read(&mut buffer[..room]).expect("an open connection");
        assert_ne!(read, 0, "an early end");
        cursor.check(&buffer[..read]).expect("the bytes that were sent");
    }
}

fn exchange(near: &TcpStream, far: &TcpStream) {
    for (mut from, mut to) in [(near, far), (far, near)] {
        from.write_all(b"still here").expect("an open connection");
        let mut heard = [0; 10];
        to.read_exact(&mut heard).expect("an open connection");
        assert_eq!(&heard, b"still here");
    }
}

fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).expect("an orderly end");
    all
}
