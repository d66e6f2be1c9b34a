//! How large, how long and how dirty a world is.

use chrono::NaiveDate;
use duet_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// Rates of what goes wrong in real event streams; each is a share of the events, in `[0, 0.5]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dirt {
    /// Lines that are cut short, hold a wrong type, an impossible time, or lack a field.
    pub malformed: f64,
    /// Events written twice.
    pub duplicate: f64,
    /// Events that happened one to three days before the file they are in.
    pub late: f64,
    /// Events of a user or an item that no table knows.
    pub unknown_id: f64,
    /// Events from a device whose clock is wrong by minutes, or was reset to years ago.
    pub clock_skew: f64,
}

impl Default for Dirt {
    fn default() -> Self {
        Self { malformed: 0.001, duplicate: 0.005, late: 0.01, unknown_id: 0.001, clock_skew: 0.002 }
    }
}

impl Dirt {
    /// A clean stream.
    pub const NONE: Self = Self { malformed: 0.0, duplicate: 0.0, late: 0.0, unknown_id: 0.0, clock_skew: 0.0 };
}

/// What [`super::generate`] makes. The default is the demo: about 1.3 million events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorldOptions {
    /// Accounts, 1 to 1,000,000,000.
    pub users: u64,
    /// Artists, 10 to 5,000,000.
    pub artists: u32,
    /// Mean number of songs of an artist.
    pub songs_per_artist: f64,
    /// Days of events, 2 to 2,000.
    pub days: u32,
    /// The first day.
    pub start: NaiveDate,
    /// Micro-genres: the length of the taste vectors, 2 to 256.
    pub genres: u32,
    /// Mean number of events of a user on a day on which they come at all.
    pub events_per_active_day: f64,
    /// The truth is written for the mean of the last so many days: the held-out period of `prepare`.
    pub truth_days: u32,
    /// Rates of what goes wrong.
    pub dirt: Dirt,
    /// Same seed and options, same bytes.
    pub seed: u64,
}

impl Default for WorldOptions {
    fn default() -> Self {
        Self {
            users: 8_000,
            artists: 2_000,
            songs_per_artist: 12.0,
            days: 60,
            start: NaiveDate::from_ymd_opt(2025, 3, 3).unwrap_or_default(),
            genres: 48,
            events_per_active_day: 10.0,
            truth_days: 14,
            dirt: Dirt::default(),
            seed: 1,
        }
    }
}

impl WorldOptions {
    /// Checks every value.
    ///
    /// # Errors
    /// [`Error::Input`] naming the option and its valid range.
    pub fn validate(&self) -> Result<()> {
        within("users", self.users as f64, 1.0, 1e9)?;
        within("artists", f64::from(self.artists), 10.0, 5e6)?;
        within("songs_per_artist", self.songs_per_artist, 1.0, 1_000.0)?;
        within("days", f64::from(self.days), 2.0, 2_000.0)?;
        within("genres", f64::from(self.genres), 2.0, 256.0)?;
        within("events_per_active_day", self.events_per_active_day, 1.0, 1_000.0)?;
        within("truth_days", f64::from(self.truth_days), 1.0, f64::from(self.days))?;
        for (name, rate) in [
            ("dirt.malformed", self.dirt.malformed),
            ("dirt.duplicate", self.dirt.duplicate),
            ("dirt.late", self.dirt.late),
            ("dirt.unknown_id", self.dirt.unknown_id),
            ("dirt.clock_skew", self.dirt.clock_skew),
        ] {
            within(name, rate, 0.0, 0.5)?;
        }
        Ok(())
    }
}

fn within(name: &str, value: f64, low: f64, high: f64) -> Result<()> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    Err(Error::input(format!("world: {name} is {value}; valid: {low} to {high}")))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn impossible_values_are_named_with_their_range() {
        WorldOptions::default().validate().unwrap();
        let error = WorldOptions { days: 1, ..WorldOptions::default() }.validate().unwrap_err().to_string();
        assert!(error.contains("days is 1; valid: 2 to 2000"), "{error}");
        let dirt = Dirt { late: f64::NAN, ..Dirt::default() };
        let error = WorldOptions { dirt, ..WorldOptions::default() }.validate().unwrap_err().to_string();
        assert!(error.contains("dirt.late"), "{error}");
    }
}
