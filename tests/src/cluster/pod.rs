//! A pod of a cluster, and what applications in it can do.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use demo::mesh::{Protocol, Service, Workload};
use demo::place::Place;
use demo::traffic::{Dial, Plan, Server};

use super::call::{Call, Greeter};
use super::dns::{self, Answer, RecordType, Transport};
use super::network::Connected;
use super::{KubeNode, WorkloadInfo};
use crate::traffic::Traffic;

/// A pod to be made.
#[derive(Debug, Clone)]
pub struct PodSpec {
    node: KubeNode,
    workload: Workload,
}

impl PodSpec {
    /// A pod in the mesh, with a service account of the same name.
    pub fn new(name: &str, node: KubeNode) -> Self {
        Self {
            node,
            workload: Workload { addresses: Vec::new(), ..Workload::new(name, node.name(), NOWHERE) },
        }
    }

    /// The same outside of the mesh: without redirection.
    #[must_use]
    pub fn plain(mut self) -> Self {
        self.workload = self.workload.plain();
        self
    }

    /// The same with another service account.
    #[must_use]
    pub fn account(mut self, name: &str) -> Self {
        self.workload.service_account = name.to_owned();
        self
    }

    /// The same as an endpoint of all ports of a service.
    #[must_use]
    pub fn serving(mut self, service: &Service) -> Self {
        for (port, target) in &service.ports {
            self.workload = self.workload.serving(service, *port, *target);
        }
        self
    }

    pub(super) fn name(&self) -> &str {
        &self.workload.name
    }
}

const NOWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// A pod that was made. Cheap to clone; the cluster owns what it stands for.
#[derive(Debug, Clone)]
pub struct Pod {
    uid: String,
    node: KubeNode,
    workload: Workload,
    place: Place,
    namespace: Arc<File>,
}

impl Pod {
    pub(super) fn new(uid: String, spec: &PodSpec, place: &Connected) -> Self {
        let workload = Workload { addresses: vec![place.v4(), place.v6()], ..spec.workload.clone() };
        let namespace = place.file();
        Self { uid, node: spec.node, workload, place: place.place(), namespace }
    }

    /// Its uid.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.workload.name
    }

    /// Where it runs.
    pub fn node(&self) -> KubeNode {
        self.node
    }

    /// As istiod tells of it.
    pub fn workload(&self) -> &Workload {
        &self.workload
    }

    /// As istio-cni tells of it.
    pub fn info(&self) -> WorkloadInfo {
        let Workload { name, namespace, service_account, .. } = self.workload.clone();
        WorkloadInfo { name, namespace, service_account }
    }

    /// Its network namespace, for istio-cni.
    pub fn namespace(&self) -> Arc<File> {
        Arc::clone(&self.namespace)
    }

    /// Its network namespace, to run things in.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// A port of its IPv4 address.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.workload.addresses[0], port)
    }

    /// A port of its IPv6 address.
    pub fn at_v6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.workload.addresses[1], port)
    }

    /// Whether `workload` is what istiod tells of it.
    pub(super) fn is(&self, workload: &Workload) -> bool {
        self.workload.addresses == workload.addresses
    }

    pub(super) fn is_enrolled(&self) -> bool {
        self.workload.protocol == Protocol::Hbone
    }

    /// Starts an application that greets with the pod's name, on both address families.
    ///
    /// # Panics
    /// The port is taken.
    pub fn greet(&self, port: u16) -> Greeter {
        Greeter::start(&self.place, self.name(), port).expect("the application listens")
    }

    /// Calls a greeter.
    ///
    /// # Errors
    /// As [`Call::open`].
    pub fn call(&self, target: SocketAddr) -> io::Result<Call> {
        Call::open(&self.place, None, target)
    }

    /// Calls a greeter by its name, which is asked for as applications do.
    ///
    /// # Errors
    /// There is no such name, or as [`Call::open`].
    pub fn call_name(&self, name: &str, port: u16) -> io::Result<Call> {
        let addresses = self.ask(name, RecordType::A)?.addresses();
        let address = addresses.first().ok_or(io::ErrorKind::NotFound)?;
        self.call(SocketAddr::new(*address, port))
    }

    /// Asks the cluster's name server, by UDP.
    ///
    /// # Errors
    /// There is no answer.
    pub fn ask(&self, name: &str, record: RecordType) -> io::Result<Answer> {
        dns::ask(&self.place, NAME_SERVER, Transport::Udp, name, record)
    }

    /// Starts an application whose connections are checked to the last byte, on both address families.
    ///
    /// # Panics
    /// The port is taken.
    pub fn serve(&self, port: u16) -> Server {
        let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
        Server::start(&self.place, any).expect("the application listens")
    }

    /// Starts clients of a [`Pod::serve`] at `servers`, addresses that are taken in turn.
    ///
    /// # Panics
    /// There are no threads.
    pub fn converse(&self, servers: Vec<SocketAddr>, plan: Plan) -> Traffic {
        Traffic::start_in(&self.place, Dial::Direct, servers, plan)
    }
}

/// The cluster's name server as pods know it. Nothing has this address: proxies take what is sent there.
pub const NAME_SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)), dns::PORT);
