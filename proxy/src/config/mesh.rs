//! Where the proxy learns about the mesh, and who signs its certificates.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::remote::{RemoteConfig, Server};
use super::{ConfigError, Environment};

/// Mesh state that is given rather than learnt from istiod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum LocalXdsConfig {
    /// `LOCAL_XDS_PATH`: a YAML file.
    File(PathBuf),
    /// `LOCAL_XDS`: the YAML itself.
    Inline(String),
}

impl LocalXdsConfig {
    /// From `LOCAL_XDS_PATH` or `LOCAL_XDS`; none if neither is set.
    pub fn from_environment(environment: &Environment) -> Result<Option<Self>, ConfigError> {
        match (environment.get("LOCAL_XDS_PATH"), environment.get("LOCAL_XDS")) {
            (None, None) => Ok(None),
            (Some(path), None) => Ok(Some(Self::File(environment.path(path)))),
            (None, Some(yaml)) => Ok(Some(Self::Inline(yaml.to_owned()))),
            (Some(_), Some(_)) => {
                Err(ConfigError::new("LOCAL_XDS_PATH", "LOCAL_XDS is set as well; unset one of the two"))
            }
        }
    }

    /// The YAML text, and a name of its place for error messages.
    pub fn read(&self) -> Result<(String, String), ConfigError> {
        match self {
            Self::Inline(yaml) => Ok((yaml.clone(), "LOCAL_XDS".into())),
            Self::File(path) => match std::fs::read_to_string(path) {
                Ok(yaml) => Ok((yaml, path.display().to_string())),
                Err(error) => {
                    let problem = format!("{} cannot be read: {error}", path.display());
                    Err(ConfigError::new("LOCAL_XDS_PATH", problem))
                }
            },
        }
    }
}

/// Where certificates come from, and what is asked of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IdentityConfig {
    /// `TRUST_DOMAIN`: that of the identities that this proxy asks for.
    pub trust_domain: String,
    /// `SECRET_TTL`: the lifetime to ask for.
    pub secret_ttl: Duration,
    /// Who signs.
    pub authority: CertificateAuthorityConfig,
}

/// Who signs certificates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum CertificateAuthorityConfig {
    /// `FAKE_CA=true`: a key that is printed in the source; whether this build has one is not decided here.
    Fake,
    /// `CA_ADDRESS`: istiod.
    Remote(Box<RemoteConfig>),
}

impl IdentityConfig {
    /// From `TRUST_DOMAIN`, `SECRET_TTL`, `FAKE_CA`, or else `CA_ADDRESS`, `CA_ROOT_CA` and `AUTH_TOKEN`.
    pub fn from_environment(environment: &Environment) -> Result<Self, ConfigError> {
        let secret_ttl = environment.duration("SECRET_TTL")?.unwrap_or(Duration::from_secs(24 * 3600));
        if secret_ttl < Duration::from_secs(1) {
            return Err(ConfigError::new(
                "SECRET_TTL",
                format!("{secret_ttl:?} is too short; use at least 1s"),
            ));
        }
        let authority = if environment.boolean("FAKE_CA", false)? {
            CertificateAuthorityConfig::Fake
        } else {
            let remote = RemoteConfig::from_environment(environment, Server::CertificateAuthority)?;
            let missing = || {
                ConfigError::new("CA_ADDRESS", "is empty; set it to istiod's address, or set FAKE_CA=true")
            };
            CertificateAuthorityConfig::Remote(Box::new(remote.ok_or_else(missing)?))
        };
        let trust_domain = environment.get("TRUST_DOMAIN").unwrap_or("cluster.local").to_owned();
        Ok(Self { trust_domain, secret_ttl, authority })
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

    #[test]
    fn local_state_has_one_source() {
        let both = LocalXdsConfig::from_environment(&environment(&[
            ("LOCAL_XDS", "a: b"),
            ("LOCAL_XDS_PATH", "/x"),
        ]));
        assert_eq!(refusal(both), "LOCAL_XDS_PATH: LOCAL_XDS is set as well; unset one of the two");
        assert_eq!(LocalXdsConfig::from_environment(&environment(&[])), Ok(None));

        let missing = environment(&[("LOCAL_XDS_PATH", "/no/such/file.yaml")]);
        let missing = LocalXdsConfig::from_environment(&missing).unwrap().unwrap();
        assert_eq!(
            refusal(missing.read()),
            "LOCAL_XDS_PATH: /no/such/file.yaml cannot be read: No such file or directory (os error 2)"
        );
    }

    #[test]
    fn a_fake_authority_needs_nothing_else() {
        let identity = IdentityConfig::from_environment(&environment(&[("FAKE_CA", "true")])).unwrap();
        assert_eq!(identity.authority, CertificateAuthorityConfig::Fake);
        assert_eq!((identity.trust_domain.as_str(), identity.secret_ttl.as_secs()), ("cluster.local", 86400));
        assert!(IdentityConfig::from_environment(&environment(&[("CA_ADDRESS", "")])).is_err());
    }
}
