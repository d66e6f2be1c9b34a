//! Where "now" comes from.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use chrono::{DateTime, SecondsFormat, Utc};

/// The time of day in milliseconds since 1970, UTC: the system's, or one that is turned by hand (tests, simulations).
///
/// Deadlines and latencies don't use it: those are of the machine, whatever day it is in the world it serves.
#[derive(Debug, Clone)]
pub struct Clock(Source);

#[derive(Debug, Clone)]
enum Source {
    System,
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands at `start_ms` until it is set; its clones show the same time.
    pub fn manual(start_ms: i64) -> Self {
        Self(Source::Manual(Arc::new(AtomicI64::new(start_ms))))
    }

    /// Milliseconds since 1970, UTC.
    pub fn now_ms(&self) -> i64 {
        match &self.0 {
            Source::System => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
            }
            Source::Manual(now) => now.load(Ordering::Acquire),
        }
    }

    /// Sets a manual clock and its clones; the system's clock is not for us to set.
    pub fn set_ms(&self, ms: i64) {
        if let Source::Manual(now) = &self.0 {
            now.store(ms, Ordering::Release);
        }
    }

    /// Now as RFC 3339 in UTC, with milliseconds.
    pub fn now_text(&self) -> String {
        let now = DateTime::<Utc>::from_timestamp_millis(self.now_ms()).unwrap_or_default();
        now.to_rfc3339_opts(SecondsFormat::Millis, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_stands_and_its_clones_follow() {
        let clock = Clock::manual(1_764_050_400_123);
        let other = clock.clone();
        assert_eq!(other.now_text(), "2025-11-25T06:00:00.123Z");
        clock.set_ms(0);
        assert_eq!((other.now_ms(), other.now_text().as_str()), (0, "1970-01-01T00:00:00.000Z"));
    }

    #[test]
    fn the_system_clock_is_not_set() {
        let clock = Clock::system();
        clock.set_ms(0);
        assert!(clock.now_ms() > 1_700_000_000_000);
    }
}
