//! The command line of `pods`.

use std::path::PathBuf;
use std::time::Duration;

use super::{ArgumentError, WANTED, WANTED_FILE, WANTED_SECONDS, number, seconds};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodsItem {
    /// Pods that come and go.
    Admission,
    /// Pods at rest.
    Cost,
    /// Connections of many pods in turn.
    Alternating,
    /// A pod beside one that floods the proxy.
    Flooded,
}

impl PodsItem {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Admission, Self::Cost, Self::Alternating, Self::Flooded];

    fn parse(word: &str) -> Option<Self> {
        match word {
            "admission" => Some(Self::Admission),
            "cost" => Some(Self::Cost),
            "alternating" => Some(Self::Alternating),
            "flooded" => Some(Self::Flooded),
            _ => None,
        }
    }
}

/// How many pods are measured, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodsArguments {
    /// What is measured.
    pub items: Vec<PodsItem>,
    /// Pods of the node.
    pub pods: usize,
    /// How often what has a spread is measured.
    pub rounds: usize,
    /// How long each time.
    pub duration: Duration,
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
pub const PODS_HELP: &str = "\
Measures what the pods of a node cost its one proxy, in network namespaces. It needs root, iproute2, iptables and unshare.
usage: pods [admission|cost|alternating|flooded]... [options]     (all, if none is named)
  --pods N         pods of the node (default 250)
  --rounds N       how often rates and latencies are taken (default 5)
  --seconds S      how long each time (default 2)
  --rest S         seconds that the proxy rests before its memory is read (default 12)
  --workers N      data-plane threads of the proxy (default 2)
  --proxy FILE     use this ztunnel binary instead of the built-in one
  --json FILE      write the figures, every single value, to FILE
  --help           this text
README.md of this package says what the figures mean.
";

impl PodsArguments {
    /// Reads the arguments after the program's name; `None` if help is wanted.
    ///
    /// # Errors
    /// See [`ArgumentError`].
    pub fn parse(words: impl IntoIterator<Item = String>) -> Result<Option<Self>, ArgumentError> {
        let mut arguments = Self {
            items: Vec::new(),
            pods: 250,
            rounds: 5,
            duration: Duration::from_secs(2),
            rest: Duration::from_secs(12),
            workers: 2,
            proxy: None,
            json: None,
        };
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            if let Some(item) = PodsItem::parse(&word) {
                arguments.items.push(item);
                continue;
            }
            let mut value =
                |wanted| words.next().ok_or_else(|| ArgumentError::Value { option: word.clone(), wanted });
            match word.as_str() {
                // One is busy, and one is beside it.
                "--pods" => arguments.pods = number(&word, &value(WANTED)?)?.max(2),
                "--rounds" => arguments.rounds = number(&word, &value(WANTED)?)?,
                "--seconds" => arguments.duration = seconds(&word, &value(WANTED_SECONDS)?)?,
                "--rest" => arguments.rest = seconds(&word, &value(WANTED_SECONDS)?)?,
                "--workers" => arguments.workers = number(&word, &value(WANTED)?)?,
                "--proxy" => arguments.proxy = Some(value(WANTED_FILE)?.into()),
                "--json" => arguments.json = Some(value(WANTED_FILE)?.into()),
                "--help" | "-h" => return Ok(None),
                _ => return Err(ArgumentError::Unknown { word, program: "pods" }),
            }
        }
        if arguments.items.is_empty() {
            arguments.items = PodsItem::ALL.to_vec();
        }
        Ok(Some(arguments))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Option<PodsArguments>, ArgumentError> {
        PodsArguments::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn every_option_is_understood() {
        let line = "cost flooded --pods 9 --rounds 3 --seconds 1 --rest 0.5 --workers 4 --proxy a --json c";
        let expected = PodsArguments {
            items: vec![PodsItem::Cost, PodsItem::Flooded],
            pods: 9,
            rounds: 3,
            duration: Duration::from_secs(1),
            rest: Duration::from_millis(500),
            workers: 4,
            proxy: Some("a".into()),
            json: Some("c".into()),
        };
        assert_eq!(parse(line), Ok(Some(expected)));
        assert_eq!(parse("cost --help"), Ok(None));
        for option in PODS_HELP.split_whitespace().filter(|word| word.starts_with("--")) {
            assert!(!matches!(parse(option), Err(ArgumentError::Unknown { .. })), "{option}");
        }
        let Ok(Some(all)) = parse("--pods 1") else { panic!("arguments") };
        assert_eq!((all.items, all.pods), (PodsItem::ALL.to_vec(), 2));
    }
}
