//! How long a drain may take.

/// The deadline of a drain in milliseconds, from what the environment says.
///
/// `termination_deadline_ms` is `CONNECTION_TERMINATION_DEADLINE` and wins. Else it follows from `grace_period_s`,
/// `TERMINATION_GRACE_PERIOD_SECONDS`, which the DaemonSet sets to its own grace period: the kubelet kills at the end
/// of it, so the drain ends 5 s before (1 s when the period is 10 s or less), to have time to say what it cut.
/// With neither it is 5 s. These are Istio's rules, so that a chart written for its ztunnel means the same here.
///
/// A grace period of 0 gives 1 s like those of 1 and 2 s. Taken literally (0 - 1) it would be a drain without end;
/// and a drain of 0 s could not even tell the peers.
///
/// ```
/// use drain::deadline_ms;
///
/// assert_eq!(deadline_ms(None, Some(30)), 25_000);
/// assert_eq!(deadline_ms(Some(90_000), Some(30)), 90_000);
/// ```
pub fn deadline_ms(termination_deadline_ms: Option<u64>, grace_period_s: Option<u64>) -> u64 {
    match (termination_deadline_ms, grace_period_s) {
        (Some(deadline_ms), _) => deadline_ms,
        (None, Some(seconds @ 11..)) => (seconds - 5).saturating_mul(1_000),
        (None, Some(seconds)) => seconds.saturating_sub(1).max(1) * 1_000,
        (None, None) => 5_000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_environment() {
        let table = [
            // CONNECTION_TERMINATION_DEADLINE, TERMINATION_GRACE_PERIOD_SECONDS, the deadline (ms)
            (None, None, 5_000),
            (None, Some(30), 25_000),
            (None, Some(11), 6_000),
            (None, Some(10), 9_000),
            (None, Some(3), 2_000),
            (None, Some(2), 1_000),
            (None, Some(1), 1_000),
            (None, Some(0), 1_000),
            (None, Some(u64::MAX), u64::MAX),
            (Some(0), Some(30), 0),
            (Some(1_500), None, 1_500),
            (Some(60_000), Some(30), 60_000),
        ];
        for (explicit, grace_period, expected) in table {
            assert_eq!(deadline_ms(explicit, grace_period), expected, "{explicit:?}, {grace_period:?}");
        }
    }
}
