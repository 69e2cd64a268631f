use super::*;
use crate::proto::ResourceType::{Address, Authorization};
use crate::subscription::Stream::{Absent, Synced, Syncing};

/// A change of each name.
fn telling(generation: u64, names: &[&str]) -> Telling {
    let removed = |name: &&str| Change::Removed(Address, (*name).into());
    Telling::of(generation, names.iter().map(removed).collect())
}

fn names(telling: &Telling) -> String {
    let subjects = telling.changes().iter().filter_map(Change::subject);
    subjects.map(|(_, name)| &**name).collect::<Vec<_>>().join(" ")
}

/// Judges everything; our own stream has brought the same of these names.
fn judge(told: &mut Told, same: &[&str]) {
    while told.has_to_judge(Synced) {
        told.judge(|change| change.subject().is_some_and(|(_, name)| same.contains(&&**name)));
    }
}

fn brought(told: &mut Told, names: &[&str]) {
    let names: Vec<Arc<str>> = names.iter().map(|name| (*name).into()).collect();
    told.brought(Address, names.iter());
}

#[test]
fn without_a_stream_all_is_applied_in_order() {
    let mut told = Told::default();
    told.take(telling(0, &["a"]));
    told.take(telling(7, &["b"]));
    assert_eq!((told.next_to_apply(Syncing), told.next_to_apply(Synced)), (None, None));
    for (expected, generation, caught_up) in [("a", 0, 0), ("b", 7, 7)] {
        let next = told.next_to_apply(Absent).unwrap();
        assert_eq!((names(&next).as_str(), next.generation()), (expected, generation));
        told.applied(generation);
        assert_eq!(told.caught_up(), caught_up);
    }
    assert_eq!(told.next_to_apply(Absent), None);
}

#[test]
fn while_our_own_stream_syncs_nothing_is_decided() {
    let mut told = Told::default();
    told.take(telling(3, &["a"]));
    assert!(!told.has_to_judge(Syncing) && !told.has_to_judge(Absent) && told.has_to_judge(Synced));
    // What it brings is newer than what was told before.
    told.take(telling(4, &["b"]));
    brought(&mut told, &["a"]);
    assert_eq!(told.caught_up(), 0);
    assert_eq!(names(&told.next_to_apply(Absent).unwrap()), "");
    assert_eq!(names(&told.next_to_apply(Absent).unwrap()), "b");
}

#[test]
fn what_our_own_stream_says_too_is_caught_up_with_at_once() {
    let mut told = Told::default();
    told.take(telling(3, &["a", "b"]));
    judge(&mut told, &["a", "b"]);
    assert_eq!(told.caught_up(), 3);
    told.take(telling(4, &[]));
    judge(&mut told, &[]);
    assert_eq!(told.caught_up(), 4);
}

#[test]
fn what_it_does_not_say_is_waited_for_in_order() {
    let mut told = Told::default();
    told.take(telling(3, &["a", "b"]));
    told.take(telling(4, &["c"]));
    told.take(telling(5, &["d"]));
    judge(&mut told, &["b", "d"]);
    assert_eq!(told.caught_up(), 0);
    brought(&mut told, &["c"]);
    assert_eq!(told.caught_up(), 0);
    // Another type has nothing to do with it.
    told.brought(Authorization, ["a".into()].iter());
    assert_eq!(told.caught_up(), 0);
    brought(&mut told, &["x", "a"]);
    assert_eq!(told.caught_up(), 5);
}

#[test]
fn a_stream_that_is_ahead_of_what_is_told_agrees_in_the_end() {
    let mut told = Told::default();
    told.take(telling(3, &["a"]));
    judge(&mut told, &[]);
    told.take(telling(4, &["a"]));
    judge(&mut told, &["a"]);
    assert_eq!(told.caught_up(), 4);
}

#[test]
fn what_is_outstanding_is_applied_when_the_stream_ends() {
    let mut told = Told::default();
    told.take(telling(3, &["a", "b"]));
    judge(&mut told, &["b"]);
    told.take(telling(4, &["c"]));
    judge(&mut told, &[]);
    told.take(telling(5, &["d"]));
    for (expected, generation) in [("a", 3), ("c", 4), ("d", 5)] {
        assert_eq!(names(&told.next_to_apply(Absent).unwrap()), expected);
        told.applied(generation);
        assert_eq!(told.caught_up(), generation);
    }
}

#[test]
fn who_has_lost_something_never_catches_up() {
    let mut told = Told::default();
    told.take(telling(3, &["a"]));
    told.applied(2);
    told.next_to_apply(Absent);
    told.lost();
    told.take(telling(4, &["b"]));
    judge(&mut told, &["b"]);
    told.applied(5);
    assert_eq!(told.caught_up(), 2);
}
