use std::sync::Mutex;
use std::time::Duration;

use prost::Message;
use tonic::Status;

use super::*;
use crate::Snapshot;
use crate::connect::{RootCertificates, Token};
use crate::proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use crate::proto::{ADDRESS, AUTHORIZATION, security, workload};
use crate::testing::{Authority, Discovery, Stream, config, file, server};

mod telling;

/// What is counted, as text, in its order.
#[derive(Default)]
struct Counted(Mutex<Vec<String>>);

impl Counted {
    fn add(&self, text: String) {
        self.0.lock().unwrap().push(text);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Reports for Counted {
    fn connected(&self, up: bool) {
        self.add(format!("connected {up}"));
    }

    fn terminated(&self, reason: Termination) {
        self.add(format!("terminated {reason:?}"));
    }

    fn received(&self, type_url: &str, bytes: usize) {
        assert!(bytes > type_url.len());
        self.add(format!("received {}", type_url.rsplit('.').next().unwrap()));
    }

    fn refused(&self, type_url: &str, resources: usize) {
        self.add(format!("refused {} {resources}", type_url.rsplit('.').next().unwrap()));
    }
}

/// A client of one server, and the server's side.
struct World {
    discovery: Discovery,
    client: Client,
    store: Store,
    counted: Arc<Counted>,
}

impl World {
    async fn start(on_demand: bool) -> Self {
        let authority = Authority::new();
        let discovery = Discovery::start(&authority).await;
        let config = config(discovery.replica.address, &authority);
        Self::of(
            discovery,
            ClientConfig { server: server(config), node: node(), on_demand, begins_later: false },
        )
    }

    fn of(discovery: Discovery, config: ClientConfig) -> Self {
        let (store, counted) = (Store::new(), Arc::new(Counted::default()));
        let (client, running) = start(config, store.clone(), counted.clone());
        tokio::spawn(running);
        Self { discovery, client, store, counted }
    }

    /// A stream on which both types were answered with nothing, and that acknowledged.
    async fn synced(&mut self) -> Stream {
        let mut stream = self.discovery.stream().await;
        for type_url in [ADDRESS, AUTHORIZATION] {
            assert_eq!(stream.request().await.type_url, type_url);
        }
        for type_url in [ADDRESS, AUTHORIZATION] {
            stream.respond(response(type_url, "first", [])).await;
            assert_eq!(acknowledged(&mut stream).await, "first");
        }
        self.client.synced().await;
        stream
    }

    fn has(&self, uid: &str) -> bool {
        self.store.load().workload_by_uid(uid).is_some()
    }
}

fn node() -> Node {
    Node { id: "ztunnel~x".to_owned(), ..Node::default() }
}

fn response<const N: usize>(type_url: &str, nonce: &str, resources: [Resource; N]) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: type_url.to_owned(),
        nonce: nonce.to_owned(),
        resources: resources.into(),
        ..DeltaDiscoveryResponse::default()
    }
}

fn resource(type_url: &str, name: &str, version: &str, message: &impl Message) -> Resource {
    let any = prost_types::Any { type_url: type_url.to_owned(), value: message.encode_to_vec() };
    Resource {
        name: name.to_owned(),
        version: version.to_owned(),
        resource: Some(any),
        aliases: vec![format!("net/{name}")],
    }
}

fn workload(uid: &str, version: &str, policies: &[&str]) -> Resource {
    let workload = workload::Workload {
        uid: uid.to_owned(),
        name: uid.to_owned(),
        namespace: "n".to_owned(),
        authorization_policies: policies.iter().map(|key| (*key).to_owned()).collect(),
        ..workload::Workload::default()
    };
    let address = workload::Address { r#type: Some(workload::address::Type::Workload(workload)) };
    resource(ADDRESS, uid, version, &address)
}

fn policy(name: &str) -> Resource {
    let policy = security::Authorization {
        name: name.to_owned(),
        namespace: "n".to_owned(),
        scope: security::Scope::WorkloadSelector.into(),
        ..security::Authorization::default()
    };
    resource(AUTHORIZATION, &format!("n/{name}"), "", &policy)
}

fn broken(name: &str) -> Resource {
    let any = prost_types::Any { type_url: ADDRESS.to_owned(), value: vec![0xff; 8] };
    Resource { name: name.to_owned(), version: "1".to_owned(), resource: Some(any), aliases: Vec::new() }
}

/// The nonce of an ACK.
async fn acknowledged(stream: &mut Stream) -> String {
    let request = stream.request().await;
    assert_eq!(request.error_detail, None);
    request.response_nonce
}

fn told(request: &DeltaDiscoveryRequest) -> Vec<(&str, &str)> {
    let versions = request.initial_resource_versions.iter();
    versions.map(|(name, version)| (name.as_str(), version.as_str())).collect()
}

#[tokio::test]
async fn a_new_stream_continues_where_the_last_one_ended() {
    let mut world = World::start(false).await;
    let mut stream = world.synced().await;
    stream
        .respond(response(ADDRESS, "n1", [workload("a", "v1", &[]), workload("b", "v1", &[]), broken("c")]))
        .await;
    let nack = stream.request().await;
    assert_eq!((&*nack.type_url, &*nack.response_nonce), (ADDRESS, "n1"));
    let error = nack.error_detail.unwrap();
    assert_eq!(error.code, 3);
    assert!(error.message.starts_with("c: "), "{}", error.message);
    // The good ones are taken all the same, and visible by the time that anybody hears of it.
    assert!(world.has("a") && world.has("b"));
    assert_eq!(
        world.counted.take()[..],
        [
            "received Address",
            "received Authorization",
            "connected true",
            "received Address",
            "refused Address 1"
        ]
    );

    world.discovery.replica.cut();
    let mut stream = world.discovery.stream().await;
    let first = stream.request().await;
    assert_eq!(first.node, Some(node()));
    assert_eq!(told(&first), [("a", "v1"), ("b", "v1"), ("c", "")]);
    assert_eq!(stream.request().await.type_url, AUTHORIZATION);
    assert_eq!(world.counted.take(), ["connected false", "terminated Reconnect"]);

    let removed = vec!["a".to_owned()];
    stream
        .respond(DeltaDiscoveryResponse { removed_resources: removed, ..response(ADDRESS, "n2", []) })
        .await;
    assert_eq!(acknowledged(&mut stream).await, "n2");
    assert!(!world.has("a") && world.has("b"));
}

#[tokio::test]
async fn a_workload_and_the_policy_that_it_names_become_visible_together() {
    let mut world = World::start(false).await;
    let mut stream = world.synced().await;
    let before = world.store.load().generation();
    stream.respond(response(ADDRESS, "n1", [workload("a", "v1", &["n/p"])])).await;
    stream.respond(response(AUTHORIZATION, "n2", [policy("p")])).await;
    assert_eq!(acknowledged(&mut stream).await, "n1");
    assert_eq!(acknowledged(&mut stream).await, "n2");
    let snapshot = world.store.load();
    assert!(snapshot.workload_by_uid("a").is_some() && snapshot.policy_by_key("n/p").is_some());
    assert_eq!(snapshot.generation(), before + 1);
}

#[tokio::test]
async fn a_policy_that_does_not_come_is_not_waited_for() {
    let mut world = World::start(false).await;
    let mut stream = world.synced().await;
    stream.respond(response(ADDRESS, "n1", [workload("a", "v1", &["n/p"])])).await;
    assert_eq!(acknowledged(&mut stream).await, "n1");
    assert!(world.has("a"));
}

#[tokio::test]
async fn what_is_held_back_is_not_lost_with_the_stream() {
    let mut world = World::start(false).await;
    let stream = world.synced().await;
    stream.respond(response(ADDRESS, "n1", [workload("a", "v1", &["n/p"])])).await;
    stream.fail(Status::unavailable("going")).await;
    let mut stream = world.discovery.stream().await;
    assert_eq!(told(&stream.request().await), [("a", "v1")]);
    assert!(world.has("a"));
}

#[tokio::test]
async fn on_demand_a_name_is_answered_by_whatever_name_it_has() {
    let mut world = World::start(true).await;
    let mut stream = world.discovery.stream().await;
    let first = stream.request().await;
    assert_eq!(first.resource_names_subscribe, ["*"]);
    assert_eq!(first.resource_names_unsubscribe, ["*"]);
    assert_eq!(stream.request().await.type_url, AUTHORIZATION);
    stream.respond(response(AUTHORIZATION, "n0", [])).await;
    assert_eq!(acknowledged(&mut stream).await, "n0");
    world.client.synced().await;

    for name in ["net/a", "b", "net/gone"] {
        world.client.demand(name);
        assert_eq!(stream.request().await.resource_names_subscribe, [name]);
    }
    let mut changes = world.store.changes();
    let answered =
        |snapshot: &Snapshot| ["net/a", "b", "net/gone", "net/b"].map(|name| snapshot.is_answered(name));
    stream.respond(response(ADDRESS, "n1", [workload("a", "1", &[])])).await;
    assert_eq!(acknowledged(&mut stream).await, "n1");
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    assert_eq!(answered(&world.store.load()), [true, false, false, false]);
    stream.respond(response(ADDRESS, "n2", [workload("b", "1", &[])])).await;
    assert_eq!(acknowledged(&mut stream).await, "n2");
    // Nothing changes but that one is known not to exist.
    stream
        .respond(DeltaDiscoveryResponse {
            removed_resources: vec!["net/gone".to_owned()],
            ..response(ADDRESS, "n3", [])
        })
        .await;
    assert_eq!(acknowledged(&mut stream).await, "n3");
    assert_eq!(answered(&world.store.load()), [true, true, true, false]);
}

#[tokio::test]
async fn token_and_roots_are_read_for_each_stream() {
    let (authority, former) = (Authority::new(), Authority::new());
    let discovery = Discovery::start(&authority).await;
    let (roots, token) = (file(former.pem()), file("one"));
    let mut config = config(discovery.replica.address, &authority);
    config.roots = RootCertificates::File(roots.path().to_owned());
    config.token = Some(Token::File(token.path().to_owned()));
    let config = ClientConfig { server: server(config), node: node(), on_demand: false, begins_later: false };
    let mut world = World::of(discovery, config);
    // Nobody is reached with the former root; with the right one somebody is.
    while !world.counted.take().contains(&"terminated ConnectionError".to_owned()) {
        tokio::task::yield_now().await;
    }
    std::fs::write(roots.path(), authority.pem()).unwrap();
    for content in ["one", "two"] {
        std::fs::write(token.path(), content).unwrap();
        let stream = world.discovery.stream().await;
        // The token of the first stream may have been read before it was written, but says the same.
        assert_eq!(stream.metadata.get("authorization").unwrap(), &*format!("Bearer {content}"));
        std::fs::write(token.path(), "two").unwrap();
        stream.fail(Status::unauthenticated("expired")).await;
    }
}

#[tokio::test]
async fn a_silent_server_is_given_up() {
    let mut world = World::start(false).await;
    let mut stream = world.discovery.stream().await;
    assert_eq!(stream.request().await.type_url, ADDRESS);
    assert_eq!(stream.request().await.type_url, AUTHORIZATION);
    // From here on nothing happens but time.
    tokio::time::pause();
    let begin = tokio::time::Instant::now();
    stream.ended().await;
    let waited = begin.elapsed();
    assert!((9..=10).contains(&waited.as_secs()), "{waited:?}");
    tokio::time::resume();
    // The next one gets its chance.
    world.synced().await;
}

#[tokio::test]
async fn a_connection_that_is_dead_is_noticed_without_traffic() {
    let mut world = World::start(false).await;
    let _stream = world.synced().await;
    world.discovery.replica.freeze();
    tokio::time::pause();
    let begin = tokio::time::Instant::now();
    world.counted.take();
    while world.counted.take().is_empty() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let waited = begin.elapsed();
    assert!((10..=41).contains(&waited.as_secs()), "{waited:?}");
}
