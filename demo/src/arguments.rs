//! The command line.

use std::path::PathBuf;
use std::time::Duration;

/// What `demo` is asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Show the mesh at work.
    Show(Arguments),
    /// Print [`HELP`].
    Help,
}

/// How to show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arguments {
    /// How long the load runs at least.
    pub duration: Duration,
    /// Where the report goes as JSON, if anywhere.
    pub json: Option<PathBuf>,
    /// Whether to use network namespaces and redirection instead of loopback addresses and SOCKS5.
    pub netns: bool,
    /// How often every tunnel moves to the next worker; `None` is never.
    pub move_interval: Option<Duration>,
    /// Another proxy binary than the built-in one.
    pub proxy: Option<PathBuf>,
    /// Whether a policy comes and goes and istiod dies while the load runs.
    pub acts: bool,
    /// Whether both proxies are replaced under load afterwards.
    pub upgrade: bool,
    /// Where the page of the replacements goes.
    pub page: PathBuf,
}

impl Default for Arguments {
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            json: None,
            netns: false,
            move_interval: Some(Duration::from_millis(50)),
            proxy: None,
            acts: true,
            upgrade: true,
            page: "demo-report.html".into(),
        }
    }
}

/// A command line that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentError {
    /// There is no such option.
    #[error("unknown option {0:?}; `demo --help` lists them")]
    Unknown(String),
    /// An option stands without the value that it needs.
    #[error("{0} needs a value")]
    NoValue(&'static str),
    /// The value does not fit.
    #[error("{option} needs {wanted}, not {given:?}")]
    BadValue {
        /// The option.
        option: &'static str,
        /// What it needs.
        wanted: &'static str,
        /// What it was given.
        given: String,
    },
}

/// What `--help` prints.
pub const HELP: &str = "\
Two node proxies carry checked traffic on this machine. Under load tunnels move between workers, a policy
cuts a connection, and istiod dies and comes back. Then both proxies are replaced three times each, connections
running, and once more without a hand-over.

usage: demo [options]
  --seconds N       how long the load runs at least (default 15); istiod's outage takes its time, too
  --json FILE       write the figures to FILE as JSON
  --netns           use two network namespaces and iptables REDIRECT instead of
                    loopback addresses and SOCKS5 (needs root, iproute2, iptables)
  --move-every MS   move every tunnel to the next worker each MS milliseconds
                    (default 50; 0 never)
  --proxy FILE      use this ztunnel binary as the proxy instead of the built-in one
  --page FILE       write the page of the replacements to FILE (default demo-report.html)
  --no-upgrade      no proxy is replaced
  --no-acts         traffic and moves only: no policy comes and goes, istiod lives
  --help            this text

The last line is `demo: passed …` (exit code 0) or `demo: FAILED …` (exit code 1).
";

impl Command {
    /// Reads the arguments after the program's name.
    ///
    /// # Errors
    /// See [`ArgumentError`].
    pub fn parse(words: impl IntoIterator<Item = String>) -> Result<Self, ArgumentError> {
        let mut arguments = Arguments::default();
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let mut value = |option| words.next().ok_or(ArgumentError::NoValue(option));
            match word.as_str() {
                "--seconds" => {
                    let seconds = number(
                        "--seconds",
                        "a whole number from 1 to 86400",
                        1..=86_400,
                        value("--seconds")?,
                    )?;
                    arguments.duration = Duration::from_secs(seconds);
                }
                "--move-every" => {
                    let wanted = "milliseconds from 0 to 60000";
                    let millis = number("--move-every", wanted, 0..=60_000, value("--move-every")?)?;
                    arguments.move_interval = (millis > 0).then(|| Duration::from_millis(millis));
                }
                "--json" => arguments.json = Some(value("--json")?.into()),
                "--proxy" => arguments.proxy = Some(value("--proxy")?.into()),
                "--netns" => arguments.netns = true,
                "--page" => arguments.page = value("--page")?.into(),
                "--no-upgrade" => arguments.upgrade = false,
                "--no-acts" => arguments.acts = false,
                "--help" | "-h" => return Ok(Self::Help),
                _ => return Err(ArgumentError::Unknown(word)),
            }
        }
        Ok(Self::Show(arguments))
    }
}

fn number(
    option: &'static str,
    wanted: &'static str,
    range: std::ops::RangeInclusive<u64>,
    given: String,
) -> Result<u64, ArgumentError> {
    match given.parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(ArgumentError::BadValue { option, wanted, given }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, ArgumentError> {
        Command::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn without_options_it_shows_fifteen_seconds() {
        let Ok(Command::Show(arguments)) = parse("") else { panic!("a show") };
        assert_eq!(arguments, Arguments::default());
        assert_eq!(arguments.duration, Duration::from_secs(15));
        assert!(!arguments.netns && arguments.move_interval.is_some());
    }

    #[test]
    fn every_option_is_understood() {
        let line = "--seconds 3 --json out.json --netns --move-every 0 --proxy /bin/ztunnel --no-acts \
                    --page p.html --no-upgrade";
        let expected = Arguments {
            duration: Duration::from_secs(3),
            json: Some("out.json".into()),
            netns: true,
            move_interval: None,
            proxy: Some("/bin/ztunnel".into()),
            acts: false,
            upgrade: false,
            page: "p.html".into(),
        };
        assert_eq!(parse(line), Ok(Command::Show(expected)));
        assert_eq!(parse("--seconds 3 --help"), Ok(Command::Help));
        for option in HELP.split_whitespace().filter(|word| word.starts_with("--")) {
            assert_ne!(parse(option), Err(ArgumentError::Unknown(option.to_owned())));
        }
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(parse("--second 3"), Err(ArgumentError::Unknown("--second".to_owned())));
        assert_eq!(parse("--json"), Err(ArgumentError::NoValue("--json")));
        let error = parse("--seconds 0").expect_err("0 is too short");
        assert_eq!(error.to_string(), "--seconds needs a whole number from 1 to 86400, not \"0\"");
        assert!(parse("--seconds 1.5").is_err() && parse("--move-every -1").is_err());
    }
}
