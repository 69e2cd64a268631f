//! `load`: the load generator; the proxy itself if its first argument is `ztunnel`, the server application if it is
//! `application`.

use std::process::ExitCode;

use benches::application;
use benches::arguments::{Arguments, HELP};
use benches::error::LoadError;
use benches::measure::Bench;
use benches::program::{PROXY_ROLE, finish, proxy, raise_descriptor_limit, report};

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
    report(NAME, arguments.json.as_deref(), |logs, mut show| {
        let bench = Bench::new(arguments, logs)?;
        arguments.items.iter().try_for_each(|&item| bench.item(item, &mut show))
    })
}

fn server(address: &str) -> ExitCode {
    match address.parse() {
        Ok(ip) => finish(NAME, application::run(ip)),
        Err(error) => finish::<()>(NAME, Err(error)),
    }
}
