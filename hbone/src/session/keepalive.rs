//! PING: whether the peer still answers (RFC 9113 section 6.7).

use crate::error::ThawError;
use crate::settings::SessionConfig;
use crate::snapshot::{Reader, Writer};
use crate::time::Time;

/// ```text
///   Idle ──interval passed: PING──> Waiting ──answer──> Idle
///                                      └──timeout──> the connection is given up
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keepalive {
    /// The next PING is due then.
    Idle { next: Time },
    /// A PING is out; its answer must be there by then.
    Waiting { deadline: Time },
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    Ping,
    GiveUp,
}

impl Keepalive {
    pub(super) fn new(now: Time, config: &SessionConfig) -> Self {
        Self::Idle { next: now.after(config.ping_interval) }
    }

    /// When to call [`Keepalive::expire`] next.
    pub(super) fn timeout(self) -> Time {
        match self {
            Self::Idle { next } => next,
            Self::Waiting { deadline } => deadline,
        }
    }

    /// Time has come to `now`.
    pub(super) fn expire(&mut self, now: Time, config: &SessionConfig) -> Due {
        match *self {
            _ if now < self.timeout() => Due::Nothing,
            Self::Idle { .. } => {
                *self = Self::Waiting { deadline: now.after(config.ping_timeout) };
                Due::Ping
            }
            Self::Waiting { .. } => Due::GiveUp,
        }
    }

    /// An answer came; false if none was awaited.
    pub(super) fn answered(&mut self, now: Time, config: &SessionConfig) -> bool {
        let awaited = matches!(self, Self::Waiting { .. });
        if awaited {
            *self = Self::new(now, config);
        }
        awaited
    }

    pub(super) fn freeze(self, state: &mut Writer, now: Time) {
        state.bool(matches!(self, Self::Waiting { .. }));
        state.left(now, self.timeout());
    }

    pub(super) fn thaw(state: &mut Reader<'_>) -> Result<Self, ThawError> {
        let waiting = state.bool()?;
        let at = state.left()?;
        Ok(if waiting { Self::Waiting { deadline: at } } else { Self::Idle { next: at } })
    }

    pub(super) fn rebase(&mut self, now: Time) {
        let (Self::Idle { next: at } | Self::Waiting { deadline: at }) = self;
        *at = now.after(at.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pings_ten_seconds_after_the_start_and_after_each_answer() {
        let config = SessionConfig::client();
        let mut keepalive = Keepalive::new(Time(500), &config);
        assert_eq!(keepalive.expire(Time(10_499), &config), Due::Nothing);
        assert_eq!(keepalive.expire(Time(10_500), &config), Due::Ping);
        assert_eq!(keepalive.timeout(), Time(30_500));
        assert!(keepalive.answered(Time(12_000), &config));
        assert!(!keepalive.answered(Time(12_000), &config));
        assert_eq!(keepalive.expire(Time(22_000), &config), Due::Ping);
        assert_eq!(keepalive.expire(Time(41_999), &config), Due::Nothing);
        assert_eq!(keepalive.expire(Time(42_000), &config), Due::GiveUp);
    }
}
