//! The whole proxy on loopback, with a nameserver that says what the test wants.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, Metadata, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;
use xds::local;

use super::*;
use crate::config::SearchDomains;
use crate::namespace::Namespace;
use crate::pod::WorkloadName;
use crate::telemetry::Telemetry;

const MESH: &str = "
workloads: [{uid: w, name: web-1, namespace: shop, serviceAccount: web, node: here, canonicalName: web, canonicalRevision: v1}]
services: [{name: web, namespace: shop, hostname: web.shop.svc.cluster.local, vips: [/10.1.0.1]}]
";
const SOCKETS: SocketConfig = SocketConfig { keepalive: None, user_timeout: None, mark: None };
const SOON: Duration = Duration::from_secs(20);

/// A proxy with one pod, and its nameserver's sockets.
struct Scene {
    proxy: DnsProxy,
    pod: Arc<Pod>,
    udp: SocketAddr,
    tcp: SocketAddr,
    store: Store,
    telemetry: Telemetry,
    nameserver: UdpSocket,
    nameserver_tcp: TcpListener,
    config: DnsConfig,
    _file: tempfile::NamedTempFile,
}

impl Scene {
    /// Each with a nameserver of its own, at the same port of UDP and TCP.
    async fn new() -> Self {
        let nameserver_tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let nameserver = UdpSocket::bind(nameserver_tcp.local_addr().unwrap()).await.unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "nameserver 127.0.0.1\n").unwrap();
        let config = DnsConfig {
            addresses: vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0)],
            cluster_domain: "cluster.local".to_owned(),
            node: Some("here".to_owned()),
            preferred_namespace: None,
            ipv6: true,
            search: SearchDomains::OfPod,
            resolv_conf: file.path().to_owned(),
            nameserver_port: nameserver.local_addr().unwrap().port(),
        };
        let (store, telemetry) = (Store::new(), Telemetry::new("", || 0));
        store.update(|edit| local::load(MESH).unwrap().apply(edit));
        let sockets = bind(&config.addresses, &SOCKETS, true).unwrap();
        let (udp, tcp) = (sockets.udp[0].local_addr().unwrap(), sockets.tcp[0].local_addr().unwrap());
        let (proxy, _) = start(config.clone(), SOCKETS, store.clone(), telemetry.dns().clone()).unwrap();
        let workload =
            WorkloadName { namespace: "shop".into(), name: "web-1".into(), service_account: "web".into() };
        let pod = Arc::new(Pod::new("uid", workload, Arc::new(Namespace::current().unwrap()), false));
        proxy.serve(pod.clone(), sockets);
        Self { proxy, pod, udp, tcp, store, telemetry, nameserver, nameserver_tcp, config, _file: file }
    }

    async fn client(&self) -> UdpSocket {
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(self.udp).await.unwrap();
        client
    }

    /// The next question that the nameserver is asked by a datagram.
    async fn forwarded(&self) -> (Message, SocketAddr) {
        let mut buffer = vec![0; 4096];
        let (length, from) = timeout(SOON, self.nameserver.recv_from(&mut buffer))
            .await
            .expect("nothing is forwarded")
            .unwrap();
        (Message::from_vec(&buffer[..length]).unwrap(), from)
    }

    fn metric(&self, start: &str) -> String {
        let text = self.telemetry.exposition();
        let line = text.lines().find(|line| line.starts_with(start));
        line.and_then(|line| line.rsplit_once(' ')).map_or_else(String::new, |(_, value)| value.to_owned())
    }
}

fn question(name: &str, record_type: RecordType) -> Message {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), record_type));
    message
}

fn reply(to: &Message, code: ResponseCode) -> Vec<u8> {
    let mut message = Message::new(to.metadata.id, MessageType::Response, to.metadata.op_code);
    message.metadata = Metadata::response_from_request(&to.metadata);
    message.metadata.response_code = code;
    message.queries = to.queries.clone();
    message.to_vec().unwrap()
}

async fn receive(client: &UdpSocket) -> Message {
    let mut buffer = vec![0; 4096];
    let length = timeout(SOON, client.recv(&mut buffer)).await.expect("no answer comes").unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

async fn ask(client: &UdpSocket, question: &Message) -> Message {
    client.send(&question.to_vec().unwrap()).await.unwrap();
    receive(client).await
}

/// The records, one behind the other.
fn shown(message: &Message) -> String {
    message.answers.iter().fold(message.metadata.response_code.to_string(), |mut text, record| {
        let _ = write!(text, " | {} {} {}", record.name, record.record_type(), record.data);
        text
    })
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&u16::try_from(message.len()).unwrap().to_be_bytes()[..], message].concat()
}

async fn read_framed(stream: &mut TcpStream) -> Vec<u8> {
    let read = async {
        let mut message = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut message).await.unwrap();
        message
    };
    timeout(SOON, read).await.expect("nothing comes")
}

#[tokio::test]
async fn the_mesh_answers_and_the_rest_is_forwarded() {
    let scene = Scene::new().await;
    let client = scene.client().await;
    for (name, expected) in [
        ("WEB.", "No Error | WEB. A 10.1.0.1"),
        (
            "web.shop.shop.svc.cluster.local.",
            "No Error | web.shop.shop.svc.cluster.local. CNAME web.shop. | web.shop. A 10.1.0.1",
        ),
    ] {
        let answer = ask(&client, &question(name, RecordType::A)).await;
        assert_eq!(shown(&answer), expected);
        assert!(answer.metadata.authoritative && answer.answers.iter().all(|record| record.ttl == 30));
    }
    assert_eq!(shown(&ask(&client, &question("web.", RecordType::AAAA)).await), "No Error");

    // Other types of names that the mesh knows, too.
    for (name, record_type) in [("example.com.", RecordType::A), ("web.", RecordType::TXT)] {
        let asked = question(name, record_type);
        client.send(&asked.to_vec().unwrap()).await.unwrap();
        let (forwarded, from) = scene.forwarded().await;
        assert_eq!((&forwarded.queries, from.ip()), (&asked.queries, Ipv4Addr::LOCALHOST.into()));
        // Neither a wrong id nor a stranger is believed.
        let mut wrong = forwarded.clone();
        wrong.metadata.id ^= 1;
        scene.nameserver.send_to(&reply(&wrong, ResponseCode::NoError), from).await.unwrap();
        let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        stranger.send_to(&reply(&forwarded, ResponseCode::NoError), from).await.unwrap();
        scene.nameserver.send_to(&reply(&forwarded, ResponseCode::NXDomain), from).await.unwrap();
        let answer = receive(&client).await;
        let expected = (asked.metadata.id, ResponseCode::NXDomain);
        assert_eq!((answer.metadata.id, answer.metadata.response_code), expected);
    }
    let of_web = r#"request_protocol="udp",source_canonical_service="web",source_canonical_revision="v1"}"#;
    let requests = format!(r#"istio_dns_requests_total{{request_query_type="a",{of_web}"#);
    assert_eq!(scene.metric(&requests), "3");
    assert_eq!(scene.metric(r#"istio_dns_upstream_requests_total{request_query_type="txt""#), "1");
    assert_eq!(scene.metric("istio_dns_upstream_failures_total{"), "");
}

#[tokio::test]
async fn a_lost_datagram_is_sent_again_and_what_cannot_help_is_passed_on() {
    let scene = Scene::new().await;
    let client = scene.client().await;
    client.send(&question("example.com.", RecordType::A).to_vec().unwrap()).await.unwrap();
    let (lost, _) = scene.forwarded().await;
    let (again, from) = scene.forwarded().await;
    assert_eq!(lost.queries, again.queries);
    scene.nameserver.send_to(&reply(&again, ResponseCode::Refused), from).await.unwrap();
    assert_eq!(
        shown(&receive(&client).await),
        shown(&Message::from_vec(&reply(&again, ResponseCode::Refused)).unwrap())
    );
}

#[tokio::test]
async fn without_a_nameserver_the_client_is_told_at_once() {
    let Scene { proxy: _proxy, udp, telemetry, nameserver, .. } = Scene::new().await;
    drop(nameserver);
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(udp).await.unwrap();
    let asked = tokio::time::Instant::now();
    let answer = ask(&client, &question("example.com.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert!(asked.elapsed() < Duration::from_secs(2), "it was waited for");
    let text = telemetry.exposition();
    assert!(text.contains("istio_dns_upstream_failures_total{"), "{text}");
}

#[tokio::test]
async fn a_pod_that_the_mesh_does_not_know_yet_waits_for_it() {
    let scene = Scene::new().await;
    scene.store.update(xds::store::Edit::clear);
    let client = scene.client().await;
    client.send(&question("web.", RecordType::A).to_vec().unwrap()).await.unwrap();
    // A message that is refused at once shows that the question before it was taken.
    let mut empty = question(".", RecordType::A);
    empty.queries.clear();
    assert_eq!(ask(&client, &empty).await.metadata.response_code, ResponseCode::FormErr);
    scene.store.update(|edit| local::load(MESH).unwrap().apply(edit));
    assert_eq!(shown(&receive(&client).await), "No Error | web. A 10.1.0.1");
}

#[tokio::test]
async fn a_flood_is_refused_beyond_the_limit_and_the_mesh_still_answers() {
    let scene = Scene::new().await;
    let client = scene.client().await;
    let mut codes: BTreeMap<String, usize> = BTreeMap::new();
    for n in 0..300 {
        client.send(&question(&format!("n{n}.example.com."), RecordType::A).to_vec().unwrap()).await.unwrap();
        if n < 256 {
            // One by one, so that no datagram is lost for want of room in a socket.
            scene.forwarded().await;
        } else {
            *codes.entry(receive(&client).await.metadata.response_code.to_string()).or_default() += 1;
        }
    }
    assert_eq!(codes, BTreeMap::from([(ResponseCode::Refused.to_string(), 44)]));
    assert_eq!(shown(&ask(&client, &question("web.", RecordType::A)).await), "No Error | web. A 10.1.0.1");
}

#[tokio::test]
async fn connections_carry_many_questions() {
    let scene = Scene::new().await;
    let mut stream = TcpStream::connect(scene.tcp).await.unwrap();
    let (away, here) = (question("example.com.", RecordType::MX), question("web.", RecordType::A));
    let both = [framed(&away.to_vec().unwrap()), framed(&here.to_vec().unwrap())].concat();
    let (begin, rest) = both.split_at(40);
    stream.write_all(begin).await.unwrap();
    let (mut upstream, _) = timeout(SOON, scene.nameserver_tcp.accept()).await.unwrap().unwrap();
    let forwarded = Message::from_vec(&read_framed(&mut upstream).await).unwrap();
    stream.write_all(rest).await.unwrap();
    let first = Message::from_vec(&read_framed(&mut stream).await).unwrap();
    assert_eq!(
        (first.metadata.id, shown(&first)),
        (here.metadata.id, "No Error | web. A 10.1.0.1".to_owned())
    );
    upstream.write_all(&framed(&reply(&forwarded, ResponseCode::NXDomain))).await.unwrap();
    let second = Message::from_vec(&read_framed(&mut stream).await).unwrap();
    let expected = (away.metadata.id, ResponseCode::NXDomain);
    assert_eq!((second.metadata.id, second.metadata.response_code), expected);
}

#[tokio::test]
async fn a_pod_that_goes_takes_its_sockets_along() {
    let scene = Scene::new().await;
    let client = scene.client().await;
    let mut stream = TcpStream::connect(scene.tcp).await.unwrap();
    let asked = framed(&question("web.", RecordType::A).to_vec().unwrap());
    stream.write_all(&asked).await.unwrap();
    read_framed(&mut stream).await;
    client.send(&question("example.com.", RecordType::A).to_vec().unwrap()).await.unwrap();
    let (_, upstream) = scene.forwarded().await;

    timeout(SOON, scene.proxy.stop(&scene.pod)).await.expect("it doesn't stop");
    assert!(stream.read_u8().await.is_err(), "the connection is still open");
    // The addresses are free, so the sockets are closed: those of the pod, and the one that asked for it.
    let closed = [std::net::UdpSocket::bind(scene.udp), std::net::UdpSocket::bind(upstream)];
    assert!(closed.iter().all(Result::is_ok), "{closed:?}");
    assert!(TcpStream::connect(scene.tcp).await.is_err());
    timeout(SOON, scene.proxy.stop(&scene.pod)).await.expect("nothing was there to stop");
}

#[tokio::test]
async fn a_drain_answers_what_has_come() {
    let scene = Scene::new().await;
    let client = scene.client().await;
    client.send(&question("example.com.", RecordType::A).to_vec().unwrap()).await.unwrap();
    let (forwarded, from) = scene.forwarded().await;
    let proxy = scene.proxy.clone();
    let drained = tokio::spawn(async move { proxy.drain().await });
    scene.nameserver.send_to(&reply(&forwarded, ResponseCode::NXDomain), from).await.unwrap();
    assert_eq!(receive(&client).await.metadata.response_code, ResponseCode::NXDomain);
    timeout(SOON, drained).await.expect("it doesn't end").unwrap();
    assert!(std::net::UdpSocket::bind(scene.udp).is_ok());
}

#[tokio::test]
async fn copies_of_the_sockets_go_on_where_the_first_ones_let_go() {
    let scene = Scene::new().await;
    let client = scene.client().await;
    let telemetry = Telemetry::new("", || 0);
    let (successor, _) =
        start(scene.config.clone(), SOCKETS, scene.store.clone(), telemetry.dns().clone()).unwrap();
    // Under way in the first one: one question in a datagram, one over a connection.
    client.send(&question("example.com.", RecordType::A).to_vec().unwrap()).await.unwrap();
    let (forwarded, from) = scene.forwarded().await;
    let mut old_stream = TcpStream::connect(scene.tcp).await.unwrap();
    let asked = question("example.com.", RecordType::MX).to_vec().unwrap();
    old_stream.write_all(&framed(&asked)).await.unwrap();
    let (mut upstream, _) = timeout(SOON, scene.nameserver_tcp.accept()).await.unwrap().unwrap();
    let forwarded_tcp = Message::from_vec(&read_framed(&mut upstream).await).unwrap();

    let mut copies = scene.proxy.copy().await.unwrap();
    assert_eq!(copies.len(), 1);
    let (pod, sockets) = copies.remove(0);
    assert_eq!((pod.number(), sockets.udp.len(), sockets.tcp.len()), (scene.pod.number(), 1, 1));
    // Some come before it lets go, some after; nobody else reads yet.
    let questions: Vec<_> = (0..60)
        .map(|id| {
            let mut message = question("web.", RecordType::A);
            message.metadata.id = id;
            message.to_vec().unwrap()
        })
        .collect();
    for question in &questions[..30] {
        client.send(question).await.unwrap();
    }
    let finish = async {
        // Commands are taken in order: it has been told.
        assert!(scene.proxy.copy().await.unwrap().is_empty());
        scene.nameserver.send_to(&reply(&forwarded, ResponseCode::NXDomain), from).await.unwrap();
        upstream.write_all(&framed(&reply(&forwarded_tcp, ResponseCode::NXDomain))).await.unwrap();
        let answer = Message::from_vec(&read_framed(&mut old_stream).await).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
        drop(old_stream);
    };
    let let_go = async { tokio::join!(scene.proxy.let_go(), finish) };
    timeout(SOON, let_go).await.expect("it doesn't let go");
    for question in &questions[30..] {
        client.send(question).await.unwrap();
    }
    let mut new_stream = TcpStream::connect(scene.tcp).await.expect("the copies listen");

    successor.serve(pod, sockets);
    let mut answered: BTreeMap<u16, usize> = BTreeMap::new();
    for _ in 0..61 {
        let answer = receive(&client).await;
        // The one that was under way was forwarded.
        if answer.metadata.response_code != ResponseCode::NXDomain {
            *answered.entry(answer.metadata.id).or_default() += 1;
        }
    }
    assert!(answered.values().all(|count| *count == 1) && answered.len() == 60, "{answered:?}");
    new_stream.write_all(&framed(&questions[0])).await.unwrap();
    let answer = Message::from_vec(&read_framed(&mut new_stream).await).unwrap();
    assert_eq!(shown(&answer), "No Error | web. A 10.1.0.1");
    // The first one reads no more: the rest was the other's, which can give the sockets back.
    let asked_of = |telemetry: &Telemetry| {
        let text = telemetry.exposition();
        let lines = text.lines().filter(|line| line.starts_with("istio_dns_requests_total{"));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum::<u64>()
    };
    assert_eq!(asked_of(&scene.telemetry) + asked_of(&telemetry), 60 + 1 + 2);
    assert!(asked_of(&telemetry) > 30);
    let (pod, sockets) = successor.copy().await.unwrap().remove(0);
    drop(new_stream);
    timeout(SOON, successor.let_go()).await.expect("it doesn't let go");
    scene.proxy.serve(pod, sockets);
    assert_eq!(shown(&ask(&client, &question("web.", RecordType::A)).await), "No Error | web. A 10.1.0.1");
}
