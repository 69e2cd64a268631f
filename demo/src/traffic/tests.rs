//! Clients and server on loopback, with something between them that may do harm.

use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

fn any_port() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

fn small_plan() -> Plan {
    Plan {
        bulk: 1,
        requests: 2,
        fresh: 1,
        half_close: 2,
        idle: 3,
        idle_pause: Duration::from_millis(20),
        seed: 4711,
    }
}

/// What a relay does to the bytes from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    None,
    Flip,
    Lose,
    Double,
    End,
}

/// Byte of the upload at which harm is done: behind the head, in the payload of every pattern but the shortest.
const HARM_AT: usize = 60;

/// A SOCKS5 server that connects before it answers and relays with `harm`.
async fn stand_in(listener: TcpListener, harm: Harm) {
    loop {
        let Ok((client, _)) = listener.accept().await else { return };
        tokio::spawn(async move {
            // A client that goes away is the end of its relay and of nothing else.
            relay(client, harm).await.ok();
        });
    }
}

async fn relay(mut client: TcpStream, harm: Harm) -> io::Result<()> {
    let mut greeting = [0; 3];
    client.read_exact(&mut greeting).await?;
    assert_eq!(greeting, [5, 1, 0]);
    client.write_all(&[5, 0]).await?;
    let mut request = [0; 10];
    client.read_exact(&mut request).await?;
    let [5, 1, 0, 1, a, b, c, d, p, q] = request else { panic!("not a CONNECT to IPv4: {request:?}") };
    let server = SocketAddr::from(([a, b, c, d], u16::from_be_bytes([p, q])));
    let Ok(mut server) = TcpStream::connect(server).await else {
        client.write_all(&[5, 5, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
        return Ok(());
    };
    client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let upload = async {
        let (mut piece, mut passed) = ([0; 16 * 1024], 0);
        loop {
            let count = from_client.read(&mut piece).await?;
            if count == 0 {
                return to_server.shutdown().await;
            }
            match (passed..passed + count).contains(&HARM_AT).then_some(harm) {
                None | Some(Harm::None) => to_server.write_all(&piece[..count]).await?,
                Some(Harm::End) => return to_server.shutdown().await,
                Some(harm) => to_server.write_all(&harmed(&piece[..count], HARM_AT - passed, harm)).await?,
            }
            passed += count;
        }
    };
    let download = async {
        tokio::io::copy(&mut from_server, &mut to_client).await?;
        to_client.shutdown().await
    };
    tokio::try_join!(upload, download).map(|_| ())
}

fn harmed(piece: &[u8], at: usize, harm: Harm) -> Vec<u8> {
    let mut piece = piece.to_vec();
    match harm {
        Harm::None | Harm::End => {}
        Harm::Flip => piece[at] ^= 1,
        Harm::Lose => drop(piece.remove(at)),
        Harm::Double => piece.insert(at, piece[at]),
    }
    piece
}

/// Runs the small plan until every pattern has gone through, or something failed; the counts of client and server.
fn run(harm: Option<Harm>) -> (Counts, Counts, bool) {
    let server = Server::start(&Place::Here, any_port()).expect("a server");
    let relays = Background::new(&Place::Here, "relay").expect("a runtime");
    let dial = match harm {
        None => Dial::Direct,
        Some(harm) => {
            let (send, receive) = mpsc::channel();
            relays.spawn(async move {
                let (listener, address) = bind(any_port()).await.expect("a port");
                send.send(address).expect("the test waits");
                stand_in(listener, harm).await;
            });
            Dial::Socks5(receive.recv().expect("an address"))
        }
    };
    let clients = Clients::start(&Place::Here, dial, vec![server.address()], small_plan()).expect("clients");
    loop {
        let counts = clients.tally().counts();
        let all_patterns = counts.closed >= 12 && counts.answers >= 200;
        if all_patterns || counts.failed > 0 || server.tally().counts().failed > 0 {
            break;
        }
        std::thread::yield_now();
    }
    let finished = clients.finish(PATIENCE_FOR_TESTS);
    let begun = std::time::Instant::now();
    while server.tally().counts().open() > 0 && begun.elapsed() < PATIENCE_FOR_TESTS {
        std::thread::yield_now();
    }
    (clients.tally().counts(), server.tally().counts(), finished)
}

const PATIENCE_FOR_TESTS: Duration = Duration::from_secs(30);

fn assert_all_right((clients, server, finished): &(Counts, Counts, bool)) {
    assert!(finished, "{clients:?}");
    assert!(clients.failures.is_empty() && server.failures.is_empty(), "{clients:?} {server:?}");
    assert_eq!((clients.failed, clients.open()), (0, 0));
    assert_eq!((server.failed, server.open()), (0, 0));
    assert_eq!((clients.sent, server.sent), (server.checked, clients.checked));
    assert_eq!(clients.opened, server.opened);
    assert!(clients.checked > 0 && server.checked > 0);
}

#[test]
fn every_pattern_ends_well_without_a_proxy() {
    assert_all_right(&run(None));
}

#[test]
fn every_pattern_ends_well_through_socks5() {
    assert_all_right(&run(Some(Harm::None)));
}

#[test]
fn harm_on_the_way_is_found_and_named() {
    for harm in [Harm::Flip, Harm::Lose, Harm::Double, Harm::End] {
        let (clients, server, _) = run(Some(harm));
        assert!(clients.failed + server.failed > 0, "{harm:?} went unnoticed");
        let said = [clients.failures, server.failures].concat().join("\n");
        assert!(said.contains("connection 0x"), "{harm:?}: {said}");
        let ends = [clients.ends, server.ends];
        let named = match harm {
            Harm::End => ends.iter().any(|ends| ends.early > 0),
            _ => ends.iter().any(|ends| ends.wrong > 0),
        };
        assert!(named, "{harm:?}: {ends:?}");
        if harm == Harm::Flip {
            assert!(
                said.contains("wrong byte on connection 0x") && said.contains("client to server"),
                "{said}"
            );
        }
    }
}

#[test]
fn a_proxy_that_refuses_or_is_gone_is_named() {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (listener, proxy) = bind(any_port()).await.expect("a port");
        let stand_in = tokio::spawn(stand_in(listener, Harm::None));
        let (closed, nobody) = bind(any_port()).await.expect("a port");
        drop(closed);
        let error = socks5::connect(proxy, nobody).await.expect_err("nobody listens");
        assert!(matches!(error, socks5::Socks5Error::Refused { code: 5, .. }), "{error}");
        stand_in.abort();
        let error = socks5::connect(nobody, proxy).await.expect_err("nobody listens");
        assert!(
            error.to_string().starts_with(&format!("the SOCKS5 proxy at {nobody} does not answer")),
            "{error}"
        );
    });
}

#[test]
fn the_head_of_a_connection_survives_the_journey() {
    use conversation::{Head, Pattern};
    for pattern in
        [Pattern::Bulk, Pattern::Requests, Pattern::HalfCloseClientFirst, Pattern::HalfCloseServerFirst]
    {
        let head = Head { pattern, connection: 0x0102_0304_0506_0708, length: u64::MAX - 1 };
        assert_eq!(Head::decode(&head.encode()), Some(head));
    }
    assert_eq!(Head::decode(&[b'G'; Head::SIZE]), None);
}

#[test]
fn a_taken_address_is_named() {
    let first = Server::start(&Place::Here, any_port()).expect("a server");
    let error = Server::start(&Place::Here, first.address()).expect_err("a taken port");
    let expected = format!("the server application cannot listen on {}", first.address());
    assert!(error.to_string().starts_with(&expected), "{error}");
}
