//! The phases of a drain, without sockets, threads or a clock.

use crate::Counts;

/// Leads a process from its first signal to its end.
///
/// ```text
///            Terminate,                     the window is over, a foreign
///            Interrupt                      listener, ListenersGone
///   Serving ──────────▶ AwaitingSuccessor ─────────────────╮
///    │   ▲      │               ▲───── ListenersBack ────╮ │
///    │   │      ╰──── with a window of 0 ────────────────┤ │  deadline          none left, or
///    │   │ ListenersBack                                 ▼ ▼                    the cut takes too long
///    ▼   │               Terminate, Interrupt           Draining ─────▶ Cutting ─────▶ Ended
///   StandingBy ────────────────────────────────────────▶   │                             ▲
///      ListenersGone leads here from Serving               ╰─────────────────────────────╯
///                                                                 none left
/// ```
///
/// An Interrupt after the first signal leads to Ended from anywhere. A process accepts in Serving and AwaitingSuccessor.
///
/// The caller passes on what happens ([`handle`](Self::handle)), carries out what that returns, in order, and sends
/// a [`Tick`](Event::Tick) when [`next_tick_ms`](Self::next_tick_ms) is due. Times are milliseconds on one monotonic
/// clock. A tick that is early does nothing; one that is late catches up.
#[derive(Debug)]
pub struct DrainMachine {
    deadline_ms: u64,
    accept_window_ms: u64,
    left: Left,
    state: State,
}

impl DrainMachine {
    /// A process that serves, and that gets `deadline_ms` (see [`deadline_ms`](crate::deadline_ms)) to drain
    /// once it is told to end. Of that time it goes on accepting for `accept_window_ms` if nobody takes over before: a
    /// DaemonSet that surges starts the successor of a deleted pod only when that has been told to end.
    pub fn new(deadline_ms: u64, accept_window_ms: u64) -> Self {
        let accept_window_ms = accept_window_ms.min(deadline_ms);
        Self { deadline_ms, accept_window_ms, left: Left::default(), state: State::Serving }
    }

    /// Where the process is on its way.
    pub fn phase(&self) -> Phase {
        match self.state {
            State::Serving => Phase::Serving,
            State::StandingBy { .. } => Phase::StandingBy,
            State::AwaitingSuccessor { .. } => Phase::AwaitingSuccessor,
            State::Draining { .. } => Phase::Draining,
            State::Cutting { .. } => Phase::Cutting,
            State::Ended => Phase::Ended,
        }
    }

    /// When the next [`Tick`](Event::Tick) is wanted, if at all.
    pub fn next_tick_ms(&self) -> Option<u64> {
        match self.state {
            State::Serving | State::StandingBy { .. } | State::Ended => None,
            State::AwaitingSuccessor { until_ms, ending } => Some(until_ms.min(ending.progress.at_ms)),
            State::Draining { ending, .. } => Some(ending.cut_at_ms.min(ending.progress.at_ms)),
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
                self.accept_for_a_while(Ending::begin(now_ms, self.deadline_ms), now_ms)
            }
            // It was promised before the signal came.
            (State::Draining { ending, .. }, Event::ListenersBack) => self.accept_for_a_while(ending, now_ms),
            (State::Serving | State::StandingBy { .. }, Event::ListenersGone { handing_over }) => {
                self.state = State::StandingBy { handing_over };
                Vec::new()
            }
            (State::StandingBy { .. }, Event::ListenersBack) => {
                self.state = State::Serving;
                Vec::new()
            }
            (State::StandingBy { handing_over }, Event::Terminate | Event::Interrupt) => {
                self.drain(Ending::begin(now_ms, self.deadline_ms), !handing_over)
            }
            (
                State::AwaitingSuccessor { .. } | State::Draining { .. } | State::Cutting { .. },
                Event::Interrupt,
            ) => self.end(0),
            (State::AwaitingSuccessor { ending, .. }, Event::ListenersGone { handing_over }) => {
                self.drain(ending, !handing_over)
            }
            (State::AwaitingSuccessor { ending, .. }, Event::ForeignListener) => self.stop_accepting(ending),
            (State::AwaitingSuccessor { until_ms, ending }, Event::Tick) if now_ms >= until_ms => {
                self.stop_accepting(ending)
            }
            (State::AwaitingSuccessor { until_ms, ending }, Event::Tick)
                if now_ms >= ending.progress.at_ms =>
            {
                self.state = State::AwaitingSuccessor { until_ms, ending: ending.said(now_ms) };
                vec![self.progress(ending, Some(until_ms), now_ms)]
            }
            (State::Draining { ending, peers_told: false }, Event::ListenersGone { handing_over: false }) => {
                self.drain(ending, true)
            }
            (State::Draining { .. } | State::Cutting { .. }, _) if none_left => self.end(0),
            (State::Draining { ending, .. }, Event::Tick) if now_ms >= ending.cut_at_ms => {
                self.state = State::Cutting { exit_at_ms: now_ms.saturating_add(CUT_MS) };
                vec![Action::CutAll]
            }
            (State::Draining { ending, peers_told }, Event::Tick) if now_ms >= ending.progress.at_ms => {
                self.state = State::Draining { ending: ending.said(now_ms), peers_told };
                vec![self.progress(ending, None, now_ms)]
            }
            (State::Cutting { exit_at_ms }, Event::Tick) if now_ms >= exit_at_ms => self.end(1),
            // Not yet time; news of connections while there are some, or while more may come; a repeated Terminate (see
            // there); listeners of a process that is past them; the end.
            (
                State::Serving
                | State::StandingBy { .. }
                | State::AwaitingSuccessor { .. }
                | State::Draining { .. }
                | State::Cutting { .. }
                | State::Ended,
                _,
            ) => Vec::new(),
        }
    }

    fn accept_for_a_while(&mut self, ending: Ending, now_ms: u64) -> Vec<Action> {
        let until_ms = now_ms.saturating_add(self.accept_window_ms).min(ending.cut_at_ms);
        if until_ms <= now_ms {
            return self.stop_accepting(ending);
        }
        self.state = State::AwaitingSuccessor { until_ms, ending };
        vec![Action::AwaitSuccessor { for_ms: until_ms - now_ms }]
    }

    fn stop_accepting(&mut self, ending: Ending) -> Vec<Action> {
        self.state = State::Draining { ending, peers_told: true };
        vec![Action::StopAccepting, Action::TellPeers]
    }

    /// Without listeners of its own.
    fn drain(&mut self, ending: Ending, tell_peers: bool) -> Vec<Action> {
        self.state = State::Draining { ending, peers_told: tell_peers };
        if tell_peers { vec![Action::TellPeers] } else { Vec::new() }
    }

    fn progress(&self, ending: Ending, accepts_until_ms: Option<u64>, now_ms: u64) -> Action {
        Action::SayProgress {
            left: self.left,
            accepts_for_ms: accepts_until_ms.map(|until_ms| until_ms - now_ms),
            time_left_ms: ending.cut_at_ms - now_ms,
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
    /// How many connections there are. Send it before each tick, and in [`Phase::Draining`] as soon as the last one is
    /// gone ([`Registry::when_empty`](crate::Registry::when_empty)), but not before
    /// [`StopAccepting`](Action::StopAccepting) is carried out: what a listener still yields counts, too.
    ConnectionsLeft(Left),
    /// Another process has the listeners: this one accepts no more. Send it again when `handing_over` changes.
    ListenersGone {
        /// The connections may follow the listeners, and their peers notice nothing: they are told to go elsewhere only
        /// when that is over.
        handing_over: bool,
    },
    /// The other process is gone, or has given the role, and this one accepts (again).
    ListenersBack,
    /// Somebody else has listeners beside ours: what is new finds one.
    ForeignListener,
    /// The time asked for by [`DrainMachine::next_tick_ms`] has come.
    Tick,
}

/// The connections that a drain waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// How many there are.
    pub connections: usize,
    /// Of which kinds they are; read at another moment, so the sum may differ.
    pub kinds: Counts,
    /// How long the oldest of them has been open, in milliseconds; 0 if there is none.
    pub oldest_ms: u64,
}

/// What a process that drains must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Report not ready, and go on. Look out for a successor, and for foreign listeners.
    AwaitSuccessor {
        /// Until accepting stops without either.
        for_ms: u64,
    },
    /// Report not ready; take what the kernel has accepted already, then close the listeners. Established connections
    /// go on.
    StopAccepting,
    /// Tell HTTP/2 peers by GOAWAY that they should open nothing new here (RFC 9113 section 6.8).
    TellPeers,
    /// Say in the log how the drain is going: after 1 s, then at intervals that double.
    SayProgress {
        /// What the drain waits for, as last reported.
        left: Left,
        /// Time until accepting stops; None if it has.
        accepts_for_ms: Option<u64>,
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
    /// Nobody has, and another process accepts.
    StandingBy,
    /// It has been told to end, and accepts because nobody else does.
    AwaitingSuccessor,
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
    StandingBy { handing_over: bool },
    AwaitingSuccessor { until_ms: u64, ending: Ending },
    Draining { ending: Ending, peers_told: bool },
    Cutting { exit_at_ms: u64 },
    Ended,
}

/// What the first signal began.
#[derive(Clone, Copy, Debug)]
struct Ending {
    cut_at_ms: u64,
    progress: Progress,
}

impl Ending {
    fn begin(now_ms: u64, deadline_ms: u64) -> Self {
        Self { cut_at_ms: now_ms.saturating_add(deadline_ms), progress: Progress::first(now_ms) }
    }

    fn said(self, now_ms: u64) -> Self {
        Self { progress: self.progress.next(now_ms), ..self }
    }
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
mod tests;
