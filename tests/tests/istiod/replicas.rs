//! Several replicas behind one name.

use std::fs;
use std::io::{self, Write};
use std::time::Duration;

use demo::control_plane::{Misbehaviour, Replica};
use demo::node::{Node, Proxy};
use demo::traffic::Dial;
use tests::istiod::{Istiod, NAME, PORT, synced, synced_within};
use tests::said::dumped;
use tests::traffic::{Traffic, all_whole, everything};
use tests::wait;
use tests::world::{Host, Variant, World, started};

use crate::NODE;

/// A replica that says nothing is left within this time.
const LEFT_WITHIN: Duration = Duration::from_secs(15);
/// A busy machine may take this much longer for everything.
const BUSY: Duration = Duration::from_secs(5);

const REPLICAS: [Host; 3] = [Host::Istiod1, Host::Istiod2, Host::Istiod3];

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn replicas_die_and_the_next_is_found() {
    if !mounts_are_possible() {
        return;
    }
    let world = World::new(NODE, Variant::Moving);
    let istiod = Istiod::start(&world);
    let mut replicas = REPLICAS.map(|host| Some(istiod.replica_at(host)));
    let client = node_by_name(&world, &istiod, Host::Client);
    let server = istiod.node(Host::Server, &[]);
    let application = world.application(Host::Server);
    let traffic = Traffic::start(Dial::Socks5(client.socks5()), vec![application.address()], everything());
    traffic.progress().await;

    for left in [2, 1] {
        let used = used(&replicas);
        replicas[used] = None;
        wait::until_within(LEFT_WITHIN, format_args!("the node uses one of {left} that are left"), || {
            replicas.iter().flatten().any(|replica| replica.statistics().streams_open == 1)
        })
        .await;
        let next = replicas.iter().flatten().find(|replica| replica.statistics().streams_open == 1);
        let addresses = synced(next.expect("the node uses it"), 1).await.addresses;
        assert_eq!((addresses.resources, addresses.removed), (0, 0), "sent again");
    }
    // The last dies, and one comes back.
    let used = used(&replicas);
    replicas[used] = None;
    let back = istiod.replica_at(REPLICAS[(used + 1) % 3]);
    synced(&back, 1).await;

    traffic.progress().await;
    traffic.finish();
    all_whole(application.tally()).await;
    world.check(&client);
    world.check(&server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_replica_that_takes_connections_and_says_nothing_is_left() {
    a_replica_hangs(Misbehaviour::HangAfterAccept).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_replica_that_takes_streams_and_says_nothing_is_left() {
    a_replica_hangs(Misbehaviour::SilentStream).await;
}

/// The node has no choice but the replica that hangs; as soon as it has taken it, another one is there.
async fn a_replica_hangs(misbehaviour: Misbehaviour) {
    if !mounts_are_possible() {
        return;
    }
    let world = World::new(NODE, Variant::Still);
    let istiod = Istiod::start(&world);
    let first = istiod.replica_at(Host::Istiod1);
    let client = node_by_name(&world, &istiod, Host::Client);
    let hanging = istiod.replica_at(Host::Istiod2);
    hanging.misbehave(misbehaviour);
    assert_eq!(first.statistics().streams_open, 1);
    first.stop();
    wait::until("the node has taken the replica that hangs", || {
        let statistics = hanging.statistics();
        match misbehaviour {
            Misbehaviour::SilentStream => statistics.streams_open == 1,
            _ => statistics.connections >= 1,
        }
    })
    .await;
    istiod.cluster().edit(|edit| edit.remove("demo/server.demo.svc.cluster.local"));
    let good = istiod.replica_at(Host::Istiod3);
    synced_within(LEFT_WITHIN + BUSY, &good, 1).await;
    wait::until("news arrive", || dumped(&client, "services").is_empty()).await;
    wait::until("nothing is left at the other", || hanging.statistics().streams_open == 0).await;
    world.check(&client);
}

/// The index of the replica that has the node's stream.
fn used(replicas: &[Option<Replica>; 3]) -> usize {
    let has_stream = |replica: &Option<Replica>| {
        replica.as_ref().is_some_and(|replica| replica.statistics().streams_open == 1)
    };
    replicas.iter().position(has_stream).expect("one has the stream")
}

/// A node that finds istiod by a name with an address for each of [`REPLICAS`]. The name is in a file that stands in for
/// `/etc/hosts`, for this process alone.
fn node_by_name(world: &World, istiod: &Istiod<'_>, host: Host) -> Node {
    let lines = REPLICAS.map(|host| format!("{} {NAME}\n", world.ip(host)));
    let hosts = world.directory().join("hosts");
    fs::write(&hosts, lines.concat()).expect("a writable directory");
    let script = format!("mount --bind {} /etc/hosts && exec \"$@\"", hosts.display());
    let proxy = world.proxy();
    let mut arguments: Vec<String> = ["--mount", "sh", "-c", &script, "sh"].map(Into::into).into();
    arguments.push(proxy.program.display().to_string());
    arguments.extend(proxy.arguments);
    let proxy = Proxy { program: "unshare".into(), arguments };
    started(&proxy, &istiod.config(host, &format!("{NAME}:{PORT}"), &[]))
}

/// Whether this process may give another one a view of the file system of its own. If not, that is said.
fn mounts_are_possible() -> bool {
    let tried = std::process::Command::new("unshare").args(["--mount", "true"]).output();
    let possible = tried.is_ok_and(|output| output.status.success());
    if !possible {
        assert!(!std::env::var("CI").is_ok_and(|value| value == "true"), "CI must have root and unshare");
        // Not by `eprintln`, which the test harness keeps to itself when a test passes.
        writeln!(io::stderr(), "\n*** SKIPPED: several replicas behind one name need root and unshare ***\n")
            .ok();
    }
    possible
}
