//! `replace`: proxies that take each other's place; the proxy itself if its first argument is `ztunnel`.

use std::process::ExitCode;

use benches::arguments::{REPLACE_HELP, ReplaceArguments};
use benches::error::{LoadError, during};
use benches::program::{PROXY_ROLE, finish, proxy, raise_descriptor_limit, report};
use benches::replace::{Setting, measure};
use demo::node::Proxy;

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
    let proxy = match &arguments.proxy {
        Some(program) => Proxy::at(program),
        None => Proxy::own().map_err(during("no path of this program"))?,
    };
    report(NAME, arguments.json.as_deref(), |logs, mut show| {
        let setting = Setting {
            proxy,
            workers: arguments.workers,
            idle: arguments.idle,
            busy: arguments.busy,
            gap: arguments.gap,
            replacements: arguments.replacements,
            window: arguments.window,
            one_core: arguments.one_core,
            logs: logs.to_owned(),
        };
        arguments.ways.into_iter().try_for_each(|way| measure(&setting, way, &mut show))
    })
}
