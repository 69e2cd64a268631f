//! What a pod notices of another one on its node whose connections flood their common proxy: little, and never a failure.
//!
//! One after the other, since all of them need the machine for themselves. `PODS_LONG=true` measures for longer.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use demo::node::Node;
use tests::cluster::{Cluster, Greeter, KubeNode, Launch, Pod, PodSpec};
use tests::cni::Timing;
use tests::flood::{Flood, Flooding};
use tests::latency::Latencies;
use tests::process::processor_times;
use tests::wait::until_blocking;

#[test]
fn fresh_connections_delay_others_little() {
    let Some(scene) = Scene::start(None) else { return };
    scene.delayed_little(Flood::Fresh, |flooding| flooding.opened() > 1_000);
}

#[test]
fn bulk_connections_delay_others_little() {
    let Some(scene) = Scene::start(None) else { return };
    // It keeps every worker busy: by itself, since nobody else is there.
    let busy = || scene.workers().into_iter().all(|time| time > BUSY);
    scene.delayed_little(Flood::Bulk(200), |flooding| flooding.opened() == 200 && busy());
}

#[test]
fn half_open_handshakes_leave_others_descriptors() {
    let Some(scene) = Scene::start(Some(1_024)) else { return };
    scene.delayed_little(Flood::Handshakes, |_| scene.metric("ztunnel_accept_paused_total") > 0.0);
}

#[test]
fn idle_connections_leave_others_descriptors() {
    let Some(scene) = Scene::start(Some(1_024)) else { return };
    scene.delayed_little(Flood::Idle(3_000), |_| scene.metric("ztunnel_accept_paused_total") > 0.0);
    // Without the flood everything goes on.
    scene.busy.call(scene.peer.at(APPLICATION)).expect("descriptors are free again");
}

struct Scene {
    proxy: Node,
    busy: Pod,
    calm: Pod,
    /// Whom the calm one calls.
    peer: Pod,
    /// Without a proxy.
    outside: Pod,
    _application: Greeter,
    _cluster: Cluster,
    _alone: MutexGuard<'static, ()>,
}

impl Scene {
    /// A node with three pods, and a proxy that may have so many descriptors.
    fn start(descriptors: Option<usize>) -> Option<Self> {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut cluster = Cluster::create(Timing::UNLIMITED)?;
        let [busy, calm, peer, outside] = <[Pod; 4]>::try_from(cluster.pods(&[
            PodSpec::new("busy", KubeNode::A),
            PodSpec::new("calm", KubeNode::A),
            PodSpec::new("peer", KubeNode::A),
            PodSpec::new("outside", KubeNode::B).plain(),
        ]))
        .expect("four pods");
        let application = peer.greet(APPLICATION);
        let launch = launch(&cluster, descriptors);
        let proxy = cluster.proxy(KubeNode::A, &launch);
        Some(Self {
            proxy,
            busy,
            calm,
            peer,
            outside,
            _application: application,
            _cluster: cluster,
            _alone: alone,
        })
    }

    /// Measures the calm pod with and without the flood, once that has `risen`.
    fn delayed_little(&self, flood: Flood, risen: impl Fn(&Flooding) -> bool) {
        self.measure();
        let quiet = self.measure();
        let flooding = flood.start(&self.busy, &self.outside).expect("a flood");
        until_blocking("the flood has risen", || risen(&flooding));
        let flooded = self.measure();
        let opened = flooding.opened();
        println!("{flood:?}: {opened} connections; quiet: {}; flooded: {}", said(&quiet), said(&flooded));
        for (what, quiet, flooded) in [
            ("an answer", &quiet.answer, &flooded.answer),
            ("a new connection", &quiet.fresh, &flooded.fresh),
        ] {
            for (part, factor, least) in BOUNDS {
                let (quiet, flooded) = (quiet.quantile(part), flooded.quantile(part));
                let bound = (quiet * factor).max(least);
                assert!(
                    flooded <= bound,
                    "{what}, p{}: {flooded:?} in a flood, {quiet:?} without; more than {bound:?}",
                    part * 100.0
                );
            }
        }
        assert_eq!(self.metric("ztunnel_worker_panics_total"), 0.0);
    }

    fn measure(&self) -> Latencies {
        let lasting = if std::env::var("PODS_LONG").is_ok() { 15 } else { 2 };
        Latencies::measure(&self.calm, self.peer.at(APPLICATION), Duration::from_secs(lasting))
            .expect("the calm pod's connections never fail")
    }

    fn metric(&self, name: &str) -> f64 {
        self.proxy.metrics().expect("metrics").sum(name, &[])
    }

    /// Processor time of each worker.
    fn workers(&self) -> Vec<Duration> {
        let mut threads = processor_times(self.proxy.id());
        threads.retain(|(name, _)| {
            name.strip_prefix("ztunnel-").is_some_and(|number| number.parse::<usize>().is_ok())
        });
        threads.sort_unstable();
        assert_eq!(threads.len(), WORKERS, "{threads:?}");
        threads.into_iter().map(|(_, time)| time).collect()
    }
}

fn said(latencies: &Latencies) -> String {
    let times = [("answer", &latencies.answer), ("fresh", &latencies.fresh)].map(|(what, times)| {
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|part| times.quantile(part));
        format!("{what} p50 {p50:?} p99 {p99:?} max {max:?} of {}", times.count())
    });
    times.join(", ")
}

/// A start of the proxy with so many descriptors.
fn launch(cluster: &Cluster, descriptors: Option<usize>) -> Launch {
    let node = env!("CARGO_BIN_EXE_node");
    let program = match descriptors {
        None => node.to_owned(),
        Some(count) => {
            let program = cluster.directory().join("limited");
            let script = format!("#!/bin/sh\nulimit -n {count}\nexec {node} \"$@\"\n");
            fs::write(&program, script).expect("a file");
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a file");
            program.display().to_string()
        }
    };
    Launch { workers: WORKERS, ..Launch::of(&program).with("RUST_LOG", "error") }
}

const WORKERS: usize = 2;
/// More than a worker needs for the calm pod alone.
const BUSY: Duration = Duration::from_secs(4);
/// What a flood may do to this part of the calm pod's requests: so many times as long as without it, or this.
const BOUNDS: [(f64, u32, Duration); 2] =
    [(0.5, 20, Duration::from_millis(100)), (0.99, 20, Duration::from_millis(400))];
const APPLICATION: u16 = 8_080;
