//! What `prepare` reads and how it cuts it.

use std::path::{Path, PathBuf};

use chrono::NaiveDate;
use duet_core::{Error, Result};
use fs_err as fs;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::split::{SplitSpec, TimePoint};

const DAY_MS: i64 = 86_400_000;

/// Where the held-out period starts; always a midnight, UTC.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HeldOut {
    /// Nothing: everything up to the last full day is training data.
    Nothing,
    /// The last so many full days of the events.
    LastDays(u32),
    /// The first day that holds this share of the positive rows before or in it, in `(0, 1)`.
    Quantile(f64),
    /// This day is the first held out.
    From(NaiveDate),
}

impl HeldOut {
    /// The form of a split on the command line, with its gap in days.
    ///
    /// # Errors
    /// [`Error::Input`] for a split that is not by time, an instant that is no midnight, a gap that is not whole days.
    pub fn from_split(split: &SplitSpec) -> Result<(Self, u32)> {
        let SplitSpec::GlobalTime { at, gap_ms } = split else {
            return match split {
                SplitSpec::None => Ok((Self::Nothing, 0)),
                _ => Err(Error::input(
                    "prepare splits by time only; valid: none, global-time[:QUANTILE|:DATE][,gap=DAYSd]",
                )),
            };
        };
        let whole_days = |ms: i64, what: &str| match (ms % DAY_MS, i32::try_from(ms / DAY_MS)) {
            (0, Ok(days)) => Ok(days),
            _ => {
                Err(Error::input(format!("prepare: the {what} must be whole days (UTC), for features are as of days")))
            }
        };
        let gap = whole_days(*gap_ms, "gap")?.unsigned_abs();
        let held_out = match at {
            TimePoint::Quantile(quantile) => Self::Quantile(*quantile),
            TimePoint::Instant(ms) => {
                Self::From(NaiveDate::from_epoch_days(whole_days(*ms, "split date")?).unwrap_or_default())
            }
        };
        Ok((held_out, gap))
    }
}

/// How much a kind of positive event says; a row's weight is the largest of its events'.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Strengths {
    /// A click on an artist.
    pub click: f32,
    /// A song heard for at least 30 s or half of its length.
    pub listen: f32,
    /// A follow.
    pub follow: f32,
}

impl Default for Strengths {
    fn default() -> Self {
        Self { click: 0.5, listen: 1.0, follow: 2.0 }
    }
}

/// The secret that turns user ids into pseudonyms: HMAC-SHA-256, the first 128 bits as 32 hex digits.
///
/// The same key gives the same pseudonym in every run, and nobody without it can go back or join two datasets.
#[derive(Clone)]
pub struct UserKey(Vec<u8>);

impl std::fmt::Debug for UserKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("UserKey(..)")
    }
}

impl UserKey {
    /// Shortest key accepted, in bytes.
    pub const MIN_BYTES: usize = 16;

    /// A key from its bytes.
    ///
    /// # Errors
    /// [`Error::Input`] if it is shorter than [`Self::MIN_BYTES`].
    pub fn new(bytes: &[u8]) -> Result<Self> {
        if bytes.len() < Self::MIN_BYTES {
            return Err(Error::input(format!(
                "the user key has {} bytes; at least {} are needed",
                bytes.len(),
                Self::MIN_BYTES
            )));
        }
        Ok(Self(bytes.to_vec()))
    }

    /// A key from a file; white space around it does not count.
    ///
    /// # Errors
    /// [`Error::Io`] with the path, [`Error::Data`] if the key is too short.
    pub fn from_file(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).map_err(Error::io(path))?;
        Self::new(bytes.trim_ascii()).map_err(|error| Error::data(path, error.to_string()))
    }

    /// The pseudonym of a user id.
    pub fn pseudonym(&self, user_id: &str) -> Result<String> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.0).map_err(|error| Error::Internal(format!("user key: {error}")))?;
        mac.update(user_id.as_bytes());
        Ok(crate::dataset::hex(&mac.finalize().into_bytes()[..16]))
    }
}

/// What [`super::prepare`] reads, and how.
#[derive(Debug, Clone)]
pub struct PrepareOptions {
    /// A file of JSON lines, or a directory searched for `*.jsonl`, `*.ndjson` and `*.json`.
    pub events: PathBuf,
    /// Accounts as CSV; see [`super::prepare`] for the columns.
    pub accounts: PathBuf,
    /// A directory with `artists.csv`, `songs.csv` and, where there is one, `artist_daily.csv`.
    pub catalogue: PathBuf,
    /// The `truth` directory of a synthetic world.
    pub truth: Option<PathBuf>,
    /// Turns user ids into pseudonyms.
    pub user_key: UserKey,
    /// Ages (in years) at which a new bucket starts, strictly increasing.
    pub age_edges: Vec<u32>,
    /// A place with fewer users is folded into the next larger one.
    pub min_users_per_place: usize,
    /// Where the held-out period starts.
    pub held_out: HeldOut,
    /// Full days before the held-out period that are dropped: features and training end before them.
    pub gap_days: u32,
    /// Hold out discoveries only: the first event of a user with an artist they had none with before.
    pub new_artists_only: bool,
    /// How much a kind of positive event says.
    pub strengths: Strengths,
}

impl PrepareOptions {
    /// Options with the usual values: ages cut at 18, 25, 35, 45 and 55, places of at least 20 users, the last 14 days
    /// held out, discoveries only.
    pub fn new(events: PathBuf, accounts: PathBuf, catalogue: PathBuf, user_key: UserKey) -> Self {
        Self {
            events,
            accounts,
            catalogue,
            truth: None,
            user_key,
            age_edges: vec![18, 25, 35, 45, 55],
            min_users_per_place: 20,
            held_out: HeldOut::LastDays(14),
            gap_days: 0,
            new_artists_only: true,
            strengths: Strengths::default(),
        }
    }

    /// Options for a world written by [`crate::world::generate`], its truth included.
    pub fn for_world(world: &Path, user_key: UserKey) -> Self {
        let mut options =
            Self::new(world.join("events"), world.join("accounts.csv"), world.join("catalogue"), user_key);
        options.truth = Some(world.join("truth"));
        options
    }

    pub(super) fn validate(&self) -> Result<()> {
        if self.age_edges.is_empty() || !self.age_edges.windows(2).all(|pair| pair[0] < pair[1]) {
            return Err(Error::input("age edges must be a non-empty, strictly increasing list of years"));
        }
        match self.held_out {
            HeldOut::LastDays(0) => return Err(Error::input("at least one day must be held out")),
            HeldOut::Quantile(quantile) if !(quantile > 0.0 && quantile < 1.0) => {
                return Err(Error::input(format!("the split quantile is {quantile}; valid: between 0 and 1")));
            }
            _ => {}
        }
        let Strengths { click, listen, follow } = self.strengths;
        if [click, listen, follow].iter().any(|strength| !(strength.is_finite() && *strength > 0.0)) {
            return Err(Error::input("strengths must be positive numbers"));
        }
        Ok(())
    }
}
