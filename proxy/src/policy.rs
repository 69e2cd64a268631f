//! Who may open a connection to a workload.
//!
//! The policies of the workload's namespace, the global ones and those that the workload names are judged together:
//! one DENY that matches denies; else, if there is any ALLOW, one must match. What the proxy cannot judge never
//! widens access: an empty match (a condition that only a layer 7 proxy understands) matches in a DENY and does not in
//! an ALLOW; a policy that the workload names but nobody knows denies, and so does one that could not be read.

mod matching;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use xds::resource::Action;
use xds::store::AppliedPolicy;
use xds::{Identity, Snapshot, Workload};

use matching::Subject;

/// A connection to be judged.
#[derive(Clone, Copy, Debug)]
pub struct Peer<'a> {
    /// Where it comes from.
    pub source: SocketAddr,
    /// Who opened it, proven by its certificate; none in plain text.
    pub identity: Option<&'a Identity>,
    /// The application it leads to.
    pub destination: SocketAddr,
}

/// What the enforced policies say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The connection may be opened.
    Allow,
    /// This policy (`namespace/name`) denies it.
    DeniedBy(Arc<str>),
    /// There are policies that allow, but none allows this.
    NotAllowed,
    /// The workload names a policy (`namespace/name`) that is not known: what it would deny cannot be said.
    UnknownPolicy(Arc<str>),
    /// A policy (`namespace/name`) that may be meant for the workload was refused: what it would deny cannot be said.
    RefusedPolicy(Arc<str>),
}

impl Verdict {
    /// Whether the connection may be opened.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allow => f.write_str("allowed"),
            Self::DeniedBy(policy) => write!(f, "explicitly denied by: {policy}"),
            Self::NotAllowed => f.write_str("allow policies exist, but none allowed"),
            Self::UnknownPolicy(policy) => write!(f, "not allowed: policy {policy} is not known"),
            Self::RefusedPolicy(policy) => write!(f, "not allowed: policy {policy} cannot be read"),
        }
    }
}

/// A verdict with what the dry-run policies would add, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What counts.
    pub verdict: Verdict,
    /// Empty without dry-run policies.
    pub dry_run: Vec<DryRun>,
}

/// What a dry-run policy would do if it were enforced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DryRun {
    /// This policy would deny.
    Deny(Arc<str>),
    /// This policy would allow.
    Allow(Arc<str>),
    /// All policies that allow are dry runs, and none matches: enforced, they would deny.
    NoneAllows,
}

impl fmt::Display for DryRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deny(policy) => write!(f, "dry-run: deny policy match: {policy}"),
            Self::Allow(policy) => write!(f, "dry-run: allow policy match: {policy}"),
            Self::NoneAllows => f.write_str("dry-run: no allow policies match"),
        }
    }
}

/// Judges a connection to `destination`.
pub fn authorize(snapshot: &Snapshot, destination: &Workload, peer: &Peer<'_>) -> Verdict {
    decide(snapshot, destination, peer).verdict
}

/// Judges a connection to `destination`, and says what the dry-run policies would add.
pub fn decide(snapshot: &Snapshot, destination: &Workload, peer: &Peer<'_>) -> Decision {
    let subject = Subject::new(peer);
    let mut findings = Findings::default();
    for applied in snapshot.policies_for(destination) {
        match applied {
            AppliedPolicy::Unknown(key) => {
                findings.unknown.get_or_insert(key);
            }
            AppliedPolicy::Refused(policy) => {
                findings.refused.get_or_insert(&policy.key);
            }
            AppliedPolicy::Known(policy) => {
                let matches = subject.matches(policy);
                let (key, dry_run) = (policy.key(), policy.dry_run);
                match policy.action {
                    Action::Deny if matches && dry_run => findings.dry_run.push(DryRun::Deny(key.clone())),
                    Action::Deny if matches => {
                        findings.denied_by.get_or_insert(key);
                    }
                    Action::Deny => {}
                    Action::Allow if dry_run => {
                        findings.dry_allows = true;
                        if matches {
                            findings.dry_run.push(DryRun::Allow(key.clone()));
                        }
                    }
                    Action::Allow => {
                        findings.allows = true;
                        findings.allowed |= matches;
                    }
                }
            }
        }
    }
    findings.decide()
}

/// What all policies together say.
#[derive(Default)]
struct Findings<'a> {
    denied_by: Option<&'a Arc<str>>,
    unknown: Option<&'a Arc<str>>,
    refused: Option<&'a Arc<str>>,
    /// There is an enforced ALLOW.
    allows: bool,
    /// One of them matches.
    allowed: bool,
    /// There is a dry-run ALLOW.
    dry_allows: bool,
    dry_run: Vec<DryRun>,
}

impl Findings<'_> {
    fn decide(mut self) -> Decision {
        let verdict = if let Some(policy) = self.denied_by {
            Verdict::DeniedBy(policy.clone())
        } else if let Some(policy) = self.refused {
            Verdict::RefusedPolicy(policy.clone())
        } else if let Some(policy) = self.unknown {
            Verdict::UnknownPolicy(policy.clone())
        } else if self.allows && !self.allowed {
            Verdict::NotAllowed
        } else {
            Verdict::Allow
        };
        let dry_run_allows = self.dry_run.iter().any(|result| matches!(result, DryRun::Allow(_)));
        if self.dry_allows && !self.allows && !dry_run_allows {
            self.dry_run.push(DryRun::NoneAllows);
        }
        Decision { verdict, dry_run: self.dry_run }
    }
}

#[cfg(test)]
mod tests;
