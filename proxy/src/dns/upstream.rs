//! Asking nameservers what the mesh doesn't know.
//!
//! Each question goes from a socket of its own, so from a port that nobody can guess, under an id that nobody can guess. The
//! socket is connected: what others send to it never arrives.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use super::message::Query;
use super::resolv_conf::Resolvers;
use super::sockets::Origin;
use crate::pod::Pod;
use crate::telemetry::DnsTransport;

/// How long one nameserver is waited for, when asked by a datagram.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often each nameserver is asked by a datagram: one may be lost.
const ROUNDS: usize = 2;

/// No nameserver has answered in time.
#[derive(Debug)]
pub(super) struct Unanswered;

/// Asks one nameserver after the other until `deadline`, by the client's own transport. What the first one says that
/// knows something is passed on; what those said that could not help, only if none does.
pub(super) async fn forward(
    query: &Query,
    pod: &Pod,
    resolvers: &Resolvers,
    origin: &Origin,
    deadline: Instant,
) -> Result<Vec<u8>, Unanswered> {
    let mut no_help = None;
    for _ in 0..rounds(query.transport()) {
        for server in resolvers.nameservers() {
            if Instant::now() >= deadline {
                break;
            }
            let asked = async {
                match query.transport() {
                    DnsTransport::Udp => ask_by_udp(query, pod, server, origin).await,
                    DnsTransport::Tcp => ask_by_tcp(query, pod, server, origin).await,
                }
            };
            match timeout_at(until(query.transport(), deadline), asked).await {
                Ok(Ok((code, answer))) if is_help(code) => {
                    resolvers.prefer(server);
                    return Ok(query.passed_on(answer, code));
                }
                Ok(Ok((code, answer))) => no_help = Some(query.passed_on(answer, code)),
                Ok(Err(error)) => debug!(target: "dns", %server, %error, "a nameserver could not be asked"),
                Err(_) => debug!(target: "dns", %server, "a nameserver has not answered in time"),
            }
        }
        if no_help.is_some() {
            break;
        }
    }
    no_help.ok_or(Unanswered)
}

fn rounds(transport: DnsTransport) -> usize {
    match transport {
        DnsTransport::Udp => ROUNDS,
        DnsTransport::Tcp => 1,
    }
}

fn until(transport: DnsTransport, deadline: Instant) -> Instant {
    match transport {
        DnsTransport::Udp => deadline.min(Instant::now() + PATIENCE),
        DnsTransport::Tcp => deadline,
    }
}

/// Whether asking another nameserver would be in vain (as glibc sees it).
fn is_help(code: ResponseCode) -> bool {
    !matches!(code, ResponseCode::ServFail | ResponseCode::NotImp | ResponseCode::Refused)
}

async fn ask_by_udp(
    query: &Query,
    pod: &Pod,
    server: SocketAddr,
    origin: &Origin,
) -> io::Result<(ResponseCode, Vec<u8>)> {
    let socket = origin.udp(pod, server)?;
    socket.connect(server).await?;
    let id = fresh_id();
    socket.send(&query.forwarded_as(id)).await?;
    loop {
        // Where nobody listens the kernel learns so at once, and there is nothing to read then.
        if socket.ready(Interest::READABLE | Interest::ERROR).await?.is_error() {
            return Err(socket.take_error()?.unwrap_or_else(|| io::ErrorKind::ConnectionRefused.into()));
        }
        // Only now, so that a question that waits holds no buffer.
        let mut answer = Vec::with_capacity(usize::from(u16::MAX));
        match socket.try_recv_buf(&mut answer) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        if let Some(code) = query.is_answered_by(id, &answer) {
            answer.shrink_to_fit();
            return Ok((code, answer));
        }
        debug!(target: "dns", %server, "what came is no answer to what was asked");
    }
}

async fn ask_by_tcp(
    query: &Query,
    pod: &Pod,
    server: SocketAddr,
    origin: &Origin,
) -> io::Result<(ResponseCode, Vec<u8>)> {
    let mut stream = origin.tcp(pod, server)?.connect(server).await?;
    let id = fresh_id();
    let message = query.forwarded_as(id);
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], &message].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    let code = query.is_answered_by(id, &answer);
    code.map(|code| (code, answer)).ok_or_else(|| io::Error::other("it answered something else"))
}

/// From the cryptographic generator that the library gives new messages their ids from.
fn fresh_id() -> u16 {
    Message::query().metadata.id
}
