//! Who a workload is: a SPIFFE ID of the form that Istio uses.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The trust domain of a workload that names none.
pub const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";

/// A SPIFFE ID `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
///
/// Each part obeys the SPIFFE ID specification (section 2): the trust domain consists of lower-case letters,
/// digits, `.`, `-` and `_` and has at most 255 bytes; a path segment may have upper-case letters as well, and is
/// neither empty nor `.` nor `..`; the whole has at most 2048 bytes. Two identities are equal if and only if their
/// texts are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    trust_domain: Arc<str>,
    namespace: Arc<str>,
    service_account: Arc<str>,
}

/// Why a text or a triple is no identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not of the form `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
    #[error("{0:?} is not of the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>")]
    Form(String),
    /// The trust domain is empty, too long, or has a character that SPIFFE does not allow there.
    #[error("{0:?} is not a SPIFFE trust domain")]
    TrustDomain(String),
    /// The namespace is not a SPIFFE path segment.
    #[error("namespace {0:?} is not a SPIFFE path segment")]
    Namespace(String),
    /// The service account is not a SPIFFE path segment.
    #[error("service account {0:?} is not a SPIFFE path segment")]
    ServiceAccount(String),
    /// The whole exceeds 2048 bytes.
    #[error("a SPIFFE ID of {0} bytes exceeds {MAX_LENGTH}")]
    TooLong(usize),
}

impl Identity {
    /// Joins three parts, each checked against the SPIFFE rules.
    pub fn new(
        trust_domain: impl Into<Arc<str>>,
        namespace: impl Into<Arc<str>>,
        service_account: impl Into<Arc<str>>,
    ) -> Result<Self, IdentityError> {
        let identity = Self {
            trust_domain: trust_domain.into(),
            namespace: namespace.into(),
            service_account: service_account.into(),
        };
        identity.check()?;
        Ok(identity)
    }

    /// The trust domain, for example `cluster.local`.
    pub fn trust_domain(&self) -> &Arc<str> {
        &self.trust_domain
    }

    /// The Kubernetes namespace.
    pub fn namespace(&self) -> &Arc<str> {
        &self.namespace
    }

    /// The Kubernetes service account.
    pub fn service_account(&self) -> &Arc<str> {
        &self.service_account
    }

    fn check(&self) -> Result<(), IdentityError> {
        if !is_trust_domain(&self.trust_domain) {
            return Err(IdentityError::TrustDomain(self.trust_domain.to_string()));
        }
        if !is_segment(&self.namespace) {
            return Err(IdentityError::Namespace(self.namespace.to_string()));
        }
        if !is_segment(&self.service_account) {
            return Err(IdentityError::ServiceAccount(self.service_account.to_string()));
        }
        let length = "spiffe:///ns//sa/".len()
            + self.trust_domain.len()
            + self.namespace.len()
            + self.service_account.len();
        if length > MAX_LENGTH { Err(IdentityError::TooLong(length)) } else { Ok(()) }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let form = || IdentityError::Form(text.chars().take(MAX_LENGTH).collect());
        let mut parts = text.strip_prefix("spiffe://").ok_or_else(form)?.split('/');
        match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(trust_domain), Some("ns"), Some(namespace), Some("sa"), Some(service_account), None) => {
                Self::new(trust_domain, namespace, service_account)
            }
            _ => Err(form()),
        }
    }
}

impl Serialize for Identity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Identity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// SPIFFE ID specification, section 2.1.
fn is_trust_domain(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= MAX_TRUST_DOMAIN
        && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_'))
}

/// SPIFFE ID specification, section 2.2.
fn is_segment(text: &str) -> bool {
    !matches!(text, "" | "." | "..")
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

/// Bytes of a whole SPIFFE ID (specification, section 2.3).
const MAX_LENGTH: usize = 2048;
const MAX_TRUST_DOMAIN: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_and_parse_are_inverse() {
        let text = "spiffe://cluster.local/ns/shop/sa/web-1.A_b";
        let identity: Identity = text.parse().unwrap();
        assert_eq!(identity.to_string(), text);
        assert_eq!(identity, Identity::new("cluster.local", "shop", "web-1.A_b").unwrap());
        assert_eq!(serde_json::from_str::<Identity>(&format!("{text:?}")).unwrap(), identity);
        assert_eq!(serde_json::to_string(&identity).unwrap(), format!("{text:?}"));
    }

    #[test]
    fn refused_texts() {
        for text in [
            "",
            "cluster.local/ns/a/sa/b",
            "SPIFFE://td/ns/a/sa/b",
            "https://td/ns/a/sa/b",
            "spiffe://td/ns/a/sa/b/",
            "spiffe://td/ns/a/sa/b/c",
            "spiffe://td/ns/a/sa",
            "spiffe://td/namespace/a/sa/b",
            "spiffe://td/ns/a/account/b",
            "spiffe:///ns/a/sa/b",
            "spiffe://TD/ns/a/sa/b",
            "spiffe://td:443/ns/a/sa/b",
            "spiffe://user@td/ns/a/sa/b",
            "spiffe://td/ns//sa/b",
            "spiffe://td/ns/../sa/b",
            "spiffe://td/ns/a/sa/.",
            "spiffe://td/ns/a/sa/b?x=1",
            "spiffe://td/ns/a/sa/b#x",
            "spiffe://td/ns/a%41/sa/b",
            "spiffe://td/ns/ä/sa/b",
        ] {
            assert!(text.parse::<Identity>().is_err(), "{text} was taken for an identity");
        }
        assert!(Identity::new("t".repeat(256), "a", "b").is_err());
        assert_eq!(Identity::new("t", "a".repeat(2040), "b"), Err(IdentityError::TooLong(2059)));
    }
}
