//! Replaced proxies from the command line, with as few connections as a test can wait for.

use std::process::{Command, Output};

use serde_json::Value;

fn replace(words: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_replace"));
    command.args(words.split_whitespace()).output().expect("it starts")
}

#[test]
fn every_way_gives_figures_and_only_the_control_loses_connections() {
    let directory = tempfile::tempdir().expect("a directory");
    let json = directory.path().join("figures.json");
    let words = "sigterm bake kill control --idle 150 --busy 10 --replacements 1 --seconds 0.2 --json";
    let output = replace(&format!("{words} {}", json.display()));
    let shown = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{shown}\n{errors}");

    let figures: Value = serde_json::from_slice(&std::fs::read(json).expect("figures")).expect("JSON");
    for (way, moved, lost) in [
        ("sigterm", Some(160.0), 0.0),
        ("bake", Some(160.0), 0.0),
        ("kill", None, 0.0),
        ("control", None, 160.0),
    ] {
        for node in ["client's node", "server's node"] {
            let title = format!("{way}, {node}: 150 idle, 10 busy");
            let value = |item: &str| figure(&figures, &title, item);
            assert_eq!(value("connections lost"), Some(lost), "{title}: {shown}\n{errors}");
            assert_eq!(value("connections moved"), moved, "{title}: {shown}");
            if moved.is_some() {
                assert!(value("moving: round trips").is_some_and(|count| count > 0.0), "{shown}");
                assert!(value("state").is_some_and(|bytes| bytes > 50.0 && bytes < 1024.0), "{shown}");
                assert!(value("pause of a tunnel, longest").is_some_and(|pause| pause > 0.0), "{shown}");
            }
        }
    }
}

#[test]
fn a_wrong_word_is_named() {
    let output = replace("softly");
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(errors.trim(), "replace: unknown word \"softly\"; `replace --help` lists them");
}

fn figure(figures: &Value, section: &str, item: &str) -> Option<f64> {
    let find = |list: &Value, key: &str, name: &str| {
        list.as_array()?.iter().find(|entry| entry[key].as_str() == Some(name)).cloned()
    };
    find(&find(&figures["sections"], "title", section)?["lines"], "item", item)?["median"].as_f64()
}
