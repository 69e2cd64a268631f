//! Loopback addresses for a mesh: three neighbours in 127/8 that no other run on this machine uses.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{process, thread};

/// Addresses of one mesh. They are taken until this is dropped.
#[derive(Debug)]
pub struct LoopbackAddresses {
    /// The node that the clients are on.
    pub client: IpAddr,
    /// The node that the server is on.
    pub server: IpAddr,
    /// The virtual address of the server's service; nothing listens on it.
    pub service: IpAddr,
    _claim: TcpListener,
}

/// No free addresses were found.
#[derive(Debug, thiserror::Error)]
#[error(
    "no free loopback addresses: {tried} neighbourhoods of 127.0.0.0/8 were tried, the last one said: {last}"
)]
pub struct NoAddresses {
    tried: u32,
    last: io::Error,
}

impl LoopbackAddresses {
    /// Finds three addresses in a /24 that depends on the process id, with all of `ports` free on the first two.
    ///
    /// # Errors
    /// Nothing free was found in a bounded number of tries.
    pub fn claim(ports: &[u16]) -> Result<Self, NoAddresses> {
        let mut last = io::ErrorKind::AddrInUse.into();
        for _ in 0..TRIES {
            match Self::try_claim(neighbourhood(), ports) {
                Ok(addresses) => return Ok(addresses),
                Err(error) => last = error,
            }
        }
        Err(NoAddresses { tried: TRIES, last })
    }

    fn try_claim([second, third]: [u8; 2], ports: &[u16]) -> io::Result<Self> {
        let address = |last| IpAddr::V4(Ipv4Addr::new(127, second, third, last));
        let (client, server, service) = (address(1), address(2), address(3));
        let _alone = alone();
        // Held for as long as the addresses are, which keeps other runs away.
        let claim = TcpListener::bind((client, CLAIM_PORT))?;
        for ip in [client, server] {
            for &port in ports {
                TcpListener::bind(SocketAddr::new(ip, port))?;
            }
        }
        Ok(Self { client, server, service, _claim: claim })
    }
}

/// Keeps probes of ports and the start of processes apart. A new process has, for a moment, copies of all sockets of this
/// one: a probe among them would keep its port busy after it was closed here.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    // It protects no data that a panic could spoil.
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Listens where this process may have listened a moment ago. A process that it is starting may still have a copy of that listener,
/// and nothing tells when that is closed: not even the end of `spawn`, which comes before the kernel closes what the program does not get.
///
/// # Errors
/// The address is taken, for longer than a start of a process takes, or can't be had.
pub fn listen_again(address: SocketAddr) -> io::Result<TcpListener> {
    let begun = Instant::now();
    loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && begun.elapsed() < PROCESS_START => {
                thread::sleep(LOOK_AGAIN);
            }
            bound => return bound,
        }
    }
}

/// The second and third number of an address: never 127.0 (the usual loopback), another pair at each call.
fn neighbourhood() -> [u8; 2] {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let calls = CALLS.fetch_add(1, Ordering::Relaxed);
    let number = process::id().wrapping_mul(31).wrapping_add(calls.wrapping_mul(7919)) % (254 * 256);
    let [_, _, second, third] = number.to_be_bytes();
    [second + 1, third]
}

/// From the copy of a process to its program, on a busy machine.
const PROCESS_START: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

const TRIES: u32 = 64;
const CLAIM_PORT: u16 = 15_099;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_claims_differ_and_a_busy_port_is_avoided() {
        let first = LoopbackAddresses::claim(&[15_008]).expect("addresses");
        let second = LoopbackAddresses::claim(&[15_008]).expect("addresses");
        assert_ne!(first.client, second.client);
        assert!(first.client.is_loopback() && first.server.is_loopback() && first.service.is_loopback());

        let IpAddr::V4(ip) = first.server else { panic!("an IPv4 address") };
        let [_, b, c, _] = ip.octets();
        drop(first);
        let busy = TcpListener::bind(SocketAddr::new(ip.into(), 15_008)).expect("a free port");
        assert!(LoopbackAddresses::try_claim([b, c], &[15_008]).is_err());
        assert!(LoopbackAddresses::try_claim([b, c], &[15_007]).is_ok(), "only the busy port is in the way");
        drop(busy);
    }
}
