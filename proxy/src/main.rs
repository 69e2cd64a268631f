//! The `ztunnel` binary.

use std::process::ExitCode;

/// Long-lived connections of all sizes come and go for months: an allocator that returns memory matters.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    ztunnel::run(std::env::args().skip(1))
}
