//! How to reach istiod: address, root certificates, token.

use std::fmt;

use http::{HeaderName, HeaderValue, Uri};
use serde::Serialize;
use xds::connect::{self, RootCertificates, Token};

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
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RemoteConfig {
    /// `https://host:port`.
    #[serde(serialize_with = "as_text")]
    pub address: Uri,
    /// What the server's certificate must chain to.
    pub roots: RootCertificates,
    /// Another name that the server's certificate may have, besides the host of the address.
    pub alternative_name: Option<String>,
    /// What we show to prove who we are, if anything.
    pub token: Option<Token>,
    /// The cluster that we say we are in.
    pub cluster_id: String,
    /// Further metadata of each request. It may be secret, so that only the names are shown.
    #[serde(serialize_with = "names_only")]
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl RemoteConfig {
    /// None if the address is set to the empty string, which switches the server off.
    pub fn from_environment(environment: &Environment, server: Server) -> Result<Option<Self>, ConfigError> {
        let names = server.variables();
        let Some(address) = address(environment, names.address)? else { return Ok(None) };
        Ok(Some(Self {
            address,
            roots: roots(environment, names.roots)?,
            alternative_name: environment.get(names.alternative_name).map(ToOwned::to_owned),
            token: token(environment),
            cluster_id: cluster_id(environment)?,
            headers: headers(environment, names.headers)?,
        }))
    }

    /// The server as it is asked.
    ///
    /// # Errors
    /// A name in it cannot be one.
    pub fn server(&self) -> Result<connect::Server, ConfigError> {
        let config = connect::ServerConfig {
            address: self.address.clone(),
            roots: self.roots.clone(),
            token: self.token.clone(),
            alternative_name: self.alternative_name.clone(),
            cluster_id: self.cluster_id.clone(),
            headers: self.headers.clone(),
        };
        connect::Server::new(config)
            .map_err(|error| ConfigError::new(self.address.to_string(), error.to_string()))
    }
}

impl fmt::Debug for RemoteConfig {
    /// Headers may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteConfig")
            .field("address", &self.address)
            .field("roots", &self.roots)
            .field("token", &self.token)
            .finish_non_exhaustive()
    }
}

/// The variables that tell of one server.
struct Variables {
    address: &'static str,
    roots: &'static str,
    alternative_name: &'static str,
    /// Their beginning; the rest is a header's name.
    headers: &'static str,
}

impl Server {
    fn variables(self) -> Variables {
        match self {
            Self::Xds => Variables {
                address: "XDS_ADDRESS",
                roots: "XDS_ROOT_CA",
                alternative_name: "ALT_XDS_HOSTNAME",
                headers: "XDS_HEADER_",
            },
            Self::CertificateAuthority => Variables {
                address: "CA_ADDRESS",
                roots: "CA_ROOT_CA",
                alternative_name: "ALT_CA_HOSTNAME",
                headers: "CA_HEADER_",
            },
        }
    }
}

/// `ISTIO_META_CLUSTER_ID`, or else `CLUSTER_ID`.
pub(super) fn cluster_id(environment: &Environment) -> Result<String, ConfigError> {
    Ok(match environment.meta("CLUSTER_ID")? {
        Some(cluster) => cluster,
        None => environment.get("CLUSTER_ID").unwrap_or("Kubernetes").to_owned(),
    })
}

fn address(environment: &Environment, name: &'static str) -> Result<Option<Uri>, ConfigError> {
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
    let url = match address.split_once("://") {
        None => format!("https://{address}"),
        Some(("https", _)) => address,
        Some((scheme, _)) => {
            let problem =
                format!("{scheme:?} does not protect our token; use https://host:port or host:port");
            return Err(ConfigError::new(name, problem));
        }
    };
    url.parse().map(Some).map_err(|error| {
        ConfigError::new(
            name,
            format!("{url:?} is not an address ({error}); use https://host:port or host:port"),
        )
    })
}

fn headers(
    environment: &Environment,
    prefix: &'static str,
) -> Result<Vec<(HeaderName, HeaderValue)>, ConfigError> {
    let header = |(name, value): (&str, &str)| {
        let problem =
            |what| ConfigError::new(format!("{prefix}{name}"), format!("{what} cannot be sent in a header"));
        let parsed = HeaderName::try_from(name).map_err(|_| problem("its name"))?;
        Ok((parsed, HeaderValue::try_from(value).map_err(|_| problem("its value"))?))
    };
    environment.with_prefix(prefix).map(header).collect()
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

fn as_text<S: serde::Serializer>(uri: &Uri, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(uri)
}

fn names_only<S: serde::Serializer>(
    headers: &[(HeaderName, HeaderValue)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(headers.iter().map(|(name, _)| name.as_str()))
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
        let address = |value| {
            ca(&[("CA_ROOT_CA", "SYSTEM"), ("CA_ADDRESS", value)])
                .map(|ca| ca.map(|ca| ca.address.to_string()))
        };
        assert_eq!(
            address("istiod.istio-system.svc:15012"),
            Ok(Some("https://istiod.istio-system.svc:15012/".into()))
        );
        assert_eq!(address(""), Ok(None));
        for scheme in ["http", "ftp"] {
            let value = format!("{scheme}://localhost:15010");
            let refused = ca(&[("CA_ROOT_CA", "SYSTEM"), ("CA_ADDRESS", &value)]).unwrap_err();
            assert!(refused.starts_with(&format!("CA_ADDRESS: {scheme:?} does not protect our token")));
        }
        let in_cluster = ca(&[("CA_ROOT_CA", "SYSTEM"), ("KUBERNETES_SERVICE_HOST", "10.0.0.1")]);
        assert_eq!(in_cluster.unwrap().unwrap().address, "https://istiod.istio-system.svc:15012/");
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
    fn no_secret_is_ever_shown() {
        let variables = [("CA_ROOT_CA", "SYSTEM"), ("AUTH_TOKEN", "s3cret"), ("CA_HEADER_X-Key", "s3cret")];
        let ca = ca(&variables).unwrap().unwrap();
        assert_eq!(ca.token, Some(Token::Static("s3cret".into())));
        assert_eq!(ca.headers, [(HeaderName::from_static("x-key"), HeaderValue::from_static("s3cret"))]);
        let shown = serde_json::to_string(&ca).unwrap();
        assert!(shown.contains("x-key") && !shown.contains("s3cret"), "{shown}");
    }

    #[test]
    fn each_server_has_variables_of_its_own() {
        let environment = Environment::from_variables([
            ("XDS_ROOT_CA", "SYSTEM"),
            ("ALT_XDS_HOSTNAME", "istiod.example.com"),
            ("ALT_CA_HOSTNAME", "ca.example.com"),
            ("CA_HEADER_A", "1"),
            ("CLUSTER_ID", "east"),
        ]);
        let xds = RemoteConfig::from_environment(&environment, Server::Xds).unwrap().unwrap();
        assert_eq!(xds.alternative_name.as_deref(), Some("istiod.example.com"));
        assert_eq!((xds.cluster_id.as_str(), xds.headers.len()), ("east", 0));
    }
}
