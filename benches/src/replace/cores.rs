//! Which processors a thread may use.

use std::fs;
use std::io;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::error::{LoadError, during};

const WHAT: &str = "processors cannot be chosen";

/// How the processors are shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cores {
    /// By whom the kernel likes.
    Shared,
    /// The first is the replaced node's alone, all others are for the rest.
    OneForTheNode,
}

impl Cores {
    /// Keeps the calling thread, and what it starts from now on, away from the replaced node.
    ///
    /// # Errors
    /// There is only one processor.
    pub fn apart(self) -> Result<(), LoadError> {
        self.bind(None, &others())
    }

    /// Runs `start` where the replaced node runs; what is started meanwhile stays there.
    ///
    /// # Errors
    /// The system forbids it.
    pub fn with_the_node<T>(self, start: impl FnOnce() -> T) -> Result<T, LoadError> {
        self.bind(None, &first())?;
        let started = start();
        self.apart()?;
        Ok(started)
    }

    /// Moves every thread of a process.
    ///
    /// # Errors
    /// It is gone.
    pub fn place(self, pid: u32, replaced: bool) -> Result<(), LoadError> {
        let set = if replaced { first() } else { others() };
        for task in fs::read_dir(format!("/proc/{pid}/task")).map_err(during(WHAT))? {
            let name = task.map_err(during(WHAT))?.file_name();
            let task = name.to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
            self.bind(task, &set)?;
        }
        Ok(())
    }

    fn bind(self, task: Option<Pid>, set: &CpuSet) -> Result<(), LoadError> {
        match self {
            Self::Shared => Ok(()),
            Self::OneForTheNode => {
                sched_setaffinity(task, set).map_err(io::Error::from).map_err(during(WHAT))
            }
        }
    }
}

fn first() -> CpuSet {
    let mut set = CpuSet::new();
    set.set(0);
    set
}

fn others() -> CpuSet {
    let mut set = CpuSet::new();
    // Those that aren't there are no error, as long as another is.
    (1..CpuSet::MAX_CPU).for_each(|number| set.set(number));
    set
}
