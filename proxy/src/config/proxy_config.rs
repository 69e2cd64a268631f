//! ProxyConfig, the part of MeshConfig that a proxy gets: as YAML in `PROXY_CONFIG`, over the mesh file.

use std::collections::BTreeMap;
use std::io::ErrorKind;

use serde::Deserialize;

use super::{ConfigError, Environment};

const MESH_FILE: &str = "./etc/istio/config/mesh";

/// The keys of ProxyConfig that a node proxy reads; others are skipped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyConfig {
    /// Where istiod is, `host:port`.
    pub discovery_address: Option<String>,
    /// Port of the admin server.
    pub proxy_admin_port: Option<u16>,
    /// Port of the metrics server.
    pub stats_port: Option<u16>,
    /// Worker threads; 0 means one a CPU.
    pub concurrency: Option<u16>,
    /// Variables that stand in for unset `ISTIO_META_…` ones.
    pub proxy_metadata: BTreeMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct MeshConfig {
    default_config: Option<ProxyConfig>,
}

impl ProxyConfig {
    /// `PROXY_CONFIG` merged over `defaultConfig` of the mesh file, if there is one.
    pub fn from_environment(environment: &Environment) -> Result<Self, ConfigError> {
        let base = mesh_file(environment)?.default_config.unwrap_or_default();
        let Some(text) = environment.get("PROXY_CONFIG") else { return Ok(base) };
        let over: Option<Self> = serde_norway::from_str(text).map_err(|error| {
            ConfigError::new("PROXY_CONFIG", format!("not a ProxyConfig in YAML: {error}"))
        })?;
        Ok(over.unwrap_or_default().over(base))
    }

    fn over(self, base: Self) -> Self {
        let mut proxy_metadata = base.proxy_metadata;
        proxy_metadata.extend(self.proxy_metadata);
        Self {
            discovery_address: self.discovery_address.or(base.discovery_address),
            proxy_admin_port: self.proxy_admin_port.or(base.proxy_admin_port),
            stats_port: self.stats_port.or(base.stats_port),
            concurrency: self.concurrency.or(base.concurrency),
            proxy_metadata,
        }
    }
}

fn mesh_file(environment: &Environment) -> Result<MeshConfig, ConfigError> {
    let text = match std::fs::read_to_string(environment.path(MESH_FILE)) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(MeshConfig::default()),
        Err(error) => return Err(ConfigError::new(MESH_FILE, format!("cannot be read: {error}"))),
    };
    let mesh: Option<MeshConfig> = serde_norway::from_str(&text)
        .map_err(|error| ConfigError::new(MESH_FILE, format!("not a MeshConfig in YAML: {error}")))?;
    Ok(mesh.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_lies_over_the_mesh_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(MESH_FILE);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        let mesh = "rootNamespace: istio-system\ndefaultConfig:\n  proxyAdminPort: 15099\n  statsPort: 15888\n  \
                    proxyMetadata: {A: file, B: file}\n";
        std::fs::write(file, mesh).unwrap();

        let over = r#"{"proxyAdminPort": 15999, "concurrency": 3, "proxyMetadata": {"B": "variable"}}"#;
        let environment =
            Environment::from_variables([("PROXY_CONFIG", over)]).in_directory(directory.path());
        let config = ProxyConfig::from_environment(&environment).unwrap();
        assert_eq!((config.proxy_admin_port, config.stats_port), (Some(15999), Some(15888)));
        assert_eq!(config.concurrency, Some(3));
        assert_eq!(config.proxy_metadata["A"], "file");
        assert_eq!(config.proxy_metadata["B"], "variable");
    }

    #[test]
    fn a_mistake_names_its_place() {
        let environment = Environment::from_variables([("PROXY_CONFIG", "statsPort: many")]);
        let error = ProxyConfig::from_environment(&environment).unwrap_err().to_string();
        assert!(error.starts_with("PROXY_CONFIG: not a ProxyConfig in YAML: statsPort"), "{error}");
    }
}
