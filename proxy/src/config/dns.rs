//! The DNS proxy: where it listens, and what it needs to know of its surroundings.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use serde::Serialize;

use super::data_plane::bind_address;
use super::{ConfigError, Environment, ProxyMode};

/// Where the DNS proxy listens unless told otherwise, on loopback.
pub const DNS_PORT: u16 = 15053;

/// What the DNS proxy is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DnsConfig {
    /// Where it listens in each pod, UDP and TCP. An IPv6 address is left out in pods that have no IPv6.
    pub addresses: Vec<SocketAddr>,
    /// `CLUSTER_DOMAIN`: the domain of the cluster's services.
    pub cluster_domain: String,
    /// `NODE_NAME`: the node that local workloads run on, if known.
    pub node: Option<String>,
    /// `PREFERED_SERVICE_NAMESPACE` (in stock's spelling): whose service is meant by a hostname that several namespaces
    /// have, if neither the client's own has it nor one of them is canonical.
    pub preferred_namespace: Option<String>,
    /// Whether IPv6 addresses are answered.
    pub ipv6: bool,
    /// Which search domains clients have.
    pub search: SearchDomains,
    /// What names the nameservers to which questions are forwarded. Read again when it changes.
    pub resolv_conf: PathBuf,
    /// The nameservers' port; 53 save in tests.
    pub nameserver_port: u16,
}

/// What a client's resolver appends to short names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum SearchDomains {
    /// Kubernetes' own for the pod's namespace: we can't see the pod's file.
    OfPod,
    /// Those of `resolv_conf`: it is the pod's own.
    OfResolvConf,
}

impl DnsConfig {
    /// From `ISTIO_META_DNS_CAPTURE`, `ISTIO_META_DNS_PROXY_ADDR`, `BIND_ADDRESS`, `IPV6_ENABLED`, `CLUSTER_DOMAIN`,
    /// `NODE_NAME` and `PREFERED_SERVICE_NAMESPACE`; none if it is switched off.
    ///
    /// # Errors
    /// Also if resources come on demand: a name that nobody has asked for could not be told from one that isn't there.
    pub fn from_environment(
        environment: &Environment,
        mode: &ProxyMode,
    ) -> Result<Option<Self>, ConfigError> {
        if environment.meta("DNS_CAPTURE")?.is_some_and(|value| value != "true") {
            return Ok(None);
        }
        if environment.boolean("XDS_ON_DEMAND", false)? {
            let problem = "names can't be answered from resources that come on demand; set \
                           ISTIO_META_DNS_CAPTURE=false, or unset XDS_ON_DEMAND";
            return Err(ConfigError::new("XDS_ON_DEMAND", problem));
        }
        let owned = |name| environment.get(name).map(ToOwned::to_owned);
        Ok(Some(Self {
            addresses: addresses(environment)?,
            cluster_domain: environment.get("CLUSTER_DOMAIN").unwrap_or("cluster.local").to_owned(),
            node: owned("NODE_NAME"),
            preferred_namespace: owned("PREFERED_SERVICE_NAMESPACE"),
            ipv6: environment.ipv6()?,
            search: match mode {
                ProxyMode::Shared(_) => SearchDomains::OfPod,
                ProxyMode::Dedicated(_) => SearchDomains::OfResolvConf,
            },
            resolv_conf: "/etc/resolv.conf".into(),
            nameserver_port: 53,
        }))
    }
}

/// `localhost:<port>` is loopback of both families, or `BIND_ADDRESS` if there is one.
fn addresses(environment: &Environment) -> Result<Vec<SocketAddr>, ConfigError> {
    let Some(text) = environment.meta("DNS_PROXY_ADDR")? else { return loopback(environment, DNS_PORT) };
    let mistake = || {
        let problem =
            format!("{text:?} is not an address; use localhost:{DNS_PORT}, or an IP address and a port");
        ConfigError::new("ISTIO_META_DNS_PROXY_ADDR", problem)
    };
    match text.strip_prefix("localhost:") {
        Some(port) => loopback(environment, port.parse().map_err(|_| mistake())?),
        None => Ok(vec![text.parse().map_err(|_| mistake())?]),
    }
}

fn loopback(environment: &Environment, port: u16) -> Result<Vec<SocketAddr>, ConfigError> {
    let hosts = match bind_address(environment)? {
        Some(address) => vec![address],
        None if environment.ipv6()? => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        None => vec![IpAddr::from(Ipv4Addr::LOCALHOST)],
    };
    Ok(hosts.into_iter().map(|host| SocketAddr::new(host, port)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared() -> ProxyMode {
        ProxyMode::from_environment(&Environment::from_variables([("", "")])).unwrap()
    }

    fn dedicated() -> ProxyMode {
        let variables = [("PROXY_MODE", "dedicated"), ("PROXY_WORKLOAD_INFO", "a/b/c")];
        ProxyMode::from_environment(&Environment::from_variables(variables)).unwrap()
    }

    fn config(variables: &[(&str, &str)], mode: &ProxyMode) -> Result<Option<DnsConfig>, ConfigError> {
        DnsConfig::from_environment(&Environment::from_variables(variables.iter().copied()), mode)
    }

    fn addresses_of(variables: &[(&str, &str)]) -> Vec<String> {
        let config = config(variables, &shared()).unwrap().unwrap();
        config.addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn it_is_on_unless_switched_off() {
        let metadata = |value: &str| format!(r#"{{"proxyMetadata": {{"DNS_CAPTURE": "{value}"}}}}"#);
        for (name, value, on) in [
            ("UNRELATED", "", true),
            ("ISTIO_META_DNS_CAPTURE", "true", true),
            ("ISTIO_META_DNS_CAPTURE", "false", false),
            ("ISTIO_META_DNS_CAPTURE", "TRUE", false),
            ("PROXY_CONFIG", &metadata("true"), true),
            ("PROXY_CONFIG", &metadata("false"), false),
        ] {
            let config = config(&[(name, value)], &shared()).unwrap();
            assert_eq!(config.is_some(), on, "{name}={value}");
        }
    }

    #[test]
    fn it_listens_on_loopback_or_where_it_is_told() {
        let name = "ISTIO_META_DNS_PROXY_ADDR";
        for (variables, expected) in [
            (&[][..], &["127.0.0.1:15053", "[::1]:15053"][..]),
            (&[("IPV6_ENABLED", "false")], &["127.0.0.1:15053"]),
            (&[("BIND_ADDRESS", "127.0.0.7")], &["127.0.0.7:15053"]),
            (&[(name, "localhost:53")], &["127.0.0.1:53", "[::1]:53"]),
            (&[(name, "[fd00::1]:53"), ("BIND_ADDRESS", "127.0.0.7")], &["[fd00::1]:53"]),
        ] {
            assert_eq!(addresses_of(variables), expected, "{variables:?}");
        }
        for value in ["localhost", "localhost:dns", "127.0.0.1"] {
            let mistake = config(&[(name, value)], &shared()).unwrap_err().to_string();
            assert_eq!(
                mistake,
                format!(
                    "{name}: {value:?} is not an address; use localhost:15053, or an IP address and a port"
                )
            );
        }
    }

    #[test]
    fn search_domains_are_the_pods() {
        let search = |mode: &ProxyMode| config(&[], mode).unwrap().unwrap().search;
        assert_eq!(search(&shared()), SearchDomains::OfPod);
        assert_eq!(search(&dedicated()), SearchDomains::OfResolvConf);
    }

    #[test]
    fn resources_on_demand_are_refused_with_a_way_out() {
        let on_demand = ("XDS_ON_DEMAND", "true");
        let mistake = config(&[on_demand], &shared()).unwrap_err().to_string();
        assert!(mistake.starts_with("XDS_ON_DEMAND: "), "{mistake}");
        assert!(mistake.contains("ISTIO_META_DNS_CAPTURE=false"), "{mistake}");
        assert_eq!(config(&[on_demand, ("ISTIO_META_DNS_CAPTURE", "false")], &shared()), Ok(None));
    }
}
