//! Shared mode: two nodes, a proxy on each for all pods there, in a cluster of network namespaces.

#[macro_use]
extern crate tests;

mod coming;
mod isolation;
mod malice;
mod names;
mod node_agent;
mod own;
mod pair;
mod scene;
mod startup;
mod traffic;

/// The proxy.
const NODE: &str = env!("CARGO_BIN_EXE_node");
