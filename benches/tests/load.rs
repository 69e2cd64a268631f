//! The load generator from its command line: it measures, and says what it could not measure.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn load(words: &str, json: Option<&Path>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_load"));
    command.args(words.split_whitespace());
    if let Some(json) = json {
        command.arg("--json").arg(json);
    }
    command.output().expect("it starts")
}

#[test]
fn every_item_gives_figures() {
    let directory = tempfile::tempdir().expect("a directory");
    let json = directory.path().join("figures.json");
    let output = load("bulk latency connect moves --rounds 1 --seconds 0.2", Some(&json));
    let shown = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{shown}\n{errors}");

    let figures: Value = serde_json::from_slice(&std::fs::read(json).expect("figures")).expect("JSON");
    for (section, item) in [
        ("bulk, connections: 8", "throughput, proxies / direct"),
        ("requests of 128 bytes, connections: 16", "p50, proxies"),
        ("new connections, clients: 8", "rate, proxies"),
        ("tunnels that move every 5 ms, proxies", "client node, moves"),
        ("tunnels that move every 5 ms, proxies", "server node, moves"),
        ("an idle tunnel in memory, its client's end", "streams: 100, state"),
    ] {
        let median = figure(&figures, section, item);
        assert!(median.is_some_and(|median| median > 0.0), "{section}: {item}: {median:?}\n{shown}");
        assert!(shown.contains(section) && shown.contains(item), "{shown}");
    }
}

#[test]
fn a_proxy_that_does_not_start_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    // What it keeps of a failure shall go as well.
    let mut command = Command::new(env!("CARGO_BIN_EXE_load"));
    command.args(["bulk", "--proxy", "/nonexistent/ztunnel"]).env("TMPDIR", directory.path());
    let output = command.output().expect("it starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("the proxy /nonexistent/ztunnel cannot be started"), "{errors}");
}

#[test]
fn a_wrong_word_is_named() {
    let output = load("bulky", None);
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(errors.trim(), "load: unknown word \"bulky\"; `load --help` lists them");
}

fn figure(figures: &Value, section: &str, item: &str) -> Option<f64> {
    let find = |list: &Value, key: &str, name: &str| {
        list.as_array()?.iter().find(|entry| entry[key].as_str() == Some(name)).cloned()
    };
    find(&find(&figures["sections"], "title", section)?["lines"], "item", item)?["median"].as_f64()
}
