//! The proxy as a process of the tests: it ends when its standard input does, so that none outlives its test.

use std::process::ExitCode;
use std::{env, io, thread};

use demo::node::STOP_WITH_STDIN;

// As the product does: its memory is measured.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    if env::var(STOP_WITH_STDIN).is_ok_and(|value| value == "true") {
        thread::spawn(|| {
            // Ends when whoever holds the other end of the pipe is gone, however it went.
            io::copy(&mut io::stdin(), &mut io::sink()).ok();
            std::process::exit(1);
        });
    }
    ztunnel::run(env::args().skip(1))
}
