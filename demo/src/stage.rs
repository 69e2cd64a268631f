//! Two nodes with their applications and a control plane, ready for traffic.
//!
//! ```text
//!                       istiod (mesh state, certificates)
//!                         │                         │
//!  clients ──▶ node-client ══ HBONE (mutual TLS) ══▶ node-server ──▶ server
//! ```

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use crate::acts::{POLICY, Scene};
use crate::addresses::{LoopbackAddresses, NoAddresses};
use crate::istiod::{Istiod, IstiodError};
use crate::mesh::{Mesh, NAMESPACE, Service, Workload};
use crate::netns::{Namespaces, NetnsError, PACKET_MARK};
use crate::node::{Node, NodeConfig, NodeError, PORTS, Proxy, Serves};
use crate::place::Place;
use crate::traffic::{ApplicationError, Clients, Dial, Plan, Server};

/// Where the two nodes live.
#[derive(Debug)]
pub struct Site {
    client: Spot,
    server: Spot,
    service: IpAddr,
    kind: Kind,
}

#[derive(Debug)]
struct Spot {
    place: Place,
    address: IpAddr,
}

/// What has to live as long as the site does.
#[derive(Debug)]
enum Kind {
    Loopback(
        #[expect(dead_code, reason = "held for its Drop: the addresses are free afterwards")]
        LoopbackAddresses,
    ),
    Namespaces(#[expect(dead_code, reason = "held for its Drop, which removes the namespaces")] Namespaces),
}

impl Site {
    /// Loopback addresses of this machine; the clients use SOCKS5.
    ///
    /// # Errors
    /// No addresses are free.
    pub fn loopback() -> Result<Self, NoAddresses> {
        let mut ports = PORTS.to_vec();
        ports.extend([SERVER_PORT, GUEST_PORT, ISTIOD_PORT]);
        let addresses = LoopbackAddresses::claim(&ports)?;
        Ok(Self {
            client: Spot { place: Place::Here, address: addresses.client },
            server: Spot { place: Place::Here, address: addresses.server },
            service: addresses.service,
            kind: Kind::Loopback(addresses),
        })
    }

    /// Two network namespaces with redirection; the clients dial the server itself.
    ///
    /// # Errors
    /// As [`Namespaces::create`].
    pub fn namespaces() -> Result<Self, NetnsError> {
        let namespaces = Namespaces::create()?;
        Ok(Self {
            client: Spot { place: namespaces.client(), address: Namespaces::CLIENT },
            server: Spot { place: namespaces.server(), address: Namespaces::SERVER },
            service: Namespaces::SERVICE,
            kind: Kind::Namespaces(namespaces),
        })
    }
}

/// What the nodes are set to.
#[derive(Debug, Clone)]
pub struct NodeSettings {
    /// Data-plane threads of each node.
    pub workers: usize,
    /// How often every tunnel moves to the next worker; `None` is never.
    pub move_interval: Option<Duration>,
    /// Whether proxies can take each other's place.
    pub handover: bool,
    /// More environment variables for both nodes.
    pub environment: Vec<(String, String)>,
}

/// One of the two nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// That of the clients.
    Client,
    /// That of the server.
    Server,
}

/// A stage could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The control plane.
    #[error(transparent)]
    Istiod(#[from] IstiodError),
    /// A node.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// An application.
    #[error(transparent)]
    Application(#[from] ApplicationError),
}

/// Two nodes, ready, and the server application.
#[derive(Debug)]
pub struct Stage {
    /// The node that the clients are on.
    pub client_node: Node,
    /// The node that the server is on.
    pub server_node: Node,
    /// The server application.
    pub server: Server,
    /// The SPIFFE identity that the server's node has to see.
    pub client_identity: String,
    service: SocketAddr,
    proxy: Proxy,
    /// What the first proxy of each node was started with.
    configs: [NodeConfig; 2],
    /// Until the acts take it.
    istiod: Option<Istiod>,
    // Last: it has to outlive the processes in it.
    site: Site,
}

impl Stage {
    /// Starts the control plane, both nodes and the server, and waits until the nodes are ready. Logs, certificates and
    /// tokens go to `directory`.
    ///
    /// # Errors
    /// See [`StageError`].
    pub fn start(
        site: Site,
        proxy: &Proxy,
        settings: &NodeSettings,
        directory: &Path,
    ) -> Result<Self, StageError> {
        let service = Service::new("server", site.service, SERVICE_PORT, SERVER_PORT);
        let client = Workload::new("client", "node-client", site.client.address);
        let server = Workload::new("server", "node-server", site.server.address).serving(
            &service,
            SERVICE_PORT,
            SERVER_PORT,
        );
        let mesh = Mesh {
            workloads: vec![client.clone(), server.clone()],
            services: vec![service],
            policies: Vec::new(),
        };
        let istiod = Istiod::start(directory, site.istiod_spots(), &mesh)?;
        let config = |workload: &Workload, number: usize, spot: &Spot| -> Result<NodeConfig, StageError> {
            let handover = settings.handover.then(|| directory.join(&workload.node).join("handover.sock"));
            Ok(NodeConfig {
                name: workload.node.clone(),
                serves: Serves::Workload {
                    info: workload.proxy_workload_info(),
                    bind: matches!(site.kind, Kind::Loopback(_)).then_some(spot.address),
                },
                control: istiod.control(number, workload)?,
                place: spot.place.clone(),
                workers: settings.workers,
                move_interval: settings.move_interval,
                handover,
                environment: site.environment().chain(settings.environment.clone()).collect(),
                directory: directory.to_owned(),
            })
        };
        let configs = [config(&client, 0, &site.client)?, config(&server, 1, &site.server)?];
        let mut client_node = Node::start(proxy, &configs[0])?;
        let mut server_node = Node::start(proxy, &configs[1])?;
        let server_address = SocketAddr::new(site.server.address, SERVER_PORT);
        let server = Server::start(&site.server.place, server_address)?;
        client_node.wait_ready(READY_PATIENCE)?;
        server_node.wait_ready(READY_PATIENCE)?;
        let service = SocketAddr::new(site.service, SERVICE_PORT);
        let istiod = Some(istiod);
        Ok(Self {
            client_node,
            server_node,
            server,
            client_identity: client.identity(),
            service,
            proxy: proxy.clone(),
            configs,
            istiod,
            site,
        })
    }

    /// A node's proxy.
    pub fn node(&mut self, side: Side) -> &mut Node {
        match side {
            Side::Client => &mut self.client_node,
            Side::Server => &mut self.server_node,
        }
    }

    /// Starts another proxy for a node, which does not wait until it is ready; `name` is its own.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_successor(&self, side: Side, name: &str) -> Result<Node, NodeError> {
        self.start_successor_with(side, name, &[])
    }

    /// The same, with environment variables that only this one has.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_successor_with(
        &self,
        side: Side,
        name: &str,
        more: &[(&str, &str)],
    ) -> Result<Node, NodeError> {
        let first = &self.configs[side as usize];
        let own = [("NODE_NAME", &*first.name), ("POD_NAMESPACE", NAMESPACE), ("POD_NAME", name)];
        let own = own.iter().chain(more).map(|&(name, value)| (name.to_owned(), value.to_owned()));
        let environment = first.environment.iter().cloned().chain(own).collect();
        Node::start(&self.proxy, &NodeConfig { name: name.to_owned(), environment, ..first.clone() })
    }

    /// What the acts of the show play with; once.
    pub fn scene(&mut self) -> Option<Scene> {
        Some(Scene {
            istiod: self.istiod.take()?,
            streams: NODES,
            guest: self.site.client.place.clone(),
            dial: self.dial(),
            server_place: self.site.server.place.clone(),
            server: SocketAddr::new(self.site.server.address, GUEST_PORT),
            policy: no_guests(),
        })
    }

    /// Starts clients that use the server by its address and by its service in turn.
    ///
    /// # Errors
    /// See [`ApplicationError`].
    pub fn clients(&self, plan: Plan) -> Result<Clients, ApplicationError> {
        let servers = vec![self.server.address(), self.service];
        Clients::start(&self.site.client.place, self.dial(), servers, plan)
    }

    fn dial(&self) -> Dial {
        match self.site.kind {
            Kind::Loopback(_) => Dial::Socks5(self.client_node.socks5()),
            Kind::Namespaces(_) => Dial::Direct,
        }
    }

    /// Stops both nodes, the client's first.
    ///
    /// # Errors
    /// A process cannot be signalled or waited for.
    pub fn stop(self) -> Result<(), NodeError> {
        self.client_node.stop(STOP_PATIENCE)?;
        self.server_node.stop(STOP_PATIENCE)?;
        Ok(())
    }
}

impl Site {
    /// Where istiod listens: beside each node that cannot reach the other's network unredirected.
    fn istiod_spots(&self) -> Vec<(Place, SocketAddr)> {
        let spot = |spot: &Spot, address| (spot.place.clone(), SocketAddr::new(address, ISTIOD_PORT));
        match self.kind {
            Kind::Loopback(_) => vec![spot(&self.client, self.client.address)],
            Kind::Namespaces(_) => {
                [&self.client, &self.server].map(|node| spot(node, Ipv4Addr::LOCALHOST.into())).into()
            }
        }
    }

    /// Variables that the surroundings ask for.
    fn environment(&self) -> impl Iterator<Item = (String, String)> {
        let mark = matches!(self.kind, Kind::Namespaces(_));
        mark.then(|| ("PACKET_MARK".to_owned(), PACKET_MARK.to_string())).into_iter()
    }
}

/// Denies everybody the guest's port of the server.
fn no_guests() -> String {
    let name = POLICY.trim_start_matches(NAMESPACE).trim_start_matches('/');
    format!(
        "{{name: {name}, namespace: {NAMESPACE}, scope: Namespace, action: Deny, \
         rules: [[[{{destinationPorts: [{GUEST_PORT}]}}]]]}}"
    )
}

/// How many nodes there are, each with a stream of its own.
const NODES: u64 = 2;
const ISTIOD_PORT: u16 = 15_012;
const GUEST_PORT: u16 = 8_081;
const SERVER_PORT: u16 = 8_080;
const SERVICE_PORT: u16 = 80;
const READY_PATIENCE: Duration = Duration::from_secs(20);
const STOP_PATIENCE: Duration = Duration::from_secs(5);
