//! Strict mutual TLS comes while plain connections live. Plain ones come by redirection, so this is played in pods.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use demo::istiod::Istiod;
use demo::mesh::{Mesh, Workload};
use demo::netns::PACKET_MARK;
use demo::node::{Node, NodeConfig, Proxy, Serves};
use tests::istiod::PORT;
use tests::pods::{Pod, Pods};
use tests::said::Since;
use tests::wait::{PATIENCE, until_blocking};
use tests::world::{APPLICATION, started};

use super::scene::{CHANGED, SOON, policy};
use crate::NODE;

#[test]
fn strict_mutual_tls_closes_plain_connections_and_no_others() {
    let Some(scene) = Scene::start() else { return };
    let mut plain = scene.open(Pod::Plain).expect("nothing forbids it");
    let mut tunnelled = scene.open(Pod::Client).expect("nothing forbids it");

    let limit = Instant::now() + SOON;
    let strict =
        policy("strict", "scope: Global, action: Deny, rules: [[[{notPrincipals: [Presence: []]}]]]");
    scene.istiod.cluster().edit(|edit| edit.policy(&strict));
    for end in &mut plain {
        cut_before(limit, end);
    }
    talk(&mut tunnelled);
    let labels = [("connection_security_policy", "unknown"), ("response_flags", "DENY")];
    until_blocking("it is counted", || {
        let metrics = scene.nodes[1].metrics().expect("metrics");
        metrics.sum("istio_tcp_connections_closed_total", &labels) == 1.0
    });
    let told = Since::start(&scene.nodes[1]).lines("error", &["connection complete", CHANGED, "demo/strict"]);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(scene.open(Pod::Plain).is_none(), "a new one is refused");
    talk(&mut scene.open(Pod::Client).expect("it has an identity"));

    scene.istiod.cluster().edit(|edit| edit.remove_policy("demo/strict"));
    until_blocking("plain ones are let in again", || scene.open(Pod::Plain).is_some());
    talk(&mut tunnelled);
}

/// The nodes of client and server, and the application.
struct Scene {
    nodes: [Node; 2],
    istiod: Istiod,
    application: TcpListener,
    _directory: tempfile::TempDir,
    // Last: it has to outlive the processes in it.
    pods: Pods,
}

/// Both ends of a connection: the client's, the application's.
type Ends = [TcpStream; 2];

impl Scene {
    fn start() -> Option<Self> {
        let pods = Pods::create()?;
        let directory = tempfile::tempdir().expect("a directory");
        let proxied = [Pod::Client, Pod::Server];
        let workloads =
            proxied.map(|pod| Workload::new(pod.name(), &format!("node-{}", pod.name()), pod.address()));
        let mesh = Mesh { workloads: workloads.to_vec(), ..Mesh::default() };
        let spots = proxied.map(|pod| (pods.place(pod), SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT)));
        let istiod = Istiod::start(directory.path(), spots.into(), &mesh).expect("istiod listens");
        let node = |number: usize| {
            let config = NodeConfig {
                name: workloads[number].node.clone(),
                serves: Serves::Workload { info: workloads[number].proxy_workload_info(), bind: None },
                control: istiod.control(number, &workloads[number]).expect("a token"),
                place: pods.place(proxied[number]),
                workers: 2,
                move_interval: Some(Duration::from_millis(5)),
                handover: None,
                environment: vec![
                    ("ENABLE_ORIG_SRC".to_owned(), "true".to_owned()),
                    ("PACKET_MARK".to_owned(), PACKET_MARK.to_string()),
                ],
                directory: directory.path().to_owned(),
            };
            started(&Proxy::at(Path::new(NODE)), &config)
        };
        let nodes = [node(0), node(1)];
        let listen = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, APPLICATION));
        let application = pods.place(Pod::Server).run(listen).expect("the namespace is there");
        let application = application.expect("its ports are free");
        application.set_nonblocking(true).expect("a socket option");
        Some(Self { nodes, istiod, application, _directory: directory, pods })
    }

    /// A connection from `pod` to the application; None if it is refused.
    fn open(&self, pod: Pod) -> Option<Ends> {
        let target = SocketAddr::new(Pod::Server.address(), APPLICATION);
        let connect = || TcpStream::connect_timeout(&target, PATIENCE);
        // A proxy takes it first, and may have aborted it before this side has looked.
        let mut near = self.pods.place(pod).run(connect).expect("the namespace is there").ok()?;
        near.set_nonblocking(true).expect("a socket option");
        let begun = Instant::now();
        loop {
            if let Ok((far, _)) = self.application.accept() {
                let mut ends = [near, far];
                for end in &ends {
                    end.set_nonblocking(false).expect("a socket option");
                    end.set_read_timeout(Some(PATIENCE)).expect("a socket option");
                }
                talk(&mut ends);
                return Some(ends);
            }
            match near.read(&mut [0]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
                _ => return None,
            }
            assert!(begun.elapsed() < PATIENCE, "neither refused nor let in");
        }
    }
}

/// A word there and one back.
fn talk(ends: &mut Ends) {
    for from in [0, 1] {
        ends[from].write_all(b"hello").expect("an open connection");
        ends[1 - from].read_exact(&mut [0; 5]).expect("an open connection");
    }
}

fn cut_before(limit: Instant, end: &mut TcpStream) {
    let left = limit.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    end.set_read_timeout(Some(left)).expect("a socket option");
    let seen = end.read(&mut [0; 1]).expect_err("no proper end");
    assert_eq!(seen.kind(), ErrorKind::ConnectionReset, "{seen}");
}
