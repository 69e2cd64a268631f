//! What pods cost that do nothing, or next to nothing, and what they leave behind.

use std::collections::BTreeSet;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use demo::node::Node;
use tests::process::{descriptors, namespaces_of_threads};

use super::{APPLICATION, Landscape};
use crate::error::{LoadError, during};
use crate::figures::{Line, Section};
use crate::process::{processor_seconds, resident};

/// What the proxy holds.
struct Held {
    mebibytes: f64,
    descriptors: f64,
    /// Network namespaces that it has a descriptor of, or a thread in.
    namespaces: f64,
}

impl Held {
    fn by(proxy: &Node) -> Result<Self, LoadError> {
        let held = descriptors(proxy.id());
        let namespaces = held.keys().filter(|kind| kind.starts_with("net:[")).cloned();
        let namespaces: BTreeSet<String> =
            namespaces.chain(namespaces_of_threads(proxy.id()).into_keys()).collect();
        Ok(Self {
            mebibytes: resident(proxy.id())?.now as f64 / f64::from(1 << 20),
            descriptors: held.values().sum::<usize>() as f64,
            namespaces: namespaces.len() as f64,
        })
    }

    fn push(&self, section: &mut Section, when: &str) {
        section.push(Line::new(format!("{when}: memory"), "MiB", vec![self.mebibytes]));
        section.push(Line::new(format!("{when}: descriptors"), "", vec![self.descriptors]));
        section.push(Line::new(format!("{when}: namespaces"), "", vec![self.namespaces]));
    }

    /// What each of `count` pods has added.
    fn push_each(&self, before: &Self, count: usize, section: &mut Section, when: &str) {
        let count = count as f64;
        let kibibytes = (self.mebibytes - before.mebibytes) * 1024.0 / count;
        section.push(Line::new(format!("{when}: memory, each pod"), "KiB", vec![kibibytes]));
        let descriptors = (self.descriptors - before.descriptors) / count;
        section.push(Line::new(format!("{when}: descriptors, each pod"), "", vec![descriptors]));
    }
}

impl Landscape {
    /// The proxy with no pod, with some, with all of them; after each had a connection; and after all have gone.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn cost(&mut self) -> Result<Section, LoadError> {
        let mut section = Section::new(format!("pods at rest: {}", self.pods.len()));
        let proxy = self.proxy()?;
        let (peer, _) = self.add(&self.peer)?;
        let change = self.change(&proxy)?;
        section.push(Line::new("a change of the mesh, one pod: CPU time", "us", vec![change]));
        self.rest();
        let none = Held::by(&proxy)?;
        none.push(&mut section, "one pod");

        let some = self.pods.len().div_ceil(5);
        let (mut served, _) = self.add_all(&self.pods[..some])?;
        self.rest();
        Held::by(&proxy)?.push_each(&none, some, &mut section, &format!("{some} more"));
        served.extend(self.add_all(&self.pods[some..])?.0);
        self.rest();
        let all = Held::by(&proxy)?;
        let when = format!("{} more", self.pods.len());
        all.push(&mut section, &when);
        all.push_each(&none, self.pods.len(), &mut section, &when);
        let before = processor_seconds(proxy.id())?;
        thread::sleep(IDLE);
        let used = (processor_seconds(proxy.id())? - before) * 1e3;
        section.push(Line::new(format!("{when}: CPU time in {} s", IDLE.as_secs()), "ms", vec![used]));
        let change = self.change(&proxy)?;
        section.push(Line::new(format!("a change of the mesh, {when}: CPU time"), "us", vec![change]));

        for pod in &self.pods {
            let called = pod.call(self.peer.at(APPLICATION)).and_then(|mut call| call.exchange());
            called.map_err(during("a connection through the proxy"))?;
        }
        self.rest();
        let when = "each with a tunnel, both ends here";
        Held::by(&proxy)?.push_each(&none, self.pods.len(), &mut section, when);

        self.remove_all(&served)?;
        self.rest();
        Held::by(&proxy)?.push(&mut section, "one pod again");
        self.remove(&peer)?;
        self.stop(proxy)?;
        Ok(section)
    }

    /// Processor time of the proxy for a change of the mesh, in microseconds: a service comes that concerns nobody.
    fn change(&mut self, proxy: &Node) -> Result<f64, LoadError> {
        let before = processor_seconds(proxy.id())?;
        for _ in 0..CHANGES {
            self.changes += 1;
            self.cluster.headless_service(&format!("new-{}", self.changes), &[(80, APPLICATION)]);
            let begun = Instant::now();
            let acknowledged = || {
                let statistics = self.cluster.istiod().statistics();
                statistics.iter().all(|seen| seen.addresses.acks == seen.addresses.responses)
            };
            // Changes that come faster than that are followed as one.
            while begun.elapsed() < APART || !acknowledged() {
                if begun.elapsed() > super::PATIENCE {
                    return Err(during("a change")(io::ErrorKind::TimedOut.into()));
                }
                thread::sleep(Duration::from_millis(5));
            }
        }
        Ok((processor_seconds(proxy.id())? - before) * 1e6 / f64::from(CHANGES))
    }
}

const IDLE: Duration = Duration::from_secs(10);
const CHANGES: u32 = 50;
const APART: Duration = Duration::from_millis(150);
