//! When the next tick is due: `start + n * period`, whatever the ticks take.

use std::time::Duration;

/// The number of the tick after tick `last`, and how many were missed: ticks never pile up.
///
/// `elapsed`: since the start, at which tick 0 was due.
pub fn next_tick(elapsed: Duration, period: Duration, last: u64) -> (u64, u64) {
    let due = elapsed.as_nanos().div_ceil(period.as_nanos().max(1));
    let next = u64::try_from(due).unwrap_or(u64::MAX).max(last + 1);
    (next, next - last - 1)
}

/// The moment of tick `number`, since the start.
pub(super) fn due(period: Duration, number: u64) -> Duration {
    period.saturating_mul(u32::try_from(number).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_do_not_drift_and_missed_ones_are_counted() {
        let at = |seconds: f64| Duration::from_secs_f64(seconds);
        let hour = at(3600.0);
        assert_eq!(next_tick(at(0.5), hour, 0), (1, 0));
        assert_eq!(next_tick(at(3599.9), hour, 0), (1, 0));
        // Done at the very moment: that one is taken.
        assert_eq!(next_tick(at(3600.0), hour, 0), (1, 0));
        assert_eq!(next_tick(at(3600.1), hour, 0), (2, 1));
        assert_eq!(next_tick(at(4.5 * 3600.0), hour, 1), (5, 3));
        // A tick that began late by a hair and took no time.
        assert_eq!(next_tick(at(7200.001), hour, 2), (3, 0));
        assert_eq!(due(hour, 5), at(5.0 * 3600.0));
    }
}
