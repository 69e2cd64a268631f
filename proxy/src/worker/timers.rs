//! Deadlines of one worker, in the order in which they fall due.

use std::collections::BTreeSet;

/// A set of deadlines, at most one for each key. Times are milliseconds on the worker's clock.
#[derive(Debug)]
pub(super) struct Timers<K> {
    due: BTreeSet<(u64, K)>,
}

impl<K: Copy + Ord> Timers<K> {
    pub(super) fn new() -> Self {
        Self { due: BTreeSet::new() }
    }

    /// Moves the deadline of `key` from `armed` to `at`; `armed` is the caller's note of what is set.
    pub(super) fn set(&mut self, key: K, armed: &mut Option<u64>, at: Option<u64>) {
        if *armed == at {
            return;
        }
        if let Some(old) = armed.take() {
            self.due.remove(&(old, key));
        }
        if let Some(at) = at {
            self.due.insert((at, key));
            *armed = Some(at);
        }
    }

    /// Milliseconds until the first deadline; `None` if there is none.
    pub(super) fn wait(&self, now: u64) -> Option<u64> {
        self.due.first().map(|(at, _)| at.saturating_sub(now))
    }

    /// Takes the first key whose deadline has come. The owner's note of it must be cleared.
    pub(super) fn pop(&mut self, now: u64) -> Option<K> {
        let (at, key) = *self.due.first()?;
        (at <= now).then(|| {
            self.due.remove(&(at, key));
            key
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Timers;

    #[test]
    fn a_key_has_one_deadline_and_they_come_in_order() {
        let mut timers = Timers::new();
        let (mut a, mut b) = (None, None);
        timers.set('a', &mut a, Some(50));
        timers.set('b', &mut b, Some(30));
        timers.set('a', &mut a, Some(20));
        assert_eq!(timers.wait(10), Some(10));
        assert_eq!(timers.pop(19), None);
        assert_eq!(timers.pop(100), Some('a'));
        assert_eq!(timers.pop(100), Some('b'));
        assert_eq!(timers.pop(100), None, "the earlier deadline of `a` was replaced, not added to");
        timers.set('b', &mut b, None);
        assert_eq!(timers.wait(0), None);
    }
}
