//! Handing everything that a process holds to its successor.

pub mod channel;
pub mod limits;
pub mod message;
pub mod seat;
pub mod session;
