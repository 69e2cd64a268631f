//! What a peer may cost us beyond what flow control bounds.

use crate::error::ThawError;
use crate::event::StreamId;
use crate::snapshot::{Reader, Writer};
use crate::time::Time;

/// A budget that refills with time. It is kept as the instant at which it will be full again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Budget {
    full_at: Time,
}

/// How fast a budget refills and how much it holds.
pub(super) struct Rate {
    /// Milliseconds that one unit takes to come back.
    pub(super) each: u64,
    /// Units that may be spent at once.
    pub(super) burst: u64,
}

/// Streams that end badly by the peer's doing: its RST_STREAM, our refusals and stream errors. A client that drops
/// all its streams at once must be able to.
pub(super) const RESETS: Rate = Rate { each: 10, burst: 500 };

/// Frames that do nothing: empty DATA, SETTINGS, PRIORITY, unknown ones.
pub(super) const TRIFLES: Rate = Rate { each: 5, burst: 2000 };

impl Budget {
    /// Spends one unit; false if there is none.
    pub(super) fn spend(&mut self, now: Time, rate: &Rate) -> bool {
        let full_at = self.full_at.max(now).after(rate.each);
        let allowed = full_at.since(now) <= rate.each * rate.burst;
        if allowed {
            self.full_at = full_at;
        }
        allowed
    }

    pub(super) fn freeze(self, state: &mut Writer, now: Time) {
        state.left(now, self.full_at);
    }

    pub(super) fn thaw(state: &mut Reader<'_>) -> Result<Self, ThawError> {
        Ok(Self { full_at: state.left()? })
    }

    pub(super) fn rebase(&mut self, now: Time) {
        self.full_at = now.after(self.full_at.0);
    }
}

/// Streams that the peer may still send on because it didn't know yet that we had reset them; and a few that ended
/// well, where it must not.
///
/// A peer answers frames in order: once it has answered a PING that we sent behind a RST_STREAM, it has seen that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Recent {
    /// Reset since our last PING.
    fresh: Vec<StreamId>,
    /// Reset before our last PING, which isn't answered yet.
    asked: Vec<StreamId>,
    /// Ended by END_STREAM in both directions.
    ended: Vec<StreamId>,
}

impl Recent {
    pub(super) fn push_reset(&mut self, id: StreamId) {
        if self.fresh.len() + self.asked.len() == MAX_RESET {
            let oldest = if self.asked.is_empty() { &mut self.fresh } else { &mut self.asked };
            oldest.remove(0);
        }
        self.fresh.push(id);
    }

    pub(super) fn push_ended(&mut self, id: StreamId) {
        if self.ended.len() == MAX_ENDED {
            self.ended.remove(0);
        }
        self.ended.push(id);
    }

    /// We reset it, and the peer may not know.
    pub(super) fn was_reset(&self, id: StreamId) -> bool {
        self.fresh.contains(&id) || self.asked.contains(&id)
    }

    /// It is known to have ended in both directions.
    pub(super) fn has_ended(&self, id: StreamId) -> bool {
        self.ended.contains(&id)
    }

    /// A PING is queued.
    pub(super) fn asked(&mut self) {
        self.asked.append(&mut self.fresh);
    }

    /// That PING was answered.
    pub(super) fn answered(&mut self) {
        self.asked = Vec::new();
    }

    pub(super) fn freeze(&self, state: &mut Writer) {
        for list in [&self.fresh, &self.asked, &self.ended] {
            state.count(list.len());
            for id in list {
                state.u32(id.get());
            }
        }
    }

    pub(super) fn thaw(state: &mut Reader<'_>) -> Result<Self, ThawError> {
        let mut list = |most| {
            let count = state.count()?;
            if count > most {
                return Err(ThawError::Invalid("recent streams"));
            }
            (0..count).map(|_| stream_id(state)).collect()
        };
        Ok(Self { fresh: list(MAX_RESET)?, asked: list(MAX_RESET)?, ended: list(MAX_ENDED)? })
    }
}

/// Reads a stream id that must not be 0.
pub(super) fn stream_id(state: &mut Reader<'_>) -> Result<StreamId, ThawError> {
    StreamId::new(state.u32()?).ok_or(ThawError::Invalid("stream id"))
}

/// More than the streams that can end between two PINGs by an honest peer's doing.
const MAX_RESET: usize = 512;

/// Enough to name the rule that a peer breaks.
const MAX_ENDED: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_allows_a_burst_and_then_its_rate() {
        let mut budget = Budget::default();
        let now = Time(5_000);
        let spent = (0..1000).filter(|_| budget.spend(now, &RESETS)).count();
        assert_eq!(spent, 500);
        assert!(!budget.spend(now.after(9), &RESETS));
        assert!(budget.spend(now.after(10), &RESETS));
        assert!(!budget.spend(now.after(19), &RESETS));
    }

    #[test]
    fn a_reset_stream_is_remembered_until_a_later_ping_is_answered() {
        let id = |n| StreamId::new(n).unwrap();
        let mut recent = Recent::default();
        recent.push_reset(id(1));
        recent.asked();
        recent.push_reset(id(3));
        recent.answered();
        assert!(!recent.was_reset(id(1)) && recent.was_reset(id(3)));
        for n in 0..600 {
            recent.push_reset(id(5 + 2 * n));
        }
        assert!(!recent.was_reset(id(3)) && recent.was_reset(id(1203)));
    }
}
