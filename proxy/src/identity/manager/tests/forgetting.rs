//! Which entries stay, and that none stays for ever.

use super::*;

#[test]
fn what_is_not_wanted_any_more_is_forgotten() {
    let mut world = World::new();
    for name in ["a", "b"] {
        world.request(name, "w");
        world.sign(name, 1, DAY);
    }
    world.advance(MEMORY);
    world.retain(&["a", "never-asked-for"]);
    assert_eq!(world.published(), ["a"]);
    assert!(world.fetches.is_empty(), "nothing is fetched for being wanted");
    world.jump();
    assert_eq!(world.fetching(), ["a"], "the other one is not renewed");
    world.retain(&[]);
    assert!(world.published().is_empty());
    assert_eq!(world.manager.timeout(world.now), None);
}

#[test]
fn everything_is_wanted_until_somebody_says() {
    let mut world = World::new();
    world.request("a", "w");
    world.sign("a", 1, 4 * DAY);
    world.advance(DAY);
    assert_eq!(world.published(), ["a"]);
}

#[test]
fn who_waits_is_answered_first_and_finds_the_answer() {
    let mut world = World::new();
    world.request("a", "w");
    world.retain(&[]);
    world.advance(PATIENCE);
    assert_eq!(world.published(), ["a"]);
    world.sign("a", 1, DAY);
    assert_eq!(world.woken, ["w"]);
    assert_eq!(*world.lookup("a"), Lookup::Ready(1));
    let wait = world.jump();
    assert_eq!((wait, world.published().len()), (MEMORY - PATIENCE, 0));
}

#[test]
fn who_waits_longer_than_an_identity_is_remembered_is_answered_too() {
    let mut world = World::new();
    world.retain(&[]);
    world.request("a", "w");
    world.advance(2 * MEMORY);
    assert_eq!(world.published(), ["a"]);
    world.fail("a", "down");
    assert_eq!(world.woken, ["w"]);
    assert!(world.published().is_empty());
}

#[test]
fn what_was_asked_for_before_it_was_wanted_stays() {
    for ask in [|world: &mut World| world.request("new", "w"), |world: &mut World| world.warm_up("new")] {
        let mut world = World::new();
        world.retain(&["old"]);
        ask(&mut world);
        world.sign("new", 1, DAY);
        world.advance(MEMORY - 1);
        world.retain(&["old"]);
        assert_eq!(*world.lookup("new"), Lookup::Ready(1));
        world.retain(&["old", "new"]);
        world.advance(MEMORY);
        assert_eq!(*world.lookup("new"), Lookup::Ready(1));
    }
}

#[test]
fn a_fetch_of_a_forgotten_identity_ends_in_nothing() {
    let mut world = World::new();
    world.warm_up("a");
    world.advance(MEMORY);
    world.retain(&[]);
    assert!(world.published().is_empty());
    world.sign("a", 1, DAY);
    assert!(world.published().is_empty());
    assert_eq!(world.manager.timeout(world.now), None);

    world.warm_up("a");
    assert_eq!(world.fetching(), ["a"], "its place is free again");
    world.fail("a", "down");
    assert_eq!(world.published(), ["a"]);
}

#[test]
fn an_identity_that_comes_back_is_fetched_anew() {
    let mut world = World::new();
    world.warm_up("a");
    world.advance(MEMORY);
    world.retain(&[]);
    world.retain(&["a"]);
    world.request("a", "w");
    assert_eq!(world.fetching(), ["a", "a"]);
    // `sign` ends the older of them.
    world.sign("a", 1, DAY);
    assert_eq!(*world.lookup("a"), Lookup::Pending, "that was asked for somebody who is gone");
    world.sign("a", 2, DAY);
    assert_eq!(*world.lookup("a"), Lookup::Ready(2));
    assert_eq!(world.woken, ["w"]);
}

#[test]
fn fetches_of_the_forgotten_keep_their_places_until_they_end() {
    let mut world = World::new();
    for name in ["b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7"] {
        world.warm_up(name);
    }
    world.advance(MEMORY);
    world.retain(&["a"]);
    world.request("a", "w");
    assert_eq!(world.fetches.len(), MAX_FETCHES);
    world.fail("b3", "down");
    assert_eq!(world.fetches.len(), MAX_FETCHES);
    assert!(world.fetching().contains(&"a".to_owned()));
    assert!(world.reports.is_empty(), "nobody misses what is forgotten: {:?}", world.reports);
}

/// Whatever is called in whatever order: who asked a moment ago is remembered, who waits is answered, and in the end only
/// what is wanted is left.
#[test]
fn no_order_of_calls_leaks_or_forgets_too_early() {
    const NAMES: [&str; 4] = ["a", "b", "c", "d"];
    for seed in 0..300 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut world = World::seeded(seed);
        let (mut asked, mut wanted) = (0, Vec::new());
        let mut last_asked = BTreeMap::new();
        for _ in 0..200 {
            let name = NAMES[random.usize(..NAMES.len())];
            match random.u8(0..10) {
                0..2 => {
                    world.request(name, name);
                    asked += 1;
                    last_asked.insert(name, world.now.elapsed);
                }
                2 => {
                    world.warm_up(name);
                    last_asked.insert(name, world.now.elapsed);
                }
                3 => {
                    wanted = NAMES.into_iter().filter(|_| random.bool()).collect();
                    world.retain(&wanted);
                }
                4..7 if !world.fetches.is_empty() => {
                    let running = random.usize(..world.fetches.len());
                    let name = world.fetches[running].0.service_account().to_string();
                    if random.bool() {
                        world.sign(&name, 1, random.u64(2_000..DAY));
                    } else {
                        world.fail(&name, "down");
                    }
                }
                7 if world.manager.timeout(world.now).is_some() => {
                    world.jump();
                }
                _ => world.advance(random.u64(0..4_000)),
            }
            assert!(world.fetches.len() <= MAX_FETCHES, "seed {seed}");
            for (name, at) in &last_asked {
                let recent = world.now.elapsed < at + MEMORY;
                assert!(!recent || world.published.contains_key(&id(name)), "seed {seed}: {name} is in use");
            }
        }
        world.retain(&wanted);
        while let Some((identity, _)) = world.fetches.first().cloned() {
            world.sign(identity.service_account(), 1, DAY);
        }
        world.advance(MEMORY);
        assert_eq!(world.woken.len(), asked, "seed {seed}: everybody is answered");
        let left = world.published();
        assert!(
            left.iter().all(|name| wanted.contains(&name.as_str())),
            "seed {seed}: {left:?} of {wanted:?}"
        );
    }
}
