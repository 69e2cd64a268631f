//! Proxies are replaced under load, by the rules of Kubernetes.

mod awkward;
mod changes;
mod coming;
mod connection;
mod control;
mod ends;
mod limits;
mod matrix;
mod replacements;
mod scene;
mod shared;
mod stock;
mod stories;
mod versus_stock;
mod warm;

/// The proxy.
const NODE: &str = env!("CARGO_BIN_EXE_node");
