//! Bytes as fast as they go, in one direction.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use crate::application::Service;
use crate::error::{LoadError, during};
use crate::parallel;
use crate::route::{Cost, Dialer, Route};

/// What was carried.
#[derive(Debug, Clone, Copy)]
pub struct Transfer {
    /// Bytes that arrived.
    pub bytes: u64,
    /// From the first byte to the last.
    pub elapsed: Duration,
    /// Processor time.
    pub cost: Cost,
}

impl Transfer {
    /// 10^9 bits a second.
    pub fn gigabits(&self) -> f64 {
        self.bytes as f64 * 8.0 / 1e9 / self.elapsed.as_secs_f64()
    }

    /// 10^9 bytes.
    pub fn gigabytes(&self) -> f64 {
        self.bytes as f64 / 1e9
    }
}

/// Sends on `connections` side by side for `duration`.
///
/// # Errors
/// A connection broke, or not every byte arrived.
pub fn transfer(route: &Route, connections: usize, duration: Duration) -> Result<Transfer, LoadError> {
    let prepare = |dialer: Dialer| dialer.open(Service::Sink);
    let done = parallel::clients(route, connections, prepare, |stream| send(stream, duration))?;
    Ok(Transfer { bytes: done.results.iter().sum(), elapsed: done.elapsed, cost: done.cost })
}

fn send(mut stream: TcpStream, duration: Duration) -> Result<u64, LoadError> {
    let what = "a bulk connection broke";
    let block = vec![0x5a; BLOCK];
    let begun = Instant::now();
    let mut sent = 0;
    while begun.elapsed() < duration {
        stream.write_all(&block).map_err(during(what))?;
        sent += BLOCK as u64;
    }
    stream.shutdown(Shutdown::Write).map_err(during(what))?;
    let mut count = [0; 8];
    stream.read_exact(&mut count).map_err(during(what))?;
    match u64::from_be_bytes(count) {
        received if received == sent => Ok(sent),
        received => Err(LoadError::Miscounted { sent, received }),
    }
}

/// Bytes of one write.
const BLOCK: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::{Ipv4Addr, TcpListener};
    use std::thread;

    use super::*;

    /// Sends a few blocks to an application that answers with the count of its bytes and `error`.
    fn send_to_one_that_errs_by(error: u64) -> Result<u64, LoadError> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let stream = TcpStream::connect(listener.local_addr().expect("an address")).expect("it listens");
        let (mut application, _) = listener.accept().expect("a connection");
        let application = thread::spawn(move || {
            let count = io::copy(&mut application, &mut io::sink()).expect("bytes");
            application.write_all(&(count + error).to_be_bytes()).expect("the client listens");
        });
        let sent = send(stream, Duration::from_millis(5));
        application.join().expect("it ends");
        sent
    }

    #[test]
    fn a_count_that_is_off_is_an_error() {
        assert!(send_to_one_that_errs_by(0).is_ok_and(|sent| sent > 0));
        let error = send_to_one_that_errs_by(1);
        assert!(
            matches!(error, Err(LoadError::Miscounted { sent, received }) if received == sent + 1),
            "{error:?}"
        );
    }
}
