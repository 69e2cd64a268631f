//! What happens when a node proxy must go.

#![forbid(unsafe_code)]

mod deadline;
pub mod machine;
pub mod registry;

pub use deadline::deadline_ms;
pub use machine::DrainMachine;
pub use registry::{Counts, Entry, Kind, Registry, Tracked};
