use xds::local;

use super::*;

fn config(yaml: &str) -> LocalConfig {
    local::load(yaml).expect("a configuration")
}

const TWO: &str = "
workloads:
- {uid: w1, namespace: n, workloadIps: [10.0.0.1], node: a, services: {n/s.n: {80: 80}}}
- {uid: w2, namespace: n, workloadIps: [10.0.0.2], node: b, services: {n/s.n: {80: 80}}}
services: [{name: s, namespace: n, hostname: s.n, vips: [/10.1.0.1], ports: {80: 80}}]
policies: [{name: p, namespace: n, scope: Global, action: Deny}]
";

fn names<'a>(resources: impl Iterator<Item = &'a Arc<Encoded>>) -> Vec<String> {
    resources.map(|resource| resource.message.name.clone()).collect()
}

fn changed(cluster: &Cluster, resource_type: ResourceType, after: u64) -> Vec<(String, bool)> {
    let tables = cluster.tables();
    let changes = tables.of(resource_type).changes_after(after);
    changes.map(|(name, resource)| (name.to_string(), resource.is_some())).collect()
}

#[test]
fn versions_depend_on_the_content_alone() {
    let versions = |cluster: &Cluster| -> Vec<String> {
        let tables = cluster.tables();
        tables.of(ResourceType::Address).iter().map(|resource| resource.message.version.clone()).collect()
    };
    let [one, other] = [(); 2].map(|()| Cluster::new());
    one.replace(&config(TWO));
    other.replace(&LocalConfig::default());
    other.edit(|edit| config(TWO).workloads.iter().rev().for_each(|workload| edit.workload(workload)));
    other.edit(|edit| edit.service(&config(TWO).services[0]));
    let before = versions(&one);
    assert_eq!(before, versions(&other));
    assert!(before.iter().all(|version| version.len() == 16), "{before:?}");
    one.replace(&config(&TWO.replace("10.0.0.1", "10.0.0.9")));
    let after = versions(&one);
    assert_eq!(before.iter().zip(&after).filter(|(before, after)| before != after).count(), 1);
    let tables = one.tables();
    let mut policies = tables.of(ResourceType::Authorization).iter();
    assert_eq!(policies.next().expect("a policy").message.version, "", "policies have none");
}

#[test]
fn only_changes_are_told_each_once_and_in_order() {
    let cluster = Cluster::new();
    cluster.replace(&config(TWO));
    let told = cluster.tables().of(ResourceType::Address).last_change();
    cluster.replace(&config(TWO));
    assert_eq!(changed(&cluster, ResourceType::Address, told), [], "the same again");

    let policies = cluster.tables().of(ResourceType::Authorization).last_change();
    let [first, second] = &config(&TWO.replace("10.0.0", "10.9.0")).workloads[..] else { panic!("two") };
    cluster.edit(|edit| {
        edit.workload(second);
        edit.remove("w2");
        edit.workload(first);
        edit.remove("unknown");
        edit.remove("n/s.n");
        edit.remove_policy("n/p");
    });
    let addresses = changed(&cluster, ResourceType::Address, told);
    let expected = [("w2", false), ("w1", true), ("n/s.n", false)];
    assert_eq!(addresses, expected.map(|(name, there)| (name.to_owned(), there)));
    assert_eq!(changed(&cluster, ResourceType::Authorization, policies), [("n/p".to_owned(), false)]);
    assert_eq!(names(cluster.tables().of(ResourceType::Address).iter()), ["w1"]);
}

#[test]
fn resources_are_found_by_whatever_they_are_called() {
    let cluster = Cluster::new();
    cluster.replace(&config(TWO));
    let find = |topic| names(cluster.tables().of(ResourceType::Address).by_topic(&topic));
    let by_name = |text: &str| find(Topic::Name(text.into()));
    assert_eq!(by_name("w1"), ["w1"]);
    assert_eq!(by_name("/10.0.0.2"), ["w2"]);
    assert_eq!(by_name("n/s.n"), ["n/s.n", "w1", "w2"]);
    assert_eq!(by_name("/10.1.0.1"), ["n/s.n"]);
    assert_eq!(find(Topic::Node("b".into())), ["w2"]);
    cluster.edit(|edit| {
        edit.workload(&config("workloads: [{uid: w1, namespace: n, workloadIps: [10.0.0.3]}]").workloads[0]);
        edit.remove("w2");
    });
    let by_name =
        |text: &str| names(cluster.tables().of(ResourceType::Address).by_topic(&Topic::Name(text.into())));
    assert_eq!(by_name("n/s.n"), ["n/s.n"]);
    assert_eq!((by_name("/10.0.0.1"), by_name("/10.0.0.2")), (vec![], vec![]));
    assert_eq!(by_name("/10.0.0.3"), ["w1"]);
}

#[test]
fn an_edit_that_panics_changes_nothing() {
    let cluster = Cluster::new();
    let edit = std::panic::catch_unwind(|| {
        cluster.edit(|edit| {
            edit.raw(ResourceType::Address, "broken", "1", vec![0xff]);
            panic!("half way");
        });
    });
    assert!(edit.is_err());
    assert_eq!(cluster.tables().of(ResourceType::Address).iter().count(), 0);
}
