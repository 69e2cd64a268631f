//! The large mesh from its command line, at a size that a test can wait for.

use std::process::{Command, Output};

use serde_json::Value;

fn mesh(words: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mesh"));
    command.args(words.split_whitespace()).output().expect("it starts")
}

#[test]
fn a_proxy_learns_a_mesh_keeps_up_and_comes_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let json = directory.path().join("figures.json");
    let words = "--workloads 2000 --updates 50 --restarts 2 --rest 0.1 --json";
    let output = mesh(&format!("{words} {}", json.display()));
    let shown = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{shown}\n{errors}");

    let figures: Value = serde_json::from_slice(&std::fs::read(json).expect("figures")).expect("JSON");
    let values = |section: usize, item: &str| -> Vec<f64> {
        let lines = figures["sections"][section]["lines"].as_array().expect("lines");
        let line =
            lines.iter().find(|line| line["item"] == item).unwrap_or_else(|| panic!("{item}: {shown}"));
        line["values"].as_array().expect("values").iter().filter_map(Value::as_f64).collect()
    };
    let all = 2000.0 + 100.0 + 20.0;
    assert_eq!(values(0, "resources sent"), [all]);
    assert!(values(0, "from the start until ready")[0] > 0.0, "{shown}");
    assert!(values(0, "memory of the mesh")[0] > 0.0, "{shown}");
    assert_eq!(values(1, "from the change until acknowledged").len(), 50);
    assert_eq!(values(2, "resources that the proxy names"), [all, all]);
    assert_eq!(values(2, "workloads and services sent again"), [0.0, 0.0]);
    assert_eq!(values(2, "policies sent again: they have no version"), [20.0, 20.0]);
}

#[test]
fn a_wrong_word_is_named() {
    let output = mesh("large");
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(errors.trim(), "mesh: unknown word \"large\"; `mesh --help` lists them");
}
