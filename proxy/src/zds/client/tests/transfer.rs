//! One connection and two clients, of which one has it at a time.

use std::task::Poll;

use super::super::super::transfer::{ServedPod, UnservedPod};
use super::*;

impl Scene {
    /// Another process beside this one, which has not begun.
    fn beside(&self) -> Self {
        Self::idle(self.folder.clone())
    }

    /// A client that serves `a`, with a complete snapshot.
    async fn serving() -> (Self, Peer) {
        let scene = Self::new(true);
        let cni = scene.accept().await;
        assert_eq!(ask(&cni, &add("a"), Some(&scene.namespace("a"))).await, "");
        assert_eq!(ask(&cni, &snapshot_sent(), None).await, "");
        scene.settle().await;
        (scene, cni)
    }

    /// Goes on where `other` stopped; its host has taken over the pods already.
    fn adopt(&self, transfer: Transfer, other: &Self) {
        *self.host.served.lock().unwrap() = other.host.served.lock().unwrap().clone();
        self.client.adopt(transfer);
    }

    /// A release that was asked for, and has not come yet.
    async fn ask_for_release(&self) -> JoinHandle<Result<Transfer, NotReleased>> {
        let client = self.client.clone();
        let release = tokio::spawn(async move { client.release().await });
        self.settle().await;
        release
    }

    fn is_asked_to_connect(&self) -> impl Future<Output = bool> {
        let mut accept = Box::pin(self.listener.as_ref().unwrap().accept());
        std::future::poll_fn(move |context| Poll::Ready(accept.as_mut().poll(context).is_ready()))
    }

    fn takes(&self, uid: &'static str, seconds: u64) {
        self.host.starts.lock().unwrap().insert(uid, Start::Takes(Duration::from_secs(seconds)));
    }
}

#[tokio::test(start_paused = true)]
async fn another_process_goes_on_and_istio_cni_notices_nothing() {
    let (old, cni) = Scene::serving().await;
    let (a, b) = (old.namespace("a"), old.namespace("b"));
    old.host.starts.lock().unwrap().insert("b", Start::Fails);
    assert_ne!(ask(&cni, &add("b"), Some(&b)).await, "");
    let new = old.beside();
    new.settle().await;
    assert!(!new.is_ready(), "it has not begun");

    let transfer = old.client.release().await.unwrap();
    let id = |file: &File| Namespace::new(file.try_clone().unwrap().into()).unwrap().id();
    let workload = |name: &str| WorkloadName {
        namespace: "shop".into(),
        name: name.into(),
        service_account: "sa".into(),
    };
    assert_eq!(transfer.served, [ServedPod { uid: "a".into(), workload: workload("a"), namespace: id(&a) }]);
    let [UnservedPod { uid, namespace, error, .. }] = &transfer.pending[..] else { panic!("one is pending") };
    let why = "its network namespace cannot be used: invalid input parameter";
    assert_eq!((&**uid, namespace.id(), &**error), ("b", id(&b), why));
    old.settle().await;
    assert!(old.is_ready() && old.client.pending().is_empty());
    old.assert_metric("ztunnel_zds_connected 0");

    // Whatever is said now is for the other one, in order.
    cni.send(&add("c"), &[b.as_fd()]).unwrap();
    cni.send(&del("a"), &[]).unwrap();
    advance(Duration::from_secs(1)).await;
    old.settle().await;
    assert_eq!(old.served(), ["a"]);
    new.host.starts.lock().unwrap().insert("c", Start::Fails);
    new.adopt(transfer, &old);
    assert_eq!(answer(&cni).await, why);
    assert_eq!(answer(&cni).await, "");
    assert_eq!(new.served(), ["b"]);
    assert_eq!(ask(&cni, &del("c"), None).await, "");
    new.settle().await;
    assert!(new.is_ready());
    new.assert_metric("ztunnel_zds_connected 1");
    new.assert_metric("workload_manager_proxies_started_total 1");

    // Who gave it away is told by the other one, and by nobody else.
    advance(LAST_RETRY).await;
    old.settle().await;
    assert_eq!(old.served(), ["a"]);
    within(old.client.stop_pod("a".into())).await;
    assert!(old.served().is_empty());
    within(old.client.stop_pod("unknown".into())).await;
    assert!(!old.is_asked_to_connect().await);
}

#[tokio::test(start_paused = true)]
async fn a_release_that_comes_to_nothing_is_undone() {
    let (scene, cni) = Scene::serving().await;
    let namespace = scene.namespace("b");
    scene.host.starts.lock().unwrap().insert("b", Start::Fails);
    assert_ne!(ask(&cni, &add("b"), Some(&namespace)).await, "");
    let transfer = scene.client.release().await.unwrap();
    cni.send(&del("a"), &[]).unwrap();
    scene.host.starts.lock().unwrap().clear();
    scene.client.adopt(transfer);
    assert_eq!(answer(&cni).await, "");
    scene.settle().await;
    assert_eq!(scene.served(), ["b"]);
    assert!(scene.is_ready());
    scene.assert_metric("workload_manager_proxies_started_total 2");

    // Nobody waits for the result any more.
    let release = scene.client.release();
    let mut release = Box::pin(release);
    assert!(std::future::poll_fn(|context| Poll::Ready(release.as_mut().poll(context).is_pending())).await);
    drop(release);
    assert_eq!(ask(&cni, &del("b"), None).await, "");
    assert!(scene.served().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_under_way_is_waited_for() {
    let (scene, cni) = Scene::serving().await;
    let namespace = scene.namespace("b");
    scene.takes("b", 1);
    cni.send(&add("b"), &[namespace.as_fd()]).unwrap();
    scene.settle().await;
    let release = scene.ask_for_release().await;
    cni.send(&del("b"), &[]).unwrap();
    assert!(!release.is_finished());
    advance(Duration::from_secs(1)).await;
    let transfer = release.await.unwrap().unwrap();
    assert_eq!(transfer.served.len(), 2);
    assert_eq!(answer(&cni).await, "", "the one message that was read");
    assert_eq!(scene.served(), ["a", "b"]);

    let new = scene.beside();
    new.adopt(transfer, &scene);
    assert_eq!(answer(&cni).await, "");
    assert_eq!(new.served(), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn what_takes_too_long_keeps_the_connection_here() {
    let (scene, cni) = Scene::serving().await;
    let namespace = scene.namespace("b");
    scene.takes("b", 3);
    cni.send(&add("b"), &[namespace.as_fd()]).unwrap();
    scene.settle().await;
    let (release, second) = (scene.ask_for_release().await, scene.client.release().await);
    assert_eq!(second.unwrap_err(), NotReleased::Busy);
    advance(Duration::from_millis(1_900)).await;
    scene.settle().await;
    assert!(!release.is_finished());
    advance(Duration::from_millis(200)).await;
    assert_eq!(release.await.unwrap().unwrap_err(), NotReleased::Busy);
    advance(Duration::from_secs(1)).await;
    assert_eq!(answer(&cni).await, "");
    assert_eq!(ask(&cni, &del("a"), None).await, "");
    assert_eq!(scene.served(), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_is_read_to_its_end_first() {
    for completes in [true, false] {
        let scene = Scene::new(true);
        let cni = scene.accept().await;
        assert_eq!(ask(&cni, &add("a"), Some(&scene.namespace("a"))).await, "");
        let release = scene.ask_for_release().await;
        assert_eq!(ask(&cni, &add("b"), Some(&scene.namespace("b"))).await, "");
        if completes {
            assert_eq!(ask(&cni, &snapshot_sent(), None).await, "");
            assert_eq!(release.await.unwrap().unwrap().served.len(), 2);
        } else {
            advance(Duration::from_secs(3)).await;
            assert_eq!(release.await.unwrap().unwrap_err(), NotReleased::SnapshotIncomplete);
            assert_eq!(ask(&cni, &snapshot_sent(), None).await, "");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_adopted_connection_that_is_lost_is_made_anew() {
    let (old, cni) = Scene::serving().await;
    assert_eq!(ask(&cni, &add("b"), Some(&old.namespace("b"))).await, "");
    let new = old.beside();
    new.adopt(old.client.release().await.unwrap(), &old);
    assert_eq!(ask(&cni, &del("b"), None).await, "");
    assert_eq!(new.served(), ["a"]);
    drop(cni);
    new.settle().await;
    assert!(!new.is_ready());
    assert!(old.is_ready());
    advance(Duration::from_millis(25)).await;
    let cni = old.accept().await;
    assert_eq!(ask(&cni, &add("c"), Some(&old.namespace("c"))).await, "");
    assert_eq!(ask(&cni, &snapshot_sent(), None).await, "");
    assert_eq!(new.served(), ["c"]);
    new.settle().await;
    assert!(new.is_ready());
    assert_eq!(old.served(), ["a", "b"]);
    assert!(!old.is_asked_to_connect().await);
}

#[tokio::test(start_paused = true)]
async fn who_gave_it_away_can_have_it_again() {
    let (old, cni) = Scene::serving().await;
    assert_eq!(ask(&cni, &add("b"), Some(&old.namespace("b"))).await, "");
    let new = old.beside();
    new.adopt(old.client.release().await.unwrap(), &old);
    assert_eq!(ask(&cni, &add("c"), Some(&old.namespace("c"))).await, "");
    assert_eq!(ask(&cni, &del("a"), None).await, "");

    // Given back: what is served here and was not named is stopped.
    let transfer = new.client.release().await.unwrap();
    let served = new.host.served.lock().unwrap().clone();
    old.host.served.lock().unwrap().extend(served);
    old.client.adopt(transfer);
    assert_eq!(ask(&cni, &del("c"), None).await, "");
    old.settle().await;
    assert_eq!(old.served(), ["b"]);

    // By death: the snapshot tells what became of the pods.
    new.adopt(old.client.release().await.unwrap(), &old);
    new.settle().await;
    drop((new, cni));
    old.client.go();
    let cni = old.accept().await;
    old.settle().await;
    assert!(!old.is_ready());
    assert_eq!(old.served(), ["b"]);
    assert_eq!(ask(&cni, &add("d"), Some(&old.namespace("d"))).await, "");
    assert_eq!(ask(&cni, &snapshot_sent(), None).await, "");
    old.settle().await;
    assert_eq!(old.served(), ["d"]);
    assert!(old.is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_message_that_nobody_read_for_too_long_is_not_answered() {
    for (queued, age, goes_on) in [(true, 3_000, true), (true, 4_100, false), (false, 60_000, true)] {
        let (old, cni) = Scene::serving().await;
        let mut transfer = old.client.release().await.unwrap();
        transfer.unread_since_ns -= age * 1_000_000;
        if queued {
            cni.send(&del("a"), &[]).unwrap();
        }
        let new = old.beside();
        new.adopt(transfer, &old);
        new.settle().await;
        if queued && goes_on {
            assert_eq!(answer(&cni).await, "");
            assert!(new.served().is_empty());
        } else if goes_on {
            assert_eq!(ask(&cni, &del("a"), None).await, "");
        } else {
            assert_closed(&cni).await;
            assert_eq!(new.served(), ["a"], "the next snapshot tells");
            advance(Duration::from_millis(25)).await;
            old.accept().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_time_that_a_message_waited_counts() {
    let (old, cni) = Scene::serving().await;
    let mut transfer = old.client.release().await.unwrap();
    transfer.unread_since_ns -= 3_000_000_000;
    let new = old.beside();
    new.takes("b", 2);
    cni.send(&add("b"), &[old.namespace("b").as_fd()]).unwrap();
    new.adopt(transfer, &old);
    new.settle().await;
    advance(Duration::from_millis(1_600)).await;
    assert_closed(&cni).await;
    new.assert_metric(r#"ztunnel_zds_messages_total{type="add",result="late"} 1"#);
}

#[tokio::test(start_paused = true)]
async fn without_a_connection_who_goes_on_connects() {
    let (mut old, cni) = Scene::serving().await;
    drop((cni, old.listener.take()));
    old.settle().await;
    let transfer = old.client.release().await.unwrap();
    assert!(transfer.socket.is_none());
    assert_eq!(transfer.served.len(), 1);
    old.listen();
    advance(LAST_RETRY * 2).await;
    old.settle().await;
    assert!(!old.is_asked_to_connect().await);
    let new = old.beside();
    new.adopt(transfer, &old);
    let cni = old.accept().await;
    assert!(!new.is_ready());
    assert_eq!(ask(&cni, &keep("a"), None).await, "");
    assert_eq!(ask(&cni, &snapshot_sent(), None).await, "");
    new.settle().await;
    assert_eq!(new.served(), ["a"]);
    assert!(new.is_ready());
}

#[tokio::test(start_paused = true)]
async fn one_that_drains_gives_it_away_too() {
    let (old, cni) = Scene::serving().await;
    old.client.drain();
    let transfer = old.client.release().await.unwrap();
    let new = old.beside();
    new.adopt(transfer, &old);
    assert_eq!(ask(&cni, &add("b"), Some(&old.namespace("b"))).await, "");
    assert_eq!(new.served(), ["a", "b"]);
    drop((new, cni));
    old.client.go();
    old.settle().await;
    assert!(!old.is_asked_to_connect().await, "it would refuse new pods");
}

#[tokio::test(start_paused = true)]
async fn who_has_none_gives_none() {
    let (old, _cni) = Scene::serving().await;
    let new = old.beside();
    assert_eq!(new.client.release().await.unwrap_err(), NotReleased::NotHeld);
    let _transfer = old.client.release().await.unwrap();
    assert_eq!(old.client.release().await.unwrap_err(), NotReleased::NotHeld);
    new.task.abort();
    new.settle().await;
    assert_eq!(new.client.release().await.unwrap_err(), NotReleased::Ended);
    within(new.client.stop_pod("a".into())).await;
}
