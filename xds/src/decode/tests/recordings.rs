//! What a real control plane sent, replayed: after each message the store must say what the JSON beside it says.
//!
//! The typed resources are written down as protobuf JSON again, and must be equal to what was recorded. So a field that
//! is recorded must be written by [`rendering`] or be on the list of those that are ignored; else the test fails.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::proto::discovery::DeltaDiscoveryResponse;
use crate::store::Snapshot;
use crate::{Decoded, Decoder, Service, Store, proto};
use prost::Message;
use serde_json::{Map, Value, json};

mod rendering;

#[test]
fn the_stream_of_a_client_that_follows_everything() {
    replay("stream", 8);
}

#[test]
fn the_answers_to_a_client_that_asks_for_one_name() {
    let snapshot = replay("on-demand", 2);
    let service =
        snapshot.service_by_hostname("shop", "db.shop.svc.cluster.local").expect("what was asked for");
    assert_eq!(snapshot.endpoints(service).count(), 1);
}

/// Fields of resources that nothing is made of.
const IGNORED: [&str; 1] = ["appProtocol"];

/// Fields of a response that are nothing to the store.
const IGNORED_IN_RESPONSES: [&str; 2] = ["systemVersionInfo", "nonce"];

/// What the store should hold: recorded resources by name.
#[derive(Default)]
struct Expected {
    addresses: BTreeMap<String, Value>,
    policies: BTreeMap<String, Value>,
}

/// All recorded messages.
pub(crate) fn messages() -> Vec<DeltaDiscoveryResponse> {
    ["stream", "on-demand"].iter().flat_map(|folder| files(folder)).map(|file| read(&file)).collect()
}

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("recordings").join(folder);
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "bin"));
    files.sort();
    files
}

fn read(file: &Path) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse::decode(&*std::fs::read(file).unwrap()).unwrap()
}

fn replay(folder: &str, messages: usize) -> Snapshot {
    let files = files(folder);
    assert_eq!(files.len(), messages);
    let (mut decoder, store, mut expected) = (Decoder::default(), Store::new(), Expected::default());
    for file in files {
        let response = read(&file);
        let recorded: Value =
            serde_json::from_slice(&std::fs::read(file.with_extension("json")).unwrap()).unwrap();
        let policies_before = store.load().policy_generation();
        let is_policy = response.type_url == proto::AUTHORIZATION;
        let decoded = decoder.decode(response);
        assert_eq!(decoded.complaints, [], "{}", file.display());
        expected.apply(&recorded, &decoded);
        store.update(|edit| decoded.update.apply(edit));
        let snapshot = store.load();
        expected.compare(&snapshot, &file);
        assert_eq!(snapshot.policy_generation() > policies_before, is_policy, "{}", file.display());
    }
    Snapshot::clone(&store.load())
}

impl Expected {
    /// Notes what a response says, and compares that with what the decoder says of names and versions.
    fn apply(&mut self, recorded: &Value, decoded: &Decoded) {
        let (mut accepted, mut removed) = (Vec::new(), Vec::new());
        let is_address = recorded["typeUrl"] == proto::ADDRESS;
        let known = if is_address { &mut self.addresses } else { &mut self.policies };
        for (field, value) in recorded.as_object().unwrap() {
            match &**field {
                "typeUrl" => {}
                "resources" => {
                    for resource in value.as_array().unwrap() {
                        let (name, version) = note(known, resource, is_address);
                        accepted.push((name.into(), version.into()));
                    }
                }
                "removedResources" => {
                    for name in value.as_array().unwrap() {
                        let name = name.as_str().unwrap();
                        assert!(known.remove(name).is_some(), "{name} was not known");
                        removed.push(name.into());
                    }
                }
                other => assert!(IGNORED_IN_RESPONSES.contains(&other), "{other} is not looked at"),
            }
        }
        assert_eq!((&decoded.accepted, &decoded.removed), (&accepted, &removed));
    }

    fn compare(&self, snapshot: &Snapshot, file: &Path) {
        let mut addresses = BTreeMap::new();
        for workload in snapshot.workloads() {
            addresses.insert(workload.uid.to_string(), json!({ "workload": rendering::workload(workload) }));
            if !workload.is_host_network() {
                for address in &workload.addresses {
                    let owner = snapshot.workload_by_address(&workload.network, *address).unwrap();
                    assert_eq!(owner.uid, workload.uid, "{}: {address}", file.display());
                }
            }
        }
        for service in snapshot.services() {
            addresses.insert(service.key().to_string(), json!({ "service": rendering::service(service) }));
            for vip in &service.vips {
                let owner = snapshot.any_service_by_vip(vip.network(), vip.address()).unwrap();
                assert_eq!(owner.key(), service.key(), "{}: {vip}", file.display());
            }
            self.compare_endpoints(snapshot, service);
        }
        let policies = snapshot
            .policies()
            .map(|policy| (policy.key().to_string(), rendering::policy(policy)))
            .collect::<BTreeMap<_, _>>();
        for (found, expected) in [(&addresses, &self.addresses), (&policies, &self.policies)] {
            let names = |resources: &BTreeMap<String, Value>| resources.keys().cloned().collect::<Vec<_>>();
            assert_eq!(names(found), names(expected), "{}", file.display());
            for (name, found) in found {
                assert_eq!(*found, expected[name], "{}: {name}", file.display());
            }
        }
    }

    /// The endpoints are the recorded workloads that name the service and are well.
    fn compare_endpoints(&self, snapshot: &Snapshot, service: &Service) {
        let key = service.key().to_string();
        let named = self.addresses.iter().filter(|(_, address)| {
            let workload = &address["workload"];
            workload["services"].get(&key).is_some() && workload.get("status").is_none()
        });
        let expected: Vec<_> = named.map(|(uid, _)| &**uid).collect();
        let found: Vec<_> = snapshot.endpoints(service).map(|endpoint| &*endpoint.workload.uid).collect();
        assert_eq!(found, expected, "{key}");
    }
}

/// Notes a resource of a response; gives its name and version.
fn note<'a>(
    known: &mut BTreeMap<String, Value>,
    resource: &'a Value,
    is_address: bool,
) -> (&'a str, &'a str) {
    let (mut name, mut version, mut content) = ("", "", Map::new());
    for (field, value) in resource.as_object().unwrap() {
        match &**field {
            "name" => name = value.as_str().unwrap(),
            "version" => version = value.as_str().unwrap(),
            "resource" => content = value.as_object().unwrap().clone(),
            "aliases" => {} // what was asked for may come under another name
            other => panic!("{other} is not looked at"),
        }
    }
    let type_url = content.remove("@type").unwrap();
    assert_eq!(type_url == proto::ADDRESS, is_address);
    let mut content = Value::Object(content);
    remove_ignored(&mut content);
    if let Some(workload) = content.get_mut("workload").and_then(Value::as_object_mut) {
        let defaults =
            [("trustDomain", "cluster.local"), ("serviceAccount", "default"), ("clusterId", "Kubernetes")];
        for (field, default) in defaults {
            workload.entry(field).or_insert(default.into());
        }
    }
    known.insert(name.to_owned(), content);
    (name, version)
}

fn remove_ignored(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|field, _| !IGNORED.contains(&&**field));
            fields.values_mut().for_each(remove_ignored);
        }
        Value::Array(values) => values.iter_mut().for_each(remove_ignored),
        _ => {}
    }
}
