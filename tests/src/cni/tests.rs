use tempfile::TempDir;

use super::peer::Peer;
use super::*;
use crate::wait::until_blocking;

/// An istio-cni with pods `a` and `b`, and its directory.
fn cni(timing: Timing) -> (Cni, TempDir) {
    let directory = tempfile::tempdir().expect("a directory");
    let cni = Cni::start(directory.path().join("zds"), timing).expect("it listens");
    cni.know("a", workload("a"), namespace());
    cni.know("b", workload("b"), namespace());
    (cni, directory)
}

fn workload(name: &str) -> WorkloadInfo {
    WorkloadInfo { name: name.to_owned(), namespace: "demo".to_owned(), service_account: name.to_owned() }
}

/// Any file can stand for one.
fn namespace() -> Arc<File> {
    Arc::new(File::open("/proc/self/ns/net").expect("a network namespace"))
}

/// A connection that has been accepted.
fn connected(cni: &Cni) -> Peer {
    let before = cni.connections();
    let peer = Peer::connect(cni.path()).expect("it listens");
    until_blocking("the connection is accepted", || cni.connections().last() > before.last());
    peer
}

/// A connection that has its snapshot.
fn settled(cni: &Cni) -> Peer {
    let snapshots = cni.statistics().snapshots;
    let peer = connected(cni);
    peer.agree_to_snapshot();
    until_blocking("the snapshot is agreed to", || cni.statistics().snapshots > snapshots);
    peer
}

const SHORT: Duration = Duration::from_millis(100);
/// Nothing is probed before a test is over.
const QUIET: Timing = Timing { keepalive: Duration::from_secs(600), ..Timing::UNLIMITED };

#[test]
fn a_snapshot_is_one_message_after_another() {
    let (cni, _directory) = cni(QUIET);
    cni.lose_namespace("b");
    let peer = connected(&cni);
    assert!(peer.hears_nothing(SHORT), "nothing precedes the hello");
    peer.hello().expect("a connection");
    let (first, descriptors) = peer.receive().expect("a message");
    let added = Payload::Add(Add { uid: "a".to_owned(), workload: Some(workload("a")) });
    assert_eq!((first.payload, descriptors.len()), (Some(added), 1));
    assert!(peer.hears_nothing(SHORT), "the second waits for the answer to the first");
    peer.answer("no room").expect("a connection");
    let (second, descriptors) = peer.receive().expect("a message");
    assert_eq!((&*second.title(), descriptors.len()), ("keep b", 0));
    peer.answer("").expect("a connection");
    assert_eq!(peer.agree(), "snapshot sent");
    until_blocking("the snapshot is agreed to", || cni.statistics().snapshots == 1);
    let statistics = cni.statistics();
    assert_eq!(statistics.answered(1), ["add a", "keep b", "snapshot sent"]);
    let refusals: Vec<_> = statistics.refusals().map(|answer| (&*answer.to, &*answer.error)).collect();
    assert_eq!(refusals, [("add a", "no room")]);
    assert_eq!((statistics.accepted, statistics.hellos, statistics.late), (1, 1, 0));
}

#[test]
fn a_new_pod_waits_for_the_latest_connections_snapshot_and_an_end_goes_to_all() {
    let (cni, _directory) = cni(QUIET);
    let old = settled(&cni);
    let new = connected(&cni);
    assert_eq!(cni.connections(), [1, 2], "it is the latest before it has said anything");
    thread::scope(|scope| {
        let adding = scope.spawn(|| cni.add("c", workload("c"), namespace()));
        until_blocking("the pod is known", || cni.shared.pods().contains_key("c"));
        assert!(new.hears_nothing(SHORT), "not before its hello");
        assert_eq!(new.agree_to_snapshot(), ["add a", "add b", "add c", "snapshot sent"]);
        assert!(!adding.is_finished(), "that it was part of the snapshot is no answer");
        assert_eq!(new.agree(), "add c");
        adding.join().expect("no panic").expect("a good answer");
        assert!(old.hears_nothing(SHORT), "only the latest is told");

        let deleting = scope.spawn(|| cni.delete("c"));
        let (asked, _) = old.receive().expect("a message");
        assert_eq!(asked.title(), "delete c");
        assert!(new.hears_nothing(SHORT), "one after the other");
        old.answer("is not here").expect("a connection");
        assert_eq!(new.agree(), "delete c");
        assert!(deleting.join().expect("no panic").is_ok(), "what they answer is only counted");
    });
    assert_eq!(cni.statistics().refusals().count(), 1);
}

#[test]
fn whoever_adds_a_pod_learns_what_the_proxy_says() {
    let (cni, _directory) = cni(QUIET);
    let nobody = cni.add("c", workload("c"), namespace());
    assert!(matches!(nobody, Err(UpdateError::NoConnection)), "{nobody:?}");
    let peer = settled(&cni);
    thread::scope(|scope| {
        let adding = scope.spawn(|| cni.add("d", workload("d"), namespace()));
        let (asked, descriptors) = peer.receive().expect("a message");
        assert_eq!((&*asked.title(), descriptors.len()), ("add d", 1));
        peer.answer("no room").expect("a connection");
        let refused = adding.join().expect("no panic").expect_err("it was refused");
        assert_eq!(refused.to_string(), "got ack error: no room");
    });
}

#[test]
fn when_the_latest_dies_the_one_before_is_the_latest() {
    let (cni, _directory) = cni(QUIET);
    let old = settled(&cni);
    drop(settled(&cni));
    // It shows when it is written to.
    let lost = cni.add("c", workload("c"), namespace()).expect_err("nobody is there");
    assert!(
        matches!(&lost, UpdateError::Packet(PacketError::Socket(error))
        if error.kind() == io::ErrorKind::BrokenPipe),
        "{lost:?}"
    );
    until_blocking("the connection is given up", || cni.connections() == [1]);
    thread::scope(|scope| {
        let adding = scope.spawn(|| cni.add("c", workload("c"), namespace()));
        assert_eq!(old.agree(), "add c");
        adding.join().expect("no panic").expect("a good answer");
    });
    assert_eq!(cni.statistics().protocol_errors, [""; 0]);
}

#[test]
fn a_probe_finds_the_end_and_what_should_not_come() {
    let (cni, _directory) = cni(Timing { keepalive: Duration::from_millis(20), ..Timing::UNLIMITED });
    let old = settled(&cni);
    drop(settled(&cni));
    until_blocking("the end is noticed", || cni.connections() == [1]);
    assert_eq!(cni.statistics().protocol_errors, [""; 0], "an end is none");
    old.answer("").expect("a connection");
    until_blocking("the connection is given up", || cni.connections().is_empty());
    assert_eq!(cni.statistics().protocol_errors, ["connection 1: an unexpected message"]);
    assert!(matches!(old.receive(), Err(PacketError::Ended)));
}

#[test]
fn a_late_answer_is_taken_for_that_to_the_next_message() {
    let (cni, _directory) = cni(Timing { deadline: SHORT, ..QUIET });
    let peer = settled(&cni);
    let late = cni.add("c", workload("c"), namespace()).expect_err("there is no answer");
    assert!(matches!(late, UpdateError::Packet(PacketError::Late)), "{late:?}");
    assert_eq!(peer.receive().expect("a message").0.title(), "add c");
    peer.answer("too late").expect("a connection");
    let wrong = cni.add("d", workload("d"), namespace()).expect_err("the answer to the other one");
    assert_eq!(wrong.to_string(), "got ack error: too late");
    let statistics = cni.statistics();
    assert_eq!((statistics.late, statistics.mispaired), (1, 1));
    assert_eq!(statistics.answers.last().map(|answer| &*answer.to), Some("add d"));
}

#[test]
fn connections_are_taken_at_a_limited_rate() {
    let begun = Instant::now();
    let (cni, _directory) = cni(Timing { accept: SHORT, ..QUIET });
    let _peers: Vec<_> = (0..4).map(|_| Peer::connect(cni.path()).expect("it listens")).collect();
    until_blocking("all are accepted", || cni.connections() == [1, 2, 3, 4]);
    assert!(begun.elapsed() >= 3 * SHORT, "four in {:?}", begun.elapsed());
}

#[test]
fn it_can_be_killed_and_started_again() {
    let (mut cni, _directory) = cni(QUIET);
    let peer = settled(&cni);
    cni.stop();
    assert!(matches!(peer.receive(), Err(PacketError::Ended)));
    assert!(cni.path().exists(), "the dead socket stays");
    let refused = Peer::connect(cni.path()).expect_err("nobody listens");
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    cni.restart().expect("the dead socket is no hindrance");
    let peer = connected(&cni);
    assert_eq!(cni.connections(), [2]);
    assert_eq!(peer.agree_to_snapshot(), ["add a", "add b", "snapshot sent"]);
}

#[test]
fn a_message_can_be_spoilt() {
    let after_hello = |fault| {
        let (cni, directory) = cni(QUIET);
        cni.spoil(0, fault);
        let peer = connected(&cni);
        peer.hello().expect("a connection");
        (peer, cni, directory)
    };
    let first = |fault| after_hello(fault).0.receive();
    let count = |fault| first(fault).expect("a message").1.len();
    assert!(matches!(first(Fault::Garbage), Err(PacketError::Malformed(_))));
    assert!(matches!(first(Fault::Half), Err(PacketError::Malformed(_))));
    assert!(matches!(first(Fault::Oversized), Err(PacketError::Truncated)));
    assert_eq!(count(Fault::NoDescriptor), 0);
    assert_eq!(count(Fault::TwoDescriptors), 2);
    assert_eq!(count(Fault::StrayDescriptor), 2);
    assert!(matches!(
        first(Fault::NoWorkload).expect("a message").0.payload,
        Some(Payload::Add(Add { workload: None, .. }))
    ));
    assert!(matches!(first(Fault::Close), Err(PacketError::Ended)));
    let (hung, cni, _directory) = after_hello(Fault::Hang);
    assert!(hung.hears_nothing(SHORT));
    assert_eq!(cni.connections(), [1]);
}

#[test]
fn the_middle_of_a_snapshot_can_be_spoilt() {
    let (cni, _directory) = cni(QUIET);
    cni.spoil(2, Fault::Close);
    let peer = connected(&cni);
    peer.hello().expect("a connection");
    assert_eq!([peer.agree(), peer.agree()], ["add a", "add b"]);
    assert!(matches!(peer.receive(), Err(PacketError::Ended)));
    // Only one message was to be spoilt.
    assert_eq!(connected(&cni).agree_to_snapshot().len(), 3);
}
