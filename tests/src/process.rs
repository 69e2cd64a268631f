//! What a process costs, as Linux tells it in `/proc`.

use std::fs;
use std::time::Duration;

/// Resident memory in bytes.
///
/// # Panics
/// There is no such process.
pub fn resident(id: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has memory");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
    kib << 10
}

/// Processor time that it has used.
///
/// # Panics
/// There is no such process.
pub fn processor_time(id: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).expect("the process runs");
    // The name, in parentheses, may hold anything; utime and stime are fields 14 and 15, the state is field 3.
    let (_, after) = stat.rsplit_once(')').expect("a name in parentheses");
    let ticks: u64 = after
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().expect("a number of ticks"))
        .sum();
    Duration::from_millis(ticks * 1_000 / rustix::param::clock_ticks_per_second())
}
