//! Two nodes with one workload each, whose proxies are pods of DaemonSets.

use std::fs;
use std::path::PathBuf;

use demo::node::NodeConfig;
use tests::daemonset::{DaemonSet, Dedicated, Strategy, Timing, settle};
use tests::istiod::{self, Istiod};
use tests::longlived::{LongLived, Mix};
use tests::world::{Host, Variant, World};

use crate::NODE;

/// Whether proxies take each other's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handover {
    On,
    Off,
}

/// What both nodes' proxies are started with, besides.
type Environment<'a> = &'a [(&'a str, &'a str)];

/// See the module.
pub(crate) struct Scene<'w> {
    /// The node of the clients, and that of the server.
    pub(crate) nodes: [DaemonSet<Dedicated>; 2],
    _istiod: Istiod<'w>,
    world: &'w World,
    template: u32,
}

impl<'w> Scene<'w> {
    /// Starts the first pod of each node.
    pub(crate) fn start(world: &'w World, handover: Handover, environment: Environment<'_>) -> Self {
        let istiod = Istiod::start(world);
        let set = |host| {
            let address = world.at(Host::Istiod, istiod::PORT).to_string();
            let config = istiod.config(host, &address, environment);
            let socket = (handover == Handover::On).then(|| socket(world, &config.name));
            let pods = Dedicated::new(world.proxy(), NodeConfig { handover: socket, ..config.clone() });
            let strategy = match handover {
                Handover::On => Strategy::Surge,
                // There is room for one process only.
                Handover::Off => Strategy::InPlace,
            };
            DaemonSet::new(&config.name, pods, strategy, Timing::FAST)
        };
        let mut nodes = [Host::Client, Host::Server].map(set);
        settle(&mut nodes);
        Self { nodes, _istiod: istiod, world, template: 1 }
    }

    /// Connections from the clients' node to the server's, and to a peer outside of the mesh.
    pub(crate) fn load(&self, mix: Mix) -> LongLived {
        LongLived::through(self.world, self.nodes[0].only(), mix)
    }

    /// Replaces the proxies of both nodes at the same time.
    pub(crate) fn roll_out(&mut self) {
        self.template += 1;
        for node in &mut self.nodes {
            node.update(self.template);
        }
        settle(&mut self.nodes);
    }
}

/// The world of a test, in which tunnels stay with their worker.
pub(crate) fn world() -> World {
    World::new(NODE, Variant::Still)
}

/// Where the proxies of a node meet: in a folder that both have, as a pod's hostPath.
fn socket(world: &World, node: &str) -> PathBuf {
    let folder = world.directory().join(format!("{node}-run"));
    fs::create_dir(&folder).expect("a directory");
    folder.join("handover").join("handover.sock")
}
