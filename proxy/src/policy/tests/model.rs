//! Random policies against a slow model that spells the rules out.

use std::net::{IpAddr, SocketAddr};

use fastrand::Rng;
use xds::resource::{
    Action, AuthorizationSpec, Clause, IpNet, Match, Rule, Scope, ServiceAccountMatch, StringMatch,
    WorkloadSpec,
};
use xds::{Authorization, Identity, Store, Workload};

use crate::policy::{Peer, Verdict, authorize};

#[test]
fn verdicts_agree_with_the_model() {
    let mut seen = [0; 4];
    for seed in 0..20_000 {
        let mut random = Rng::with_seed(seed);
        let policies: Vec<_> = (0..random.u8(..4)).map(|number| random_policy(&mut random, number)).collect();
        let names: Vec<String> = (0..random.u8(..3)).map(|_| format!("n/p{}", random.u8(..3))).collect();
        let workload = Workload::new(WorkloadSpec {
            uid: "u".into(),
            namespace: "n".into(),
            authorization_policies: names.iter().map(|name| name.as_str().into()).collect(),
            ..WorkloadSpec::default()
        })
        .unwrap();
        let store = Store::new();
        store.update(|edit| policies.iter().for_each(|policy| edit.insert_policy(policy.clone())));

        let identity = random.bool().then(|| {
            let mut part = || random.choice(["a", "ab", "b"]).unwrap();
            Identity::new(part(), part(), part()).unwrap()
        });
        let mut address = || SocketAddr::new(IpAddr::from([10, 0, 0, random.u8(..4)]), random.u16(1..4));
        let peer = Peer { source: address(), identity: identity.as_ref(), destination: address() };

        let verdict = authorize(&store.load(), &workload, &peer);
        let kind = match verdict {
            Verdict::Allow => 0,
            Verdict::DeniedBy(_) => 1,
            Verdict::NotAllowed => 2,
            Verdict::UnknownPolicy(_) => 3,
            Verdict::RefusedPolicy(_) => unreachable!("none is refused here"),
        };
        assert_eq!(kind, model(&policies, &names, &peer), "seed {seed}: {policies:#?} {names:?} {peer:?}");
        seen[kind] += 1;
    }
    assert!(seen.iter().all(|count| *count > 500), "one-sided: {seen:?}");
}

/// 0 allow, 1 denied, 2 not allowed, 3 unknown policy. Truth is computed bottom up, nothing is cut short.
fn model(policies: &[Authorization], names: &[String], peer: &Peer<'_>) -> usize {
    let mut denied = false;
    let mut allow_exists = false;
    let mut allow_matches = false;
    for policy in policies {
        let key = format!("{}/{}", policy.namespace, policy.name);
        let applies = match policy.scope {
            Scope::Global => true,
            Scope::Namespace => &*policy.namespace == "n",
            Scope::WorkloadSelector => false,
        };
        if policy.dry_run || !(applies || names.contains(&key)) {
            continue;
        }
        let mut policy_matches = false;
        for rule in &policy.rules {
            let mut failed_clauses = 0;
            for clause in &rule.clauses {
                let mut fitting = 0;
                for one in &clause.matches {
                    let fits = if *one == Match::default() || !one.unreadable.is_empty() {
                        policy.action == Action::Deny
                    } else {
                        !fields(one, peer).contains(&false)
                    };
                    fitting += usize::from(fits);
                }
                if !clause.matches.is_empty() && fitting == 0 {
                    failed_clauses += 1;
                }
            }
            policy_matches |= failed_clauses == 0;
        }
        match policy.action {
            Action::Deny => denied |= policy_matches,
            Action::Allow => {
                allow_exists = true;
                allow_matches |= policy_matches;
            }
        }
    }
    let known = |name: &String| {
        policies.iter().any(|policy| format!("{}/{}", policy.namespace, policy.name) == *name)
    };
    let unknown = !names.iter().all(known);
    match (denied, unknown, allow_exists, allow_matches) {
        (true, ..) => 1,
        (false, true, ..) => 3,
        (false, false, true, false) => 2,
        _ => 0,
    }
}

/// The truth of each of the twelve lists.
fn fields(one: &Match, peer: &Peer<'_>) -> [bool; 12] {
    let text = peer.identity.map(ToString::to_string);
    let namespace = text.as_deref().map_or("", |text| text.split('/').nth(4).unwrap());
    let account = text.as_deref().map(|text| text.split('/').nth(6).unwrap());
    let string = |text: &str, condition: &StringMatch| match condition {
        StringMatch::Exact(other) => text == &**other,
        StringMatch::Prefix(prefix) => text.get(..prefix.len()) == Some(prefix),
        StringMatch::Suffix(suffix) => {
            text.len() >= suffix.len() && text.get(text.len() - suffix.len()..) == Some(suffix)
        }
        StringMatch::Presence() => text.chars().count() > 0,
    };
    let principal = |condition: &StringMatch| match &text {
        Some(text) => string(&text[9..], condition),
        None => false,
    };
    let service_account = |other: &ServiceAccountMatch| {
        account == Some(&*other.service_account) && namespace == &*other.namespace
    };
    let within = |address: SocketAddr, range: &IpNet| {
        let (IpAddr::V4(address), IpAddr::V4(base)) = (address.ip(), range.addr()) else { return false };
        let shift = 32 - u64::from(range.prefix_len());
        u64::from(address.to_bits()) >> shift == u64::from(base.to_bits()) >> shift
    };
    fn any<T>(values: &[T], fits: impl Fn(&T) -> bool) -> bool {
        values.iter().filter(|value| fits(value)).count() > 0
    }
    let or_empty = |values: usize, any: bool| values == 0 || any;
    [
        or_empty(one.namespaces.len(), any(&one.namespaces, |v| string(namespace, v))),
        !any(&one.not_namespaces, |v| string(namespace, v)),
        or_empty(one.service_accounts.len(), any(&one.service_accounts, service_account)),
        !any(&one.not_service_accounts, service_account),
        or_empty(one.principals.len(), any(&one.principals, principal)),
        !any(&one.not_principals, principal),
        or_empty(one.source_ips.len(), any(&one.source_ips, |v| within(peer.source, v))),
        !any(&one.not_source_ips, |v| within(peer.source, v)),
        or_empty(one.destination_ips.len(), any(&one.destination_ips, |v| within(peer.destination, v))),
        !any(&one.not_destination_ips, |v| within(peer.destination, v)),
        or_empty(one.destination_ports.len(), any(&one.destination_ports, |v| *v == peer.destination.port())),
        !any(&one.not_destination_ports, |v| *v == peer.destination.port()),
    ]
}

fn random_policy(random: &mut Rng, number: u8) -> Authorization {
    let rules = few(random, |random| Rule {
        clauses: few(random, |random| Clause { matches: few(random, random_match) }),
    });
    Authorization::new(AuthorizationSpec {
        name: format!("p{number}").into(),
        namespace: random.choice(["n", "n", "m"]).unwrap().into(),
        scope: random.choice([Scope::Global, Scope::Namespace, Scope::WorkloadSelector]).unwrap(),
        action: random.choice([Action::Allow, Action::Deny]).unwrap(),
        rules,
        dry_run: random.u8(..8) == 0,
    })
    .unwrap()
}

/// Most lists are empty, so that some matches fit and some are empty.
fn random_match(random: &mut Rng) -> Match {
    fn sometimes<T>(random: &mut Rng, make: impl Fn(&mut Rng) -> T) -> Vec<T> {
        if random.u8(..6) == 0 { few(random, make) } else { Vec::new() }
    }
    fn range(random: &mut Rng) -> IpNet {
        IpNet::new(IpAddr::from([10, 0, 0, random.u8(..4)]), random.choice([0, 24, 31, 32]).unwrap()).unwrap()
    }
    fn account(random: &mut Rng) -> ServiceAccountMatch {
        let mut part = || random.choice(["a", "ab", "b"]).unwrap().into();
        ServiceAccountMatch { namespace: part(), service_account: part() }
    }
    fn string(random: &mut Rng) -> StringMatch {
        let text = random.choice(["", "a", "b", "ab", "a/ns/a", "/sa/b", "ab/ns/a/sa/b"]).unwrap().into();
        match random.u8(..4) {
            0 => StringMatch::Exact(text),
            1 => StringMatch::Prefix(text),
            2 => StringMatch::Suffix(text),
            _ => StringMatch::Presence(),
        }
    }
    let port = |random: &mut Rng| random.u16(1..4);
    Match {
        namespaces: sometimes(random, string),
        not_namespaces: sometimes(random, string),
        service_accounts: sometimes(random, account),
        not_service_accounts: sometimes(random, account),
        principals: sometimes(random, string),
        not_principals: sometimes(random, string),
        source_ips: sometimes(random, range),
        not_source_ips: sometimes(random, range),
        destination_ips: sometimes(random, range),
        not_destination_ips: sometimes(random, range),
        destination_ports: sometimes(random, port),
        not_destination_ports: sometimes(random, port),
        unreadable: if random.u8(..12) == 0 { vec!["something".into()] } else { vec![] },
    }
}

fn few<T>(random: &mut Rng, make: impl Fn(&mut Rng) -> T) -> Vec<T> {
    (0..random.u8(..3)).map(|_| make(random)).collect()
}
