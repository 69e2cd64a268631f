//! A proxy that cannot serve pods says so in one line, and does not start.

use std::process::{Command, Output, Stdio};

use tests::cluster::Cluster;
use tests::cni::Timing;
use tests::wait::until_blocking;

use crate::NODE;

#[test]
fn each_privilege_that_is_missing_is_named() {
    // Whoever may make a cluster may take privileges away.
    let Some(cluster) = Cluster::create(Timing::UNLIMITED) else { return };
    let all =
        ["NET_ADMIN (to mark sockets)", "NET_RAW (to keep original source addresses)", "SYS_ADMIN (to enter"];
    for (without, named) in [("-net_admin", 0..1), ("-net_raw", 1..2), ("-sys_admin", 2..3), ("-all", 0..3)] {
        let before = ["setpriv", "--inh-caps=-all", &format!("--bounding-set={without}")];
        let errors = refusal(&start(&cluster, &before, &[]));
        assert!(errors.contains("securityContext.capabilities.add"), "{without}: {errors}");
        for (number, part) in all.iter().enumerate() {
            assert_eq!(errors.contains(part), named.contains(&number), "{without}: {part} in {errors}");
        }
    }
    let errors = refusal(&start(&cluster, &["unshare", "--user", "--map-root-user"], &[]));
    assert!(errors.contains("user namespace of its own") && errors.contains("hostUsers: true"), "{errors}");
}

#[test]
fn what_belongs_to_dedicated_mode_is_refused() {
    let Some(cluster) = Cluster::create(Timing::UNLIMITED) else { return };
    for (name, value) in [("BIND_ADDRESS", "127.0.0.1"), ("PROXY_WORKLOAD_INFO", "demo/client/client")] {
        let errors = refusal(&start(&cluster, &[], &[(name, value)]));
        assert!(errors.contains(name) && errors.contains("no place in shared mode"), "{errors}");
    }
}

/// What is said: one line.
fn refusal(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert_eq!(errors.lines().count(), 1, "not one line:\n{errors}");
    errors
}

/// Starts a proxy in shared mode by the command `before`, and waits for its end.
fn start(cluster: &Cluster, before: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = before.iter().chain(&[NODE, "proxy"]);
    let mut child = Command::new(command.next().expect("a program"))
        .args(command)
        .env("PROXY_MODE", "shared")
        .env("XDS_ADDRESS", "")
        .env("FAKE_CA", "true")
        .env("INPOD_UDS", cluster.directory().join("nobody"))
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a program");
    until_blocking("it ends", || !matches!(child.try_wait(), Ok(None)));
    child.wait_with_output().expect("our own child")
}
