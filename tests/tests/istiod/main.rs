//! Real proxy processes against a control plane: it dies, hangs, lies, refuses, and traffic does not notice.

#[macro_use]
extern crate tests;

mod certificates;
mod misbehaviour;
mod on_demand;
mod policy;
mod replicas;
mod restarts;
mod sync;

/// The proxy.
const NODE: &str = env!("CARGO_BIN_EXE_node");
