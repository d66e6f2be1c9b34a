//! What `prepare` reads and how it cuts it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use chrono::NaiveDate;
use duet_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::{
    engine::{Embedded, Engine},
    fate::RateLimits,
};
use crate::{
    accounts::{AccountSource, UserKey},
    quality::Thresholds,
    store::Location,
};

/// Less and the sorting itself does not work.
const MIN_MEMORY_BYTES: usize = 64 << 20;

/// Where the held-out period starts; always a midnight, UTC.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HeldOut {
    /// Nothing: everything up to the last full day is training data.
    Nothing,
    /// The last so many full days of the events.
    LastDays(u32),
    /// The first day that holds this share of the events before or in it, in `(0, 1)`.
    Quantile(f64),
    /// This day is the first held out.
    From(NaiveDate),
}

impl HeldOut {
    /// Reads `none`, `days:14`, `from:2025-05-01` or `quantile:0.8`.
    ///
    /// # Errors
    /// [`Error::Input`] listing the valid forms.
    pub fn parse(text: &str) -> Result<Self> {
        let held_out = match text.split_once(':') {
            None if text == "none" => Some(Self::Nothing),
            Some(("days", days)) => days.parse().ok().map(Self::LastDays),
            Some(("from", date)) => date.parse().ok().map(Self::From),
            Some(("quantile", share)) => share.parse().ok().map(Self::Quantile),
            _ => None,
        };
        held_out.ok_or_else(|| {
            Error::input(format!("held_out {text:?}: valid are none, days:14, from:2025-05-01, quantile:0.8"))
        })
    }
}

/// How much a kind of positive event says; a row's weight is the largest of its events'.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Strengths {
    /// A click on an artist.
    pub click: f32,
    /// A song heard for at least 30 s or half of its length.
    pub listen: f32,
    /// A follow.
    pub follow: f32,
    /// A listen counts more or less by its listen delta (its listen ratio over the song's mean), within these bounds.
    pub delta_bounds: [f32; 2],
}

impl Default for Strengths {
    fn default() -> Self {
        Self { click: 0.5, listen: 1.0, follow: 2.0, delta_bounds: [0.5, 2.0] }
    }
}

/// Where events come from.
#[derive(Debug, Clone)]
pub enum EventSource {
    /// A file of JSON lines, or a directory searched for `*.jsonl`, `*.ndjson` and `*.json`.
    Files(PathBuf),
    /// A raw zone, as `ingest` writes it.
    Zone(Location),
}

/// The days to read; days outside stay as they are in the dataset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DayRange {
    /// First day; from the beginning without one.
    pub from: Option<NaiveDate>,
    /// Last day; to the end without one.
    pub to: Option<NaiveDate>,
}

impl DayRange {
    pub(super) fn contains(&self, day: i32) -> bool {
        self.from.is_none_or(|from| from.to_epoch_days() <= day) && self.to.is_none_or(|to| day <= to.to_epoch_days())
    }
}

/// What [`super::prepare`] reads, and how.
#[derive(Debug, Clone)]
pub struct PrepareOptions {
    /// The events.
    pub events: EventSource,
    /// The accounts.
    pub accounts: AccountSource,
    /// A directory with `artists.csv`, `songs.csv` and, where there is one, `artist_daily.csv`.
    pub catalogue: PathBuf,
    /// The `truth` directory of a synthetic world.
    pub truth: Option<PathBuf>,
    /// Turns user ids into pseudonyms.
    pub user_key: UserKey,
    /// The days to read.
    pub days: DayRange,
    /// Add to the dataset that is there (if one is): days that did not change, or lie outside of `days`, are taken over.
    pub update: bool,
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
    /// The same for songs: the first listen of a user to a song. Otherwise repeats on other days are held out too, as what people
    /// hear again is worth recommending.
    pub new_songs_only: bool,
    /// How much a kind of positive event says.
    pub strengths: Strengths,
    /// What no person does.
    pub rate_limits: RateLimits,
    /// What the dataset must keep to be published.
    pub thresholds: Thresholds,
    /// Memory for sorting the events of days, in bytes; what does not fit goes to disk.
    pub memory_bytes: usize,
    /// Where the plans over raw lines run.
    pub engine: Arc<dyn Engine>,
}

impl PrepareOptions {
    /// Options with the usual values: ages cut at 18, 25, 35, 45 and 55, places of at least 20 users, the last 14 days
    /// held out, discoveries of artists only but all listens to songs, 512 MiB, plans run in this process.
    pub fn new(events: EventSource, accounts: AccountSource, catalogue: PathBuf, user_key: UserKey) -> Self {
        Self {
            events,
            accounts,
            catalogue,
            truth: None,
            user_key,
            days: DayRange::default(),
            update: false,
            age_edges: vec![18, 25, 35, 45, 55],
            min_users_per_place: 20,
            held_out: HeldOut::LastDays(14),
            gap_days: 0,
            new_artists_only: true,
            new_songs_only: false,
            strengths: Strengths::default(),
            rate_limits: RateLimits::default(),
            thresholds: Thresholds::default(),
            memory_bytes: 512 << 20,
            engine: Arc::new(Embedded),
        }
    }

    /// Options for a world written by [`crate::world::generate`], its truth included.
    pub fn for_world(world: &Path, user_key: UserKey) -> Self {
        let mut options = Self::new(
            EventSource::Files(world.join("events")),
            AccountSource::Csv(world.join("accounts.csv")),
            world.join("catalogue"),
            user_key,
        );
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
        if let DayRange { from: Some(from), to: Some(to) } = self.days
            && from > to
        {
            return Err(Error::input(format!("the days from {from} to {to} are none: give the earlier one first")));
        }
        if let (true, EventSource::Files(path)) = (self.engine.is_remote(), &self.events) {
            let path = path.display();
            return Err(Error::input(format!(
                "{path}: a cluster reads a raw zone that every executor reaches, not files of this machine; \
                 `duet ingest --from files --files {path} --to ZONE` makes one (s3://BUCKET/PREFIX, or a shared folder), \
                 then prepare with --raw ZONE"
            )));
        }
        if self.memory_bytes < MIN_MEMORY_BYTES {
            return Err(Error::input(format!("memory for sorting must be at least {} MiB", MIN_MEMORY_BYTES >> 20)));
        }
        let Strengths { click, listen, follow, delta_bounds: [least, most] } = self.strengths;
        if [click, listen, follow, least, most].iter().any(|strength| !(strength.is_finite() && *strength > 0.0)) {
            return Err(Error::input("strengths must be positive numbers"));
        }
        if least > most {
            return Err(Error::input(format!(
                "strengths: delta_bounds are [{least}, {most}]; the lower one comes first"
            )));
        }
        Ok(())
    }
}
