//! What the process may do: checked at its start, so that what is missing is said once and not by each pod's failure.
//!
//! In shared mode the proxy makes sockets in the network namespaces of others. That needs three capabilities, which
//! must be those of the machine: in a user namespace of its own a process seems to have all of them, and can use them on
//! nothing that is not its own.

use std::fmt;
use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit};
use socket2::{Domain, Socket, Type};

use crate::namespace::Namespace;

/// Why the process can't work for the pods of its node. Each says what, why and what to do.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegesError {
    /// Capabilities of a user namespace are worth nothing outside of it.
    #[error(
        "this process runs in a user namespace of its own, from where the pods' network namespaces can't be entered; \
         set hostUsers: true in the pod's spec, or leave it out"
    )]
    UserNamespace,
    /// Not all of the three are there.
    #[error("missing {0}; run as root, with these under securityContext.capabilities.add")]
    Missing(Capabilities),
    /// `setns` fails.
    #[error(
        "network namespaces of pods can't be entered (setns, SYS_ADMIN): {0}; check the seccomp profile and the \
         container's runtime"
    )]
    Namespace(io::Error),
    /// `SO_MARK` fails.
    #[error(
        "sockets can't be marked (SO_MARK, NET_ADMIN), so the proxy's own connections would be redirected to it again: \
         {0}; check the seccomp profile and the container's runtime"
    )]
    Mark(io::Error),
    /// `IP_TRANSPARENT` fails.
    #[error(
        "original source addresses can't be kept (IP_TRANSPARENT, NET_RAW): {0}; check the seccomp profile and the \
         container's runtime"
    )]
    Transparent(io::Error),
    /// `/proc` says nothing, or nothing that can be understood.
    #[error("cannot tell the privileges of this process: {file}: {reason}; mount /proc")]
    Unknown {
        /// Which file of it.
        file: &'static str,
        /// What is wrong.
        reason: String,
    },
}

/// Checks that the process can work for the pods of its node: shared mode.
///
/// # Errors
/// The first thing that is missing.
pub fn check() -> Result<(), PrivilegesError> {
    if !is_initial(&read(UID_MAP)?) {
        return Err(PrivilegesError::UserNamespace);
    }
    let effective = Capabilities::effective(&read(STATUS)?)
        .ok_or_else(|| PrivilegesError::Unknown { file: STATUS, reason: "no CapEff in it".to_owned() })?;
    let missing = effective.missing();
    if missing != Capabilities(0) {
        return Err(PrivilegesError::Missing(missing));
    }
    if effective != NEEDED {
        tracing::debug!("more capabilities than {NEEDED}: the others can be dropped");
    }
    // The thread that tries it may end up anywhere, and ends.
    let visitor =
        std::thread::Builder::new().name("visitor".to_owned()).spawn(|| Namespace::current()?.enter());
    let visited = visitor.and_then(|visitor| {
        visitor.join().unwrap_or_else(|_| Err(io::Error::other("the visit of a network namespace panicked")))
    });
    visited.map_err(PrivilegesError::Namespace)?;
    let socket = || Socket::new(Domain::IPV4, Type::STREAM, None);
    socket().and_then(|socket| socket.set_mark(1)).map_err(PrivilegesError::Mark)?;
    socket().and_then(|socket| socket.set_ip_transparent_v4(true)).map_err(PrivilegesError::Transparent)
}

/// Keeps the memory of the process, and so its keys, out of core dumps and from debuggers.
///
/// A process of root becomes undumpable, whatever handles core dumps. Otherwise only their size is limited: who runs it
/// without privileges may look into it, and measure it.
pub fn keep_memory_private() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = rustix::process::setrlimit(Resource::Core, none) {
        tracing::warn!(%error, "core dumps can't be switched off: one would hold private keys");
    }
    if !rustix::process::geteuid().is_root() {
        tracing::debug!("not root: the process can be looked into by its user");
    } else if let Err(error) = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "the process can be dumped: a dump would hold private keys");
    }
}

/// A set of Linux capabilities, one bit each (`capabilities(7)`). `Display` names the three that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities(u64);

impl Capabilities {
    /// Those in effect, from the text of `/proc/…/status`.
    fn effective(status: &str) -> Option<Self> {
        let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
        u64::from_str_radix(set.trim(), 16).ok().map(Self)
    }

    /// Those of the three that aren't here.
    fn missing(self) -> Self {
        Self(NEEDED.0 & !self.0)
    }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = NAMES.iter().filter(|(bit, ..)| self.0 & (1 << bit) != 0);
        for (index, (_, name, purpose)) in known.enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{name} ({purpose})")?;
        }
        Ok(())
    }
}

/// Whether a process with this `uid_map` is in the machine's own user namespace: every user is itself there.
fn is_initial(uid_map: &str) -> bool {
    uid_map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

fn read(file: &'static str) -> Result<String, PrivilegesError> {
    std::fs::read_to_string(file)
        .map_err(|error| PrivilegesError::Unknown { file, reason: error.to_string() })
}

const UID_MAP: &str = "/proc/self/uid_map";
const STATUS: &str = "/proc/thread-self/status";

/// Number in the kernel's sets, name, and what the proxy needs it for.
const NAMES: [(u32, &str, &str); 3] = [
    (12, "NET_ADMIN", "to mark sockets"),
    (13, "NET_RAW", "to keep original source addresses"),
    (21, "SYS_ADMIN", "to enter the pods' network namespaces"),
];
const NEEDED: Capabilities = Capabilities(1 << 12 | 1 << 13 | 1 << 21);

#[cfg(test)]
mod tests;
