//! The network namespaces of `--netns`: what is redirected, what is spared, and that nothing is left.
//!
//! Without root, iproute2 or iptables there is only one thing to test: that this is said.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::process::Command;
use std::time::Duration;

use demo::netns::{Namespaces, NetnsError, PACKET_MARK};
use demo::node::{INBOUND_PLAINTEXT_PORT, OUTBOUND_PORT, TUNNEL_PORT};
use demo::place::Place;
use socket2::{Domain, Protocol, Socket, Type};

const APPLICATION_PORT: u16 = 8080;
const EVERYWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

#[test]
fn connections_are_redirected_as_on_a_node() {
    let namespaces = match Namespaces::create() {
        Ok(namespaces) => namespaces,
        Err(NetnsError::Missing { missing }) => {
            let needed = ["root", "iproute2", "iptables"];
            assert!(missing.iter().all(|item| needed.iter().any(|need| item.contains(need))), "{missing:?}");
            eprintln!("not tested: there is no {}", missing.join(", no "));
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let (client, server) = (namespaces.client(), namespaces.server());
    let outbound = listen(&client, OUTBOUND_PORT);
    let plaintext = listen(&server, INBOUND_PLAINTEXT_PORT);
    let tunnel = listen(&server, TUNNEL_PORT);
    let application = listen(&server, APPLICATION_PORT);
    let all = [&outbound, &plaintext, &tunnel, &application];

    let to = |ip, port| SocketAddr::new(ip, port);
    let server_ip = Namespaces::SERVER;
    // An application's own connections go to the proxy beside it, whether the address exists or not.
    assert_eq!(arrival(&client, to(server_ip, APPLICATION_PORT), None, &all), Some(0));
    assert_eq!(arrival(&client, to(server_ip, TUNNEL_PORT), None, &all), Some(0));
    assert_eq!(arrival(&client, to(Namespaces::SERVICE, 80), None, &all), Some(0));
    // The proxy's connections pass; on the other side all but tunnels go to the plaintext port.
    let mark = Some(PACKET_MARK);
    assert_eq!(arrival(&client, to(server_ip, TUNNEL_PORT), mark, &all), Some(2));
    assert_eq!(arrival(&client, to(server_ip, APPLICATION_PORT), mark, &all), Some(1));
    // The server's proxy reaches the application beside it.
    assert_eq!(arrival(&server, to(server_ip, APPLICATION_PORT), None, &all), Some(3));

    drop(namespaces);
    let left = Command::new("ip").args(["netns", "list"]).output().expect("ip runs").stdout;
    let ours = format!("demo-{}-", std::process::id());
    assert!(!String::from_utf8_lossy(&left).contains(&ours), "a namespace is left");
}

fn listen(place: &Place, port: u16) -> TcpListener {
    let listener = place.run(|| TcpListener::bind((EVERYWHERE, port)));
    let listener = listener.expect("the namespace is there").expect("its ports are free");
    listener.set_nonblocking(true).expect("a socket option");
    listener
}

/// Connects from `place` to `address` and tells which listener got the connection.
fn arrival(
    place: &Place,
    address: SocketAddr,
    mark: Option<u32>,
    listeners: &[&TcpListener],
) -> Option<usize> {
    let connected = place.run(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        if let Some(mark) = mark {
            socket.set_mark(mark)?;
        }
        socket.connect_timeout(&address.into(), Duration::from_secs(5))?;
        Ok::<_, std::io::Error>(socket)
    });
    let _socket = connected.expect("the namespace is there").expect("somebody takes it");
    // The kernel queues a connection for `accept` before `connect` returns, or a moment later on the far side.
    (0..1000).find_map(|_| {
        let found = listeners.iter().position(|listener| listener.accept().is_ok());
        if found.is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        found
    })
}
