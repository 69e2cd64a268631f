//! The network of a cluster: a switch in a namespace of its own, with which any number of namespaces are connected.
//!
//! ```text
//!  ┌ pod ──────────┐ ┌ pod ──────────┐       ┌ switch (the host) ───────────────┐
//!  │ eth0 10.78.…  │ │ eth0 10.78.…  │ ◄───► │ bridge 10.78.255.254, fd78::fffe │
//!  └───────────────┘ └───────────────┘       │        and the kubelet's probes  │
//!                                            └──────────────────────────────────┘
//! ```

use std::fmt::Write;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZero;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use demo::netns::{Namespace, NetnsError, command, command_with};
use demo::place::Place;

use crate::redirection::{PROBE_V4, PROBE_V6};

/// The switch. Dropping it removes its namespace.
#[derive(Debug)]
pub(super) struct Network {
    prefix: String,
    /// How many were connected so far; what comes next gets the next address.
    connected: u16,
    switch: Namespace,
}

/// A namespace that is connected with the switch. Dropping it removes it.
#[derive(Debug)]
pub(super) struct Connected {
    namespace: Namespace,
    number: u16,
}

impl Network {
    pub(super) fn create() -> Result<Self, NetnsError> {
        static CREATED: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("c{}-{}", process::id(), CREATED.fetch_add(1, Ordering::Relaxed));
        let switch = Namespace::create(&format!("{prefix}-switch"))?;
        // Snooping would hold back the neighbour discovery of IPv6 now and then.
        let configuration = format!(
            "link set lo up\n\
             link add bridge type bridge forward_delay 0 mcast_snooping 0\n\
             link set bridge up\n\
             address add {HOST_V4}/16 dev bridge\n\
             address add {HOST_V6}/64 dev bridge nodad\n\
             address add {PROBE_V4}/32 dev bridge\n\
             address add {PROBE_V6}/128 dev bridge nodad\n"
        );
        command_with(&format!("ip -n {} -batch -", switch.name()), &configuration)?;
        Ok(Self { prefix, connected: 0, switch })
    }

    pub(super) fn name(&self) -> &str {
        self.switch.name()
    }

    /// What is on the other side of everything: where the kubelet is.
    pub(super) fn host(&self) -> Place {
        self.switch.place()
    }

    /// Makes namespaces with these names and connects them.
    pub(super) fn connect(&mut self, names: &[&str]) -> Result<Vec<Connected>, NetnsError> {
        let numbers = self.connected + 1..;
        // With their numbers: a name may come again while its first bearer is still there.
        let numbered = names.iter().zip(numbers.clone());
        let names: Vec<String> =
            numbered.map(|(name, number)| format!("{}-{number}-{name}", self.prefix)).collect();
        let namespaces = Namespace::create_all(&names)?.into_iter().zip(numbers);
        let connected: Vec<Connected> =
            namespaces.map(|(namespace, number)| Connected { namespace, number }).collect();
        self.connected += u16::try_from(connected.len()).expect("not so many namespaces");
        let switch = self.switch.name();
        let (mut cables, mut ports) = (String::new(), String::new());
        for one in &connected {
            let (name, port) = (one.namespace.name(), one.port());
            writeln!(cables, "link add eth0 netns {name} type veth peer name {port} netns {switch}")
                .expect("a string takes anything");
            writeln!(ports, "link set {port} master bridge up").expect("a string takes anything");
        }
        command_with("ip -batch -", &cables)?;
        command_with(&format!("ip -n {switch} -batch -"), &ports)?;
        on_all(&connected, Connected::configure)?;
        Ok(connected)
    }

    /// Pulls the plug and removes the namespace. It lives on, without a network, while somebody holds it open.
    pub(super) fn disconnect(&self, one: Connected) -> Result<(), NetnsError> {
        let port = one.port();
        drop(one);
        let switch = self.switch.name();
        // If nobody held the namespace, its end of the cable went with it, or is about to.
        command(&format!("ip -n {switch} link del {port}")).or(Ok(()))
    }

    /// Removes the namespace's name and leaves the plug in.
    pub(super) fn let_go(&self, one: Connected) -> Cable {
        let port = one.port();
        drop(one);
        Cable { switch: self.switch.place(), port }
    }
}

/// The switch's end of a cable, whose other end was left to the kernel.
#[derive(Debug)]
pub struct Cable {
    switch: Place,
    port: String,
}

impl Cable {
    /// Whether the namespace at the other end still is: the cable goes with it.
    ///
    /// # Panics
    /// The cluster is gone.
    pub fn is_there(&self) -> bool {
        // That of the thread that reads it.
        let read = || fs::read_to_string("/proc/thread-self/net/dev");
        let devices = self.switch.run(read).expect("the switch is there").expect("a list of devices");
        let name = |line: &str| Some(line.split_once(':')?.0.trim().to_owned());
        devices.lines().filter_map(name).any(|device| device == self.port)
    }
}

impl Connected {
    pub(super) fn place(&self) -> Place {
        self.namespace.place()
    }

    /// An open file of the namespace.
    pub(super) fn file(&self) -> Arc<File> {
        self.namespace.file()
    }

    pub(super) fn name(&self) -> &str {
        self.namespace.name()
    }

    pub(super) fn v4(&self) -> IpAddr {
        let [a, b] = self.number.to_be_bytes();
        Ipv4Addr::new(10, 78, a, b).into()
    }

    pub(super) fn v6(&self) -> IpAddr {
        Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, self.number).into()
    }

    fn port(&self) -> String {
        format!("port{}", self.number)
    }

    /// Everything that is not near goes to the host, as in a Kubernetes pod: virtual addresses, too, and answers to probes.
    fn configure(&self) -> Result<(), NetnsError> {
        let configuration = format!(
            "link set lo up\n\
             address add {}/16 dev eth0\n\
             address add {}/64 dev eth0 nodad\n\
             link set eth0 up\n\
             route add default via {HOST_V4}\n\
             route add default via {HOST_V6}\n",
            self.v4(),
            self.v6(),
        );
        command_with(&format!("ip -n {} -batch -", self.namespace.name()), &configuration)
    }
}

const HOST_V4: Ipv4Addr = Ipv4Addr::new(10, 78, 255, 254);
const HOST_V6: Ipv6Addr = Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, 0xfffe);

/// Does something with all of them, on as many threads as there are processors.
pub(super) fn on_all<T: Sync>(
    items: &[T],
    work: impl Fn(&T) -> Result<(), NetnsError> + Sync,
) -> Result<(), NetnsError> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let part = items.len().div_ceil(threads).max(1);
    thread::scope(|scope| {
        let parts: Vec<_> =
            items.chunks(part).map(|part| scope.spawn(|| part.iter().try_for_each(&work))).collect();
        parts.into_iter().try_for_each(|part| part.join().expect("no panic"))
    })
}
