//! The client with an istio-cni of its own, over real sockets and on a clock that moves when it is told to.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::sync::mpsc;

use prost::Message;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::super::host::{Starting, Stopping};
use super::super::message::{
    AddWorkload, DelWorkload, KeepWorkload, Payload, SnapshotSent, WorkloadInfo, WorkloadRequest,
    WorkloadResponse,
};
use super::super::transport::testing::{Listener, Peer};
use super::*;
use crate::telemetry::Telemetry;

/// Serves pods as it is told.
#[derive(Default)]
struct Host {
    served: Mutex<BTreeMap<Arc<str>, Arc<Namespace>>>,
    /// What a start does, by uid; others work at once.
    starts: Mutex<HashMap<&'static str, Start>>,
}

#[derive(Clone, Copy)]
enum Start {
    Fails,
    Panics,
    Takes(Duration),
}

impl PodHost for Host {
    fn start(&self, uid: Arc<str>, _: WorkloadName, namespace: Arc<Namespace>) -> Starting<'_> {
        Box::pin(async move {
            let start = self.starts.lock().unwrap().get(&*uid).copied();
            match start {
                Some(Start::Fails) => {
                    return Err(StartPodError::Namespace(io::ErrorKind::InvalidInput.into()));
                }
                Some(Start::Panics) => panic!("a fault in the host"),
                Some(Start::Takes(time)) => tokio::time::sleep(time).await,
                None => {}
            }
            let former = self.served.lock().unwrap().insert(uid, namespace);
            assert!(former.is_none(), "it was served already");
            Ok(())
        })
    }

    fn stop(&self, uid: Arc<str>) -> Stopping<'_> {
        Box::pin(async move {
            assert!(self.served.lock().unwrap().remove(&uid).is_some(), "it was not served");
        })
    }
}

mod transfer;

/// A client, and all that is around it.
struct Scene {
    host: Arc<Host>,
    client: Client,
    readiness: Readiness,
    telemetry: Telemetry,
    listener: Option<Listener>,
    task: JoinHandle<()>,
    folder: Arc<TempDir>,
    /// While it is there, the clock moves only by `advance`: it would else whenever a socket is waited for.
    _clock: mpsc::Sender<()>,
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Scene {
    /// An istio-cni that listens, or will later.
    fn new(listening: bool) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let mut scene = Self::idle(folder);
        if listening {
            scene.listen();
        }
        scene.client.go();
        scene
    }

    /// A client that has not begun.
    fn idle(folder: Arc<TempDir>) -> Self {
        let (clock, stopped) = mpsc::channel();
        // A test that hangs gets its clock back, so that its timeouts come.
        tokio::task::spawn_blocking(move || stopped.recv_timeout(Duration::from_secs(60)));
        let (host, readiness) = (Arc::new(Host::default()), Readiness::default());
        let telemetry = Telemetry::new("", || 0);
        let metrics = telemetry.workload_manager().clone();
        let config = Config { path: folder.path().join("ztunnel.sock") };
        let (client, run) = start(config, host.clone(), readiness.clone(), metrics);
        let task = tokio::spawn(run);
        Self { host, client, readiness, telemetry, listener: None, task, folder, _clock: clock }
    }

    fn listen(&mut self) {
        let path = self.folder.path().join("ztunnel.sock");
        let _ = std::fs::remove_file(&path);
        self.listener = Some(Listener::bind(&path));
    }

    /// The next connection, with its hello.
    async fn accept(&self) -> Peer {
        let peer = within(self.listener.as_ref().unwrap().accept()).await;
        assert_eq!(within(peer.receive()).await.unwrap().bytes, message::hello());
        peer
    }

    /// The next connection after one was lost.
    async fn accept_again(&self) -> Peer {
        self.settle().await;
        advance(LAST_RETRY * 2).await;
        self.accept().await
    }

    /// A namespace that can be told from others; who holds it open can be counted.
    fn namespace(&self, name: &str) -> File {
        File::create(self.folder.path().join(name)).unwrap()
    }

    /// Descriptors of namespaces that this process holds.
    fn open_namespaces(&self) -> usize {
        let folder = self.folder.path();
        let descriptors = std::fs::read_dir("/proc/self/fd").unwrap();
        let links = descriptors.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
        links.filter(|link| link.starts_with(folder)).count()
    }

    fn served(&self) -> Vec<String> {
        self.host.served.lock().unwrap().keys().map(ToString::to_string).collect()
    }

    fn is_ready(&self) -> bool {
        self.readiness.missing().is_empty()
    }

    fn assert_metric(&self, line: &str) {
        let text = self.telemetry.exposition();
        assert!(text.lines().any(|candidate| candidate == line), "{line} is missing in\n{text}");
    }

    /// Until everybody has done what there is to do.
    async fn settle(&self) {
        // More often than tasks hand on to each other, and than the runtime looks for sockets.
        for _ in 0..500 {
            tokio::task::yield_now().await;
        }
    }
}

/// On a clock that stands still this never comes, unless the test hangs.
async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(1_000_000), future).await.expect("it takes too long")
}

fn request(payload: Payload) -> Vec<u8> {
    WorkloadRequest { payload: Some(payload) }.encode_to_vec()
}

fn add(uid: &str) -> Vec<u8> {
    let workload_info = Some(WorkloadInfo {
        name: uid.to_owned(),
        namespace: "shop".to_owned(),
        service_account: "sa".to_owned(),
    });
    request(Payload::Add(AddWorkload { uid: uid.to_owned(), workload_info }))
}

fn keep(uid: &str) -> Vec<u8> {
    request(Payload::Keep(KeepWorkload { uid: uid.to_owned() }))
}

fn del(uid: &str) -> Vec<u8> {
    request(Payload::Del(DelWorkload { uid: uid.to_owned() }))
}

fn snapshot_sent() -> Vec<u8> {
    request(Payload::SnapshotSent(SnapshotSent {}))
}

/// The error of the next answer; empty if there is none.
async fn answer(peer: &Peer) -> String {
    let packet = within(peer.receive()).await.unwrap();
    assert!(packet.descriptor.is_none());
    WorkloadResponse::decode(&packet.bytes[..]).unwrap().ack.expect("there is nothing else").error
}

async fn ask(peer: &Peer, bytes: &[u8], namespace: Option<&File>) -> String {
    let descriptors: Vec<_> = namespace.iter().map(|file| file.as_fd()).collect();
    peer.send(bytes, &descriptors).unwrap();
    answer(peer).await
}

async fn assert_closed(peer: &Peer) {
    assert!(matches!(within(peer.receive()).await, Err(ReceiveError::Closed | ReceiveError::Socket(_))));
}

#[tokio::test(start_paused = true)]
async fn pods_come_and_go() {
    let scene = Scene::new(true);
    let cni = scene.accept().await;
    let (a, b) = (scene.namespace("a"), scene.namespace("b"));
    assert_eq!(ask(&cni, &add("a"), Some(&a)).await, "");
    assert_eq!(scene.readiness.missing(), ["workload proxy manager"]);
    assert_eq!(ask(&cni, &keep("unknown"), None).await, "");
    assert_eq!(ask(&cni, &snapshot_sent(), None).await, "");
    scene.settle().await;
    assert!(scene.is_ready());
    assert_eq!(ask(&cni, &add("b"), Some(&b)).await, "");
    assert_eq!(scene.served(), ["a", "b"]);
    // Another namespace of the same uid.
    assert_eq!(ask(&cni, &add("b"), Some(&a)).await, "");
    assert_eq!(ask(&cni, &del("a"), None).await, "");
    assert_eq!(scene.served(), ["b"]);
    for line in [
        "workload_manager_active_proxy_count 1",
        "workload_manager_proxies_started_total 3",
        "workload_manager_proxies_stopped_total 2",
        "ztunnel_zds_connected 1",
        r#"ztunnel_zds_messages_total{type="add",result="acked"} 3"#,
        r#"ztunnel_zds_messages_total{type="keep",result="acked"} 1"#,
        r#"ztunnel_zds_messages_total{type="del",result="acked"} 1"#,
        r#"ztunnel_zds_messages_total{type="snapshot_sent",result="acked"} 1"#,
    ] {
        scene.assert_metric(line);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_at_once_is_answered_in_order() {
    let scene = Scene::new(true);
    let cni = scene.accept().await;
    let namespace = scene.namespace("a");
    scene.host.starts.lock().unwrap().insert("b", Start::Fails);
    cni.send(&add("a"), &[namespace.as_fd()]).unwrap();
    cni.send(&add("b"), &[namespace.as_fd()]).unwrap();
    cni.send(&del("b"), &[]).unwrap();
    cni.send(&snapshot_sent(), &[]).unwrap();
    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(answer(&cni).await);
    }
    assert_eq!(answers, ["", "its network namespace cannot be used: invalid input parameter", "", ""]);
    assert_eq!(scene.served(), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn who_cannot_be_served_is_pending() {
    for (start, why) in [
        (Start::Fails, "its network namespace cannot be used: invalid input parameter"),
        (Start::Panics, "its start panicked"),
    ] {
        let scene = Scene::new(true);
        let cni = scene.accept().await;
        scene.host.starts.lock().unwrap().insert("a", start);
        assert_eq!(ask(&cni, &add("a"), Some(&scene.namespace("a"))).await, why);
        assert_eq!(ask(&cni, &snapshot_sent(), None).await, "");
        scene.settle().await;
        let [pending] = &scene.client.pending()[..] else { panic!("one is pending") };
        assert_eq!((&*pending.uid, &*pending.workload.to_string(), &*pending.error), ("a", "shop/a/sa", why));
        assert!(!scene.is_ready());
        scene.assert_metric("workload_manager_pending_proxy_count 1");
        scene.assert_metric(r#"ztunnel_zds_messages_total{type="add",result="nacked"} 1"#);

        advance(Duration::from_secs(5)).await;
        scene.settle().await;
        assert!(!scene.is_ready());
        scene.host.starts.lock().unwrap().clear();
        advance(Duration::from_secs(5)).await;
        scene.settle().await;
        assert!(scene.client.pending().is_empty() && scene.is_ready());
        assert_eq!(scene.served(), ["a"]);
    }
}

/// Lets time pass in steps, as it does for a process that isn't stopped.
async fn advance(by: Duration) {
    let mut left = by;
    while !left.is_zero() {
        let step = left.min(Duration::from_millis(500));
        left -= step;
        tokio::time::advance(step).await;
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_was_stopped_does_not_answer_what_came_meanwhile() {
    let scene = Scene::new(true);
    let cni = scene.accept().await;
    assert_eq!(ask(&cni, &add("a"), Some(&scene.namespace("a"))).await, "");
    assert_eq!(ask(&cni, &snapshot_sent(), None).await, "");
    scene.settle().await;
    tokio::time::advance(Duration::from_millis(4_600)).await;
    cni.send(&del("a"), &[]).unwrap();
    assert_closed(&cni).await;
    assert_eq!(scene.served(), ["a"], "the next snapshot tells");
    // A pause that is short enough is none.
    let cni = scene.accept_again().await;
    tokio::time::advance(Duration::from_secs(3)).await;
    assert_eq!(ask(&cni, &snapshot_sent(), None).await, "");
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_is_none() {
    let scene = Scene::new(true);
    let cni = scene.accept().await;
    let namespace = scene.namespace("a");
    scene.host.starts.lock().unwrap().insert("a", Start::Takes(Duration::from_secs(6)));
    assert_eq!(ask(&cni, &snapshot_sent(), None).await, "");
    cni.send(&add("a"), &[namespace.as_fd()]).unwrap();
    scene.settle().await;
    advance(Duration::from_millis(4_600)).await;
    assert_closed(&cni).await;
    scene.assert_metric(r#"ztunnel_zds_messages_total{type="add",result="late"} 1"#);
    assert!(!scene.is_ready());

    advance(Duration::from_millis(30)).await;
    let cni = scene.accept().await;
    cni.send(&add("a"), &[namespace.as_fd()]).unwrap();
    scene.settle().await;
    // Its start is older than anybody waits for.
    assert_eq!(answer(&cni).await, "what was begun with this pod takes too long");
    advance(Duration::from_secs(2)).await;
    scene.settle().await;
    assert_eq!(scene.served(), ["a"]);
    assert_eq!(ask(&cni, &add("a"), Some(&namespace)).await, "");
    assert_eq!(ask(&cni, &snapshot_sent(), None).await, "");
    scene.settle().await;
    assert!(scene.is_ready());
}

#[tokio::test(start_paused = true)]
async fn an_istio_cni_that_vanishes_takes_no_pod_along() {
    let mut scene = Scene::new(true);
    let cni = scene.accept().await;
    let (a, b) = (scene.namespace("a"), scene.namespace("b"));
    assert_eq!(ask(&cni, &add("a"), Some(&a)).await, "");
    assert_eq!(ask(&cni, &snapshot_sent(), None).await, "");
    scene.host.starts.lock().unwrap().insert("b", Start::Takes(Duration::from_secs(1)));
    cni.send(&add("b"), &[b.as_fd()]).unwrap();
    scene.settle().await;
    drop((cni, scene.listener.take()));
    advance(Duration::from_secs(1)).await;
    scene.settle().await;
    assert_eq!(scene.served(), ["a", "b"]);
    assert!(!scene.is_ready());
    scene.assert_metric("ztunnel_zds_connected 0");
    scene.assert_metric(r#"ztunnel_zds_messages_total{type="add",result="lost"} 1"#);
    for _ in 0..20 {
        advance(LAST_RETRY).await;
        scene.settle().await;
    }
    assert_eq!(scene.served(), ["a", "b"]);

    scene.listen();
    let cni = scene.accept_again().await;
    assert_eq!(ask(&cni, &add("b"), Some(&b)).await, "");
    assert_eq!(ask(&cni, &snapshot_sent(), None).await, "");
    scene.settle().await;
    assert_eq!(scene.served(), ["b"]);
    assert!(scene.is_ready());
    scene.assert_metric("workload_manager_proxies_started_total 2");
    // The back-off begins anew: no more than 20 ms and a fifth.
    drop(cni);
    scene.settle().await;
    advance(Duration::from_millis(25)).await;
    scene.accept().await;
}

#[tokio::test(start_paused = true)]
async fn an_istio_cni_may_come_later() {
    let mut scene = Scene::new(false);
    scene.settle().await;
    assert!(!scene.is_ready());
    scene.listen();
    advance(Duration::from_millis(25)).await;
    let cni = scene.accept().await;
    assert_eq!(ask(&cni, &snapshot_sent(), None).await, "");
    scene.settle().await;
    assert!(scene.is_ready());
}

#[tokio::test(start_paused = true)]
async fn broken_packets_cost_the_connection_and_nothing_else() {
    let scene = Scene::new(true);
    let cni = scene.accept().await;
    let a = scene.namespace("a");
    assert_eq!(ask(&cni, &add("a"), Some(&a)).await, "");
    assert_eq!(ask(&cni, &snapshot_sent(), None).await, "");
    let bare = request(Payload::Add(AddWorkload { uid: "b".to_owned(), workload_info: None }));
    let cases: [(Vec<u8>, usize, &str); 10] = [
        (add("b"), 0, "a pod is added without its network namespace"),
        (add("b"), 2, "a packet came with 2 descriptors"),
        (add("b"), 9, "a packet came without all its descriptors"),
        (bare, 1, "a pod is added without workload_info"),
        (del("a"), 1, "a file descriptor came with a message that has none"),
        (vec![0xff; 50], 1, "it is not a message"),
        (request(Payload::Add(AddWorkload::default())), 1, "a pod is added without workload_info"),
        (vec![0x22, 0], 0, "it has no known payload"),
        (vec![0; 5_000], 1, "a packet is larger than 4096 bytes"),
        (keep("a"), 0, "a pod is kept, but the snapshot is over"),
    ];
    let mut cni = cni;
    for (bytes, descriptors, why) in &cases {
        let held = scene.open_namespaces();
        cni.send(bytes, &vec![a.as_fd(); *descriptors]).unwrap();
        let error = answer(&cni).await;
        assert!(error.starts_with(why), "{error} instead of {why}");
        assert_closed(&cni).await;
        scene.settle().await;
        assert_eq!(scene.open_namespaces(), held, "{why}");
        assert_eq!(scene.served(), ["a"], "{why}");
        cni = scene.accept_again().await;
        assert_eq!(ask(&cni, &add("a"), Some(&a)).await, "");
        assert_eq!(ask(&cni, &snapshot_sent(), None).await, "");
    }
    scene.assert_metric(r#"ztunnel_zds_messages_total{type="unreadable",result="nacked"} 9"#);
    scene.assert_metric("workload_manager_proxies_started_total 1");
}

#[tokio::test(start_paused = true)]
async fn a_thousand_pods_leave_nothing_behind() {
    let scene = Scene::new(true);
    let cni = scene.accept().await;
    assert_eq!(ask(&cni, &snapshot_sent(), None).await, "");
    scene.host.starts.lock().unwrap().insert("pod-3", Start::Fails);
    let namespace = scene.namespace("a");
    let before = scene.open_namespaces();
    for number in 0..1_000 {
        let pod = format!("pod-{}", number % 7);
        let refused = ask(&cni, &add(&pod), Some(&namespace)).await;
        assert_eq!(refused.is_empty(), pod != "pod-3", "{refused}");
        // The same again, whose descriptor is not needed.
        assert_eq!(ask(&cni, &add(&pod), Some(&namespace)).await, refused);
        assert_eq!(ask(&cni, &del(&pod), None).await, "");
    }
    scene.settle().await;
    assert_eq!(scene.open_namespaces(), before);
    scene.assert_metric("workload_manager_active_proxy_count 0");
    scene.assert_metric("workload_manager_pending_proxy_count 0");
}

#[tokio::test(start_paused = true)]
async fn who_drains_takes_no_new_pods_and_does_not_connect_again() {
    let scene = Scene::new(true);
    let cni = scene.accept().await;
    let namespace = scene.namespace("a");
    assert_eq!(ask(&cni, &add("a"), Some(&namespace)).await, "");
    assert_eq!(ask(&cni, &add("b"), Some(&namespace)).await, "");
    assert_eq!(ask(&cni, &snapshot_sent(), None).await, "");
    scene.client.drain();
    scene.settle().await;
    assert_eq!(ask(&cni, &add("c"), Some(&namespace)).await, "draining");
    assert_eq!(ask(&cni, &del("a"), None).await, "");
    assert_eq!(scene.served(), ["b"]);
    drop(cni);
    scene.settle().await;
    advance(LAST_RETRY * 2).await;
    scene.settle().await;
    let mut accept = Box::pin(scene.listener.as_ref().unwrap().accept());
    let waits =
        std::future::poll_fn(|context| std::task::Poll::Ready(accept.as_mut().poll(context).is_pending()));
    assert!(waits.await, "it has connected again");
    assert_eq!(scene.served(), ["b"]);
}

#[test]
fn the_back_off_grows_to_its_limit() {
    let mut back_off = BackOff::default();
    for attempt in 0..100 {
        let base = FIRST_RETRY.saturating_mul(1 << attempt.min(20)).min(LAST_RETRY);
        let wait = back_off.next();
        assert!(wait >= base.mul_f64(0.79) && wait <= base.mul_f64(1.21), "{attempt}: {wait:?}");
    }
}
