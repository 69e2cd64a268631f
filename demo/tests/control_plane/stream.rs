//! Discovery: what is told, when.

use std::collections::BTreeMap;

use demo::control_plane::ResourceType::{Address, Authorization};
use demo::control_plane::{Cluster, Replica};
use demo::node::Control;
use prost_types::value::Kind;
use tonic::Code;
use xds::proto::discovery::{DeltaDiscoveryRequest, Node};

use super::client::{Stream, channel, connect, kept, names, request, roots};
use super::{MESH, Scene, config, node, token};

#[tokio::test]
async fn a_client_gets_everything_and_then_what_changes() {
    let scene = Scene::new();
    let mut stream = scene.open().await;
    stream.subscribe(Address, BTreeMap::new()).await;
    let addresses = stream.take().await;
    assert_eq!(names(&addresses), ["n/s.n", "w1", "w2", "w3"]);
    assert!(addresses.resources.iter().all(|resource| resource.aliases.is_empty()));
    stream.subscribe(Authorization, BTreeMap::new()).await;
    assert_eq!(names(&stream.take().await), ["n/p"]);

    // Both types in one edit: addresses first.
    scene.cluster.edit(|edit| {
        edit.remove_policy("n/p");
        edit.remove("w1");
        edit.workload(&config(&MESH.replace("10.0.0.3", "10.0.0.4")).workloads[2]);
    });
    let addresses = stream.take().await;
    assert_eq!((names(&addresses), &*addresses.removed_resources), (vec!["w3"], &["w1".to_owned()][..]));
    let policies = stream.take().await;
    assert_eq!((names(&policies), &*policies.removed_resources), (vec![], &["n/p".to_owned()][..]));

    let statistics = scene.seen(|statistics| statistics.policies.acks == 2).await;
    assert_eq!((statistics.connections, statistics.streams_opened, statistics.streams_open), (1, 1, 1));
    let addresses = &statistics.addresses;
    assert_eq!((addresses.first_requests, addresses.responses, addresses.acks), (1, 2, 2));
    assert_eq!((addresses.requests, addresses.resources, addresses.removed), (3, 5, 1));
    assert!(addresses.bytes > statistics.policies.bytes, "{statistics:?}");
    assert_eq!(statistics.of(Authorization), &statistics.policies);
    drop(stream);
    scene.seen(|statistics| statistics.streams_open == 0).await;
}

#[tokio::test]
async fn after_a_restart_a_client_is_told_only_what_changed() {
    let scene = Scene::new();
    let mut stream = scene.open().await;
    stream.subscribe(Address, BTreeMap::new()).await;
    let versions = kept(&stream.take().await);
    let other_channel = scene.connect().await.expect("a connection");
    let (address, authority, token) = (scene.replica.address(), scene.authority.clone(), scene.token.clone());
    scene.replica.stop();
    let error = stream.next().await.expect_err("it is cut");
    assert!(format!("{error:?}").contains("ConnectionReset"), "{error:?}");
    assert!(Stream::open(other_channel, &token).await.is_err(), "all are");

    // The same content in a control plane of its own, but for two changes.
    let cluster = Cluster::new();
    cluster.replace(&config(&MESH.replace("10.0.0.2", "10.0.0.9").replace("uid: w3", "uid: w4")));
    let replica = Replica::start(address, &cluster, &authority).expect("the same address");
    let channel = connect(&replica, &authority).await.expect("a connection");
    let mut stream = Stream::open(channel, &token).await.expect("a stream");
    stream.subscribe(Address, versions).await;
    let response = stream.take().await;
    assert_eq!((names(&response), &*response.removed_resources), (vec!["w2", "w4"], &["w3".to_owned()][..]));
    assert_eq!(replica.statistics().addresses.initial_versions, 4);

    stream.subscribe(Authorization, [("n/p".to_owned(), String::new())].into()).await;
    assert_eq!(names(&stream.take().await), ["n/p"], "a policy is always sent");
}

#[tokio::test]
async fn an_empty_cluster_is_told_as_well() {
    let scene = Scene::new();
    scene.cluster.replace(&config(""));
    let mut stream = scene.open().await;
    for resource_type in [Address, Authorization] {
        stream.subscribe(resource_type, BTreeMap::new()).await;
        let response = stream.take().await;
        assert_eq!(response.type_url, resource_type.url());
        assert!(response.resources.is_empty() && response.removed_resources.is_empty());
    }
}

#[tokio::test]
async fn a_refusal_is_recorded_and_later_changes_arrive() {
    let scene = Scene::new();
    let mut stream = scene.open().await;
    stream.subscribe(Address, BTreeMap::new()).await;
    stream.take().await;
    scene.cluster.edit(|edit| edit.raw(Address, "broken", "1", vec![0xff]));
    let response = stream.next().await.expect("a response");
    assert_eq!(names(&response), ["broken"]);
    // While it is not acknowledged nothing else of the type comes; then all of it at once.
    scene.cluster.edit(|edit| edit.remove("w1"));
    scene.cluster.edit(|edit| edit.remove("w2"));
    stream.acknowledge(&response, Some("broken: not a workload")).await;
    let response = stream.take().await;
    assert_eq!(response.removed_resources, ["w1", "w2"]);
    let statistics = scene.seen(|statistics| statistics.addresses.acks == 2).await;
    assert_eq!(statistics.addresses.nacks, ["broken: not a workload"]);
}

#[tokio::test]
async fn on_demand_a_client_gets_what_it_asks_for() {
    let scene = Scene::new();
    let mut stream = scene.open().await;
    let name = prost_types::Value { kind: Some(Kind::StringValue("a".to_owned())) };
    let metadata = prost_types::Struct { fields: [("NODE_NAME".to_owned(), name)].into() };
    stream
        .send(DeltaDiscoveryRequest {
            node: Some(Node { metadata: Some(metadata), ..Node::default() }),
            resource_names_subscribe: vec!["*".to_owned()],
            resource_names_unsubscribe: vec!["*".to_owned()],
            ..request(Address)
        })
        .await;
    assert_eq!(names(&stream.take().await), ["w1"], "those on its own node");
    let ask = |name: &str| DeltaDiscoveryRequest {
        resource_names_subscribe: vec![name.to_owned()],
        ..request(Address)
    };
    stream.send(ask("n/s.n")).await;
    let response = stream.take().await;
    assert_eq!(names(&response), ["n/s.n", "w1", "w2"]);
    assert_eq!(response.resources[0].aliases, ["/10.1.0.1"]);
    stream.send(ask("/10.9.9.9")).await;
    assert_eq!(stream.take().await.removed_resources, ["/10.9.9.9"]);
}

#[tokio::test]
async fn a_stream_needs_a_token() {
    let scene = Scene::new();
    let open = async |token: &str| {
        let channel = scene.connect().await.expect("a connection");
        Stream::open(channel, token).await.map(drop).map_err(|status| status.code())
    };
    assert_eq!(open("").await, Err(Code::Unauthenticated));
    assert_eq!(open("0123").await, Err(Code::Unauthenticated));
    assert_eq!(open(&scene.token).await, Ok(()));
    let file = scene.authority.token(&node()).expect("a token");
    scene.authority.expire_tokens();
    assert_eq!(open(&scene.token).await, Err(Code::Unauthenticated));
    assert_eq!(scene.replica.statistics().token_failures, 3);
    let fresh = token(&scene.authority, &node());
    assert_eq!(scene.authority.token(&node()).expect("a token"), file, "the same file");
    assert_eq!(open(&fresh).await, Ok(()));
}

#[tokio::test]
async fn a_node_is_told_all_that_it_needs() {
    let scene = Scene::new();
    let control = scene.replica.control(&node()).expect("a token");
    let Control::ControlPlane { address, root, token } = control else { panic!("a control plane") };
    let address = address.strip_prefix("https://").expect("TLS").parse().expect("an address");
    let token = std::fs::read_to_string(token).expect("a file");
    let channel = channel(address, roots(&root), "127.0.0.1").await.expect("a connection");
    Stream::open(channel, &token).await.expect("a stream");
}
