//! `pods`: what the pods of a node cost its proxy; the proxy itself if its first argument is `proxy`, as in Istio's chart.

use std::process::ExitCode;

use benches::arguments::{PODS_HELP, PodsArguments, PodsItem};
use benches::error::{LoadError, during};
use benches::pods::{Landscape, Setting};
use benches::program::{finish, proxy, report};

// As the product does: the proxy that is measured is the proxy that is shipped.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What errors begin with.
const NAME: &str = "pods";

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("proxy") {
        return proxy(std::env::args().skip(1));
    }
    match PodsArguments::parse(std::env::args().skip(1)) {
        Ok(None) => {
            print!("{PODS_HELP}");
            ExitCode::SUCCESS
        }
        Ok(Some(arguments)) => finish(NAME, run(arguments)),
        Err(error) => finish::<()>(NAME, Err(error)),
    }
}

fn run(arguments: PodsArguments) -> Result<(), LoadError> {
    let own = std::env::current_exe().map_err(during("no path of this program"))?;
    report(NAME, arguments.json.as_deref(), |_, show| {
        let mut landscape = Landscape::create(Setting {
            program: arguments.proxy.unwrap_or(own),
            workers: arguments.workers,
            pods: arguments.pods,
            rounds: arguments.rounds,
            duration: arguments.duration,
            rest: arguments.rest,
        })?;
        for item in arguments.items {
            show(match item {
                PodsItem::Admission => landscape.admission(),
                PodsItem::Cost => landscape.cost(),
                PodsItem::Alternating => landscape.alternating(),
                PodsItem::Flooded => landscape.flooded(),
            }?);
        }
        Ok(())
    })
}
