//! What the control side needs to know: its HTTP servers, the log, how long a drain may take.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde::Serialize;

use super::data_plane::{bind_address, wildcard};
use super::{ConfigError, Environment, HandoverConfig, ProxyConfig, ProxyMode};

/// Where the admin, metrics and readiness servers listen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AdminConfig {
    /// The admin server; loopback only, since it can stop the process.
    pub admin: Vec<SocketAddr>,
    /// The metrics server.
    pub stats: SocketAddr,
    /// The readiness server.
    pub readiness: SocketAddr,
    /// `ISTIO_META_ISTIO_VERSION`: the release that this proxy belongs to.
    pub istio_version: String,
}

impl AdminConfig {
    /// From ProxyConfig's `proxyAdminPort` and `statsPort`, `BIND_ADDRESS`, `IPV6_ENABLED` and
    /// `ISTIO_META_ISTIO_VERSION`.
    pub fn from_environment(environment: &Environment) -> Result<Self, ConfigError> {
        let proxy_config = ProxyConfig::from_environment(environment)?;
        let admin_port = proxy_config.proxy_admin_port.unwrap_or(15000);
        let wildcard = wildcard(environment)?;
        Ok(Self {
            admin: loopback(environment)?.into_iter().map(|ip| SocketAddr::new(ip, admin_port)).collect(),
            stats: SocketAddr::new(wildcard, proxy_config.stats_port.unwrap_or(15020)),
            readiness: SocketAddr::new(wildcard, 15021),
            istio_version: environment.meta("ISTIO_VERSION")?.unwrap_or_else(|| "unknown".into()),
        })
    }
}

/// `BIND_ADDRESS` moves the admin server only to another loopback address: nobody else may reach it.
fn loopback(environment: &Environment) -> Result<Vec<IpAddr>, ConfigError> {
    if let Some(address) = bind_address(environment)?.filter(IpAddr::is_loopback) {
        return Ok(vec![address]);
    }
    let mut addresses = vec![IpAddr::from(Ipv4Addr::LOCALHOST)];
    if environment.ipv6()? {
        addresses.push(Ipv6Addr::LOCALHOST.into());
    }
    Ok(addresses)
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LogConfig {
    /// `RUST_LOG`, in the form of `tracing_subscriber::EnvFilter`.
    pub filter: String,
    /// `LOG_FORMAT`.
    pub format: LogFormat,
}

/// The shape of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum LogFormat {
    /// Columns separated by tabs.
    Plain,
    /// One JSON object a line.
    Json,
}

impl LogConfig {
    /// From `RUST_LOG` (default `info`) and `LOG_FORMAT` (default `plain`).
    pub fn from_environment(environment: &Environment) -> Result<Self, ConfigError> {
        let format = match environment.get("LOG_FORMAT") {
            None | Some("plain") => LogFormat::Plain,
            Some("json") => LogFormat::Json,
            Some(other) => {
                return Err(ConfigError::new(
                    "LOG_FORMAT",
                    format!("{other:?} is not a format; use plain or json"),
                ));
            }
        };
        Ok(Self { filter: environment.get("RUST_LOG").unwrap_or("info").to_owned(), format })
    }
}

/// How long a drain may take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DrainConfig {
    /// From its begin until everything that is left gets cut.
    pub deadline: Duration,
    /// How much of that a process that is told to end goes on accepting, if nobody takes over before.
    pub accept_window: Duration,
}

impl DrainConfig {
    /// From `CONNECTION_TERMINATION_DEADLINE`, else `TERMINATION_GRACE_PERIOD_SECONDS` (whole seconds);
    /// see [`drain::deadline_ms`]. And `DRAIN_ACCEPT_WINDOW`, by default half of the deadline where a successor may come:
    /// in shared mode, and where there is a hand-over; else 0. It is never more than the deadline.
    pub fn from_environment(
        environment: &Environment,
        mode: &ProxyMode,
        handover: Option<&HandoverConfig>,
    ) -> Result<Self, ConfigError> {
        const GRACE: &str = "TERMINATION_GRACE_PERIOD_SECONDS";
        let grace = environment.parsed::<u32>(GRACE, "a number of whole seconds, such as 30")?;
        let explicit = environment.duration("CONNECTION_TERMINATION_DEADLINE")?;
        let explicit_ms = explicit.map(|deadline| u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX));
        let deadline = Duration::from_millis(drain::deadline_ms(explicit_ms, grace.map(u64::from)));
        let successor = matches!(mode, ProxyMode::Shared(_)) || handover.is_some();
        let default = if successor { deadline / 2 } else { Duration::ZERO };
        let accept_window = environment.duration("DRAIN_ACCEPT_WINDOW")?.unwrap_or(default).min(deadline);
        Ok(Self { deadline, accept_window })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment::from_variables(variables.iter().copied())
    }

    #[test]
    fn servers_listen_where_stock_does() {
        let admin = AdminConfig::from_environment(&environment(&[])).unwrap();
        assert_eq!(admin.admin, ["127.0.0.1:15000".parse().unwrap(), "[::1]:15000".parse().unwrap()]);
        assert_eq!(admin.stats, "[::]:15020".parse().unwrap());
        assert_eq!(admin.readiness, "[::]:15021".parse().unwrap());
        assert_eq!(admin.istio_version, "unknown");
    }

    #[test]
    fn ports_come_from_proxy_config() {
        let variables = [
            ("PROXY_CONFIG", r#"{"proxyAdminPort": 15999, "statsPort": 15888}"#),
            ("IPV6_ENABLED", "false"),
            ("ISTIO_META_ISTIO_VERSION", "1.31.0"),
        ];
        let admin = AdminConfig::from_environment(&environment(&variables)).unwrap();
        assert_eq!(admin.admin, ["127.0.0.1:15999".parse().unwrap()]);
        assert_eq!(admin.stats, "0.0.0.0:15888".parse().unwrap());
        assert_eq!(admin.istio_version, "1.31.0");
    }

    #[test]
    fn the_admin_server_never_leaves_loopback() {
        let admin =
            |address| AdminConfig::from_environment(&environment(&[("BIND_ADDRESS", address)])).unwrap();
        assert_eq!(admin("127.0.0.9").admin, ["127.0.0.9:15000".parse().unwrap()]);
        assert_eq!(admin("10.0.0.9").admin[0], "127.0.0.1:15000".parse().unwrap());
        assert_eq!(admin("10.0.0.9").stats, "10.0.0.9:15020".parse().unwrap());
    }

    #[test]
    fn log_formats() {
        let log = |format| LogConfig::from_environment(&environment(&[("LOG_FORMAT", format)]));
        assert_eq!(log("").unwrap(), LogConfig { filter: "info".into(), format: LogFormat::Plain });
        assert_eq!(log("json").unwrap().format, LogFormat::Json);
        assert_eq!(
            log("xml").unwrap_err().to_string(),
            r#"LOG_FORMAT: "xml" is not a format; use plain or json"#
        );
    }

    fn drain(
        mode: &'static str,
        variables: &[(&'static str, &'static str)],
    ) -> Result<DrainConfig, ConfigError> {
        let common = [("PROXY_MODE", mode)];
        let workload = [("PROXY_WORKLOAD_INFO", "a/b/c")];
        let own = if mode == "dedicated" { &workload[..] } else { &[] };
        let environment = Environment::from_variables(common.iter().chain(own).chain(variables).copied());
        let mode = ProxyMode::from_environment(&environment)?;
        let handover = HandoverConfig::from_environment(&environment, &mode)?;
        DrainConfig::from_environment(&environment, &mode, handover.as_ref())
    }

    #[test]
    fn who_may_have_a_successor_waits_for_it() {
        let window = |mode, variables: &[_]| drain(mode, variables).unwrap().accept_window.as_millis();
        let (off, hasty) = (("HANDOVER", "false"), ("CONNECTION_TERMINATION_DEADLINE", "3s"));
        assert_eq!(window("shared", &[]), 2_500);
        assert_eq!(window("shared", &[off, hasty]), 1_500);
        assert_eq!(window("dedicated", &[]), 0);
        assert_eq!(window("dedicated", &[("HANDOVER_UDS", "/run/h/h.sock")]), 2_500);
        for mode in ["shared", "dedicated"] {
            assert_eq!(window(mode, &[("DRAIN_ACCEPT_WINDOW", "1s")]), 1_000);
            assert_eq!(window(mode, &[("DRAIN_ACCEPT_WINDOW", "1h"), hasty]), 3_000);
            assert_eq!(window(mode, &[("DRAIN_ACCEPT_WINDOW", "0s")]), 0);
        }
    }

    #[test]
    fn the_deadline_fits_into_the_grace_period() {
        let deadline = |variables: &[_]| drain("shared", variables).map(|config| config.deadline);
        let seconds = |n| Ok(Duration::from_secs(n));
        assert_eq!(deadline(&[("TERMINATION_GRACE_PERIOD_SECONDS", "30")]), seconds(25));
        assert_eq!(deadline(&[("TERMINATION_GRACE_PERIOD_SECONDS", "0")]), seconds(1));
        let both = [("TERMINATION_GRACE_PERIOD_SECONDS", "30"), ("CONNECTION_TERMINATION_DEADLINE", "2m")];
        assert_eq!(deadline(&both), seconds(120));
        assert_eq!(
            deadline(&[("TERMINATION_GRACE_PERIOD_SECONDS", "30s")]).unwrap_err().to_string(),
            r#"TERMINATION_GRACE_PERIOD_SECONDS: "30s" is not a number of whole seconds, such as 30"#
        );
    }
}
