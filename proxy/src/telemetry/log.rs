//! The log: lines in stock's shapes, through a bounded queue, with a filter that can be changed while running.
//!
//! ```text
//!   event! ─▶ filter ─▶ format (one whole line) ─▶ queue of 10 000 lines ─▶ writer thread ─▶ stdout
//! ```

mod filter;
mod format;
mod writer;

use std::io::Write;

use tracing::Dispatch;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Registry, fmt, reload};

use crate::config::{ConfigError, LogConfig, LogFormat};

pub use filter::{LevelError, LogHandle};
pub use writer::LogGuard;

/// Makes the log of this process: standard output, for every thread.
///
/// Keep the guard until the process ends: dropping it writes what is queued.
pub fn install(config: &LogConfig) -> Result<(LogHandle, LogGuard), ConfigError> {
    let (dispatch, handle, guard) = build(config, std::io::stdout())?;
    tracing::dispatcher::set_global_default(dispatch)
        .map_err(|_| ConfigError::new("RUST_LOG", "the log is installed already"))?;
    Ok((handle, guard))
}

/// A log that writes to `output`, not yet in use.
pub fn build(
    config: &LogConfig,
    output: impl Write + Send + 'static,
) -> Result<(Dispatch, LogHandle, LogGuard), ConfigError> {
    let filter = filter::parse(&config.filter).map_err(|problem| ConfigError::new("RUST_LOG", problem))?;
    let (filter, reload) = reload::Layer::new(filter);
    let (queue, guard) = writer::start(output);
    let (plain, json) = match config.format {
        LogFormat::Plain => (Some(fmt::layer().event_format(format::Plain).with_ansi(false)), None),
        LogFormat::Json => {
            let fields = fmt::format::JsonFields::new();
            (None, Some(fmt::layer().fmt_fields(fields).event_format(format::Json).with_ansi(false)))
        }
    };
    let plain = plain.map(|layer| layer.with_writer(queue.clone()));
    let json = json.map(|layer| layer.with_writer(queue));
    let subscriber = Registry::default().with(filter).with(plain).with(json);
    Ok((Dispatch::new(subscriber), LogHandle::new(reload, config.filter.clone()), guard))
}

#[cfg(test)]
pub(crate) mod testing {
    //! A log into memory.

    use std::sync::{Arc, Mutex};

    use super::*;

    /// Where lines end up.
    #[derive(Clone, Default)]
    pub(crate) struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What `work` logs on this thread, one line an element.
    pub(crate) fn logged(filter: &str, format: LogFormat, work: impl FnOnce()) -> Vec<String> {
        let memory = Memory::default();
        let config = LogConfig { filter: filter.to_owned(), format };
        let (dispatch, _, guard) = build(&config, memory.clone()).unwrap();
        tracing::dispatcher::with_default(&dispatch, work);
        drop(guard);
        let bytes = memory.0.lock().unwrap();
        String::from_utf8(bytes.clone()).unwrap().lines().map(ToOwned::to_owned).collect()
    }
}
