//! Random lives: an istio-cni that follows its protocol, pods that start and stop when they like, connections that break
//! anywhere.

use std::collections::BTreeMap;

use super::*;

const PODS: [&str; 5] = ["a", "b", "c", "d", "e"];

/// What the client and its host see of the machine, checked at every step.
#[derive(Default)]
struct World {
    /// The host's view of a pod, by uid.
    hosted: BTreeMap<Arc<str>, Hosted>,
    connected: bool,
    /// Messages that were not answered on this connection.
    unanswered: usize,
    completed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Hosted {
    Starting(u64),
    Served(u64),
    Stopping,
}

impl World {
    /// Takes the machine's actions as a client does, and checks that each is allowed now.
    fn take(&mut self, machine: &mut Machine) {
        while let Some(action) = machine.poll() {
            match action {
                Action::Start { uid, namespace, .. } => {
                    let former = self.hosted.insert(uid, Hosted::Starting(namespace));
                    assert_eq!(former, None, "a pod is started that is there");
                }
                Action::Stop { uid } => {
                    let former = self.hosted.insert(uid, Hosted::Stopping);
                    assert!(matches!(former, Some(Hosted::Served(_))), "{former:?} is stopped");
                }
                Action::Answer(_) => {
                    assert!(self.connected, "an answer to nobody");
                    self.unanswered = self.unanswered.checked_sub(1).expect("a second answer");
                }
                Action::Close(Reason::Late) => {
                    assert!(self.connected && self.unanswered == 1);
                    (self.connected, self.unanswered) = (false, 0);
                }
                Action::Close(Reason::OutOfOrder) => panic!("this istio-cni keeps the order"),
                Action::Report(Report::SnapshotComplete) => self.completed = true,
                Action::Report(_) => {}
            }
        }
        assert_eq!(
            machine.is_busy(),
            self.unanswered == 1,
            "a message is answered, or it keeps the machine busy"
        );
    }

    /// One operation of the host ends, if there is one.
    fn settle(&mut self, machine: &mut Machine, random: &mut fastrand::Rng, failures: f64, now: u64) {
        let operations = self.hosted.iter().filter(|(_, hosted)| !matches!(hosted, Hosted::Served(_)));
        let operations: Vec<_> = operations.map(|(uid, hosted)| (uid.clone(), *hosted)).collect();
        let Some((uid, hosted)) = random.choice(operations) else { return };
        match hosted {
            Hosted::Starting(_) if random.f64() < failures => {
                self.hosted.remove(&uid);
                machine.started(&uid, Err("no".into()), now);
            }
            Hosted::Starting(namespace) => {
                self.hosted.insert(uid.clone(), Hosted::Served(namespace));
                machine.started(&uid, Ok(()), now);
            }
            Hosted::Stopping => {
                self.hosted.remove(&uid);
                machine.stopped(&uid, now);
            }
            Hosted::Served(_) => {}
        }
        self.take(machine);
    }

    fn served(&self) -> BTreeMap<Arc<str>, u64> {
        let served = self.hosted.iter().filter_map(|(uid, hosted)| match hosted {
            Hosted::Served(namespace) => Some((uid.clone(), *namespace)),
            _ => None,
        });
        served.collect()
    }

    /// Says one message, and waits until it is answered or the connection is lost.
    fn say(
        &mut self,
        machine: &mut Machine,
        request: Request<(NamespaceId, u64)>,
        random: &mut fastrand::Rng,
        calm: bool,
        now: &mut u64,
    ) {
        self.unanswered += 1;
        machine.message(request, *now);
        self.take(machine);
        while self.unanswered > 0 {
            *now += random.u64(..if calm { 100 } else { 900 });
            match random.u8(..10) {
                0 if !calm => return self.disconnect(machine),
                1..=4 => machine.handle_timeout(*now),
                _ => self.settle(machine, random, if calm { 0.0 } else { 0.3 }, *now),
            }
            self.take(machine);
        }
    }

    /// The connection goes to another machine with all pods, or comes back, if that can be now.
    fn hand_over(&mut self, machine: &mut Machine, random: &mut fastrand::Rng, now: u64) {
        let busy = self.hosted.values().any(|hosted| !matches!(hosted, Hosted::Served(_)));
        match machine.release() {
            Ok(at_rest) => {
                assert!(!busy && machine.timeout().is_none());
                assert_eq!(machine.active(), self.hosted.len());
                if random.bool() {
                    *machine = Machine::new();
                }
                machine.adopt(at_rest, now);
                self.take(machine);
            }
            Err(why) => assert!(busy, "{why}"),
        }
    }

    fn disconnect(&mut self, machine: &mut Machine) {
        machine.disconnected();
        assert_eq!(machine.poll(), None, "a lost connection is nothing to do");
        (self.connected, self.unanswered) = (false, 0);
        self.take(machine);
    }
}

#[test]
fn whatever_happens_in_the_end_the_named_pods_are_served() {
    for seed in 0..3_000 {
        let random = &mut fastrand::Rng::with_seed(seed);
        let (mut machine, mut world, mut now) = (Machine::new(), World::default(), 0);
        // What lives on the node, and in which namespace.
        let mut cluster: BTreeMap<Arc<str>, u64> = BTreeMap::new();
        let connections = random.u32(1..6);
        for connection in 0..=connections {
            // On the last one nothing fails.
            let calm = connection == connections;
            if calm {
                // What is under way ends, so that nothing is late.
                while world.hosted.values().any(|hosted| !matches!(hosted, Hosted::Served(_))) {
                    world.settle(&mut machine, random, 0.0, now);
                }
            }
            machine.connected();
            assert_eq!(machine.poll(), None, "a new connection is nothing to do");
            (world.connected, world.completed) = (true, false);
            let mut snapshot: Vec<_> = cluster.clone().into_iter().collect();
            random.shuffle(&mut snapshot);
            for (uid, namespace) in snapshot {
                let known = world.served().get(&uid) == Some(&namespace);
                let request = if known && random.bool() { keep(&uid) } else { add(&uid, namespace) };
                if world.connected {
                    world.say(&mut machine, request, random, calm, &mut now);
                }
            }
            if world.connected {
                world.say(&mut machine, Request::SnapshotSent, random, calm, &mut now);
            }
            for _ in 0..random.u32(..12) {
                let pod = PODS[random.usize(..PODS.len())];
                let request = if cluster.remove(pod).is_some() && random.bool() {
                    del(pod)
                } else {
                    let namespace = random.u64(1..4);
                    cluster.insert(pod.into(), namespace);
                    add(pod, namespace)
                };
                if world.connected {
                    assert!(world.completed);
                    if random.u8(..4) == 0 {
                        world.hand_over(&mut machine, random, now);
                    }
                    world.say(&mut machine, request, random, calm, &mut now);
                }
            }
            if !calm && world.connected {
                world.disconnect(&mut machine);
            }
        }
        assert!(world.connected, "seed {seed}: nothing was late on the last connection");
        // Who is pending is tried again.
        for _ in 0..20 {
            now += RETRY_AFTER;
            machine.handle_timeout(now);
            world.take(&mut machine);
            world.settle(&mut machine, random, 0.0, now);
        }
        assert_eq!(world.served(), cluster, "seed {seed}");
        assert!(machine.is_ready() && machine.active() == cluster.len(), "seed {seed}");
        assert_eq!(machine.pending().count(), 0);
    }
}
