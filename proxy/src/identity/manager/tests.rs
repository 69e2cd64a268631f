//! The manager on virtual time. Certificates are numbers, waiters are names.

use super::*;

mod forgetting;
mod patience;

type Test = Manager<u32, &'static str>;

const DAY: u64 = 24 * 3_600_000;
/// Unix time at which every test begins.
const BEGIN: u64 = 1_800_000_000_000;

/// A manager, a clock, and everything the manager wanted so far.
struct World {
    manager: Test,
    now: Now,
    published: BTreeMap<Identity, Lookup<u32>>,
    fetches: Vec<(Identity, u64)>,
    woken: Vec<&'static str>,
    reports: Vec<Report>,
}

impl World {
    fn new() -> Self {
        Self::seeded(1)
    }

    fn seeded(seed: u64) -> Self {
        Self {
            manager: Manager::new(fastrand::Rng::with_seed(seed)),
            now: Now { elapsed: 5_000, unix: BEGIN },
            published: BTreeMap::new(),
            fetches: Vec::new(),
            woken: Vec::new(),
            reports: Vec::new(),
        }
    }

    fn settle(&mut self) {
        while let Some(action) = self.manager.poll() {
            match action {
                Action::Fetch(identity, number) => self.fetches.push((identity, number)),
                Action::Publish(identity, lookup) => {
                    self.published.insert(identity, lookup);
                }
                Action::Withdraw(identity) => {
                    self.published.remove(&identity).expect("it was published");
                }
                Action::Wake(waiter) => self.woken.push(waiter),
                Action::Report(report) => self.reports.push(report),
            }
        }
    }

    fn request(&mut self, name: &str, waiter: &'static str) {
        self.manager.request(&id(name), waiter, self.now);
        self.settle();
    }

    /// As [`request`](Self::request), of an identity that the CA has had time to hear of.
    fn request_settled(&mut self, name: &str, waiter: &'static str) {
        self.request(name, waiter);
        self.advance(PATIENCE);
    }

    fn retain(&mut self, names: &[&str]) {
        self.manager.retain(names.iter().map(|name| id(name)).collect(), self.now);
        self.settle();
    }

    fn warm_up(&mut self, name: &str) {
        self.manager.warm_up(&id(name), self.now);
        self.settle();
    }

    /// The fetch of `name` succeeds with a certificate of this life from now on.
    fn sign(&mut self, name: &str, certificate: u32, life: u64) {
        let validity = Validity { not_before: self.now.unix, not_after: self.now.unix + life };
        self.finish(name, Ok(Issued { certificate, validity }));
    }

    fn fail(&mut self, name: &str, reason: &str) {
        self.finish(name, Err(reason.into()));
    }

    fn finish(&mut self, name: &str, outcome: Result<Issued<u32>, Arc<str>>) {
        let running = self.fetches.iter().position(|(identity, _)| *identity == id(name));
        let (identity, number) = self.fetches.remove(running.expect("it is being fetched"));
        self.manager.finished(&identity, number, outcome, self.now);
        self.settle();
    }

    fn advance(&mut self, millis: u64) {
        self.now.elapsed += millis;
        self.now.unix += millis;
        self.manager.handle_timeout(self.now);
        self.settle();
    }

    /// Jumps to the next deadline; returns how far it was.
    fn jump(&mut self) -> u64 {
        let wait = self.manager.timeout(self.now).expect("something is to come");
        self.advance(wait);
        wait
    }

    fn fetching(&self) -> Vec<String> {
        self.fetches.iter().map(|(identity, _)| identity.service_account().to_string()).collect()
    }

    fn published(&self) -> Vec<String> {
        self.published.keys().map(|identity| identity.service_account().to_string()).collect()
    }

    fn lookup(&self, name: &str) -> &Lookup<u32> {
        &self.published[&id(name)]
    }
}

fn id(name: &str) -> Identity {
    format!("spiffe://cluster.local/ns/default/sa/{name}").parse().unwrap()
}

#[test]
fn a_requester_is_woken_when_its_certificate_is_published() {
    let mut world = World::new();
    world.request("a", "first");
    world.request("a", "second");
    assert_eq!(world.fetching(), ["a"], "one fetch for an identity");
    assert_eq!(*world.lookup("a"), Lookup::Pending);
    assert!(world.woken.is_empty());
    world.sign("a", 1, DAY);
    assert_eq!(*world.lookup("a"), Lookup::Ready(1));
    assert_eq!(world.woken, ["first", "second"]);
    world.request("a", "third");
    assert_eq!(world.woken, ["first", "second", "third"]);
    assert!(world.fetches.is_empty() && world.reports.is_empty());
}

#[test]
fn it_is_published_before_anyone_is_woken() {
    let mut manager = Test::new(fastrand::Rng::with_seed(1));
    let now = Now { elapsed: 0, unix: BEGIN };
    manager.request(&id("a"), "first", now);
    while manager.poll().is_some() {}
    let validity = Validity { not_before: BEGIN, not_after: BEGIN + DAY };
    manager.finished(&id("a"), 1, Ok(Issued { certificate: 1, validity }), now);
    assert_eq!(manager.poll(), Some(Action::Publish(id("a"), Lookup::Ready(1))));
    assert_eq!(manager.poll(), Some(Action::Wake("first")));
    assert_eq!(manager.poll(), None);
}

#[test]
fn a_requester_is_woken_by_a_failure_and_later_ones_fail_fast() {
    let mut world = World::new();
    world.request_settled("a", "first");
    world.fail("a", "down");
    assert_eq!(*world.lookup("a"), Lookup::Unavailable("down".into()));
    assert_eq!(world.woken, ["first"]);
    world.request("a", "second");
    assert_eq!(world.woken, ["first", "second"]);
    assert!(world.fetches.is_empty(), "a request does not shorten the wait");
    world.jump();
    assert_eq!(world.fetching(), ["a"]);
    world.request("a", "third");
    assert_eq!(world.woken, ["first", "second", "third"], "fails fast until the next success");
    world.sign("a", 1, DAY);
    assert_eq!(*world.lookup("a"), Lookup::Ready(1));
}

#[test]
fn waiting_goes_before_warm_up_before_renewal() {
    let mut world = World::new();
    for name in ["old1", "old2"] {
        world.warm_up(name);
        world.sign(name, 1, DAY);
    }
    for name in ["b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7"] {
        world.warm_up(name);
    }
    assert_eq!(world.fetches.len(), MAX_FETCHES);
    world.advance(DAY * 3 / 5);
    assert_eq!(world.fetches.len(), MAX_FETCHES, "renewals are queued behind");
    world.warm_up("warm1");
    world.warm_up("warm2");
    world.request("wait1", "w");
    world.request("wait2", "w");
    world.request("warm2", "raised");
    world.request("old1", "has one: is served with it and raises nothing");

    let mut order = Vec::new();
    for name in ["b0", "b1", "b2", "b3", "b4", "b5"] {
        let before = world.fetching();
        world.sign(name, 1, DAY);
        let started = world.fetching().into_iter().find(|name| !before.contains(name));
        order.push(started.expect("a slot was free"));
        assert!(world.fetches.len() <= MAX_FETCHES);
    }
    // warm2 was queued before the two that wait, and now waits as well: first come, first served.
    assert_eq!(order[..4], ["warm2", "wait1", "wait2", "warm1"]);
    let mut renewals = order[4..].to_vec();
    renewals.sort();
    assert_eq!(renewals, ["old1", "old2"]);
}

#[test]
fn never_more_than_eight_at_a_time() {
    let names: Vec<String> = (0..50).map(|n| format!("n{n:02}")).collect();
    let mut world = World::new();
    for name in &names {
        world.request(name, "w");
    }
    world.advance(PATIENCE);
    let mut random = fastrand::Rng::with_seed(3);
    let mut ended = 0;
    while let Some((identity, _)) = world.fetches.first().cloned() {
        assert!(world.fetches.len() <= MAX_FETCHES);
        let name = identity.service_account().to_string();
        if random.bool() {
            world.sign(&name, 1, DAY);
        } else {
            world.fail(&name, "down");
        }
        ended += 1;
    }
    assert_eq!((ended, world.woken.len()), (50, 50));
}

#[test]
fn retries_double_with_jitter_up_to_the_cap() {
    for seed in 0..50 {
        let mut world = World::seeded(seed);
        world.request_settled("a", "w");
        for attempt in 0..14 {
            world.fail("a", "down");
            let wait = world.jump();
            let base = (1_000 << attempt).min(150_000);
            assert!(wait >= base * 4 / 5 && wait <= (base * 6 / 5).min(150_000), "seed {seed}: {wait} ms");
        }
        world.sign("a", 1, DAY);
        world.warm_up("b");
        world.advance(PATIENCE);
        world.fail("b", "down");
        assert!(world.jump() <= 1_200, "seed {seed}: each identity has its own count");
    }
}

#[test]
fn success_forgets_the_failures() {
    let mut world = World::new();
    world.request_settled("a", "w");
    for _ in 0..8 {
        world.fail("a", "down");
        world.jump();
    }
    world.sign("a", 1, DAY);
    world.advance(DAY * 3 / 5);
    world.fail("a", "down");
    assert!(world.jump() <= 1_200);
}

#[test]
fn it_is_renewed_at_half_life_and_the_new_one_is_published() {
    let mut world = World::new();
    world.request("a", "w");
    world.sign("a", 1, DAY);
    let wait = world.jump();
    assert!(wait.abs_diff(DAY / 2) <= DAY / 20, "{wait}");
    assert_eq!(world.fetching(), ["a"]);
    assert_eq!(*world.lookup("a"), Lookup::Ready(1));
    world.sign("a", 2, DAY);
    assert_eq!(*world.lookup("a"), Lookup::Ready(2));
}

#[test]
fn a_valid_certificate_outlives_the_ca_until_it_expires() {
    let mut world = World::new();
    world.request("a", "w");
    world.sign("a", 1, DAY);
    let expiry = world.now.unix + DAY;
    world.jump();
    let mut attempts = 0;
    while world.now.unix < expiry {
        assert_eq!(*world.lookup("a"), Lookup::Ready(1));
        if world.fetching() == ["a"] {
            attempts += 1;
            world.fail("a", "down");
        }
        world.jump();
    }
    assert!(attempts > 100, "{attempts}");
    assert_eq!(world.now.unix, expiry, "never later than expiry");
    assert_eq!(world.fetching(), ["a"], "the last attempt is at expiry");
    assert_eq!(*world.lookup("a"), Lookup::Unavailable("down".into()));
    let expired = Report::Expired { identity: id("a") };
    assert_eq!(world.reports.iter().filter(|report| **report == expired).count(), 1);
    world.sign("a", 2, DAY);
    assert_eq!(*world.lookup("a"), Lookup::Ready(2));
    assert_eq!(world.reports.last(), Some(&Report::Recovered));
}

#[test]
fn a_failure_is_said_once_for_all_and_recovery_once() {
    let mut world = World::new();
    for name in ["a", "b", "c"] {
        world.request(name, "w");
    }
    world.advance(PATIENCE);
    for _ in 0..5 {
        for name in ["a", "b", "c"] {
            world.fail(name, "down");
        }
        world.advance(200_000);
    }
    world.fail("b", "refused");
    let said: Vec<&Report> =
        world.reports.iter().filter(|report| matches!(report, Report::Failing { .. })).collect();
    let failing = |name, reason: &str| Report::Failing { identity: id(name), reason: reason.into() };
    assert_eq!(said, [&failing("a", "down"), &failing("b", "refused")]);

    world.advance(200_000);
    world.reports.clear();
    for name in ["a", "b", "c"] {
        assert_eq!(world.reports, []);
        world.sign(name, 1, DAY);
    }
    assert_eq!(world.reports, [Report::Recovered]);
}

#[test]
fn a_clock_that_jumps_ahead_renews_what_has_expired() {
    let mut world = World::new();
    world.request("a", "w");
    world.sign("a", 1, DAY);
    world.now.unix += 2 * DAY;
    world.advance(0);
    assert_eq!(*world.lookup("a"), Lookup::Pending, "nothing has failed: a connection may wait");
    assert_eq!(world.fetching(), ["a"]);
    world.request("a", "later");
    assert_eq!(world.woken, ["w"]);
    world.sign("a", 2, DAY);
    assert_eq!(world.woken, ["w", "later"]);
}

#[test]
fn a_clock_that_jumps_back_does_not_delay_retries() {
    let mut world = World::new();
    world.request_settled("a", "w");
    world.fail("a", "down");
    world.now.unix -= 300 * DAY;
    assert!(world.jump() <= 1_200);
    assert_eq!(world.fetching(), ["a"]);
}

#[test]
fn a_certificate_that_expires_while_its_renewal_fails_is_noticed_at_once() {
    let mut world = World::new();
    world.request("a", "w");
    world.sign("a", 1, 10_000);
    world.jump();
    assert_eq!(world.fetching(), ["a"]);
    world.now.unix += 20_000;
    world.fail("a", "down");
    assert_eq!(*world.lookup("a"), Lookup::Unavailable("down".into()));
}

#[test]
fn whoever_still_waits_can_be_taken_out() {
    let mut manager = Test::new(fastrand::Rng::with_seed(1));
    let now = Now { elapsed: 0, unix: BEGIN };
    manager.request(&id("a"), "a", now);
    manager.request(&id("b"), "b", now);
    manager.finished(&id("a"), 1, Err("down".into()), Now { elapsed: PATIENCE, ..now });
    assert_eq!(manager.take_waiters(), ["a", "b"]);
    assert!(manager.take_waiters().is_empty());
}
