//! What istio-cni sets in the network namespace of a pod, so that the node's proxy gets its traffic: iptables rules in the
//! tables and chains that istio-cni uses, by one `iptables-restore` for each family, and two routes.
//!
//! ```text
//!  application ─► OUTPUT ─┬─ port 53 ────────────────► 15053        ─► leaves: the proxy's own packets (mark 0x539)
//!                         └─ other TCP ──────────────► 15001
//!  arrives ─► PREROUTING ─┬─ port 15008, the kubelet ► as it is
//!                         └─ other TCP ──────────────► 15006
//! ```
//!
//! Where the proxy connects to an application in the name of a foreign address, the answers would leave the pod: the
//! connection gets the mark 0x111, by which they are led back to the proxy.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use demo::netns::{NetnsError, command_with};
use demo::place::Place;

/// The address that the kubelet's probes come from, as a pod sees them. They are not redirected.
pub const PROBE_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 7, 127);
/// The same for IPv6.
pub const PROBE_V6: Ipv6Addr = Ipv6Addr::new(0xfd16, 0x9254, 0x7127, 0x1337, 0xffff, 0xffff, 0xffff, 0xffff);

/// Leads the traffic of a pod to its proxy, IPv4 and IPv6.
///
/// # Errors
/// A command fails.
pub fn install(pod: &Place) -> Result<(), NetnsError> {
    pod.run(|| {
        command_with("iptables-restore --wait --noflush", &rules(PROBE_V4.into()))?;
        command_with("ip -batch -", &routes("0.0.0.0/0"))?;
        command_with("ip6tables-restore --wait --noflush", &rules(PROBE_V6.into()))?;
        command_with("ip -6 -batch -", &routes("::/0"))
    })?
}

/// Takes the rules away again, as istio-cni does before it tells the proxy that a running pod leaves the mesh.
///
/// # Errors
/// A command fails.
pub fn remove(pod: &Place) -> Result<(), NetnsError> {
    // With the last rule that needs it, the kernel ceases to track connections, sooner or later: applications whose
    // connections were redirected may hear no more of them, not even their end.
    let rules: String = ["mangle", "raw", "nat"].map(|table| format!("*{table}\n{WITHOUT}COMMIT\n")).concat();
    pod.run(|| {
        command_with("iptables-restore --wait --noflush", &rules)?;
        command_with("ip6tables-restore --wait --noflush", &rules)
    })?
}

/// What is taken out of each table.
const WITHOUT: &str = "\
-D PREROUTING -j ISTIO_PRERT
-D OUTPUT -j ISTIO_OUTPUT
-F ISTIO_PRERT
-F ISTIO_OUTPUT
-X ISTIO_PRERT
-X ISTIO_OUTPUT
";

fn routes(everything: &str) -> String {
    format!(
        "rule add fwmark 0x111/0xfff pref 32764 lookup 100\n\
         route add local {everything} dev lo table 100\n"
    )
}

/// The input of `iptables-restore` for the family of the probes' address.
fn rules(probe: IpAddr) -> String {
    let (probe, loopback) = match probe {
        IpAddr::V4(_) => (format!("{probe}/32"), "127.0.0.1/32"),
        IpAddr::V6(_) => (format!("{probe}/128"), "::1/128"),
    };
    format!(
        "\
*mangle
-N ISTIO_PRERT
-N ISTIO_OUTPUT
-A PREROUTING -j ISTIO_PRERT
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_PRERT -m mark --mark 0x539/0xfff -j CONNMARK --set-xmark 0x111/0xfff
-A ISTIO_OUTPUT -m connmark --mark 0x111/0xfff -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff
COMMIT
*raw
-N ISTIO_PRERT
-N ISTIO_OUTPUT
-A PREROUTING -j ISTIO_PRERT
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -p udp -m mark --mark 0x539/0xfff -m udp --dport 53 -j CT --zone 1
-A ISTIO_PRERT -p udp -m mark ! --mark 0x539/0xfff -m udp --sport 53 -j CT --zone 1
COMMIT
*nat
-N ISTIO_PRERT
-N ISTIO_OUTPUT
-A OUTPUT -j ISTIO_OUTPUT
-A PREROUTING -j ISTIO_PRERT
-A ISTIO_PRERT -s {probe} -p tcp -m tcp -j ACCEPT
-A ISTIO_OUTPUT -d {probe} -p tcp -m tcp -j ACCEPT
-A ISTIO_PRERT ! -d {loopback} -p tcp ! --dport 15008 -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15006
-A ISTIO_OUTPUT ! -o lo -p udp -m mark ! --mark 0x539/0xfff -m udp --dport 53 -j REDIRECT --to-ports 15053
-A ISTIO_OUTPUT ! -d {loopback} -p tcp --dport 53 -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15053
-A ISTIO_OUTPUT -p tcp -m mark --mark 0x111/0xfff -j ACCEPT
-A ISTIO_OUTPUT ! -d {loopback} -o lo -j ACCEPT
-A ISTIO_OUTPUT ! -d {loopback} -p tcp -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15001
COMMIT
"
    )
}
