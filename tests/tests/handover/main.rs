//! Proxies are replaced under load, by the rules of Kubernetes.

mod awkward;
mod control;
mod matrix;
mod replacements;
mod scene;
mod shared;
mod stories;

/// The proxy.
const NODE: &str = env!("CARGO_BIN_EXE_node");
