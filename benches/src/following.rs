//! What a mesh costs a proxy that follows it: a real proxy process, and a control plane on a thread of this one.
//!
//! ```text
//!   Population ──► Cluster ──► Replica ══ delta ADS, TLS ══► proxy
//!                    ▲            │ statistics: what was sent, what was acknowledged
//!                 changes         ▼
//!                              figures
//! ```

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use demo::addresses::LoopbackAddresses;
use demo::control_plane::{Authority, Cluster, Replica, Statistics};
use demo::node::{Node, NodeConfig, PORTS, Proxy, Serves};
use demo::place::Place;
use xds::resource::HealthStatus;

use crate::error::{LoadError, during};
use crate::figures::{Line, Section};
use crate::population::Population;
use crate::process::{Resident, processor_seconds, resident};

/// How a proxy is measured.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The proxy program.
    pub proxy: Proxy,
    /// Its data-plane threads.
    pub workers: usize,
    /// How long it rests before its memory is read: the allocator gives pages back after 10 s.
    pub rest: Duration,
    /// Where its log goes.
    pub logs: PathBuf,
}

/// A proxy that follows a mesh.
#[derive(Debug)]
pub struct Following {
    population: Population,
    cluster: Cluster,
    authority: Authority,
    replica: Replica,
    node: Node,
    learning: Learning,
    _addresses: LoopbackAddresses,
}

/// What it took to learn a mesh.
#[derive(Debug, Clone, Copy)]
pub struct Learning {
    workloads: usize,
    elapsed: Duration,
    processor_seconds: f64,
    resident: Resident,
    /// After the rest.
    rested: u64,
}

impl Following {
    /// Starts a control plane and a proxy, and waits until the proxy is ready: it has received, applied and acknowledged
    /// everything.
    ///
    /// # Errors
    /// They cannot be started, or the proxy refuses something.
    pub fn start(population: Population, setting: &Setting) -> Result<Self, LoadError> {
        let cluster = Cluster::new();
        cluster.edit(|edit| {
            (0..population.services).for_each(|number| edit.service(&population.service(number)));
            let workload = |number| population.workload(number, HealthStatus::Healthy);
            (0..population.workloads).for_each(|number| edit.workload(&workload(number)));
            (0..population.policies).for_each(|number| edit.policy(&population.policy(number)));
        });
        let addresses = LoopbackAddresses::claim(&PORTS)?;
        let directory = tempfile::Builder::new().prefix("mesh-").tempdir_in(&setting.logs);
        let directory = directory.map_err(during("no directory for logs"))?.keep();
        let authority = Authority::new(directory.join("istiod"))?;
        let replica = Replica::start((addresses.server, 0).into(), &cluster, &authority)
            .map_err(during("the control plane cannot listen"))?;
        // The proxy serves the first workload.
        let local = population.workload(0, HealthStatus::Healthy);
        let config = NodeConfig {
            name: local.node.to_string(),
            serves: Serves::Workload {
                info: format!("{}/{}/{}", local.namespace, local.name, local.service_account),
                bind: Some(addresses.client),
            },
            control: replica.control(&local.identity())?,
            place: Place::Here,
            workers: setting.workers,
            move_interval: None,
            handover: None,
            environment: Vec::new(),
            directory,
        };
        let begun = Instant::now();
        let mut node = Node::start(&setting.proxy, &config)?;
        node.wait_ready(PATIENCE)?;
        let elapsed = begun.elapsed();
        let (processor_seconds, memory) = (processor_seconds(node.id())?, resident(node.id())?);
        wait_for("the mesh", &replica, is_synced)?;
        thread::sleep(setting.rest);
        let rested = resident(node.id())?.now;
        let learning = Learning {
            workloads: population.workloads,
            elapsed,
            processor_seconds,
            resident: memory,
            rested,
        };
        Ok(Self { population, cluster, authority, replica, node, learning, _addresses: addresses })
    }

    /// What it took to learn the mesh, to compare another with.
    pub fn learning(&self) -> Learning {
        self.learning
    }

    /// What it took to learn the mesh, beside what a small one takes.
    pub fn learned(&self, small: &Learning) -> Section {
        let Population { workloads, services, policies } = self.population;
        let title = format!("a mesh: {workloads} workloads, {services} services, {policies} policies");
        let mut section = Section::new(title);
        let Statistics { addresses, policies, .. } = self.replica.statistics();
        let mut push = |item: &str, unit, value| section.push(Line::new(item, unit, vec![value]));
        let large = &self.learning;
        let of = |what: &str| format!("{what}, mesh of {}", small.workloads);
        push("resources sent", "resources", (addresses.resources + policies.resources) as f64);
        push("responses", "MB", (addresses.bytes + policies.bytes) as f64 / 1e6);
        push("from the start until ready", "s", large.elapsed.as_secs_f64());
        push(&of("from the start until ready"), "s", small.elapsed.as_secs_f64());
        push("processor time until ready", "CPU-s", large.processor_seconds);
        push(&of("processor time until ready"), "CPU-s", small.processor_seconds);
        push("memory when ready", "MiB", mebibytes(large.resident.now));
        push("memory at its peak until then", "MiB", mebibytes(large.resident.peak));
        push("memory after a rest", "MiB", mebibytes(large.rested));
        push(&of("memory after a rest"), "MiB", mebibytes(small.rested));
        let cost = large.rested as f64 - small.rested as f64;
        push("memory of the mesh", "MiB", cost / MEBIBYTE);
        push("memory of the mesh, for each workload", "KiB", cost / 1024.0 / workloads as f64);
        section
    }

    /// Changes one workload after the other, and waits for the acknowledgement of each.
    ///
    /// # Errors
    /// The proxy does not acknowledge, or refuses.
    pub fn update(&mut self, updates: usize) -> Result<Section, LoadError> {
        let before = processor_seconds(self.node.id())?;
        let mut micros = Vec::with_capacity(updates);
        for update in 0..updates {
            // Every workload turns unhealthy before the first turns healthy again, so each edit is a change. The local
            // one comes last.
            let workloads = self.population.workloads;
            let (round, number) = (update / workloads, (update + 1) % workloads);
            let status = if round % 2 == 0 { HealthStatus::Unhealthy } else { HealthStatus::Healthy };
            let workload = self.population.workload(number, status);
            let acks = self.replica.statistics().addresses.acks;
            let begun = Instant::now();
            self.cluster.edit(|edit| edit.workload(&workload));
            wait_for("a change", &self.replica, |statistics| statistics.addresses.acks > acks)?;
            micros.push(begun.elapsed().as_secs_f64() * 1e6);
        }
        self.node.check_alive()?;
        let spent = processor_seconds(self.node.id())? - before;
        let mut section = Section::new(format!("changes of one workload, one after the other: {updates}"));
        let mut sorted = micros.clone();
        sorted.sort_by(f64::total_cmp);
        let p99 = sorted[(updates * 99).div_ceil(100) - 1];
        section.push(Line::new("from the change until acknowledged", "µs", micros));
        section.push(Line::new("from the change until acknowledged, p99", "µs", vec![p99]));
        section.push(Line::new("processor time", "CPU-µs each", vec![spent * 1e6 / updates as f64]));
        Ok(section)
    }

    /// Restarts the control plane, and waits each time until the proxy has everything again. Nothing has changed meanwhile.
    ///
    /// # Errors
    /// The control plane cannot be started again, or the proxy does not come back.
    pub fn restart(mut self, restarts: usize) -> Result<Section, LoadError> {
        let address = self.replica.address();
        let mut back = Vec::with_capacity(restarts);
        let (mut processor, mut seen) = (Vec::new(), Vec::new());
        for _ in 0..restarts {
            let before = processor_seconds(self.node.id())?;
            self.replica.stop();
            let begun = Instant::now();
            self.replica = Replica::start(address, &self.cluster, &self.authority)
                .map_err(during("the control plane cannot listen again"))?;
            seen.push(wait_for("the mesh again", &self.replica, is_synced)?);
            back.push(begun.elapsed().as_secs_f64());
            processor.push(processor_seconds(self.node.id())? - before);
        }
        self.node.check_alive()?;
        let mut section = Section::new("the control plane restarts, nothing has changed");
        let count = |value: fn(&Statistics) -> u64| seen.iter().map(|seen| value(seen) as f64).collect();
        section.push(Line::new("from the restart until all is acknowledged", "s", back));
        section.push(Line::new("processor time", "CPU-s", processor));
        section.push(Line::new("resources that the proxy names", "resources", count(named)));
        section.push(Line::new(
            "workloads and services sent again",
            "resources",
            count(|it| it.addresses.resources),
        ));
        section.push(Line::new(
            "policies sent again: they have no version",
            "resources",
            count(|it| it.policies.resources),
        ));
        Ok(section)
    }
}

/// What the proxy says that it knows, when it connects.
fn named(statistics: &Statistics) -> u64 {
    (statistics.addresses.initial_versions + statistics.policies.initial_versions) as u64
}

/// The first response of every type is acknowledged.
fn is_synced(statistics: &Statistics) -> bool {
    statistics.addresses.acks > 0 && statistics.policies.acks > 0
}

/// Waits until the control plane has seen something.
fn wait_for(
    what: &'static str,
    replica: &Replica,
    condition: impl Fn(&Statistics) -> bool,
) -> Result<Statistics, LoadError> {
    let begun = Instant::now();
    loop {
        let statistics = replica.statistics();
        let mut nacks = statistics.addresses.nacks.iter().chain(&statistics.policies.nacks);
        if let Some(complaint) = nacks.next().cloned() {
            return Err(LoadError::Refused { complaint });
        }
        if condition(&statistics) {
            return Ok(statistics);
        }
        if begun.elapsed() > PATIENCE {
            return Err(LoadError::NotAcknowledged { what, seconds: PATIENCE.as_secs() });
        }
        thread::sleep(POLL);
    }
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / MEBIBYTE
}

const MEBIBYTE: f64 = (1 << 20) as f64;
/// A debug build on a busy host needs a while for a large mesh.
const PATIENCE: Duration = Duration::from_secs(180);
/// Short beside what is measured, long enough to leave the processors to others.
const POLL: Duration = Duration::from_micros(20);
