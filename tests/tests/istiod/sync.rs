//! What any istiod must give a node: the embedded control plane, and a real one if the environment tells of it.

use std::io::{self, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use demo::node::{Control, Node, NodeConfig, READINESS_PORT, Serves};
use tests::istiod::{Istiod, NAME, PORT, connected};
use tests::relay::Relay;
use tests::said::{Since, dump};
use tests::wait;
use tests::world::{Host, Variant, World};

use crate::NODE;

/// An istiod, and whom a node may be there.
struct Given {
    address: SocketAddr,
    /// A name that its certificate has.
    name: String,
    root: PathBuf,
    token: PathBuf,
    /// `namespace/name/service account` of a workload that the token is of.
    workload: String,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn with_the_embedded_control_plane() {
    let world = World::new(NODE, Variant::Still);
    let istiod = Istiod::start(&world);
    let given = Given {
        address: istiod.replica().address(),
        name: NAME.to_owned(),
        root: istiod.authority().root_file(),
        token: istiod.fresh_token(Host::Client),
        workload: world.workload(Host::Client).proxy_workload_info(),
    };
    a_node_synchronises(&world, given).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn with_a_real_istiod() {
    let Some(given) = Given::from_environment() else { return };
    a_node_synchronises(&World::new(NODE, Variant::Still), given).await;
}

async fn a_node_synchronises(world: &World, given: Given) {
    let [namespace, name, account] =
        given.workload.split('/').collect::<Vec<_>>().try_into().expect("namespace/name/service account");
    let identity = format!("spiffe://{}/ns/{namespace}/sa/{account}", demo::mesh::TRUST_DOMAIN);
    // Nobody is there yet.
    let relay = world.at(Host::Relay, PORT);
    let mut node = Node::start(&world.proxy(), &config(world, &given, relay)).expect("the node starts");
    Since::start(&node).line("warn", &[&relay.to_string()]).await;
    let ready = node.page(READINESS_PORT, "/healthz/ready").expect("a page");
    assert_eq!((ready.status, connected(&node)), (500, false));
    assert!(ready.body.contains("state manager"), "{}", ready.body);

    let relay = Relay::start(relay, given.address).await.expect("a free port");
    node.wait_ready(wait::PATIENCE).expect("a control plane that answers");
    assert!(connected(&node));
    let known = dump(&node);
    let own = |item: &&serde_json::Value| item["name"] == name && item["namespace"] == namespace;
    let workloads = known["workloads"].as_array().expect("a list");
    let own = workloads.iter().find(own).expect("it knows whom it serves");
    assert_eq!(own["serviceAccount"], account);
    assert!(known["services"].is_array() && known["policies"].is_array());
    wait::until("its certificate is there", || {
        let certificate = dump(&node)["certificates"][0].take();
        certificate["identity"] == identity && certificate["state"] == "Available"
    })
    .await;

    let log = Since::now(&node);
    let ends = || node.metrics().expect("metrics").sum("istio_xds_connection_terminations_total", &[]);
    let before = ends();
    relay.cut();
    wait::until("the cut is noticed", || ends() > before).await;
    log.line("info", &["connected to the control plane again"]).await;
    wait::until("it is connected again", || connected(&node)).await;
    let ready = node.page(READINESS_PORT, "/healthz/ready").expect("a page");
    assert_eq!(ready.status, 200, "it stays ready");
    let now = dump(&node);
    assert_eq!(now["workloads"].as_array().map(Vec::len), Some(workloads.len()), "it knows the same");
    world.check(&node);
}

fn config(world: &World, given: &Given, relay: SocketAddr) -> NodeConfig {
    let control = Control::ControlPlane {
        address: format!("https://{relay}"),
        root: given.root.clone(),
        token: given.token.clone(),
    };
    // Of the node's name nobody knows anything.
    let environment =
        [("ALT_XDS_HOSTNAME", &*given.name), ("ALT_CA_HOSTNAME", &*given.name), ("NODE_NAME", "")];
    let config = world.config(Host::Client, control, &environment);
    let serves = Serves::Workload { info: given.workload.clone(), bind: Some(world.ip(Host::Client)) };
    NodeConfig { serves, ..config }
}

impl Given {
    /// From `ISTIOD_ADDRESS` (host:port), `ISTIOD_ROOT_CERT`, `ISTIOD_TOKEN` (files), `ISTIOD_WORKLOAD`. If one is missing
    /// that is said.
    fn from_environment() -> Option<Self> {
        let names = ["ISTIOD_ADDRESS", "ISTIOD_ROOT_CERT", "ISTIOD_TOKEN", "ISTIOD_WORKLOAD"];
        let [address, root, token, workload] = names.map(|name| std::env::var(name).ok());
        let (Some(address), Some(root), Some(token), Some(workload)) = (address, root, token, workload)
        else {
            // Not by `eprintln`, which the test harness keeps to itself when a test passes.
            let names = names.join(", ");
            writeln!(io::stderr(), "\n*** SKIPPED: no real istiod: it needs {names} ***\n").ok();
            return None;
        };
        let (host, _) = address.rsplit_once(':').expect("ISTIOD_ADDRESS is host:port");
        // istiod's certificate has no addresses in it.
        let is_name = host.parse::<std::net::IpAddr>().is_err();
        let name = if is_name { host.to_owned() } else { NAME.to_owned() };
        let address = address.to_socket_addrs().expect("ISTIOD_ADDRESS can be resolved").next();
        let address = address.expect("the name has an address");
        Some(Self { address, name, root: root.into(), token: token.into(), workload })
    }
}
