//! Ways to a server application.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::ops::Sub;
use std::path::Path;

use demo::node::Proxy;
use demo::stage::{NodeSettings, Site, Stage};
use demo::traffic::socks5;
use tokio::runtime::{Builder, Runtime};

use crate::application::{Application, Service};
use crate::error::{LoadError, during};
use crate::process::processor_seconds;

/// A way to a server application of its own: a TCP connection, or one through two node proxies.
#[derive(Debug)]
pub struct Route {
    /// What the figures call it.
    pub label: String,
    application: Application,
    stage: Option<Stage>,
}

impl Route {
    /// One TCP connection.
    ///
    /// # Errors
    /// The application cannot be started.
    pub fn direct() -> Result<Self, LoadError> {
        let application = Application::start(IpAddr::V4(Ipv4Addr::LOCALHOST))?;
        Ok(Self { label: "direct".to_owned(), application, stage: None })
    }

    /// SOCKS5 to a node, a tunnel to another node, the application behind it. Logs go to a new directory in
    /// `directory`.
    ///
    /// # Errors
    /// The nodes or the application cannot be started.
    pub fn through(
        label: &str,
        proxy: &Proxy,
        settings: &NodeSettings,
        directory: &Path,
    ) -> Result<Self, LoadError> {
        let logs = tempfile::Builder::new().prefix("nodes-").tempdir_in(directory);
        let logs = logs.map_err(during("no directory for logs"))?.keep();
        let stage = Stage::start(Site::loopback()?, proxy, settings, &logs)?;
        let application = Application::start(stage.server.address().ip())?;
        Ok(Self { label: label.to_owned(), application, stage: Some(stage) })
    }

    /// The nodes, if there are any.
    pub fn stage(&self) -> Option<&Stage> {
        self.stage.as_ref()
    }

    /// Opens connections from the calling thread.
    ///
    /// # Errors
    /// The system has no event queue left.
    pub fn dialer(&self) -> Result<Dialer, LoadError> {
        let runtime = Builder::new_current_thread().enable_io().build();
        Ok(Dialer {
            runtime: runtime.map_err(during("no event queue"))?,
            node: self.stage.as_ref().map(|stage| stage.client_node.socks5()),
            server: self.application.address(),
        })
    }

    /// Processor time that everybody on the way has used so far.
    ///
    /// # Errors
    /// A process is gone.
    pub fn cost(&self) -> Result<Cost, LoadError> {
        let own = processor_seconds(std::process::id())?;
        let mut cost = Cost { ends: own + processor_seconds(self.application.id())?, ..Cost::default() };
        if let Some(stage) = &self.stage {
            cost.client_node = processor_seconds(stage.client_node.id())?;
            cost.server_node = processor_seconds(stage.server_node.id())?;
        }
        Ok(cost)
    }
}

/// Processor time in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cost {
    /// Of the node that the clients are on.
    pub client_node: f64,
    /// Of the node that the server is on.
    pub server_node: f64,
    /// Of both applications.
    pub ends: f64,
}

impl Cost {
    /// Of both nodes.
    pub fn nodes(&self) -> f64 {
        self.client_node + self.server_node
    }
}

impl Sub for Cost {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            client_node: self.client_node - earlier.client_node,
            server_node: self.server_node - earlier.server_node,
            ends: self.ends - earlier.ends,
        }
    }
}

/// Opens connections of one route.
#[derive(Debug)]
pub struct Dialer {
    runtime: Runtime,
    node: Option<SocketAddr>,
    server: SocketAddr,
}

impl Dialer {
    /// A connection that the application has answered on.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(&self, service: Service) -> Result<TcpStream, LoadError> {
        let what = "a connection cannot be opened";
        let stream = self.runtime.block_on(async {
            match self.node {
                Some(node) => socks5::connect(node, self.server).await.map_err(LoadError::from),
                None => tokio::net::TcpStream::connect(self.server).await.map_err(during(what)),
            }
        })?;
        let mut stream = stream.into_std().map_err(during(what))?;
        stream.set_nonblocking(false).map_err(during(what))?;
        stream.set_nodelay(true).map_err(during(what))?;
        let mut answer = [0];
        stream.write_all(&[service as u8]).map_err(during(what))?;
        stream.read_exact(&mut answer).map_err(during(what))?;
        if answer == [service as u8] { Ok(stream) } else { Err(LoadError::WrongAnswer) }
    }
}
