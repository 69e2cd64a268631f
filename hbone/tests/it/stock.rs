//! Stock peers, `h2` over `tokio-rustls`, in both roles over in-memory pipes; our end is moved at random turns.

mod peer;
mod tunnel;

use std::collections::BTreeMap;

use bytes::Bytes;
use fastrand::Rng;
use hbone::{ConnectRequest, ConnectResponse, ErrorCode, Event, Handshake, SessionConfig, StreamId};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::authority::{Authority, NAME};
use tunnel::Tunnel;

/// One combination of what peers differ in.
#[derive(Clone, Copy, Debug)]
struct Case {
    seed: u64,
    streams: usize,
    /// Bytes in each direction of each stream.
    bytes: usize,
    /// The peer's SETTINGS_MAX_FRAME_SIZE.
    max_frame: u32,
    /// Keys are updated every few hundred records by the peer, and at random by us.
    keys: bool,
}

const CASES: [Case; 6] = [
    Case { seed: 1, streams: 1, bytes: 3 << 20, max_frame: 1 << 20, keys: false },
    Case { seed: 2, streams: 1, bytes: 3 << 20, max_frame: 16_384, keys: true },
    Case { seed: 3, streams: 2, bytes: 1 << 20, max_frame: 1 << 20, keys: true },
    Case { seed: 4, streams: 30, bytes: 100_000, max_frame: 16_384, keys: true },
    Case { seed: 5, streams: 100, bytes: 20_000, max_frame: 1 << 20, keys: false },
    Case { seed: 6, streams: 100, bytes: 1, max_frame: 16_384, keys: true },
];

/// What a stream carries from the client to the server and back.
fn content(stream: usize, bytes: usize) -> Bytes {
    let mut rng = Rng::with_seed(stream as u64);
    let mut content = vec![0; bytes];
    rng.fill(&mut content);
    content.into()
}

#[tokio::test]
async fn our_client_against_a_stock_server() {
    for case in CASES {
        let authority = Authority::new();
        let (ours, theirs) = tokio::io::duplex(50_000);
        let acceptor = TlsAcceptor::from(authority.stock_server(peer::provider(case.keys)));
        let server = tokio::spawn(async move {
            let tls = acceptor.accept(theirs).await.unwrap();
            peer::echo_server(tls, case.max_frame).await;
        });
        let handshake = Handshake::client(&authority.client(), SessionConfig::client()).unwrap();
        let mut tunnel = Tunnel::establish(ours, handshake, case).await;
        run_client(&mut tunnel, case).await;
        tunnel.close().await;
        server.await.unwrap();
    }
}

/// Opens all streams, echoes their content over the peer, and ends when all have come to their end.
async fn run_client(tunnel: &mut Tunnel, case: Case) {
    let mut index = BTreeMap::new();
    let mut received: BTreeMap<StreamId, Vec<u8>> = BTreeMap::new();
    let mut done = 0;
    while done < case.streams {
        while index.len() < case.streams && tunnel.connection().stream_room() > 0 {
            let request = ConnectRequest::connect("10.0.0.1:80", Vec::new());
            let stream = tunnel.connection().connect(&request).unwrap();
            tunnel.queue(stream, &content(index.len(), case.bytes));
            tunnel.end(stream);
            index.insert(stream, index.len());
        }
        for (event, payload) in tunnel.turn().await {
            match event {
                Event::Response { response, .. } => assert_eq!(response.status, 200),
                Event::Data { stream, .. } => received.entry(stream).or_default().extend(payload),
                Event::End { stream } => {
                    let expected = content(index[&stream], case.bytes);
                    assert!(received.remove(&stream).unwrap_or_default() == expected, "{case:?}, {stream}");
                    done += 1;
                }
                Event::Window { .. } | Event::Room => {}
                other => panic!("{case:?}: {other:?}"),
            }
        }
    }
    assert!(tunnel.moves > 3, "{case:?}: {} moves", tunnel.moves);
}

#[tokio::test]
async fn our_server_against_a_stock_client() {
    for case in CASES {
        let authority = Authority::new();
        let (ours, theirs) = tokio::io::duplex(50_000);
        let connector = TlsConnector::from(authority.stock_client(peer::provider(case.keys)));
        let client = tokio::spawn(async move {
            let tls = connector.connect(NAME.try_into().unwrap(), theirs).await.unwrap();
            peer::echo_client(tls, case.max_frame, case.streams, |stream| content(stream, case.bytes)).await;
        });
        let handshake = Handshake::server(&authority.server(), SessionConfig::server()).unwrap();
        let mut tunnel = Tunnel::establish(ours, handshake, case).await;
        run_server(&mut tunnel, case).await;
        tunnel.close().await;
        client.await.unwrap();
    }
}

/// Sends back what comes until the client has gone.
async fn run_server(tunnel: &mut Tunnel, case: Case) {
    loop {
        for (event, payload) in tunnel.turn().await {
            match event {
                Event::Request { stream, request } => {
                    assert_eq!(request.authority, "10.0.0.1:80");
                    tunnel.connection().respond(stream, &ConnectResponse::status(200), false);
                }
                Event::Data { stream, .. } => tunnel.queue(stream, &payload),
                Event::End { stream } => tunnel.end(stream),
                Event::Window { .. } | Event::Draining => {}
                Event::Closed => return assert!(tunnel.moves > 3, "{case:?}: {} moves", tunnel.moves),
                other => panic!("{case:?}: {other:?}"),
            }
        }
    }
}

/// A tunnel to a stock server that does what `authority` says.
async fn tunnel_to_server(case: Case) -> Tunnel {
    let authority = Authority::new();
    let (ours, theirs) = tokio::io::duplex(50_000);
    let acceptor = TlsAcceptor::from(authority.stock_server(peer::provider(false)));
    tokio::spawn(async move {
        let tls = acceptor.accept(theirs).await.unwrap();
        peer::echo_server(tls, case.max_frame).await;
    });
    let handshake = Handshake::client(&authority.client(), SessionConfig::client()).unwrap();
    Tunnel::establish(ours, handshake, case).await
}

/// The first event that `wanted` takes.
async fn until<T>(tunnel: &mut Tunnel, mut wanted: impl FnMut(Event) -> Option<T>) -> T {
    loop {
        for (event, _) in tunnel.turn().await {
            if let Some(found) = wanted(event) {
                return found;
            }
        }
    }
}

#[tokio::test]
async fn a_stock_server_refuses_answers_and_adds_trailers() {
    let mut tunnel = tunnel_to_server(CASES[0]).await;
    let open = |tunnel: &mut Tunnel, authority: &str| {
        tunnel.connection().connect(&ConnectRequest::connect(authority, Vec::new())).unwrap()
    };
    let stream = open(&mut tunnel, "refuse:1");
    let reset = until(&mut tunnel, |event| matches!(event, Event::Reset { .. }).then_some(event)).await;
    assert_eq!(reset, Event::Reset { stream, code: ErrorCode::REFUSED_STREAM, retryable: true });

    open(&mut tunnel, "busy:1");
    let status = until(&mut tunnel, |event| match event {
        Event::Response { response, .. } => Some(response.status),
        _ => None,
    });
    assert_eq!(status.await, 503);

    let stream = open(&mut tunnel, "trailers:1");
    tunnel.end(stream);
    until(&mut tunnel, |event| (event == Event::End { stream }).then_some(())).await;
}

#[tokio::test]
async fn a_stock_server_that_goes_away_finishes_what_is_open() {
    let mut tunnel = tunnel_to_server(CASES[0]).await;
    let echo = ConnectRequest::connect("10.0.0.1:80", Vec::new());
    let stream = tunnel.connection().connect(&echo).unwrap();
    until(&mut tunnel, |event| matches!(event, Event::Response { .. }).then_some(())).await;
    let leaving = tunnel.connection().connect(&ConnectRequest::connect("leave:1", Vec::new())).unwrap();
    tunnel.end(leaving);
    until(&mut tunnel, |event| matches!(event, Event::Draining).then_some(())).await;
    assert_eq!(tunnel.connection().stream_room(), 0);
    tunnel.queue(stream, b"still here");
    tunnel.end(stream);
    let mut echoed = Vec::new();
    let mut seen = Vec::new();
    while !seen.contains(&Event::Closed) {
        for (event, payload) in tunnel.turn().await {
            echoed.extend(payload);
            seen.push(event);
        }
    }
    assert_eq!(echoed, b"still here");
    assert!(seen.contains(&Event::End { stream }));
}
