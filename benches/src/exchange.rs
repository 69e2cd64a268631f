//! Small requests and their answers, and new connections: one at a time on each thread.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::application::Service;
use crate::error::{LoadError, during};
use crate::parallel::{self, Done};
use crate::route::{Cost, Dialer, Route};

/// What was asked and answered.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// How long each took, rising.
    latencies: Vec<Duration>,
    elapsed: Duration,
    /// Processor time.
    pub cost: Cost,
}

impl Exchange {
    /// Exchanges a second.
    pub fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// What `quantile` (0 to 1) of the exchanges didn't exceed, in microseconds.
    pub fn micros(&self, quantile: f64) -> f64 {
        let last = self.latencies.len().saturating_sub(1);
        let place = (quantile * last as f64).round() as usize;
        self.latencies.get(place).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e6)
    }

    /// A share of `seconds` for each exchange, in microseconds.
    pub fn micros_each(&self, seconds: f64) -> f64 {
        seconds * 1e6 / self.latencies.len() as f64
    }

    fn of(done: Done<Vec<Duration>>) -> Self {
        let mut latencies: Vec<Duration> = done.results.into_iter().flatten().collect();
        latencies.sort_unstable();
        Self { latencies, elapsed: done.elapsed, cost: done.cost }
    }
}

/// Bytes of a request, and of its answer.
pub const REQUEST: usize = 128;

/// Asks on `connections` that stay open, on each as soon as it is answered, for `duration`.
///
/// # Errors
/// A connection broke, or an answer is wrong.
pub fn requests(route: &Route, connections: usize, duration: Duration) -> Result<Exchange, LoadError> {
    let prepare = |dialer: Dialer| dialer.open(Service::Echo);
    let work = |mut stream: TcpStream| repeat(duration, |number| ask(&mut stream, number));
    parallel::clients(route, connections, prepare, work).map(Exchange::of)
}

/// Opens a connection, waits for one byte from the application, closes, and so on on `clients` threads for `duration`.
///
/// # Errors
/// A connection could not be opened.
pub fn connects(route: &Route, clients: usize, duration: Duration) -> Result<Exchange, LoadError> {
    // The first one opens the tunnel.
    let prepare = |dialer: Dialer| dialer.open(Service::Answer).map(|_| dialer);
    let work = |dialer: Dialer| repeat(duration, |_| dialer.open(Service::Answer).map(drop));
    parallel::clients(route, clients, prepare, work).map(Exchange::of)
}

fn ask(stream: &mut TcpStream, number: u64) -> Result<(), LoadError> {
    let what = "a connection with requests broke";
    let mut request = [0; REQUEST];
    request[..8].copy_from_slice(&number.to_be_bytes());
    let mut answer = [0; REQUEST];
    stream.write_all(&request).map_err(during(what))?;
    stream.read_exact(&mut answer).map_err(during(what))?;
    if answer == request { Ok(()) } else { Err(LoadError::WrongAnswer) }
}

fn repeat(
    duration: Duration,
    mut once: impl FnMut(u64) -> Result<(), LoadError>,
) -> Result<Vec<Duration>, LoadError> {
    let mut latencies = Vec::new();
    let begun = Instant::now();
    let mut last = begun;
    while last.duration_since(begun) < duration {
        once(latencies.len() as u64)?;
        let now = Instant::now();
        latencies.push(now.duration_since(last));
        last = now;
    }
    Ok(latencies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_all_exchanges() {
        let millis = |list: &[u64]| list.iter().copied().map(Duration::from_millis).collect::<Vec<_>>();
        let results = vec![millis(&[5, 1]), millis(&[3, 2, 4])];
        let exchange =
            Exchange::of(Done { results, elapsed: Duration::from_millis(10), cost: Cost::default() });
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|quantile| exchange.micros(quantile)), [1e3, 3e3, 5e3, 5e3]);
        assert_eq!((exchange.rate(), exchange.micros_each(1.0)), (500.0, 200_000.0));
    }
}
