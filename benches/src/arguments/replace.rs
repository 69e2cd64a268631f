//! The command line of `replace`.

use std::path::PathBuf;
use std::time::Duration;

use super::{ArgumentError, WANTED, WANTED_FILE, WANTED_SECONDS, number, seconds};
use crate::replace::Way;

/// How proxies are replaced, and under which load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplaceArguments {
    /// How.
    pub ways: Vec<Way>,
    /// Connections that say nothing.
    pub idle: usize,
    /// Connections with requests all the time.
    pub busy: usize,
    /// From an answer to the next request, on average.
    pub gap: Duration,
    /// How often each node's proxy is replaced.
    pub replacements: usize,
    /// The least time that round trips are collected for.
    pub window: Duration,
    /// Data-plane threads of each node.
    pub workers: usize,
    /// The node that is replaced has one processor, everything else the others.
    pub one_core: bool,
    /// Another proxy binary than the built-in one.
    pub proxy: Option<PathBuf>,
    /// Where the figures go as JSON, if anywhere.
    pub json: Option<PathBuf>,
}

/// What `--help` prints.
pub const REPLACE_HELP: &str = "\
Replaces the proxies of two nodes on loopback addresses while connections run, and tells what those notice of it.
usage: replace [sigterm|bake|kill|control]... [options]     (sigterm, if none is named)
  sigterm          the successor takes the role; then its predecessor is told to end
  bake             nobody is told anything: connections follow by themselves
  kill             the successor is killed before the first connection is its own
  control          without a hand-over: the predecessor ends, then the successor starts
  --idle N         idle connections (default 5000)
  --busy N         connections with a request of 64 bytes all the time (default 200)
  --gap MS         from an answer to the next request, on average (default 20)
  --replacements N how often each node's proxy is replaced (default 3)
  --seconds S      the least time that round trips are collected for, before and meanwhile (default 1)
  --workers N      data-plane threads of each node (default 2)
  --one-core       the node that is replaced has the first processor alone, everything else the others
  --proxy FILE     use this ztunnel binary instead of the built-in one
  --json FILE      write the figures, every single value, to FILE
  --help           this text
This process and each of the nodes need two descriptors a connection. README.md of this package says what the figures mean.
";

impl ReplaceArguments {
    /// Reads the arguments after the program's name; `None` if help is wanted.
    ///
    /// # Errors
    /// See [`ArgumentError`].
    pub fn parse(words: impl IntoIterator<Item = String>) -> Result<Option<Self>, ArgumentError> {
        let mut arguments = Self {
            ways: Vec::new(),
            idle: 5000,
            busy: 200,
            gap: Duration::from_millis(20),
            replacements: 3,
            window: Duration::from_secs(1),
            workers: 2,
            one_core: false,
            proxy: None,
            json: None,
        };
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            if let Some(way) = Way::ALL.into_iter().find(|way| way.name() == word) {
                arguments.ways.push(way);
                continue;
            }
            let mut value =
                |wanted| words.next().ok_or_else(|| ArgumentError::Value { option: word.clone(), wanted });
            match word.as_str() {
                "--idle" => arguments.idle = number(&word, &value(WANTED)?)?,
                "--busy" => arguments.busy = number(&word, &value(WANTED)?)?,
                "--gap" => arguments.gap = Duration::from_millis(number(&word, &value(WANTED)?)? as u64),
                "--replacements" => arguments.replacements = number(&word, &value(WANTED)?)?,
                "--seconds" => arguments.window = seconds(&word, &value(WANTED_SECONDS)?)?,
                "--workers" => arguments.workers = number(&word, &value(WANTED)?)?,
                "--one-core" => arguments.one_core = true,
                "--proxy" => arguments.proxy = Some(value(WANTED_FILE)?.into()),
                "--json" => arguments.json = Some(value(WANTED_FILE)?.into()),
                "--help" | "-h" => return Ok(None),
                _ => return Err(ArgumentError::Unknown { word, program: "replace" }),
            }
        }
        if arguments.ways.is_empty() {
            arguments.ways.push(Way::Sigterm);
        }
        Ok(Some(arguments))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Option<ReplaceArguments>, ArgumentError> {
        ReplaceArguments::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn every_option_is_understood() {
        let line = "kill control --idle 10 --busy 3 --gap 5 --replacements 1 --seconds 0.5 --workers 4 --one-core \
                    --proxy a --json c";
        let expected = ReplaceArguments {
            ways: vec![Way::Kill, Way::Control],
            idle: 10,
            busy: 3,
            gap: Duration::from_millis(5),
            replacements: 1,
            window: Duration::from_millis(500),
            workers: 4,
            one_core: true,
            proxy: Some("a".into()),
            json: Some("c".into()),
        };
        assert_eq!(parse(line), Ok(Some(expected)));
        assert_eq!(parse("bake --help"), Ok(None));
        for option in REPLACE_HELP.split_whitespace().filter(|word| word.starts_with("--")) {
            assert!(!matches!(parse(option), Err(ArgumentError::Unknown { .. })), "{option}");
        }
        for way in Way::ALL {
            assert!(parse(way.name()).is_ok_and(|it| it.is_some_and(|it| it.ways == [way])), "{way:?}");
        }
        let Ok(Some(usual)) = parse("") else { panic!("arguments") };
        assert_eq!((usual.ways, usual.idle, usual.busy), (vec![Way::Sigterm], 5000, 200));
        assert!(matches!(parse("softly"), Err(ArgumentError::Unknown { program: "replace", .. })));
    }
}
