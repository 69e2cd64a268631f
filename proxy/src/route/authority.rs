//! The target of a tunnel, as it stands in `:authority`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

/// The target of a CONNECT request (RFC 9113, section 8.5): `ip:port` or `host:port`. The port is never 0; an address
/// is never IPv4-mapped; a host is in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Authority {
    /// An address; IPv6 is written in brackets.
    Address(SocketAddr),
    /// A name, meant as the hostname of a service.
    Host(Arc<str>, u16),
}

/// A text that is no target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no valid authority pseudo header: {0}")]
pub struct AuthorityError(String);

impl Authority {
    /// The port asked for.
    pub fn port(&self) -> u16 {
        match self {
            Self::Address(address) => address.port(),
            Self::Host(_, port) => *port,
        }
    }

    /// The address asked for, if it is one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Address(address) => Some(address.ip()),
            Self::Host(..) => None,
        }
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Host(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

impl FromStr for Authority {
    type Err = AuthorityError;

    fn from_str(text: &str) -> Result<Self, AuthorityError> {
        parse(text).ok_or_else(|| AuthorityError(text.chars().take(MAX_HOST).collect()))
    }
}

fn parse(text: &str) -> Option<Authority> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        return (address.port() != 0).then_some(Authority::Address(address));
    }
    let (host, port) = text.rsplit_once(':')?;
    let port: u16 = port.bytes().all(|b| b.is_ascii_digit()).then(|| port.parse().ok())??;
    (is_host(host) && port != 0).then(|| Authority::Host(host.to_ascii_lowercase().into(), port))
}

/// A registered name without percent-encoding (RFC 3986, section 3.2.2), as far as DNS and services use it.
fn is_host(text: &str) -> bool {
    (1..=MAX_HOST).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

/// Bytes of a domain name.
const MAX_HOST: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        for (text, printed, ip) in [
            ("10.0.0.1:80", "10.0.0.1:80", true),
            ("[fd00::1]:80", "[fd00::1]:80", true),
            ("[::ffff:10.0.0.1]:80", "10.0.0.1:80", true),
            ("Web.Shop.svc.cluster.local:8080", "web.shop.svc.cluster.local:8080", false),
            ("web:65535", "web:65535", false),
        ] {
            let authority: Authority = text.parse().unwrap();
            assert_eq!(authority.to_string(), printed);
            assert_eq!(authority.ip().is_some(), ip, "{text}");
        }
    }

    #[test]
    fn what_is_no_target() {
        for text in [
            "",
            ":80",
            "web",
            "web:",
            "web:0",
            "web:+80",
            "web:65536",
            "10.0.0.1:0",
            "10.0.0.1",
            "fd00::1:80",
            "[fd00::1]",
            "[web]:80",
            "user@web:80",
            "web:80:80",
            "web/path:80",
            "we b:80",
            "wéb:80",
            "https://web:80",
        ] {
            assert!(text.parse::<Authority>().is_err(), "{text:?} was taken for a target");
        }
        assert!(format!("{}:80", "a".repeat(254)).parse::<Authority>().is_err());
    }
}
