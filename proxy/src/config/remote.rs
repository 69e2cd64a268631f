//! How to reach istiod: address, root certificates, token.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::{ConfigError, Environment, ProxyConfig};

const DEFAULT_ROOTS: &str = "./var/run/secrets/istio/root-cert.pem";
const DEFAULT_TOKEN: &str = "./var/run/secrets/tokens/istio-token";

/// One of istiod's two services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// Mesh state: `XDS_ADDRESS`, `XDS_ROOT_CA`.
    Xds,
    /// Certificates: `CA_ADDRESS`, `CA_ROOT_CA`.
    CertificateAuthority,
}

/// How to reach a server of the control plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RemoteConfig {
    /// URL with scheme.
    pub address: String,
    /// What the server's certificate must chain to.
    pub roots: RootCertificates,
    /// What we show to prove who we are, if anything.
    pub token: Option<Token>,
}

/// Trusted roots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum RootCertificates {
    /// A PEM file, which may be renewed while we run.
    File(PathBuf),
    /// The operating system's.
    System,
    /// PEM given in the variable itself.
    Pem(String),
}

/// A bearer token. Neither `Debug` nor serialising shows a secret.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Token {
    /// A file that is read again for each request, since Kubernetes renews it.
    File(PathBuf),
    /// The token itself.
    Static(#[serde(serialize_with = "hidden")] String),
}

impl RemoteConfig {
    /// None if the address is set to the empty string, which switches the server off.
    pub fn from_environment(environment: &Environment, server: Server) -> Result<Option<Self>, ConfigError> {
        let Some(address) = address(environment, server)? else { return Ok(None) };
        let roots = match server {
            Server::Xds => roots(environment, "XDS_ROOT_CA")?,
            Server::CertificateAuthority => roots(environment, "CA_ROOT_CA")?,
        };
        Ok(Some(Self { address, roots, token: token(environment) }))
    }
}

fn address(environment: &Environment, server: Server) -> Result<Option<String>, ConfigError> {
    let name = match server {
        Server::Xds => "XDS_ADDRESS",
        Server::CertificateAuthority => "CA_ADDRESS",
    };
    let address = match environment.raw(name) {
        Some("") => return Ok(None),
        Some(address) => address.to_owned(),
        None => match ProxyConfig::from_environment(environment)?.discovery_address {
            Some(address) => address,
            None if environment.get("KUBERNETES_SERVICE_HOST").is_some() => {
                "https://istiod.istio-system.svc:15012".to_owned()
            }
            None => "https://localhost:15012".to_owned(),
        },
    };
    match address.split_once("://") {
        None => Ok(Some(format!("https://{address}"))),
        Some(("http" | "https", _)) => Ok(Some(address)),
        Some((scheme, _)) => Err(ConfigError::new(
            name,
            format!("{scheme:?} is not a scheme; use https://host:port or host:port"),
        )),
    }
}

fn roots(environment: &Environment, name: &'static str) -> Result<RootCertificates, ConfigError> {
    let value = match environment.get(name) {
        Some("SYSTEM") => return Ok(RootCertificates::System),
        Some(pem) if pem.contains("-----BEGIN CERTIFICATE-----") => {
            return Ok(RootCertificates::Pem(pem.to_owned()));
        }
        value => value.unwrap_or(DEFAULT_ROOTS),
    };
    let path = environment.path(value);
    if path.exists() {
        return Ok(RootCertificates::File(path));
    }
    let problem = format!(
        "there is no file {value}; mount the root certificate there, or set a path, SYSTEM or PEM text"
    );
    Err(ConfigError::new(name, problem))
}

fn token(environment: &Environment) -> Option<Token> {
    let value = environment.get("AUTH_TOKEN");
    let path = environment.path(value.unwrap_or(DEFAULT_TOKEN));
    match value {
        _ if path.exists() => Some(Token::File(path)),
        Some(token) => Some(Token::Static(token.to_owned())),
        None => None,
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Static(_) => f.write_str("Static(hidden)"),
        }
    }
}

fn hidden<S: serde::Serializer>(_: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str("hidden")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ca(variables: &[(&str, &str)]) -> Result<Option<RemoteConfig>, String> {
        let environment = Environment::from_variables(variables.iter().copied());
        RemoteConfig::from_environment(&environment, Server::CertificateAuthority).map_err(|e| e.to_string())
    }

    #[test]
    fn addresses_have_a_scheme() {
        let address =
            |value| ca(&[("CA_ROOT_CA", "SYSTEM"), ("CA_ADDRESS", value)]).map(|ca| ca.map(|ca| ca.address));
        assert_eq!(
            address("istiod.istio-system.svc:15012"),
            Ok(Some("https://istiod.istio-system.svc:15012".into()))
        );
        assert_eq!(address("http://localhost:15010"), Ok(Some("http://localhost:15010".into())));
        assert_eq!(address(""), Ok(None));
        assert!(address("ftp://x").unwrap_err().starts_with("CA_ADDRESS: \"ftp\" is not a scheme"));
        let in_cluster = ca(&[("CA_ROOT_CA", "SYSTEM"), ("KUBERNETES_SERVICE_HOST", "10.0.0.1")]);
        assert_eq!(in_cluster.unwrap().unwrap().address, "https://istiod.istio-system.svc:15012");
    }

    #[test]
    fn roots_are_a_file_the_system_s_or_pem() {
        let roots = |value| ca(&[("CA_ROOT_CA", value)]).map(|ca| ca.unwrap().roots);
        assert_eq!(roots("SYSTEM"), Ok(RootCertificates::System));
        let pem = "-----BEGIN CERTIFICATE-----\n…";
        assert_eq!(roots(pem), Ok(RootCertificates::Pem(pem.into())));
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(roots(file.path().to_str().unwrap()), Ok(RootCertificates::File(file.path().into())));
        assert_eq!(
            roots("/no/roots.pem").unwrap_err(),
            "CA_ROOT_CA: there is no file /no/roots.pem; \
             mount the root certificate there, or set a path, SYSTEM or PEM text"
        );
    }

    #[test]
    fn a_token_is_never_shown() {
        let ca = ca(&[("CA_ROOT_CA", "SYSTEM"), ("AUTH_TOKEN", "s3cret")]).unwrap().unwrap();
        assert_eq!(ca.token, Some(Token::Static("s3cret".into())));
        let shown = format!("{ca:?} {}", serde_json::to_string(&ca).unwrap());
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}
