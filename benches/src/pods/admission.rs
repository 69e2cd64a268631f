//! How soon a pod is served, and how soon a whole node's pods are.

use std::time::{Duration, Instant};

use tests::flood::Flood;
use tests::latency::Times;

use super::{Landscape, micros};
use crate::error::{LoadError, during};
use crate::figures::{Line, Section};

impl Landscape {
    /// Pods come one after the other, in peace and while another one's connections keep the proxy busy; and all at once,
    /// when the proxy starts.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn admission(&mut self) -> Result<Section, LoadError> {
        let mut section = Section::new(format!("pods come and go: {}", self.pods.len()));
        let begun = Instant::now();
        let proxy = self.proxy()?;
        section.push(seconds("start until ready, no pod", begun.elapsed()));
        let (served, added) = self.add_all(&self.pods)?;
        let removed = self.remove_all(&served)?;
        push(&mut section, "Add to Ack", added);
        push(&mut section, "Delete to Ack", removed);

        let (busy, pods) = self.pods.split_first().ok_or(LoadError::NoNamespaces)?;
        let (uid, _) = self.add(busy)?;
        let flooding = Flood::Bulk(20).start(busy, &self.outside).map_err(during("no traffic"))?;
        let (served, added) = self.add_all(pods)?;
        let removed = self.remove_all(&served)?;
        drop(flooding);
        push(&mut section, "Add to Ack, with traffic of another pod", added);
        push(&mut section, "Delete to Ack, with traffic of another pod", removed);
        self.remove(&uid)?;
        self.stop(proxy)?;

        let served: Vec<_> = self.pods.iter().map(|pod| format!("{}-snapshot", pod.uid())).collect();
        let cni = self.cluster.cni(tests::cluster::KubeNode::A);
        for (uid, pod) in served.iter().zip(&self.pods) {
            cni.know(uid, pod.info(), pod.namespace());
        }
        let begun = Instant::now();
        let proxy = self.proxy()?;
        section.push(seconds("start until ready, all pods in the snapshot", begun.elapsed()));
        self.remove_all(&served)?;
        self.stop(proxy)?;
        Ok(section)
    }
}

fn push(section: &mut Section, what: &str, times: Vec<Duration>) {
    let times: Times = times.into_iter().collect();
    for (name, part) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
        section.push(Line::new(format!("{what}, {name}"), "us", vec![micros(times.quantile(part))]));
    }
}

fn seconds(what: &str, time: Duration) -> Line {
    Line::new(what, "s", vec![time.as_secs_f64()])
}
