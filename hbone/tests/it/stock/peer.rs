//! The peers: `h2`'s client and server.

use std::future::poll_fn;

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use rustls::crypto::CryptoProvider;
use rustls::{CipherSuiteCommon, SupportedCipherSuite, Tls13CipherSuite};
use tokio::io::{AsyncRead, AsyncWrite};

/// Our suites; with `keys` such that the peer updates its key every 300 records.
pub(super) fn provider(keys: bool) -> CryptoProvider {
    let mut provider = hbone::provider();
    if keys {
        provider.cipher_suites = provider.cipher_suites.iter().map(|suite| worn_out_soon(*suite)).collect();
    }
    provider
}

fn worn_out_soon(suite: SupportedCipherSuite) -> SupportedCipherSuite {
    let suite = suite.tls13().expect("we have no others");
    let common = CipherSuiteCommon {
        suite: suite.common.suite,
        hash_provider: suite.common.hash_provider,
        confidentiality_limit: 300,
    };
    SupportedCipherSuite::Tls13(Box::leak(Box::new(Tls13CipherSuite {
        common,
        hkdf_provider: suite.hkdf_provider,
        aead_alg: suite.aead_alg,
        quic: None,
    })))
}

/// Sends back what comes on each stream; some authorities ask for something else.
pub(super) async fn echo_server(io: impl AsyncRead + AsyncWrite + Unpin, max_frame: u32) {
    let mut builder = h2::server::Builder::new();
    builder.max_frame_size(max_frame).max_concurrent_streams(200);
    let mut connection = builder.handshake::<_, Bytes>(io).await.unwrap();
    while let Some(accepted) = connection.accept().await {
        let (request, mut respond) = accepted.unwrap();
        assert_eq!(request.method(), Method::CONNECT);
        let authority = request.uri().authority().unwrap().to_string();
        let answer = |status: StatusCode| Response::builder().status(status).body(()).unwrap();
        match authority.as_str() {
            "refuse:1" => respond.send_reset(Reason::REFUSED_STREAM),
            "busy:1" => _ = respond.send_response(answer(StatusCode::SERVICE_UNAVAILABLE), true).unwrap(),
            "trailers:1" => {
                let mut send = respond.send_response(answer(StatusCode::OK), false).unwrap();
                let mut trailers = HeaderMap::new();
                trailers.insert("x-end", "true".parse().unwrap());
                send.send_trailers(trailers).unwrap();
            }
            authority => {
                if authority == "leave:1" {
                    connection.graceful_shutdown();
                }
                let send = respond.send_response(answer(StatusCode::OK), false).unwrap();
                tokio::spawn(echo(request.into_body(), send));
            }
        }
    }
}

async fn echo(mut body: RecvStream, mut send: SendStream<Bytes>) {
    while let Some(chunk) = body.data().await {
        let chunk = chunk.unwrap();
        body.flow_control().release_capacity(chunk.len()).unwrap();
        send_all(&mut send, chunk).await;
    }
    send.send_data(Bytes::new(), true).unwrap();
}

/// Opens `streams` at once, sends the content of each and checks that it comes back.
pub(super) async fn echo_client(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    max_frame: u32,
    streams: usize,
    content: impl Fn(usize) -> Bytes,
) {
    let mut builder = h2::client::Builder::new();
    builder.max_frame_size(max_frame);
    let (sender, connection) = builder.handshake::<_, Bytes>(io).await.unwrap();
    // Our side may close right behind the last stream.
    let driver = tokio::spawn(async move { _ = connection.await });
    let mut running = Vec::new();
    for stream in 0..streams {
        let mut sender = sender.clone().ready().await.unwrap();
        let request = Request::builder().method(Method::CONNECT).uri("10.0.0.1:80").body(()).unwrap();
        let (response, mut send) = sender.send_request(request, false).unwrap();
        let content = content(stream);
        running.push(tokio::spawn(async move {
            let response = response.await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            let expected = content.clone();
            let sending = tokio::spawn(async move {
                send_all(&mut send, content).await;
                send.send_data(Bytes::new(), true).unwrap();
            });
            let mut body = response.into_body();
            let mut received = Vec::new();
            while let Some(chunk) = body.data().await {
                let chunk = chunk.unwrap();
                body.flow_control().release_capacity(chunk.len()).unwrap();
                received.extend_from_slice(&chunk);
            }
            sending.await.unwrap();
            assert!(received == expected, "stream {stream}");
        }));
    }
    for stream in running {
        stream.await.unwrap();
    }
    drop(sender);
    driver.await.unwrap();
}

async fn send_all(send: &mut SendStream<Bytes>, mut content: Bytes) {
    while !content.is_empty() {
        send.reserve_capacity(content.len());
        let room = poll_fn(|context| send.poll_capacity(context)).await.unwrap().unwrap();
        send.send_data(content.split_to(room.min(content.len())), false).unwrap();
    }
}
