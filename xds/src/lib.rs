//! Typed mesh resources that cannot be invalid, and the store that the data path reads without locks.
//!
//! In layers, each usable without those above it; what the control plane says goes down the list, what a connection
//! asks goes up:
//!
//! * [`proto`]: the messages, generated. Anything may stand in them.
//! * [`decode`]: messages become resources and an [`Update`]. The only place that judges messages: what is refused is
//!   refused here, and leaves a mark that keeps ways closed. [`encode`] goes the other way.
//! * [`identity`] and [`resource`]: what the control plane says, parsed once. A [`Workload`], [`Service`] or
//!   [`Authorization`] that exists has passed every check; whoever holds one need not check again.
//! * [`store`]: the whole mesh as an immutable [`Snapshot`]. Readers load the current one without a lock and see
//!   an update whole or not at all; a writer copies only the paths it changes.
//! * [`upstream`]: which endpoint of a service a connection goes to, as a pure function.
//!
//! [`local`] reads resources from a file instead of a control plane; it stands where [`decode`] does. [`client`] keeps
//! the store like the control plane's view of the mesh, over connections that [`connect`] makes; [`ca`]
//! asks for certificates; [`telling`] is how a process lets its successor begin with what it knows.

#![forbid(unsafe_code)]

pub mod ca;
pub mod client;
pub mod connect;
pub mod decode;
pub mod encode;
pub mod identity;
pub mod local;
pub mod proto;
pub mod resource;
pub mod store;
mod subscription;
pub mod telling;
#[cfg(test)]
mod testing;
pub mod upstream;

pub use decode::{Complaint, Decoded, Decoder};
pub use identity::Identity;
pub use resource::{
    Authorization, AuthorizationSpec, NamespacedHostname, NetworkAddress, ResourceError, Service,
    ServiceSpec, Workload, WorkloadSpec,
};
pub use store::{Snapshot, Store, Update};
