//! What a process has used, as the kernel counts it.

use std::fs;
use std::io;

use rustix::param::clock_ticks_per_second;

use crate::error::{LoadError, during};

/// Processor time of a process so far, of all its threads, in user space and kernel, in seconds. The kernel counts in
/// steps of 10 ms.
///
/// # Errors
/// There is no such process.
pub fn processor_seconds(pid: u32) -> Result<f64, LoadError> {
    let what = "processor time cannot be read";
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).map_err(during(what))?;
    let ticks = ticks(&stat).ok_or_else(|| during(what)(io::ErrorKind::InvalidData.into()))?;
    Ok(ticks as f64 / clock_ticks_per_second() as f64)
}

/// Memory of a process in bytes: private pages, and its share of those that others map too.
///
/// # Errors
/// There is no such process, or it belongs to somebody else.
pub fn memory(pid: u32) -> Result<u64, LoadError> {
    let what = "memory use cannot be read";
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).map_err(during(what))?;
    proportional(&rollup).ok_or_else(|| during(what)(io::ErrorKind::InvalidData.into()))
}

/// `utime` and `stime` of `/proc/<pid>/stat`. The second field is the program's name and may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user + system)
}

fn proportional(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kilobytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_behind_the_name() {
        let stat = "71 (a) b (c) S 1 71 71 0 -1 4194304 1 2 3 4 150 25 7 8 20 0 1 0 100 200 300";
        assert_eq!(ticks(stat), Some(175));
        assert_eq!(ticks("71 (a"), None);
        assert_eq!(
            proportional("5500-7ffc [rollup]\nRss: 9 kB\nPss:    1200 kB\nPss_Dirty: 7 kB\n"),
            Some(1200 << 10)
        );
        assert_eq!(proportional("Rss: 9 kB\n"), None);
    }

    #[test]
    fn our_own_process_is_readable() {
        let pid = std::process::id();
        assert!(processor_seconds(pid).is_ok());
        assert!(memory(pid).is_ok_and(|bytes| bytes > 100_000));
    }
}
