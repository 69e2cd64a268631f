//! Two network namespaces joined by a cable, with the redirection that a node proxy expects: applications in them do not
//! know that there is a proxy.
//!
//! ```text
//!  namespace "client"                                   namespace "server"
//!  application ──▶ OUTPUT ──REDIRECT──▶ 15001 proxy ═══ veth ═══▶ 15008 proxy ──▶ application
//!                    ▲                        │ mark 1337             anything else: REDIRECT 15006
//!                    └── marked: not redirected
//! ```

use std::fs::File;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::process::{self, Command, Stdio};
use std::sync::Arc;

use crate::node::{INBOUND_PLAINTEXT_PORT, OUTBOUND_PORT, TUNNEL_PORT};
use crate::place::{Place, PlaceError};

/// The mark on the proxy's own packets, which are not redirected; also for the proxy's `PACKET_MARK`.
pub const PACKET_MARK: u32 = 1337;

/// The two namespaces. Dropping this removes them.
#[derive(Debug)]
pub struct Namespaces {
    client: Namespace,
    server: Namespace,
}

/// Why there are no namespaces.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// Something that is needed is not there.
    #[error("--netns needs {}", missing.join(" and "))]
    Missing {
        /// What is not there, in words.
        missing: Vec<String>,
    },
    /// A command failed.
    #[error("`{command}` failed: {said}")]
    Command {
        /// The command line.
        command: String,
        /// What it said.
        said: String,
    },
    /// The namespace that was made cannot be opened.
    #[error("the network namespace {name} cannot be opened: {source}")]
    Open {
        /// Its name.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// The namespace that was made cannot be entered.
    #[error(transparent)]
    Place(#[from] PlaceError),
}

impl Namespaces {
    /// The address in the client's namespace.
    pub const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1));
    /// The address in the server's namespace.
    pub const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 2));
    /// A virtual address; it has a route, but no one has it.
    pub const SERVICE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 1, 1));

    /// Makes both, with the cable and the redirection.
    ///
    /// # Errors
    /// Not root, a tool is not installed, or a command fails. What was made until then is removed.
    pub fn create() -> Result<Self, NetnsError> {
        check_missing()?;
        let id = process::id();
        let client = Namespace::create(&format!("demo-{id}-client"))?;
        let server = Namespace::create(&format!("demo-{id}-server"))?;
        let (from, to) = (&client.name, &server.name);
        command(&format!("ip link add eth0 netns {from} type veth peer name eth0 netns {to}"))?;
        client.set_up(Self::CLIENT)?;
        server.set_up(Self::SERVER)?;
        for rule in outbound_rules().into_iter().chain(inbound_rules()) {
            let place = if rule.contains("OUTPUT") { client.place() } else { server.place() };
            place.run(|| command(&rule))??;
        }
        Ok(Self { client, server })
    }

    /// The client's namespace.
    pub fn client(&self) -> Place {
        self.client.place()
    }

    /// The server's namespace.
    pub fn server(&self) -> Place {
        self.server.place()
    }
}

/// Everything that leaves goes to the proxy, save for what the proxy sends and what stays on the machine.
fn outbound_rules() -> Vec<String> {
    vec![
        format!("iptables -w -t nat -A OUTPUT -p tcp -m mark --mark {PACKET_MARK:#x}/0xfff -j RETURN"),
        "iptables -w -t nat -A OUTPUT -p tcp -o lo -j RETURN".to_owned(),
        format!("iptables -w -t nat -A OUTPUT -p tcp -j REDIRECT --to-ports {OUTBOUND_PORT}"),
    ]
}

/// Everything that arrives goes to the proxy: tunnels as they are, anything else to the plaintext port.
fn inbound_rules() -> Vec<String> {
    vec![
        format!("iptables -w -t nat -A PREROUTING -p tcp --dport {TUNNEL_PORT} -j RETURN"),
        format!("iptables -w -t nat -A PREROUTING -p tcp -j REDIRECT --to-ports {INBOUND_PLAINTEXT_PORT}"),
    ]
}

fn check_missing() -> Result<(), NetnsError> {
    let missing = missing(rustix::process::geteuid().is_root(), installed);
    if missing.is_empty() { Ok(()) } else { Err(NetnsError::Missing { missing }) }
}

fn missing(root: bool, installed: impl Fn(&str) -> bool) -> Vec<String> {
    let mut missing = Vec::new();
    if !root {
        missing.push("root (network namespaces and iptables)".to_owned());
    }
    let tools = [("ip", "iproute2"), ("iptables", "iptables")];
    let absent = tools.into_iter().filter(|(tool, _)| !installed(tool));
    missing.extend(absent.map(|(tool, package)| format!("the tool `{tool}` (package {package})")));
    missing
}

fn installed(tool: &str) -> bool {
    Command::new(tool).arg("-V").output().is_ok()
}

/// One namespace, by the name that `ip netns` knows it by. Dropping this removes it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    file: Arc<File>,
}

impl Namespace {
    /// Makes an empty one.
    ///
    /// # Errors
    /// Something that is needed is not there, or the name is taken.
    pub fn create(name: &str) -> Result<Self, NetnsError> {
        check_missing()?;
        command(&format!("ip netns add {name}"))?;
        let opened = Self::open(name);
        if opened.is_err() {
            command(&format!("ip netns del {name}"))?;
        }
        opened
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes empty ones at once, which is faster than one by one.
    ///
    /// # Errors
    /// As [`Namespace::create`]; then none is left.
    pub fn create_all(names: &[String]) -> Result<Vec<Self>, NetnsError> {
        check_missing()?;
        let all = |verb: &str| names.iter().map(|name| format!("netns {verb} {name}\n")).collect::<String>();
        let created = command_with("ip -batch -", &all("add"));
        let opened = created.and_then(|()| names.iter().map(|name| Self::open(name)).collect());
        if opened.is_err() {
            // Some were never made. Those that were opened are removed already.
            command_with("ip -force -batch -", &all("del")).ok();
        }
        opened
    }

    fn open(name: &str) -> Result<Self, NetnsError> {
        let name = name.to_owned();
        match File::open(format!("/run/netns/{name}")) {
            Ok(file) => Ok(Self { name, file: Arc::new(file) }),
            Err(source) => Err(NetnsError::Open { name, source }),
        }
    }

    fn set_up(&self, address: IpAddr) -> Result<(), NetnsError> {
        let name = &self.name;
        command(&format!("ip -n {name} address add {address}/16 dev eth0"))?;
        command(&format!("ip -n {name} link set lo up"))?;
        command(&format!("ip -n {name} link set eth0 up"))
    }

    /// An open file of it, which keeps it alive: what is passed to a proxy.
    pub fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// The namespace as a place to run things in.
    pub fn place(&self) -> Place {
        Place::Namespace(Arc::clone(&self.file))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = command(&format!("ip netns del {}", self.name)) {
            eprintln!("demo: a network namespace is left behind: {error}");
        }
    }
}

/// Runs a command line of plain words.
///
/// # Errors
/// It cannot be run, or it failed.
pub fn command(line: &str) -> Result<(), NetnsError> {
    command_with(line, "")
}

/// Runs a command line of plain words that reads `input`.
///
/// # Errors
/// It cannot be run, or it failed.
pub fn command_with(line: &str, input: &str) -> Result<(), NetnsError> {
    let failed = |said: String| NetnsError::Command { command: line.to_owned(), said };
    let mut words = line.split(' ');
    let program = words.next().unwrap_or_default();
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    if let Some(mut pipe) = child.stdin.take() {
        // A command that does not read to the end has failed, and says why.
        pipe.write_all(input.as_bytes()).ok();
    }
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(format!("{}, {}", output.status, String::from_utf8_lossy(&output.stderr).trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_all_at_once() {
        assert!(missing(true, |_| true).is_empty());
        let error = NetnsError::Missing { missing: missing(false, |tool| tool == "ip") };
        let expected = "--netns needs root (network namespaces and iptables) and \
                        the tool `iptables` (package iptables)";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn the_rules_spare_the_proxys_own_packets_and_tunnels() {
        let outbound = outbound_rules();
        assert!(outbound[0].contains("--mark 0x539/0xfff -j RETURN"), "{outbound:?}");
        assert!(outbound.last().is_some_and(|rule| rule.ends_with("REDIRECT --to-ports 15001")));
        let inbound = inbound_rules();
        assert!(inbound[0].contains("--dport 15008 -j RETURN"), "{inbound:?}");
        assert!(inbound.last().is_some_and(|rule| rule.ends_with("REDIRECT --to-ports 15006")));
    }

    #[test]
    fn a_failed_command_says_what_it_was() {
        let error = command("false").expect_err("false fails");
        assert!(error.to_string().starts_with("`false` failed: exit status: 1"), "{error}");
        assert!(command("true").is_ok());
        assert!(command_with("grep -q word", "a word\n").is_ok());
        assert!(command_with("grep -q word", "another\n").is_err());
    }
}
