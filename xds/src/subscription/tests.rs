use super::*;
use crate::client::Termination;
use crate::proto::{ADDRESS, AUTHORIZATION};

const A: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

fn node() -> Node {
    Node { id: "ztunnel~x".to_owned(), ..Node::default() }
}

fn subscription(on_demand: bool) -> Subscription {
    let mut subscription = Subscription::new(node(), on_demand, fastrand::Rng::with_seed(7));
    subscription.begin(0);
    subscription
}

fn actions(subscription: &mut Subscription) -> Vec<Action> {
    std::iter::from_fn(|| subscription.poll()).collect()
}

fn sent(subscription: &mut Subscription) -> Vec<DeltaDiscoveryRequest> {
    let requests = actions(subscription).into_iter().filter_map(|action| match action {
        Action::Send(request) => Some(request),
        _ => None,
    });
    requests.collect()
}

fn reports(subscription: &mut Subscription) -> Vec<Report> {
    let reports = actions(subscription).into_iter().filter_map(|action| match action {
        Action::Report(report) => Some(report),
        _ => None,
    });
    reports.collect()
}

fn answer(type_url: &str, nonce: &str) -> Answer {
    Answer {
        type_url: type_url.to_owned(),
        nonce: nonce.to_owned(),
        accepted: Vec::new(),
        removed: Vec::new(),
        complaints: Vec::new(),
        answered: Vec::new(),
    }
}

fn accepting(type_url: &str, accepted: &[(&str, &str)]) -> Answer {
    let accepted = accepted.iter().map(|(name, version)| ((*name).into(), (*version).into())).collect();
    Answer { accepted, ..answer(type_url, "n") }
}

fn broken(reason: &str) -> Ending {
    Ending::Broken { reason: reason.to_owned(), usual: false }
}

fn versions(pairs: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    pairs.iter().map(|(name, version)| ((*name).to_owned(), (*version).to_owned())).collect()
}

/// Lets the back-off pass and connects.
fn connect(subscription: &mut Subscription, now: u64) {
    let now = subscription.timeout().map_or(now, |until| now.max(until));
    subscription.handle_timeout(now);
    actions(subscription);
    subscription.connected(A, now);
}

fn synced(on_demand: bool) -> Subscription {
    let mut subscription = subscription(on_demand);
    connect(&mut subscription, 0);
    if !on_demand {
        subscription.applied(answer(ADDRESS, "a"), 0);
    }
    subscription.applied(answer(AUTHORIZATION, "b"), 0);
    actions(&mut subscription);
    subscription
}

#[test]
fn each_transition() {
    type Event = fn(&mut Subscription);
    let phases: [(&str, Event); 5] = [
        ("Waiting", |s| *s = Subscription::new(node(), false, fastrand::Rng::with_seed(7))),
        ("BackingOff", |_| {}),
        ("Connecting", |s| s.handle_timeout(0)),
        ("Syncing", |s| connect(s, 0)),
        ("Synced", |s| *s = synced(false)),
    ];
    let name = |s: &Subscription| format!("{:?}", s.phase).split(' ').next().unwrap().to_owned();
    let events: [(&str, Event, [&str; 5]); 7] = [
        ("begin", |s| s.begin(0), ["BackingOff", "BackingOff", "Connecting", "Syncing", "Synced"]),
        ("later", |s| s.handle_timeout(9_999), ["Waiting", "Connecting", "Connecting", "Syncing", "Synced"]),
        (
            "silence",
            |s| s.handle_timeout(10_000),
            ["Waiting", "Connecting", "Connecting", "BackingOff", "Synced"],
        ),
        ("connected", |s| s.connected(A, 0), ["Syncing"; 5]),
        ("ended", |s| s.ended(&Ending::Complete, 0), ["BackingOff"; 5]),
        (
            "one type",
            |s| s.applied(answer(ADDRESS, "n"), 0),
            ["Waiting", "BackingOff", "Connecting", "Syncing", "Synced"],
        ),
        (
            "all types",
            |s| {
                s.applied(answer(AUTHORIZATION, "n"), 0);
                s.applied(answer(ADDRESS, "n"), 0);
            },
            ["Waiting", "BackingOff", "Connecting", "Synced", "Synced"],
        ),
    ];
    for (event, act, expected) in events {
        for ((before, reach), after) in phases.iter().zip(expected) {
            let mut subscription = subscription(false);
            reach(&mut subscription);
            assert_eq!(name(&subscription), *before);
            act(&mut subscription);
            assert_eq!(name(&subscription), after, "{event} in {before}");
        }
    }
}

#[test]
fn a_stream_begins_with_one_request_for_each_type() {
    let mut subscription = subscription(false);
    assert_eq!(subscription.timeout(), Some(0));
    subscription.handle_timeout(0);
    assert_eq!(actions(&mut subscription), [Action::Connect { avoid: None }]);
    subscription.connected(A, 3);
    let request = |node, type_url: &str| DeltaDiscoveryRequest {
        node,
        type_url: type_url.to_owned(),
        ..DeltaDiscoveryRequest::default()
    };
    let expected = [request(Some(node()), ADDRESS), request(None, AUTHORIZATION)].map(Action::Send);
    assert_eq!(actions(&mut subscription), expected);
    assert_eq!(subscription.timeout(), Some(10_003));
}

#[test]
fn a_response_is_acknowledged_by_its_nonce() {
    let mut subscription = synced(false);
    subscription.applied(answer(ADDRESS, "n7"), 0);
    let expected = DeltaDiscoveryRequest {
        type_url: ADDRESS.to_owned(),
        response_nonce: "n7".to_owned(),
        ..DeltaDiscoveryRequest::default()
    };
    assert_eq!(actions(&mut subscription), [Action::Send(expected)]);
}

#[test]
fn complaints_make_it_a_nack() {
    let mut subscription = synced(false);
    let complaint = |name: &str| Complaint { name: name.into(), reason: "is broken".to_owned() };
    let complaints = vec![complaint("a"), complaint("b")];
    subscription.applied(Answer { complaints, ..answer(ADDRESS, "n8") }, 0);
    let actions = actions(&mut subscription);
    let reasons = "a: is broken; b: is broken".to_owned();
    let refused = Report::Refused { type_url: ADDRESS.to_owned(), resources: 2, reasons: reasons.clone() };
    let Action::Send(nack) = &actions[1] else { panic!("{actions:?}") };
    assert_eq!(actions[0], Action::Report(refused));
    assert_eq!((&*nack.response_nonce, &*nack.type_url), ("n8", ADDRESS));
    let error = nack.error_detail.as_ref().unwrap();
    assert_eq!((error.code, &error.message), (3, &reasons));

    let many: Vec<_> = (0..1_000).map(|n| complaint(&format!("ä{n}"))).collect();
    for shift in ["", "x", "xy"] {
        let mut many = many.clone();
        many[0].reason.push_str(shift);
        let text = requests::joined(&many);
        assert!(text.len() < requests::MESSAGE_LIMIT + 32, "{}", text.len());
        assert!(text.ends_with("… (1000 in all)"), "{text}");
    }
}

#[test]
fn the_next_stream_tells_what_is_retained() {
    let mut subscription = synced(false);
    subscription.applied(accepting(ADDRESS, &[("a", "1"), ("b", "1"), ("c", "1"), ("d", "1")]), 0);
    subscription.applied(accepting(AUTHORIZATION, &[("n/p", "")]), 0);
    // `a` is changed, `b` removed, `c` cannot be read any more, `e` never could.
    let complaint = |name: &str| Complaint { name: name.into(), reason: String::new() };
    subscription.applied(
        Answer {
            removed: vec!["b".into()],
            complaints: vec![complaint("c"), complaint("e")],
            ..accepting(ADDRESS, &[("a", "2")])
        },
        0,
    );
    subscription.ended(&Ending::Complete, 0);
    // Was held back when the stream ended: counts, but nobody is there to be told.
    actions(&mut subscription);
    subscription.applied(accepting(ADDRESS, &[("f", "1")]), 0);
    assert_eq!(actions(&mut subscription), []);

    connect(&mut subscription, 0);
    let sent = sent(&mut subscription);
    let told: Vec<_> = sent.iter().map(|request| request.initial_resource_versions.clone()).collect();
    assert_eq!(
        told,
        [versions(&[("a", "2"), ("c", ""), ("d", "1"), ("e", ""), ("f", "1")]), versions(&[("n/p", "")])]
    );
    // Each stream has its own node.
    assert_eq!(sent[0].node, Some(node()));
}

#[test]
fn an_unknown_type_is_said_and_acknowledged() {
    let mut subscription = synced(false);
    subscription.applied(accepting("type.googleapis.com/x.Y", &[("a", "1")]), 0);
    let actions = actions(&mut subscription);
    let type_url = "type.googleapis.com/x.Y".to_owned();
    assert_eq!(actions[0], Action::Report(Report::UnknownType { type_url: type_url.clone() }));
    assert!(
        matches!(&actions[1], Action::Send(ack) if ack.type_url == type_url && ack.error_detail.is_none())
    );
    subscription.ended(&Ending::Complete, 0);
    connect(&mut subscription, 0);
    assert!(sent(&mut subscription).iter().all(|request| request.initial_resource_versions.is_empty()));
}

#[test]
fn on_demand_names_are_asked_for_once_and_again_on_the_next_stream() {
    let mut subscription = subscription(true);
    subscription.demand(&"early".into());
    connect(&mut subscription, 0);
    let requests = sent(&mut subscription);
    assert_eq!(requests[0].resource_names_subscribe, ["*", "early"]);
    assert_eq!(requests[0].resource_names_unsubscribe, ["*"]);
    assert!(requests[1].resource_names_subscribe.is_empty(), "policies stay wildcard");
    // Nothing more than the policies is waited for.
    subscription.applied(answer(AUTHORIZATION, "n"), 0);
    assert_eq!(subscription.phase, Phase::Synced { address: A });
    actions(&mut subscription);

    subscription.demand(&"net/10.0.0.1".into());
    subscription.demand(&"net/10.0.0.1".into());
    subscription.demand(&"early".into());
    let requests = sent(&mut subscription);
    assert_eq!(requests.len(), 1);
    assert_eq!((&*requests[0].type_url, &requests[0].node), (ADDRESS, &None));
    assert_eq!(requests[0].resource_names_subscribe, ["net/10.0.0.1"]);

    subscription.applied(Answer { answered: vec!["early".into()], ..answer(ADDRESS, "n") }, 0);
    let awaited: Vec<_> = subscription.awaited().iter().map(|name| &**name).collect();
    assert_eq!(awaited, ["net/10.0.0.1"]);
    subscription.ended(&Ending::Complete, 0);
    actions(&mut subscription);
    subscription.demand(&"late".into());
    assert_eq!(actions(&mut subscription), []);
    connect(&mut subscription, 0);
    let requests = sent(&mut subscription);
    assert_eq!(requests[0].resource_names_subscribe, ["*", "early", "late", "net/10.0.0.1"]);
}

#[test]
fn without_on_demand_everything_is_followed_anyway() {
    let mut subscription = synced(false);
    subscription.demand(&"net/10.0.0.1".into());
    assert_eq!(actions(&mut subscription), []);
}

#[test]
fn a_silent_stream_is_given_up_for_another_address() {
    let mut subscription = subscription(false);
    connect(&mut subscription, 0);
    actions(&mut subscription);
    // Any answer gives it more time, but all types must come.
    subscription.received(6_000);
    subscription.applied(answer(ADDRESS, "a"), 6_000);
    actions(&mut subscription);
    assert_eq!(subscription.timeout(), Some(16_000));
    subscription.handle_timeout(15_999);
    assert_eq!(actions(&mut subscription), []);
    subscription.handle_timeout(16_000);
    let actions_then = actions(&mut subscription);
    assert_eq!(actions_then[0], Action::Close);
    let failing = Report::Failing { reason: "no answer within 10 s".to_owned() };
    assert!(actions_then.contains(&Action::Report(failing)), "{actions_then:?}");
    let until = subscription.timeout().unwrap();
    assert!((16_000..=16_250).contains(&until), "{until}");
    subscription.handle_timeout(until);
    assert_eq!(actions(&mut subscription), [Action::Connect { avoid: Some(A) }]);

    // Twice more, with a refused connection in between: then it gets more time.
    for _ in 0..2 {
        subscription.ended(&Ending::NotConnected("refused".to_owned()), 0);
        connect(&mut subscription, 0);
        let silent_at = subscription.timeout().unwrap();
        subscription.handle_timeout(silent_at);
    }
    connect(&mut subscription, 0);
    let Phase::Syncing { silent_at, .. } = subscription.phase else { panic!() };
    subscription.handle_timeout(silent_at - 1);
    actions(&mut subscription);
    subscription.handle_timeout(silent_at);
    assert!(
        reports(&mut subscription).contains(&Report::Failing { reason: "no answer within 20 s".to_owned() })
    );
}

#[test]
fn attempts_are_spread_further_and_further_until_all_is_there() {
    let latest = |prepare: fn(&mut Subscription)| {
        let delays = (0..300).map(|seed| {
            let mut subscription = Subscription::new(node(), false, fastrand::Rng::with_seed(seed));
            subscription.begin(0);
            prepare(&mut subscription);
            subscription.ended(&Ending::Complete, 1_000_000);
            subscription.timeout().unwrap() - 1_000_000
        });
        delays.max().unwrap()
    };
    let fail_six_times = |subscription: &mut Subscription| {
        for _ in 0..6 {
            subscription.ended(&Ending::Complete, 0);
        }
    };
    assert!((200..=250).contains(&latest(|_| {})));
    assert!((14_000..=15_000).contains(&latest(fail_six_times)));
    // A connection alone is no success.
    assert!(
        latest(|subscription| {
            for _ in 0..6 {
                subscription.ended(&Ending::Complete, 0);
            }
            connect(subscription, 0);
            subscription.applied(answer(ADDRESS, "n"), 0);
        }) > 14_000
    );
    assert!(
        latest(|subscription| {
            for _ in 0..6 {
                subscription.ended(&Ending::Complete, 0);
            }
            connect(subscription, 0);
            subscription.applied(answer(ADDRESS, "n"), 0);
            subscription.applied(answer(AUTHORIZATION, "n"), 0);
        }) <= 250
    );
}

#[test]
fn an_outage_is_said_once() {
    let mut subscription = subscription(false);
    let failing = |reason: &str| Report::Failing { reason: reason.to_owned() };
    let terminated = Report::Terminated;
    let sync = |subscription: &mut Subscription, now| {
        subscription.connected(A, now);
        subscription.applied(answer(ADDRESS, "a"), now);
        subscription.applied(answer(AUTHORIZATION, "b"), now);
    };

    sync(&mut subscription, 5);
    assert_eq!(reports(&mut subscription), [Report::Connected { outage_ms: None }]);

    subscription.ended(&broken("cut"), 1_000);
    assert_eq!(reports(&mut subscription), [terminated(Termination::Error), failing("cut")]);
    subscription.ended(&broken("cut"), 2_000);
    let again = reports(&mut subscription);
    assert!(
        matches!(&again[..], [Report::Terminated(Termination::Error), Report::StillFailing { reason, .. }] if reason == "cut"),
        "{again:?}"
    );
    subscription.ended(&Ending::NotConnected("refused".to_owned()), 3_000);
    assert_eq!(reports(&mut subscription), [terminated(Termination::ConnectionError), failing("refused")]);
    subscription.ended(&broken("cut"), 4_000);
    assert!(!reports(&mut subscription).contains(&failing("cut")), "it was told before");
    for number in 0..100 {
        subscription.ended(&broken(&number.to_string()), 4_000);
    }
    let told =
        reports(&mut subscription).into_iter().filter(|report| matches!(report, Report::Failing { .. }));
    assert_eq!(told.count(), 14, "with the first two these are enough");
    sync(&mut subscription, 4_500);
    assert_eq!(reports(&mut subscription), [Report::Connected { outage_ms: Some(3_500) }]);

    subscription.ended(&Ending::Broken { reason: "draining".to_owned(), usual: true }, 9_000);
    assert_eq!(reports(&mut subscription), [terminated(Termination::Reconnect), failing("draining")]);
    subscription.ended(&Ending::Complete, 9_000);
    assert_eq!(
        reports(&mut subscription),
        [terminated(Termination::Complete), failing("the server ended the stream")]
    );
}

#[test]
fn what_was_learnt_begins_the_stream() {
    let mut subscription = Subscription::new(node(), true, fastrand::Rng::with_seed(7));
    assert_eq!((subscription.timeout(), subscription.stream()), (None, Stream::Absent));
    assert!(subscription.demand(&"net/a".into()) && !subscription.demand(&"net/a".into()));
    assert!(subscription.demand(&"net/b".into()));
    let answer = Answer { answered: vec!["net/a".into()], ..accepting(ADDRESS, &[("a", "v1"), ("b", "")]) };
    subscription.learnt(&answer);
    assert_eq!(actions(&mut subscription), []);
    assert_eq!(subscription.awaited().iter().map(|name| &**name).collect::<Vec<_>>(), ["net/b"]);
    subscription.begin(5);
    assert_eq!(subscription.timeout(), Some(5));
    connect(&mut subscription, 5);
    let [addresses, _] = &sent(&mut subscription)[..] else { panic!("two requests") };
    assert_eq!(addresses.initial_resource_versions, versions(&[("a", "v1"), ("b", "")]));
    assert_eq!(addresses.resource_names_subscribe, ["*", "net/a", "net/b"]);
}
