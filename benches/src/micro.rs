//! The frame of micro benches: repeats them and prints what came of it.

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::figures::{Line, Section};

/// What a bench measures in one sample: item, unit and value of each figure, the same ones each time.
pub type Figures = Vec<(&'static str, &'static str, f64)>;

/// A bench: its name, and one sample of it.
pub type Bench = (&'static str, fn() -> Result<Figures, Box<dyn Error>>);

/// Many short ones: some of them run undisturbed even on a busy host, and the best tells what the code can do.
const SAMPLES: usize = 50;
/// Long ones are taken less often.
const FEW_SAMPLES: usize = 5;
/// What is long: all samples together.
const LONG: Duration = Duration::from_secs(5);

/// Runs the benches that have one of the words of the command line in their names; all, if there is no word.
pub fn run(benches: &[Bench]) -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    for bench @ (name, _) in benches {
        if !wanted.is_empty() && !wanted.iter().any(|word| name.contains(word.as_str())) {
            continue;
        }
        match repeat(bench) {
            Ok(section) => {
                // Who has seen enough, as with `| head`, is no reason to panic.
                section.write(&mut std::io::stdout()).ok();
            }
            Err(error) => {
                eprintln!("{name}: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

/// Nanoseconds for each of `count`.
pub fn nanos(time: Duration, count: u32) -> f64 {
    time.as_secs_f64() * 1e9 / f64::from(count)
}

/// Takes a bench several times: each of its figures becomes a line.
fn repeat((name, bench): &Bench) -> Result<Section, Box<dyn Error>> {
    let mut section = Section::new(*name);
    let begun = Instant::now();
    for sample in 0..SAMPLES {
        if sample >= FEW_SAMPLES && begun.elapsed() > LONG {
            break;
        }
        for (place, (item, unit, value)) in bench()?.into_iter().enumerate() {
            match section.lines.get_mut(place) {
                Some(line) => line.values.push(value),
                None => section.push(Line::new(item, unit, vec![value])),
            }
        }
    }
    Ok(section)
}
