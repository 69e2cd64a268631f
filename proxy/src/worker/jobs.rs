//! Work that waits for its turn: one job of each pod after the other, so that a pod with thousands of busy connections
//! delays the others by one of them and not by all.

use std::collections::{HashMap, VecDeque};

use super::core::Job;
use crate::pod::Pod;

/// The owner's note: in whose turn its job is done, and whether it waits already.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queued {
    pod: u64,
    waits: bool,
}

impl Queued {
    /// Work for this pod.
    pub(super) fn of(pod: &Pod) -> Self {
        Self { pod: pod.number(), waits: false }
    }

    /// The worker's own work, which has a turn like a pod's.
    pub(super) fn own() -> Self {
        Self { pod: u64::MAX, waits: false }
    }

    /// The job is being done.
    pub(super) fn done(&mut self) {
        self.waits = false;
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    /// First come, first served.
    of_pod: HashMap<u64, VecDeque<Job>>,
    /// Those pods that have any, each once.
    turns: VecDeque<u64>,
    count: usize,
}

impl Jobs {
    /// Puts a job at the end of its pod's queue, once.
    pub(super) fn push(&mut self, job: Job, note: &mut Queued) {
        if std::mem::replace(&mut note.waits, true) {
            return;
        }
        let jobs = self.of_pod.entry(note.pod).or_default();
        if jobs.is_empty() {
            self.turns.push_back(note.pod);
        }
        jobs.push_back(job);
        self.count += 1;
    }

    /// The next job of the pod whose turn it is.
    pub(super) fn pop(&mut self) -> Option<Job> {
        let pod = self.turns.pop_front()?;
        let jobs = self.of_pod.get_mut(&pod)?;
        let job = jobs.pop_front()?;
        self.count -= 1;
        if !jobs.is_empty() {
            self.turns.push_back(pod);
        }
        Some(job)
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Nothing comes of this pod any more.
    pub(super) fn forget(&mut self, pod: &Pod) {
        let jobs = self.of_pod.remove(&pod.number());
        self.count -= jobs.map_or(0, |jobs| jobs.len());
        self.turns.retain(|turn| *turn != pod.number());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(pod: u64) -> Queued {
        Queued { pod, waits: false }
    }

    #[test]
    fn a_flooded_pod_delays_the_others_by_one_job() {
        let mut jobs = Jobs::default();
        for key in 0..1000 {
            jobs.push(Job::Pair(key), &mut note(1));
        }
        jobs.push(Job::User(1), &mut note(2));
        jobs.push(Job::User(2), &mut note(3));
        let first: Vec<_> = std::iter::from_fn(|| jobs.pop()).take(5).collect();
        assert_eq!(first, [Job::Pair(0), Job::User(1), Job::User(2), Job::Pair(1), Job::Pair(2)]);
    }

    #[test]
    fn a_job_waits_once_and_comes_again_after_its_turn() {
        let mut jobs = Jobs::default();
        let mut note = note(1);
        jobs.push(Job::Pair(0), &mut note);
        jobs.push(Job::Pair(0), &mut note);
        assert_eq!(jobs.pop(), Some(Job::Pair(0)));
        assert_eq!(jobs.pop(), None);
        note.done();
        jobs.push(Job::Pair(0), &mut note);
        assert_eq!(jobs.len(), 1);
        assert_eq!(jobs.pop(), Some(Job::Pair(0)));
    }
}
