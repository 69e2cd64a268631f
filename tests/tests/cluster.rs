//! The cluster of the tests is what it claims to be: without a proxy, or with something that only stands for one.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::thread;
use std::time::{Duration, Instant};

use demo::node::{INBOUND_PLAINTEXT_PORT, OUTBOUND_PORT, Stopped, TUNNEL_PORT};
use socket2::{Domain, Socket, Type};
use tests::cluster::{Cluster, Greeter, KubeNode, Launch, NAME_SERVER, Pod, PodSpec};
use tests::cni::Timing;
use tests::cni::peer::Peer;
use tests::redirection::{PROBE_V4, PROBE_V6};
use tests::traffic;
use tests::wait::{PATIENCE, until_blocking};

#[test]
fn pods_are_made_quickly_and_nothing_is_left() {
    let count = if std::env::var("CLUSTER_LARGE").is_ok() { 250 } else { 20 };
    let Some(mut cluster) = Cluster::create(Timing::ISTIO) else { return };
    let specs: Vec<PodSpec> = (0..count)
        .map(|number| {
            let node = if number % 2 == 0 { KubeNode::A } else { KubeNode::B };
            PodSpec::new(&format!("pod-{number}"), node)
        })
        .collect();
    let begun = Instant::now();
    let pods = cluster.pods(&specs);
    println!("{count} pods in {} ms", begun.elapsed().as_millis());
    cluster.end_pod(&pods[0]);
    let made: Vec<String> = cluster.namespaces().into_iter().map(ToOwned::to_owned).collect();
    assert_eq!(made.len(), count - 1 + 2, "pods, istiod and the switch");
    let there = |name: &String| fs::exists(format!("/run/netns/{name}")).expect("a folder");
    assert!(made.iter().all(there));
    drop(cluster);
    assert!(!made.iter().any(there), "left behind");
}

#[test]
fn nothing_is_left_of_a_test_that_fails() {
    let Some(cluster) = Cluster::create(Timing::ISTIO) else { return };
    let made: Vec<String> = cluster.namespaces().into_iter().map(ToOwned::to_owned).collect();
    let directory = cluster.directory().to_owned();
    let failed = thread::spawn(move || {
        let _cluster = cluster;
        // Not `panic`, whose message would look like a failure of this test.
        std::panic::resume_unwind(Box::new("a failed test"));
    });
    assert!(failed.join().is_err());
    assert!(!made.iter().any(|name| fs::exists(format!("/run/netns/{name}")).expect("a folder")));
    assert!(directory.exists(), "the logs stay");
    fs::remove_dir_all(directory).expect("the logs can be removed");
}

#[test]
fn namespaces_reach_each_other_and_istiod() {
    let Some(mut cluster) = Cluster::create(Timing::ISTIO) else { return };
    let plain = |name, node| PodSpec::new(name, node).plain();
    let pods = cluster.pods(&[plain("one", KubeNode::A), plain("other", KubeNode::B)]);
    let [one, other] = &pods[..] else { panic!("two pods") };
    let _application = other.greet(APPLICATION);
    for (target, source) in [(other.at(APPLICATION), one.at(0)), (other.at_v6(APPLICATION), one.at_v6(0))] {
        let mut call = one.call(target).expect("the pods reach each other");
        assert_eq!((call.by(), call.seen()), ("other", source.ip()));
        call.exchange().expect("the application answers");
        call.exchange().expect("and goes on answering");
    }
    let istiod = cluster.istiod().replicas()[0].address();
    let reached = one.place().run(|| TcpStream::connect_timeout(&istiod, PATIENCE));
    reached.expect("the namespace is there").expect("istiod is reached");

    // Checked traffic, too.
    let server = other.serve(APPLICATION + 1);
    let traffic = one.converse(vec![other.at(APPLICATION + 1)], traffic::everything());
    until_blocking("the traffic goes on", || traffic.counts().answers > 20);
    traffic.finish();
    until_blocking("the server has seen every end", || server.tally().counts().open() == 0);

    cluster.end_pod(other);
    let gone = one.place().run(|| TcpStream::connect_timeout(&other.at(APPLICATION), SHORT));
    assert!(gone.expect("the namespace is there").is_err());
}

/// A proxy's ports in a pod, and an application beside them: each says who it is.
struct Standins([Greeter; 4]);

impl Standins {
    fn start(pod: &Pod) -> Self {
        let start =
            |name, port| Greeter::start(pod.place(), name, port).expect("the ports of a pod are free");
        Self([
            start("outbound", OUTBOUND_PORT),
            start("plaintext", INBOUND_PLAINTEXT_PORT),
            start("tunnels", TUNNEL_PORT),
            start("application", APPLICATION),
        ])
    }
}

#[test]
fn a_pods_traffic_is_led_to_its_proxy() {
    let Some(mut cluster) = Cluster::create(Timing::ISTIO) else { return };
    let pods = cluster.pods(&[PodSpec::new("pod", KubeNode::A), PodSpec::new("plain", KubeNode::B).plain()]);
    let [pod, plain] = &pods[..] else { panic!("two pods") };
    let standins = Standins::start(pod);
    let _application = plain.greet(APPLICATION);
    let services = [Ipv4Addr::new(10, 96, 1, 1).into(), Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 1).into()];
    let called = |call: std::io::Result<tests::cluster::Call>| call.expect("an answer").by().to_owned();

    for service in services {
        assert_eq!(called(pod.call(SocketAddr::new(service, 80))), "outbound", "{service}");
    }
    for target in [plain.at(APPLICATION), plain.at_v6(APPLICATION)] {
        assert_eq!(called(pod.call(target)), "outbound", "{target}");
        assert_eq!(marked(pod, target), "plain", "the proxy's own connections are left alone");
    }
    for (own, loopback) in [
        (pod.at(APPLICATION), IpAddr::from(Ipv4Addr::LOCALHOST)),
        (pod.at_v6(APPLICATION), Ipv6Addr::LOCALHOST.into()),
    ] {
        assert_eq!(called(plain.call(own)), "plaintext");
        assert_eq!(called(plain.call(SocketAddr::new(own.ip(), TUNNEL_PORT))), "tunnels");
        assert_eq!(called(cluster.probe(own)), "application", "the kubelet is let through");
        assert_eq!(called(pod.call(SocketAddr::new(loopback, APPLICATION))), "application");
        assert_eq!(called(pod.call(own)), "application", "what does not leave the pod is its own business");
    }
    let seen = [cluster.probe(pod.at(APPLICATION)), cluster.probe(pod.at_v6(APPLICATION))];
    let seen = seen.map(|call| call.expect("an answer").seen());
    assert_eq!(seen, [IpAddr::from(PROBE_V4), PROBE_V6.into()]);

    // Out of the mesh, nothing is led anywhere.
    cluster.unenrol(pod);
    assert_eq!(called(pod.call(plain.at(APPLICATION))), "plain");
    assert_eq!(called(plain.call(pod.at(APPLICATION))), "application");
    drop(standins.0);
}

/// Connects as the proxy does.
fn marked(pod: &Pod, target: SocketAddr) -> String {
    let connect = || {
        let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
        socket.set_mark(demo::netns::PACKET_MARK)?;
        socket.connect_timeout(&target.into(), PATIENCE)?;
        Ok::<TcpStream, std::io::Error>(socket.into())
    };
    let mut stream = pod.place().run(connect).expect("the namespace is there").expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
    let mut greeting = [0; 64];
    let length = stream.read(&mut greeting).expect("a greeting");
    let greeting = String::from_utf8_lossy(&greeting[..length]);
    greeting.split(' ').next().expect("a name").to_owned()
}

#[test]
fn questions_for_names_are_led_to_the_proxy() {
    use tests::cluster::dns::{RecordType, Transport, ask};
    let Some(mut cluster) = Cluster::create(Timing::ISTIO) else { return };
    let pod = cluster.pods(&[PodSpec::new("pod", KubeNode::A)]).remove(0);
    let bind = || {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, DNS_PORT))?;
        Ok::<_, std::io::Error>((udp, std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, DNS_PORT))?))
    };
    let (udp, tcp) = pod.place().run(bind).expect("the namespace is there").expect("free ports");
    // Each says that there is no such name, which is the question with other flags.
    const NO_SUCH_NAME: [u8; 2] = [0x85, 0x83];
    let answering = thread::spawn(move || {
        let mut question = [0; 512];
        let (length, from) = udp.recv_from(&mut question).expect("a question");
        question[2..4].copy_from_slice(&NO_SUCH_NAME);
        udp.send_to(&question[..length], from).expect("the way back");
        let (mut asking, _) = tcp.accept().expect("a connection");
        let length = asking.read(&mut question).expect("a question");
        question[4..6].copy_from_slice(&NO_SUCH_NAME);
        asking.write_all(&question[..length]).expect("the way back");
    });
    for transport in [Transport::Udp, Transport::Tcp] {
        let answer = ask(pod.place(), NAME_SERVER, transport, "nobody.demo", RecordType::A);
        let answer = answer.expect("an answer from the address that was asked");
        assert_eq!((answer.code, answer.records.len()), (3, 0), "{transport:?}");
    }
    answering.join().expect("both were asked");
}

#[test]
fn there_is_a_name_server_outside_of_the_mesh() {
    use tests::cluster::dns::{RecordType, Transport, ask};
    let Some(mut cluster) = Cluster::create(Timing::ISTIO) else { return };
    let pod = cluster.pods(&[PodSpec::new("plain", KubeNode::A).plain()]).remove(0);
    let server = cluster.name_server_address();
    cluster.name_server().know("known.example", OUTSIDE);
    for transport in [Transport::Udp, Transport::Tcp] {
        let ask = |name, record| ask(pod.place(), server, transport, name, record).expect("an answer");
        let known = ask("Known.example", RecordType::A);
        assert_eq!((known.code, known.addresses(), known.authoritative), (0, vec![OUTSIDE], false));
        let of_another_type = ask("known.example", RecordType::Mx);
        assert_eq!((of_another_type.code, of_another_type.records.len()), (0, 0));
        assert_eq!(ask("unknown.example", RecordType::Aaaa).code, 3);
    }
    let asked = cluster.name_server().asked();
    let last = asked.last().expect("it was asked");
    assert_eq!((asked.len(), &*last.name, last.record), (6, "unknown.example", 28));
    assert_eq!((last.from, last.transport), (pod.at(0).ip(), Transport::Tcp));
}

#[test]
fn istio_cni_passes_the_namespaces_of_its_nodes_pods() {
    let Some(mut cluster) = Cluster::create(Timing::UNLIMITED) else { return };
    let pods = cluster.pods(&[
        PodSpec::new("here", KubeNode::A),
        PodSpec::new("there", KubeNode::B),
        PodSpec::new("plain", KubeNode::A).plain(),
    ]);
    let proxy = Peer::connect(cluster.cni(KubeNode::A).path()).expect("it listens");
    proxy.hello().expect("a connection");
    let (request, mut descriptors) = proxy.receive().expect("a message");
    let added = tests::cni::message::Add { uid: pods[0].uid().to_owned(), workload: Some(pods[0].info()) };
    assert_eq!(request.payload, Some(tests::cni::message::Payload::Add(added)));
    let passed = File::from(descriptors.remove(0)).metadata().expect("a file");
    let own = pods[0].namespace().metadata().expect("a file");
    assert_eq!((passed.dev(), passed.ino()), (own.dev(), own.ino()));
    proxy.answer("").expect("a connection");
    assert_eq!(proxy.agree(), "snapshot sent", "the others are not its business");

    let consenting = thread::spawn(move || [proxy.agree(), proxy.agree()]);
    let (new, consent) = cluster.start_pod(PodSpec::new("new", KubeNode::A));
    consent.expect("the proxy agrees");
    cluster.end_pod(&new);
    let uid = new.uid();
    assert_eq!(consenting.join().expect("no panic"), [format!("add {uid}"), format!("delete {uid}")]);
    // The name of one that is still there.
    let (_, consent) = cluster.start_pod(PodSpec::new("here", KubeNode::A));
    consent.expect_err("nobody is there any more");
}

#[test]
fn a_proxy_can_be_confined_as_by_the_chart() {
    let Some(mut cluster) = Cluster::create(Timing::ISTIO) else { return };
    let program = cluster.directory().join("proxy");
    // What it finds goes where it may write.
    let script = r#"#!/bin/sh
folder=$(dirname "$INPOD_UDS")
{
    sed -n 's/^Cap\(Prm\|Eff\|Bnd\):\t//p' /proc/self/status | sort -u
    echo "$(id -u) $(id -g) $(id -G)"
    touch /etc/x 2>/dev/null || echo cannot write
    sed s/[0-9.]*$/resolver/ /etc/resolv.conf
    cat "$AUTH_TOKEN" >/dev/null && echo can read its token
    echo "$PROXY_MODE $NODE_NAME $POD_NAME $*"
} >"$folder/.found" 2>&1
mv "$folder/.found" "$folder/found"
read -r line
"#;
    fs::write(&program, script).expect("a file");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a file");
    let launch = Launch::of(&program.display().to_string()).confined();
    let proxy = cluster.launch(KubeNode::B, &launch);
    let found = cluster.cni(KubeNode::B).path().with_file_name("found");
    until_blocking("the proxy has looked around", || found.exists());
    let expected = "0000000000203000\n\
                    0 1337 1337\n\
                    cannot write\n\
                    nameserver resolver\n\
                    can read its token\n\
                    shared node-b ztunnel-1 proxy ztunnel\n";
    assert_eq!(fs::read_to_string(found).expect("a file"), expected);
    let stopped = proxy.stop(PATIENCE).expect("it can be signalled");
    assert!(matches!(stopped, Stopped::Itself(_)), "what was started is the proxy: {stopped:?}");
    assert_eq!(fs::metadata("/etc/x").expect_err("it was not written").kind(), ErrorKind::NotFound);
}

const SHORT: Duration = Duration::from_millis(200);
const APPLICATION: u16 = 8_080;
const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const DNS_PORT: u16 = 15_053;
