//! Flow control (RFC 9113 section 5.2): what we may send, and what the peer may send us.

use crate::error::ThawError;
use crate::frame::MAX_WINDOW;
use crate::snapshot::{Reader, Writer};

/// A window would exceed 2^31-1, or a peer sent more than its window: FLOW_CONTROL_ERROR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overflow;

/// What the peer lets us send, in bytes. Negative after its SETTINGS shrank it below what was under way (section
/// 6.9.2): window 60,000 used up, then SETTINGS say 20,000 instead of 60,000: -40,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SendWindow(i64);

impl SendWindow {
    pub(crate) fn new(size: u32) -> Self {
        Self(size.into())
    }

    /// Payload that may be sent now.
    pub(crate) fn room(self) -> usize {
        usize::try_from(self.0).unwrap_or(0)
    }

    /// Payload was sent, at most [`SendWindow::room`].
    pub(crate) fn spend(&mut self, n: usize) {
        debug_assert!(n <= self.room());
        self.0 -= n as i64;
    }

    /// WINDOW_UPDATE, or a change of SETTINGS_INITIAL_WINDOW_SIZE.
    pub(crate) fn change(&mut self, by: i64) -> Result<(), Overflow> {
        let window = self.0 + by;
        if window > MAX_WINDOW.into() {
            return Err(Overflow);
        }
        self.0 = window;
        Ok(())
    }

    pub(crate) fn freeze(self, state: &mut Writer) {
        state.i64(self.0);
    }

    pub(crate) fn thaw(state: &mut Reader<'_>) -> Result<Self, ThawError> {
        window(state).map(Self)
    }
}

/// What we let the peer send, and how it grows.
///
/// ```text
///     ├── held: received, not consumed ──┼── window: what the peer may still send ──┤
/// ```
///
/// A target says how far both may go. It doubles each time that as much was consumed without the reader ever
/// falling behind, and falls back to its floor when the reader does. A window once granted is never taken back; it
/// only isn't renewed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReceiveWindow {
    window: i64,
    held: u32,
    target: u32,
    /// Consumed since the target last changed.
    consumed: u32,
    floor: u32,
    ceiling: u32,
}

impl ReceiveWindow {
    /// A window that the peer knows to be `size`, with a target from `floor` to `ceiling`.
    pub(crate) fn new(size: u32, floor: u32, ceiling: u32) -> Self {
        Self { window: size.into(), held: 0, target: floor, consumed: 0, floor, ceiling }
    }

    /// The peer sent `n` bytes. Nothing (an empty DATA frame that ends a stream) is always allowed, even where the window
    /// is negative.
    pub(crate) fn receive(&mut self, n: u32) -> Result<(), Overflow> {
        if n > 0 && i64::from(n) > self.window {
            return Err(Overflow);
        }
        self.window -= i64::from(n);
        self.held += n;
        Ok(())
    }

    /// Received and not consumed, in bytes.
    pub(crate) fn held(&self) -> u32 {
        self.held
    }

    /// `n` held bytes, or all, were handed on; `keeps_up` if the reader has nothing waiting for it.
    pub(crate) fn consume(&mut self, n: u32, keeps_up: bool) {
        let n = n.min(self.held);
        self.held -= n;
        if !keeps_up {
            return;
        }
        self.consumed = self.consumed.saturating_add(n);
        if self.consumed >= self.target {
            self.consumed = 0;
            self.target = self.target.saturating_mul(2).min(self.ceiling);
        }
    }

    /// The reader fell behind.
    pub(crate) fn fall_back(&mut self) {
        self.target = self.floor;
        self.consumed = 0;
    }

    /// Our SETTINGS took effect at the peer and changed its window.
    pub(crate) fn shrink(&mut self, by: u32) {
        self.window -= i64::from(by);
    }

    /// What a stream's WINDOW_UPDATE should say; 0 while less than half a target is to be given.
    pub(crate) fn stream_due(&self) -> u32 {
        self.due(self.target.saturating_sub(self.held), self.target / 2)
    }

    /// What the connection's WINDOW_UPDATE should say. Payload held for one slow stream doesn't count against the
    /// target, only against the ceiling: the other streams go on at full speed.
    pub(crate) fn connection_due(&self) -> u32 {
        let limit = self.target.min(self.ceiling.saturating_sub(self.held));
        self.due(limit, limit / 2)
    }

    /// Adds what a WINDOW_UPDATE grants.
    pub(crate) fn grant(&mut self, n: u32) {
        self.window += i64::from(n);
    }

    fn due(&self, limit: u32, least: u32) -> u32 {
        let due = i64::from(limit) - self.window;
        if due < i64::from(least.max(1)) { 0 } else { u32::try_from(due).unwrap_or(0).min(MAX_WINDOW) }
    }

    pub(crate) fn freeze(&self, state: &mut Writer) {
        state.i64(self.window);
        state.u32(self.held);
        state.u32(self.target);
        state.u32(self.consumed);
    }

    /// Floor and ceiling come from the configuration.
    pub(crate) fn thaw(state: &mut Reader<'_>, floor: u32, ceiling: u32) -> Result<Self, ThawError> {
        let window = window(state)?;
        let (held, target, consumed) = (state.u32()?, state.u32()?, state.u32()?);
        let plausible = (floor..=ceiling).contains(&target) && consumed <= target && held <= MAX_WINDOW;
        if !plausible {
            return Err(ThawError::Invalid("receive window"));
        }
        Ok(Self { window, held, target, consumed, floor, ceiling })
    }
}

fn window(state: &mut Reader<'_>) -> Result<i64, ThawError> {
    let window = state.i64()?;
    let most = i64::from(MAX_WINDOW);
    if (-most..=most).contains(&window) { Ok(window) } else { Err(ThawError::Invalid("window")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_send_window_may_be_negative_but_never_too_large() {
        let mut window = SendWindow::new(60_000);
        window.spend(60_000);
        window.change(20_000 - 60_000).unwrap();
        assert_eq!(window.room(), 0);
        window.change(40_001).unwrap();
        assert_eq!(window.room(), 1);
        assert_eq!(window.change(i64::from(MAX_WINDOW)), Err(Overflow));
        window.change(i64::from(MAX_WINDOW) - 1).unwrap();
    }

    #[test]
    fn updates_come_at_half_a_target_and_the_target_grows_with_the_reader() {
        let mut window = ReceiveWindow::new(100, 100, 400);
        window.receive(49).unwrap();
        window.consume(49, true);
        assert_eq!(window.stream_due(), 0);
        window.receive(1).unwrap();
        window.consume(1, true);
        assert_eq!(window.stream_due(), 50);
        window.grant(50);
        window.receive(100).unwrap();
        assert_eq!(window.receive(1), Err(Overflow));
        window.consume(100, true);
        assert_eq!(window.stream_due(), 200, "a whole target was consumed: doubled");
        window.grant(200);
        for _ in 0..9 {
            window.receive(100).unwrap();
            window.consume(100, true);
            window.grant(window.stream_due());
        }
        assert!(window.target == 400, "never beyond the ceiling");
    }

    #[test]
    fn an_empty_frame_needs_no_window() {
        let mut window = ReceiveWindow::new(100, 100, 400);
        window.receive(60).unwrap();
        window.shrink(50);
        assert_eq!(window.receive(0), Ok(()));
        assert_eq!(window.receive(1), Err(Overflow));
    }

    #[test]
    fn a_slow_reader_gets_no_more_than_the_floor() {
        let mut window = ReceiveWindow::new(400, 100, 400);
        window.receive(300).unwrap();
        window.fall_back();
        window.consume(100, false);
        assert_eq!(window.stream_due(), 0);
        window.receive(100).unwrap();
        window.consume(250, false);
        assert_eq!((window.held(), window.stream_due()), (50, 50));
    }

    #[test]
    fn one_slow_stream_does_not_starve_the_connection() {
        let mut window = ReceiveWindow::new(100, 100, 400);
        for held in [100, 200, 300] {
            window.receive(100).unwrap();
            assert_eq!((window.held(), window.connection_due()), (held, 100));
            window.grant(100);
        }
        window.receive(100).unwrap();
        assert_eq!(window.connection_due(), 0, "the ceiling bounds what is held");
        window.consume(10, false);
        assert_eq!(window.connection_due(), 10);
    }
}
