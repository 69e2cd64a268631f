use std::collections::BTreeMap;

use super::*;

fn card(mode: &str) -> Card {
    let compatibility = BTreeMap::from([("mode".to_owned(), mode.to_owned())]);
    Card { pod: "istio-system/old".to_owned(), compatibility, roots: None }
}

fn caller(pod: &str, wants_role: bool) -> Hello {
    Card { pod: pod.to_owned(), ..card("shared") }.hello(wants_role, false, 0)
}

#[test]
fn whoever_could_take_or_give_something_is_welcome() {
    let (memory, card) = (Memory::default(), card("shared"));
    let ending = |pod| Hello { terminating: true, ..caller(pod, false) };
    assert_eq!(memory.verdict(&caller("new", true), &card, false), Verdict::Welcome);
    assert_eq!(memory.verdict(&caller("new", true), &card, true), Verdict::Welcome);
    assert_eq!(memory.verdict(&caller("standby", false), &card, true), Verdict::Welcome);
    assert_eq!(memory.verdict(&ending("standby"), &card, false), Verdict::Welcome);
    // Neither takes anything from the other, and somebody else may call.
    assert_eq!(memory.verdict(&ending("standby"), &card, true), Verdict::Busy);
}

#[test]
fn a_process_of_another_mode_is_none_of_ours() {
    let verdict = Memory::default().verdict(&caller("new", true), &card("dedicated"), false);
    let Verdict::Incompatible { reason } = verdict else { panic!("{verdict:?}") };
    assert!(reason.contains("dedicated"), "{reason}");
}

#[test]
fn the_role_does_not_go_back_to_a_restarted_container_of_the_old_pod() {
    let memory = Memory { predecessor: Some("old".to_owned()), ..Memory::default() };
    assert_eq!(memory.verdict(&caller("old", true), &card("shared"), false), Verdict::StayStandby);
    assert_eq!(memory.verdict(&caller("new", true), &card("shared"), false), Verdict::Welcome);
}

#[test]
fn whose_take_over_ended_in_a_crash_waits_longer_each_time() {
    let wait = |times, ago: Duration| {
        let last = Instant::now().checked_sub(ago).expect("the machine is up for longer");
        let memory =
            Memory { crashes: HashMap::from([("new".to_owned(), (times, last))]), ..Memory::default() };
        memory.verdict(&caller("new", true), &card("shared"), false)
    };
    for (times, seconds) in [(1, 10), (2, 20), (3, 40)] {
        let Verdict::Wait { ms } = wait(times, Duration::from_secs(1)) else { panic!("it need not wait") };
        assert!((seconds * 1_000 - 2_000..=seconds * 1_000).contains(&ms), "{times} times: {ms} ms");
        assert_eq!(wait(times, Duration::from_secs(seconds)), Verdict::Welcome);
    }
}
