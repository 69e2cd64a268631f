//! The environment variables that a proxy is started with.

use super::{Control, NodeConfig, STOP_WITH_STDIN, Serves, mesh_file};
use crate::mesh::CLUSTER;

/// All of them, for a process that inherits next to nothing.
pub(super) fn environment(config: &NodeConfig) -> Vec<(String, String)> {
    let inherited = ["PATH", "RUST_LOG"];
    let mut variables: Vec<(String, String)> =
        inherited.into_iter().filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?))).collect();
    let mut set = |name: &str, value: &str| variables.push((name.to_owned(), value.to_owned()));
    match &config.control {
        Control::File { .. } => {
            set("LOCAL_XDS_PATH", &mesh_file(config).to_string_lossy());
            set("XDS_ADDRESS", "");
            set("FAKE_CA", "true");
        }
        Control::ControlPlane { address, root, token } => {
            set("XDS_ADDRESS", address);
            set("CA_ADDRESS", address);
            set("XDS_ROOT_CA", &root.to_string_lossy());
            set("CA_ROOT_CA", &root.to_string_lossy());
            set("AUTH_TOKEN", &token.to_string_lossy());
        }
    }
    match &config.serves {
        Serves::Workload { info, bind } => {
            set("PROXY_MODE", "dedicated");
            set("PROXY_WORKLOAD_INFO", info);
            set("NODE_NAME", &config.name);
            set("ISTIO_META_DNS_CAPTURE", "false");
            set("UNSTABLE_ENABLE_SOCKS5", "true");
            set("ENABLE_ORIG_SRC", "false");
            if let Some(ip) = bind {
                set("BIND_ADDRESS", &ip.to_string());
            }
        }
        // What the chart sets.
        Serves::Node { node, socket, own_pod } => {
            set("PROXY_MODE", "shared");
            set("INPOD_UDS", &socket.to_string_lossy());
            set("NODE_NAME", node);
            set("CLUSTER_ID", CLUSTER);
            set("POD_NAME", &own_pod.name);
            set("POD_NAMESPACE", &own_pod.namespace);
            set("SERVICE_ACCOUNT", &own_pod.service_account);
            set("INSTANCE_IP", &own_pod.address.to_string());
        }
    }
    match &config.handover {
        Some(socket) => {
            set("HANDOVER", "true");
            set("HANDOVER_UDS", &socket.to_string_lossy());
        }
        // In shared mode it would look for others in a folder of this machine.
        None => set("HANDOVER", "false"),
    }
    set("CONNECTION_TERMINATION_DEADLINE", "2s");
    set("ZTUNNEL_WORKER_THREADS", &config.workers.to_string());
    set(STOP_WITH_STDIN, "true");
    if let Some(interval) = config.move_interval {
        set("TUNNEL_MOVE_INTERVAL", &format!("{}ms", interval.as_millis()));
    }
    variables.extend_from_slice(&config.environment);
    variables
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::{IpAddr, Ipv4Addr};
    use std::path::Path;

    use super::*;
    use crate::node::OwnPod;
    use crate::place::Place;

    fn config(serves: Serves) -> NodeConfig {
        NodeConfig {
            name: "node-test".to_owned(),
            serves,
            control: Control::File { mesh: String::new() },
            place: Place::Here,
            workers: 2,
            move_interval: None,
            handover: None,
            environment: Vec::new(),
            directory: Path::new("/logs").to_owned(),
        }
    }

    fn set(config: &NodeConfig) -> BTreeMap<String, String> {
        environment(config).into_iter().collect()
    }

    #[test]
    fn a_node_is_told_where_its_control_plane_is() {
        let mut config = config(Serves::Workload { info: "demo/test/test".to_owned(), bind: None });
        let file = set(&config);
        assert_eq!((&*file["LOCAL_XDS_PATH"], &*file["FAKE_CA"]), ("/logs/node-test.yaml", "true"));
        assert_eq!((&*file["XDS_ADDRESS"], file.get("CA_ADDRESS")), ("", None));

        config.control = Control::ControlPlane {
            address: "https://127.0.0.1:15012".to_owned(),
            root: "/r".into(),
            token: "/t".into(),
        };
        let remote = set(&config);
        assert_eq!((&*remote["XDS_ADDRESS"], &*remote["XDS_ROOT_CA"]), ("https://127.0.0.1:15012", "/r"));
        assert_eq!((&*remote["CA_ADDRESS"], &*remote["CA_ROOT_CA"]), ("https://127.0.0.1:15012", "/r"));
        assert_eq!(&*remote["AUTH_TOKEN"], "/t");
        assert_eq!((remote.get("LOCAL_XDS_PATH"), remote.get("FAKE_CA")), (None, None));
    }

    #[test]
    fn a_node_of_many_pods_is_told_what_the_chart_tells() {
        let address = IpAddr::V4(Ipv4Addr::new(10, 78, 0, 9));
        let shared = set(&config(Serves::Node {
            node: "node-a".to_owned(),
            socket: "/run/zds".into(),
            own_pod: OwnPod {
                name: "ztunnel-x".to_owned(),
                namespace: "istio-system".to_owned(),
                service_account: "ztunnel".to_owned(),
                address,
            },
        }));
        assert_eq!((&*shared["PROXY_MODE"], &*shared["INPOD_UDS"]), ("shared", "/run/zds"));
        assert_eq!((&*shared["NODE_NAME"], &*shared["CLUSTER_ID"]), ("node-a", "Kubernetes"));
        assert_eq!((&*shared["POD_NAME"], &*shared["POD_NAMESPACE"]), ("ztunnel-x", "istio-system"));
        assert_eq!((&*shared["SERVICE_ACCOUNT"], &*shared["INSTANCE_IP"]), ("ztunnel", "10.78.0.9"));
        assert_eq!((&*shared["HANDOVER"], shared.get("HANDOVER_UDS")), ("false", None));
        let unset = ["PROXY_WORKLOAD_INFO", "BIND_ADDRESS", "ISTIO_META_DNS_CAPTURE", "ENABLE_ORIG_SRC"];
        assert!(unset.iter().all(|name| !shared.contains_key(*name)), "{shared:?}");
    }
}
