//! What it costs that connections belong to many pods, and not to one: a worker has to go to another namespace for each.

use std::thread;
use std::time::{Duration, Instant};

use demo::node::Node;
use demo::place::Place;
use tests::cluster::{Call, Pod};
use tests::latency::Times;

use super::{APPLICATION, Landscape, micros};
use crate::error::{LoadError, during};
use crate::figures::{Line, Section};
use crate::process::processor_seconds;

/// What was done on one thread.
struct Done {
    times: Times,
    elapsed: Duration,
    processor_seconds: f64,
}

/// The same measured round by round.
#[derive(Default)]
struct Figures {
    rate: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
    processor: Vec<f64>,
}

impl Figures {
    fn note(&mut self, done: &Done) {
        let count = done.times.count() as f64;
        self.rate.push(count / done.elapsed.as_secs_f64());
        self.p50.push(micros(done.times.quantile(0.5)));
        self.p99.push(micros(done.times.quantile(0.99)));
        self.processor.push(done.processor_seconds * 1e6 / count);
    }

    fn push(self, section: &mut Section, what: &str) {
        let Self { rate, p50, p99, processor } = self;
        section.push(Line::new(format!("{what}: rate"), "1/s", rate));
        section.push(Line::new(format!("{what}: p50"), "us", p50));
        section.push(Line::new(format!("{what}: p99"), "us", p99));
        section.push(Line::new(format!("{what}: CPU time of the proxy"), "us", processor));
    }
}

impl Landscape {
    /// New connections and requests of one pod, and of fifty in turn; side by side in each round.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn alternating(&mut self) -> Result<Section, LoadError> {
        let proxy = self.proxy()?;
        let many = &self.pods[..self.pods.len().min(MANY)];
        let (served, _) = self.add_all(many)?;
        let (one, count) = (&many[..1], many.len());
        let mut section = Section::new(format!("one pod, and {count} in turn"));
        let [mut fresh, mut fresh_many, mut asked, mut asked_many] = [(); 4].map(|()| Figures::default());
        // Certificates, and what else is made on first use.
        self.connect(many, &proxy)?;
        for _ in 0..self.setting.rounds {
            fresh.note(&self.connect(one, &proxy)?);
            fresh_many.note(&self.connect(many, &proxy)?);
            asked.note(&self.ask(one, count, &proxy)?);
            asked_many.note(&self.ask(many, count, &proxy)?);
        }
        let ratio = [
            Line::ratio(
                format!("new connection, {count} pods / one: CPU time"),
                &fresh_many.processor,
                &fresh.processor,
            ),
            Line::ratio(
                format!("request, {count} pods / one: CPU time"),
                &asked_many.processor,
                &asked.processor,
            ),
        ];
        fresh.push(&mut section, "new connection, one pod");
        fresh_many.push(&mut section, &format!("new connection, {count} pods"));
        asked.push(&mut section, &format!("request, {count} connections of one pod"));
        asked_many.push(&mut section, &format!("request, a connection of each of {count} pods"));
        ratio.into_iter().for_each(|line| section.push(line));
        section.push(Line::new("setns, without anything else", "us", vec![change_of_namespace(many)?]));
        self.remove_all(&served)?;
        self.stop(proxy)?;
        Ok(section)
    }

    /// New connections of these pods in turn, to somebody outside of the mesh, one at a time.
    fn connect(&self, pods: &[Pod], proxy: &Node) -> Result<Done, LoadError> {
        let mut next = pods.iter().cycle();
        let target = self.outside.at(APPLICATION);
        self.repeat(proxy, || {
            let Some(pod) = next.next() else { return Ok(()) };
            // Also if it is there already, so that this thread does the same for one as for many.
            pod.place().enter().map_err(|error| during("a namespace")(std::io::Error::other(error)))?;
            let called = Call::open(&Place::Here, None, target).and_then(|mut call| call.exchange());
            called.map_err(during("a connection through the proxy"))
        })
    }

    /// Requests on `count` open connections of these pods in turn.
    fn ask(&self, pods: &[Pod], count: usize, proxy: &Node) -> Result<Done, LoadError> {
        let target = self.outside.at(APPLICATION);
        let calls = pods.iter().cycle().take(count).map(|pod| pod.call(target));
        let calls = calls.collect::<Result<Vec<_>, _>>();
        let mut calls = calls.map_err(during("a connection through the proxy"))?;
        let mut next = 0;
        self.repeat(proxy, || {
            next = (next + 1) % count;
            calls[next].exchange().map_err(during("a connection through the proxy"))
        })
    }

    /// Does a thing again and again, on a thread that may go to other namespaces.
    fn repeat(
        &self,
        proxy: &Node,
        mut step: impl FnMut() -> Result<(), LoadError> + Send,
    ) -> Result<Done, LoadError> {
        let duration = self.setting.duration;
        thread::scope(|scope| {
            let repeating = scope.spawn(|| {
                let (mut times, used, begun) = (Vec::new(), processor_seconds(proxy.id())?, Instant::now());
                while begun.elapsed() < duration {
                    let begun = Instant::now();
                    step()?;
                    times.push(begun.elapsed());
                }
                let processor_seconds = processor_seconds(proxy.id())? - used;
                Ok(Done { times: times.into_iter().collect(), elapsed: begun.elapsed(), processor_seconds })
            });
            repeating.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// How long a thread needs from one namespace to another, in microseconds.
fn change_of_namespace(pods: &[Pod]) -> Result<f64, LoadError> {
    let going = || {
        let begun = Instant::now();
        for pod in pods.iter().cycle().take(CHANGES) {
            pod.place().enter()?;
        }
        Ok::<_, demo::place::PlaceError>(micros(begun.elapsed()) / CHANGES as f64)
    };
    // It doesn't come back.
    let gone = thread::scope(|scope| scope.spawn(going).join());
    let gone = gone.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    gone.map_err(|error| during("a namespace")(std::io::Error::other(error)))
}

const MANY: usize = 50;
const CHANGES: usize = 10_000;
