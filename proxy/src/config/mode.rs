//! For whom the proxy works, and where.

use std::path::PathBuf;

use serde::Serialize;

use super::remote::cluster_id;
use super::{ConfigError, Environment};
use crate::pod::WorkloadName;

/// `PROXY_MODE`: for whom the proxy works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ProxyMode {
    /// For every enrolled pod of the node, as istio-cni names them.
    Shared(SharedConfig),
    /// For one workload (`PROXY_WORKLOAD_INFO`), from within its network namespace.
    Dedicated(WorkloadName),
}

/// What the proxy of a whole node needs to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SharedConfig {
    /// `INPOD_UDS`: where istio-cni listens.
    pub node_agent: PathBuf,
    /// `INPOD_PORT_REUSE`: whether another proxy may listen beside us in the pods (`SO_REUSEPORT`).
    pub reuse_port: bool,
    /// `POD_NAMESPACE`, `POD_NAME`, `SERVICE_ACCOUNT`: this process as a workload of its own, if all are set.
    pub own: Option<WorkloadName>,
}

impl ProxyMode {
    /// From `PROXY_MODE`; the default is shared, as in stock.
    pub fn from_environment(environment: &Environment) -> Result<Self, ConfigError> {
        const NAME: &str = "PROXY_MODE";
        match environment.get(NAME).unwrap_or("shared") {
            "shared" => Ok(Self::Shared(SharedConfig::from_environment(environment)?)),
            "dedicated" => Ok(Self::Dedicated(dedicated_workload(environment)?)),
            other => Err(ConfigError::new(NAME, format!("{other:?} is not a mode; use shared or dedicated"))),
        }
    }
}

impl SharedConfig {
    fn from_environment(environment: &Environment) -> Result<Self, ConfigError> {
        for (name, why) in [
            ("BIND_ADDRESS", "listeners are made in each pod"),
            ("PROXY_WORKLOAD_INFO", "istio-cni names the workloads"),
        ] {
            if environment.get(name).is_some() {
                let problem =
                    format!("has no place in shared mode ({why}); unset it, or PROXY_MODE=dedicated");
                return Err(ConfigError::new(name, problem));
            }
        }
        let own = [
            environment.get("POD_NAMESPACE"),
            environment.get("POD_NAME"),
            environment.get("SERVICE_ACCOUNT"),
        ];
        let own = match own {
            [Some(namespace), Some(name), Some(service_account)] => Some(WorkloadName {
                namespace: namespace.into(),
                name: name.into(),
                service_account: service_account.into(),
            }),
            _ => None,
        };
        Ok(Self {
            node_agent: environment.get("INPOD_UDS").unwrap_or("/var/run/ztunnel/ztunnel.sock").into(),
            reuse_port: environment.boolean("INPOD_PORT_REUSE", true)?,
            own,
        })
    }
}

/// From `PROXY_WORKLOAD_INFO` (`namespace/name/service-account`).
fn dedicated_workload(environment: &Environment) -> Result<WorkloadName, ConfigError> {
    const NAME: &str = "PROXY_WORKLOAD_INFO";
    let form = "namespace/name/service-account of the workload to serve";
    let info = environment
        .get(NAME)
        .ok_or_else(|| ConfigError::new(NAME, format!("is not set; dedicated mode needs {form}")))?;
    let [namespace, name, service_account] = info
        .split('/')
        .collect::<Vec<_>>()
        .try_into()
        .ok()
        .filter(|parts: &[&str; 3]| parts.iter().all(|part| !part.is_empty()))
        .ok_or_else(|| ConfigError::new(NAME, format!("{info:?} is not {form}")))?;
    Ok(WorkloadName {
        namespace: namespace.into(),
        name: name.into(),
        service_account: service_account.into(),
    })
}

/// Where this proxy is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LocationConfig {
    /// The network that it is in; "" is a network too.
    pub network: String,
    /// The node that it runs on, if known.
    pub node: Option<String>,
    /// The cluster that it runs in.
    pub cluster: String,
    /// The DNS domain of the cluster's services.
    pub cluster_domain: String,
}

impl LocationConfig {
    /// From `NETWORK`, `NODE_NAME`, `ISTIO_META_CLUSTER_ID` or `CLUSTER_ID`, and `CLUSTER_DOMAIN`.
    pub fn from_environment(environment: &Environment) -> Result<Self, ConfigError> {
        Ok(Self {
            network: environment.get("NETWORK").unwrap_or_default().to_owned(),
            node: environment.get("NODE_NAME").map(ToOwned::to_owned),
            cluster: cluster_id(environment)?,
            cluster_domain: environment.get("CLUSTER_DOMAIN").unwrap_or("cluster.local").to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment::from_variables(variables.iter().copied())
    }

    fn refusal<T: std::fmt::Debug>(result: Result<T, ConfigError>) -> String {
        result.unwrap_err().to_string()
    }

    fn mode(variables: &[(&str, &str)]) -> Result<ProxyMode, ConfigError> {
        ProxyMode::from_environment(&environment(variables))
    }

    #[test]
    fn shared_is_the_default_and_says_who_it_is_itself() {
        let shared =
            SharedConfig { node_agent: "/var/run/ztunnel/ztunnel.sock".into(), reuse_port: true, own: None };
        assert_eq!(mode(&[]), Ok(ProxyMode::Shared(shared.clone())));
        assert_eq!(mode(&[("PROXY_MODE", "shared"), ("POD_NAME", "alone")]), Ok(ProxyMode::Shared(shared)));
        let all = [
            ("POD_NAME", "ztunnel-x"),
            ("POD_NAMESPACE", "istio-system"),
            ("SERVICE_ACCOUNT", "ztunnel"),
            ("INPOD_UDS", "/elsewhere.sock"),
            ("INPOD_PORT_REUSE", "false"),
        ];
        let Ok(ProxyMode::Shared(shared)) = mode(&all) else { panic!("shared") };
        assert_eq!((shared.node_agent, shared.reuse_port), ("/elsewhere.sock".into(), false));
        assert_eq!(shared.own.map(|own| own.to_string()), Some("istio-system/ztunnel-x/ztunnel".into()));
    }

    #[test]
    fn what_one_mode_cannot_use_is_refused() {
        let refused = refusal(mode(&[("BIND_ADDRESS", "127.0.0.2")]));
        assert!(refused.starts_with("BIND_ADDRESS: has no place in shared mode"), "{refused}");
        let refused = refusal(mode(&[("PROXY_WORKLOAD_INFO", "a/b/c")]));
        assert!(refused.contains("unset it, or PROXY_MODE=dedicated"), "{refused}");
        assert_eq!(
            refusal(mode(&[("PROXY_MODE", "sidecar")])),
            r#"PROXY_MODE: "sidecar" is not a mode; use shared or dedicated"#
        );
    }

    #[test]
    fn the_workload_of_a_dedicated_proxy() {
        let dedicated = |info| mode(&[("PROXY_MODE", "dedicated"), ("PROXY_WORKLOAD_INFO", info)]);
        let Ok(ProxyMode::Dedicated(workload)) = dedicated("shop/cart-7d9f/cart") else {
            panic!("dedicated")
        };
        assert_eq!((&*workload.namespace, &*workload.name), ("shop", "cart-7d9f"));
        assert_eq!(&*workload.service_account, "cart");
        assert_eq!(
            refusal(dedicated("")),
            "PROXY_WORKLOAD_INFO: is not set; \
             dedicated mode needs namespace/name/service-account of the workload to serve"
        );
        for info in ["a", "a/b", "a/b/c/d", "a//c"] {
            assert!(refusal(dedicated(info)).contains("is not namespace/name/service-account"), "{info}");
        }
    }

    #[test]
    fn where_it_is() {
        let variables = [
            ("NETWORK", "east"),
            ("NODE_NAME", "node-1"),
            ("CLUSTER_ID", "loses"),
            ("ISTIO_META_CLUSTER_ID", "wins"),
        ];
        let location = LocationConfig::from_environment(&environment(&variables)).unwrap();
        assert_eq!((location.network.as_str(), location.node.as_deref()), ("east", Some("node-1")));
        assert_eq!((location.cluster.as_str(), location.cluster_domain.as_str()), ("wins", "cluster.local"));
    }
}
