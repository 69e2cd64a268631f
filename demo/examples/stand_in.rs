//! Looks like a node proxy from the outside and is none: it relays in the clear and makes its metrics up. The tests of the
//! demonstration use it, since a demonstration has to fail when the proxy does wrong, and a good proxy never does.
//!
//! What it does wrong is the last part of the name that it is started by: `stand-in.flip` flips a bit.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use demo::node::{METRICS_PORT, READINESS_PORT, SOCKS5_PORT, TUNNEL_PORT};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// A bit of one long connection is wrong.
    Flip,
    /// One long connection loses a byte.
    Lose,
    /// Nothing ever moves.
    Rest,
    /// The clients come as somebody else.
    Stranger,
    /// Half of the connections are counted as plaintext.
    Plaintext,
    /// The process ends in the middle.
    Die,
}

struct StandIn {
    fault: Fault,
    ip: IpAddr,
    /// Connections that came in by the "tunnel".
    inbound: AtomicU64,
    started: Instant,
}

fn main() -> ExitCode {
    let name = std::env::args().next().unwrap_or_default();
    let fault = match Path::new(&name).extension().and_then(|fault| fault.to_str()) {
        None => Fault::None,
        Some("flip") => Fault::Flip,
        Some("lose") => Fault::Lose,
        Some("rest") => Fault::Rest,
        Some("stranger") => Fault::Stranger,
        Some("plaintext") => Fault::Plaintext,
        Some("die") => Fault::Die,
        Some(other) => panic!("no fault has the name {other}"),
    };
    let ip = std::env::var("BIND_ADDRESS").expect("BIND_ADDRESS").parse().expect("an IP address");
    println!("stand-in on {ip}, fault: {fault:?}");
    let stand_in = StandIn { fault, ip, inbound: AtomicU64::new(0), started: Instant::now() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    match runtime.block_on(run(Arc::new(stand_in))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(stand_in: Arc<StandIn>) -> io::Result<()> {
    let listen = |port| TcpListener::bind((stand_in.ip, port));
    let (socks5, tunnel) = (listen(SOCKS5_PORT).await?, listen(TUNNEL_PORT).await?);
    let (metrics, readiness) = (listen(METRICS_PORT).await?, listen(READINESS_PORT).await?);
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    loop {
        let end = if stand_in.fault == Fault::Die { Duration::from_secs(1) } else { Duration::MAX };
        tokio::select! {
            accepted = socks5.accept() => spawn(outbound(accepted?.0, Arc::clone(&stand_in))),
            accepted = tunnel.accept() => spawn(inbound(accepted?.0, Arc::clone(&stand_in))),
            accepted = metrics.accept() => spawn(page(accepted?.0, stand_in.metrics())),
            accepted = readiness.accept() => spawn(page(accepted?.0, "ready
        ".to_owned())),
            () = tokio::time::sleep(end.saturating_sub(stand_in.started.elapsed())) => {
                println!("thread 'worker' panicked: the stand-in dies");
                std::process::exit(101);
            }
            _ = terminate.recv() => return Ok(()),
        }
    }
}

fn spawn(task: impl Future<Output = io::Result<()>> + Send + 'static) {
    // A connection that breaks is the business of its ends.
    tokio::spawn(async { task.await.ok() });
}

async fn page(mut stream: TcpStream, body: String) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await?);
    }
    let length = body.len();
    stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}").as_bytes()).await
}

/// SOCKS5 on this side, the destination in six bytes on the other.
async fn outbound(mut client: TcpStream, stand_in: Arc<StandIn>) -> io::Result<()> {
    let mut greeting = [0; 3];
    client.read_exact(&mut greeting).await?;
    client.write_all(&[5, 0]).await?;
    let mut request = [0; 10];
    client.read_exact(&mut request).await?;
    client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
    // The service has the third address of the neighbourhood; its one endpoint the second, where it listens on 8080.
    let [_, _, _, _, a, b, c, ..] = request;
    let mut node = TcpStream::connect(SocketAddr::from(([a, b, c, 2], TUNNEL_PORT))).await?;
    node.write_all(&[a, b, c, 2]).await?;
    node.write_all(&8080_u16.to_be_bytes()).await?;
    relay(client, node, stand_in.fault).await
}

async fn inbound(mut node: TcpStream, stand_in: Arc<StandIn>) -> io::Result<()> {
    let mut destination = [0; 6];
    node.read_exact(&mut destination).await?;
    let [a, b, c, d, p, q] = destination;
    stand_in.inbound.fetch_add(1, Ordering::Relaxed);
    let server = TcpStream::connect(SocketAddr::from(([a, b, c, d], u16::from_be_bytes([p, q])))).await?;
    relay(node, server, Fault::None).await
}

async fn relay(mut near: TcpStream, mut far: TcpStream, fault: Fault) -> io::Result<()> {
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let ((mut near_read, mut near_write), (mut far_read, mut far_write)) = (near.split(), far.split());
    let forth = async {
        // Far into a connection: only one that carries much gets there.
        copy(&mut (&mut near_read).take(1 << 20), &mut far_write).await?;
        let mut byte = [0];
        if near_read.read(&mut byte).await? == 1 {
            match fault {
                Fault::Flip if first_time() => far_write.write_all(&[byte[0] ^ 1]).await?,
                Fault::Lose if first_time() => {}
                _ => far_write.write_all(&byte).await?,
            }
        }
        copy(&mut near_read, &mut far_write).await?;
        far_write.shutdown().await
    };
    let back = async {
        copy(&mut far_read, &mut near_write).await?;
        near_write.shutdown().await
    };
    tokio::try_join!(forth, back).map(|_| ())
}

fn first_time() -> bool {
    static DONE: OnceLock<()> = OnceLock::new();
    DONE.set(()).is_ok()
}

impl StandIn {
    fn metrics(&self) -> String {
        let all = self.inbound.load(Ordering::Relaxed);
        let plaintext = if self.fault == Fault::Plaintext { all / 2 } else { 0 };
        let account = if self.fault == Fault::Stranger { "stranger" } else { "client" };
        let moves = if self.fault == Fault::Rest { 0 } else { self.started.elapsed().as_millis() };
        let opened = "istio_tcp_connections_opened_total{reporter=\"destination\"";
        let inbound = if all == 0 {
            String::new()
        } else {
            format!(
                "{opened},source_principal=\"spiffe://cluster.local/ns/demo/sa/{account}\",\
                 connection_security_policy=\"mutual_tls\"}} {}\n\
                 {opened},source_principal=\"unknown\",connection_security_policy=\"unknown\"}} {plaintext}\n",
                all - plaintext
            )
        };
        format!(
            "{inbound}\
             ztunnel_tunnel_moves_total{{result=\"moved\"}} {moves}\n\
             ztunnel_tunnel_move_pause_seconds_sum 0.001\n\
             ztunnel_tunnel_move_pause_seconds_count {moves}\n\
             ztunnel_tunnel_move_pause_seconds_bucket{{le=\"0.001\"}} {moves}\n\
             ztunnel_tunnel_move_pause_seconds_bucket{{le=\"+Inf\"}} {moves}\n\
             ztunnel_tunnels_open{{role=\"client\"}} 4\n\
             # EOF\n"
        )
    }
}
