//! The client of istio-cni, which names the pods of this node that are to be served and hands over their network
//! namespaces. Its protocol is called ZDS.
//!
//! | file | what |
//! |---|---|
//! | `client` | the connection, and what is done with it; on the control thread |
//! | `host` | who serves the pods |
//! | `reconciler` | what is done with a pod when: a machine without I/O |
//! | `transport` | packets with descriptors |
//! | `message` | what is in them |
//! | `transfer` | a connection on its way to another process |
//!
//! Who connected last is told of new pods, everybody of those that go. istio-cni waits for the answer to each message,
//! but for no longer than 5 s.

mod client;
mod host;
mod message;
mod reconciler;
mod transfer;
mod transport;

pub use client::{Client, Config, PendingPod, start};
pub use host::{PodHost, StartPodError, Starting, Stopping};
pub use transfer::{NotReleased, ServedPod, Transfer, UnservedPod};
