//! The dataset on disk: what `import` and `prepare` write and everything after them reads.
//!
//! A directory with a manifest (magic `duet-dataset`), immutable once published:
//!
//! | file | rows | columns |
//! | --- | --- | --- |
//! | `users.parquet` | one per [`UserIdx`] | `id`, then the declared feature columns |
//! | `items.parquet` | one per [`ItemIdx`] | `id`, `name`?, then the declared feature columns |
//! | `timeline.parquet` | training events, sorted by user, time, source order (prepared datasets: hash of the event id) | `user`, `item`, `timestamp_ms`?, `weight`? |
//! | `test.parquet` | held-out events, external ids, by user, in time order | `user_id`, `item_id` |
//! | `oracle_users.parquet`, `oracle_items.parquet` | the synthetic world's truth, where it is known | `vector` |
//! | `history.parquet` (prepared datasets) | clicks, follows, listens and skips of the training period, sorted by user, time, hash of the event id | `user`, `event`, `item`, `timestamp_ms`, `strength`; see [`History`] |
//! | `songs/` (prepared datasets) | a dataset in this very layout: the same users, songs for items | |
//!
//! Column types: ids and categorical columns Utf8, multi-categorical columns lists of Utf8, numbers Float64 (null is
//! missing), dates Date32, vectors fixed-size lists of Float32. Zstandard, row groups of 1 Mi rows.
//!
//! The held-out part keeps external ids on purpose: an item or user that occurs only there must not enter a vocabulary.

use std::path::PathBuf;

use duet_core::{ItemIdx, UserIdx, artifact::FileEntry, schema::Schema, table::FeatureTable};
use serde::{Deserialize, Serialize};

mod history;
mod impressions;
pub(crate) mod parquet_file;
mod read;
mod songs;
mod write;

pub(crate) use history::history_fields;
pub use history::{History, HistoryEvent};
pub use impressions::ArtistImpression;
pub(crate) use songs::seal_songs;
pub use write::write;
pub(crate) use write::{SplitHasher, TestWriter, TimelineWriter, check_table, split_hash, write_table, write_vectors};

pub(crate) const USERS_FILE: &str = "users.parquet";
pub(crate) const ITEMS_FILE: &str = "items.parquet";
pub(crate) const TIMELINE_FILE: &str = "timeline.parquet";
pub(crate) const TEST_FILE: &str = "test.parquet";
pub(crate) const ORACLE_USERS_FILE: &str = "oracle_users.parquet";
pub(crate) const ORACLE_ITEMS_FILE: &str = "oracle_items.parquet";
pub(crate) const HISTORY_FILE: &str = "history.parquet";

/// The folder of the dataset of songs inside a prepared dataset: `train --data DATASET/songs` trains on songs.
pub const SONGS_DIR: &str = "songs";

/// Lower-case hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Magic of the manifest.
pub const MAGIC: &str = "duet-dataset";
/// Format version this build writes and reads.
pub const VERSION: u32 = 1;

/// What the data is like; chooses the default training configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DatasetKind {
    /// Interactions with time.
    Sequences,
    /// Interactions without time.
    Sets,
    /// Prepared event data: time, accounts and a catalogue.
    Events,
}

/// How the held-out part was chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SplitInfo {
    /// `none`, `global-time`, `leave-last-out`, `random` or `given`.
    pub kind: String,
    /// The parameters in words (quantile, date, gap, fraction, seed).
    pub parameters: String,
    /// First instant of the held-out period (global-time only), milliseconds since 1970-01-01 UTC.
    pub cutoff_ms: Option<i64>,
    /// SHA-256 over the training and held-out events in order: two datasets with equal hashes have equal splits.
    ///
    /// The SHA-256 of two digests. Training: users with events, ascending by external id; per user the id, the number
    /// of events, and per event the item's external id, the time (i64) and the weight (f32), where the data has them;
    /// then the number of users. Held-out part: likewise, without time and weight. Texts are preceded by their length
    /// (u32), numbers little-endian. Row order of the source and of the vocabularies therefore leaves the hash as it is.
    pub hash: String,
}

/// How many of what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Rows of the users table.
    pub users: u64,
    /// Rows of the items table.
    pub items: u64,
    /// Training events.
    pub events: u64,
    /// Held-out events.
    pub test_events: u64,
    /// Users with at least one held-out event.
    pub test_users: u64,
}

/// The manifest's body.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DatasetInfo {
    /// What the data is like.
    pub kind: DatasetKind,
    /// What an item is called ("artist", "song", "film", "item"): for messages and tables.
    pub item_kind: String,
    /// Declared feature columns.
    pub schema: Schema,
    /// How many of what.
    pub counts: Counts,
    /// How the held-out part was chosen.
    pub split: SplitInfo,
    /// Whether events carry time.
    pub has_time: bool,
    /// Whether events carry a weight.
    pub has_weight: bool,
    /// The day features are computed as of (days since 1970-01-01): the last day of training events.
    pub reference_day: Option<i32>,
    /// The files the dataset was made from, with their fingerprints.
    pub sources: Vec<(PathBuf, FileEntry)>,
}

/// Training events of all users, by user (compressed rows).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Timeline {
    /// Events of user `u` are `offsets[u]..offsets[u + 1]`; `users + 1` entries.
    pub offsets: Vec<usize>,
    /// The item of each event.
    pub items: Vec<ItemIdx>,
    /// Milliseconds since 1970-01-01 UTC, non-decreasing within a user; empty where the data has no time.
    pub timestamps_ms: Vec<i64>,
    /// Strength of each event, positive and finite; empty where the data has no weight.
    pub weights: Vec<f32>,
}

impl Timeline {
    /// The range of a user's events.
    pub fn range(&self, user: UserIdx) -> std::ops::Range<usize> {
        self.offsets[user.index()]..self.offsets[user.index() + 1]
    }

    /// The items of a user in time order (source order where there is no time).
    pub fn items_of(&self, user: UserIdx) -> &[ItemIdx] {
        &self.items[self.range(user)]
    }
}

/// Held-out events of one user.
#[derive(Debug, Clone, PartialEq)]
pub struct TestUser {
    /// External id.
    pub id: String,
    /// Row of the users table, if the user is known (training events or a row in the users table).
    pub user: Option<UserIdx>,
    /// External ids of the held-out items, in time order, repeats kept.
    pub items: Vec<String>,
}

/// The true affinity in the synthetic world: `score(user, item) = users[user] . items[item]`, larger is better.
#[derive(Debug, Clone, PartialEq)]
pub struct Oracle {
    /// Length of a vector.
    pub dim: usize,
    /// `[users, dim]`, row-major.
    pub users: Vec<f32>,
    /// `[items, dim]`, row-major.
    pub items: Vec<f32>,
}

/// Everything a dataset holds, in memory: the input of [`write()`].
#[derive(Debug, Clone)]
pub struct DatasetParts {
    /// `counts` and `split.hash` are filled in by [`write()`].
    pub info: DatasetInfo,
    /// Users: training users and every row of the users table.
    pub users: FeatureTable,
    /// Items: training items and every row of the items table.
    pub items: FeatureTable,
    /// Training events.
    pub timeline: Timeline,
    /// Held-out events; empty without a split.
    pub test: Vec<TestUser>,
    /// The truth, where it is known.
    pub oracle: Option<Oracle>,
}

/// An opened, verified dataset; tables are read on demand.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// Where it lies.
    pub dir: PathBuf,
    /// The manifest's body.
    pub info: DatasetInfo,
    /// Fingerprint of the manifest without the quality report (SHA-256, hex): saved with a run, checked when the run is used.
    pub fingerprint: String,
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
