//! What a pod notices of another one whose connections flood their proxy.

use tests::flood::Flood;
use tests::latency::{Latencies, Times};

use super::{APPLICATION, Landscape, micros};
use crate::error::{LoadError, during};
use crate::figures::{Line, Section};

const FLOODS: [(&str, Option<Flood>); 5] = [
    ("no flood", None),
    ("fresh connections", Some(Flood::Fresh)),
    ("200 bulk connections", Some(Flood::Bulk(200))),
    ("3,000 idle connections", Some(Flood::Idle(3_000))),
    ("half-open handshakes", Some(Flood::Handshakes)),
];

impl Landscape {
    /// The same pod with each flood of another one, in rounds.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn flooded(&mut self) -> Result<Section, LoadError> {
        let proxy = self.proxy()?;
        let [busy, calm] = [&self.pods[0], &self.pods[1]];
        let served = [busy, calm, &self.peer].map(|pod| self.add(pod));
        let mut section = Section::new("a pod beside a flooded one");
        let mut measured = FLOODS.map(|_| Vec::new());
        self.measure(calm)?;
        for _ in 0..self.setting.rounds {
            for ((_, flood), measured) in FLOODS.iter().zip(&mut measured) {
                let start = |flood: &Flood| flood.start(busy, &self.outside);
                let flooding = flood.as_ref().map(start).transpose().map_err(during("no flood"))?;
                if flooding.is_some() {
                    // What it does to begin with is not what it does.
                    self.measure(calm)?;
                }
                measured.push(self.measure(calm)?);
            }
        }
        for ((name, _), measured) in FLOODS.iter().zip(&measured) {
            let mut push = |what: &str, times: fn(&Latencies) -> &Times| {
                for (part, quantile) in [("p50", 0.5), ("p99", 0.99)] {
                    let values = measured.iter().map(|one| micros(times(one).quantile(quantile)));
                    section.push(Line::new(format!("{name}: {what}, {part}"), "us", values.collect()));
                }
            };
            push("request", |one| &one.answer);
            push("new connection", |one| &one.fresh);
        }
        for served in served {
            self.remove(&served?.0)?;
        }
        self.stop(proxy)?;
        Ok(section)
    }

    fn measure(&self, calm: &tests::cluster::Pod) -> Result<Latencies, LoadError> {
        let measured = Latencies::measure(calm, self.peer.at(APPLICATION), self.setting.duration);
        measured.map_err(during("a connection beside a flood"))
    }
}
