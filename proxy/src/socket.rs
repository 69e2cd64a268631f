//! How sockets of the data path are made: options, marks, original addresses (stock's choices, so that the same
//! iptables rules work).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};

use crate::config::SocketConfig;

/// How many completed connections the kernel keeps for a listener until they are accepted.
const BACKLOG: i32 = 1024;

/// What a listener is for: it decides which options its accepted sockets inherit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerKind {
    /// HTTP/2 keeps these alive by PING: no TCP keepalive.
    Tunnels,
    /// Users' own TCP connections.
    Users,
}

/// Binds and listens in the network namespace of the calling thread. Options that accepted sockets inherit on Linux (`TCP_NODELAY`, keepalive) are set here once
/// instead of on each of them.
///
/// # Errors
/// Whatever the kernel says; the address is the caller's to add.
pub fn listen(
    address: SocketAddr,
    kind: ListenerKind,
    reuse_port: bool,
    config: &SocketConfig,
) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    mark(&socket, config)?;
    socket.set_reuse_address(true)?;
    if reuse_port {
        // So that another proxy can come up beside us, which need not be this one.
        socket.set_reuse_port(true)?;
    }
    socket.set_tcp_nodelay(true)?;
    if kind == ListenerKind::Users {
        keep_alive(&socket, config)?;
    }
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Makes a listener able to take and give foreign addresses (`IP_TRANSPARENT`), for original source addresses.
///
/// # Errors
/// `EPERM` without `CAP_NET_ADMIN` / `CAP_NET_RAW`.
pub fn set_transparent(listener: &std::net::TcpListener) -> io::Result<()> {
    // The IPv4 option is honoured on dual-stack IPv6 sockets as well, and is the one that stock sets.
    socket2::SockRef::from(listener).set_ip_transparent_v4(true)
}

/// Starts a non-blocking connection to `to`, from `from` if given. A source that the kernel doesn't let us use is
/// left out with a warning, as in stock: a connection from the wrong address is better than none.
///
/// # Errors
/// What `socket` or `connect` say, `EINPROGRESS` apart.
pub fn connect(
    to: SocketAddr,
    from: Option<Source>,
    config: &SocketConfig,
) -> io::Result<mio::net::TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    mark(&socket, config)?;
    keep_alive(&socket, config)?;
    match from {
        Some(Source::Own(ip)) if ip.is_ipv4() == to.is_ipv4() => {
            socket.bind(&SockAddr::from(SocketAddr::new(ip, 0)))?;
        }
        Some(Source::Foreign(ip)) if ip.is_ipv4() == to.is_ipv4() && ip != to.ip() => {
            if let Err(error) = bind_foreign(&socket, ip) {
                tracing::warn!(source = %ip, %error, "the original source address can't be kept");
            }
        }
        _ => {}
    }
    match socket.connect(&SockAddr::from(to)) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
        Err(error) => return Err(error),
    }
    Ok(mio::net::TcpStream::from_std(socket.into()))
}

/// Ends a connection by an abort (RST): the peer must not take a cut stream for a whole one. At once, and not by the close
/// that follows: another process may still have a copy of the socket. That close is to be an abort, too, where the kernel
/// has no other way.
pub fn abort(socket: &impl AsFd) {
    let _ = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO));
    let _ = rustix::net::connect_unspec(socket);
}

/// The address that an outgoing connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// An address of this host.
    Own(IpAddr),
    /// The user's own address, which is somebody else's (`IP_TRANSPARENT`, `IP_FREEBIND`).
    Foreign(IpAddr),
}

/// Where a redirected connection was going before iptables turned it to us: `SO_ORIGINAL_DST`, else the local address.
///
/// # Errors
/// If the socket has no local address (it is gone already).
pub fn original_destination(socket: &mio::net::TcpStream) -> io::Result<SocketAddr> {
    let redirected = rustix::net::sockopt::ip_original_dst(socket)
        .map(SocketAddr::V4)
        .or_else(|_| rustix::net::sockopt::ipv6_original_dst(socket).map(SocketAddr::V6));
    redirected.or_else(|_| socket.local_addr()).map(canonical)
}

/// An IPv4 address that came through an IPv6 socket, as IPv4.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Lifts the limit on open files to what the kernel allows us, and tells what it is then.
pub fn raise_file_limit() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
    {
        tracing::warn!(%error, "the limit on open files can't be raised");
    }
    let now = getrlimit(Resource::Nofile).current;
    now.and_then(|now| usize::try_from(now).ok()).unwrap_or(usize::MAX)
}

/// How many descriptors this process has open. With thousands of them it would take milliseconds to list them: kernels since
/// 6.2 tell their number as the size of the directory.
///
/// # Errors
/// There is no `/proc`.
pub fn open_files() -> io::Result<usize> {
    const LIST: &str = "/proc/self/fd";
    match usize::try_from(std::fs::metadata(LIST)?.len()) {
        Ok(count @ 1..) => Ok(count),
        // The listing itself holds one.
        _ => Ok(std::fs::read_dir(LIST)?.count().saturating_sub(1)),
    }
}

fn mark(socket: &Socket, config: &SocketConfig) -> io::Result<()> {
    config.mark.map_or(Ok(()), |mark| socket.set_mark(mark))
}

fn keep_alive(socket: &Socket, config: &SocketConfig) -> io::Result<()> {
    if let Some(keepalive) = &config.keepalive {
        let options = TcpKeepalive::new()
            .with_time(keepalive.time)
            .with_interval(keepalive.interval)
            .with_retries(keepalive.retries);
        socket.set_tcp_keepalive(&options)?;
        socket.set_tcp_user_timeout(config.user_timeout)?;
    }
    Ok(())
}

fn bind_foreign(socket: &Socket, ip: IpAddr) -> io::Result<()> {
    if ip.is_ipv4() {
        socket.set_ip_transparent_v4(true)?;
        rustix::net::sockopt::set_ip_freebind(socket, true)?;
    } else {
        socket.set_ip_transparent_v6(true)?;
        rustix::net::sockopt::set_ipv6_freebind(socket, true)?;
    }
    socket.bind(&SockAddr::from(SocketAddr::new(ip, 0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_files_are_counted() {
        // Other tests of this process open and close some meanwhile.
        const MANY: usize = 300;
        let held: Vec<_> = (0..MANY).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        let (count, limit) = (open_files().unwrap(), raise_file_limit());
        assert!(count > held.len() && count < limit, "{count} of {limit}");
    }
}
