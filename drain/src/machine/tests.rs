//! The machine on a clock that the test tells.

use super::*;

const START: u64 = 1_000_000;
const DEADLINE: u64 = 25_000;
const WINDOW: u64 = 12_000;
const SOME: Event = left_event(3);
const NONE: Event = left_event(0);
const GONE: Event = Event::ListenersGone { handing_over: false };
const HANDING_OVER: Event = Event::ListenersGone { handing_over: true };

const fn left_event(connections: usize) -> Event {
    Event::ConnectionsLeft(left(connections))
}

const fn left(connections: usize) -> Left {
    let oldest_ms = if connections == 0 { 0 } else { 70_000 };
    Left { connections, kinds: Counts::none(), oldest_ms }
}

/// Every state × event, at a time that is never due (0 ms after entering the state) and one that always is.
#[test]
fn every_transition() {
    use Phase::{AwaitingSuccessor as Awaiting, Cutting, Draining, Ended, Serving, StandingBy};
    let events = [
        Event::Terminate,
        Event::Interrupt,
        SOME,
        NONE,
        GONE,
        HANDING_OVER,
        Event::ListenersBack,
        Event::ForeignListener,
        Event::Tick,
    ];
    let phases = [Serving, StandingBy, Awaiting, Draining, Cutting, Ended];
    // Where something happens, early: the next state and the number of actions. Elsewhere nothing does.
    let changes = [
        (Serving, Event::Terminate, (Awaiting, 1)),
        (Serving, Event::Interrupt, (Awaiting, 1)),
        (Serving, GONE, (StandingBy, 0)),
        (Serving, HANDING_OVER, (StandingBy, 0)),
        (StandingBy, Event::Terminate, (Draining, 1)),
        (StandingBy, Event::Interrupt, (Draining, 1)),
        (StandingBy, Event::ListenersBack, (Serving, 0)),
        (Awaiting, Event::Interrupt, (Ended, 1)),
        (Awaiting, GONE, (Draining, 1)),
        (Awaiting, HANDING_OVER, (Draining, 0)),
        (Awaiting, Event::ForeignListener, (Draining, 2)),
        (Draining, Event::Interrupt, (Ended, 1)),
        (Draining, NONE, (Ended, 1)),
        (Draining, Event::ListenersBack, (Awaiting, 1)),
        (Cutting, Event::Interrupt, (Ended, 1)),
        (Cutting, NONE, (Ended, 1)),
    ];
    let late_ticks = [(Awaiting, (Draining, 2)), (Draining, (Cutting, 1)), (Cutting, (Ended, 1))];
    for phase in phases {
        for event in events {
            let change = changes.iter().find(|(from, when, _)| (*from, *when) == (phase, event));
            let expected = change.map_or((phase, 0), |(_, _, to)| *to);
            let (mut machine, now_ms) = machine_in(phase);
            let actions = machine.handle(event, now_ms);
            assert_eq!((machine.phase(), actions.len()), expected, "{phase:?}, {event:?}, early");
        }
        let expected = late_ticks.iter().find(|(from, _)| *from == phase).map_or((phase, 0), |(_, to)| *to);
        let (mut machine, now_ms) = machine_in(phase);
        let actions = machine.handle(Event::Tick, now_ms + DEADLINE);
        assert_eq!((machine.phase(), actions.len()), expected, "{phase:?}, late tick");
    }
}

#[test]
fn first_the_listeners_then_the_peers() {
    let mut machine = DrainMachine::new(DEADLINE, 0);
    assert_eq!(machine.next_tick_ms(), None);
    let actions = machine.handle(Event::Terminate, START);
    assert_eq!(actions, [Action::StopAccepting, Action::TellPeers]);
    assert_eq!(machine.phase(), Phase::Draining);
}

#[test]
fn ends_as_soon_as_nothing_is_left_and_nothing_can_come() {
    let mut machine = DrainMachine::new(DEADLINE, 0);
    machine.handle(Event::Terminate, START);
    assert_eq!(machine.handle(NONE, START + 1), [Action::Exit { code: 0 }]);
    assert_eq!(machine.next_tick_ms(), None);

    let mut machine = DrainMachine::new(DEADLINE, WINDOW);
    machine.handle(Event::Terminate, START);
    assert_eq!(machine.handle(NONE, START + 1), []);
    machine.handle(Event::ForeignListener, START + 2);
    assert_eq!(machine.handle(NONE, START + 3), [Action::Exit { code: 0 }]);
}

/// What a caller sees that sends every tick when it is wanted, and whose connections never end.
fn lives(mut machine: DrainMachine) -> Vec<(u64, Action)> {
    let mut said: Vec<_> =
        machine.handle(Event::Terminate, START).into_iter().map(|action| (0, action)).collect();
    machine.handle(SOME, START);
    while let Some(now_ms) = machine.next_tick_ms() {
        said.extend(machine.handle(Event::Tick, now_ms).into_iter().map(|action| (now_ms - START, action)));
    }
    said
}

fn progress(at_ms: u64, accepts_until_ms: Option<u64>) -> (u64, Action) {
    let accepts_for_ms = accepts_until_ms.map(|until_ms| until_ms - at_ms);
    (at_ms, Action::SayProgress { left: left(3), accepts_for_ms, time_left_ms: DEADLINE - at_ms })
}

#[test]
fn says_how_it_goes_then_cuts_then_ends() {
    assert_eq!(
        lives(DrainMachine::new(DEADLINE, 0)),
        [
            (0, Action::StopAccepting),
            (0, Action::TellPeers),
            progress(1_000, None),
            progress(2_000, None),
            progress(4_000, None),
            progress(8_000, None),
            progress(16_000, None),
            (25_000, Action::CutAll),
            (25_500, Action::Exit { code: 1 }),
        ]
    );
}

#[test]
fn the_window_is_part_of_the_deadline() {
    let window = |at_ms| progress(at_ms, Some(WINDOW));
    assert_eq!(
        lives(DrainMachine::new(DEADLINE, WINDOW)),
        [
            (0, Action::AwaitSuccessor { for_ms: WINDOW }),
            window(1_000),
            window(2_000),
            window(4_000),
            window(8_000),
            (12_000, Action::StopAccepting),
            (12_000, Action::TellPeers),
            progress(16_000, None),
            (25_000, Action::CutAll),
            (25_500, Action::Exit { code: 1 }),
        ]
    );
    let longest = lives(DrainMachine::new(5_000, u64::MAX));
    let last = &longest[longest.len() - 4..];
    let cut = [
        (5_000, Action::StopAccepting),
        (5_000, Action::TellPeers),
        (5_000, Action::CutAll),
        (5_500, Action::Exit { code: 1 }),
    ];
    assert_eq!(last, cut);
}

#[test]
fn peers_are_told_only_when_their_connections_cannot_follow_the_listeners() {
    // A successor takes the listeners, and then it can't take the connections.
    let (mut machine, now_ms) = machine_in(Phase::AwaitingSuccessor);
    assert_eq!(machine.handle(HANDING_OVER, now_ms), []);
    assert_eq!(machine.handle(GONE, now_ms + 1), [Action::TellPeers]);
    assert_eq!(machine.handle(GONE, now_ms + 2), []);
    assert_eq!(machine.handle(NONE, now_ms + 3), [Action::Exit { code: 0 }]);

    // It had them before.
    let (mut machine, now_ms) = machine_in(Phase::StandingBy);
    machine.handle(HANDING_OVER, now_ms);
    assert_eq!(machine.handle(Event::Terminate, now_ms), []);
    assert_eq!(machine.phase(), Phase::Draining);
    assert_eq!(machine.next_tick_ms(), Some(now_ms + 1_000));
    assert_eq!(machine.handle(NONE, now_ms + 1), [Action::Exit { code: 0 }]);

    let (mut machine, now_ms) = machine_in(Phase::StandingBy);
    assert_eq!(machine.handle(Event::Terminate, now_ms), [Action::TellPeers]);
}

#[test]
fn who_has_the_listeners_back_serves_as_ever() {
    let (mut machine, now_ms) = machine_in(Phase::StandingBy);
    machine.handle(Event::ListenersBack, now_ms);
    assert_eq!(machine.handle(Event::Terminate, now_ms), [Action::AwaitSuccessor { for_ms: WINDOW }]);
}

#[test]
fn a_cut_that_everyone_obeys_is_a_good_end() {
    let (mut machine, now_ms) = machine_in(Phase::Cutting);
    assert_eq!(machine.handle(NONE, now_ms + 1), [Action::Exit { code: 0 }]);
}

#[test]
fn a_second_interrupt_ends_at_once_and_a_second_terminate_never_shortens() {
    for phase in [Phase::AwaitingSuccessor, Phase::Draining] {
        let (mut machine, now_ms) = machine_in(phase);
        let wanted = machine.next_tick_ms();
        assert_eq!(machine.handle(Event::Terminate, now_ms + 10), []);
        assert_eq!(machine.next_tick_ms(), wanted);
        assert_eq!(machine.handle(Event::Interrupt, now_ms + 20), [Action::Exit { code: 0 }]);
    }
}

#[test]
fn the_longest_deadline_does_not_overflow() {
    for window in [0, u64::MAX] {
        let mut machine = DrainMachine::new(u64::MAX, window);
        machine.handle(Event::Terminate, START);
        for _ in 0..100 {
            let now_ms = machine.next_tick_ms().expect("it is on its way");
            assert!(matches!(machine.handle(Event::Tick, now_ms)[..], [Action::SayProgress { .. }]));
        }
    }
}

fn machine_in(phase: Phase) -> (DrainMachine, u64) {
    let mut machine = DrainMachine::new(DEADLINE, WINDOW);
    let mut now_ms = START;
    if phase == Phase::StandingBy {
        machine.handle(GONE, now_ms);
        return (machine, now_ms);
    }
    let way = [(Event::Terminate, 0), (Event::ForeignListener, 0), (Event::Tick, DEADLINE), (NONE, 0)];
    for (event, wait_ms) in way {
        if machine.phase() == phase {
            break;
        }
        now_ms += wait_ms;
        machine.handle(event, now_ms);
    }
    assert_eq!(machine.phase(), phase);
    (machine, now_ms)
}

/// A candidate was promised the role, and told to end before it came: it accepts until the other side has it back.
#[test]
fn a_role_that_comes_late_is_served_within_the_deadline() {
    let mut machine = DrainMachine::new(DEADLINE, WINDOW);
    machine.handle(GONE, START);
    machine.handle(Event::Terminate, START);
    let late = START + DEADLINE - 1_000;
    assert_eq!(machine.handle(Event::ListenersBack, late), [Action::AwaitSuccessor { for_ms: 1_000 }]);
    assert_eq!(machine.handle(NONE, late), []);
    assert_eq!(machine.handle(HANDING_OVER, late), []);
    assert_eq!(machine.handle(NONE, late), [Action::Exit { code: 0 }]);
}
