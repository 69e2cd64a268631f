//! Sockets of the DNS proxy: where it listens, and those from which it asks.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::abort;

use rustix::io::Errno;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tracing::error;

use crate::config::SocketConfig;
use crate::namespace::Namespace;
use crate::pod::Pod;

/// Completed connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// Where the questions of one pod come in; all of them non-blocking.
#[derive(Debug)]
pub struct DnsSockets {
    /// For datagrams.
    pub udp: Vec<UdpSocket>,
    /// For connections.
    pub tcp: Vec<TcpListener>,
}

impl DnsSockets {
    /// A copy of each.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            udp: self.udp.iter().map(UdpSocket::try_clone).collect::<io::Result<_>>()?,
            tcp: self.tcp.iter().map(TcpListener::try_clone).collect::<io::Result<_>>()?,
        })
    }
}

/// Binds the addresses in the network namespace that the thread is in. With `reuse_port` a successor can bind the same
/// ones. An IPv6 address is left out where there is no IPv6.
///
/// # Errors
/// Whatever the kernel says of the others.
pub fn bind(addresses: &[SocketAddr], sockets: &SocketConfig, reuse_port: bool) -> io::Result<DnsSockets> {
    let mut bound = DnsSockets { udp: Vec::new(), tcp: Vec::new() };
    for address in addresses {
        let pair = bind_udp(*address, sockets, reuse_port)
            .and_then(|udp| Ok((udp, listen(*address, sockets, reuse_port)?)));
        match pair {
            Ok((udp, tcp)) => {
                bound.udp.push(udp);
                bound.tcp.push(tcp);
            }
            Err(error) if address.is_ipv6() && addresses.len() > 1 && is_without_ipv6(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bound)
}

fn bind_udp(address: SocketAddr, sockets: &SocketConfig, reuse_port: bool) -> io::Result<UdpSocket> {
    let socket = udp(address, sockets)?;
    socket.set_reuse_port(reuse_port)?;
    socket.bind(&SockAddr::from(address))?;
    Ok(socket.into())
}

fn listen(address: SocketAddr, sockets: &SocketConfig, reuse_port: bool) -> io::Result<TcpListener> {
    let socket = tcp(address, sockets)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// What the kernel says where IPv6 is not built in, or switched off.
fn is_without_ipv6(error: &io::Error) -> bool {
    [Errno::ADDRNOTAVAIL, Errno::AFNOSUPPORT]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn udp(to: SocketAddr, sockets: &SocketConfig) -> io::Result<Socket> {
    marked(Socket::new(Domain::for_address(to), Type::DGRAM, Some(Protocol::UDP))?, sockets)
}

fn tcp(to: SocketAddr, sockets: &SocketConfig) -> io::Result<Socket> {
    let socket = marked(Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?, sockets)?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

fn marked(socket: Socket, sockets: &SocketConfig) -> io::Result<Socket> {
    socket.set_nonblocking(true)?;
    if let Some(mark) = sockets.mark {
        socket.set_mark(mark)?;
    }
    Ok(socket)
}

/// Makes the sockets from which nameservers are asked, each in the namespace of the pod for which they are asked.
#[derive(Debug)]
pub(super) struct Origin {
    home: Namespace,
    sockets: SocketConfig,
}

impl Origin {
    /// The calling thread's namespace is the one that it always comes back to.
    pub(super) fn new(sockets: SocketConfig) -> io::Result<Self> {
        Ok(Self { home: Namespace::current()?, sockets })
    }

    /// A socket for datagrams to this address; the kernel draws its port when it is connected.
    pub(super) fn udp(&self, pod: &Pod, to: SocketAddr) -> io::Result<tokio::net::UdpSocket> {
        let socket = self.within(pod, || udp(to, &self.sockets))?;
        tokio::net::UdpSocket::from_std(socket.into())
    }

    /// A socket for a connection to this address.
    pub(super) fn tcp(&self, pod: &Pod, to: SocketAddr) -> io::Result<tokio::net::TcpSocket> {
        let socket = self.within(pod, || tcp(to, &self.sockets))?;
        Ok(tokio::net::TcpSocket::from_std_stream(socket.into()))
    }

    /// Does something in the pod's namespace. Nothing else can run on this thread meanwhile. In the process's own
    /// namespace nothing is entered: a dedicated proxy may not.
    fn within<T>(&self, pod: &Pod, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let gone = || io::Error::other("the pod is gone");
        let namespace = pod.namespace().ok_or_else(gone)?;
        if namespace.id() == self.home.id() {
            return work();
        }
        namespace.enter()?;
        let _away = Away { home: &self.home };
        work()
    }
}

/// The thread is in another namespace until this is dropped.
struct Away<'a> {
    home: &'a Namespace,
}

impl Drop for Away<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.home.enter() {
            // Whatever this thread did next would be done in the network of a pod.
            error!(target: "dns", %error, "cannot go back to the own network namespace; the process ends");
            eprintln!("ztunnel: cannot go back to the own network namespace: {error}");
            abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: SocketConfig = SocketConfig { keepalive: None, user_timeout: None, mark: None };

    #[test]
    fn a_successor_can_bind_the_same_addresses_only_where_that_is_wanted() {
        let bound = bind(&["127.0.0.1:0".parse().unwrap()], &PLAIN, true).unwrap();
        let both = [bound.udp[0].local_addr().unwrap(), bound.tcp[0].local_addr().unwrap()];
        assert!(bind_udp(both[0], &PLAIN, true).is_ok() && listen(both[1], &PLAIN, true).is_ok());
        let errors = [bind_udp(both[0], &PLAIN, false).err(), listen(both[1], &PLAIN, false).err()];
        assert!(errors.iter().flatten().all(|error| error.kind() == io::ErrorKind::AddrInUse), "{errors:?}");
        assert_eq!(errors.iter().flatten().count(), 2);
    }

    #[test]
    fn only_an_ipv6_address_beside_others_may_be_missing() {
        let (here, foreign) = ("127.0.0.1:0".parse().unwrap(), "[2001:db8::1]:0".parse().unwrap());
        assert_eq!(bind(&[here, foreign], &PLAIN, false).unwrap().udp.len(), 1);
        assert!(bind(&[foreign], &PLAIN, false).is_err());
        assert!(bind(&[here, "192.0.2.1:0".parse().unwrap()], &PLAIN, false).is_err());
    }
}
