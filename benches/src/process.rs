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
    bytes(&rollup, "Pss:").ok_or_else(|| during(what)(io::ErrorKind::InvalidData.into()))
}

/// Pages of a process that are in memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resident {
    /// Now.
    pub now: u64,
    /// The most there ever were.
    pub peak: u64,
}

/// What of a process is in memory (`VmRSS` and `VmHWM`).
///
/// # Errors
/// There is no such process.
pub fn resident(pid: u32) -> Result<Resident, LoadError> {
    let what = "memory use cannot be read";
    let status = fs::read_to_string(format!("/proc/{pid}/status")).map_err(during(what))?;
    let resident = || Some(Resident { now: bytes(&status, "VmRSS:")?, peak: bytes(&status, "VmHWM:")? });
    resident().ok_or_else(|| during(what)(io::ErrorKind::InvalidData.into()))
}

/// `utime` and `stime` of `/proc/<pid>/stat`. The second field is the program's name and may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user + system)
}

/// The value of a line that begins with `name` and counts kilobytes.
fn bytes(lines: &str, name: &str) -> Option<u64> {
    let line = lines.lines().find_map(|line| line.strip_prefix(name))?;
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
        let rollup = "5500-7ffc [rollup]\nRss: 9 kB\nPss:    1200 kB\nPss_Dirty: 7 kB\n";
        assert_eq!(bytes(rollup, "Pss:"), Some(1200 << 10));
        assert_eq!(bytes("Rss: 9 kB\n", "Pss:"), None);
    }

    #[test]
    fn our_own_process_is_readable() {
        let pid = std::process::id();
        assert!(processor_seconds(pid).is_ok());
        assert!(memory(pid).is_ok_and(|bytes| bytes > 100_000));
        assert!(resident(pid).is_ok_and(|Resident { now, peak }| now > 100_000 && peak >= now));
    }
}
