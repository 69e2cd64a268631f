//! Resources from a file in place of a control plane (`LOCAL_XDS`, `LOCAL_XDS_PATH`).
//!
//! The form is stock's: a YAML map with the lists `workloads`, `services` and `policies`, each entry written as
//! `/config_dump` shows it, save that a workload's `services` are a map `namespace/hostname` → (port → target port).
//! An unknown field is an error, because a mistyped condition in a policy must not silently widen it.

use serde::Deserialize;

use crate::resource::{Authorization, Service, Workload};
use crate::store::Edit;

/// What a local file says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LocalConfig {
    /// Workloads.
    pub workloads: Vec<Workload>,
    /// Services.
    pub services: Vec<Service>,
    /// Policies.
    pub policies: Vec<Authorization>,
}

impl LocalConfig {
    /// Inserts everything.
    pub fn apply(self, edit: &mut Edit) {
        for service in self.services {
            edit.insert_service(service);
        }
        for workload in self.workloads {
            edit.insert_workload(workload);
        }
        for policy in self.policies {
            edit.insert_policy(policy);
        }
    }
}

/// Why a local file is refused. The text says where (entry, line, column) and what is wrong.
#[derive(Debug, thiserror::Error)]
#[error("local xds configuration: {0}")]
pub struct LocalConfigError(#[from] serde_norway::Error);

/// Parses and checks a local file; an empty one has no resources.
pub fn load(yaml: &str) -> Result<LocalConfig, LocalConfigError> {
    let config: Option<LocalConfig> = serde_norway::from_str(yaml)?;
    Ok(config.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::{Action, Scope, TunnelProtocol};

    const EXAMPLE: &str = r#"
workloads:
- uid: cluster1//v1/Pod/default/local
  name: local
  namespace: default
  serviceAccount: default
  workloadIps: ["127.0.0.1"]
  protocol: HBONE
  node: local
  network: ""
  services:
    "default/example.com":
      80: 8080
- uid: cluster1//v1/Pod/default/local-tcp
  namespace: default
  workloadIps: ["127.0.0.2"]
  waypoint:
    destination: default/waypoint.default
    hboneMtlsPort: 15008
services:
- name: local
  namespace: default
  hostname: example.com
  vips: [/127.10.0.1]
  cidrVips: [{network: "", cidr: 127.11.0.0/16}]
  ports: {80: 8080}
  subjectAltNames: [spiffe://cluster.local/ns/default/sa/local]
  loadBalancer:
    routingPreferences: [Network, Region, Zone]
    mode: Failover
    healthPolicy: AllowAll
  ipFamilies: IPv4
  canonical: true
policies:
- action: Allow
  rules:
  - - - notDestinationPorts: [9999]
        principals: [Exact: cluster.local/ns/default/sa/local]
  name: deny-9999
  namespace: default
  scope: Namespace
  dryRun: false
"#;

    #[test]
    fn the_form_of_stock() {
        let config = load(EXAMPLE).unwrap();
        assert_eq!(config.workloads[0].tunnel_protocol, TunnelProtocol::Hbone);
        let service = config.services[0].key();
        assert_eq!(config.workloads[0].services.get(service).unwrap().target(80), Some(8080));
        assert_eq!(
            config.workloads[1].identity().to_string(),
            "spiffe://cluster.local/ns/default/sa/default"
        );
        assert_eq!(config.services[0].vips[0].to_string(), "/127.10.0.1");
        assert_eq!(config.services[0].identities().len(), 1);
        assert_eq!((config.policies[0].action, config.policies[0].scope), (Action::Allow, Scope::Namespace));
        assert_eq!(load("").unwrap(), LocalConfig::default());
    }

    #[test]
    fn errors_name_what_is_wrong_and_where() {
        for (yaml, expected) in [
            ("workload: []", "unknown field `workload`"),
            ("workloads: [{uid: u, namespace: n, workloadIp: 127.0.0.1}]", "unknown field `workloadIp`"),
            ("workloads: [{namespace: n}]", "uid: must not be empty"),
            ("workloads: [{uid: u, namespace: n, protocol: HTTP}]", "unknown variant `HTTP`"),
            ("workloads: [{uid: u, namespace: n, services: {example.com: {80: 80}}}]", "namespace/hostname"),
            (
                "services: [{namespace: n, hostname: h, vips: [10.0.0.1]}]",
                "\"10.0.0.1\" is not of the form network/ip",
            ),
            ("services: [{namespace: n, hostname: h, ports: {0: 80}}]", "0 is not a port"),
            (
                "policies: [{name: p, namespace: n, scope: Global, action: Deny, rules: [[[{sourceIPs: [10.0.0.0/8]}]]]}]",
                "unknown field `sourceIPs`",
            ),
            ("policies: [{name: p, namespace: n, scope: Global}]", "missing field `action`"),
        ] {
            let error = load(yaml).unwrap_err().to_string();
            assert!(error.contains(expected), "{yaml}\n gives {error}\n without {expected}");
        }
        let error =
            load("services:\n- {namespace: n, hostname: h}\n- {namespace: n, hostnam: h}").unwrap_err();
        assert!(error.to_string().contains("services[1]"), "{error}");
    }
}
