//! When requests are due.

use std::time::Duration;

/// Requests a second, from the first moment to the last.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rates {
    first: f64,
    last: f64,
}

/// `R`, or `R..R`.
pub(crate) fn rates(text: &str) -> Result<Rates, String> {
    let rate = |text: &str| {
        let rate = text.trim().parse::<f64>().ok().filter(|rate| rate.is_finite() && *rate > 0.0);
        rate.ok_or_else(|| format!("{text:?} is no rate: expected requests a second above 0, or FIRST..LAST"))
    };
    match text.split_once("..") {
        Some((first, last)) => Ok(Rates { first: rate(first)?, last: rate(last)? }),
        None => rate(text).map(|rate| Rates { first: rate, last: rate }),
    }
}

/// The moments at which requests are due.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    rates: Option<Rates>,
    seconds: f64,
}

impl Schedule {
    /// `rates` over so many seconds; without rates, a request is due as soon as a connection is free.
    pub(super) fn new(rates: Option<Rates>, seconds: f64) -> Self {
        Self { rates, seconds }
    }

    /// When request `number` (from 0) is due, after the start; nothing where the schedule is over.
    ///
    /// With a rate that goes from `a` to `b` over `s` seconds, `a t + (b - a) t^2 / 2 s` requests are due by `t`; this is its inverse.
    pub(super) fn due(&self, number: u64, now: Duration) -> Option<Duration> {
        let Some(Rates { first, last }) = self.rates else {
            return (now.as_secs_f64() < self.seconds).then_some(now);
        };
        let number = number as f64;
        if number >= (first + last) / 2.0 * self.seconds {
            return None;
        }
        let slope = (last - first) / self.seconds;
        // The root in a form that is exact for a slope of 0, too.
        let at = 2.0 * number / (first + (first * first + 2.0 * slope * number).max(0.0).sqrt());
        Some(Duration::from_secs_f64(at))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn requests_are_due_at_the_rate() {
        let due = |rate: &str, number| Schedule::new(Some(rates(rate).unwrap()), 10.0).due(number, Duration::ZERO);
        assert_eq!(due("100", 0), Some(Duration::ZERO));
        assert_eq!(due("100", 250), Some(Duration::from_millis(2500)));
        assert_eq!(due("100", 999), Some(Duration::from_millis(9990)));
        assert_eq!(due("100", 1000), None);
        // From 0.1 to 200 a second: half of them are due after 7.07 of the 10 seconds.
        let half = due("0.1..200", 500).unwrap().as_secs_f64();
        assert!((half - 7.07).abs() < 0.01, "{half}");
        assert!(due("0.1..200", 1000).is_some() && due("0.1..200", 1001).is_none());
        // Falling rates are the same backwards.
        let falling = due("200..0.1", 500).unwrap().as_secs_f64();
        assert!((falling - 2.93).abs() < 0.01, "{falling}");
    }

    #[test]
    fn without_a_rate_the_clock_alone_ends_it() {
        let schedule = Schedule::new(None, 2.0);
        assert_eq!(schedule.due(7, Duration::from_secs(1)), Some(Duration::from_secs(1)));
        assert_eq!(schedule.due(7, Duration::from_secs(2)), None);
    }

    #[test]
    fn what_is_no_rate_is_named() {
        for text in ["", "-1", "0", "a", "1..", "inf"] {
            assert!(rates(text).unwrap_err().contains("no rate"), "{text}");
        }
    }
}
