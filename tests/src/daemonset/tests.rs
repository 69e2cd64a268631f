//! The kubelet over shells instead of proxies.

use std::fs;
use std::path::Path;

use demo::addresses::LoopbackAddresses;
use demo::node::{Control, NodeConfig, PORTS, Proxy, Serves};
use demo::place::Place;
use tempfile::TempDir;

use super::*;

/// Shells that tell what becomes of them in the folder. A pod is ready as long as there is a file `<pod>.ready`.
struct Shells {
    folder: TempDir,
    addresses: LoopbackAddresses,
    script: &'static str,
}

impl Containers for Shells {
    fn start(&mut self, pod: &PodName, _: u32) -> Node {
        let script = format!("cd {}; pod={pod}; {}", self.folder.path().display(), self.script);
        let proxy = Proxy { program: "/bin/sh".into(), arguments: vec!["-c".to_owned(), script] };
        let config = NodeConfig {
            name: pod.to_string(),
            serves: Serves::Workload { info: "n/w/a".to_owned(), bind: Some(self.addresses.client) },
            control: Control::File { mesh: String::new() },
            place: Place::Here,
            workers: 1,
            move_interval: None,
            handover: None,
            environment: Vec::new(),
            directory: self.folder.path().to_owned(),
        };
        Node::start(&proxy, &config).expect("a shell")
    }

    fn probe(&self, pod: &PodName, _: &Node) -> Option<bool> {
        Some(self.folder.path().join(format!("{pod}.ready")).exists())
    }
}

fn set(script: &'static str) -> [DaemonSet<Shells>; 1] {
    let shells = Shells {
        folder: tempfile::tempdir().expect("a directory"),
        addresses: LoopbackAddresses::claim(&PORTS).expect("addresses"),
        script,
    };
    let timing = Timing {
        probe: Duration::from_millis(5),
        failures: 2,
        grace: Duration::from_millis(300),
        back_off: Duration::from_millis(5),
    };
    [DaemonSet::new("pod", shells, Strategy::Surge, timing)]
}

fn folder(sets: &[DaemonSet<Shells>; 1]) -> &Path {
    sets[0].containers.folder.path()
}

const POLITE: &str = "trap 'echo $pod >>ended; exit 0' TERM; touch $pod.ready; while :; do sleep 0.01; done";

#[test]
fn the_old_pod_is_told_to_end_when_the_new_one_is_ready() {
    let mut sets = set(POLITE);
    settle(&mut sets);
    sets[0].update(2);
    settle(&mut sets);
    let history = sets[0].history();
    let order = ["pod-2 is created", "pod-2 is Ready", "pod-1 is deleted", "pod-1 is gone (exit status: 0)"];
    let places =
        order.map(|event| history.find(event).unwrap_or_else(|| panic!("no {event:?} in\n{history}")));
    assert!(places.is_sorted(), "{history}");
    assert_eq!(fs::read_to_string(folder(&sets).join("ended")).ok().as_deref(), Some("pod-1\n"));
}

#[test]
fn a_new_pod_that_is_never_ready_leaves_the_old_one_alone_until_that_fails_too() {
    let mut sets =
        set("trap 'exit 0' TERM; [ $pod = pod-1 ] && touch $pod.ready; while :; do sleep 0.01; done");
    settle(&mut sets);
    sets[0].update(2);
    run(&mut sets, "the new one is there", |sets| sets[0].active().count() == 2);
    for _ in 0..20 {
        sets[0].turn();
    }
    assert_eq!(sets[0].active().count(), 2);
    fs::remove_file(folder(&sets).join("pod-1.ready")).expect("it was ready");
    run(&mut sets, "the old one is gone", |sets| sets[0].active().map(ToString::to_string).eq(["pod-2"]));
}

#[test]
fn a_container_that_exits_is_restarted_and_one_that_stays_is_killed() {
    let mut sets = set(
        "trap 'echo no' TERM; echo $pod >>began; [ $(wc -l <began) -gt 2 ] || exit 3; touch $pod.ready; \
         while :; do sleep 0.01; done",
    );
    settle(&mut sets);
    let history = sets[0].history();
    assert_eq!(history.matches("has exited (exit status: 3)").count(), 2, "{history}");
    assert_eq!(history.matches("is restarted").count(), 2, "{history}");
    let only = sets[0].active().next().cloned().expect("a pod");
    sets[0].delete_pod(&only);
    settle(&mut sets);
    let history = sets[0].history();
    assert!(history.contains("pod-1 is KILLED: the grace period is over"), "{history}");
    sets[0].delete();
    settle(&mut sets);
    assert_eq!(sets[0].active().count(), 0);
}
