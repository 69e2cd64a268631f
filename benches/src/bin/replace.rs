//! `replace`: proxies that take each other's place; the proxy itself if its first argument is `ztunnel`.

use std::io::{self, Write};
use std::process::ExitCode;

use benches::arguments::{REPLACE_HELP, ReplaceArguments};
use benches::error::{LoadError, during};
use benches::program::{PROXY_ROLE, finish, host, proxy, raise_descriptor_limit, write_json};
use benches::replace::{Setting, measure};
use demo::node::Proxy;
use serde_json::json;

// As the product does: the proxy that is measured is the proxy that is shipped.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What errors begin with.
const NAME: &str = "replace";

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(PROXY_ROLE) {
        return proxy(std::env::args().skip(2));
    }
    match ReplaceArguments::parse(std::env::args().skip(1)) {
        Ok(None) => {
            print!("{REPLACE_HELP}");
            ExitCode::SUCCESS
        }
        Ok(Some(arguments)) => finish(NAME, run(arguments)),
        Err(error) => finish::<()>(NAME, Err(error)),
    }
}

fn run(arguments: ReplaceArguments) -> Result<(), LoadError> {
    raise_descriptor_limit();
    let logs = tempfile::Builder::new().prefix("replace-").tempdir();
    let logs = logs.map_err(during("no directory for logs"))?;
    let proxy = match &arguments.proxy {
        Some(program) => Proxy::at(program),
        None => Proxy::own().map_err(during("no path of this program"))?,
    };
    let setting = Setting {
        proxy,
        workers: arguments.workers,
        idle: arguments.idle,
        busy: arguments.busy,
        gap: arguments.gap,
        replacements: arguments.replacements,
        window: arguments.window,
        one_core: arguments.one_core,
        logs: logs.path().to_owned(),
    };
    let mut out = io::stdout().lock();
    let host = host();
    writeln!(out, "{host}").map_err(during("nobody reads the figures"))?;
    let mut sections = Vec::new();
    for way in arguments.ways {
        let measured = measure(&setting, way, &mut |section| {
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
