//! Builds the parts from the environment, starts them, and leads the process to its end.

mod build;
mod doorkeeper;
mod ending;
mod hosting;
mod lead;
mod listeners;
mod mesh;
mod node_agent;
mod node_role;
mod servers;
mod standing;

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;

use crate::config::ConfigError;
use crate::config::environment::Environment;
use crate::identity::FakeCaError;
use crate::privileges::PrivilegesError;

const HELP: &str = "\
ztunnel: the node proxy of an Istio ambient mesh, made to be replaced under load

usage: ztunnel [proxy] [ignored...]   run the proxy, configured by environment variables (see README.md)
       ztunnel version                print the version
       ztunnel help                   print this";

/// Runs the command that the arguments name; without one, the proxy. Further arguments are ignored, as in stock: the
/// Helm chart passes `proxy ztunnel`.
pub fn run(mut arguments: impl Iterator<Item = String>) -> ExitCode {
    match arguments.next().as_deref() {
        None | Some("proxy") => match build::Proxy::from_environment(&Environment::from_process()) {
            Ok(proxy) => proxy.serve(),
            Err(error) => {
                eprintln!("ztunnel: {error}");
                ExitCode::FAILURE
            }
        },
        Some("version") => {
            println!("{}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Some("help" | "--help" | "-h") => {
            println!("{HELP}");
            ExitCode::SUCCESS
        }
        Some(other) => {
            eprintln!("ztunnel: unknown command {other:?}\n\n{HELP}");
            ExitCode::FAILURE
        }
    }
}

/// Why the proxy can't start: one line that says what, where and what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A variable, or a file that one names.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A listener.
    #[error("cannot listen on {address} ({what}): {error}; {}", advice(.error))]
    Listen {
        /// What it is for.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// What the kernel said.
        error: io::Error,
    },
    /// The mesh state that `LOCAL_XDS` or `LOCAL_XDS_PATH` gives.
    #[error("{place}: {error}")]
    LocalMesh {
        /// Where it was read from.
        place: String,
        /// What is wrong with it.
        error: xds::local::LocalConfigError,
    },
    /// What the process may not do.
    #[error(transparent)]
    Privileges(#[from] PrivilegesError),
    /// The fake certificate authority.
    #[error("FAKE_CA: {0}")]
    FakeCa(#[from] FakeCaError),
    /// Threads or event queues.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "stop what listens there, or choose another BIND_ADDRESS",
        io::ErrorKind::AddrNotAvailable => {
            "it must be an address of this host: check BIND_ADDRESS, and that the loopback interface is up"
        }
        io::ErrorKind::PermissionDenied => "this needs more privileges (CAP_NET_ADMIN for PACKET_MARK)",
        _ => "check BIND_ADDRESS and the limits of this process",
    }
}
