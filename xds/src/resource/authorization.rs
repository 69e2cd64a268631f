//! An authorization policy: who may open a connection to a workload.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use ipnet::IpNet;
use serde::de::value::{EnumAccessDeserializer, MapAccessDeserializer};
use serde::de::{EnumAccess, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{ResourceError, is_default, required};

/// A checked policy. Reads like its [`AuthorizationSpec`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "AuthorizationSpec")]
pub struct Authorization {
    spec: AuthorizationSpec,
    key: Arc<str>,
}

impl Authorization {
    /// Checks and seals.
    pub fn new(spec: AuthorizationSpec) -> Result<Self, ResourceError> {
        required("name", &spec.name)?;
        required("namespace", &spec.namespace)?;
        let key = format!("{}/{}", spec.namespace, spec.name).into();
        Ok(Self { spec, key })
    }

    /// The key `namespace/name`, by which workloads refer to the policy.
    pub fn key(&self) -> &Arc<str> {
        &self.key
    }
}

impl Deref for Authorization {
    type Target = AuthorizationSpec;

    fn deref(&self) -> &AuthorizationSpec {
        &self.spec
    }
}

impl TryFrom<AuthorizationSpec> for Authorization {
    type Error = ResourceError;

    fn try_from(spec: AuthorizationSpec) -> Result<Self, ResourceError> {
        Self::new(spec)
    }
}

impl Serialize for Authorization {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.spec.serialize(serializer)
    }
}

/// The fields of a policy, unchecked (`istio.security.Authorization`).
///
/// A policy matches if any of its rules does; a rule if all its clauses do; a clause if any of its matches does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorizationSpec {
    /// Name.
    pub name: Arc<str>,
    /// Kubernetes namespace.
    pub namespace: Arc<str>,
    /// Which workloads the policy applies to.
    pub scope: Scope,
    /// What happens when it matches.
    pub action: Action,
    /// The rules; without any the policy never matches.
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// Report only, enforce nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// Which workloads a policy applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// All.
    Global,
    /// Those in the policy's namespace.
    Namespace,
    /// Those that name the policy.
    WorkloadSelector,
}

/// What happens when a policy matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Action {
    /// The connection is allowed, unless a policy denies it.
    Allow,
    /// The connection is denied.
    Deny,
}

/// Clauses that must all match. Without any the rule matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rule {
    /// The clauses.
    pub clauses: Vec<Clause>,
}

/// Matches of which one must match. Without any the clause matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Clause {
    /// The matches.
    pub matches: Vec<Match>,
}

/// Properties of a connection that must all be as said.
///
/// A list is satisfied if it is empty or any of its values fits; a `not_` list if none of its values fits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Match {
    /// Namespace of the source identity.
    #[serde(skip_serializing_if = "is_default")]
    pub namespaces: Vec<StringMatch>,
    /// None of these.
    #[serde(skip_serializing_if = "is_default")]
    pub not_namespaces: Vec<StringMatch>,
    /// Service account of the source identity, in any trust domain.
    #[serde(skip_serializing_if = "is_default")]
    pub service_accounts: Vec<ServiceAccountMatch>,
    /// None of these.
    #[serde(skip_serializing_if = "is_default")]
    pub not_service_accounts: Vec<ServiceAccountMatch>,
    /// Source identity without `spiffe://`.
    #[serde(skip_serializing_if = "is_default")]
    pub principals: Vec<StringMatch>,
    /// None of these. `Presence` here matches whoever has no identity: this is how strict mutual TLS is said.
    #[serde(skip_serializing_if = "is_default")]
    pub not_principals: Vec<StringMatch>,
    /// Source address.
    #[serde(skip_serializing_if = "is_default")]
    pub source_ips: Vec<IpNet>,
    /// None of these.
    #[serde(skip_serializing_if = "is_default")]
    pub not_source_ips: Vec<IpNet>,
    /// Destination address.
    #[serde(skip_serializing_if = "is_default")]
    pub destination_ips: Vec<IpNet>,
    /// None of these.
    #[serde(skip_serializing_if = "is_default")]
    pub not_destination_ips: Vec<IpNet>,
    /// Destination port.
    #[serde(skip_serializing_if = "is_default")]
    pub destination_ports: Vec<u16>,
    /// None of these.
    #[serde(skip_serializing_if = "is_default")]
    pub not_destination_ports: Vec<u16>,
    /// What the control plane said that could not be read, in words. A local file has none: there it is an error.
    #[serde(skip_deserializing, skip_serializing_if = "is_default")]
    pub unreadable: Vec<Arc<str>>,
}

impl Match {
    /// Whether the match cannot be judged here: a part of it could not be read, or it says nothing, which is what the
    /// control plane sends for the part of a rule that only a layer 7 proxy can judge.
    ///
    /// To take it for true is safe in a DENY, to take it for false is safe in an ALLOW.
    pub fn is_opaque(&self) -> bool {
        is_default(self) || !self.unreadable.is_empty()
    }
}

/// A condition on a text; written `Exact: text`, or as a YAML tag `!Exact text`, and `Presence: []`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum StringMatch {
    /// This text.
    Exact(Arc<str>),
    /// A text that begins so.
    Prefix(Arc<str>),
    /// A text that ends so.
    Suffix(Arc<str>),
    /// Any text that is not empty.
    Presence(),
}

impl StringMatch {
    /// Whether `text` fits.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => *text == **exact,
            Self::Prefix(prefix) => text.starts_with(&**prefix),
            Self::Suffix(suffix) => text.ends_with(&**suffix),
            Self::Presence() => !text.is_empty(),
        }
    }
}

impl<'de> Deserialize<'de> for StringMatch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// The same variants; the derived code takes either of the two ways in which YAML writes an enum.
        #[derive(Deserialize)]
        #[serde(rename = "StringMatch")]
        enum Form {
            Exact(Arc<str>),
            Prefix(Arc<str>),
            Suffix(Arc<str>),
            Presence(),
        }

        struct EitherWay;

        impl<'de> Visitor<'de> for EitherWay {
            type Value = Form;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("one of Exact, Prefix, Suffix, Presence")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Form, A::Error> {
                Form::deserialize(MapAccessDeserializer::new(map))
            }

            fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<Form, A::Error> {
                Form::deserialize(EnumAccessDeserializer::new(tagged))
            }
        }

        Ok(match deserializer.deserialize_any(EitherWay)? {
            Form::Exact(text) => Self::Exact(text),
            Form::Prefix(text) => Self::Prefix(text),
            Form::Suffix(text) => Self::Suffix(text),
            Form::Presence() => Self::Presence(),
        })
    }
}

/// A service account in any trust domain.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceAccountMatch {
    /// Kubernetes namespace.
    pub namespace: Arc<str>,
    /// Kubernetes service account.
    pub service_account: Arc<str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_write_a_string_match() {
        for (yaml, expected) in [
            ("Exact: a", StringMatch::Exact("a".into())),
            ("!Exact a", StringMatch::Exact("a".into())),
            ("Prefix: a", StringMatch::Prefix("a".into())),
            ("!Suffix a", StringMatch::Suffix("a".into())),
            ("Presence: []", StringMatch::Presence()),
            ("!Presence []", StringMatch::Presence()),
        ] {
            assert_eq!(serde_norway::from_str::<StringMatch>(yaml).unwrap(), expected, "{yaml}");
        }
        for yaml in ["a", "Regex: a", "!Regex a", "{Exact: a, Prefix: b}", "Exact: [a]"] {
            assert!(serde_norway::from_str::<StringMatch>(yaml).is_err(), "{yaml}");
        }
    }

    #[test]
    fn the_dump_has_the_shape_that_istioctl_reads() {
        let policy: Authorization = serde_norway::from_str(
            "{name: p, namespace: shop, scope: WorkloadSelector, action: Deny,
              rules: [[[{notPrincipals: [Presence: []], destinationPorts: [80]}]]]}",
        )
        .unwrap();
        assert_eq!(&**policy.key(), "shop/p");
        let dump = serde_json::to_value(&policy).unwrap();
        assert_eq!(dump["scope"], "WorkloadSelector");
        assert_eq!(dump["dryRun"], false);
        assert_eq!(
            dump["rules"],
            serde_json::json!([[[{"notPrincipals": [{"Presence": []}], "destinationPorts": [80]}]]])
        );
    }

    #[test]
    fn a_range_that_does_not_parse_is_refused() {
        for source in ["10.0.0.0/33", "10.0.0", "fd00::/129", "banana"] {
            let yaml = format!(
                "{{name: p, namespace: shop, scope: Global, action: Deny, rules: [[[{{sourceIps: ['{source}']}}]]]}}"
            );
            assert!(serde_norway::from_str::<Authorization>(&yaml).is_err(), "{source}");
        }
    }
}
