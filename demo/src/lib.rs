//! A mesh of real processes on one machine: two node proxies, a server and clients, every byte checked.
//!
//! The binary shows it for a few seconds and passes judgement. Tests and benches use the parts:
//!
//! - [`node`]: one proxy process: start, wait until ready, ask for metrics, stop;
//! - [`mesh`]: what the proxies know of the cluster, as Istio's local configuration file;
//! - [`traffic`]: the applications, in every pattern that matters to a proxy;
//! - [`control_plane`]: an istiod that does as it is told, also wrong;
//! - [`stage`], [`istiod`]: two nodes, a server and a control plane, on loopback addresses or in network namespaces;
//! - [`acts`], [`guest`]: what happens while the traffic runs: a policy, an outage of istiod;
//! - [`upgrade`]: both proxies are replaced under load;
//! - [`show`], [`display`], [`report`], [`page`]: the timed run, what the reader sees of it, and the verdict.

pub mod acts;
pub mod addresses;
pub mod arguments;
pub mod control_plane;
pub mod display;
pub mod guest;
pub mod istiod;
pub mod mesh;
pub mod netns;
pub mod node;
pub mod page;
pub mod place;
pub mod report;
pub mod show;
pub mod stage;
pub mod traffic;
pub mod upgrade;
