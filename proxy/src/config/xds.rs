//! Mesh state from istiod: where it is, and who we say we are.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::remote::{RemoteConfig, Server};
use super::{ConfigError, Environment, ProxyConfig};

/// How mesh state is learnt from istiod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct XdsConfig {
    /// Where it is.
    pub server: RemoteConfig,
    /// Who we say we are.
    pub node: Node,
    /// `XDS_ON_DEMAND`: ask for each destination when it is wanted, rather than for the whole mesh at once.
    pub on_demand: bool,
}

/// Who we say we are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// `ztunnel~<ip>~<pod>.<namespace>~<namespace>.svc.cluster.local`; istiod goes by its first part.
    pub id: String,
    /// What else istiod may want to know.
    pub metadata: BTreeMap<String, Value>,
}

impl XdsConfig {
    /// From `XDS_ADDRESS` and its companions (see [`RemoteConfig`]), `XDS_ON_DEMAND`, and what [`Node`] needs; none if
    /// the address is set to the empty string.
    pub fn from_environment(environment: &Environment) -> Result<Option<Self>, ConfigError> {
        let Some(server) = RemoteConfig::from_environment(environment, Server::Xds)? else { return Ok(None) };
        let on_demand = environment.boolean("XDS_ON_DEMAND", false)?;
        Ok(Some(Self { server, node: Node::from_environment(environment)?, on_demand }))
    }
}

impl Node {
    /// From `INSTANCE_IP`, `POD_NAME`, `POD_NAMESPACE`, `NODE_NAME`; metadata from `ISTIO_META_*` (text) and, before
    /// those, `ISTIO_METAJSON_*` (JSON) and ProxyConfig's `proxyMetadata`.
    fn from_environment(environment: &Environment) -> Result<Self, ConfigError> {
        let get = |name| environment.get(name).unwrap_or_default();
        let (ip, pod, namespace) =
            (environment.get("INSTANCE_IP").unwrap_or("1.1.1.1"), get("POD_NAME"), get("POD_NAMESPACE"));
        let text = |value: &str| Value::from(value);
        let mut metadata = BTreeMap::from([
            ("NAME".to_owned(), text(pod)),
            ("NAMESPACE".to_owned(), text(namespace)),
            ("INSTANCE_IPS".to_owned(), text(ip)),
            ("NODE_NAME".to_owned(), text(get("NODE_NAME"))),
        ]);
        for (name, value) in ProxyConfig::from_environment(environment)?.proxy_metadata {
            let key = name.strip_prefix(META).unwrap_or(&name);
            metadata.insert(key.to_owned(), text(&value));
        }
        metadata.extend(environment.with_prefix(META).map(|(key, value)| (key.to_owned(), text(value))));
        for (key, value) in environment.with_prefix(META_JSON) {
            let value = serde_json::from_str(value).map_err(|error| {
                ConfigError::new(
                    format!("{META_JSON}{key}"),
                    format!("is not JSON: {error}; mend or unset it"),
                )
            })?;
            metadata.insert(key.to_owned(), value);
        }
        Ok(Self { id: format!("ztunnel~{ip}~{pod}.{namespace}~{namespace}.svc.cluster.local"), metadata })
    }
}

const META: &str = "ISTIO_META_";
const META_JSON: &str = "ISTIO_METAJSON_";

#[cfg(test)]
mod tests {
    use super::*;

    fn config(variables: &[(&str, &str)]) -> Result<Option<XdsConfig>, ConfigError> {
        let roots = [("XDS_ROOT_CA", "SYSTEM")];
        XdsConfig::from_environment(&Environment::from_variables(
            roots.into_iter().chain(variables.iter().copied()),
        ))
    }

    #[test]
    fn the_node_has_the_form_that_istiod_knows() {
        let variables = [
            ("INSTANCE_IP", "10.77.0.250"),
            ("POD_NAME", "ztunnel-a"),
            ("POD_NAMESPACE", "istio-system"),
            ("NODE_NAME", "node-a"),
            ("ISTIO_META_CLUSTER_ID", "east"),
            ("ISTIO_METAJSON_LABELS", r#"{"app": ["ztunnel"]}"#),
            ("PROXY_CONFIG", r#"{"proxyMetadata": {"ISTIO_META_A": "config", "B": "config"}}"#),
        ];
        let config = config(&variables).unwrap().unwrap();
        assert_eq!(
            config.node.id,
            "ztunnel~10.77.0.250~ztunnel-a.istio-system~istio-system.svc.cluster.local"
        );
        assert_eq!(
            serde_json::to_value(&config.node.metadata).unwrap(),
            serde_json::json!({
                "NAME": "ztunnel-a", "NAMESPACE": "istio-system", "INSTANCE_IPS": "10.77.0.250", "NODE_NAME": "node-a",
                "CLUSTER_ID": "east", "A": "config", "B": "config", "LABELS": {"app": ["ztunnel"]},
            })
        );
        assert_eq!((config.on_demand, config.server.cluster_id.as_str()), (false, "east"));
    }

    #[test]
    fn without_a_pod_it_is_the_node_of_stock() {
        let node = config(&[]).unwrap().unwrap().node;
        assert_eq!(node.id, "ztunnel~1.1.1.1~.~.svc.cluster.local");
    }

    #[test]
    fn it_can_be_switched_off_and_mistakes_are_named() {
        assert_eq!(config(&[("XDS_ADDRESS", "")]), Ok(None));
        let mistake = config(&[("ISTIO_METAJSON_X", "{")]).unwrap_err().to_string();
        assert!(mistake.starts_with("ISTIO_METAJSON_X: is not JSON: "), "{mistake}");
    }
}
