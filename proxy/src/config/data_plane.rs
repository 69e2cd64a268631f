//! What the workers need to know: where to listen, how sockets are set, the pool, HTTP/2.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde::Serialize;

use super::{ConfigError, Environment, ProxyMode};

/// Outbound capture.
pub const OUTBOUND_PORT: u16 = 15001;
/// Inbound plaintext capture.
pub const PASSTHROUGH_PORT: u16 = 15006;
/// Inbound HBONE.
pub const HBONE_PORT: u16 = 15008;
/// SOCKS5, on loopback.
pub const SOCKS5_PORT: u16 = 15080;

/// Where the data plane listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerConfig {
    /// Captured outbound connections.
    pub outbound: SocketAddr,
    /// Captured inbound plaintext connections.
    pub passthrough: SocketAddr,
    /// HBONE tunnels from peers.
    pub hbone: SocketAddr,
    /// SOCKS5, if `UNSTABLE_ENABLE_SOCKS5`.
    pub socks5: Option<SocketAddr>,
    /// `BIND_ADDRESS` (an extension): the source address of tunnels too.
    pub bind_address: Option<IpAddr>,
    /// Whether connections to local applications keep the address of their origin.
    pub transparent: Transparent,
    /// Whether another proxy may listen beside us (`SO_REUSEPORT`); never in dedicated mode, where two on one port are a
    /// mistake.
    pub reuse_port: bool,
}

/// `ENABLE_ORIG_SRC`: what becomes of `IP_TRANSPARENT` on the listeners, and so of the original source address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Transparent {
    /// Unset: keep the source if the kernel lets us.
    IfPossible,
    /// `true`: fail to start if the kernel does not.
    Required,
    /// `false`: never.
    Never,
}

impl ListenerConfig {
    /// The ports on which the data plane listens.
    pub fn ports(&self) -> Vec<u16> {
        let always = [self.outbound, self.passthrough, self.hbone];
        always.into_iter().chain(self.socks5).map(|address| address.port()).collect()
    }

    /// From `BIND_ADDRESS`, `IPV6_ENABLED`, `UNSTABLE_ENABLE_SOCKS5` and `ENABLE_ORIG_SRC`.
    pub fn from_environment(environment: &Environment, mode: &ProxyMode) -> Result<Self, ConfigError> {
        let bind_address = bind_address(environment)?;
        let wildcard = wildcard(environment)?;
        let socks5 = environment.boolean("UNSTABLE_ENABLE_SOCKS5", false)?;
        let socks5_address = bind_address.unwrap_or(Ipv4Addr::LOCALHOST.into());
        let transparent = match environment.optional_boolean("ENABLE_ORIG_SRC")? {
            None => Transparent::IfPossible,
            Some(true) => Transparent::Required,
            Some(false) => Transparent::Never,
        };
        Ok(Self {
            outbound: SocketAddr::new(wildcard, OUTBOUND_PORT),
            passthrough: SocketAddr::new(wildcard, PASSTHROUGH_PORT),
            hbone: SocketAddr::new(wildcard, HBONE_PORT),
            socks5: socks5.then_some(SocketAddr::new(socks5_address, SOCKS5_PORT)),
            bind_address,
            transparent,
            reuse_port: matches!(mode, ProxyMode::Shared(shared) if shared.reuse_port),
        })
    }
}

/// `BIND_ADDRESS` (an extension): the one address of all listeners, so that several proxies fit on a machine.
pub(super) fn bind_address(environment: &Environment) -> Result<Option<IpAddr>, ConfigError> {
    environment.parsed("BIND_ADDRESS", "an IP address; use one such as 127.0.0.2, or leave it unset")
}

/// The address of listeners that everyone may reach: `BIND_ADDRESS`, else the wildcard. The IPv6 one takes IPv4 too.
pub(super) fn wildcard(environment: &Environment) -> Result<IpAddr, ConfigError> {
    if let Some(address) = bind_address(environment)? {
        return Ok(address);
    }
    Ok(if environment.ipv6()? { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() })
}

/// Options of TCP sockets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SocketConfig {
    /// TCP keepalive, unless switched off.
    pub keepalive: Option<Keepalive>,
    /// `TCP_USER_TIMEOUT`: as long as keepalive would take to give up.
    pub user_timeout: Option<Duration>,
    /// `SO_MARK`, so that captured traffic and our own can be told apart.
    pub mark: Option<u32>,
}

/// When a silent TCP peer counts as gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Keepalive {
    /// Silence before the first probe.
    pub time: Duration,
    /// Between probes.
    pub interval: Duration,
    /// Unanswered probes before giving up.
    pub retries: u32,
}

impl SocketConfig {
    /// From `KEEPALIVE_…`, `USER_TIMEOUT_ENABLED` and `PACKET_MARK`.
    pub fn from_environment(environment: &Environment, mode: &ProxyMode) -> Result<Self, ConfigError> {
        let keepalive = Keepalive {
            time: whole_seconds(environment, "KEEPALIVE_TIME", Duration::from_secs(180))?,
            interval: whole_seconds(environment, "KEEPALIVE_INTERVAL", Duration::from_secs(180))?,
            retries: environment.number("KEEPALIVE_RETRIES", 1, 127)?.unwrap_or(9),
        };
        let gives_up_after =
            keepalive.time.saturating_add(keepalive.interval.saturating_mul(keepalive.retries));
        let with_user_timeout = environment.boolean("USER_TIMEOUT_ENABLED", false)?;
        let with_keepalive = environment.boolean("KEEPALIVE_ENABLED", true)?;
        let default_mark = match mode {
            ProxyMode::Shared(_) => Some(1337),
            ProxyMode::Dedicated(_) => None,
        };
        Ok(Self {
            keepalive: with_keepalive.then_some(keepalive),
            user_timeout: with_user_timeout.then_some(gives_up_after),
            mark: environment
                .parsed("PACKET_MARK", "a mark; use a number up to 4294967295")?
                .or(default_mark),
        })
    }
}

/// The kernel takes keepalive times in whole seconds, from 1 to 32767.
fn whole_seconds(
    environment: &Environment,
    name: &'static str,
    default: Duration,
) -> Result<Duration, ConfigError> {
    let duration = environment.duration(name)?.unwrap_or(default);
    if (1..=32767).contains(&duration.as_secs()) {
        Ok(duration)
    } else {
        Err(ConfigError::new(name, format!("{duration:?} is out of range; use 1s to 32767s")))
    }
}

/// Tunnels to peers that are kept for the next connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolConfig {
    /// Streams on one tunnel before another is opened, at least 1.
    pub max_streams_per_connection: u16,
    /// How long an unused tunnel stays.
    pub unused_release_timeout: Duration,
}

impl PoolConfig {
    /// From `POOL_MAX_STREAMS_PER_CONNECTION` and `POOL_UNUSED_RELEASE_TIMEOUT`.
    pub fn from_environment(environment: &Environment) -> Result<Self, ConfigError> {
        Ok(Self {
            max_streams_per_connection: environment
                .number("POOL_MAX_STREAMS_PER_CONNECTION", 1, u16::MAX)?
                .unwrap_or(100),
            unused_release_timeout: environment
                .duration("POOL_UNUSED_RELEASE_TIMEOUT")?
                .unwrap_or(Duration::from_secs(300)),
        })
    }
}

/// HTTP/2 settings of both roles, in bytes (RFC 9113 section 6.5.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Http2Config {
    /// The most that a stream's window grows to.
    pub stream_window_size: u32,
    /// The most that a tunnel's window grows to.
    pub connection_window_size: u32,
    /// The largest frame that we take.
    pub frame_size: u32,
}

impl Http2Config {
    /// From `HTTP2_STREAM_WINDOW_SIZE`, `HTTP2_CONNECTION_WINDOW_SIZE` and `HTTP2_FRAME_SIZE`.
    pub fn from_environment(environment: &Environment) -> Result<Self, ConfigError> {
        const LEAST_WINDOW: u32 = 65_535;
        const LARGEST_WINDOW: u32 = (1 << 31) - 1;
        let window = |name, default: u32| {
            Ok(environment.number(name, LEAST_WINDOW, LARGEST_WINDOW)?.unwrap_or(default))
        };
        Ok(Self {
            stream_window_size: window("HTTP2_STREAM_WINDOW_SIZE", 4 << 20)?,
            connection_window_size: window("HTTP2_CONNECTION_WINDOW_SIZE", 16 << 20)?,
            frame_size: environment.number("HTTP2_FRAME_SIZE", 1 << 14, (1 << 24) - 1)?.unwrap_or(1 << 20),
        })
    }
}

/// How tunnels from peers are answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InboundConfig {
    /// `ENABLE_RESPONSE_BAGGAGE`: read the request's baggage and send ours in the reply.
    pub response_baggage: bool,
    /// `AUTHZ_POLICY_INFO_LOGGING`: policy decisions are logged at info instead of debug.
    pub policy_decisions_at_info: bool,
}

impl InboundConfig {
    /// From `ENABLE_RESPONSE_BAGGAGE` and `AUTHZ_POLICY_INFO_LOGGING`.
    pub fn from_environment(environment: &Environment) -> Result<Self, ConfigError> {
        Ok(Self {
            response_baggage: environment.boolean("ENABLE_RESPONSE_BAGGAGE", true)?,
            policy_decisions_at_info: environment.boolean("AUTHZ_POLICY_INFO_LOGGING", false)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment::from_variables(variables.iter().copied())
    }

    fn shared() -> ProxyMode {
        ProxyMode::from_environment(&environment(&[])).unwrap()
    }

    fn dedicated() -> ProxyMode {
        let variables = [("PROXY_MODE", "dedicated"), ("PROXY_WORKLOAD_INFO", "a/b/c")];
        ProxyMode::from_environment(&environment(&variables)).unwrap()
    }

    #[test]
    fn defaults_are_those_of_stock() {
        let nothing = environment(&[]);
        let listeners = ListenerConfig::from_environment(&nothing, &dedicated()).unwrap();
        assert!(!listeners.reuse_port);
        assert!(ListenerConfig::from_environment(&nothing, &shared()).unwrap().reuse_port);
        assert_eq!(listeners.outbound, "[::]:15001".parse().unwrap());
        assert_eq!(listeners.passthrough, "[::]:15006".parse().unwrap());
        assert_eq!(listeners.hbone, "[::]:15008".parse().unwrap());
        assert_eq!((listeners.socks5, listeners.bind_address), (None, None));
        assert_eq!(listeners.transparent, Transparent::IfPossible);

        let sockets = SocketConfig::from_environment(&nothing, &dedicated()).unwrap();
        let (time, interval) = (Duration::from_secs(180), Duration::from_secs(180));
        assert_eq!(sockets.keepalive, Some(Keepalive { time, interval, retries: 9 }));
        assert_eq!((sockets.user_timeout, sockets.mark), (None, None));
        assert_eq!(SocketConfig::from_environment(&nothing, &shared()).unwrap().mark, Some(1337));

        let pool = PoolConfig::from_environment(&nothing).unwrap();
        assert_eq!((pool.max_streams_per_connection, pool.unused_release_timeout.as_secs()), (100, 300));
        let http2 = Http2Config::from_environment(&nothing).unwrap();
        assert_eq!(http2.stream_window_size, 4 * 1024 * 1024);
        assert_eq!(http2.connection_window_size, 16 * 1024 * 1024);
        assert_eq!(http2.frame_size, 1024 * 1024);
        let inbound = InboundConfig::from_environment(&nothing).unwrap();
        assert_eq!((inbound.response_baggage, inbound.policy_decisions_at_info), (true, false));
    }

    #[test]
    fn one_address_for_all_listeners() {
        let variables = [("BIND_ADDRESS", "127.0.0.9"), ("UNSTABLE_ENABLE_SOCKS5", "true")];
        let listeners = ListenerConfig::from_environment(&environment(&variables), &dedicated()).unwrap();
        assert_eq!(listeners.outbound, "127.0.0.9:15001".parse().unwrap());
        assert_eq!(listeners.socks5, Some("127.0.0.9:15080".parse().unwrap()));
        assert_eq!(listeners.bind_address, Some("127.0.0.9".parse().unwrap()));
        let error = {
            let here = environment(&[("BIND_ADDRESS", "here")]);
            ListenerConfig::from_environment(&here, &dedicated()).unwrap_err()
        };
        assert_eq!(
            error.to_string(),
            r#"BIND_ADDRESS: "here" is not an IP address; use one such as 127.0.0.2, or leave it unset"#
        );
    }

    #[test]
    fn without_ipv6_the_wildcard_is_ipv4() {
        let variables =
            [("IPV6_ENABLED", "false"), ("UNSTABLE_ENABLE_SOCKS5", "true"), ("ENABLE_ORIG_SRC", "false")];
        let listeners = ListenerConfig::from_environment(&environment(&variables), &dedicated()).unwrap();
        assert_eq!(listeners.hbone, "0.0.0.0:15008".parse().unwrap());
        assert_eq!(listeners.socks5, Some("127.0.0.1:15080".parse().unwrap()));
        assert_eq!(listeners.transparent, Transparent::Never);
    }

    #[test]
    fn user_timeout_is_what_keepalive_would_take() {
        let variables = [
            ("KEEPALIVE_TIME", "10s"),
            ("KEEPALIVE_INTERVAL", "5s"),
            ("KEEPALIVE_RETRIES", "3"),
            ("KEEPALIVE_ENABLED", "false"),
            ("USER_TIMEOUT_ENABLED", "true"),
            ("PACKET_MARK", "7"),
        ];
        let sockets = SocketConfig::from_environment(&environment(&variables), &dedicated()).unwrap();
        assert_eq!(sockets.keepalive, None);
        assert_eq!(sockets.user_timeout, Some(Duration::from_secs(25)));
        assert_eq!(sockets.mark, Some(7));
    }

    #[test]
    fn values_that_the_kernel_or_the_rfc_refuse_are_refused_here() {
        for (name, value) in
            [("KEEPALIVE_TIME", "0"), ("KEEPALIVE_INTERVAL", "10h"), ("KEEPALIVE_RETRIES", "0")]
        {
            let environment = environment(&[(name, value)]);
            let error = SocketConfig::from_environment(&environment, &dedicated()).unwrap_err();
            assert!(error.to_string().starts_with(name), "{error}");
        }
        for (name, value) in [("HTTP2_FRAME_SIZE", "16383"), ("HTTP2_STREAM_WINDOW_SIZE", "2147483648")] {
            let error = Http2Config::from_environment(&environment(&[(name, value)])).unwrap_err();
            assert!(error.to_string().starts_with(name), "{error}");
        }
        assert!(
            PoolConfig::from_environment(&environment(&[("POOL_MAX_STREAMS_PER_CONNECTION", "0")])).is_err()
        );
    }
}
