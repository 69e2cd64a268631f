//! The command line of `mesh`.

use std::path::PathBuf;
use std::time::Duration;

use super::{ArgumentError, WANTED, WANTED_FILE, WANTED_SECONDS, number, seconds};
use crate::population::Population;

/// How large a mesh is measured, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshArguments {
    /// The mesh.
    pub population: Population,
    /// Changes of one workload each.
    pub updates: usize,
    /// Restarts of the control plane.
    pub restarts: usize,
    /// How long the proxy rests before its memory is read.
    pub rest: Duration,
    /// Data-plane threads of the proxy.
    pub workers: usize,
    /// Another proxy binary than the built-in one.
    pub proxy: Option<PathBuf>,
    /// Where the figures go as JSON, if anywhere.
    pub json: Option<PathBuf>,
}

/// What `--help` prints.
pub const MESH_HELP: &str = "\
Measures what a large mesh costs one node proxy: to learn it, to keep up with its changes, to find its control plane again.
usage: mesh [options]
  --workloads N    workloads of the mesh (default 100000)
  --services N     services (default one for 20 workloads)
  --policies N     policies (default one for 100 workloads)
  --updates N      changes of one workload each, one after the other (default 1000)
  --restarts N     how often the control plane is restarted (default 5)
  --rest S         seconds that the proxy rests before its memory is read (default 12)
  --workers N      data-plane threads of the proxy (default 2)
  --proxy FILE     use this ztunnel binary instead of the built-in one
  --json FILE      write the figures, every single value, to FILE
  --help           this text
README.md of this package says what the figures mean.
";

impl MeshArguments {
    /// Reads the arguments after the program's name; `None` if help is wanted.
    ///
    /// # Errors
    /// See [`ArgumentError`].
    pub fn parse(words: impl IntoIterator<Item = String>) -> Result<Option<Self>, ArgumentError> {
        let (mut workloads, mut services, mut policies) = (100_000, None, None);
        let mut arguments = Self {
            population: Population::of(workloads),
            updates: 1000,
            restarts: 5,
            rest: Duration::from_secs(12),
            workers: 2,
            proxy: None,
            json: None,
        };
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let mut value =
                |wanted| words.next().ok_or_else(|| ArgumentError::Value { option: word.clone(), wanted });
            match word.as_str() {
                "--workloads" => workloads = number(&word, &value(WANTED)?)?,
                "--services" => services = Some(number(&word, &value(WANTED)?)?),
                "--policies" => policies = Some(number(&word, &value(WANTED)?)?),
                "--updates" => arguments.updates = number(&word, &value(WANTED)?)?,
                "--restarts" => arguments.restarts = number(&word, &value(WANTED)?)?,
                "--rest" => arguments.rest = seconds(&word, &value(WANTED_SECONDS)?)?,
                "--workers" => arguments.workers = number(&word, &value(WANTED)?)?,
                "--proxy" => arguments.proxy = Some(value(WANTED_FILE)?.into()),
                "--json" => arguments.json = Some(value(WANTED_FILE)?.into()),
                "--help" | "-h" => return Ok(None),
                _ => return Err(ArgumentError::Unknown { word, program: "mesh" }),
            }
        }
        let usual = Population::of(workloads);
        arguments.population = Population {
            services: services.unwrap_or(usual.services),
            policies: policies.unwrap_or(usual.policies),
            ..usual
        };
        Ok(Some(arguments))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Option<MeshArguments>, ArgumentError> {
        MeshArguments::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn services_and_policies_go_with_the_workloads_unless_they_are_named() {
        let population = |line| parse(line).map(|arguments| arguments.map(|it| it.population));
        let of = |workloads, services, policies| Ok(Some(Population { workloads, services, policies }));
        assert_eq!(population(""), of(100_000, 5000, 1000));
        assert_eq!(population("--workloads 2000"), of(2000, 100, 20));
        assert_eq!(population("--services 7 --workloads 2000"), of(2000, 7, 20));
        assert_eq!(population("--policies 3 --workloads 10"), of(10, 1, 3));
    }

    #[test]
    fn every_option_is_understood() {
        let line = "--updates 3 --restarts 1 --rest 0.5 --workers 4 --proxy a --json c";
        let expected = MeshArguments {
            population: Population::of(100_000),
            updates: 3,
            restarts: 1,
            rest: Duration::from_millis(500),
            workers: 4,
            proxy: Some("a".into()),
            json: Some("c".into()),
        };
        assert_eq!(parse(line), Ok(Some(expected)));
        assert_eq!(parse("--updates 3 --help"), Ok(None));
        for option in MESH_HELP.split_whitespace().filter(|word| word.starts_with("--")) {
            assert!(!matches!(parse(option), Err(ArgumentError::Unknown { .. })), "{option}");
        }
        let error = parse("large").expect_err("no such word");
        assert_eq!(error.to_string(), "unknown word \"large\"; `mesh --help` lists them");
    }
}
