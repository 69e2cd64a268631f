//! Clients side by side, a thread each.

use std::panic::resume_unwind;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::LoadError;
use crate::route::{Cost, Dialer, Route};

/// What clients did together.
#[derive(Debug)]
pub struct Done<T> {
    /// What each of them brings.
    pub results: Vec<T>,
    /// From the common start to the end of the last.
    pub elapsed: Duration,
    /// Processor time meanwhile.
    pub cost: Cost,
}

/// Lets `clients` threads `prepare` each, and `work` from a common start on.
///
/// # Errors
/// The first error of any of them.
pub fn clients<P: Send, T: Send>(
    route: &Route,
    clients: usize,
    prepare: impl Fn(Dialer) -> Result<P, LoadError> + Sync,
    work: impl Fn(P) -> Result<T, LoadError> + Sync,
) -> Result<Done<T>, LoadError> {
    // The threads, and the one that holds the watch. They meet twice: when all are ready, and when the watch runs.
    let start = Barrier::new(clients + 1);
    thread::scope(|scope| {
        let client = || {
            let prepared = route.dialer().and_then(&prepare);
            start.wait();
            start.wait();
            work(prepared?)
        };
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
        start.wait();
        let (before, begun) = (route.cost(), Instant::now());
        start.wait();
        let results =
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        let results = results.collect::<Result<Vec<T>, LoadError>>()?;
        Ok(Done { results, elapsed: begun.elapsed(), cost: route.cost()? - before? })
    })
}
