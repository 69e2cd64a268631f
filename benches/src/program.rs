//! What the binaries of this package have in common.

use std::fmt::Display;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::thread;

use demo::node::STOP_WITH_STDIN;
use rustix::process::{Resource, Rlimit, Signal, getpid, getrlimit, kill_process, setrlimit};
use serde_json::Value;

use crate::error::{LoadError, during};

/// The first argument that makes a binary the proxy; see [`Proxy::own`](demo::node::Proxy::own).
pub const PROXY_ROLE: &str = "ztunnel";

/// The proxy itself with these arguments, which ends when its standard input does if it is told so.
pub fn proxy(arguments: impl Iterator<Item = String>) -> ExitCode {
    if std::env::var(STOP_WITH_STDIN).is_ok_and(|value| value == "true") {
        thread::spawn(|| {
            // Ends when whoever holds the other end of the pipe is gone, however it went.
            io::copy(&mut io::stdin(), &mut io::sink()).ok();
            // A process may always signal itself.
            kill_process(getpid(), Signal::TERM).ok();
        });
    }
    ztunnel::run(arguments)
}

/// Thousands of connections at once; child processes inherit it.
pub fn raise_descriptor_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // If that isn't allowed, opening connections will say so.
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).ok();
}

/// What the figures depend on, besides the build.
pub fn host() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let processors = thread::available_parallelism().map_or(0, usize::from);
    let model = read("/proc/cpuinfo");
    let model = model.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let (kernel, load) = (read("/proc/sys/kernel/osrelease"), read("/proc/loadavg"));
    let load = load.split(' ').next().unwrap_or_default();
    let (model, kernel) = (model.trim_matches(['\t', ' ', ':']), kernel.trim());
    let build = if cfg!(debug_assertions) { "; a debug build: the figures are worthless" } else { "" };
    format!("processors: {processors}, {model}; Linux {kernel}; load before: {load}{build}")
}

/// Writes figures to a file.
///
/// # Errors
/// The file cannot be written.
pub fn write_json(path: &Path, value: &Value) -> Result<(), LoadError> {
    std::fs::write(path, format!("{value:#}\n")).map_err(during("the figures cannot be written"))
}

/// The exit code; an error is said in one line that begins with the program's name.
pub fn finish<T>(program: &str, result: Result<T, impl Display>) -> ExitCode {
    match result {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{program}: {error}");
            ExitCode::FAILURE
        }
    }
}
