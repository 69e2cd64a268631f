//! What a process costs and holds, as Linux tells it in `/proc`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
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

/// Whether it has been stopped by a signal, and not been continued.
///
/// # Panics
/// There is no such process.
pub fn is_stopped(id: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).expect("the process runs");
    let (_, after) = stat.rsplit_once(')').expect("a name in parentheses");
    after.trim_start().starts_with('T')
}

/// The process that others only stand around: its child's child and so on, or itself.
///
/// # Panics
/// There is no such process.
pub fn innermost(id: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).expect("the process runs");
    let first = children.split_whitespace().next();
    first.map_or(id, |child| innermost(child.parse().expect("a process id")))
}

/// Processor time that it has used.
///
/// # Panics
/// There is no such process.
pub fn processor_time(id: u32) -> Duration {
    time_used(&fs::read_to_string(format!("/proc/{id}/stat")).expect("the process runs")).1
}

/// Processor time that each of its threads has used, with the threads' names.
///
/// # Panics
/// There is no such process.
pub fn processor_times(id: u32) -> Vec<(String, Duration)> {
    let threads = fs::read_dir(format!("/proc/{id}/task")).expect("the process runs");
    // A thread that has gone since has used nothing that matters.
    let stats = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("stat")).ok());
    stats.map(|stat| time_used(&stat)).collect()
}

/// The name and the processor time in a `stat` of `/proc`.
fn time_used(stat: &str) -> (String, Duration) {
    // The name, in parentheses, may hold anything; utime and stime are fields 14 and 15, the state is field 3.
    let (before, after) = stat.rsplit_once(')').expect("a name in parentheses");
    let (_, name) = before.split_once('(').expect("a name in parentheses");
    let ticks: u64 = after
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().expect("a number of ticks"))
        .sum();
    (name.to_owned(), Duration::from_millis(ticks * 1_000 / rustix::param::clock_ticks_per_second()))
}

/// What its descriptors are of, and how many of each: `socket`, `anon_inode:[eventpoll]`, the path of a file. Of network
/// namespaces each is told apart, as `net:[number]`, wherever it was opened.
///
/// # Panics
/// There is no such process, or it belongs to somebody else.
pub fn descriptors(id: u32) -> BTreeMap<String, usize> {
    let namespaces = fs::metadata("/proc/self/ns/net").expect("namespaces are files").dev();
    counted(&format!("/proc/{id}/fd"), |entry| {
        let open = fs::metadata(entry)?;
        if open.dev() == namespaces {
            return Ok(format!("net:[{}]", open.ino()));
        }
        let target = fs::read_link(entry)?.display().to_string();
        // The numbers of sockets and pipes say nothing to a reader.
        let kind = target.split_once(":[").map(|(kind, _)| kind);
        Ok(kind.filter(|kind| ["socket", "pipe"].contains(kind)).unwrap_or(&target).to_owned())
    })
}

/// In which network namespaces its threads are (`net:[number]`), and how many in each.
///
/// # Panics
/// As [`descriptors`].
pub fn namespaces_of_threads(id: u32) -> BTreeMap<String, usize> {
    counted(&format!("/proc/{id}/task"), |entry| {
        Ok(fs::read_link(entry.join("ns/net"))?.display().to_string())
    })
}

fn counted(folder: &str, kind: impl Fn(&Path) -> io::Result<String>) -> BTreeMap<String, usize> {
    let mut count = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("the process runs, and is ours") {
        // What has gone since it was listed is not there any more.
        if let Ok(kind) = entry.and_then(|entry| kind(&entry.path())) {
            *count.entry(kind).or_default() += 1;
        }
    }
    count
}
