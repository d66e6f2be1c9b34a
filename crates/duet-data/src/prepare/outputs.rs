//! The per-user files of a prepared dataset, written in a stream, users in ascending order.
//!
//! | file | one row per | columns |
//! | --- | --- | --- |
//! | `plays.parquet` | listen or skip of a song in the training period | `user`, `song`, `timestamp_ms`, `ms_played`, `listen_ratio` (0 to 1), `listen_delta` (ratio over the song's mean as of the day before), `skipped` |
//! | `impressions.parquet` | item shown in the training period | `user`, `item_kind` (0 artist, 1 song), `item`, `timestamp_ms`, `position`, `clicked`, and as of the day before: `user_clicks`, `user_impressions`, `click_rate`, `artist_share`, `plays_7d`, `plays_28d`, `trending_rank`, `followers`, `tenure_days`, `recency_days` |
//! | `user_artist.parquet` | user and artist with a click or a heard song | `user`, `item`, `clicks`, `share` (of the user's clicks), `plays` |
//! | `user_history.parquet` | user with either | `user`, `last_songs` (at most 100, the newest last), `recent_follows` (at most 20, the newest last) |
//! | `history.parquet` | click or follow of an artist, listen or skip of a song in the training period | see [`crate::dataset::History`] |
//!
//! Timeline and held-out part are written twice, for artists and, in `songs/`, for songs.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow::{
    array::{
        ArrayRef, ArrowPrimitiveType, BooleanArray, Float64Array, ListBuilder, PrimitiveArray, UInt32Array,
        UInt32Builder,
    },
    datatypes::{DataType, Field, Float32Type, Float64Type, Int64Type, UInt8Type, UInt32Type, UInt64Type},
};
use duet_core::{Error, Result, artifact::DirWriter};

use super::{
    catalogue::{Artist, Song},
    positives::ItemRows,
    user_rows::{HistoryRow, Impression, Play, UserArtist, UserHistory, UserRows},
};
use crate::{
    accounts::Account,
    dataset::{
        HISTORY_FILE, SONGS_DIR, SplitHasher, TEST_FILE, TIMELINE_FILE, TestWriter, TimelineWriter, history_fields,
        parquet_file::{BATCH_ROWS, Writer},
    },
};

pub(super) const PLAYS_FILE: &str = "plays.parquet";
pub(crate) const IMPRESSIONS_FILE: &str = "impressions.parquet";
pub(super) const USER_ARTIST_FILE: &str = "user_artist.parquet";
pub(super) const USER_HISTORY_FILE: &str = "user_history.parquet";

/// Rows of a row group: a writer holds one in memory, and several write at the same time.
const ROWS_GROUP: usize = 1 << 18;

/// Rows gathered to batches on their way to a file.
pub(super) struct Rows<T> {
    writer: Writer,
    waiting: Vec<T>,
    arrays: fn(&[T]) -> Vec<ArrayRef>,
}

impl<T> Rows<T> {
    pub(super) fn create(path: PathBuf, fields: Vec<Field>, arrays: fn(&[T]) -> Vec<ArrayRef>) -> Result<Self> {
        let distinct = ["timestamp_ms", "ms_played", "listen_ratio", "listen_delta", "strength"];
        let writer = Writer::create_with(path, fields, ROWS_GROUP, &distinct)?;
        Ok(Self { writer, waiting: Vec::new(), arrays })
    }

    pub(super) fn extend(&mut self, rows: impl IntoIterator<Item = T>) -> Result<()> {
        self.waiting.extend(rows);
        if self.waiting.len() >= BATCH_ROWS { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        for rows in self.waiting.chunks(BATCH_ROWS) {
            self.writer.write((self.arrays)(rows))?;
        }
        self.waiting.clear();
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<()> {
        self.flush()?;
        self.writer.finish()
    }
}

/// Builds one array from a field of every row.
pub(super) fn array<T, V, A>(rows: &[T], value: impl Fn(&T) -> V) -> ArrayRef
where
    A: arrow::array::Array + FromIterator<V> + 'static,
{
    Arc::new(rows.iter().map(value).collect::<A>())
}

/// The same for numbers that are always there.
pub(super) fn values<T, P: ArrowPrimitiveType>(rows: &[T], value: impl Fn(&T) -> P::Native) -> ArrayRef {
    Arc::new(PrimitiveArray::<P>::from_iter_values(rows.iter().map(value)))
}

/// NaN to "no value".
pub(super) fn known(value: f64) -> Option<f64> {
    Some(value).filter(|value| !value.is_nan())
}

pub(super) fn field(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, false)
}

pub(super) fn optional(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, true)
}

fn play_fields() -> Vec<Field> {
    vec![
        field("user", DataType::UInt32),
        field("song", DataType::UInt32),
        field("timestamp_ms", DataType::Int64),
        field("ms_played", DataType::UInt64),
        field("listen_ratio", DataType::Float32),
        field("listen_delta", DataType::Float32),
        field("skipped", DataType::Boolean),
    ]
}

fn play_arrays(rows: &[Play]) -> Vec<ArrayRef> {
    vec![
        values::<_, UInt32Type>(rows, |row| row.user),
        values::<_, UInt32Type>(rows, |row| row.song),
        values::<_, Int64Type>(rows, |row| row.timestamp_ms),
        values::<_, UInt64Type>(rows, |row| row.ms_played),
        values::<_, Float32Type>(rows, |row| row.listen_ratio),
        values::<_, Float32Type>(rows, |row| row.listen_delta),
        array::<_, _, BooleanArray>(rows, |row| Some(row.skipped)),
    ]
}

fn impression_fields() -> Vec<Field> {
    vec![
        field("user", DataType::UInt32),
        field("item_kind", DataType::UInt8),
        field("item", DataType::UInt32),
        field("timestamp_ms", DataType::Int64),
        optional("position", DataType::UInt32),
        field("clicked", DataType::Boolean),
        field("user_clicks", DataType::UInt64),
        field("user_impressions", DataType::UInt64),
        field("click_rate", DataType::Float64),
        field("artist_share", DataType::Float64),
        field("plays_7d", DataType::Float64),
        field("plays_28d", DataType::Float64),
        field("trending_rank", DataType::Float64),
        optional("followers", DataType::Float64),
        optional("tenure_days", DataType::Float64),
        optional("recency_days", DataType::Float64),
    ]
}

fn impression_arrays(rows: &[Impression]) -> Vec<ArrayRef> {
    vec![
        values::<_, UInt32Type>(rows, |row| row.user),
        values::<_, UInt8Type>(rows, |row| row.item_kind as u8),
        values::<_, UInt32Type>(rows, |row| row.item),
        values::<_, Int64Type>(rows, |row| row.timestamp_ms),
        array::<_, _, UInt32Array>(rows, |row| row.position),
        array::<_, _, BooleanArray>(rows, |row| Some(row.clicked)),
        values::<_, UInt64Type>(rows, |row| row.user_clicks),
        values::<_, UInt64Type>(rows, |row| row.user_impressions),
        values::<_, Float64Type>(rows, |row| row.click_rate),
        values::<_, Float64Type>(rows, |row| row.artist_share),
        values::<_, Float64Type>(rows, |row| row.plays_7d),
        values::<_, Float64Type>(rows, |row| row.plays_28d),
        values::<_, Float64Type>(rows, |row| row.trending_rank),
        array::<_, _, Float64Array>(rows, |row| known(row.followers)),
        array::<_, _, Float64Array>(rows, |row| known(row.tenure_days)),
        array::<_, _, Float64Array>(rows, |row| known(row.recency_days)),
    ]
}

fn user_artist_fields() -> Vec<Field> {
    vec![
        field("user", DataType::UInt32),
        field("item", DataType::UInt32),
        field("clicks", DataType::UInt64),
        field("share", DataType::Float64),
        field("plays", DataType::UInt64),
    ]
}

fn user_artist_arrays(rows: &[UserArtist]) -> Vec<ArrayRef> {
    vec![
        values::<_, UInt32Type>(rows, |row| row.user),
        values::<_, UInt32Type>(rows, |row| row.item),
        values::<_, UInt64Type>(rows, |row| row.clicks),
        values::<_, Float64Type>(rows, |row| row.share),
        values::<_, UInt64Type>(rows, |row| row.plays),
    ]
}

fn user_history_fields() -> Vec<Field> {
    let list = || DataType::new_list(DataType::UInt32, true);
    vec![field("user", DataType::UInt32), field("last_songs", list()), field("recent_follows", list())]
}

fn user_history_arrays(rows: &[UserHistory]) -> Vec<ArrayRef> {
    let lists = |values: fn(&UserHistory) -> &[u32]| -> ArrayRef {
        let mut builder = ListBuilder::new(UInt32Builder::new());
        for row in rows {
            builder.values().append_slice(values(row));
            builder.append(true);
        }
        Arc::new(builder.finish())
    };
    vec![values::<_, UInt32Type>(rows, |row| row.user), lists(|row| &row.last_songs), lists(|row| &row.recent_follows)]
}

fn history_arrays(rows: &[HistoryRow]) -> Vec<ArrayRef> {
    vec![
        values::<_, UInt32Type>(rows, |row| row.user),
        values::<_, UInt8Type>(rows, |row| row.event as u8),
        values::<_, UInt32Type>(rows, |row| row.item),
        values::<_, Int64Type>(rows, |row| row.timestamp_ms),
        values::<_, Float32Type>(rows, |row| row.strength),
    ]
}

/// The external ids that rows stand for.
#[derive(Clone, Copy)]
pub(super) struct Ids<'a> {
    pub(super) accounts: &'a [Account],
    pub(super) artists: &'a [Artist],
    pub(super) songs: &'a [Song],
    /// Rows of the catalogue by row of the items and of the songs table.
    pub(super) items: &'a [usize],
    pub(super) released: &'a [usize],
}

impl<'a> Ids<'a> {
    fn artist(&self, artist: usize) -> &'a str {
        &self.artists[artist].id
    }

    fn song(&self, song: usize) -> &'a str {
        &self.songs[song].id
    }
}

/// Timeline and held-out part of one kind of item, open.
struct Interactions {
    timeline: TimelineWriter,
    test: TestWriter,
    hasher: SplitHasher,
}

/// How many of what was written.
pub(super) struct Written {
    pub(super) events: u64,
    pub(super) test_users: u64,
    pub(super) test_events: u64,
    pub(super) split_hash: String,
}

impl Interactions {
    fn create(dir: &Path) -> Result<Self> {
        Ok(Self {
            timeline: TimelineWriter::create(dir.join(TIMELINE_FILE), true, true)?,
            test: TestWriter::create(dir.join(TEST_FILE))?,
            hasher: SplitHasher::default(),
        })
    }

    /// Appends the rows of the next user, `id`; `table` has the catalogue's rows of the items, and `item_id` says what the
    /// catalogue calls them.
    fn push<'a>(
        &mut self,
        (user, id): (u32, &str),
        rows: &ItemRows,
        table: &[usize],
        item_id: impl Fn(usize) -> &'a str,
    ) -> Result<()> {
        let items = rows.items.iter().map(|item| item_id(table[item.index()]));
        self.hasher.training(id, items, &rows.timestamps_ms, &rows.weights);
        self.timeline.push(user, &rows.items, &rows.timestamps_ms, &rows.weights)?;
        if rows.held_out.is_empty() {
            return Ok(());
        }
        let held_out: Vec<&str> = rows.held_out.iter().map(|item| item_id(*item as usize)).collect();
        self.hasher.held_out(id, &held_out);
        self.test.push(id, &held_out)
    }

    fn finish(self) -> Result<Written> {
        let events = self.timeline.finish()?;
        let (test_users, test_events) = self.test.finish()?;
        Ok(Written { events, test_users, test_events, split_hash: self.hasher.finish() })
    }
}

/// Every per-user file, open.
pub(super) struct Outputs {
    artists: Interactions,
    songs: Interactions,
    plays: Rows<Play>,
    impressions: Rows<Impression>,
    user_artist: Rows<UserArtist>,
    user_history: Rows<UserHistory>,
    history: Rows<HistoryRow>,
}

impl Outputs {
    pub(super) fn create(writer: &DirWriter) -> Result<Self> {
        Ok(Self {
            artists: Interactions::create(writer.dir())?,
            songs: Interactions::create(&writer.path(SONGS_DIR))?,
            plays: Rows::create(writer.path(PLAYS_FILE), play_fields(), play_arrays)?,
            impressions: Rows::create(writer.path(IMPRESSIONS_FILE), impression_fields(), impression_arrays)?,
            user_artist: Rows::create(writer.path(USER_ARTIST_FILE), user_artist_fields(), user_artist_arrays)?,
            user_history: Rows::create(writer.path(USER_HISTORY_FILE), user_history_fields(), user_history_arrays)?,
            history: Rows::create(writer.path(HISTORY_FILE), history_fields(), history_arrays)?,
        })
    }

    /// Appends the rows of the next users, each with its row; the files are written at the same time.
    pub(super) fn push(&mut self, users: &mut [(u32, UserRows)], ids: Ids<'_>) -> Result<()> {
        let (mut plays, mut impressions, mut history) = (Vec::new(), Vec::new(), Vec::new());
        let (mut artists, mut histories) = (Vec::new(), Vec::new());
        for (_, rows) in &mut *users {
            plays.append(&mut rows.plays);
            impressions.append(&mut rows.impressions);
            history.append(&mut rows.history);
            artists.append(&mut rows.artists);
            histories.extend(rows.recent.take());
        }
        let users: Vec<(u32, String, &UserRows)> = users
            .iter()
            .map(|(user, rows)| (*user, ids.accounts[*user as usize].pseudonym.to_string(), rows))
            .collect();
        let Self {
            artists: of_artists,
            songs: of_songs,
            plays: play_file,
            impressions: impression_file,
            history: history_file,
            user_artist,
            user_history,
        } = self;
        let results = std::sync::Mutex::new(Ok(()));
        let keep = |result: Result<()>| {
            if let (Err(error), Ok(mut first)) = (result, results.lock())
                && first.is_ok()
            {
                *first = Err(error);
            }
        };
        rayon::scope(|scope| {
            scope.spawn(|_| keep(play_file.extend(plays)));
            scope.spawn(|_| keep(impression_file.extend(impressions)));
            scope.spawn(|_| keep(history_file.extend(history)));
            scope.spawn(|_| keep(user_artist.extend(artists).and_then(|()| user_history.extend(histories))));
            scope.spawn(|_| {
                keep(users.iter().try_for_each(|(user, id, rows)| {
                    of_songs.push((*user, id), &rows.of_songs, ids.released, |song| ids.song(song))
                }));
            });
            keep(users.iter().try_for_each(|(user, id, rows)| {
                of_artists.push((*user, id), &rows.of_artists, ids.items, |artist| ids.artist(artist))
            }));
        });
        results.into_inner().unwrap_or_else(|_| Err(Error::Internal("a writer of rows panicked".into())))
    }

    /// Closes all files; returns what there is of artists, and of songs.
    pub(super) fn finish(self) -> Result<(Written, Written)> {
        let written = (self.artists.finish()?, self.songs.finish()?);
        self.plays.finish()?;
        self.impressions.finish()?;
        self.user_artist.finish()?;
        self.user_history.finish()?;
        self.history.finish()?;
        Ok(written)
    }
}
