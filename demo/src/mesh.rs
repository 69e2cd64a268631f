//! What the node proxies are told about the cluster: workloads and services in the form of `LOCAL_XDS` (Istio's local
//! configuration file, YAML).

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::net::IpAddr;

/// How a workload takes connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Through its node's tunnel.
    Hbone,
    /// As plain TCP: it is not in the mesh. `TCP` in the file, `NONE` in Istio's API.
    Plain,
}

/// A workload: one application instance with an address and an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// Its name; unique in its namespace.
    pub name: String,
    /// Its Kubernetes namespace.
    pub namespace: String,
    /// Its service account: with the namespace its identity.
    pub service_account: String,
    /// The node that it runs on.
    pub node: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// How it takes connections.
    pub protocol: Protocol,
    /// Services that it is an endpoint of: `namespace/hostname`, and there service port → port of this workload.
    pub services: BTreeMap<String, BTreeMap<u16, u16>>,
}

impl Workload {
    /// A workload in the mesh, in namespace [`NAMESPACE`], with a service account of the same name.
    pub fn new(name: &str, node: &str, address: IpAddr) -> Self {
        Self {
            name: name.to_owned(),
            namespace: NAMESPACE.to_owned(),
            service_account: name.to_owned(),
            node: node.to_owned(),
            addresses: vec![address],
            protocol: Protocol::Hbone,
            services: BTreeMap::new(),
        }
    }

    /// The same workload outside of the mesh.
    #[must_use]
    pub fn plain(mut self) -> Self {
        self.protocol = Protocol::Plain;
        self
    }

    /// The same workload as an endpoint of `service`: `port` of the service is `target` here.
    #[must_use]
    pub fn serving(mut self, service: &Service, port: u16, target: u16) -> Self {
        self.services.entry(service.key()).or_default().insert(port, target);
        self
    }

    /// Its SPIFFE identity.
    pub fn identity(&self) -> String {
        format!("spiffe://{TRUST_DOMAIN}/ns/{}/sa/{}", self.namespace, self.service_account)
    }

    /// `namespace/name/service account`, as `PROXY_WORKLOAD_INFO` wants it.
    pub fn proxy_workload_info(&self) -> String {
        format!("{}/{}/{}", self.namespace, self.name, self.service_account)
    }
}

/// A service: a name and virtual addresses for workloads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Its Kubernetes namespace.
    pub namespace: String,
    /// Its virtual addresses.
    pub addresses: Vec<IpAddr>,
    /// Port of the service → port of its workloads.
    pub ports: BTreeMap<u16, u16>,
}

impl Service {
    /// A service in namespace [`NAMESPACE`].
    pub fn new(name: &str, address: IpAddr, port: u16, target: u16) -> Self {
        Self {
            name: name.to_owned(),
            namespace: NAMESPACE.to_owned(),
            addresses: vec![address],
            ports: BTreeMap::from([(port, target)]),
        }
    }

    /// Its DNS name in the cluster.
    pub fn hostname(&self) -> String {
        format!("{}.{}.svc.cluster.local", self.name, self.namespace)
    }

    fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.hostname())
    }
}

/// Everything that the nodes know; its [`Display`](fmt::Display) is the YAML.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mesh {
    /// The workloads.
    pub workloads: Vec<Workload>,
    /// The services.
    pub services: Vec<Service>,
    /// Authorization policies: items of the file's `policies` list, as YAML flow or JSON.
    pub policies: Vec<String>,
}

/// The trust domain of all identities.
pub const TRUST_DOMAIN: &str = "cluster.local";
/// The Kubernetes namespace of everything here.
pub const NAMESPACE: &str = "demo";

impl fmt::Display for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "workloads:{}", empty(&self.workloads))?;
        self.workloads.iter().try_for_each(|workload| write_workload(f, workload))?;
        writeln!(f, "services:{}", empty(&self.services))?;
        self.services.iter().try_for_each(|service| write_service(f, service))?;
        writeln!(f, "policies:{}", empty(&self.policies))?;
        self.policies.iter().try_for_each(|policy| writeln!(f, "- {policy}"))
    }
}

fn write_workload(f: &mut fmt::Formatter<'_>, workload: &Workload) -> fmt::Result {
    let Workload { name, namespace, service_account, node, .. } = workload;
    let protocol = match workload.protocol {
        Protocol::Hbone => "HBONE",
        Protocol::Plain => "TCP",
    };
    writeln!(f, "- uid: {}", quoted(&format!("{CLUSTER}//Pod/{namespace}/{name}")))?;
    writeln!(f, "  name: {}", quoted(name))?;
    writeln!(f, "  namespace: {}", quoted(namespace))?;
    writeln!(f, "  serviceAccount: {}", quoted(service_account))?;
    writeln!(f, "  trustDomain: {}", quoted(TRUST_DOMAIN))?;
    writeln!(f, "  workloadIps: [{}]", list(workload.addresses.iter().map(IpAddr::to_string)))?;
    writeln!(f, "  protocol: {protocol}")?;
    writeln!(f, "  node: {}", quoted(node))?;
    writeln!(f, "  network: \"\"")?;
    writeln!(f, "  clusterId: {CLUSTER}")?;
    writeln!(f, "  canonicalName: {}", quoted(name))?;
    writeln!(f, "  canonicalRevision: \"v1\"")?;
    writeln!(f, "  workloadName: {}", quoted(name))?;
    if workload.services.is_empty() {
        return writeln!(f, "  services: {{}}");
    }
    writeln!(f, "  services:")?;
    for (service, ports) in &workload.services {
        writeln!(f, "    {}:", quoted(service))?;
        write_ports(f, "      ", ports)?;
    }
    Ok(())
}

fn write_service(f: &mut fmt::Formatter<'_>, service: &Service) -> fmt::Result {
    writeln!(f, "- name: {}", quoted(&service.name))?;
    writeln!(f, "  namespace: {}", quoted(&service.namespace))?;
    writeln!(f, "  hostname: {}", quoted(&service.hostname()))?;
    // An address belongs to a network; the one here has an empty name.
    writeln!(f, "  vips: [{}]", list(service.addresses.iter().map(|ip| format!("/{ip}"))))?;
    writeln!(f, "  ports:")?;
    write_ports(f, "    ", &service.ports)
}

fn write_ports(f: &mut fmt::Formatter<'_>, indent: &str, ports: &BTreeMap<u16, u16>) -> fmt::Result {
    ports.iter().try_for_each(|(port, target)| writeln!(f, "{indent}{port}: {target}"))
}

fn empty<T>(items: &[T]) -> &'static str {
    if items.is_empty() { " []" } else { "" }
}

fn list(items: impl Iterator<Item = String>) -> String {
    items.map(|item| quoted(&item)).collect::<Vec<_>>().join(", ")
}

/// A double-quoted YAML scalar.
fn quoted(text: &str) -> String {
    let mut scalar = String::with_capacity(text.len() + 2);
    scalar.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => scalar.extend(['\\', character]),
            plain if !plain.is_control() => scalar.push(plain),
            control => write!(scalar, "\\U{:08x}", u32::from(control)).expect("a string takes anything"),
        }
    }
    scalar.push('"');
    scalar
}

/// The id of the cluster, Istio's default.
pub const CLUSTER: &str = "Kubernetes";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_yaml_has_istios_field_names() {
        let service = Service::new("shop", "127.1.2.3".parse().expect("an address"), 80, 8080);
        let server = Workload::new("server", "node-b", "127.1.2.2".parse().expect("an address"));
        let mesh = Mesh {
            workloads: vec![
                server.clone().serving(&service, 80, 8080),
                Workload::new("old", "node-b", "127.1.2.4".parse().expect("an address")).plain(),
            ],
            services: vec![service],
            policies: Vec::new(),
        };
        let expected = r#"workloads:
- uid: "Kubernetes//Pod/demo/server"
  name: "server"
  namespace: "demo"
  serviceAccount: "server"
  trustDomain: "cluster.local"
  workloadIps: ["127.1.2.2"]
  protocol: HBONE
  node: "node-b"
  network: ""
  clusterId: Kubernetes
  canonicalName: "server"
  canonicalRevision: "v1"
  workloadName: "server"
  services:
    "demo/shop.demo.svc.cluster.local":
      80: 8080
- uid: "Kubernetes//Pod/demo/old"
  name: "old"
  namespace: "demo"
  serviceAccount: "old"
  trustDomain: "cluster.local"
  workloadIps: ["127.1.2.4"]
  protocol: TCP
  node: "node-b"
  network: ""
  clusterId: Kubernetes
  canonicalName: "old"
  canonicalRevision: "v1"
  workloadName: "old"
  services: {}
services:
- name: "shop"
  namespace: "demo"
  hostname: "shop.demo.svc.cluster.local"
  vips: ["/127.1.2.3"]
  ports:
    80: 8080
policies: []
"#;
        assert_eq!(mesh.to_string(), expected);
        assert_eq!(server.identity(), "spiffe://cluster.local/ns/demo/sa/server");
        assert_eq!(server.proxy_workload_info(), "demo/server/server");
    }

    #[test]
    fn the_proxy_reads_the_yaml_as_it_was_meant() {
        let ip = |text: &str| text.parse().expect("an address");
        let service = Service::new("shop", ip("127.1.2.3"), 80, 8080);
        let server = Workload::new("server", "node-b", ip("127.1.2.2")).serving(&service, 80, 8080);
        let mut odd = Workload::new("odd", "node-b", ip("::1")).plain();
        odd.name = "odd: \"name\" #1".to_owned();
        let policy = r#"{name: p, namespace: demo, scope: Namespace, action: Allow, rules: []}"#;
        let mesh = Mesh {
            workloads: vec![server.clone(), odd.clone()],
            services: vec![service],
            policies: vec![policy.to_owned()],
        };
        let read = xds::local::load(&mesh.to_string()).expect("a mesh");
        assert_eq!((read.workloads.len(), read.services.len(), read.policies.len()), (2, 1, 1));
        assert_eq!(read.workloads[0].identity().to_string(), server.identity());
        assert_eq!(read.workloads[0].addresses, server.addresses);
        assert_eq!(*read.workloads[1].name, *odd.name);
        assert!(xds::local::load(&Mesh::default().to_string()).is_ok());
    }

    #[test]
    fn names_cannot_break_out_of_their_quotes() {
        assert_eq!(quoted("a\"b\\c\nd"), r#""a\"b\\c\U0000000ad""#);
    }
}
