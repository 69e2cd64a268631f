//! What must be true at each moment, and in the end.

use super::*;

impl World {
    /// No process has it, and it is not on its way to one that could read it.
    pub(super) fn lock_is_free(&self) -> bool {
        let held = self.processes.iter().any(|process| process.lock);
        let on_its_way = self.processes.iter().flat_map(|process| &process.incoming);
        !held && !on_its_way.into_iter().any(Packet::gives_role)
    }

    /// The promises that hold at every moment.
    pub(super) fn check(&mut self) {
        let accepting = self.processes.iter().filter(|process| process.accepting).count();
        assert!(accepting <= 1, "{}", self.failed("two accept"));
        let locks = self.processes.iter().filter(|process| process.lock).count();
        assert!(locks <= 1, "{}", self.failed("two have the lock"));

        let mut owners = BTreeMap::<Connection, u32>::new();
        for process in &self.processes {
            let frozen = process.frozen.values().map(|(connection, _)| connection);
            let here = process.running.keys().chain(&process.freezing).chain(frozen);
            let committed = process.incoming.iter().filter_map(Packet::committed);
            for connection in here.copied().chain(committed) {
                *owners.entry(connection).or_default() += 1;
            }
        }
        for connection in 0..self.connections {
            let owners = owners.get(&connection).copied().unwrap_or_default();
            let ended = self.ended.contains(&connection);
            if owners != u32::from(!ended) {
                panic!(
                    "{}",
                    self.failed(&format!("connection {connection} has {owners} owners; ended: {ended}"))
                );
            }
        }
    }

    /// What must be true when everything has come to its end.
    pub(in super::super) fn check_settled(&self) {
        let alive: Vec<&Process> = self.processes.iter().filter(|process| process.alive).collect();
        if alive.iter().any(|process| !process.terminating) {
            let accepting = alive.iter().filter(|process| process.accepting).count();
            assert_eq!(accepting, 1, "{}", self.failed("somebody could accept, and nobody does"));
        }
        for process in &alive {
            let session = process.session.as_ref();
            if session.is_some_and(|session| !session.holds_role()) {
                assert!(!process.accepting, "{}", self.failed("it accepts without the role"));
            }
            assert_eq!(process.accepting, process.node_agent, "{}", self.failed("half of the role"));
            assert_eq!(process.accepting, process.lock, "{}", self.failed("half of the role"));
            assert!(
                process.freezing.is_empty() && process.frozen.is_empty(),
                "{}",
                self.failed("not settled")
            );
            let other = &self.processes[process.peer];
            let could_give = !process.gone && other.accepting && !other.terminating && !process.given_up;
            if could_give {
                let left = process.running.values().filter(|movable| **movable).count();
                assert_eq!(left, 0, "{}", self.failed("it keeps what could move"));
            }
            assert!(process.gone || !other.accepting || !process.accepting);
            let useless = !process.gone && process.terminating && other.terminating;
            assert!(!useless, "{}", self.failed("a session of two that end keeps others out"));
        }
    }
}
