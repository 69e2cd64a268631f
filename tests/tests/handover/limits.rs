//! Replacements of processes that are short of something: descriptors, a processor, memory.

use std::fs;
use std::path::{Path, PathBuf};

use demo::node::{ADMIN_PORT, Node, Proxy};
use demo::traffic::pattern::Direction;
use rustix::thread::{CpuSet, sched_getaffinity};
use serde_json::Value;
use tests::daemonset::{Timing, run, settle};
use tests::longlived::Mix;
use tests::skipped;
use tests::world::{APPLICATION, Host, World};

use crate::NODE;
use crate::connection::{empty, fill, joined};
use crate::scene::{Handover, SHORT_BAKE, Scene, world};

/// More connections than a successor has room for all at once, beside its own.
#[test]
fn few_descriptors_are_enough() {
    let world = world();
    let proxy = after("ulimit -n 512");
    let mut scene = Scene::by(&proxy, Timing::FAST, &world, Handover::On, SHORT_BAKE);
    let load = scene.load(Mix { bulk: 1, requests: 50, idle: 50, plain: 10, fresh: 1 });
    scene.roll_out();
    load.go_on();
    load.stop().all_whole();
    scene.ended_well();
}

/// A successor with a hard limit, and no right to go beyond it, has room for some connections and not for the others: these
/// stay, are told of, and end in their own time.
#[test]
fn what_a_successor_has_no_room_for_stays_and_drains() {
    let world = world();
    // Capabilities let a process have more descriptors in flight than it may have open.
    let confined = "setpriv --bounding-set=-all --inh-caps=-all";
    let proxy =
        script(&format!("test \"$ISTIO_META_TEMPLATE\" = 1 || ulimit -n 256; exec {confined} {NODE} proxy"));
    let patience = ("CONNECTION_TERMINATION_DEADLINE", "14s");
    let environment = [SHORT_BAKE, &[patience]].concat();
    let mut scene = Scene::by(&proxy, Timing::FAST, &world, Handover::On, &environment);
    let load = scene.load(Mix { bulk: 1, requests: 30, idle: 30, plain: 150, fresh: 1 });
    scene.nodes[0].update(2);
    let node = &mut scene.nodes[..1];
    let old = node[0].active().next().cloned().expect("a pod");
    run(node, "the old pod is deleted", |node| node[0].active().all(|pod| *pod != old));
    let new = node[0].active().next().cloned().expect("a pod");
    let log = node[0].node(&old).expect("it drains").log().to_owned();
    let log = || fs::read_to_string(&log).expect("a log");
    run(node, "what is left is told of", |_| log().contains("connections stay here for now"));
    load.go_on();
    let moved = |node: &Node| -> u64 {
        let page = node.page(ADMIN_PORT, "/handover").expect("an answer").body;
        let page: Value = serde_json::from_str(&page).expect("JSON");
        page["sessions"][0]["taken"]["moved"]["plain"].as_u64().unwrap_or_default()
    };
    let moved = moved(node[0].node(&new).expect("it serves"));
    println!("{moved} of 150 plain connections found room");
    assert!((20..150).contains(&moved), "{}", log());
    assert!(node[0].node(&old).is_some(), "what has stayed is served");
    load.stop().all_whole();
    settle(node);
    scene.ended_well();
}

/// The whole of it by turns on one core.
#[test]
fn one_core_is_enough() {
    let allowed = sched_getaffinity(None).expect("this thread runs somewhere");
    let core = (0..CpuSet::MAX_CPU).find(|core| allowed.is_set(*core)).expect("this thread runs somewhere");
    let arguments = ["-c", &core.to_string(), NODE, "proxy"].map(ToOwned::to_owned).into();
    let proxy = Proxy { program: "taskset".into(), arguments };
    let world = world();
    let mut scene = Scene::by(&proxy, Timing::FAST, &world, Handover::On, SHORT_BAKE);
    let load = scene.load(Mix::SMALL);
    for number in 1..=2 {
        scene.roll_out();
        println!("replacement {number}: {}", load.stalls());
        let losses = load.seen().losses();
        assert!(losses.is_empty(), "replacement {number}: {losses:#?}\n{}", scene.history());
    }
    load.go_on();
    load.stop().all_whole();
    scene.ended_well();
}

/// What sockets hold counts for the pod that opened them, whose cgroup goes when it has ended: connections that have moved go on,
/// and fill their buffers anew.
#[test]
fn the_first_owners_cgroup_may_be_limited_and_removed() {
    let world = world();
    let Some(groups) = Cgroups::create(&world) else { return };
    let mut scene = Scene::by(&after(&groups.enter()), Timing::FAST, &world, Handover::On, SHORT_BAKE);
    let target = world.at(Host::Server, APPLICATION);
    let (near, far) = joined(scene.nodes[0].only(), target);
    let load = scene.load(Mix::SMALL);
    scene.roll_out();
    assert_eq!(groups.remove_empty(), scene.nodes.len());
    for (from, to, way) in [(&near, &far, Direction::Upload), (&far, &near, Direction::Download)] {
        let sent = fill(from, way);
        assert!(sent > 1 << 20, "buffers are full already, with {sent} bytes");
        empty(to, sent, way);
    }
    load.go_on();
    load.stop().all_whole();
    scene.ended_well();
}

/// A cgroup of its own for each pod, with little memory.
struct Cgroups {
    folder: PathBuf,
    /// Files of a cgroup, and what is written to them.
    limits: &'static [(&'static str, u64)],
}

impl Cgroups {
    fn create(world: &World) -> Option<Self> {
        let kinds: [(&str, &[_]); 2] = [
            ("/sys/fs/cgroup", &[("memory.max", MEMORY)]),
            (
                "/sys/fs/cgroup/memory",
                &[("memory.limit_in_bytes", MEMORY), ("memory.kmem.tcp.limit_in_bytes", SOCKETS)],
            ),
        ];
        let name = world.directory().file_name().expect("it has a name");
        for (root, limits) in kinds {
            let folder = Path::new(root).join(name);
            if fs::create_dir(&folder).is_ok() {
                // Version 2 passes nothing on by itself; version 1 has no such file.
                fs::write(folder.join("cgroup.subtree_control"), "+memory").ok();
                let groups = Self { folder, limits };
                let probe = groups.folder.join("probe");
                let made = fs::create_dir(&probe);
                let limited = made.is_ok() && limits.iter().all(|(file, _)| probe.join(file).exists());
                fs::remove_dir(&probe).ok();
                if limited {
                    return Some(groups);
                }
            }
        }
        skipped::say("a limit of memory needs a cgroup that can be written to");
        None
    }

    /// For a shell, which is in a cgroup of its own then.
    fn enter(&self) -> String {
        let folder = self.folder.display();
        let limits = self.limits.iter().map(|(file, limit)| format!("echo {limit} > \"$group/{file}\"; "));
        let limits: String = limits.collect();
        format!(
            "set -e; group=\"{folder}/$POD_NAME\"; mkdir \"$group\"; {limits} echo $$ > \"$group/cgroup.procs\""
        )
    }

    /// Removes those in which nobody is any more; how many there were.
    fn remove_empty(&self) -> usize {
        let groups =
            fs::read_dir(&self.folder).expect("a cgroup").map(|entry| entry.expect("a cgroup").path());
        let processes = |group: &PathBuf| fs::read_to_string(group.join("cgroup.procs"));
        let empty = groups.filter(|group| processes(group).is_ok_and(|processes| processes.is_empty()));
        empty.map(|group| fs::remove_dir(group).expect("nobody is in it")).count()
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        // Of a failed test some may stay, as its logs do.
        self.remove_empty();
        fs::remove_dir(&self.folder).ok();
    }
}

/// Bytes: enough for a proxy, but not for much more.
const MEMORY: u64 = 128 << 20;
/// Bytes, where sockets count for themselves.
const SOCKETS: u64 = 32 << 20;

/// The proxy, after a shell has done something.
fn after(before: &str) -> Proxy {
    script(&format!("{before}; exec {NODE} proxy"))
}

fn script(script: &str) -> Proxy {
    Proxy { program: "/bin/sh".into(), arguments: vec!["-c".to_owned(), script.to_owned()] }
}
