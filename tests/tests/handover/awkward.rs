//! Replacements at moments that suit nobody.

use std::io::Write;
use std::net::{Shutdown, TcpStream};

use demo::traffic::pattern::{Cursor, Direction};
use socket2::{Domain, SockAddr, Socket, Type};
use tests::longlived::Mix;
use tests::world::{APPLICATION, Host};

use crate::connection::{empty, exchange, fill, joined, read_to_end};
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
