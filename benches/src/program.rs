//! What the binaries of this package have in common.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::thread;

use demo::node::STOP_WITH_STDIN;
use rustix::process::{Resource, Rlimit, Signal, getpid, getrlimit, kill_process, setrlimit};
use serde_json::json;

use crate::error::{LoadError, during};
use crate::figures::Section;

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
fn host() -> String {
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

/// Has something measured, in a directory for logs. Shows each section of the figures as soon as it is there, and writes all of them
/// to a file, if one is named. The logs are kept if it fails.
///
/// # Errors
/// That of `measure`; nobody reads the figures, or they cannot be written.
pub fn report(
    program: &str,
    json: Option<&Path>,
    measure: impl FnOnce(&Path, &mut dyn FnMut(Section)) -> Result<(), LoadError>,
) -> Result<(), LoadError> {
    let logs = tempfile::Builder::new().prefix(&format!("{program}-")).tempdir();
    let logs = logs.map_err(during("no directory for logs"))?;
    let mut out = io::stdout().lock();
    let host = host();
    writeln!(out, "{host}").map_err(during("nobody reads the figures"))?;
    let mut sections = Vec::new();
    let measured = measure(logs.path(), &mut |section: Section| {
        // Who looks at the file only need not read along.
        section.write(&mut out).ok();
        sections.push(section.json());
    });
    if let Err(error) = measured {
        if logs.path().read_dir().is_ok_and(|mut files| files.next().is_some()) {
            eprintln!("The logs of the nodes are in {}", logs.keep().display());
        }
        return Err(error);
    }
    let Some(path) = json else { return Ok(()) };
    let figures = json!({ "host": host, "sections": sections });
    std::fs::write(path, format!("{figures:#}\n")).map_err(during("the figures cannot be written"))
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
