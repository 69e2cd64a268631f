//! How long to wait: for the next attempt, and for an answer.

/// Times in milliseconds.
pub(super) struct Pace {
    random: fastrand::Rng,
    /// Attempts that have failed since the last one that brought everything.
    failed: u32,
    /// Those of them that brought no answer. Others may lie in between: with several replicas a slow one and one that
    /// is down take turns.
    silent: u32,
}

impl Pace {
    pub(super) fn new(random: fastrand::Rng) -> Self {
        Self { random, failed: 0, silent: 0 }
    }

    /// How long a stream may say nothing before all is there.
    ///
    /// Long enough for a healthy server, short enough that a hanging one is left for another. A server that is merely
    /// slow, as istiod is when it starts in a large mesh with all nodes waiting, gets more time after three attempts:
    /// a mesh that gives it up again and again never comes up, and makes it slower.
    pub(super) fn patience(&self) -> u64 {
        let doublings = self.silent.saturating_sub(SILENT_BEFORE_DOUBLING - 1).min(2);
        PATIENCE << doublings
    }

    pub(super) fn was_silent(&mut self) {
        self.silent = self.silent.saturating_add(1);
    }

    /// Until the next attempt. Exponential with full jitter: nodes that lost the same istiod come back spread out.
    pub(super) fn delay(&mut self) -> u64 {
        let most = BASE.saturating_mul(2_u64.saturating_pow(self.failed)).min(CAP);
        self.failed = self.failed.saturating_add(1);
        self.random.u64(0..=most)
    }

    /// An attempt has brought everything.
    pub(super) fn reset(&mut self) {
        self.failed = 0;
        self.silent = 0;
    }
}

const BASE: u64 = 250;
const CAP: u64 = 15_000;
const PATIENCE: u64 = 10_000;
const SILENT_BEFORE_DOUBLING: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_anything_up_to_a_doubling_bound() {
        for (failed, bound) in
            [(0, 250), (1, 500), (2, 1_000), (5, 8_000), (6, 15_000), (7, 15_000), (200, 15_000)]
        {
            let delays = (0..500).map(|seed| {
                let mut pace = Pace::new(fastrand::Rng::with_seed(seed));
                for _ in 0..failed {
                    pace.delay();
                }
                pace.delay()
            });
            let delays: Vec<u64> = delays.collect();
            assert!(delays.iter().all(|delay| *delay <= bound), "{failed}");
            assert!(delays.iter().any(|delay| *delay > bound * 9 / 10), "{failed}");
            assert!(delays.iter().any(|delay| *delay < bound / 10), "{failed}");
        }
    }

    #[test]
    fn patience_grows_after_three_silent_attempts_and_is_reset() {
        let mut pace = Pace::new(fastrand::Rng::with_seed(1));
        let mut patience = Vec::new();
        for _ in 0..7 {
            patience.push(pace.patience());
            pace.was_silent();
        }
        assert_eq!(patience, [10_000, 10_000, 10_000, 20_000, 40_000, 40_000, 40_000]);
        pace.reset();
        assert_eq!(pace.patience(), 10_000);
    }
}
