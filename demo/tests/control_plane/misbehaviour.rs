//! What a replica does wrong when it is told to.

use std::collections::BTreeMap;
use std::time::Duration;

use demo::control_plane::Misbehaviour;
use demo::control_plane::ResourceType::Address;
use tokio::time::timeout;

use super::Scene;
use super::client::{names, roots};

/// Long enough for everything that does happen.
const NEVER: Duration = Duration::from_millis(300);

#[tokio::test]
async fn it_hangs_after_accepting() {
    let scene = Scene::new();
    scene.replica.misbehave(Misbehaviour::HangAfterAccept);
    assert!(timeout(NEVER, scene.connect()).await.is_err(), "no TLS");
    assert_eq!(scene.replica.statistics().connections, 1);
    scene.replica.misbehave(Misbehaviour::None);
    scene.connect().await.expect("a connection");
}

#[tokio::test]
async fn a_stream_is_silent_and_goes_on() {
    let scene = Scene::new();
    scene.replica.misbehave(Misbehaviour::SilentStream);
    let mut stream = scene.open().await;
    stream.subscribe(Address, BTreeMap::new()).await;
    assert!(timeout(NEVER, stream.next()).await.is_err());
    assert_eq!(scene.replica.statistics().streams_open, 1);
    scene.replica.misbehave(Misbehaviour::None);
    assert_eq!(stream.take().await.resources.len(), 4);

    scene.replica.misbehave(Misbehaviour::SilentStream);
    scene.cluster.edit(|edit| edit.remove("w1"));
    assert!(timeout(NEVER, stream.next()).await.is_err(), "an old stream, too");
    scene.replica.misbehave(Misbehaviour::None);
    assert_eq!(stream.take().await.removed_resources, ["w1"]);
}

#[tokio::test]
async fn a_response_breaks_off() {
    let scene = Scene::new();
    // More than sockets take at once.
    scene.cluster.edit(|edit| edit.raw(Address, "large", "1", vec![0; 20 << 20]));
    scene.replica.misbehave(Misbehaviour::ResetMidMessage);
    let mut stream = scene.open().await;
    stream.subscribe(Address, BTreeMap::new()).await;
    let error = stream.next().await.expect_err("half a response");
    // Whether our end was reading or writing decides what it is called.
    let broken = ["ConnectionReset", "BrokenPipe"];
    assert!(broken.iter().any(|kind| format!("{error:?}").contains(kind)), "{error:?}");
    scene.seen(|statistics| statistics.streams_open == 0).await;
    scene.cluster.edit(|edit| edit.remove("large"));
    let mut stream = scene.open().await;
    stream.subscribe(Address, BTreeMap::new()).await;
    assert!(stream.next().await.is_err(), "a small one, too");

    scene.replica.misbehave(Misbehaviour::None);
    let mut stream = scene.open().await;
    stream.subscribe(Address, BTreeMap::new()).await;
    assert_eq!(names(&stream.take().await), ["n/s.n", "w1", "w2", "w3"]);
}

#[tokio::test]
async fn it_shows_a_certificate_that_nobody_trusts() {
    let scene = Scene::new();
    scene.replica.misbehave(Misbehaviour::WrongServerCertificate);
    let error = scene.connect().await.expect_err("no trust");
    assert!(format!("{error:?}").contains("InvalidCertificate"), "{error:?}");
    scene.replica.misbehave(Misbehaviour::None);
    for name in ["localhost", "istiod.istio-system.svc", "127.0.0.1"] {
        let roots = roots(&scene.authority.root_file());
        super::client::channel(scene.replica.address(), roots, name).await.expect("a connection");
    }
}
