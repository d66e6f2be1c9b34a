//! The mixed history: everything a user did that says something, artists and songs in one order of time.

use arrow::{
    array::{Float32Array, Int64Array, UInt8Array, UInt32Array},
    datatypes::{DataType, Field},
};
use duet_core::{Error, ItemIdx, Result, UserIdx};

use super::{
    Dataset, HISTORY_FILE,
    parquet_file::{Reader, required},
};

/// What an event of a [`History`] says; the codes of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum HistoryEvent {
    /// An artist was clicked.
    Click = 0,
    /// An artist was followed.
    Follow = 1,
    /// A song was heard, for at least 30 s or half of its length.
    Listen = 2,
    /// A song was skipped, however much of it was heard, or listened to for less than that or for a time that is not known.
    Skip = 3,
}

impl HistoryEvent {
    /// Every kind, in code order.
    const ALL: [Self; 4] = [Self::Click, Self::Follow, Self::Listen, Self::Skip];

    /// Whether its item is a song, else an artist.
    pub fn is_of_song(self) -> bool {
        matches!(self, Self::Listen | Self::Skip)
    }
}

/// The events of all users in the training period, by user (compressed rows); within a user in order of time, then of the
/// hashes of the events' ids.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct History {
    /// Events of user `u` are `offsets[u]..offsets[u + 1]`; `users + 1` entries.
    pub offsets: Vec<usize>,
    /// What each event says.
    pub events: Vec<HistoryEvent>,
    /// Row of the items for an event of an artist, row of the items of [`Dataset::songs`] for one of a song.
    pub items: Vec<ItemIdx>,
    /// Milliseconds since 1970-01-01 UTC, non-decreasing within a user.
    pub timestamps_ms: Vec<i64>,
    /// For clicks and follows the strength that the dataset was prepared with; for songs the listen delta as it is (the part
    /// that was heard over what others hear of the song, as of the day before), from 0.
    pub strengths: Vec<f32>,
}

impl History {
    /// The range of a user's events.
    pub fn range(&self, user: UserIdx) -> std::ops::Range<usize> {
        self.offsets[user.index()]..self.offsets[user.index() + 1]
    }
}

/// The columns of the file.
pub(crate) fn history_fields() -> Vec<Field> {
    vec![
        Field::new("user", DataType::UInt32, false),
        Field::new("event", DataType::UInt8, false),
        Field::new("item", DataType::UInt32, false),
        Field::new("timestamp_ms", DataType::Int64, false),
        Field::new("strength", DataType::Float32, false),
    ]
}

impl Dataset {
    /// The mixed history, where the dataset has one.
    ///
    /// # Errors
    /// [`Error::Data`] naming the file and the row of an unknown kind of event, an index beyond its vocabulary, an unsorted time
    /// or a strength that is negative or not finite.
    pub fn history(&self) -> Result<Option<History>> {
        let path = self.dir.join(HISTORY_FILE);
        if !path.exists() {
            return Ok(None);
        }
        let songs = self.songs()?.map_or(0, |songs| songs.info.counts.items);
        let reader = Reader::open(&path)?;
        reader.expect(&history_fields())?;
        let users = self.info.counts.users as usize;
        let rows = reader.rows();
        let mut history = History {
            offsets: Vec::with_capacity(users + 1),
            events: Vec::with_capacity(rows),
            items: Vec::with_capacity(rows),
            timestamps_ms: Vec::with_capacity(rows),
            strengths: Vec::with_capacity(rows),
        };
        let mut first_row = 1;
        let mut last = (0_u32, i64::MIN);
        for batch in reader.batches(None)? {
            let batch = batch?;
            let row_users = required::<UInt32Array>(&path, &batch, 0, first_row)?.values();
            let codes = required::<UInt8Array>(&path, &batch, 1, first_row)?.values();
            let items = required::<UInt32Array>(&path, &batch, 2, first_row)?.values();
            let times = required::<Int64Array>(&path, &batch, 3, first_row)?.values();
            let strengths = required::<Float32Array>(&path, &batch, 4, first_row)?.values();
            for row in 0..batch.num_rows() {
                let bad = |message: String| Err(Error::data_row(&path, first_row + row as u64, message));
                let (user, item, strength) = (row_users[row], items[row], strengths[row]);
                let Some(&event) = HistoryEvent::ALL.get(usize::from(codes[row])) else {
                    return bad(format!("event {}: valid are 0 to 3", codes[row]));
                };
                let (kind, known) =
                    if event.is_of_song() { ("songs", songs) } else { ("items", self.info.counts.items) };
                if user as usize >= users || u64::from(item) >= known {
                    return bad(format!("user {user}, item {item}: beyond the {users} users or {known} {kind}"));
                }
                if (user, times[row]) < last {
                    return bad("not sorted by user and time".into());
                }
                last = (user, times[row]);
                if !(strength.is_finite() && strength >= 0.0) {
                    return bad(format!("strength {strength}: must be finite and not negative"));
                }
                while history.offsets.len() <= user as usize {
                    history.offsets.push(history.items.len());
                }
                history.events.push(event);
                history.items.push(ItemIdx(item));
                history.timestamps_ms.push(times[row]);
                history.strengths.push(strength);
            }
            first_row += batch.num_rows() as u64;
        }
        history.offsets.resize(users + 1, history.items.len());
        Ok(Some(history))
    }
}
