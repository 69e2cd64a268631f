//! Real proxy processes against stock peers and against faults.

#[macro_use]
extern crate tests;

mod hostile;
mod interop;
mod life;
mod limits;
mod plain;
mod pool;
mod startup;

/// The proxy.
const NODE: &str = env!("CARGO_BIN_EXE_node");
