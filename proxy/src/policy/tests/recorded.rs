//! Policies as a real istiod sent them, from its messages to the verdict.

use prost::Message;
use xds::Store;
use xds::decode::Decoder;
use xds::proto::discovery::DeltaDiscoveryResponse;

use super::*;

/// The mesh after the first so many recorded messages.
fn recorded(messages: usize) -> Store {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../xds/recordings/stream");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "bin"));
    files.sort();
    let (store, mut decoder) = (Store::new(), Decoder::default());
    for file in &files[..messages] {
        let response = DeltaDiscoveryResponse::decode(&*std::fs::read(file).unwrap()).unwrap();
        let decoded = decoder.decode(response);
        assert_eq!(decoded.complaints, [], "{}", file.display());
        store.update(|edit| decoded.update.apply(edit));
    }
    store
}

fn verdict(store: &Store, pod: &str, port: u16, identity: Option<&str>, source: &str) -> Verdict {
    let snapshot = store.load();
    let workload = snapshot.workload_by_uid(&format!("Kubernetes//Pod/{pod}")).unwrap();
    let identity = identity.map(|identity| format!("spiffe://cluster.local/ns/{identity}").parse().unwrap());
    let peer = Peer {
        source: SocketAddr::new(source.parse().unwrap(), 40_000),
        identity: identity.as_ref(),
        destination: SocketAddr::new(*workload.addresses.first().unwrap(), port),
    };
    authorize(&snapshot, workload, &peer)
}

/// Where the peers of the recorded mesh are; and an address outside of 10.0.0.0/16.
const NEAR: &str = "10.0.0.9";
const FAR: &str = "10.77.0.1";

#[test]
fn every_form_of_a_recorded_policy() {
    let store = recorded(2);
    let denied = |by: &str| Verdict::DeniedBy(by.into());
    let strict = || denied("istio-system/istio_converted_static_strict");
    for (form, pod, port, identity, source, expected) in [
        // db-from-web allows: port and exact principal ...
        ("exact principal and port", "shop/db-1", 5432, Some("shop/sa/web"), FAR, Verdict::Allow),
        ("another principal", "shop/db-1", 5432, Some("shop/sa/webs"), FAR, Verdict::NotAllowed),
        ("another port", "shop/db-1", 5433, Some("shop/sa/web"), FAR, Verdict::NotAllowed),
        // ... or a namespace by prefix, from outside of a range.
        ("namespace by prefix", "shop/db-1", 1, Some("ops-eu/sa/x"), FAR, Verdict::Allow),
        ("another namespace", "shop/db-1", 1, Some("devops-eu/sa/x"), FAR, Verdict::NotAllowed),
        ("inside the range", "shop/db-1", 1, Some("ops-eu/sa/x"), NEAR, Verdict::NotAllowed),
        // mesh-wide denies a range, everywhere.
        (
            "denied range",
            "shop/db-1",
            5432,
            Some("shop/sa/web"),
            "203.0.113.9",
            denied("istio-system/mesh-wide"),
        ),
        ("denied range, plain", "data/store-1", 80, None, "203.0.113.9", denied("istio-system/mesh-wide")),
        ("beside the range", "data/store-1", 80, None, "203.0.112.255", Verdict::Allow),
        // deny-l7: the part for layer 7 is an empty match, which matches in a DENY.
        ("principal by prefix", "shop/web-1", 80, Some("evil/sa/x"), FAR, denied("shop/deny-l7")),
        ("not the prefix", "shop/web-1", 80, Some("evils/sa/x"), FAR, Verdict::Allow),
        ("not the namespace of the policy", "data/store-1", 80, Some("evil/sa/x"), FAR, Verdict::Allow),
        // strict: no principal is there.
        ("no presence", "shop/web-1", 80, None, FAR, strict()),
        ("presence", "shop/web-1", 80, Some("any/sa/one"), FAR, Verdict::Allow),
        ("strict where it isn't named", "data/store-1", 80, None, FAR, Verdict::Allow),
    ] {
        assert_eq!(verdict(&store, pod, port, identity, source), expected, "{form}");
    }
}

#[test]
fn a_recorded_change_and_removal_count() {
    let allowed = |messages: usize, identity: &str| {
        verdict(&recorded(messages), "shop/db-1", 5432, Some(identity), FAR).is_allowed()
    };
    // The policy as it was, after its change, without it (the workload names it no more), and at the end.
    assert_eq!([4, 5, 7, 8].map(|messages| allowed(messages, "shop/sa/web")), [true, false, true, true]);
    assert_eq!([4, 5, 7, 8].map(|messages| allowed(messages, "shop/sa/other")), [false, true, true, true]);
}
