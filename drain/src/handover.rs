//! Handing everything that a process holds to its successor.

pub mod limits;
pub mod session;
