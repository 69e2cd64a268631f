//! `demo`: shows two node proxies at work, and is the proxy itself when its first argument is `ztunnel`.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use demo::arguments::{Command, HELP};
use demo::display::{Display, verdict};
use demo::node::STOP_WITH_STDIN;
use demo::show;
use rustix::process::{Signal, getpid, kill_process};

// As the product does: the proxy that is shown is the proxy that is shipped.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|word| word == "ztunnel") {
        return proxy();
    }
    match Command::parse(std::env::args().skip(1)) {
        Ok(Command::Help) => {
            print!("{HELP}");
            ExitCode::SUCCESS
        }
        Ok(Command::Show(arguments)) => {
            let interrupted = Arc::new(AtomicBool::new(false));
            if let Err(error) = watch_signals(Arc::clone(&interrupted)) {
                println!("demo: FAILED signals cannot be watched: {error}");
                return ExitCode::FAILURE;
            }
            let report = show::run(&arguments, &interrupted, &mut Display::standard());
            // A reader who is gone already, as with `demo | head`, is no reason to panic.
            writeln!(io::stdout(), "{}", verdict(&report)).ok();
            if report.passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            println!("demo: FAILED {error}");
            ExitCode::FAILURE
        }
    }
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

/// Sets `interrupted` at the first SIGINT or SIGTERM; at the second the process ends at once.
fn watch_signals(interrupted: Arc<AtomicBool>) -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _context = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    thread::spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if interrupted.swap(true, Ordering::Relaxed) {
                    std::process::exit(1);
                }
            }
        });
    });
    Ok(())
}
