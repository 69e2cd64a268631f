//! The source of variables, and typed getters whose errors say what is wrong, where, and what to do.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::duration::parse_duration;
use super::proxy_config::ProxyConfig;

/// The variables (and the few facts of the machine) that configs are built from.
///
/// A value, so that a test can build one without touching its own process.
#[derive(Clone, Debug)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    directory: PathBuf,
    ipv6_available: bool,
    cpus: usize,
}

/// One variable (or file) that cannot be used. Displays as one line: `NAME: what is wrong; what to do`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct ConfigError {
    place: Cow<'static, str>,
    problem: String,
}

impl ConfigError {
    /// `place` names the variable or file; `problem` says what is wrong and what to do, without a full stop.
    pub fn new(place: impl Into<Cow<'static, str>>, problem: impl Into<String>) -> Self {
        Self { place: place.into(), problem: problem.into() }
    }
}

impl Environment {
    /// The variables of this process. Relative paths start at the working directory, as in stock.
    pub fn from_process() -> Self {
        let variables = std::env::vars_os()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
            .collect();
        let ipv6_switch = std::fs::read_to_string("/proc/sys/net/ipv6/conf/lo/disable_ipv6");
        Self {
            variables,
            directory: PathBuf::from("."),
            ipv6_available: ipv6_switch.is_ok_and(|value| value.trim() == "0"),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }

    /// A made-up environment, on a machine with IPv6 and four CPUs.
    pub fn from_variables<N: Into<String>, V: Into<String>>(
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        Self {
            variables: variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
            directory: PathBuf::from("."),
            ipv6_available: true,
            cpus: 4,
        }
    }

    /// The same with another directory for relative paths.
    pub fn in_directory(self, directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), ..self }
    }

    /// The same on a machine with that many CPUs.
    pub fn with_cpus(self, cpus: usize) -> Self {
        Self { cpus, ..self }
    }

    /// How many CPUs this process may run on.
    pub fn cpus(&self) -> usize {
        self.cpus
    }

    /// Whether to use IPv6: `IPV6_ENABLED` (default true), and only where the machine has it.
    pub fn ipv6(&self) -> Result<bool, ConfigError> {
        Ok(self.boolean("IPV6_ENABLED", true)? && self.ipv6_available)
    }

    /// The value of a variable, if it is set and not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.raw(name).filter(|value| !value.is_empty())
    }

    /// The value of a variable, even if it is empty.
    pub fn raw(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// The variables whose names begin so: the rest of each name, and the value, empty or not.
    pub fn with_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.variables.iter().filter_map(move |(name, value)| {
            let rest = name.strip_prefix(prefix).filter(|rest| !rest.is_empty())?;
            Some((rest, value.as_str()))
        })
    }

    /// `ISTIO_META_<key>`, or else the same key of ProxyConfig's `proxyMetadata`.
    pub fn meta(&self, key: &str) -> Result<Option<String>, ConfigError> {
        let name = format!("ISTIO_META_{key}");
        if let Some(value) = self.get(&name) {
            return Ok(Some(value.to_owned()));
        }
        let metadata = ProxyConfig::from_environment(self)?.proxy_metadata;
        Ok(metadata.get(&name).or_else(|| metadata.get(key)).filter(|value| !value.is_empty()).cloned())
    }

    /// A boolean; only `true` and `false` are values, as in stock.
    pub fn boolean(&self, name: &'static str, default: bool) -> Result<bool, ConfigError> {
        Ok(self.optional_boolean(name)?.unwrap_or(default))
    }

    /// A boolean whose absence means something of its own.
    pub fn optional_boolean(&self, name: &'static str) -> Result<Option<bool>, ConfigError> {
        self.parsed(name, "a boolean; use true or false")
    }

    /// A value with a text form. `expected` completes the sentence `NAME: "x" is not …`.
    pub fn parsed<T: FromStr>(&self, name: &'static str, expected: &str) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let parsed =
            value.parse().map_err(|_| ConfigError::new(name, format!("{value:?} is not {expected}")))?;
        Ok(Some(parsed))
    }

    /// A number within `[least, most]`.
    pub fn number<T>(&self, name: &'static str, least: T, most: T) -> Result<Option<T>, ConfigError>
    where
        T: FromStr + PartialOrd + Copy + std::fmt::Display,
    {
        let expected = format!("a number from {least} to {most}");
        match self.parsed::<T>(name, &expected)? {
            Some(value) if value < least || value > most => {
                Err(ConfigError::new(name, format!("{value} is not {expected}")))
            }
            value => Ok(value),
        }
    }

    /// A duration, in the form of [`parse_duration`].
    pub fn duration(&self, name: &'static str) -> Result<Option<Duration>, ConfigError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let duration = parse_duration(value)
            .map_err(|reason| ConfigError::new(name, format!("{value:?} is not a duration: {reason}")))?;
        Ok(Some(duration))
    }

    /// Where a path of the configuration points to.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.directory.join(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str, value: &str) -> Environment {
        Environment::from_variables([(name, value)])
    }

    #[test]
    fn booleans_are_strict() {
        assert_eq!(environment("B", "true").boolean("B", false), Ok(true));
        assert_eq!(environment("B", "").boolean("B", true), Ok(true));
        assert_eq!(
            environment("B", "1").boolean("B", false).unwrap_err().to_string(),
            r#"B: "1" is not a boolean; use true or false"#
        );
    }

    #[test]
    fn numbers_know_their_range() {
        assert_eq!(environment("N", "7").number("N", 1u16, 9), Ok(Some(7)));
        assert_eq!(
            environment("N", "10").number("N", 1u16, 9).unwrap_err().to_string(),
            "N: 10 is not a number from 1 to 9"
        );
        assert_eq!(
            environment("N", "ten").number("N", 1u16, 9).unwrap_err().to_string(),
            r#"N: "ten" is not a number from 1 to 9"#
        );
    }

    #[test]
    fn durations_say_why_not() {
        assert_eq!(environment("D", "1m30s").duration("D"), Ok(Some(Duration::from_secs(90))));
        assert_eq!(
            environment("D", "5 parsecs").duration("D").unwrap_err().to_string(),
            r#"D: "5 parsecs" is not a duration: "parsecs" is not a unit; use ms, s, m, h or d, as in 1m30s"#
        );
    }

    #[test]
    fn metadata_comes_from_both_places_and_the_variable_wins() {
        let config =
            r#"{"proxyMetadata": {"ISTIO_META_A": "config", "ISTIO_META_B": "config", "C": "config"}}"#;
        let environment =
            Environment::from_variables([("PROXY_CONFIG", config), ("ISTIO_META_A", "variable")]);
        assert_eq!(environment.meta("A"), Ok(Some("variable".into())));
        assert_eq!(environment.meta("B"), Ok(Some("config".into())));
        assert_eq!(environment.meta("C"), Ok(Some("config".into())));
        assert_eq!(environment.meta("D"), Ok(None));
    }
}
