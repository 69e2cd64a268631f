use std::net::IpAddr;

use super::*;
use crate::decode::Decoder;
use crate::encode;
use crate::proto::ResourceType::{Address, Authorization};
use crate::resource::{Action, Scope};
use crate::store::{Edit, Store};
use crate::subscription::{Answer, Retained};
use crate::{Authorization as Policy, AuthorizationSpec, Service, ServiceSpec, Workload, WorkloadSpec};

impl Telling {
    pub(crate) fn of(generation: u64, changes: Vec<Change>) -> Self {
        Self { generation, complete: false, schema: SCHEMA, changes }
    }

    pub(crate) fn changes(&self) -> &[Change] {
        &self.changes
    }

    pub(crate) fn with_schema(self, schema: u32) -> Self {
        Self { schema, ..self }
    }
}

fn workload(uid: &str, policies: &[&str]) -> Workload {
    let spec = WorkloadSpec {
        uid: uid.into(),
        namespace: "n".into(),
        addresses: vec![IpAddr::from([10, 0, 0, 1])],
        authorization_policies: policies.iter().map(|key| (*key).into()).collect(),
        ..WorkloadSpec::default()
    };
    Workload::new(spec).unwrap()
}

fn service(hostname: &str) -> Service {
    let (namespace, hostname) = ("n".into(), hostname.into());
    Service::new(ServiceSpec { namespace, hostname, ..ServiceSpec::default() }).unwrap()
}

fn policy(name: &str) -> Policy {
    Policy::new(AuthorizationSpec {
        name: name.into(),
        namespace: "n".into(),
        scope: Scope::WorkloadSelector,
        action: Action::Deny,
        rules: Vec::new(),
        dry_run: false,
    })
    .unwrap()
}

fn tombstone(name: &str) -> Tombstone {
    Tombstone {
        name: name.into(),
        reason: "odd".into(),
        addresses: vec![NetworkAddress::new("net", IpAddr::from([10, 9, 0, 1]))],
        ranges: vec![NetworkCidr::new("net", "fd00:9::/32".parse().unwrap())],
    }
}

fn refused_policy(key: &str, scope: Option<Scope>) -> RefusedPolicy {
    RefusedPolicy { key: key.into(), scope, reason: "odd".into() }
}

/// A teller's or a listener's side.
#[derive(Default)]
struct Side {
    store: Store,
    retained: Retained,
    decoder: Decoder,
}

impl Side {
    /// One with a resource of each kind, good and refused.
    fn with_everything() -> Self {
        let mut side = Self::default();
        side.edit(|edit| {
            edit.insert_workload(workload("w", &["n/p", "n/r"]));
            edit.insert_service(service("s"));
            edit.insert_policy(policy("p"));
            edit.refuse_address(tombstone("t"));
            edit.refuse_policy(refused_policy("n/r", Some(Scope::WorkloadSelector)));
            edit.refuse_policy(refused_policy("n/q", None));
            edit.answer("net/10.0.0.1");
        });
        side.retain(Address, &[("w", "v1"), ("n/s", "v2"), ("t", "")], &[]);
        side.retain(Authorization, &[("n/p", ""), ("n/r", ""), ("n/q", "")], &[]);
        side
    }

    fn edit(&self, changes: impl FnOnce(&mut Edit)) {
        self.store.update(changes);
    }

    fn retain(&mut self, r#type: ResourceType, accepted: &[(&str, &str)], removed: &[&str]) {
        self.retained.apply(
            r#type,
            &Answer {
                type_url: r#type.url().to_owned(),
                nonce: String::new(),
                accepted: accepted
                    .iter()
                    .map(|(name, version)| ((*name).into(), (*version).into()))
                    .collect(),
                removed: removed.iter().map(|name| (*name).into()).collect(),
                complaints: Vec::new(),
                answered: Vec::new(),
            },
        );
    }

    fn state(&self) -> State {
        State { snapshot: self.store.load().clone(), retained: self.retained.clone() }
    }

    fn everything(&self) -> Vec<Telling> {
        Pieces::first(self.state(), ["net/10.0.0.1".into()].into()).collect()
    }

    /// Through bytes.
    fn learn(&mut self, tellings: &[Telling]) {
        for telling in tellings {
            let telling = Telling::decode(&telling.encode()).unwrap();
            let Learnt { update, answers, .. } = Learnt::new(telling, &mut self.decoder);
            self.store.update(|edit| {
                update.apply(edit);
                answers.iter().flat_map(|answer| &answer.answered).for_each(|name| edit.answer(name.clone()));
            });
            for answer in answers {
                self.retained.apply(ResourceType::from_url(&answer.type_url).unwrap(), &answer);
            }
        }
    }

    fn dump(&self) -> serde_json::Value {
        serde_json::to_value(self.store.load().dump()).unwrap()
    }

    fn version(&self, r#type: ResourceType, name: &str) -> Option<String> {
        self.retained.version(r#type, name).map(ToString::to_string)
    }

    fn versions(&self) -> Vec<(String, String)> {
        let mut versions: Vec<_> = ResourceType::ALL
            .into_iter()
            .flat_map(|r#type| self.retained.names(r#type).map(move |name| (r#type, name)))
            .map(|(r#type, name)| (name.to_string(), self.version(r#type, name).unwrap()))
            .collect();
        versions.sort();
        versions
    }
}

#[test]
fn everything_is_told_and_learnt() {
    let (teller, mut listener) = (Side::with_everything(), Side::default());
    let told = teller.everything();
    assert_eq!(told.len(), 1);
    assert!(told[0].is_complete());
    assert_eq!(told[0].generation(), teller.store.load().generation());
    assert_eq!(told[0].demanded().collect::<Vec<_>>(), [&"net/10.0.0.1".into()]);
    listener.learn(&told);
    assert_eq!(listener.dump(), teller.dump());
    assert_eq!(listener.versions(), teller.versions());
    assert!(listener.store.load().is_answered("net/10.0.0.1"));
    let snapshot = listener.store.load();
    assert!(snapshot.refused_address("net", IpAddr::from([10, 9, 0, 1])).is_some());
    // Who tells in turn tells the same.
    drop(snapshot);
    assert_eq!(listener.everything()[0].changes(), told[0].changes());
    let state = listener.state();
    assert!(told[0].changes().iter().all(|change| state.agrees_with(change)));
}

#[test]
fn changes_are_told_by_name() {
    let (mut teller, mut listener) = (Side::with_everything(), Side::default());
    listener.learn(&teller.everything());
    let before = teller.store.load().generation();
    teller.edit(|edit| {
        edit.remove_address("n/s");
        edit.remove_address("w");
        edit.refuse_address(Tombstone { reason: "odder".into(), ..tombstone("w") });
        edit.insert_service(service("new"));
        edit.remove_policy("n/p");
        edit.insert_policy(policy("q"));
    });
    teller.retain(Address, &[("n/new", "v1"), ("w", "")], &["n/s"]);
    teller.retain(Authorization, &[("n/q", "")], &["n/p"]);
    let mut names = Names::default();
    names.resources.extend(["n/s", "w", "n/new"].map(|name| (Address, name.into())));
    names.resources.extend(["n/p", "n/q"].map(|name| (Authorization, name.into())));
    let told: Vec<_> = Pieces::then(teller.state(), names, before).collect();
    let [telling] = &told[..] else { panic!("{} tellings", told.len()) };
    assert_eq!((telling.generation(), telling.is_complete()), (before + 1, false));
    let state = listener.state();
    assert!(!telling.changes().iter().any(|change| state.agrees_with(change)));
    listener.learn(&told);
    assert_eq!(listener.dump(), teller.dump());
    assert_eq!(listener.versions(), teller.versions());
    // Policies first, but what goes goes last.
    let order: Vec<_> =
        telling.changes().iter().filter_map(Change::subject).map(|(_, name)| &**name).collect();
    assert_eq!(order, ["n/q", "n/new", "n/s", "w", "n/p"]);
}

#[test]
fn without_changes_the_generation_is_told() {
    let teller = Side::with_everything();
    let told: Vec<_> = Pieces::then(teller.state(), Names::default(), 0).collect();
    assert_eq!(told, [Telling::of(1, Vec::new())]);
}

#[test]
fn what_a_local_file_says_is_not_told() {
    let teller = Side::with_everything();
    teller.edit(|edit| edit.insert_workload(workload("local", &[])));
    let told = teller.everything();
    assert!(told[0].changes().iter().filter_map(Change::subject).all(|(_, name)| **name != *"local"));
}

#[test]
fn versions_that_a_decoder_of_another_schema_has_seen_are_forgotten() {
    let (teller, mut listener) = (Side::with_everything(), Side::default());
    listener
        .learn(&teller.everything().into_iter().map(|told| told.with_schema(SCHEMA + 1)).collect::<Vec<_>>());
    assert_eq!(listener.dump(), teller.dump());
    assert_eq!(listener.version(Address, "w").as_deref(), Some(""));
    assert_eq!(listener.version(Address, "n/s").as_deref(), Some(""));
}

#[test]
fn what_is_not_understood_here_is_refused_here() {
    let mut listener = Side::default();
    let resource = Resource { name: "n/x".into(), version: "v1".into(), content: vec![0xff; 9] };
    listener.learn(&[Telling::of(1, vec![Change::Resource(Authorization, resource)])]);
    assert!(listener.store.load().refused_policy("n/x").is_some());
    assert_eq!(listener.version(Authorization, "n/x").as_deref(), Some(""));
}

#[test]
fn what_agrees() {
    let mut side = Side::with_everything();
    let resource = |r#type, name: &str, version: &str, content: Vec<u8>| {
        Change::Resource(r#type, Resource { name: name.into(), version: version.into(), content })
    };
    let content = |policy: &Policy| encode::authorization(policy).encode_to_vec();
    let open = Policy::new(AuthorizationSpec { dry_run: true, ..(*policy("p")).clone() }).unwrap();
    let refused = |scope| Change::RefusedPolicy(refused_policy("n/q", scope).into());
    let fewer = Tombstone { ranges: Vec::new(), ..tombstone("t") };
    let worded = Tombstone { reason: "in other words".into(), ..tombstone("t") };
    for (told, expected) in [
        // By version, whatever the content.
        (resource(Address, "w", "v1", vec![1]), true),
        (resource(Address, "w", "v0", vec![1]), false),
        (resource(Address, "absent", "v1", vec![1]), false),
        // Without one by content.
        (resource(Authorization, "n/p", "", content(&policy("p"))), true),
        (resource(Authorization, "n/p", "", content(&open)), false),
        (resource(Authorization, "n/q", "", content(&policy("q"))), false),
        (refused(None), true),
        (refused(Some(Scope::Global)), false),
        (Change::RefusedPolicy(refused_policy("n/p", None).into()), false),
        (Change::RefusedAddress(worded.into()), true),
        (Change::RefusedAddress(fewer.into()), false),
        (Change::Removed(Address, "absent".into()), true),
        (Change::Removed(Address, "w".into()), false),
        (Change::Demanded("x".into()), true),
        (Change::Answered("x".into()), true),
    ] {
        assert_eq!(side.state().agrees_with(&told), expected, "{told:?}");
    }
    side.retain(Address, &[], &["w"]);
    assert!(side.state().agrees_with(&Change::Removed(Address, "w".into())));
}

#[test]
fn a_large_mesh_is_told_in_pieces() {
    let mut teller = Side::default();
    let uids: Vec<String> = (0..10_000).map(|n| format!("Kubernetes//Pod/n/pod-{n:05}")).collect();
    teller.edit(|edit| {
        for uid in &uids {
            edit.insert_workload(workload(uid, &["n/p"]));
        }
        edit.insert_policy(policy("p"));
    });
    teller.retain(Address, &uids.iter().map(|uid| (&**uid, "0123456789abcdef")).collect::<Vec<_>>(), &[]);
    teller.retain(Authorization, &[("n/p", "")], &[]);
    let told = teller.everything();
    assert!((20..200).contains(&told.len()), "{}", told.len());
    let (last, pieces) = told.split_last().unwrap();
    assert!(last.is_complete() && last.generation() == 1);
    for telling in pieces {
        assert!(!telling.is_complete() && telling.generation() == 0);
        let size = telling.encode().len();
        assert!((LARGEST / 2..=LARGEST).contains(&size), "{size}");
    }
    // The policy before all that name it.
    assert_eq!(told[0].changes()[1].subject(), Some((Authorization, &"n/p".into())));
    let mut listener = Side::default();
    listener.learn(&told);
    assert_eq!(listener.dump(), teller.dump());
    assert_eq!(listener.versions(), teller.versions());
    // A change of all of them holds with its last piece.
    teller.edit(|_| {});
    let mut names = Names::default();
    names.resources.extend(uids.iter().map(|uid| (Address, uid.as_str().into())));
    let told: Vec<_> = Pieces::then(teller.state(), names, 1).collect();
    let generations: Vec<_> = told.iter().map(Telling::generation).collect();
    assert!(generations.len() > 20 && generations.iter().rev().skip(1).all(|generation| *generation == 1));
    assert_eq!(generations.last(), Some(&2));
    assert!(!told.iter().any(Telling::is_complete));
}

#[test]
fn a_resource_larger_than_a_piece_is_one() {
    let mut teller = Side::with_everything();
    let long = "x".repeat(2 * LARGEST);
    let spec = WorkloadSpec { node: long.as_str().into(), ..(*workload("x", &[])).clone() };
    teller.edit(|edit| edit.insert_workload(Workload::new(spec).unwrap()));
    teller.retain(Address, &[("x", "v1")], &[]);
    let told = teller.everything();
    let sizes: Vec<_> = told.iter().map(|telling| telling.encode().len() / LARGEST).collect();
    assert_eq!(sizes, [0, 2, 0]);
    let mut listener = Side::default();
    listener.learn(&told);
    assert_eq!(listener.dump(), teller.dump());
}

#[test]
fn no_bytes_make_it_panic() {
    let mut bytes = Side::with_everything().everything()[0].encode();
    let mut random = fastrand::Rng::with_seed(1);
    let mut read = 0;
    let mut check = |bytes: &[u8]| {
        if let Ok(telling) = Telling::decode(bytes) {
            read += 1;
            Side::default().learn(&[telling]);
        }
    };
    for end in 0..bytes.len() {
        check(&bytes[..end]);
    }
    for position in 0..bytes.len() {
        for bit in 0..8 {
            bytes[position] ^= 1 << bit;
            check(&bytes);
            bytes[position] ^= 1 << bit;
        }
    }
    for _ in 0..2_000 {
        check(&std::iter::repeat_with(|| random.u8(..)).take(40).collect::<Vec<_>>());
    }
    assert!(read > 100, "{read}");
}

#[test]
fn what_a_newer_build_says_beyond_is_skipped() {
    let telling = Telling::of(3, vec![Change::Answered("a".into())]);
    let mut bytes = telling.encode();
    // A field 100 of the telling, and a change of a kind 15 with a text.
    bytes.extend([0xa2, 0x06, 1, b'x']);
    bytes.extend([0x22, 3, 0x7a, 1, b'x']);
    assert_eq!(Telling::decode(&bytes), Ok(telling));
}
