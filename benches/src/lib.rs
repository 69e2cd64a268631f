//! The load generator, the large mesh, many pods, replaced proxies, and what the micro benches use. `README.md` says how to read the figures.
//!
//! - [`route`]: a way to an application: direct, or through two node proxies;
//! - [`application`]: the server at its end, a process of its own;
//! - [`bulk`], [`exchange`], [`idle`], [`moves`]: what is measured;
//! - [`measure`]: every item in rounds, side by side on all routes, and the [`figures`] that come of it;
//! - [`population`]: a large mesh by its numbers; [`following`]: what it costs a proxy to learn it and to keep up with it;
//! - [`pods`]: a node of many pods, and what they cost its proxy;
//! - [`replace`]: proxies that take each other's place, and what connections notice of it;
//! - [`program`]: what a binary of this package needs besides;
//! - [`micro`]: the frame of micro benches;
//! - [`tunnel`]: both ends of one tunnel in memory, without proxies and sockets.

pub mod application;
pub mod arguments;
pub mod bulk;
pub mod error;
pub mod exchange;
pub mod figures;
pub mod following;
pub mod idle;
pub mod measure;
pub mod micro;
pub mod moves;
pub mod parallel;
pub mod pods;
pub mod population;
pub mod process;
pub mod program;
pub mod replace;
pub mod route;
pub mod tunnel;
