//! What happens when a node proxy must go.

#![forbid(unsafe_code)]

pub mod registry;

pub use registry::{Counts, Entry, Kind, Registry, Tracked};
