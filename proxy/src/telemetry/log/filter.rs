//! Which lines are written: set by `RUST_LOG`, changed by the admin server's `/logging`.

use std::sync::{Arc, Mutex, PoisonError};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{EnvFilter, Registry, reload};

/// Changes what is logged while the process runs.
#[derive(Clone, Debug)]
pub struct LogHandle {
    filter: reload::Handle<EnvFilter, Registry>,
    /// What reset goes back to.
    initial: Arc<str>,
    /// Held while the filter is exchanged: additions build on what is there.
    changing: Arc<Mutex<()>>,
}

/// A level or scope that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LevelError(String);

impl LogHandle {
    pub(super) fn new(filter: reload::Handle<EnvFilter, Registry>, initial: String) -> Self {
        Self { filter, initial: initial.into(), changing: Arc::default() }
    }

    /// What is logged now, in the form of `RUST_LOG`.
    pub fn current(&self) -> Result<String, LevelError> {
        self.filter.with_current(ToString::to_string).map_err(|error| LevelError(error.to_string()))
    }

    /// Adds to what is logged: `level`, `scope=level` or `scope:level`, separated by commas.
    /// Later ones replace earlier ones of the same scope.
    pub fn add(&self, levels: &str) -> Result<(), LevelError> {
        let levels = directives(levels)?;
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.exchange(&format!("{},{levels}", self.current()?))
    }

    /// Goes back to what the process started with, and adds `levels` to that unless they are empty.
    pub fn reset(&self, levels: &str) -> Result<(), LevelError> {
        let levels = if levels.is_empty() { String::new() } else { format!(",{}", directives(levels)?) };
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.exchange(&format!("{}{levels}", self.initial))
    }

    fn exchange(&self, filter: &str) -> Result<(), LevelError> {
        let filter = parse(filter).map_err(LevelError)?;
        self.filter.reload(filter).map_err(|error| LevelError(error.to_string()))
    }
}

/// Reads a filter in the form of `RUST_LOG`.
pub(super) fn parse(filter: &str) -> Result<EnvFilter, String> {
    EnvFilter::builder().parse(filter).map_err(|error| format!("{filter:?} is not a log filter: {error}"))
}

/// Checks each directive: unlike in `RUST_LOG`, a lone word must be a level, so that a typing error is told.
fn directives(levels: &str) -> Result<String, LevelError> {
    let checked: Result<Vec<String>, LevelError> = levels.split(',').map(str::trim).map(directive).collect();
    Ok(checked?.join(","))
}

fn directive(text: &str) -> Result<String, LevelError> {
    let colon = || text.rsplit_once(':').filter(|(scope, _)| !scope.ends_with(':'));
    let (scope, level) = match text.rsplit_once('=').or_else(colon) {
        Some((scope, level)) => (Some(scope), level),
        None => (None, text),
    };
    let level: LevelFilter = level
        .parse()
        .ok()
        .filter(|_| !level.is_empty())
        .ok_or_else(|| LevelError(format!("{text:?}: {level:?} is not a level")))?;
    match scope {
        None => Ok(level.to_string()),
        Some("") => Err(LevelError(format!("{text:?} has no scope"))),
        Some(scope) => Ok(format!("{scope}={level}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LogConfig, LogFormat};

    fn handle(filter: &str) -> (tracing::Dispatch, LogHandle) {
        let config = LogConfig { filter: filter.into(), format: LogFormat::Plain };
        let (dispatch, handle, _) = super::super::build(&config, std::io::sink()).unwrap();
        (dispatch, handle)
    }

    #[test]
    fn levels_are_added_and_replaced_by_scope() {
        let (_dispatch, handle) = handle("info");
        handle.add("access=debug").unwrap();
        assert_eq!(handle.current().unwrap(), "access=debug,info");
        handle.add("ztunnel::pool:trace,warn").unwrap();
        assert_eq!(handle.current().unwrap(), "ztunnel::pool=trace,access=debug,warn");
        handle.add("access=off").unwrap();
        assert_eq!(handle.current().unwrap(), "ztunnel::pool=trace,access=off,warn");
    }

    #[test]
    fn reset_goes_back_to_the_start() {
        let (_dispatch, handle) = handle("warn,access=info");
        handle.add("debug").unwrap();
        handle.reset("").unwrap();
        assert_eq!(handle.current().unwrap(), "access=info,warn");
        handle.reset("dns=trace").unwrap();
        assert_eq!(handle.current().unwrap(), "access=info,dns=trace,warn");
    }

    #[test]
    fn mistakes_change_nothing() {
        let (_dispatch, handle) = handle("info");
        for levels in
            ["", "verbose", "access=loud", "access", "a::b", "=info", ":info", "info,,warn", "a=info,b"]
        {
            assert!(handle.add(levels).is_err(), "{levels:?}");
        }
        assert!(handle.reset("nonsense").is_err());
        assert_eq!(handle.current().unwrap(), "info");
    }

    #[test]
    fn a_change_takes_effect_at_once() {
        let (dispatch, handle) = handle("info");
        tracing::dispatcher::with_default(&dispatch, || {
            assert!(!tracing::enabled!(target: "access", tracing::Level::DEBUG));
            handle.add("access:debug").unwrap();
            assert!(tracing::enabled!(target: "access", tracing::Level::DEBUG));
            assert!(!tracing::enabled!(target: "other", tracing::Level::DEBUG));
        });
    }
}
