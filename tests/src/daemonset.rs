//! The DaemonSet controller and the kubelet in miniature: the pods of one node are real proxy processes, made, probed,
//! terminated and killed by the rules of Kubernetes, with its times scaled down.
//!
//! ```text
//!             started            exits, unasked
//!  (created) ─────────► Running ◄──────────────► BackOff        readiness: probed while it runs
//!                          │  back-off is over      │
//!                  deleted │ SIGTERM                │ deleted
//!                          ▼                        ▼
//!                     Terminating ─────────────► (gone)
//!                      exits, or SIGKILL after the grace period
//! ```
//!
//! Nothing happens between calls: [`run`] gives several nodes their turns until something holds.

use std::fmt;
use std::process::ExitStatus;
use std::thread;
use std::time::{Duration, Instant};

use demo::node::Node;
use rustix::process::Signal;

use crate::wait::{PATIENCE, POLL};

pub mod controller;
mod dedicated;
mod shared;

pub use controller::Strategy;
use controller::{Decision, Status, decide};
pub use dedicated::Dedicated;
pub use shared::Shared;

/// How the pods of a DaemonSet run: what differs between the modes of the proxy.
pub trait Containers {
    /// Starts the container of a pod: anew, if it has exited.
    fn start(&mut self, pod: &PodName, revision: u32) -> Node;

    /// What its readiness probe says; `None` if nobody can ask this pod now: then it is as it was.
    fn probe(&self, pod: &PodName, node: &Node) -> Option<bool>;
}

/// The name of a pod, as `ztunnel-3`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodName(String);

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The times of a node's kubelet.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Between two readiness probes of a pod. Kubernetes: 10 s.
    pub probe: Duration,
    /// As many probes must fail, one after the other, before a pod is not Ready any more. Kubernetes: 3.
    pub failures: u32,
    /// From SIGTERM to SIGKILL. The chart: 30 s.
    pub grace: Duration,
    /// After the first exit of a container, doubled with each; at most 30 times that. Kubernetes: 10 s, up to 5 minutes.
    pub back_off: Duration,
}

impl Timing {
    /// About fifty times as fast as Kubernetes, but for the grace period: a process has its work to do in it.
    pub const FAST: Self = Self {
        probe: Duration::from_millis(200),
        failures: 3,
        grace: Duration::from_secs(15),
        back_off: Duration::from_millis(200),
    };
}

/// The DaemonSet, as far as one node sees it.
pub struct DaemonSet<C> {
    containers: C,
    strategy: Strategy,
    timing: Timing,
    /// `None` once the DaemonSet is deleted.
    template: Option<u32>,
    /// The oldest first.
    pods: Vec<Pod>,
    created: u32,
    name: String,
    begun: Instant,
    history: Vec<String>,
}

/// A pod of the node.
#[derive(Debug)]
struct Pod {
    name: PodName,
    revision: u32,
    container: Container,
    ready: bool,
    failures: u32,
    probe_due: Instant,
    restarts: u32,
    /// When it is killed, once it has been deleted.
    killed_at: Option<Instant>,
}

#[derive(Debug)]
enum Container {
    Running(Node),
    BackOff { until: Instant },
}

impl<C: Containers> DaemonSet<C> {
    /// An update of pods by `strategy`, with no pod yet; `name` is for the history.
    pub fn new(name: &str, containers: C, strategy: Strategy, timing: Timing) -> Self {
        Self {
            containers,
            strategy,
            timing,
            template: Some(1),
            pods: Vec::new(),
            created: 0,
            name: name.to_owned(),
            begun: Instant::now(),
            history: Vec::new(),
        }
    }

    /// Another template: an upgrade begins.
    pub fn update(&mut self, template: u32) {
        self.say(format_args!("the template is {template}"));
        self.template = Some(template);
    }

    /// The DaemonSet is deleted, and all of its pods.
    pub fn delete(&mut self) {
        self.say(format_args!("it is deleted"));
        self.template = None;
    }

    /// Deletes a pod, as `kubectl delete pod` and evictions do. What is gone already is gone.
    pub fn delete_pod(&mut self, name: &PodName) {
        if let Some(place) = self.pods.iter().position(|pod| pod.name == *name) {
            self.terminate(place, "deleted by somebody");
        }
    }

    /// The pods that are not deleted, the oldest first.
    pub fn active(&self) -> impl Iterator<Item = &PodName> {
        self.pods.iter().filter(|pod| pod.killed_at.is_none()).map(|pod| &pod.name)
    }

    /// The process of a pod, if it runs.
    pub fn node(&self, name: &PodName) -> Option<&Node> {
        let pod = self.pods.iter().find(|pod| pod.name == *name)?;
        match &pod.container {
            Container::Running(node) => Some(node),
            Container::BackOff { .. } => None,
        }
    }

    /// The process of the only pod.
    ///
    /// # Panics
    /// There is none, or another one.
    pub fn only(&self) -> &Node {
        match &self.pods[..] {
            [Pod { container: Container::Running(node), .. }] => node,
            others => panic!("not one running pod but {others:?}\n{}", self.history()),
        }
    }

    /// Whether one pod of the template is there, Ready, and nothing else.
    pub fn is_settled(&self) -> bool {
        match &self.pods[..] {
            [] => self.template.is_none(),
            [pod] => pod.ready && pod.killed_at.is_none() && Some(pod.revision) == self.template,
            _ => false,
        }
    }

    /// How its pods are run.
    pub fn containers(&mut self) -> &mut C {
        &mut self.containers
    }

    /// The template that pods are made from; nought once the DaemonSet is deleted.
    pub fn template(&self) -> u32 {
        self.template.unwrap_or_default()
    }

    /// Pods that were made so far.
    pub fn created(&self) -> u32 {
        self.created
    }

    /// What has happened, a line each with its time in seconds.
    pub fn history(&self) -> String {
        self.history.join("\n")
    }

    /// What is due: of the kubelet, then of the controller.
    pub fn turn(&mut self) {
        let now = Instant::now();
        self.reap(now);
        for place in 0..self.pods.len() {
            self.kubelet(place, now);
        }
        let seen: Vec<Status> = self.pods.iter().map(Pod::status).collect();
        for decision in decide(self.strategy, self.template, &seen) {
            match decision {
                Decision::Create => self.create(),
                Decision::Delete(place) => self.terminate(place, "deleted by the controller"),
            }
        }
    }

    /// Pods whose end has come.
    fn reap(&mut self, now: Instant) {
        let mut gone = Vec::new();
        for pod in &mut self.pods {
            let Some(killed_at) = pod.killed_at else { continue };
            let how = match &mut pod.container {
                Container::BackOff { .. } => Some("gone without a container".to_owned()),
                Container::Running(node) => match exit_of(node) {
                    Some(status) => Some(format!("gone ({status})")),
                    None if now >= killed_at => {
                        // Dropping it kills it.
                        Some("KILLED: the grace period is over".to_owned())
                    }
                    None => None,
                },
            };
            if let Some(how) = how {
                gone.push((pod.name.clone(), how));
            }
        }
        for (name, how) in gone {
            self.say(format_args!("{name} is {how}"));
            self.pods.retain(|pod| pod.name != name);
        }
    }

    fn kubelet(&mut self, place: usize, now: Instant) {
        let pod = &mut self.pods[place];
        if pod.killed_at.is_some() {
            return;
        }
        match &mut pod.container {
            Container::BackOff { until } if now >= *until => {
                let (name, revision) = (pod.name.clone(), pod.revision);
                self.say(format_args!("{name} is restarted"));
                let node = self.containers.start(&name, revision);
                self.pods[place].container = Container::Running(node);
            }
            Container::BackOff { .. } => {}
            Container::Running(node) => match exit_of(node) {
                Some(status) => {
                    let back_off = self.timing.back_off * 2_u32.pow(pod.restarts.min(5)).min(30);
                    pod.restarts += 1;
                    pod.ready = false;
                    pod.container = Container::BackOff { until: now + back_off };
                    let name = pod.name.clone();
                    self.say(format_args!("{name} has exited ({status})"));
                }
                None if now >= pod.probe_due => {
                    pod.probe_due = now + self.timing.probe;
                    let answer = self.containers.probe(&pod.name, node);
                    if let Some(ready) = pod.probed(answer, self.timing.failures) {
                        let name = pod.name.clone();
                        self.say(format_args!("{name} is {}", if ready { "Ready" } else { "NOT Ready" }));
                    }
                }
                None => {}
            },
        }
    }

    fn create(&mut self) {
        let revision = self.template.expect("only a template makes pods");
        self.created += 1;
        let name = PodName(format!("{}-{}", self.name, self.created));
        self.say(format_args!("{name} is created from template {revision}"));
        let container = Container::Running(self.containers.start(&name, revision));
        self.pods.push(Pod {
            name,
            revision,
            container,
            ready: false,
            failures: 0,
            probe_due: Instant::now(),
            restarts: 0,
            killed_at: None,
        });
    }

    fn terminate(&mut self, place: usize, why: &str) {
        let pod = &mut self.pods[place];
        if pod.killed_at.is_some() {
            return;
        }
        pod.killed_at = Some(Instant::now() + self.timing.grace);
        if let Container::Running(node) = &pod.container {
            // It may have exited a moment ago.
            node.send(Signal::TERM).ok();
        }
        let name = pod.name.clone();
        self.say(format_args!("{name} is {why}"));
    }

    fn say(&mut self, what: fmt::Arguments<'_>) {
        let at = self.begun.elapsed().as_secs_f64();
        self.history.push(format!("{at:7.3} {}: {what}", self.name));
    }
}

impl Pod {
    fn status(&self) -> Status {
        Status { revision: self.revision, ready: self.ready, terminating: self.killed_at.is_some() }
    }

    /// Takes the answer to a probe; tells whether it changed something.
    fn probed(&mut self, answer: Option<bool>, failures: u32) -> Option<bool> {
        let ready = answer?;
        self.failures = if ready { 0 } else { self.failures + 1 };
        let becomes = ready || (self.ready && self.failures < failures);
        (std::mem::replace(&mut self.ready, becomes) != becomes).then_some(becomes)
    }
}

fn exit_of(node: &mut Node) -> Option<ExitStatus> {
    node.ended().expect("it is our child")
}

impl<C> fmt::Debug for DaemonSet<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DaemonSet").field("pods", &self.pods).finish_non_exhaustive()
    }
}

/// Gives all of them their turns until `holds` does.
///
/// # Panics
/// It does not within [`PATIENCE`] and a grace period.
pub fn run<C: Containers>(
    sets: &mut [DaemonSet<C>],
    what: &str,
    mut holds: impl FnMut(&mut [DaemonSet<C>]) -> bool,
) {
    let limit = PATIENCE + sets.iter().map(|set| set.timing.grace).max().unwrap_or_default();
    let begun = Instant::now();
    while !holds(sets) {
        let history = || sets.iter().map(DaemonSet::history).collect::<Vec<_>>().join("\n\n");
        assert!(begun.elapsed() < limit, "never: {what}\n{}", history());
        sets.iter_mut().for_each(DaemonSet::turn);
        thread::sleep(POLL);
    }
}

/// Gives all of them their turns for so long.
pub fn run_for<C: Containers>(sets: &mut [DaemonSet<C>], time: Duration) {
    let begun = Instant::now();
    run(sets, "time passes", |_| begun.elapsed() >= time);
}

/// As [`run`], until each has one pod of its template, Ready, and nothing else.
///
/// # Panics
/// As [`run`].
pub fn settle<C: Containers>(sets: &mut [DaemonSet<C>]) {
    // One turn at least: what was told them may not have begun.
    sets.iter_mut().for_each(DaemonSet::turn);
    run(sets, "every node has one pod of the template", |sets| sets.iter().all(DaemonSet::is_settled));
}

#[cfg(test)]
mod tests;
