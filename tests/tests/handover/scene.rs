//! Two nodes with one workload each, whose proxies are pods of DaemonSets.

use std::fs;
use std::path::PathBuf;

use demo::node::{NodeConfig, Proxy};
use rustix::process::Signal;
use tests::daemonset::{DaemonSet, Dedicated, PodName, Strategy, Timing, run, settle};
use tests::istiod::{self, Istiod};
use tests::longlived::{LongLived, Mix};
use tests::process::is_stopped;
use tests::world::{Host, Variant, World};

use crate::NODE;

/// Whether proxies take each other's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handover {
    On,
    Off,
}

/// One of the two processes of a hand-over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Predecessor,
    Successor,
}

/// So that no test waits for long.
pub(crate) const SHORT_BAKE: Environment<'static> = &[("HANDOVER_BAKE", "200ms")];

/// What both nodes' proxies are started with, besides.
pub(crate) type Environment<'a> = &'a [(&'a str, &'a str)];

/// See the module.
pub(crate) struct Scene<'w> {
    /// The node of the clients, and that of the server.
    pub(crate) nodes: [DaemonSet<Dedicated>; 2],
    pub(crate) istiod: Istiod<'w>,
    world: &'w World,
    template: u32,
}

impl<'w> Scene<'w> {
    /// Starts the first pod of each node.
    pub(crate) fn start(world: &'w World, handover: Handover, environment: Environment<'_>) -> Self {
        Self::by(&world.proxy(), Timing::FAST, world, handover, environment)
    }

    /// As [`Scene::start`], with pods that run `proxy`, by a kubelet with this `timing`.
    pub(crate) fn by(
        proxy: &Proxy,
        timing: Timing,
        world: &'w World,
        handover: Handover,
        environment: Environment<'_>,
    ) -> Self {
        let istiod = Istiod::start(world);
        let set = |host| {
            let address = world.at(Host::Istiod, istiod::PORT).to_string();
            let config = istiod.config(host, &address, environment);
            let socket = socket(world, &config.name);
            fs::create_dir(socket.ancestors().nth(2).expect("it is below a folder")).expect("a directory");
            let by = (handover == Handover::On).then_some(socket);
            let pods = Dedicated::new(proxy.clone(), NodeConfig { handover: by, ..config.clone() });
            let strategy = match handover {
                Handover::On => Strategy::Surge,
                // There is room for one process only.
                Handover::Off => Strategy::InPlace,
            };
            DaemonSet::new(&config.name, pods, strategy, timing)
        };
        let mut nodes = [Host::Client, Host::Server].map(set);
        settle(&mut nodes);
        Self { nodes, istiod, world, template: 1 }
    }

    /// Connections from the clients' node to the server's, and to a peer outside of the mesh.
    pub(crate) fn load(&self, mix: Mix) -> LongLived {
        LongLived::through(self.world, self.nodes[0].only(), mix)
    }

    /// Replaces the proxies of both nodes at the same time.
    pub(crate) fn roll_out(&mut self) {
        self.begin_roll_out();
        settle(&mut self.nodes);
    }

    /// Begins to; the nodes' turns are left to the test.
    pub(crate) fn begin_roll_out(&mut self) {
        self.template += 1;
        for node in &mut self.nodes {
            node.update(self.template);
        }
    }

    /// As [`Scene::start`], for [`Scene::halt`] at `step`.
    pub(crate) fn halting(world: &'w World, side: Side, step: &str, environment: Environment<'_>) -> Self {
        // A pod that stands still for 5 s is not found out: real probes are further apart.
        let timing = Timing { failures: 1_000, ..Timing::FAST };
        let setting = if side == Side::Predecessor { step } else { NOWHERE };
        let environment = [environment, &[(PAUSE_AT, setting)]].concat();
        Self::by(&world.proxy(), timing, world, Handover::On, &environment)
    }

    /// Replaces the proxy of the clients' node until one side stands still at `step`; returns its pod. The other node's is never
    /// replaced, and comes to none of the steps.
    pub(crate) fn halt(&mut self, side: Side, step: &str) -> PodName {
        self.template += 1;
        let node = &mut self.nodes[..1];
        let first = node[0].active().next().cloned().expect("a pod");
        node[0].containers().set(PAUSE_AT, if side == Side::Successor { step } else { NOWHERE });
        node[0].update(self.template);
        run(node, "the new pod is made", |node| node[0].active().any(|pod| *pod != first));
        let second = node[0].active().find(|pod| **pod != first).cloned().expect("a new pod");
        // Pods that come later shall not stop.
        node[0].containers().set(PAUSE_AT, NOWHERE);
        let halted = if side == Side::Successor { second } else { first };
        run(node, &format!("{side:?} stands still at {step}"), |node| {
            node[0].node(&halted).is_some_and(|process| is_stopped(process.id()))
        });
        halted
    }

    /// Lets a pod go on that stands still.
    pub(crate) fn go_on(&self, halted: &PodName) {
        let process = self.nodes[0].node(halted).expect("it stands still");
        process.send(Signal::CONT).expect("it stands still");
    }

    /// What must be true when nothing went wrong: every pod that was deleted has ended by itself, as it should.
    pub(crate) fn ended_well(&self) {
        for node in &self.nodes {
            let history = node.history();
            let ends = history.lines().filter(|line| line.contains(" is gone "));
            assert_eq!(ends.clone().count() as u32 + 1, node.created(), "{history}");
            assert!(ends.into_iter().all(|line| line.ends_with("(exit status: 0)")), "{history}");
        }
    }

    /// Both histories, for messages.
    pub(crate) fn history(&self) -> String {
        self.nodes.each_ref().map(DaemonSet::history).join("\n\n")
    }

    /// Where the proxies of a node meet.
    pub(crate) fn socket(&self, host: Host) -> PathBuf {
        socket(self.world, &self.world.workload(host).node)
    }
}

/// The world of a test, in which tunnels stay with their worker.
pub(crate) fn world() -> World {
    World::new(NODE, Variant::Still)
}

/// Where the proxies of a node meet: in a folder that both have, as a pod's hostPath.
fn socket(world: &World, node: &str) -> PathBuf {
    world.directory().join(format!("{node}-run")).join("handover").join("handover.sock")
}

const PAUSE_AT: &str = "HANDOVER_PAUSE_AT";
/// No step is called so.
const NOWHERE: &str = "nowhere";
