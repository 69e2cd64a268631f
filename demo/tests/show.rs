//! The whole demonstration with a stand-in for the proxy: it passes when all is well, and fails, saying why, when not. The
//! stand-in knows nothing of a control plane: with the real proxy `.ci/run` plays the acts.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// The stand-in, under the name that makes it do `fault`.
fn stand_in(directory: &TempDir, fault: &str) -> PathBuf {
    let demo = Path::new(env!("CARGO_BIN_EXE_demo"));
    let program = demo.parent().expect("a binary is in a directory").join("examples/stand_in");
    assert!(program.exists(), "build the example first: cargo build -p demo --example stand_in");
    let name = directory.path().join(format!("standin{fault}"));
    symlink(program, &name).expect("a link in a fresh directory");
    name
}

fn demo(directory: &TempDir, proxy: &Path) -> Command {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_demo"));
    demo.args(["--no-upgrade", "--seconds", "2", "--json"]).arg(directory.path().join("report.json"));
    demo.arg("--proxy").arg(proxy).env("TMPDIR", directory.path());
    demo
}

fn show(fault: &str, options: &[&str]) -> (Output, String, Value) {
    let directory = tempfile::tempdir().expect("a directory");
    let proxy = stand_in(&directory, fault);
    let output = demo(&directory, &proxy).args(options).output().expect("the demo runs");
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    let json = std::fs::read(directory.path().join("report.json")).expect("a report");
    (output, shown, serde_json::from_slice(&json).expect("the report is JSON"))
}

fn assert_fails(fault: &str, reason: &str) {
    assert_fails_with(fault, &["--no-acts"], reason);
}

fn assert_fails_with(fault: &str, options: &[&str], reason: &str) {
    let (output, shown, json) = show(fault, options);
    let last = shown.lines().last().unwrap_or_default();
    assert_eq!(output.status.code(), Some(1), "{shown}");
    assert!(last.starts_with("demo: FAILED ") && last.contains(reason), "no {reason:?} in:\n{shown}");
    assert_eq!(json["passed"], false);
    assert!(shown.contains("The logs of both nodes are in "), "{shown}");
}

#[test]
fn it_passes_when_all_is_well() {
    let (output, shown, json) = show("", &["--no-acts"]);
    let last = shown.lines().last().unwrap_or_default();
    assert!(last.starts_with("demo: passed in "), "{shown}");
    assert_eq!(output.status.code(), Some(0), "{shown}");
    assert!(!shown.contains('\x1b'), "no terminal, no escapes:\n{shown}");
    assert!(last.ends_with("seen: spiffe://cluster.local/ns/demo/sa/client"), "{shown}");
    assert_eq!(json["passed"], true);
    assert_eq!(json["figures"]["connections"]["failed"], 0);
    assert!(json["figures"]["bytes_checked"].as_u64() > Some(1_000_000), "{json}");
    assert!(json["figures"]["tunnels"]["moves_client_node"].as_u64() > Some(0), "{json}");
}

#[test]
fn a_wrong_byte_fails() {
    assert_fails(".flip", "wrong byte on connection 0x");
}

#[test]
fn a_lost_byte_fails() {
    assert_fails(".lose", "wrong byte on connection 0x");
}

#[test]
fn tunnels_that_never_move_fail() {
    assert_fails(".rest", "no tunnel moved on the clients' node under load");
}

#[test]
fn a_wrong_identity_fails() {
    assert_fails(".stranger", "the server's node never saw spiffe://cluster.local/ns/demo/sa/client");
}

#[test]
fn plaintext_between_the_nodes_fails() {
    assert_fails(".plaintext", "connections reached the server's node as plaintext");
}

#[test]
fn acts_that_cannot_be_played_fail() {
    // The stand-in takes every connection to the one server that it knows.
    assert_fails_with("", &[], "the guest was not let in");
}

#[test]
fn a_node_that_dies_fails_with_its_last_words() {
    assert_fails(".die", "ended by itself (exit status: 101). Its last words:");
}

#[test]
fn without_a_proxy_it_fails() {
    let directory = tempfile::tempdir().expect("a directory");
    let output = demo(&directory, Path::new("/nonexistent/ztunnel")).output().expect("the demo runs");
    let shown = String::from_utf8_lossy(&output.stdout);
    let last = shown.lines().last().unwrap_or_default();
    assert_eq!(output.status.code(), Some(1), "{shown}");
    assert!(last.contains("the proxy /nonexistent/ztunnel cannot be started"), "{shown}");
}

#[test]
fn a_wrong_option_fails() {
    let output = Command::new(env!("CARGO_BIN_EXE_demo")).arg("--fast").output().expect("the demo runs");
    let shown = String::from_utf8_lossy(&output.stdout);
    assert_eq!(shown.trim(), "demo: FAILED unknown option \"--fast\"; `demo --help` lists them");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn an_interrupt_ends_it_and_leaves_no_process_behind() {
    use std::io::{BufRead, BufReader, Read};
    let directory = tempfile::tempdir().expect("a directory");
    let proxy = stand_in(&directory, "");
    let mut child = demo(&directory, &proxy)
        .args(["--seconds", "600", "--no-acts"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the demo runs");
    let mut shown = BufReader::new(child.stdout.take().expect("its output is piped"));
    let mut line = String::new();
    while !line.contains("connections open") {
        line.clear();
        assert_ne!(shown.read_line(&mut line).expect("text"), 0, "it ended by itself");
    }
    let pid = rustix::process::Pid::from_child(&child);
    assert_eq!(running(&proxy), 2, "both nodes run");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
    let mut rest = String::new();
    shown.read_to_string(&mut rest).expect("text");
    assert_eq!(child.wait().expect("it ends").code(), Some(1), "{rest}");
    assert!(rest.lines().last().unwrap_or_default().starts_with("demo: FAILED interrupted"), "{rest}");
    assert_eq!(running(&proxy), 0, "no node is left");
}

/// How many processes were started as `program`.
fn running(program: &Path) -> usize {
    let processes = std::fs::read_dir("/proc").expect("a Linux system");
    let commands = processes.flatten().filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let wanted = program.as_os_str().as_encoded_bytes();
    commands.filter(|command| command.split(|byte| *byte == 0).next() == Some(wanted)).count()
}
