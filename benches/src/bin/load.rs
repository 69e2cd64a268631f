//! `load`: the load generator; the proxy itself if its first argument is `ztunnel`, the server application if it is
//! `application`.

use std::io::{self, Write};
use std::process::ExitCode;

use benches::application;
use benches::arguments::{Arguments, HELP};
use benches::error::{LoadError, during};
use benches::measure::Bench;
use benches::program::{PROXY_ROLE, finish, host, proxy, raise_descriptor_limit, write_json};
use serde_json::{Value, json};

// As the product does: the proxy that is measured is the proxy that is shipped.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What errors begin with.
const NAME: &str = "load";

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    match words.next().as_deref() {
        Some(PROXY_ROLE) => return proxy(words),
        Some(application::ROLE) => return server(words.next().as_deref().unwrap_or_default()),
        _ => {}
    }
    match Arguments::parse(std::env::args().skip(1)) {
        Ok(None) => {
            print!("{HELP}");
            ExitCode::SUCCESS
        }
        Ok(Some(arguments)) => finish(NAME, run(&arguments)),
        Err(error) => finish::<()>(NAME, Err(error)),
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

fn server(address: &str) -> ExitCode {
    match address.parse() {
        Ok(ip) => finish(NAME, application::run(ip)),
        Err(error) => finish::<()>(NAME, Err(error)),
    }
}
