use xds::{Store, local};

use super::*;

mod model;
mod recorded;

fn judge(policies: &str, names: &str, identity: &str, source: &str, destination: &str) -> Decision {
    let yaml = format!(
        "{{policies: [{policies}], workloads: [{{uid: u, namespace: shop, authorizationPolicies: [{names}]}}]}}"
    );
    let config = local::load(&yaml).unwrap_or_else(|error| panic!("{yaml}: {error}"));
    let store = Store::new();
    store.update(|edit| config.apply(edit));
    let snapshot = store.load();
    let identity = (!identity.is_empty()).then(|| identity.parse().unwrap());
    let peer = Peer {
        source: source.parse().unwrap(),
        identity: identity.as_ref(),
        destination: destination.parse().unwrap(),
    };
    let destination = snapshot.workload_by_uid("u").unwrap();
    let decision = decide(&snapshot, destination, &peer);
    assert_eq!(authorize(&snapshot, destination, &peer), decision.verdict);
    decision
}

const WEB: &str = "spiffe://td/ns/shop/sa/web";

/// One policy with one match, against a connection of `WEB` from 10.0.0.1 to 10.0.0.2:80.
fn matches(one: &str, action: &str, identity: &str) -> bool {
    let policy =
        format!("{{name: p, namespace: shop, scope: Namespace, action: {action}, rules: [[[{{{one}}}]]]}}");
    let verdict = judge(&policy, "", identity, "10.0.0.1:999", "10.0.0.2:80").verdict;
    match action {
        "Deny" => verdict == Verdict::DeniedBy("shop/p".into()),
        _ => verdict == Verdict::Allow,
    }
}

#[test]
fn every_form_of_a_match() {
    // What a field says; whether it fits WEB; whether it fits plain text.
    let forms = [
        ("namespaces", "Exact: shop", true, false),
        ("namespaces", "Exact: sho", false, false),
        ("namespaces", "Prefix: sh", true, false),
        ("namespaces", "Prefix: hop", false, false),
        ("namespaces", "Suffix: op", true, false),
        ("namespaces", "Suffix: sho", false, false),
        ("namespaces", "Presence: []", true, false),
        ("serviceAccounts", "{namespace: shop, serviceAccount: web}", true, false),
        ("serviceAccounts", "{namespace: data, serviceAccount: web}", false, false),
        ("serviceAccounts", "{namespace: shop, serviceAccount: db}", false, false),
        ("principals", "Exact: td/ns/shop/sa/web", true, false),
        ("principals", "Exact: 'spiffe://td/ns/shop/sa/web'", false, false),
        ("principals", "Prefix: td/ns/shop/", true, false),
        ("principals", "Prefix: ''", true, false),
        ("principals", "Suffix: /sa/web", true, false),
        ("principals", "Suffix: /sa/db", false, false),
        ("principals", "Presence: []", true, false),
        ("sourceIps", "10.0.0.1/32", true, true),
        ("sourceIps", "10.0.0.0/24", true, true),
        ("sourceIps", "10.0.1.0/24", false, false),
        ("sourceIps", "0.0.0.0/0", true, true),
        ("sourceIps", "'::/0'", false, false),
        ("destinationIps", "10.0.0.2/32", true, true),
        ("destinationIps", "10.0.0.1/32", false, false),
        ("destinationPorts", "80", true, true),
        ("destinationPorts", "999", false, false),
    ];
    for (field, value, fits_web, fits_plain) in forms {
        let not_field = format!("not{}{}", field[..1].to_uppercase(), &field[1..]);
        for action in ["Allow", "Deny"] {
            for (identity, fits) in [(WEB, fits_web), ("", fits_plain)] {
                let case = format!("{action} {field} {value} against {identity:?}");
                assert_eq!(matches(&format!("{field}: [{value}]"), action, identity), fits, "{case}");
                assert_eq!(
                    matches(&format!("{not_field}: [{value}]"), action, identity),
                    !fits,
                    "not: {case}"
                );
            }
        }
    }
}

#[test]
fn values_of_a_field_are_alternatives_and_fields_add_up() {
    for (one, expected) in [
        ("destinationPorts: [79, 80]", true),
        ("destinationPorts: [79, 81]", false),
        ("notDestinationPorts: [79, 81]", true),
        ("notDestinationPorts: [79, 80]", false),
        ("destinationPorts: [80], notSourceIps: [10.0.0.0/8]", false),
        ("destinationPorts: [80], sourceIps: [10.0.0.0/8]", true),
        ("destinationPorts: [80], notDestinationPorts: [80]", false),
    ] {
        for action in ["Allow", "Deny"] {
            assert_eq!(matches(one, action, WEB), expected, "{action} {one}");
        }
    }
}

#[test]
fn mapped_addresses_are_their_ipv4() {
    let policy = "{name: p, namespace: shop, scope: Namespace, action: Deny, rules: [[[{sourceIps: [10.0.0.0/8], destinationIps: [10.0.0.2/32]}]]]}";
    let verdict = judge(policy, "", "", "[::ffff:10.0.0.1]:9", "[::ffff:10.0.0.2]:80").verdict;
    assert_eq!(verdict, Verdict::DeniedBy("shop/p".into()));
}

/// Rules are alternatives, clauses add up, matches are alternatives; what is left out, at each level.
#[test]
fn structure_of_a_policy() {
    const YES: &str = "{destinationPorts: [80]}";
    const NO: &str = "{destinationPorts: [81]}";
    for (rules, allow_matches, deny_matches) in [
        (String::new(), false, false),
        ("[]".into(), true, true),
        ("[[]]".into(), true, true),
        ("[[{}]]".into(), false, true),
        (format!("[[{{}}, {NO}]]"), false, true),
        (format!("[[{{}}, {YES}]]"), true, true),
        (format!("[[{{}}], [{YES}]]"), false, true),
        (format!("[[{{}}], [{NO}]]"), false, false),
        (format!("[[{YES}, {NO}]]"), true, true),
        (format!("[[{YES}], [{NO}]]"), false, false),
        (format!("[[{YES}], [{YES}]]"), true, true),
        (format!("[[{NO}]], [[{YES}]]"), true, true),
        (format!("[[{NO}]], [[{NO}]]"), false, false),
    ] {
        for (action, expected) in [("Allow", allow_matches), ("Deny", deny_matches)] {
            let policy =
                format!("{{name: p, namespace: shop, scope: Namespace, action: {action}, rules: [{rules}]}}");
            let verdict = judge(&policy, "", WEB, "10.0.0.1:9", "10.0.0.2:80").verdict;
            let expected = match (action, expected) {
                ("Allow", true) | ("Deny", false) => Verdict::Allow,
                ("Allow", false) => Verdict::NotAllowed,
                _ => Verdict::DeniedBy("shop/p".into()),
            };
            assert_eq!(verdict, expected, "{action} {rules}");
        }
    }
}

#[test]
fn policies_together() {
    let policy = |name: &str, scope: &str, action: &str, port: u16, more: &str| {
        format!(
            "{{name: {name}, namespace: shop, scope: {scope}, action: {action}, rules: [[[{{destinationPorts: [{port}]}}]]]{more}}}"
        )
    };
    let denied = |name: &str| Verdict::DeniedBy(name.into());
    let unknown = Verdict::UnknownPolicy("root/gone".into());
    let dry = ", dryRun: true";
    for (name, policies, names, verdict, dry_run) in [
        ("none", vec![], "", Verdict::Allow, vec![]),
        (
            "one allows",
            vec![policy("a", "Namespace", "Allow", 80, ""), policy("b", "Namespace", "Allow", 81, "")],
            "",
            Verdict::Allow,
            vec![],
        ),
        ("none allows", vec![policy("a", "Namespace", "Allow", 81, "")], "", Verdict::NotAllowed, vec![]),
        (
            "deny before allow",
            vec![policy("a", "Global", "Allow", 80, ""), policy("b", "Global", "Deny", 80, "")],
            "",
            denied("shop/b"),
            vec![],
        ),
        ("not selected", vec![policy("a", "WorkloadSelector", "Deny", 80, "")], "", Verdict::Allow, vec![]),
        (
            "selected",
            vec![policy("a", "WorkloadSelector", "Deny", 80, "")],
            "shop/a",
            denied("shop/a"),
            vec![],
        ),
        ("unknown", vec![], "root/gone", unknown.clone(), vec![]),
        (
            "unknown, though one allows",
            vec![policy("a", "Namespace", "Allow", 80, "")],
            "root/gone",
            unknown.clone(),
            vec![],
        ),
        (
            "unknown, and one denies",
            vec![policy("a", "Namespace", "Deny", 80, "")],
            "root/gone",
            denied("shop/a"),
            vec![],
        ),
        (
            "dry-run deny",
            vec![policy("a", "Namespace", "Deny", 80, dry)],
            "",
            Verdict::Allow,
            vec![DryRun::Deny("shop/a".into())],
        ),
        (
            "dry-run deny, no match",
            vec![policy("a", "Namespace", "Deny", 81, dry)],
            "",
            Verdict::Allow,
            vec![],
        ),
        (
            "dry-run allow",
            vec![policy("a", "Namespace", "Allow", 80, dry)],
            "",
            Verdict::Allow,
            vec![DryRun::Allow("shop/a".into())],
        ),
        (
            "dry-run allow, no match",
            vec![policy("a", "Namespace", "Allow", 81, dry)],
            "",
            Verdict::Allow,
            vec![DryRun::NoneAllows],
        ),
        (
            "a dry-run allow does not allow",
            vec![policy("a", "Namespace", "Allow", 80, dry), policy("b", "Namespace", "Allow", 81, "")],
            "",
            Verdict::NotAllowed,
            vec![DryRun::Allow("shop/a".into())],
        ),
        (
            "a dry-run allow without match beside an enforced one",
            vec![policy("a", "Namespace", "Allow", 81, dry), policy("b", "Namespace", "Allow", 80, "")],
            "",
            Verdict::Allow,
            vec![],
        ),
    ] {
        let decision = judge(&policies.join(", "), names, WEB, "10.0.0.1:9", "10.0.0.2:80");
        assert_eq!(decision, Decision { verdict, dry_run }, "{name}");
    }
}

#[test]
fn a_policy_that_cannot_be_read_denies() {
    let store = Store::new();
    let config = local::load(
        "{workloads: [{uid: u, namespace: shop}], policies:
          [{name: a, namespace: shop, scope: Global, action: Allow, rules: [[]]}]}",
    )
    .unwrap();
    store.update(|edit| config.apply(edit));
    let judge = || {
        let (source, destination) = ("10.0.0.1:9".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
        let peer = Peer { source, identity: None, destination };
        let snapshot = store.load();
        authorize(&snapshot, snapshot.workload_by_uid("u").unwrap(), &peer)
    };
    assert_eq!(judge(), Verdict::Allow);
    let refused = xds::store::RefusedPolicy { key: "shop/p".into(), scope: None, reason: "x".into() };
    store.update(|edit| edit.refuse_policy(refused));
    assert_eq!(judge(), Verdict::RefusedPolicy("shop/p".into()));
    store.update(|edit| edit.remove_policy("shop/p"));
    assert_eq!(judge(), Verdict::Allow);
}

#[test]
fn other_namespaces_are_not_concerned() {
    let policy = "{name: p, namespace: data, scope: Namespace, action: Deny, rules: [[]]}";
    assert_eq!(judge(policy, "", WEB, "10.0.0.1:9", "10.0.0.2:80").verdict, Verdict::Allow);
}

/// What istiod sends for strict mutual TLS, and for a DENY of which a part is left to layer 7 proxies.
#[test]
fn policies_of_a_real_control_plane() {
    let strict = "{name: istio_converted_static_strict, namespace: istio-system, scope: WorkloadSelector, action: Deny, rules: [[[{notPrincipals: [Presence: []]}]]]}";
    let names = "istio-system/istio_converted_static_strict";
    let denied = Verdict::DeniedBy(names.into());
    assert_eq!(judge(strict, names, "", "10.0.0.1:9", "10.0.0.2:80").verdict, denied);
    assert_eq!(judge(strict, names, WEB, "10.0.0.1:9", "10.0.0.2:80").verdict, Verdict::Allow);

    let deny_l7 = "{name: deny-l7, namespace: shop, scope: Namespace, action: Deny, rules: [[[{}], [{principals: [Prefix: cluster.local/ns/evil/sa/]}]]]}";
    let evil = "spiffe://cluster.local/ns/evil/sa/x";
    let denied = Verdict::DeniedBy("shop/deny-l7".into());
    assert_eq!(judge(deny_l7, "", evil, "10.0.0.1:9", "10.0.0.2:80").verdict, denied);
    assert_eq!(judge(deny_l7, "", WEB, "10.0.0.1:9", "10.0.0.2:80").verdict, Verdict::Allow);
}

#[test]
fn texts_of_the_verdicts() {
    for (verdict, text) in [
        (Verdict::DeniedBy("shop/p".into()), "explicitly denied by: shop/p"),
        (Verdict::NotAllowed, "allow policies exist, but none allowed"),
        (Verdict::UnknownPolicy("shop/p".into()), "not allowed: policy shop/p is not known"),
        (Verdict::RefusedPolicy("shop/p".into()), "not allowed: policy shop/p cannot be read"),
    ] {
        assert_eq!(verdict.to_string(), text);
        assert!(!verdict.is_allowed());
    }
}
