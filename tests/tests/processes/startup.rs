//! A process that cannot start says so in one line: what, where, what to do.

use std::net::TcpListener;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tests::stock::HBONE_PORT;
use tests::wait::PATIENCE;
use tests::world::{Host, Variant, World};

use crate::NODE;

type Environment<'a> = &'a [(&'a str, &'a str)];

#[test]
fn mistakes_are_one_line_that_says_what_to_do() {
    let world = World::new(NODE, Variant::Still);
    let mistakes: [(Environment<'_>, &[&str]); 10] = [
        (&[("PROXY_MODE", "sidecar")], &["PROXY_MODE", "\"sidecar\"", "use shared or dedicated"]),
        (
            &[("POOL_UNUSED_RELEASE_TIMEOUT", "5 parsecs")],
            &["POOL_UNUSED_RELEASE_TIMEOUT", "\"5 parsecs\"", "use ms, s, m, h or d"],
        ),
        (&[("UNSTABLE_ENABLE_SOCKS5", "yes")], &["UNSTABLE_ENABLE_SOCKS5", "\"yes\"", "use true or false"]),
        (&[("TUNNEL_MOVE_INTERVAL", "0s")], &["TUNNEL_MOVE_INTERVAL", "leave it unset"]),
        (&[("BIND_ADDRESS", "here")], &["BIND_ADDRESS", "\"here\"", "use one such as"]),
        (
            &[("PROXY_WORKLOAD_INFO", "demo/client")],
            &["PROXY_WORKLOAD_INFO", "namespace/name/service-account"],
        ),
        (
            &[("FAKE_CA", "false"), ("CA_ADDRESS", "https://istiod:15012"), ("CA_ROOT_CA", "/no/root.pem")],
            &["CA_ROOT_CA", "/no/root.pem", "mount the root certificate"],
        ),
        (
            &[("FAKE_CA_ROOT_CERT", "/no/root.pem"), ("FAKE_CA_ROOT_KEY", "/no/key.pem")],
            &["FAKE_CA", "/no/root.pem", "No such file"],
        ),
        (
            &[("LOCAL_XDS", "workloads: [{uid: u, namespace: n, workloadIp: 10.0.0.1}]")],
            &["LOCAL_XDS", "workloads[0]", "unknown field `workloadIp`", "expected one of"],
        ),
        (&[("LOCAL_XDS_PATH", "/no/mesh.yaml")], &["LOCAL_XDS_PATH", "/no/mesh.yaml", "No such file"]),
    ];
    for (environment, parts) in mistakes {
        assert_refuses(&start(&world, environment), environment, parts);
    }
}

#[test]
fn a_port_in_use_is_named() {
    let world = World::new(NODE, Variant::Still);
    let address = world.at(Host::Client, HBONE_PORT);
    let _taken = TcpListener::bind(address).expect("a free port");
    let parts = ["inbound HBONE", &address.to_string(), "in use", "another BIND_ADDRESS"];
    assert_refuses(&start(&world, &[]), &[], &parts);
}

fn start(world: &World, environment: Environment<'_>) -> Output {
    let mut child = Command::new(NODE)
        .env_clear()
        .env("PROXY_MODE", "dedicated")
        .env("PROXY_WORKLOAD_INFO", "demo/client/client")
        .env("XDS_ADDRESS", "")
        .env("FAKE_CA", "true")
        .env("BIND_ADDRESS", world.ip(Host::Client).to_string())
        .env("ISTIO_META_DNS_CAPTURE", "false")
        .envs(environment.iter().copied())
        .arg("proxy")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the proxy is a program");
    let begun = Instant::now();
    while matches!(child.try_wait(), Ok(None)) && begun.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(5));
    }
    // If it has started after all it is ended here, and says nothing.
    child.kill().ok();
    child.wait_with_output().expect("our own child")
}

fn assert_refuses(output: &Output, environment: Environment<'_>, parts: &[&str]) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{environment:?}: {errors}");
    assert_eq!(errors.lines().count(), 1, "{environment:?} gives not one line:\n{errors}");
    for part in parts {
        assert!(errors.contains(part), "{environment:?}: no {part:?} in {errors}");
    }
}
