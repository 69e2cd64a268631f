//! Whether another proxy listens in the pods beside us.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::time::Duration;

use crate::pod::Pods;

/// Who takes over has listeners in every pod: some tell for all.
const PODS: usize = 3;
const INTERVAL: Duration = Duration::from_millis(250);

/// Returns when somebody else listens on `port` in the pods, where we have one listener in each. Needs a tokio runtime with
/// time.
pub async fn appears(pods: Pods, port: u16) {
    loop {
        // Nobody else listens in the pod that we are ourselves.
        let looked_at = pods.load();
        for pod in looked_at.values().filter(|pod| !pod.uid().is_empty()).take(PODS) {
            let Some(namespace) = pod.namespace() else { continue };
            match namespace.visit(move || count_listeners(port)).await {
                Ok(0 | 1) => {}
                Ok(_) => return,
                Err(error) => tracing::debug!(uid = %pod.uid(), %error, "its listeners can't be counted"),
            }
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// How many listeners a port has in the network namespace of the calling thread. Copies of one are one.
fn count_listeners(port: u16) -> io::Result<usize> {
    let mut count = 0;
    for table in ["tcp", "tcp6"] {
        let table = match File::open(format!("/proc/thread-self/net/{table}")) {
            // Without IPv6 there is none of its tables.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            table => BufReader::new(table?),
        };
        for line in table.lines().skip(1) {
            match listener_port(&line?) {
                Some(listens_on) => count += usize::from(listens_on == port),
                // Listeners come first; the rest may be long.
                None => break,
            }
        }
    }
    Ok(count)
}

/// The port of a line of the kernel's table (proc_net_tcp of the kernel's documentation); none if it is no listener's.
fn listener_port(line: &str) -> Option<u16> {
    const LISTEN: &str = "0A";
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (local, _remote, state) = (fields.next()?, fields.next()?, fields.next()?);
    let (_, port) = local.rsplit_once(':')?;
    u16::from_str_radix(port, 16).ok().filter(|_| state == LISTEN)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;
    use crate::config::SocketConfig;
    use crate::socket::{self, ListenerKind};

    #[test]
    fn listeners_are_told_from_connections() {
        let line = |local: &str, state: &str| {
            format!("   0: {local} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  0  0 71 1 0")
        };
        assert_eq!(listener_port(&line("00000000:3AA0", "0A")), Some(15_008));
        assert_eq!(listener_port(&line("00000000000000000000000000000000:3AA0", "0A")), Some(15_008));
        assert_eq!(listener_port(&line("00000000:3AA0", "01")), None);
        for broken in ["", "0: 0", &line("3AA0", "0A"), &line("0:zz", "0A")] {
            assert_eq!(listener_port(broken), None, "{broken}");
        }
    }

    #[test]
    fn who_listens_beside_us_is_seen() {
        const PLAIN: SocketConfig = SocketConfig { keepalive: None, user_timeout: None, mark: None };
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listen = |address| socket::listen(address, ListenerKind::Tunnels, true, &PLAIN);
            let Ok(ours) = listen(address.parse().unwrap()) else { continue };
            let address = ours.local_addr().unwrap();
            let (_copy, _connection) = (ours.try_clone().unwrap(), TcpStream::connect(address).unwrap());
            assert_eq!(count_listeners(address.port()).unwrap(), 1);
            let _theirs = listen(address).unwrap();
            assert_eq!(count_listeners(address.port()).unwrap(), 2);
        }
    }
}
