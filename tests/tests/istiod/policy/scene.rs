//! Nodes, and single connections whose both ends the test holds.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use demo::node::Node;
use demo::traffic::socks5;
use h2::Reason;
use http::StatusCode;
use tests::istiod::{Istiod, synced};
use tests::stock::{LARGE_FRAMES, Tunnel};
use tests::wait::PATIENCE;
use tests::world::{APPLICATION, Host, World};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout, timeout_at};
use xds::{Authorization, Workload};

/// What policies forbid.
pub(super) const GUARDED: u16 = APPLICATION + 1;
/// What they mostly leave alone.
pub(super) const OPEN: u16 = APPLICATION + 2;
/// A change has reached every connection after this.
pub(super) const SOON: Duration = Duration::from_secs(1);
/// How a connection ends that policy allows no more.
pub(super) const CHANGED: &str = "connection closed due to policy change";

/// Who opens a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    /// An application of the workload `client`, through our node.
    Client,
    /// The stock node, with one tunnel for all.
    Stock,
}

/// Connections of everybody to every port.
pub(super) const ALL: [(Who, u16); 4] =
    [(Who::Client, GUARDED), (Who::Client, OPEN), (Who::Stock, GUARDED), (Who::Stock, OPEN)];

/// A control plane, both of our nodes, the stock node, and the server's ports.
pub(super) struct Scene<'w> {
    pub(super) world: &'w World,
    pub(super) istiod: Istiod<'w>,
    pub(super) client: Node,
    pub(super) server: Node,
    stock: Arc<Tunnel>,
    listeners: [(u16, TcpListener); 2],
}

/// An open connection.
pub(super) struct Live {
    who: Who,
    near: Box<dyn Duplex>,
    far: TcpStream,
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection was not let in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The stock node was told this.
    Status(StatusCode),
    /// The application saw its connection end.
    Ended,
}

impl<'w> Scene<'w> {
    /// `environment` is the server's node's.
    pub(super) async fn start(world: &'w World, environment: &[(&str, &str)]) -> Self {
        let istiod = Istiod::start(world);
        // The stock node needs a certificate of the same root, and istiod does not give its key away.
        let fake = ("FAKE_CA", "true");
        let client = istiod.node(Host::Client, &[fake]);
        let server = istiod.node(Host::Server, &[&[fake], environment].concat());
        synced(istiod.replica(), 2).await;
        let listen =
            async |port| (port, TcpListener::bind(world.at(Host::Server, port)).await.expect("a free port"));
        let listeners = [listen(GUARDED).await, listen(OPEN).await];
        let stock = world.stock_tunnel(LARGE_FRAMES).await;
        Self { world, istiod, client, server, stock, listeners }
    }

    /// A new tunnel of the stock node, in place of the one that there was.
    pub(super) async fn dial_again(&mut self) {
        self.stock = self.world.stock_tunnel(LARGE_FRAMES).await;
    }

    /// Opens a connection and says a word on it.
    pub(super) async fn open(&self, who: Who, port: u16) -> Result<Live, Refused> {
        let opening = async {
            let target = self.world.at(Host::Server, port);
            let (near, far): (Box<dyn Duplex>, _) = match who {
                Who::Client => self.open_by_client(target).await?,
                Who::Stock => {
                    let reply = self.stock.open(&target.to_string()).await.expect("the tunnel is up");
                    if reply.status != StatusCode::OK {
                        return Err(Refused::Status(reply.status));
                    }
                    (Box::new(reply.stream), self.arrived(port).await)
                }
            };
            let mut live = Live { who, near, far };
            live.talk().await;
            Ok(live)
        };
        timeout(PATIENCE, opening).await.expect("an end or a beginning")
    }

    async fn open_by_client(&self, target: SocketAddr) -> Result<(Box<dyn Duplex>, TcpStream), Refused> {
        let mut near = socks5::connect(self.client.socks5(), target).await.map_err(|_| Refused::Ended)?;
        let mut nothing = [0; 1];
        tokio::select! {
            far = self.arrived(target.port()) => Ok((Box::new(near), far)),
            ended = near.read(&mut nothing) => {
                assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?} before anything was sent");
                Err(Refused::Ended)
            }
        }
    }

    async fn arrived(&self, port: u16) -> TcpStream {
        let (_, listener) = self.listeners.iter().find(|(at, _)| *at == port).expect("a port of the scene");
        listener.accept().await.expect("a connection").0
    }

    /// One connection of each of [`ALL`], in this order.
    pub(super) async fn open_all(&self) -> Vec<Live> {
        let mut lives = Vec::new();
        for (who, port) in ALL {
            lives.push(self.open(who, port).await.expect("nothing forbids it"));
        }
        lives
    }

    /// Waits until such a connection is let in.
    pub(super) async fn admitted(&self, who: Who, port: u16) -> Live {
        let begun = Instant::now();
        loop {
            match self.open(who, port).await {
                Ok(live) => return live,
                Err(refused) => {
                    assert!(begun.elapsed() < PATIENCE, "{who:?} to {port} is still refused: {refused:?}");
                }
            }
        }
    }

    /// A counter of the server's node.
    pub(super) fn count(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.server.metrics().expect("metrics").sum(name, labels)
    }

    /// How many connections to the server were closed by policy, new and old.
    pub(super) fn denied(&self) -> f64 {
        let labels = [("reporter", "destination"), ("response_flags", "DENY")];
        self.count("istio_tcp_connections_closed_total", &labels)
    }

    pub(super) fn check(&self) {
        self.world.check(&self.client);
        self.world.check(&self.server);
    }
}

impl Live {
    /// A word there and one back.
    pub(super) async fn talk(&mut self) {
        let talk = async {
            let mut heard = [0; 5];
            self.near.write_all(b"there").await?;
            self.far.read_exact(&mut heard).await?;
            assert_eq!(&heard, b"there");
            self.far.write_all(b"again").await?;
            self.near.read_exact(&mut heard).await?;
            assert_eq!(&heard, b"again");
            io::Result::Ok(())
        };
        let talked = timeout(PATIENCE, talk).await.expect("a word arrives in time");
        talked.unwrap_or_else(|error| panic!("a connection of {:?} is broken: {error}", self.who));
    }

    /// Checks that it is cut before `limit` and that this looks like no proper end: a reset for applications, RST_STREAM
    /// with CANCEL for the stock node.
    pub(super) async fn cut_before(mut self, limit: Instant) {
        let mut nothing = [0; 1];
        let near = timeout_at(limit, self.near.read(&mut nothing)).await;
        let near = near.unwrap_or_else(|_| panic!("{:?}'s connection is still there", self.who));
        let near = near.expect_err("no proper end");
        assert_eq!(near.kind(), io::ErrorKind::ConnectionReset);
        if self.who == Who::Stock {
            let error = near.get_ref().and_then(|error| error.downcast_ref::<h2::Error>());
            let reset = error.filter(|error| error.is_reset() && error.is_remote());
            assert_eq!(reset.and_then(h2::Error::reason), Some(Reason::CANCEL), "{error:?}");
        }
        let far = timeout_at(limit, self.far.read(&mut nothing)).await;
        let far = far.unwrap_or_else(|_| panic!("the application has not lost {:?}", self.who));
        assert_eq!(far.expect_err("no proper end").kind(), io::ErrorKind::ConnectionReset);
    }

    /// Checks that it is lost to both ends before `limit`, and that this looks like no proper end.
    pub(super) async fn lost_before(mut self, limit: Instant) {
        let mut nothing = [0; 1];
        let near = timeout_at(limit, self.near.read(&mut nothing)).await;
        near.unwrap_or_else(|_| panic!("{:?}'s connection is still there", self.who))
            .expect_err("no proper end");
        let far = timeout_at(limit, self.far.read(&mut nothing)).await;
        far.unwrap_or_else(|_| panic!("the application has not lost {:?}", self.who))
            .expect_err("no proper end");
    }
}

/// A policy: `rest` is what there is of it besides its name, as YAML flow.
pub(super) fn policy(name: &str, rest: &str) -> Authorization {
    let namespace = demo::mesh::NAMESPACE;
    let yaml = format!("policies: [{{name: {name}, namespace: {namespace}, {rest}}}]");
    xds::local::load(&yaml).expect("a policy").policies.remove(0)
}

/// A policy that denies [`GUARDED`].
pub(super) fn guard(scope: &str) -> Authorization {
    policy("guard", &format!("scope: {scope}, action: Deny, rules: [[[{{destinationPorts: [{GUARDED}]}}]]]"))
}

/// The workload at `host`, as a resource.
pub(super) fn workload(world: &World, host: Host) -> Workload {
    let known = xds::local::load(&world.mesh().to_string()).expect("a mesh").workloads;
    let address = world.ip(host);
    known.into_iter().find(|workload| workload.addresses.contains(&address)).expect("a workload of the mesh")
}

/// The workload at `host`, selected by these policies and no others.
pub(super) fn selected(world: &World, host: Host, policies: &[&str]) -> Workload {
    let mut spec = (*workload(world, host)).clone();
    spec.authorization_policies = policies.iter().map(|&key| key.into()).collect();
    Workload::new(spec).expect("a workload")
}
