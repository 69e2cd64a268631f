use xds::local;

use super::*;

const MESH: &str = "
workloads:
- {uid: a, name: db-0, namespace: shop, workloadIps: [10.0.0.1, 'fd00::1'], services: {shop/db.shop.svc.cluster.local: {5432: 5432}}}
- {uid: b, name: db-1, namespace: shop, workloadIps: [10.0.0.2, 10.0.0.3], services: {shop/db.shop.svc.cluster.local: {5432: 5432}}}
- {uid: c, name: db-2, namespace: shop, workloadIps: [10.0.0.4], status: Unhealthy, services: {shop/db.shop.svc.cluster.local: {5432: 5432}}}
- {uid: d, name: four-0, namespace: shop, workloadIps: [10.0.1.1, 'fd00:1::1'], services: {shop/four.shop.svc.cluster.local: {80: 80}}}
services:
- {name: web, namespace: shop, hostname: web.shop.svc.cluster.local, vips: [/10.1.0.1, /10.1.0.2, '/fd00:1::1', far/10.1.0.9]}
- {name: web, namespace: bank, hostname: web.bank.svc.cluster.local, vips: [/10.1.0.3]}
- {name: far, namespace: bank, hostname: far.bank.svc.cluster.local, vips: [far/10.1.0.4]}
- {name: vault, namespace: bank, hostname: vault.bank.svc.cluster.local, vips: [/10.1.0.5], visibility: Namespace}
- {name: db, namespace: shop, hostname: db.shop.svc.cluster.local}
- {name: four, namespace: shop, hostname: four.shop.svc.cluster.local, ipFamilies: IPv4}
- {name: api, namespace: shop, hostname: API.example.com, vips: [/240.0.0.1]}
- {name: wild, namespace: shop, hostname: '*.wild.example.com', vips: [/240.0.0.2]}
- {name: narrow, namespace: shop, hostname: '*.narrow.wild.example.com', vips: [/240.0.0.3]}
- {name: elsewhere, namespace: shop, hostname: elsewhere.example.com}
- {name: shared, namespace: a, hostname: shared.example.com, vips: [/240.0.1.1]}
- {name: shared, namespace: b, hostname: shared.example.com, vips: [/240.0.1.2]}
- {name: shared, namespace: c, hostname: shared.example.com, vips: [/240.0.1.3], canonical: true}
- {name: pair, namespace: a, hostname: pair.example.com, vips: [/240.0.2.1]}
- {name: pair, namespace: b, hostname: pair.example.com, vips: [/240.0.2.2]}
";

fn mesh() -> Arc<Snapshot> {
    let store = xds::Store::new();
    store.update(|edit| local::load(MESH).unwrap().apply(edit));
    Arc::clone(&store.load())
}

fn lookup() -> Lookup {
    Lookup { cluster_domain: "cluster.local".into(), preferred_namespace: None, ipv6: true }
}

fn find(lookup: &Lookup, namespace: &str, asked: &str, family: Family) -> Option<Found> {
    let search = names::kubernetes_search(namespace, "cluster.local");
    lookup.find(&mesh(), Asker { namespace, network: "", search: &search }, asked, family)
}

/// `addresses`, or `= labels of the real name: addresses`; `-` if the mesh doesn't know the name.
fn said(found: Option<Found>) -> String {
    let Some(found) = found else { return "-".to_owned() };
    let addresses: Vec<_> = found.addresses.iter().map(ToString::to_string).collect();
    let alias = found.alias_of.map(|labels| format!("= {labels}: ")).unwrap_or_default();
    format!("{alias}{}", addresses.join(" "))
}

#[test]
fn names_of_services_and_their_pods() {
    use Family::{Ipv4, Ipv6};
    for (namespace, asked, family, expected) in [
        // Kubernetes' forms.
        ("shop", "web", Ipv4, "10.1.0.1 10.1.0.2"),
        ("shop", "web", Ipv6, "fd00:1::1"),
        ("bank", "web", Ipv4, "10.1.0.3"),
        ("bank", "web.shop", Ipv4, "10.1.0.1 10.1.0.2"),
        ("bank", "web.shop.svc", Ipv4, "10.1.0.1 10.1.0.2"),
        ("bank", "web.shop.svc.cluster.local", Ipv4, "10.1.0.1 10.1.0.2"),
        // Known, but not in this family or network.
        ("bank", "web", Ipv6, ""),
        ("bank", "far", Ipv4, ""),
        // Not for everybody.
        ("bank", "vault", Ipv4, "10.1.0.5"),
        ("shop", "vault.bank", Ipv4, "-"),
        // Headless: one address of each healthy endpoint.
        ("shop", "db", Ipv4, "10.0.0.1 10.0.0.2"),
        ("shop", "db", Ipv6, "fd00::1"),
        ("shop", "four", Ipv6, ""),
        ("shop", "db-1.db", Ipv4, "10.0.0.2"),
        ("bank", "db-0.db.shop.svc.cluster.local", Ipv6, "fd00::1"),
        ("bank", "db-0.db.shop", Ipv4, "10.0.0.1"),
        ("shop", "db-1.db", Ipv6, ""),
        ("shop", "four-0.four", Ipv6, ""),
        ("shop", "db-2.db", Ipv4, "-"),
        ("shop", "db-9.db", Ipv4, "-"),
        ("shop", "web-0.web", Ipv4, "-"),
        // Names of others.
        ("bank", "api.example.com", Ipv4, "240.0.0.1"),
        ("bank", "elsewhere.example.com", Ipv4, "-"),
        ("bank", "other.example.com", Ipv4, "-"),
        ("bank", "a.wild.example.com", Ipv4, "240.0.0.2"),
        ("bank", "a.b.wild.example.com", Ipv4, "240.0.0.2"),
        ("bank", "a.narrow.wild.example.com", Ipv4, "240.0.0.3"),
        ("bank", "wild.example.com", Ipv4, "-"),
    ] {
        assert_eq!(
            said(find(&lookup(), namespace, asked, family)),
            expected,
            "{asked} in {namespace}, {family:?}"
        );
    }
}

/// What glibc asks in a pod with Kubernetes' resolv.conf (`ndots:5`), name by name, until one is known here. What isn't
/// is forwarded, and comes back as NXDOMAIN until the user's own name is reached.
#[test]
fn the_walk_of_a_resolver_through_its_search_domains() {
    for (written, expected) in [
        ("web", &["10.1.0.1 10.1.0.2"][..]),
        // `web.bank.shop.svc…` is what the user wrote, with a search domain.
        ("web.bank", &["= 2: 10.1.0.3"]),
        ("api.example.com", &["= 3: 240.0.0.1"]),
        ("a.wild.example.com", &["240.0.0.2"]),
        ("www.example.org", &["-", "-", "-", "-"]),
    ] {
        let search = names::kubernetes_search("shop", "cluster.local");
        let asked = search.iter().map(|domain| format!("{written}.{domain}")).chain([written.to_owned()]);
        let mut answers = Vec::new();
        for name in asked {
            answers.push(said(find(&lookup(), "shop", &name, Family::Ipv4)));
            if answers.last().is_some_and(|answer| answer != "-") {
                break;
            }
        }
        assert_eq!(answers, expected, "{written}");
    }
}

#[test]
fn which_of_several_services_is_meant() {
    for (preferred, namespace, asked, expected) in [
        (None, "a", "shared.example.com", "240.0.1.1"),
        (None, "z", "shared.example.com", "240.0.1.3"),
        (Some("b"), "z", "shared.example.com", "240.0.1.3"),
        (Some("b"), "z", "pair.example.com", "240.0.2.2"),
        (Some("b"), "a", "pair.example.com", "240.0.2.1"),
        (None, "z", "pair.example.com", "240.0.2.1"),
    ] {
        let lookup = Lookup { preferred_namespace: preferred.map(str::to_owned), ..lookup() };
        let found = find(&lookup, namespace, asked, Family::Ipv4);
        assert_eq!(said(found), expected, "{asked} in {namespace}, {preferred:?} preferred");
    }
}

#[test]
fn without_ipv6_names_are_known_but_have_no_such_address() {
    let lookup = Lookup { ipv6: false, ..lookup() };
    assert_eq!(said(find(&lookup, "shop", "web", Family::Ipv6)), "");
    assert_eq!(said(find(&lookup, "shop", "db-0.db", Family::Ipv6)), "");
    assert_eq!(said(find(&lookup, "shop", "nobody", Family::Ipv6)), "-");
}
