//! An identity that the CA hasn't heard of yet.

use super::*;

#[test]
fn a_new_identity_is_waited_for_over_refusals() {
    let mut world = World::new();
    world.request("a", "first");
    world.fail("a", "pod not found");
    world.request("a", "second");
    assert_eq!(*world.lookup("a"), Lookup::Pending);
    assert!(world.woken.is_empty());
    let wait = world.jump();
    assert!((800..=1_200).contains(&wait), "the next attempt is near: {wait} ms");
    assert_eq!(world.fetching(), ["a"]);
    world.sign("a", 1, DAY);
    assert_eq!(world.woken, ["first", "second"]);
    let told = world.reports.iter().filter(|report| !matches!(report, Report::Retrying { .. })).count();
    assert_eq!(told, 0, "nothing has happened: {:?}", world.reports);
}

#[test]
fn patience_ends_with_an_answer_for_everybody_and_one_line() {
    let mut world = World::new();
    world.request("a", "a");
    world.request("b", "b");
    for name in ["a", "b"] {
        world.fail(name, "pod not found");
    }
    world.advance(PATIENCE - 1);
    assert!(world.woken.is_empty());
    assert_eq!(*world.lookup("a"), Lookup::Pending);
    world.advance(1);
    assert_eq!(world.woken, ["a", "b"], "although both are being fetched again: {:?}", world.fetching());
    for name in ["a", "b"] {
        assert_eq!(*world.lookup(name), Lookup::Unavailable("pod not found".into()));
    }
    let failing: Vec<&Report> =
        world.reports.iter().filter(|report| matches!(report, Report::Failing { .. })).collect();
    assert_eq!(failing, [&Report::Failing { identity: id("a"), reason: "pod not found".into() }]);
    for name in ["a", "b"] {
        assert!(!world.reports.contains(&Report::Recovered));
        world.sign(name, 1, DAY);
    }
    assert_eq!(world.reports.last(), Some(&Report::Recovered));
}

#[test]
fn an_attempt_that_ends_later_is_an_answer_at_once() {
    let mut world = World::new();
    world.request("a", "a");
    world.now.elapsed += PATIENCE;
    world.fail("a", "no answer within 10 s");
    assert_eq!(world.woken, ["a"]);
    assert_eq!(*world.lookup("a"), Lookup::Unavailable("no answer within 10 s".into()));
}

#[test]
fn an_identity_that_had_a_certificate_is_not_new() {
    let mut world = World::new();
    world.request("a", "first");
    world.sign("a", 1, 2_000);
    while *world.lookup("a") == Lookup::Ready(1) {
        if world.fetching() == ["a"] {
            world.fail("a", "down");
        }
        world.jump();
    }
    assert_eq!(*world.lookup("a"), Lookup::Unavailable("down".into()), "at {} ms", world.now.elapsed);
    world.request("a", "second");
    assert_eq!(world.woken, ["first", "second"]);
}
