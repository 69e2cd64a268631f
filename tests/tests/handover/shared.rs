//! The proxies of Kubernetes nodes, which serve all pods of them, are replaced: each in a pod of its own, confined as by
//! Istio's chart, while pods come and go and istio-cni is restarted.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use demo::traffic::{Dial, Plan};
use tests::cluster::{Cluster, KubeNode, Launch, Pod, PodSpec};
use tests::cni::Timing as CniTiming;
use tests::daemonset::{DaemonSet, Shared, Strategy, Timing, settle};
use tests::longlived::{Line, LongLived};
use tests::process::{descriptors, innermost};
use tests::traffic::{idle, nothing};

use crate::NODE;
use crate::scene::Handover;

#[test]
fn pods_do_not_notice_that_their_proxies_are_replaced() {
    let Some(scene) = Scene::create() else { return };
    let mut nodes = scene.nodes(Handover::On, Launch::confined);
    settle(&mut nodes);
    // Before applications listen, which come and go with the load.
    let listeners: Vec<_> = scene.pods.iter().map(listeners).collect();
    let load = scene.load();
    let before = nodes.each_ref().map(|node| namespaces_held(node.only().id()));
    let rounds = if std::env::var("HANDOVER_LONG").is_ok() { 50 } else { 4 };
    let guests = AtomicU32::new(0);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        // Ends the guests' coming and going also if an assertion fails.
        let _end = SetOnDrop(&done);
        scope.spawn(|| scene.guests_come_and_go(&guests, &done));
        for round in 1..=rounds {
            nodes.iter_mut().for_each(|node| node.update(round + 1));
            if round % 2 == 0 {
                scene.cluster().cni_mut(KubeNode::A).restart().expect("it listens");
            }
            settle(&mut nodes);
            println!("replacement {round}: {}", load.stalls());
            let losses = load.seen().losses();
            let history = || nodes.each_ref().map(DaemonSet::history).join("\n\n");
            assert!(losses.is_empty(), "replacement {round}: {losses:#?}\n{}", history());
        }
    });
    assert!(guests.load(Ordering::Relaxed) > rounds, "pods came and went");
    load.go_on();
    load.stop().all_whole();
    for (pod, before) in scene.pods.iter().zip(listeners) {
        assert_eq!(self::listeners(pod), before, "{}", pod.name());
    }
    let after = nodes.each_ref().map(|node| namespaces_held(node.only().id()));
    assert_eq!(after, before, "namespaces that are held");
    for node in [KubeNode::A, KubeNode::B] {
        let seen = scene.cluster().cni(node).statistics();
        assert_eq!((seen.late, seen.mispaired), (0, 0), "{seen:#?}");
        assert_eq!(seen.refusals().count(), 0, "{seen:#?}");
        assert_eq!(seen.protocol_errors, [""; 0]);
    }
}

/// With all that stands between two pods: neither process sees the other one, or its files; the folder of the hand-over is all
/// that they share.
#[test]
fn containers_hand_over_to_each_other() {
    let Some(scene) = Scene::create() else { return };
    let mut nodes = scene.nodes(Handover::On, Launch::contained);
    settle(&mut nodes);
    let load = scene.load();
    let mut namespaces = BTreeSet::new();
    for generation in 1..=3 {
        for node in &nodes {
            namespaces.extend(confined(innermost(node.only().id())));
        }
        assert_eq!(namespaces.len(), generation * nodes.len() * NAMESPACES.len(), "{namespaces:?}");
        nodes.iter_mut().for_each(|node| node.update(generation as u32 + 1));
        settle(&mut nodes);
        println!("replacement {generation}: {}", load.stalls());
        let losses = load.seen().losses();
        let history = || nodes.each_ref().map(DaemonSet::history).join("\n\n");
        assert!(losses.is_empty(), "replacement {generation}: {losses:#?}\n{}", history());
    }
    load.go_on();
    load.stop().all_whole();
}

#[test]
fn without_a_hand_over_pods_do_notice() {
    let Some(scene) = Scene::create() else { return };
    let mut nodes = scene.nodes(Handover::Off, Launch::confined);
    settle(&mut nodes);
    let load = scene.load();
    nodes.iter_mut().for_each(|node| node.update(2));
    settle(&mut nodes);
    load.go_on();
    let seen = load.stop();
    println!("without a hand-over, as a surge: {seen}");
    assert!(seen.long.lost.reset + seen.long.lost.early >= seen.planned, "who was not cut off? {seen}");
}

pub(crate) struct Scene {
    cluster: Mutex<Cluster>,
    pods: Vec<Pod>,
    plain: Pod,
}

impl Scene {
    /// Ten pods on each node, and one outside of the mesh.
    pub(crate) fn create() -> Option<Self> {
        let mut cluster = Cluster::create(CniTiming::UNLIMITED)?;
        let on = |node, letter| (0..10).map(move |i| PodSpec::new(&format!("{letter}-{i}"), node));
        let specs: Vec<_> = on(KubeNode::A, "a").chain(on(KubeNode::B, "b")).collect();
        let pods = cluster.pods(&specs);
        let plain = cluster.pods(&[PodSpec::new("plain", KubeNode::B).plain()]).remove(0);
        Some(Self { cluster: Mutex::new(cluster), pods, plain })
    }

    fn cluster(&self) -> MutexGuard<'_, Cluster> {
        self.cluster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn nodes(&self, handover: Handover, confine: fn(Launch) -> Launch) -> [DaemonSet<Shared<'_>>; 2] {
        let launch = confine(Launch::of(NODE)).with("HANDOVER_BAKE", "200ms");
        let launch = if handover == Handover::On { launch.replaceable() } else { launch };
        self.nodes_by(&launch)
    }

    /// Both nodes, with pods that are started by `launch`.
    pub(crate) fn nodes_by(&self, launch: &Launch) -> [DaemonSet<Shared<'_>>; 2] {
        [KubeNode::A, KubeNode::B].map(|node| {
            let pods = Shared::new(&self.cluster, node, launch.clone());
            DaemonSet::new(node.name(), pods, Strategy::Surge, Timing::FAST)
        })
    }

    /// Each pod talks to its neighbour on the other node, to one on its own, or to the one outside of the mesh.
    pub(crate) fn load(&self) -> LongLived {
        let (on_a, on_b) = self.pods.split_at(10);
        let everybody = || self.pods.iter().chain([&self.plain]);
        let servers = everybody().map(|pod| pod.serve(CHECKED)).collect();
        let line = |from: &Pod, to: &Pod, plan: Plan| Line {
            place: from.place().clone(),
            dial: Dial::Direct,
            servers: vec![to.at(CHECKED), to.at_v6(CHECKED)],
            plan,
        };
        let mut long = vec![line(&on_a[0], &on_b[0], Plan { bulk: 1, ..nothing() })];
        for number in 1..10 {
            long.push(line(&on_a[number], &on_b[number], idle(8)));
        }
        long.push(line(&on_b[0], &on_b[1], idle(8)));
        long.push(line(&on_a[1], &self.plain, idle(8)));
        long.push(line(&self.plain, &on_a[2], idle(8)));
        let fresh = vec![
            line(&on_a[3], &on_b[3], Plan { fresh: 1, ..nothing() }),
            line(&on_b[4], &on_a[4], Plan { fresh: 1, ..nothing() }),
        ];
        LongLived::start(long, fresh, servers)
    }

    /// A pod is started on the first node and ended again, every 100 ms.
    fn guests_come_and_go(&self, count: &AtomicU32, done: &AtomicBool) {
        while !done.load(Ordering::Relaxed) {
            let (guest, consent) = self.cluster().start_pod(PodSpec::new("guest", KubeNode::A));
            // While istio-cni is being restarted nobody is asked.
            consent.unwrap_or_else(|error| panic!("guest {}: {error}", count.load(Ordering::Relaxed)));
            thread::sleep(Duration::from_millis(50));
            self.cluster().end_pod(&guest);
            count.fetch_add(1, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(50));
        }
    }
}

struct SetOnDrop<'d>(&'d AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What listens in a pod: addresses and ports as the kernel writes them.
fn listeners(pod: &Pod) -> Vec<String> {
    const LISTENING: &str = "0A";
    let read = |file: &str| {
        // That of the thread that reads it.
        let table = fs::read_to_string(format!("/proc/thread-self/net/{file}")).expect("a table of sockets");
        let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
        let listening = rows.filter(|row| row.get(3) == Some(&LISTENING));
        listening.map(|row| format!("{file} {}", row[1])).collect::<Vec<_>>()
    };
    let tables = pod.place().run(|| [read("tcp"), read("tcp6")].concat());
    let mut listeners = tables.expect("the namespace is there");
    listeners.sort();
    listeners
}

/// Checks that a process has what the chart leaves to it, and its own numbering of processes; its namespaces.
fn confined(id: u32) -> Vec<String> {
    let read = |file: &str| fs::read_to_string(format!("/proc/{id}/{file}")).expect("the process runs");
    let status = read("status");
    let line = |name| status.lines().find_map(|line| line.strip_prefix(name)).expect("a line of this name");
    // NET_ADMIN, NET_RAW, SYS_ADMIN.
    assert_eq!(line("CapEff:").trim(), "0000000000203000");
    assert_eq!(line("CapBnd:").trim(), "0000000000203000");
    assert_eq!(line("NSpid:").split_whitespace().last(), Some("1"));
    let mounts = read("mountinfo");
    let root = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).rfind(|mount| mount[4] == "/");
    assert!(root.is_some_and(|root| root[5].split(',').any(|option| option == "ro")), "{mounts}");
    let namespace = |kind: &&str| {
        let link = fs::read_link(format!("/proc/{id}/ns/{kind}")).expect("the process runs");
        link.display().to_string()
    };
    NAMESPACES.iter().map(namespace).collect()
}

/// Namespaces that each pod has for itself.
const NAMESPACES: [&str; 3] = ["pid", "mnt", "net"];

/// Network namespaces that a process holds open.
fn namespaces_held(id: u32) -> usize {
    descriptors(id).keys().filter(|kind| kind.starts_with("net:[")).count()
}

const CHECKED: u16 = 8_081;
