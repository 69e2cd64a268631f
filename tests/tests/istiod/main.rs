//! Real proxy processes against a control plane: it dies, hangs, lies, refuses, and traffic does not notice.

mod certificates;
mod misbehaviour;
mod replicas;
mod restarts;
mod sync;

/// The proxy.
const NODE: &str = env!("CARGO_BIN_EXE_node");
