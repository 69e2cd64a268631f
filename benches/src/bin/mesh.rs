//! `mesh`: what a large mesh costs a node proxy; the proxy itself if its first argument is `ztunnel`.

use std::path::Path;
use std::process::ExitCode;

use benches::arguments::{MESH_HELP, MeshArguments};
use benches::error::{LoadError, during};
use benches::figures::Section;
use benches::following::{Following, Setting};
use benches::population::Population;
use benches::program::{PROXY_ROLE, finish, proxy, report};
use demo::node::Proxy;

// As the product does: the proxy that is measured is the proxy that is shipped.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What errors begin with.
const NAME: &str = "mesh";
/// Workloads of the mesh that the large one is compared with.
const SMALL: usize = 10;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(PROXY_ROLE) {
        return proxy(std::env::args().skip(2));
    }
    match MeshArguments::parse(std::env::args().skip(1)) {
        Ok(None) => {
            print!("{MESH_HELP}");
            ExitCode::SUCCESS
        }
        Ok(Some(arguments)) => finish(NAME, run(&arguments)),
        Err(error) => finish::<()>(NAME, Err(error)),
    }
}

fn run(arguments: &MeshArguments) -> Result<(), LoadError> {
    report(NAME, arguments.json.as_deref(), |logs, show| measure(arguments, logs, show))
}

fn measure(arguments: &MeshArguments, logs: &Path, show: &mut dyn FnMut(Section)) -> Result<(), LoadError> {
    let proxy = match &arguments.proxy {
        Some(program) => Proxy::at(program),
        None => Proxy::own().map_err(during("no path of this program"))?,
    };
    let setting = Setting { proxy, workers: arguments.workers, rest: arguments.rest, logs: logs.to_owned() };
    let small = Following::start(Population::of(SMALL), &setting)?.learning();
    let mut following = Following::start(arguments.population, &setting)?;
    show(following.learned(&small));
    show(following.update(arguments.updates)?);
    show(following.restart(arguments.restarts)?);
    Ok(())
}
