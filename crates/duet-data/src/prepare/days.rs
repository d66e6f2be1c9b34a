//! The days of a dataset: which raw parts each came from, so that only what changed is read again, and their events in
//! the order of users.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use chrono::NaiveDate;
use duet_core::{Error, Result, artifact::link_file, event::ItemKind};
use fs_err as fs;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::day_file::{Cursor, DAYS_DIR, DayEvent, UserEvents, number};
use crate::{accounts::UserKey, dataset::hex, quality::Books, raw::Part};

/// The folder of the lines put aside, inside the dataset: file, line, reason, field; never their content.
pub const QUARANTINE_DIR: &str = "quarantine";
const INDEX_FILE: &str = "index.json";
/// Changes whenever the same raw lines would give other day files.
const RULES_VERSION: u32 = 2;
/// So many events are kept in memory from one walk to the next (120 MB).
const KEPT_EVENTS: u64 = 2 << 20;
/// Of more events, so many are in memory at a time, with the rows that come of them.
const RANGE_EVENTS: u64 = 1 << 16;
/// The name of "day" for lines whose time can't be read.
const UNKNOWN_DAY: &str = "unknown";

/// A day as the index knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DayState {
    /// Hash over the raw parts the day was made from.
    pub(super) parts: String,
    /// What became of its lines, before anything is known of users and items.
    pub(super) books: Books,
}

/// All days of a dataset; `days/index.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DayIndex {
    rules_version: u32,
    /// Tells whether a later run has the same user key; says nothing about the key.
    key_check: String,
    /// By `YYYY-MM-DD`, and "unknown".
    pub(super) days: BTreeMap<String, DayState>,
}

/// `YYYY-MM-DD` of days since 1970-01-01; "unknown" without a day.
pub(super) fn day_name(day: Option<i32>) -> String {
    day.and_then(NaiveDate::from_epoch_days).map_or_else(|| UNKNOWN_DAY.to_owned(), |date| date.to_string())
}

impl DayIndex {
    pub(super) fn new(user_key: &UserKey) -> Self {
        Self { rules_version: RULES_VERSION, key_check: user_key.check(), days: BTreeMap::new() }
    }

    /// The index of the dataset at `dataset`.
    ///
    /// # Errors
    /// [`Error::Data`] if it is no index, or of other rules, or the days were made with another user key.
    pub(super) fn read(dataset: &Path, user_key: &UserKey) -> Result<Self> {
        let path = dataset.join(DAYS_DIR).join(INDEX_FILE);
        if !path.exists() {
            return Err(Error::data(dataset, "it holds no days to add to: it was not made by `duet prepare`"));
        }
        let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
        let index: Self = serde_json::from_str(&text)
            .map_err(|error| Error::data(&path, format!("not an index of days: {error}")))?;
        let expected = Self::new(user_key);
        if index.rules_version != expected.rules_version {
            return Err(Error::data(&path, "made by another version of duet: prepare all days again"));
        }
        if index.key_check != expected.key_check {
            return Err(Error::data(&path, "made with another user key: its users could not be recognised"));
        }
        Ok(index)
    }

    pub(super) fn write(&self, dataset: &Path) -> Result<()> {
        let path = dataset.join(DAYS_DIR).join(INDEX_FILE);
        let text = serde_json::to_string_pretty(self).map_err(|error| Error::Internal(format!("index: {error}")))?;
        fs::write(&path, text + "\n").map_err(Error::io(&path))
    }

    /// Events in the day files.
    pub(super) fn events(&self) -> u64 {
        self.days.values().map(|day| day.books.kept).sum()
    }

    /// Days that hold events, ascending, with how many.
    pub(super) fn sizes(&self) -> BTreeMap<i32, u64> {
        let date = |name: &str| name.parse::<NaiveDate>().ok().map(|date| date.to_epoch_days());
        self.days
            .iter()
            .filter(|(_, state)| state.books.kept > 0)
            .filter_map(|(name, state)| Some((date(name)?, state.books.kept)))
            .collect()
    }
}

/// Says whether a day's raw parts are the same as before.
pub(super) fn hash_of(parts: &[Part]) -> String {
    let mut names: Vec<String> =
        parts.iter().map(|part| format!("{} {} {} {}\n", part.path, part.rows, part.bytes, part.crc32)).collect();
    names.sort_unstable();
    hex(&Sha256::digest(names.concat())[..16])
}

/// The files of a day inside a dataset: events and lines put aside. Either may be absent.
pub(super) fn files_of(dataset: &Path, name: &str) -> (PathBuf, PathBuf) {
    (dataset.join(DAYS_DIR).join(format!("{name}.parquet")), dataset.join(QUARANTINE_DIR).join(format!("{name}.jsonl")))
}

/// Takes a day over from another dataset on the same disk, without copying where the file system allows it.
pub(super) fn link(from: &Path, to: &Path, name: &str) -> Result<()> {
    let ((events, quarantine), (new_events, new_quarantine)) = (files_of(from, name), files_of(to, name));
    for (old, new) in [(events, new_events), (quarantine, new_quarantine)] {
        if old.exists() {
            link_file(&old, &new)?;
        }
    }
    Ok(())
}

/// The events of all days of a dataset, by user.
pub(super) struct Days<'a, F> {
    pub(super) dataset: &'a Path,
    pub(super) index: &'a DayIndex,
    row_of: F,
    /// All events, where they are few enough to be kept from one walk to the next.
    kept: Vec<UserEvents>,
}

impl<'a, F: Fn(ItemKind, &str) -> Option<u32> + Sync> Days<'a, F> {
    /// `row_of` finds the catalogue's row of an id.
    pub(super) fn new(dataset: &'a Path, index: &'a DayIndex, row_of: F) -> Self {
        Self { dataset, index, row_of, kept: Vec::new() }
    }

    /// Calls `each` with the events of all days, a range of users at a time, sorted by user, time and event; every user's
    /// events are in one call. Each file is read once, and the next range while `each` is at work; memory does not grow
    /// with their number of events.
    pub(super) fn by_users(&mut self, mut each: impl FnMut(&UserEvents) -> Result<()> + Send) -> Result<()> {
        if !self.kept.is_empty() {
            return self.kept.iter().try_for_each(each);
        }
        let mut cursors: Vec<Cursor> = self
            .index
            .days
            .iter()
            .filter(|(_, state)| state.books.kept > 0)
            .map(|(name, _)| Cursor::open(&files_of(self.dataset, name).0))
            .collect::<Result<_>>()?;
        let events = self.index.events();
        let ranges = events.div_ceil(RANGE_EVENTS).max(1);
        let limit =
            |range: u64| (range < ranges).then(|| (u128::MAX / u128::from(ranges) * u128::from(range)).to_be_bytes());
        let mut ready = self.take(&mut cursors, limit(1).as_ref(), ranges)?;
        for range in 2..=ranges + 1 {
            let (done, next) = rayon::join(
                || each(&ready),
                || {
                    if range <= ranges {
                        self.take(&mut cursors, limit(range).as_ref(), ranges)
                    } else {
                        Ok(UserEvents::default())
                    }
                },
            );
            done?;
            let done = std::mem::replace(&mut ready, next?);
            if events <= KEPT_EVENTS {
                self.kept.push(done);
            }
        }
        Ok(())
    }

    /// The events of users below `limit` that no cursor has handed out yet.
    fn take(&self, cursors: &mut [Cursor], limit: Option<&[u8; 16]>, ranges: u64) -> Result<UserEvents> {
        let days: Vec<UserEvents> = cursors
            .par_iter_mut()
            .map(|cursor| {
                // Ranges are of equal width, not of equal length.
                let events = Vec::with_capacity(cursor.rows() / ranges as usize * 5 / 4);
                let mut day = UserEvents { events, users: Vec::new() };
                cursor.take_below(limit, &self.row_of, &mut day).map(|()| day)
            })
            .collect::<Result<_>>()?;
        Ok(merge(&days))
    }
}

/// The events of several days, given in order, by user.
fn merge(days: &[UserEvents]) -> UserEvents {
    let users = days.iter().map(|day| day.users.len()).sum();
    let mut parts: Vec<([u8; 16], &[DayEvent])> = Vec::with_capacity(users);
    days.iter().for_each(|day| parts.extend(day.iter().map(|(user, events)| (*user, events))));
    // Days come one after the other and each is in order: a stable sort by user alone keeps them so.
    parts.sort_by_key(|(user, _)| number(user));
    let mut merged = UserEvents::default();
    merged.events.reserve_exact(days.iter().map(|day| day.events.len()).sum());
    for (user, events) in parts {
        merged.events.extend_from_slice(events);
        let end = merged.events.len();
        match merged.users.last_mut() {
            Some((last, last_end)) if number(last) == number(&user) => *last_end = end,
            _ => merged.users.push((user, end)),
        }
    }
    merged
}
