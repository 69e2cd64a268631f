//! The command lines: here that of `load`, and what all have in common.

use std::path::PathBuf;
use std::time::Duration;

mod mesh;
mod pods;
mod replace;

pub use mesh::{MESH_HELP, MeshArguments};
pub use pods::{PODS_HELP, PodsArguments, PodsItem};
pub use replace::{REPLACE_HELP, ReplaceArguments};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item {
    /// Bytes as fast as they go.
    Bulk,
    /// Small requests.
    Latency,
    /// New connections.
    Connect,
    /// Memory of idle connections.
    Idle,
    /// Tunnels that move.
    Moves,
}

impl Item {
    /// All of them, in the order of `all`.
    pub const ALL: [Self; 5] = [Self::Bulk, Self::Latency, Self::Connect, Self::Idle, Self::Moves];

    fn parse(word: &str) -> Option<Vec<Self>> {
        Some(match word {
            "bulk" => vec![Self::Bulk],
            "latency" => vec![Self::Latency],
            "connect" => vec![Self::Connect],
            "idle" => vec![Self::Idle],
            "moves" => vec![Self::Moves],
            "all" => Self::ALL.to_vec(),
            _ => return None,
        })
    }
}

/// How to measure it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arguments {
    /// What is measured.
    pub items: Vec<Item>,
    /// How often.
    pub rounds: usize,
    /// How long each time.
    pub duration: Duration,
    /// Data-plane threads of each node.
    pub workers: usize,
    /// Idle connections.
    pub idle: usize,
    /// Another proxy binary than the built-in one.
    pub proxy: Option<PathBuf>,
    /// A second one, measured in the same rounds.
    pub against: Option<PathBuf>,
    /// Where the figures go as JSON, if anywhere.
    pub json: Option<PathBuf>,
}

/// A command line that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentError {
    /// There is no such word.
    #[error("unknown word {word:?}; `{program} --help` lists them")]
    Unknown {
        /// The word.
        word: String,
        /// Whose command line it is.
        program: &'static str,
    },
    /// An option stands without its value, or the value does not fit.
    #[error("{option} needs {wanted}")]
    Value {
        /// The option.
        option: String,
        /// What it needs.
        wanted: &'static str,
    },
}

/// What `--help` prints.
pub const HELP: &str = "\
Measures two node proxies on loopback addresses of this machine, a direct connection beside them.
usage: load [bulk|latency|connect|idle|moves|all]... [options]     (all, if none is named)
  --rounds N       how often each figure is taken (default 5)
  --seconds S      how long each time (default 2)
  --workers N      data-plane threads of each node (default 2)
  --connections N  idle connections (default 5000)
  --proxy FILE     use this ztunnel binary instead of the built-in one
  --against FILE   measure a second ztunnel binary in the same rounds, and the ratio to the first
  --json FILE      write the figures, every single value, to FILE
  --help           this text
README.md of this package says what the figures mean and when two of them may be compared.
";

impl Arguments {
    /// Reads the arguments after the program's name; `None` if help is wanted.
    ///
    /// # Errors
    /// See [`ArgumentError`].
    pub fn parse(words: impl IntoIterator<Item = String>) -> Result<Option<Self>, ArgumentError> {
        let mut arguments = Self {
            items: Vec::new(),
            rounds: 5,
            duration: Duration::from_secs(2),
            workers: 2,
            idle: 5000,
            proxy: None,
            against: None,
            json: None,
        };
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            if let Some(items) = Item::parse(&word) {
                arguments.items.extend(items);
                continue;
            }
            let mut value =
                |wanted| words.next().ok_or_else(|| ArgumentError::Value { option: word.clone(), wanted });
            match word.as_str() {
                "--rounds" => arguments.rounds = number(&word, &value(WANTED)?)?,
                "--workers" => arguments.workers = number(&word, &value(WANTED)?)?,
                "--connections" => arguments.idle = number(&word, &value(WANTED)?)?,
                "--seconds" => arguments.duration = seconds(&word, &value(WANTED_SECONDS)?)?,
                "--proxy" => arguments.proxy = Some(value(WANTED_FILE)?.into()),
                "--against" => arguments.against = Some(value(WANTED_FILE)?.into()),
                "--json" => arguments.json = Some(value(WANTED_FILE)?.into()),
                "--help" | "-h" => return Ok(None),
                // What `cargo bench` and `cargo test` add.
                "--bench" => {}
                _ => return Err(ArgumentError::Unknown { word, program: "load" }),
            }
        }
        if arguments.items.is_empty() {
            arguments.items = Item::ALL.to_vec();
        }
        Ok(Some(arguments))
    }
}

const WANTED: &str = "a whole number from 1 to 100000";
const WANTED_SECONDS: &str = "a number from 0.1 to 3600";
const WANTED_FILE: &str = "a file";

fn number(option: &str, given: &str) -> Result<usize, ArgumentError> {
    let number = given.parse().ok().filter(|number| (1..=100_000).contains(number));
    number.ok_or_else(|| ArgumentError::Value { option: option.to_owned(), wanted: WANTED })
}

fn seconds(option: &str, given: &str) -> Result<Duration, ArgumentError> {
    let seconds: Option<f64> = given.parse().ok().filter(|seconds| (0.1..=3600.0).contains(seconds));
    let wrong = || ArgumentError::Value { option: option.to_owned(), wanted: WANTED_SECONDS };
    seconds.map(Duration::from_secs_f64).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Option<Arguments>, ArgumentError> {
        Arguments::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn without_words_it_measures_everything() {
        let Ok(Some(arguments)) = parse("") else { panic!("arguments") };
        assert_eq!(arguments.items, Item::ALL);
        assert_eq!((arguments.rounds, arguments.duration), (5, Duration::from_secs(2)));
    }

    #[test]
    fn every_option_is_understood() {
        let line =
            "bulk idle --rounds 3 --seconds 0.5 --workers 4 --connections 10 --proxy a --against b --json c";
        let expected = Arguments {
            items: vec![Item::Bulk, Item::Idle],
            rounds: 3,
            duration: Duration::from_millis(500),
            workers: 4,
            idle: 10,
            proxy: Some("a".into()),
            against: Some("b".into()),
            json: Some("c".into()),
        };
        assert_eq!(parse(line), Ok(Some(expected)));
        assert_eq!(parse("bulk --help"), Ok(None));
        for option in HELP.split_whitespace().filter(|word| word.starts_with("--")) {
            assert!(!matches!(parse(option), Err(ArgumentError::Unknown { .. })), "{option}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        let unknown = ArgumentError::Unknown { word: "bulky".to_owned(), program: "load" };
        assert_eq!(parse("bulky"), Err(unknown));
        let error = parse("--rounds 0").expect_err("0 is too few");
        assert_eq!(error.to_string(), "--rounds needs a whole number from 1 to 100000");
        assert!(parse("--seconds").is_err() && parse("--seconds NaN").is_err());
    }
}
