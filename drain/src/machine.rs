//! The phases of a drain, without sockets, threads or a clock.

/// Leads a process from its first signal to its end.
///
/// ```text
///            Terminate, Interrupt         deadline             none left, or
///   Serving ─────────────────────▶ Draining ───────▶ Cutting ──────────────────▶ Ended
///                                     │                 │     the cut takes       ▲
///                                     │                 │     too long            │
///                                     ╰─────────────────┴─────────────────────────╯
///                                        none left, or Interrupt
/// ```
///
/// The caller passes on what happens ([`handle`](Self::handle)), carries out what that returns, in order, and sends
/// a [`Tick`](Event::Tick) when [`next_tick_ms`](Self::next_tick_ms) is due. Times are milliseconds on one monotonic
/// clock. A tick that is early does nothing; one that is late catches up.
#[derive(Debug)]
pub struct DrainMachine {
    deadline_ms: u64,
    left: Left,
    state: State,
}

impl DrainMachine {
    /// A process that serves, and that gets `deadline_ms` (see [`deadline_ms`](crate::deadline_ms)) to drain
    /// once it is told to end.
    pub fn new(deadline_ms: u64) -> Self {
        Self { deadline_ms, left: Left::default(), state: State::Serving }
    }

    /// Where the process is on its way.
    pub fn phase(&self) -> Phase {
        match self.state {
            State::Serving => Phase::Serving,
            State::Draining { .. } => Phase::Draining,
            State::Cutting { .. } => Phase::Cutting,
            State::Ended => Phase::Ended,
        }
    }

    /// When the next [`Tick`](Event::Tick) is wanted, if at all.
    pub fn next_tick_ms(&self) -> Option<u64> {
        match self.state {
            State::Serving | State::Ended => None,
            State::Draining { cut_at_ms, progress, .. } => Some(cut_at_ms.min(progress.at_ms)),
            State::Cutting { exit_at_ms } => Some(exit_at_ms),
        }
    }

    /// Takes in what happened at `now_ms`; returns what to do, in order.
    pub fn handle(&mut self, event: Event, now_ms: u64) -> Vec<Action> {
        if let Event::ConnectionsLeft(left) = event {
            self.left = left;
        }
        let none_left = matches!(event, Event::ConnectionsLeft(left) if left.connections == 0);
        match (self.state, event) {
            (State::Serving, Event::Terminate | Event::Interrupt) => {
                let cut_at_ms = now_ms.saturating_add(self.deadline_ms);
                self.state = State::Draining { cut_at_ms, progress: Progress::first(now_ms) };
                vec![Action::StopAccepting, Action::TellPeers]
            }
            (State::Draining { .. } | State::Cutting { .. }, Event::Interrupt) => self.end(0),
            (State::Draining { .. } | State::Cutting { .. }, _) if none_left => self.end(0),
            (State::Draining { cut_at_ms, .. }, Event::Tick) if now_ms >= cut_at_ms => {
                self.state = State::Cutting { exit_at_ms: now_ms.saturating_add(CUT_MS) };
                vec![Action::CutAll]
            }
            (State::Draining { cut_at_ms, progress }, Event::Tick) if now_ms >= progress.at_ms => {
                self.state = State::Draining { cut_at_ms, progress: progress.next(now_ms) };
                vec![Action::SayProgress { left: self.left, time_left_ms: cut_at_ms - now_ms }]
            }
            (State::Cutting { exit_at_ms }, Event::Tick) if now_ms >= exit_at_ms => self.end(1),
            // Not yet time; news of connections while there are some; a repeated Terminate (see there); the end.
            (State::Serving | State::Draining { .. } | State::Cutting { .. } | State::Ended, _) => Vec::new(),
        }
    }

    fn end(&mut self, code: u8) -> Vec<Action> {
        self.state = State::Ended;
        vec![Action::Exit { code }]
    }
}

/// What a process that drains is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// SIGTERM, or a request on the admin port. Only the first one counts: a kubelet that is restarted during a drain
    /// sends SIGTERM again, and that must not cost any connection the time that it was promised.
    Terminate,
    /// SIGINT, from someone at a keyboard: the first drains, the second ends the process at once.
    Interrupt,
    /// How many connections there are. Send it before each tick, and as soon as the last one is gone
    /// ([`Registry::when_empty`](crate::Registry::when_empty)), but not before
    /// [`StopAccepting`](Action::StopAccepting) is carried out: what a listener still yields counts, too.
    ConnectionsLeft(Left),
    /// The time asked for by [`DrainMachine::next_tick_ms`] has come.
    Tick,
}

/// The connections that a drain waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// How many there are.
    pub connections: usize,
    /// How long the oldest of them has been open, in milliseconds; 0 if there is none.
    pub oldest_ms: u64,
}

/// What a process that drains must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Report not ready; take what the kernel has accepted already, then close the listeners. Established connections
    /// go on.
    StopAccepting,
    /// Tell HTTP/2 peers by GOAWAY that they should open nothing new here (RFC 9113 section 6.8).
    TellPeers,
    /// Say in the log how the drain is going: after 1 s, then at intervals that double.
    SayProgress {
        /// What the drain waits for, as last reported.
        left: Left,
        /// Time until the rest is cut.
        time_left_ms: u64,
    },
    /// The deadline has come: say which connections are left, and close them.
    CutAll,
    /// End the process.
    Exit {
        /// The process's exit code: 0, also when the deadline cut connections (who set it wanted that); 1 if the
        /// cut itself hung.
        code: u8,
    },
}

/// Where a process is on its way to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nobody has told it to end.
    Serving,
    /// Established connections go on until the deadline; nothing new is accepted.
    Draining,
    /// What was left at the deadline is being closed.
    Cutting,
    /// It should be gone.
    Ended,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Serving,
    Draining { cut_at_ms: u64, progress: Progress },
    Cutting { exit_at_ms: u64 },
    Ended,
}

/// When the next word about progress is due, and how long after that the following one.
#[derive(Clone, Copy, Debug)]
struct Progress {
    at_ms: u64,
    then_after_ms: u64,
}

impl Progress {
    fn first(now_ms: u64) -> Self {
        Self { at_ms: now_ms.saturating_add(1_000), then_after_ms: 1_000 }
    }

    fn next(self, now_ms: u64) -> Self {
        Self {
            at_ms: now_ms.saturating_add(self.then_after_ms),
            then_after_ms: self.then_after_ms.saturating_mul(2).min(PROGRESS_MAX_MS),
        }
    }
}

/// Closing is a matter of one turn of each worker. Half a second is ample for it, and still ends before a kubelet that
/// kills 1 s after the deadline.
const CUT_MS: u64 = 500;

/// A drain of an hour should still show a sign of life each minute.
const PROGRESS_MAX_MS: u64 = 60_000;

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_000_000;
    const DEADLINE: u64 = 25_000;
    const SOME: Event = Event::ConnectionsLeft(Left { connections: 3, oldest_ms: 70_000 });
    const NONE: Event = Event::ConnectionsLeft(Left { connections: 0, oldest_ms: 0 });

    /// Every state × event, at a time that is never due (0 ms after entering the state) and one that always is.
    #[test]
    fn every_transition() {
        use Phase::{Cutting, Draining, Ended, Serving};
        let events = [Event::Terminate, Event::Interrupt, SOME, NONE, Event::Tick];
        let table = [
            // state, then for each event: the next state and the number of actions; early | late
            (Serving, [(Draining, 2), (Draining, 2), (Serving, 0), (Serving, 0), (Serving, 0)], (Serving, 0)),
            (Draining, [(Draining, 0), (Ended, 1), (Draining, 0), (Ended, 1), (Draining, 0)], (Cutting, 1)),
            (Cutting, [(Cutting, 0), (Ended, 1), (Cutting, 0), (Ended, 1), (Cutting, 0)], (Ended, 1)),
            (Ended, [(Ended, 0), (Ended, 0), (Ended, 0), (Ended, 0), (Ended, 0)], (Ended, 0)),
        ];
        for (phase, early, late_tick) in table {
            for (event, expected) in events.into_iter().zip(early) {
                let (mut machine, now_ms) = machine_in(phase);
                let actions = machine.handle(event, now_ms);
                assert_eq!((machine.phase(), actions.len()), expected, "{phase:?}, {event:?}, early");
            }
            let (mut machine, now_ms) = machine_in(phase);
            let actions = machine.handle(Event::Tick, now_ms + DEADLINE);
            assert_eq!((machine.phase(), actions.len()), late_tick, "{phase:?}, late tick");
        }
    }

    #[test]
    fn first_the_listeners_then_the_peers() {
        let mut machine = DrainMachine::new(DEADLINE);
        assert_eq!(machine.next_tick_ms(), None);
        let actions = machine.handle(Event::Terminate, START);
        assert_eq!(actions, [Action::StopAccepting, Action::TellPeers]);
    }

    #[test]
    fn ends_as_soon_as_nothing_is_left() {
        let mut machine = DrainMachine::new(DEADLINE);
        machine.handle(Event::Terminate, START);
        assert_eq!(machine.handle(NONE, START + 1), [Action::Exit { code: 0 }]);
        assert_eq!(machine.next_tick_ms(), None);
    }

    /// What a caller sees that sends every tick when it is wanted, and whose connections never end.
    #[test]
    fn says_how_it_goes_then_cuts_then_ends() {
        let mut machine = DrainMachine::new(DEADLINE);
        machine.handle(Event::Terminate, START);
        machine.handle(SOME, START);
        let mut said = Vec::new();
        while let Some(now_ms) = machine.next_tick_ms() {
            for action in machine.handle(Event::Tick, now_ms) {
                said.push((now_ms - START, action));
            }
        }
        let left = Left { connections: 3, oldest_ms: 70_000 };
        let progress = |at_ms| (at_ms, Action::SayProgress { left, time_left_ms: DEADLINE - at_ms });
        assert_eq!(
            said,
            [
                progress(1_000),
                progress(2_000),
                progress(4_000),
                progress(8_000),
                progress(16_000),
                (25_000, Action::CutAll),
                (25_500, Action::Exit { code: 1 }),
            ]
        );
    }

    #[test]
    fn a_cut_that_everyone_obeys_is_a_good_end() {
        let (mut machine, now_ms) = machine_in(Phase::Cutting);
        assert_eq!(machine.handle(NONE, now_ms + 1), [Action::Exit { code: 0 }]);
    }

    #[test]
    fn a_second_interrupt_ends_at_once_and_a_second_terminate_never_shortens() {
        let (mut machine, now_ms) = machine_in(Phase::Draining);
        let wanted = machine.next_tick_ms();
        assert_eq!(machine.handle(Event::Terminate, now_ms + 10), []);
        assert_eq!(machine.next_tick_ms(), wanted);
        assert_eq!(machine.handle(Event::Interrupt, now_ms + 20), [Action::Exit { code: 0 }]);
    }

    #[test]
    fn the_longest_deadline_does_not_overflow() {
        let mut machine = DrainMachine::new(u64::MAX);
        machine.handle(Event::Terminate, START);
        for _ in 0..100 {
            let now_ms = machine.next_tick_ms().expect("it drains");
            assert!(matches!(machine.handle(Event::Tick, now_ms)[..], [Action::SayProgress { .. }]));
        }
    }

    fn machine_in(phase: Phase) -> (DrainMachine, u64) {
        let mut machine = DrainMachine::new(DEADLINE);
        let mut now_ms = START;
        for (event, wait_ms) in [(Event::Terminate, 0), (Event::Tick, DEADLINE), (NONE, 0)] {
            if machine.phase() == phase {
                break;
            }
            now_ms += wait_ms;
            machine.handle(event, now_ms);
        }
        assert_eq!(machine.phase(), phase);
        (machine, now_ms)
    }
}
