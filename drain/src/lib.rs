//! What happens when a node proxy must go.
//!
//! Elsewhere "drain" often means a signal for a graceful shutdown. Here it is everything between the moment when a
//! process learns that it will end and the moment when nobody needs it any more, seen from the connections:
//!
//! - [`Registry`]: which connections the process answers for, with what is known of each;
//! - [`DrainMachine`] and [`deadline_ms`]: the phases of a drain and its deadline;
//! - [`handover`]: everything that the process holds, given to a successor on the same machine.
//!
//! Promises:
//!
//! - **Nothing is cut before the deadline**, except by someone at a keyboard who asks twice; and nothing is cut in silence.
//! - **Nobody is left without a listener** while a successor may still come: a process that is told to end accepts for a
//!   while longer.
//! - **Peers are told** (GOAWAY) as soon as nothing new is accepted, unless their connections follow the listeners to another
//!   process. From the first second on the log says what the drain waits for.
//! - **The end is early when it can be:** the process ends as soon as its last connection does.
//! - **A descriptor is passed or it is not.** The sender's copies stay as they are; the receiver holds all of a record or
//!   nothing, never a part of it, and never believes a short count.
//!
//! What travels is opaque to this crate: it knows neither TLS nor HTTP/2 nor the daemon's facts of a connection. The
//! machine takes its time from the caller, in milliseconds, so a test needs no clock.

#![forbid(unsafe_code)]

mod deadline;
pub mod handover;
pub mod machine;
pub mod registry;

pub use deadline::deadline_ms;
pub use machine::DrainMachine;
pub use registry::{Counts, Entry, Kind, Registry, Tracked};
