use xds::local;
use xds::proto::discovery::Status;

use super::*;
use crate::control_plane::{Cluster, ResourceType};

const MESH: &str = "
workloads:
- {uid: w1, namespace: n, workloadIps: [10.0.0.1], node: a, services: {n/s.n: {80: 80}}}
- {uid: w2, namespace: n, workloadIps: [10.0.0.2], node: b, services: {n/s.n: {80: 80}}}
- {uid: w3, namespace: n, workloadIps: [10.0.0.3], node: b}
services: [{name: s, namespace: n, hostname: s.n, vips: [/10.1.0.1], ports: {80: 80}}]
policies: [{name: p, namespace: n, scope: Global, action: Deny}]
";

fn cluster(yaml: &str) -> Cluster {
    let cluster = Cluster::new();
    cluster.replace(&local::load(yaml).expect("a configuration"));
    cluster
}

fn request(subscribe: &[&str], unsubscribe: &[&str]) -> DeltaDiscoveryRequest {
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    DeltaDiscoveryRequest {
        resource_names_subscribe: names(subscribe),
        resource_names_unsubscribe: names(unsubscribe),
        ..DeltaDiscoveryRequest::default()
    }
}

/// The names that an answer has, and those that it calls removed.
fn told(answer: Option<Answer>) -> Option<(Vec<String>, Vec<String>)> {
    let response = answer?.into_response("type", String::new(), String::new());
    Some((response.resources.into_iter().map(|resource| resource.name).collect(), response.removed_resources))
}

fn said(resources: &[&str], removed: &[&str]) -> Option<(Vec<String>, Vec<String>)> {
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    Some((names(resources), names(removed)))
}

fn begin(cluster: &Cluster, request: &DeltaDiscoveryRequest, node: &str) -> (Subscription, Answer) {
    Subscription::begin(request, node, cluster.tables().of(ResourceType::Address))
}

fn change(cluster: &Cluster, subscription: &mut Subscription, names: [&[&str]; 2]) -> Option<Answer> {
    subscription.change(&request(names[0], names[1]), cluster.tables().of(ResourceType::Address))
}

fn changes(cluster: &Cluster, subscription: &mut Subscription) -> Option<(Vec<String>, Vec<String>)> {
    told(subscription.changes(cluster.tables().of(ResourceType::Address)))
}

fn acknowledge(subscription: &mut Subscription, nonce: &str, error: Option<&str>) -> Option<Verdict> {
    subscription.acknowledge(&DeltaDiscoveryRequest {
        response_nonce: nonce.to_owned(),
        error_detail: error.map(|message| Status { code: 3, message: message.to_owned() }),
        ..DeltaDiscoveryRequest::default()
    })
}

#[test]
fn everything_is_asked_for_by_nothing_or_a_star() {
    let cluster = cluster(MESH);
    for subscribe in [&[][..], &["*"][..]] {
        let (_, answer) = begin(&cluster, &request(subscribe, &[]), "a");
        assert_eq!(told(Some(answer)), said(&["n/s.n", "w1", "w2", "w3"], &[]));
    }
    let (_, answer) = begin(&Cluster::new(), &request(&[], &[]), "a");
    assert_eq!(told(Some(answer)), said(&[], &[]), "an answer in any case");
}

#[test]
fn what_the_client_has_kept_is_not_sent_again() {
    let old = cluster(MESH);
    let (_, answer) = begin(&old, &request(&[], &[]), "a");
    let kept = answer.into_response("type", String::new(), String::new()).resources;
    let mut reconnect = request(&[], &[]);
    reconnect.initial_resource_versions =
        kept.into_iter().map(|resource| (resource.name, resource.version)).collect();
    let (_, answer) = begin(&old, &reconnect, "a");
    assert_eq!(told(Some(answer)), said(&[], &[]));

    let other = cluster(&MESH.replace("10.0.0.1", "10.0.0.9").replace("uid: w3", "uid: w4"));
    let (_, answer) = begin(&other, &reconnect, "a");
    assert_eq!(told(Some(answer)), said(&["w1", "w4"], &["w3"]));

    // A policy has no version to compare.
    let policies = DeltaDiscoveryRequest {
        initial_resource_versions: [("n/p", ""), ("n/gone", "")]
            .map(|(name, version)| (name.to_owned(), version.to_owned()))
            .into(),
        ..DeltaDiscoveryRequest::default()
    };
    let (_, answer) = Subscription::begin(&policies, "", old.tables().of(ResourceType::Authorization));
    assert_eq!(told(Some(answer)), said(&["n/p"], &["n/gone"]));
}

#[test]
fn changes_wait_for_the_acknowledgement_and_become_one() {
    let cluster = cluster(MESH);
    let (mut subscription, _) = begin(&cluster, &request(&[], &[]), "a");
    subscription.sent("1".to_owned());
    cluster.edit(|edit| edit.remove("w1"));
    assert_eq!(changes(&cluster, &mut subscription), None);
    assert_eq!(acknowledge(&mut subscription, "0", None), None, "that was another one");
    assert_eq!(changes(&cluster, &mut subscription), None);
    cluster.edit(|edit| edit.remove("w2"));
    assert_eq!(acknowledge(&mut subscription, "1", None), Some(Verdict::Ack));
    assert_eq!(changes(&cluster, &mut subscription), said(&[], &["w1", "w2"]));
    subscription.sent("2".to_owned());
    let refused = acknowledge(&mut subscription, "2", Some("no"));
    assert_eq!(refused, Some(Verdict::Nack("no".to_owned())));
    assert_eq!(changes(&cluster, &mut subscription), None, "it is not said again");
}

#[test]
fn on_demand_a_client_gets_what_it_asks_for_and_what_is_on_its_node() {
    let cluster = cluster(MESH);
    let (mut subscription, answer) = begin(&cluster, &request(&["*"], &["*"]), "a");
    assert_eq!(told(Some(answer)), said(&["w1"], &[]));

    let answer = change(&cluster, &mut subscription, [&["/10.0.0.3", "/10.9.9.9"], &[]]).expect("an answer");
    let response = answer.into_response("type", String::new(), String::new());
    assert_eq!(response.resources[0].name, "w3");
    assert_eq!(response.resources[0].aliases, ["/10.0.0.3"]);
    assert_eq!((response.resources.len(), response.removed_resources), (1, vec!["/10.9.9.9".to_owned()]));

    // By its virtual address or its name, a service brings its workloads.
    for name in ["/10.1.0.1", "n/s.n"] {
        let (mut other, _) = begin(&cluster, &request(&["*"], &["*"]), "");
        let answer = change(&cluster, &mut other, [&[name], &[]]);
        assert_eq!(told(answer), said(&["n/s.n", "w1", "w2"], &[]), "{name}");
    }
    assert_eq!(told(change(&cluster, &mut subscription, [&[], &[]])), None, "an ACK asks for nothing");
}

#[test]
fn on_demand_a_client_hears_of_changes_that_concern_it() {
    let cluster = cluster(MESH);
    let (mut subscription, _) = begin(&cluster, &request(&["*"], &["*"]), "");
    change(&cluster, &mut subscription, [&["/10.1.0.1", "/10.9.9.9"], &[]]);
    let add = |yaml: &str| {
        let config = local::load(yaml).expect("a configuration");
        cluster.edit(|edit| {
            config.services.iter().for_each(|service| edit.service(service));
            config.workloads.iter().for_each(|workload| edit.workload(workload));
        });
    };
    add("workloads: [{uid: w3, namespace: n, workloadIps: [10.0.0.33]}]");
    assert_eq!(changes(&cluster, &mut subscription), None);
    add("workloads: [{uid: w5, namespace: n, workloadIps: [10.0.0.5], services: {n/s.n: {80: 80}}}]");
    assert_eq!(changes(&cluster, &mut subscription), said(&["w5"], &[]));
    cluster.edit(|edit| {
        edit.remove("w5");
        edit.remove("w3");
    });
    assert_eq!(changes(&cluster, &mut subscription), said(&[], &["w5"]));
    // A service appears at an address that was asked for before; its endpoint was there already.
    add("workloads: [{uid: w6, namespace: n, workloadIps: [10.0.0.6], services: {n/t.n: {80: 80}}}]");
    assert_eq!(changes(&cluster, &mut subscription), None);
    add("services: [{namespace: n, hostname: t.n, vips: [/10.9.9.9]}]");
    assert_eq!(changes(&cluster, &mut subscription), said(&["n/t.n", "w6"], &[]));
}

#[test]
fn on_demand_a_client_that_reconnects_is_told_what_changed_meanwhile() {
    let cluster = cluster(MESH);
    let version = |name: &str| {
        let tables = cluster.tables();
        tables.of(ResourceType::Address).get(name).expect("it is there").message.version.clone()
    };
    let mut reconnect = request(&["*"], &["*"]);
    reconnect.initial_resource_versions = [
        ("w3".to_owned(), version("w3")),
        ("w2".to_owned(), "0123456789abcdef".to_owned()),
        ("w9".to_owned(), version("w1")),
    ]
    .into();
    let (mut subscription, answer) = begin(&cluster, &reconnect, "");
    assert_eq!(told(Some(answer)), said(&["w2"], &["w9"]));
    cluster.edit(|edit| edit.remove("w3"));
    assert_eq!(changes(&cluster, &mut subscription), said(&[], &["w3"]));
}

#[test]
fn a_client_may_change_its_mind() {
    let cluster = cluster(MESH);
    let (mut subscription, _) = begin(&cluster, &request(&[], &[]), "");
    assert_eq!(told(change(&cluster, &mut subscription, [&[], &["*"]])), None);
    cluster.edit(|edit| edit.remove("w1"));
    assert_eq!(changes(&cluster, &mut subscription), None);
    change(&cluster, &mut subscription, [&["w3"], &[]]);
    change(&cluster, &mut subscription, [&[], &["w3"]]);
    cluster.edit(|edit| edit.remove("w3"));
    assert_eq!(changes(&cluster, &mut subscription), None);
    let answer = change(&cluster, &mut subscription, [&["*"], &[]]);
    assert_eq!(told(answer), said(&["n/s.n", "w2"], &[]));
}
