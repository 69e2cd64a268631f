//! How soon an application is answered.

use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::cluster::{Call, Pod};

/// How long each of many things took.
#[derive(Debug, Clone, Default)]
pub struct Times(Vec<Duration>);

impl Times {
    /// How many there were.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The time that this part of them needed at most; `1.0` is all of them. Nought if there were none.
    pub fn quantile(&self, part: f64) -> Duration {
        let index = (self.0.len() as f64 * part).ceil() as usize;
        self.0.get(index.clamp(1, self.0.len().max(1)) - 1).copied().unwrap_or_default()
    }
}

impl FromIterator<Duration> for Times {
    fn from_iter<I: IntoIterator<Item = Duration>>(times: I) -> Self {
        let mut times: Vec<_> = times.into_iter().collect();
        times.sort_unstable();
        Self(times)
    }
}

/// What an application sees of its proxy.
#[derive(Debug, Clone, Default)]
pub struct Latencies {
    /// A request and its answer on an open connection.
    pub answer: Times,
    /// A new connection, its greeting, a request and its answer.
    pub fresh: Times,
}

impl Latencies {
    /// Calls a [`Greeter`](crate::cluster::Greeter) at `target` for so long: side by side, requests on one connection and
    /// new connections, each kind without a pause.
    ///
    /// # Errors
    /// A connection is refused, breaks off, or is not answered.
    ///
    /// # Panics
    /// The namespace is not there.
    pub fn measure(client: &Pod, target: SocketAddr, lasting: Duration) -> io::Result<Self> {
        let begun = Instant::now();
        let repeat = |mut step: Box<dyn FnMut() -> io::Result<()>>| {
            let mut times = Vec::new();
            while begun.elapsed() < lasting {
                let begun = Instant::now();
                step()?;
                times.push(begun.elapsed());
            }
            Ok::<_, io::Error>(times.into_iter().collect())
        };
        let mut open = client.call(target)?;
        thread::scope(|scope| {
            let answer = scope.spawn(|| repeat(Box::new(move || open.exchange())));
            let fresh = scope.spawn(|| {
                client.place().enter().expect("the namespace is there");
                let here = demo::place::Place::Here;
                repeat(Box::new(move || Call::open(&here, None, target)?.exchange()))
            });
            let [answer, fresh] = [answer, fresh].map(|thread| thread.join().expect("no panic"));
            Ok(Self { answer: answer?, fresh: fresh? })
        })
    }
}
