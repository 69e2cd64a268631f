//! Proxies are replaced under load, by the rules of Kubernetes.

mod control;
mod scene;

/// The proxy.
const NODE: &str = env!("CARGO_BIN_EXE_node");
