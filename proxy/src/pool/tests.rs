use super::*;
use crate::namespace::Namespace;
use crate::pod::WorkloadName;

fn pod() -> Arc<Pod> {
    let name = || Arc::from("a");
    let workload = WorkloadName { namespace: name(), name: name(), service_account: name() };
    let namespace = Arc::new(Namespace::current().unwrap());
    Arc::new(Pod::new("a", workload, namespace, false))
}

fn key(pod: &Arc<Pod>, port: u16) -> PoolKey {
    PoolKey {
        pod: pod.clone(),
        source: "spiffe://cluster.local/ns/a/sa/b".parse().unwrap(),
        source_address: None,
        address: SocketAddr::from(([127, 0, 0, 1], port)),
        expected: Arc::new([]),
    }
}

#[test]
fn callers_of_one_key_meet_at_one_worker() {
    let pod = pod();
    let (directory, loads) = (Directory::new(), Loads::new(4));
    let first = directory.place(&key(&pod, 1), &loads).worker;
    for _ in 0..100 {
        loads.sent(first);
        assert_eq!(directory.place(&key(&pod, 1), &loads).worker, first);
    }
    assert_ne!(directory.place(&key(&pod, 2), &loads).worker, first, "another peer goes to an idler worker");
}

#[test]
fn a_busy_worker_spills_to_an_idle_one_and_only_then() {
    let pod = pod();
    let (directory, loads) = (Directory::new(), Loads::new(2));
    let first = directory.place(&key(&pod, 1), &loads).worker;
    loads.publish(first, 900, 10);
    loads.publish(1 - first, 800, 10);
    assert_eq!(directory.place(&key(&pod, 1), &loads).worker, first, "the other one is busy too");
    loads.publish(1 - first, 100, 10);
    assert_eq!(directory.place(&key(&pod, 1), &loads).worker, 1 - first);
    directory.leave(&key(&pod, 1), 1 - first);
    loads.publish(first, 0, 1);
    assert_eq!(directory.place(&key(&pod, 1), &loads).worker, first);
}

#[test]
fn a_moved_tunnel_is_found_at_its_new_worker() {
    let pod = pod();
    let (directory, loads) = (Directory::new(), Loads::new(3));
    let first = directory.place(&key(&pod, 1), &loads).worker;
    let next = (first + 1) % 3;
    directory.enter(&key(&pod, 1), next);
    directory.leave(&key(&pod, 1), first);
    assert_eq!(directory.place(&key(&pod, 1), &loads).worker, next);
}

#[test]
fn an_entry_goes_when_nothing_is_left_of_it() {
    let pod = pod();
    let mut pool = Pool::default();
    pool.entry(&key(&pod, 1)).tunnels.push(7);
    pool.entry(&key(&pod, 1)).waiting.push_back(3);
    assert!(!pool.change(&key(&pod, 1), |entry| entry.tunnels.clear()));
    assert!(pool.change(&key(&pod, 1), |entry| entry.waiting.clear()));
    assert!(!pool.change(&key(&pod, 1), |_| {}), "there is no such entry any more");
}

#[test]
fn a_pod_shares_no_tunnel_with_another() {
    let (mine, theirs) = (pod(), pod());
    let mut pool = Pool::default();
    pool.entry(&key(&mine, 1)).tunnels.push(7);
    assert!(pool.entry(&key(&theirs, 1)).tunnels.is_empty());
}

#[test]
fn a_burst_uses_every_worker_even_if_one_was_busy_before() {
    let loads = Loads::new(2);
    loads.publish(0, 950, 3);
    let mut sent = [0; 2];
    for _ in 0..200 {
        let worker = loads.idlest();
        loads.sent(worker);
        sent[worker] += 1;
    }
    assert!(sent[0] > 50 && sent[1] > sent[0], "{sent:?}");
}

#[test]
fn what_is_expected_is_waited_for_at_one_worker_until_it_comes() {
    let pod = pod();
    let (directory, loads) = (Directory::new(), Loads::new(4));
    let key = key(&pod, 1);
    directory.expect(key.clone(), 2);
    assert_eq!(directory.expected(&key), Some(2));
    let placed = Placed { worker: 2, comes: true };
    assert_eq!([directory.place(&key, &loads), directory.place(&key, &loads)], [placed; 2]);
    directory.leave(&key, 2);
    assert_eq!(directory.expected(&key), Some(2), "whoever gave up waiting takes nobody's hope");
    assert!(directory.keys().is_empty(), "it isn't here yet");
    directory.enter(&key, 2);
    assert_eq!(directory.place(&key, &loads), Placed { worker: 2, comes: false });
    assert_eq!((directory.expected(&key), directory.keys()), (None, vec![key]));
}

#[test]
fn nothing_is_expected_where_a_tunnel_is_already() {
    let pod = pod();
    let (directory, loads) = (Directory::new(), Loads::new(2));
    directory.enter(&key(&pod, 1), 0);
    directory.expect(key(&pod, 1), 1);
    assert_eq!(directory.expected(&key(&pod, 1)), None);
    assert_eq!(directory.place(&key(&pod, 1), &loads), Placed { worker: 0, comes: false });
}

#[test]
fn what_does_not_come_is_dialled() {
    let pod = pod();
    let (directory, loads) = (Directory::new(), Loads::new(2));
    for port in 1..=3 {
        directory.expect(key(&pod, port), 1);
    }
    directory.enter(&key(&pod, 3), 1);
    directory.stop_expecting(&key(&pod, 1));
    directory.stop_expecting(&key(&pod, 3));
    directory.expect_nothing();
    for port in 1..=3 {
        assert!(!directory.place(&key(&pod, port), &loads).comes);
    }
    assert_eq!(directory.place(&key(&pod, 3), &loads).worker, 1, "what has come stays");
}
