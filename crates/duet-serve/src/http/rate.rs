//! How many requests a second a key may make.

use std::{num::NonZeroU32, time::Duration};

use duet_core::{Error, Result};
use governor::{
    DefaultDirectRateLimiter, Quota, RateLimiter,
    clock::{Clock, DefaultClock},
};

/// A bucket of requests that fills at a steady rate (GCRA).
pub(crate) struct Rate {
    limiter: DefaultDirectRateLimiter,
    clock: DefaultClock,
}

impl Rate {
    /// `requests_per_second` in the long run, and at most `burst` at once (by default those of a second, rounded up).
    ///
    /// # Errors
    /// [`Error::Input`] saying what would be valid.
    pub(crate) fn new(requests_per_second: f64, burst: Option<u32>) -> Result<Self> {
        let valid = requests_per_second.is_finite() && (1e-4..=1e9).contains(&requests_per_second);
        let quota = valid
            .then(|| Duration::from_secs_f64(1.0 / requests_per_second))
            .and_then(Quota::with_period)
            .ok_or_else(|| Error::input("requests_per_second must be between 0.0001 and 1000000000"))?;
        let burst = NonZeroU32::new(burst.unwrap_or(requests_per_second.ceil() as u32))
            .ok_or_else(|| Error::input("burst must be at least 1"))?;
        Ok(Self { limiter: RateLimiter::direct(quota.allow_burst(burst)), clock: DefaultClock::default() })
    }

    /// Takes one request out of the bucket; where there is none, the whole seconds until there is one.
    pub(crate) fn take(&self) -> Result<(), u64> {
        self.limiter.check().map_err(|until| {
            let wait = until.wait_time_from(self.clock.now());
            (wait.as_secs_f64().ceil() as u64).max(1)
        })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_the_next_is_told_when() {
        let rate = Rate::new(0.001, Some(3)).unwrap();
        assert_eq!([rate.take(), rate.take(), rate.take()], [Ok(()); 3]);
        let wait = rate.take().unwrap_err();
        assert!((990..=1000).contains(&wait), "{wait}");
    }

    #[test]
    fn a_burst_is_by_default_a_second() {
        let rate = Rate::new(1.5, None).unwrap();
        assert_eq!([rate.take(), rate.take()], [Ok(()); 2]);
        assert_eq!(rate.take(), Err(1));
    }

    #[test]
    fn a_rate_must_be_one() {
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(Rate::new(bad, None).is_err(), "{bad}");
        }
        assert!(Rate::new(1.0, Some(0)).is_err());
    }
}
