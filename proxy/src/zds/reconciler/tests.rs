//! The machine, with pods whose namespaces are numbers.

use super::*;

mod scripts;

type Machine = Reconciler<u64>;

fn uid(uid: &str) -> Arc<str> {
    uid.into()
}

fn workload(name: &str) -> WorkloadName {
    WorkloadName { namespace: "shop".into(), name: name.into(), service_account: "sa".into() }
}

fn id(namespace: u64) -> NamespaceId {
    NamespaceId { device: 4, inode: namespace }
}

fn add(pod: &str, namespace: u64) -> Request<(NamespaceId, u64)> {
    add_as(pod, pod, namespace)
}

fn add_as(pod: &str, name: &str, namespace: u64) -> Request<(NamespaceId, u64)> {
    Request::Add { uid: uid(pod), workload: workload(name), namespace: (id(namespace), namespace) }
}

fn keep(pod: &str) -> Request<(NamespaceId, u64)> {
    Request::Keep { uid: uid(pod) }
}

fn del(pod: &str) -> Request<(NamespaceId, u64)> {
    Request::Del { uid: uid(pod) }
}

/// What a call made the client do, in words.
fn actions(machine: &mut Machine) -> Vec<String> {
    let say = |action| match action {
        Action::Start { uid, workload, namespace } => format!("start {uid} {} {namespace}", workload.name),
        Action::Stop { uid } => format!("stop {uid}"),
        Action::Answer(Ok(())) => "ack".to_owned(),
        Action::Answer(Err(error)) => format!("nack {error}"),
        Action::Close(reason) => format!("close {reason:?}"),
        Action::Report(Report::Failing { uid, reason, .. }) => format!("warn {uid} {reason}"),
        Action::Report(Report::StillFailing { uid, reason, .. }) => format!("debug {uid} {reason}"),
        Action::Report(Report::Recovered { uid, .. }) => format!("recovered {uid}"),
        Action::Report(Report::SnapshotComplete) => "complete".to_owned(),
    };
    std::iter::from_fn(|| machine.poll()).map(say).collect()
}

/// One step of a script.
enum Step {
    Connected,
    Disconnected,
    Says(Request<(NamespaceId, u64)>),
    Works(&'static str),
    Fails(&'static str, &'static str),
    Stopped(&'static str),
    Time(u64),
    Drain,
}

use Step::{Connected, Disconnected, Drain, Fails, Says, Stopped, Time, Works};

/// Runs a script; after each step the machine must have said exactly this.
fn run(steps: Vec<(Step, &[&str])>) -> Machine {
    let (mut machine, mut now) = (Machine::new(), 0);
    for (number, (step, expected)) in steps.into_iter().enumerate() {
        match step {
            Connected => machine.connected(),
            Disconnected => machine.disconnected(),
            Says(request) => machine.message(request, now),
            Works(pod) => machine.started(&uid(pod), Ok(()), now),
            Fails(pod, reason) => machine.started(&uid(pod), Err(reason.into()), now),
            Stopped(pod) => machine.stopped(&uid(pod), now),
            Time(at) => {
                now = at;
                machine.handle_timeout(now);
            }
            Drain => machine.drain(),
        }
        assert_eq!(actions(&mut machine), expected, "step {number}");
    }
    machine
}

fn served(machine: &Machine) -> Vec<String> {
    let served = machine.pods.iter().filter(|(_, pod)| matches!(pod, Pod::Served(_)));
    served.map(|(uid, _)| uid.to_string()).collect()
}

fn pending(machine: &Machine) -> Vec<String> {
    machine.pending().map(|(uid, _, error)| format!("{uid}: {error}")).collect()
}

/// A machine that serves `a` in namespace 1, with a complete snapshot.
fn serving() -> Vec<(Step, &'static [&'static str])> {
    vec![
        (Connected, &[]),
        (Says(add("a", 1)), &["start a a 1"]),
        (Works("a"), &["ack"]),
        (Says(Request::SnapshotSent), &["ack", "complete"]),
    ]
}

/// Such a machine goes through this, too.
fn then(steps: Vec<(Step, &'static [&'static str])>) -> Machine {
    run(serving().into_iter().chain(steps).collect())
}

#[test]
fn an_add_is_answered_when_the_pod_is_served() {
    let machine = then(vec![]);
    assert_eq!(served(&machine), ["a"]);
    assert!(machine.is_ready() && !machine.is_busy());

    let machine = run(vec![(Connected, &[]), (Says(add("a", 1)), &["start a a 1"])]);
    assert!(machine.is_busy() && !machine.is_ready());
    assert_eq!(machine.active(), 0);
}

#[test]
fn the_same_add_again_is_answered_at_once() {
    then(vec![(Says(add("a", 1)), &["ack"])]);
}

#[test]
fn another_place_is_another_pod() {
    for (request, start) in [(add("a", 2), "start a a 2"), (add_as("a", "b", 1), "start a b 1")] {
        let mut machine = then(vec![(Says(request), &["stop a"])]);
        machine.stopped(&uid("a"), 0);
        assert_eq!(actions(&mut machine), [start]);
        machine.started(&uid("a"), Ok(()), 0);
        assert_eq!(actions(&mut machine), ["ack"]);
    }
}

#[test]
fn a_pod_that_cannot_be_served_is_tried_again_until_it_can() {
    let machine = then(vec![
        (Says(add("b", 2)), &["start b b 2"]),
        (Fails("b", "in use"), &["warn b in use", "nack in use"]),
    ]);
    assert_eq!(pending(&machine), ["b: in use"]);
    assert!(!machine.is_ready());
    assert_eq!(machine.timeout(), Some(5_000));

    let again = |end: Vec<(Step, &'static [&'static str])>| {
        let steps: Vec<(Step, &'static [&'static str])> = vec![
            (Says(add("b", 2)), &["start b b 2"]),
            (Fails("b", "in use"), &["warn b in use", "nack in use"]),
            (Time(4_999), &[]),
            (Time(5_000), &["start b b 2"]),
            (Fails("b", "in use"), &["debug b in use"]),
            (Time(10_000), &["start b b 2"]),
        ];
        then(steps.into_iter().chain(end).collect())
    };
    let machine = again(vec![]);
    assert_eq!(pending(&machine), ["b: in use"], "a try doesn't make it ready for a moment");
    assert!(again(vec![(Works("b"), &["recovered b"])]).is_ready());
    again(vec![(Fails("b", "gone"), &["warn b gone"])]);
    // istio-cni tries again, too, and finds a try under way, or none.
    again(vec![(Says(add("b", 2)), &[]), (Works("b"), &["recovered b", "ack"])]);
    let machine = again(vec![
        (Fails("b", "in use"), &["debug b in use"]),
        (Says(add("b", 3)), &["start b b 3"]),
        (Works("b"), &["recovered b", "ack"]),
    ]);
    assert_eq!(machine.timeout(), None);
    assert!(again(vec![(Fails("b", "in use"), &["debug b in use"]), (Says(del("b")), &["ack"])]).is_ready());
}

#[test]
fn a_del_is_answered_when_the_pod_is_gone() {
    let machine = then(vec![(Says(del("a")), &["stop a"]), (Stopped("a"), &["ack"])]);
    assert!(machine.pods.is_empty() && machine.is_ready());
    then(vec![(Says(del("unknown")), &["ack"])]);
}

#[test]
fn a_snapshot_removes_what_it_does_not_name() {
    let steps = || -> Vec<(Step, &'static [&'static str])> {
        vec![
            (Says(add("b", 2)), &["start b b 2"]),
            (Works("b"), &["ack"]),
            (Says(add("c", 3)), &["start c c 3"]),
            (Fails("c", "no"), &["warn c no", "nack no"]),
            (Says(add("d", 4)), &["start d d 4"]),
            (Fails("d", "no"), &["warn d no", "nack no"]),
            (Disconnected, &[]),
            (Connected, &[]),
            (Says(keep("b")), &["ack"]),
            (Says(keep("c")), &["ack"]),
            (Says(keep("unknown")), &["ack"]),
            (Says(Request::SnapshotSent), &["stop a"]),
        ]
    };
    let machine = then(steps());
    assert!(!machine.is_ready(), "before all is gone");
    let machine = then(steps().into_iter().chain([(Stopped("a"), &["ack", "complete"][..])]).collect());
    assert_eq!(served(&machine), ["b"]);
    assert_eq!(pending(&machine), ["c: no"]);
}

#[test]
fn a_del_within_the_snapshot_leaves_it_to_the_snapshot() {
    let machine = run(vec![
        (Connected, &[]),
        (Says(add("a", 1)), &["start a a 1"]),
        (Works("a"), &["ack"]),
        (Says(add("b", 2)), &["start b b 2"]),
        (Fails("b", "no"), &["warn b no", "nack no"]),
        (Says(del("a")), &["ack"]),
        (Says(del("b")), &["ack"]),
        (Says(del("unknown")), &["ack"]),
        (Says(Request::SnapshotSent), &["stop a"]),
        (Stopped("a"), &["ack", "complete"]),
    ]);
    assert!(machine.pods.is_empty() && machine.is_ready());
}

#[test]
fn what_comes_out_of_order_closes_the_connection_and_touches_no_pod() {
    let close = &["nack the snapshot has been sent before", "close OutOfOrder"];
    let machine = then(vec![(Says(Request::SnapshotSent), close)]);
    assert_eq!(served(&machine), ["a"]);
    assert!(!machine.is_ready() && !machine.is_busy());
    let close = &["nack a pod is kept, but the snapshot is over", "close OutOfOrder"];
    let machine = then(vec![(Says(keep("a")), close)]);
    assert_eq!(served(&machine), ["a"]);
    assert!(!machine.is_ready());
}

#[test]
fn a_lost_connection_touches_no_pod() {
    let machine = then(vec![
        (Says(add("b", 2)), &["start b b 2"]),
        (Fails("b", "no"), &["warn b no", "nack no"]),
        (Says(add("c", 3)), &["start c c 3"]),
        (Disconnected, &[]),
        (Works("c"), &[]),
        (Time(5_000), &["start b b 2"]),
        (Works("b"), &["recovered b"]),
    ]);
    assert_eq!(served(&machine), ["a", "b", "c"]);
    assert!(!machine.is_ready());
}

#[test]
fn what_was_begun_before_decides_no_more_than_it_must() {
    // For the one that starts while the connection is lost: what is said of it on the next one, and what follows.
    type Told = (Vec<(Step, &'static [&'static str])>, &'static [&'static str]);
    let told: Vec<Told> = vec![
        (vec![(Says(add("b", 2)), &[]), (Works("b"), &["ack"])], &["a", "b"]),
        (vec![(Says(add("b", 2)), &[]), (Fails("b", "no"), &["warn b no", "nack no"])], &["a"]),
        (
            vec![
                (Says(add("b", 9)), &[]),
                (Works("b"), &["stop b"]),
                (Stopped("b"), &["start b b 9"]),
                (Works("b"), &["ack"]),
            ],
            &["a", "b"],
        ),
        (
            vec![(Says(add("b", 9)), &[]), (Fails("b", "no"), &["start b b 9"]), (Works("b"), &["ack"])],
            &["a", "b"],
        ),
        (
            vec![
                (Says(Request::SnapshotSent), &[]),
                (Works("b"), &["stop b"]),
                (Stopped("b"), &["ack", "complete"]),
            ],
            &["a"],
        ),
        (vec![(Says(Request::SnapshotSent), &[]), (Fails("b", "no"), &["ack", "complete"])], &["a"]),
        (
            vec![
                (Says(keep("b")), &["ack"]),
                (Says(Request::SnapshotSent), &["ack", "complete"]),
                (Works("b"), &[]),
            ],
            &["a", "b"],
        ),
    ];
    for (steps, expected) in told {
        let before: Vec<(Step, &'static [&'static str])> = vec![
            (Says(add("b", 2)), &["start b b 2"]),
            (Disconnected, &[]),
            (Connected, &[]),
            (Says(keep("a")), &["ack"]),
        ];
        let machine = then(before.into_iter().chain(steps).collect());
        assert_eq!(served(&machine), expected);
    }
}

#[test]
fn one_that_stops_can_be_added_again() {
    then(vec![
        (Says(del("a")), &["stop a"]),
        (Disconnected, &[]),
        (Connected, &[]),
        (Says(add("a", 1)), &[]),
        (Stopped("a"), &["start a a 1"]),
        (Works("a"), &["ack"]),
    ]);
    // And deleted again before it's back.
    let machine = then(vec![
        (Says(add("a", 2)), &["stop a"]),
        (Disconnected, &[]),
        (Connected, &[]),
        (Says(Request::SnapshotSent), &[]),
        (Stopped("a"), &["ack", "complete"]),
    ]);
    assert!(machine.pods.is_empty());
}

#[test]
fn no_answer_is_late() {
    let add_b = || (Says(add("b", 2)), &["start b b 2"][..]);
    then(vec![add_b(), (Time(4_499), &[]), (Works("b"), &["ack"])]);
    assert_eq!(then(vec![add_b()]).timeout(), Some(4_500));
    let machine = then(vec![add_b(), (Time(4_500), &["close Late"])]);
    assert_eq!(pending(&machine), ["b: what was begun with this pod takes too long"]);
    assert!(!machine.is_busy() && !machine.is_ready());
    then(vec![(Says(del("a")), &["stop a"]), (Time(4_500), &["close Late"]), (Stopped("a"), &[])]);
    let reconcile = vec![
        (Disconnected, &[][..]),
        (Connected, &[]),
        (Says(Request::SnapshotSent), &["stop a"]),
        (Time(4_500), &["close Late"]),
        (Stopped("a"), &[]),
    ];
    assert!(!then(reconcile).is_ready());

    // The client may be late itself: the work is done, and its time is over all the same.
    let (mut machine, at) = (then(vec![add_b()]), 4_500);
    machine.started(&uid("b"), Ok(()), at);
    assert_eq!(actions(&mut machine), ["close Late"]);
    assert_eq!(served(&machine), ["a", "b"]);
}

#[test]
fn nobody_waits_for_what_is_stuck() {
    let machine = then(vec![
        (Says(add("b", 2)), &["start b b 2"]),
        (Time(4_500), &["close Late"]),
        (Connected, &[]),
        (Says(keep("a")), &["ack"]),
        (Says(add("b", 2)), &["nack what was begun with this pod takes too long"]),
        (Says(add("c", 3)), &["start c c 3"]),
        (Works("c"), &["ack"]),
        (Says(Request::SnapshotSent), &["ack", "complete"]),
    ]);
    assert_eq!(served(&machine), ["a", "c"]);
    assert!(!machine.is_ready(), "b is missing");

    let machine = then(vec![
        (Says(del("a")), &["stop a"]),
        (Time(4_500), &["close Late"]),
        (Connected, &[]),
        (Says(Request::SnapshotSent), &["ack", "complete"]),
        (Says(del("a")), &["nack what was begun with this pod takes too long"]),
        (Says(add("a", 1)), &["nack what was begun with this pod takes too long"]),
        (Stopped("a"), &["start a a 1"]),
        (Works("a"), &["recovered a"]),
    ]);
    assert!(machine.is_ready());
}

#[test]
fn a_drain_refuses_new_pods_and_removes_old_ones() {
    let machine = then(vec![
        (Says(add("b", 2)), &["start b b 2"]),
        (Fails("b", "no"), &["warn b no", "nack no"]),
        (Drain, &[]),
        (Time(60_000), &[]),
        (Says(add("b", 2)), &["nack draining"]),
        (Says(add("c", 3)), &["nack draining"]),
        (Says(add("a", 1)), &["ack"]),
        (Says(add("a", 2)), &["stop a", "nack draining"]),
        (Stopped("a"), &[]),
        (Says(del("a")), &["ack"]),
    ]);
    assert!(machine.pods.is_empty());
    assert_eq!(machine.timeout(), None);

    then(vec![(Drain, &[]), (Says(del("a")), &["stop a"]), (Stopped("a"), &["ack"])]);
    // What was begun before it ends as it can.
    let add_b = || (Says(add("b", 2)), &["start b b 2"][..]);
    then(vec![add_b(), (Drain, &[]), (Works("b"), &["ack"])]);
    let machine = then(vec![add_b(), (Drain, &[]), (Fails("b", "no"), &["nack no"])]);
    assert_eq!(machine.timeout(), None);
    then(vec![(Says(add("a", 2)), &["stop a"]), (Drain, &[]), (Stopped("a"), &["nack draining"])]);
    let machine = run(vec![
        (Connected, &[]),
        (Says(add("a", 1)), &["start a a 1"]),
        (Works("a"), &["ack"]),
        (Drain, &[]),
        (Says(Request::SnapshotSent), &["ack", "complete"]),
    ]);
    assert_eq!(served(&machine), ["a"]);
}
