use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::namespace::NamespaceId;
use crate::pod::Pod;
use crate::worker::bench::{Application, Bench, Heard, LOCAL, hear, mesh, played, pod};
use crate::worker::{Message, MoveError};

/// Two pods of one mesh.
const OTHER: &str = "{uid: other, name: other, namespace: shop, serviceAccount: other, \
    workloadIps: [127.0.0.2], protocol: HBONE}";

fn two_pods() -> (Bench, Arc<Pod>) {
    let bench = Bench::new(1, &mesh(&format!("{LOCAL}, {OTHER}")));
    let other = pod(&bench.shared, "other");
    bench.shared.pods.insert(other.clone());
    (bench, other)
}

fn remove(bench: &mut Bench, pod: &Arc<Pod>) {
    bench.shared.pods.remove(pod.uid());
    pod.retire();
    let (send, removed) = std::sync::mpsc::channel();
    let done = Box::new(move |()| send.send(()).unwrap());
    bench.handles[0].post(Message::RemovePod(pod.clone(), done));
    bench.turn();
    removed.try_recv().unwrap();
}

#[test]
fn a_pod_that_goes_takes_its_connections_along_and_no_others() {
    let lines = played(|| {
        let (mut bench, other) = two_pods();
        let application = Application::new();
        let mine = bench.plain(application.address);
        let mine_far = bench.until("accept", |_| application.accept());
        let own = std::mem::replace(&mut bench.pod, other.clone());
        let theirs = bench.plain(application.address);
        let theirs_far = bench.until("accept", |_| application.accept());
        bench.until("pairs", |bench| (bench.workers[0].pairs.len() == 2).then_some(()));
        assert_eq!(other.sockets().load(Ordering::Relaxed), 2);

        remove(&mut bench, &other);
        assert_eq!([hear(&theirs), hear(&theirs_far)], [Heard::Reset, Heard::Reset]);
        assert_eq!([hear(&mine), hear(&mine_far)], [Heard::Nothing, Heard::Nothing]);
        assert_eq!([&own, &other].map(|pod| pod.sockets().load(Ordering::Relaxed)), [2, 0]);
        // The bench and this test hold it; the worker does not.
        drop(std::mem::replace(&mut bench.pod, own));
        assert_eq!(Arc::strong_count(&other), 1);
    });
    let ended = lines.iter().filter(|line| line.contains("connection closed: the pod has left the node"));
    assert_eq!(ended.count(), 1, "{lines:?}");
}

#[test]
fn what_arrives_after_its_pod_has_gone_is_turned_away() {
    let lines = played(|| {
        let (mut bench, other) = two_pods();
        let application = Application::new();
        let own = std::mem::replace(&mut bench.pod, other.clone());
        let (plain, client) = bench.judged_plain(application.address);
        remove(&mut bench, &other);
        bench.handles[0].post(Message::Fresh(Box::new(plain)));
        let peer = bench.knock();
        bench.turn();
        assert_eq!([hear(&client), hear(&peer)], [Heard::Reset, Heard::Reset]);
        assert!(application.accept().is_none());
        drop(std::mem::replace(&mut bench.pod, own));
        bench.turn();
        assert_eq!(Arc::strong_count(&other), 1, "somebody still holds the pod");
    });
    assert_eq!(
        lines.iter().filter(|line| line.contains("the pod has left the node")).count(),
        2,
        "{lines:?}"
    );
}

#[test]
fn a_tunnel_whose_pod_has_gone_ends_where_it_arrives() {
    played(|| {
        let mut bench = Bench::new(1, &mesh(LOCAL));
        let mut peer = bench.tunnel();
        bench.until("the tunnel is up", |bench| {
            peer.exchange();
            (bench.workers[0].tunnels.len() == 1).then_some(())
        });
        let (frozen, kept) = bench.give(1, usize::MAX, false).pop().unwrap();
        let gone = bench.pod.clone();
        remove(&mut bench, &gone);
        // Another pod of the same name has come meanwhile; the tunnel is not its.
        let elsewhere = NamespaceId { device: 0, inode: 0 };
        assert!(bench.shared.pods.find("local", elsewhere).is_none());
        // Whoever is only offered it leaves it alone.
        let copies = frozen.sockets.iter().map(|socket| socket.try_clone().unwrap()).collect();
        assert!(matches!(bench.prepare(&frozen.record, copies), Err(MoveError::PodGone)));
        bench.turn();
        while let Heard::Bytes(_) = hear(&peer.socket) {}
        assert_eq!(hear(&peer.socket), Heard::Nothing);
        bench.handles[0].post(Message::TakeBack(Box::new(frozen), kept));
        // Not an orderly end, which could be taken for a whole stream's.
        let heard = bench.until("an end", |_| match hear(&peer.socket) {
            Heard::Nothing | Heard::Bytes(_) => None,
            end => Some(end),
        });
        assert_eq!(heard, Heard::Reset);
    });
}

#[test]
fn a_pod_that_leaves_the_mesh_leaves_the_others_alone() {
    played(|| {
        let (mut bench, other) = two_pods();
        let application = Application::new();
        let mine = bench.plain(application.address);
        let _mine_far = bench.until("accept", |_| application.accept());
        bench.pod = other;
        let theirs = bench.plain(application.address);
        let _theirs_far = bench.until("accept", |_| application.accept());
        bench.until("pairs", |bench| (bench.workers[0].pairs.len() == 2).then_some(()));
        let before = bench.judged();
        bench.shared.store.update(|edit| edit.remove_address("other"));
        bench.recheck();
        bench.settle();
        assert_eq!([hear(&theirs), hear(&mine)], [Heard::Reset, Heard::Nothing]);
        assert_eq!(bench.judged(), before, "nothing has changed for those who stay");
    });
}
