//! Istio's own proxy in the same place: an upgrade from it, to it, and between two of it. With the environment variable
//! `STOCK_ZTUNNEL=/path/to/ztunnel`, a build of `istio/ztunnel`; without it nothing is compared.

use tests::cluster::Launch;
use tests::daemonset::settle;
use tests::longlived::Seen;
use tests::skipped;

use crate::NODE;
use crate::shared::Scene;

/// No application sees more of an upgrade to ours, or from it, than of one of stock by stock, by the same rules and with the same
/// load.
#[test]
fn upgrades_to_ours_and_back_are_no_worse_than_those_of_stock() {
    let Ok(stock) = std::env::var("STOCK_ZTUNNEL") else {
        return skipped::say("a comparison needs STOCK_ZTUNNEL, the path of a stock proxy");
    };
    let (ours, stock) = (Launch::of(NODE).confined().replaceable(), Launch::of(&stock).confined());
    let mut measured = Vec::new();
    for (name, from, to) in [
        ("stock to stock", &stock, &stock),
        ("stock to ours", &stock, &ours),
        ("ours to stock", &ours, &stock),
    ] {
        let Some(seen) = upgrade(from, to) else { return };
        println!("{name}: {seen}");
        measured.push((name, seen));
    }
    let (_, least) = measured.remove(0);
    for (name, seen) in measured {
        let losses = seen.losses();
        assert_eq!(seen.long.lost.wrong + seen.fresh.lost.wrong, 0, "{name}: {losses:#?}");
        assert!(seen.long.lost.total() <= least.long.lost.total(), "{name}: {losses:#?}");
        assert!(seen.fresh.lost.total() <= least.fresh.lost.total(), "{name}: {losses:#?}");
    }
}

/// What applications see when the proxy of one node, `from`, is replaced by `to`; that of the other stays.
fn upgrade(from: &Launch, to: &Launch) -> Option<Seen> {
    let scene = Scene::create()?;
    let mut nodes = scene.nodes_by(from);
    settle(&mut nodes);
    let load = scene.load();
    nodes[0].containers().launch_by(to.clone());
    nodes[0].update(2);
    settle(&mut nodes);
    load.go_on();
    Some(load.stop())
}
