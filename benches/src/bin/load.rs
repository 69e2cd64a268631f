//! `load`: the load generator; the proxy itself if its first argument is `ztunnel`, the server application if it is
//! `application`.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::thread;

use benches::application;
use benches::arguments::{Arguments, HELP};
use benches::error::{LoadError, during};
use benches::measure::Bench;
use demo::node::STOP_WITH_STDIN;
use rustix::process::{Resource, Rlimit, Signal, getpid, getrlimit, kill_process, setrlimit};
use serde_json::{Value, json};

// As the product does: the proxy that is measured is the proxy that is shipped.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    match words.next().as_deref() {
        Some("ztunnel") => return proxy(),
        Some(application::ROLE) => return server(words.next().as_deref().unwrap_or_default()),
        _ => {}
    }
    match Arguments::parse(std::env::args().skip(1)) {
        Ok(None) => {
            print!("{HELP}");
            ExitCode::SUCCESS
        }
        Ok(Some(arguments)) => finish(run(&arguments)),
        Err(error) => finish::<_, ()>(Err(error)),
    }
}

fn run(arguments: &Arguments) -> Result<(), LoadError> {
    raise_descriptor_limit();
    let logs = tempfile::Builder::new().prefix("load-").tempdir().map_err(during("no directory for logs"))?;
    let bench = Bench::new(arguments, logs.path())?;
    let mut out = io::stdout().lock();
    let host = host();
    writeln!(out, "{host}").map_err(during("nobody reads the figures"))?;
    let mut sections: Vec<Value> = Vec::new();
    for &item in &arguments.items {
        let measured = bench.item(item, &mut |section| {
            // Who looks at the file only need not read along.
            section.write(&mut out).ok();
            sections.push(section.json());
        });
        if let Err(error) = measured {
            eprintln!("The logs of the nodes are in {}", logs.keep().display());
            return Err(error);
        }
    }
    match &arguments.json {
        Some(path) => write_json(path, &json!({ "host": host, "sections": sections })),
        None => Ok(()),
    }
}

fn write_json(path: &Path, value: &Value) -> Result<(), LoadError> {
    std::fs::write(path, format!("{value:#}\n")).map_err(during("the figures cannot be written"))
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

/// Thousands of connections at once; child processes inherit it.
fn raise_descriptor_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // If that isn't allowed, opening connections will say so.
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).ok();
}

fn proxy() -> ExitCode {
    if std::env::var(STOP_WITH_STDIN).is_ok_and(|value| value == "true") {
        thread::spawn(|| {
            // Ends when whoever holds the other end of the pipe is gone, however it went.
            io::copy(&mut io::stdin(), &mut io::sink()).ok();
            // A process may always signal itself.
            kill_process(getpid(), Signal::TERM).ok();
        });
    }
    ztunnel::run(std::env::args().skip(2))
}

fn server(address: &str) -> ExitCode {
    match address.parse() {
        Ok(ip) => finish(application::run(ip)),
        Err(error) => finish::<_, ()>(Err(error)),
    }
}

fn finish<E: std::fmt::Display, T>(result: Result<T, E>) -> ExitCode {
    match result {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}
