//! Texts that many resources have in common.

use std::collections::HashSet;
use std::sync::Arc;

/// One allocation for each text, however many resources say it.
#[derive(Debug, Default)]
pub(super) struct Texts {
    shared: HashSet<Arc<str>>,
    /// At this size those that nobody else holds are dropped. Twice what was left the last time, so that a text costs
    /// a constant number of looks.
    sweep_at: usize,
}

impl Texts {
    /// The shared text that reads like `text`.
    pub(super) fn share(&mut self, text: &str) -> Arc<str> {
        if text.is_empty() {
            return Arc::default();
        }
        if let Some(shared) = self.shared.get(text) {
            return shared.clone();
        }
        if self.shared.len() >= self.sweep_at {
            self.shared.retain(|text| Arc::strong_count(text) > 1);
            self.sweep_at = (2 * self.shared.len()).max(SMALLEST_SWEEP);
            self.shared.shrink_to(self.sweep_at);
        }
        let shared = Arc::<str>::from(text);
        self.shared.insert(shared.clone());
        shared
    }
}

/// Fewer texts are not worth looking through.
const SMALLEST_SWEEP: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_one() {
        let mut texts = Texts::default();
        let (one, other) = (texts.share("shop"), texts.share("shop"));
        assert!(Arc::ptr_eq(&one, &other));
        assert_eq!(&*texts.share("data"), "data");
        assert_eq!(&*texts.share(""), "");
    }

    #[test]
    fn texts_that_nobody_holds_are_dropped_in_time() {
        let mut texts = Texts::default();
        let held: Vec<_> = (0..SMALLEST_SWEEP).map(|number| texts.share(&format!("held {number}"))).collect();
        for number in 0..100_000 {
            texts.share(&format!("passing {number}"));
            assert!(texts.shared.len() <= 2 * held.len() + 1, "{} after {number}", texts.shared.len());
        }
        for text in &held {
            assert!(Arc::ptr_eq(text, &texts.share(text)), "{text} is no longer shared");
        }
    }
}
