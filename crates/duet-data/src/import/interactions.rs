//! Interactions from a file into flat arrays: 20 bytes an event, no text per event.

use std::path::Path;

use duet_core::{Error, Result, ids::IdMap};

use super::{
    Columns,
    instant::InstantColumn,
    source::{Layout, Table, canonical_id},
};

pub(crate) const USER_NAMES: [&str; 6] = ["user_id", "userId", "user", "user id", "uid", "u"];
pub(crate) const ITEM_NAMES: [&str; 14] = [
    "item_id",
    "itemId",
    "item",
    "artist_id",
    "artistId",
    "artist",
    "movie_id",
    "movieId",
    "song_id",
    "songId",
    "track_id",
    "trackId",
    "item id",
    "i",
];
const TIME_NAMES: [&str; 7] = ["timestamp", "ts", "time", "date", "datetime", "created_at", "timestamp_ms"];
const WEIGHT_NAMES: [&str; 7] = ["weight", "rating", "count", "plays", "playcount", "play_count", "listens"];

/// Events in source order. `times_ms` and `weights` are empty where the source has none.
#[derive(Debug, Default)]
pub(crate) struct Events {
    pub(crate) user_ids: IdMap,
    pub(crate) item_ids: IdMap,
    pub(crate) users: Vec<u32>,
    pub(crate) items: Vec<u32>,
    pub(crate) times_ms: Vec<i64>,
    pub(crate) weights: Vec<f32>,
}

impl Events {
    /// Reads a table of interactions.
    pub(crate) fn read(path: &Path, layout: &Layout, names: &Columns) -> Result<Self> {
        let table = Table::open(path, layout)?;
        let pick = |name: &Option<String>, known: &[&str]| match name {
            Some(name) => table.column(name).map(Some),
            None => Ok(table.find(known)),
        };
        let user = pick(&names.user, &USER_NAMES)?.ok_or_else(|| table.no_column("which column holds the user?"))?;
        let item = pick(&names.item, &ITEM_NAMES)?.ok_or_else(|| table.no_column("which column holds the item?"))?;
        let time = pick(&names.timestamp, &TIME_NAMES)?;
        let weight = if names.ignore_weight { None } else { pick(&names.weight, &WEIGHT_NAMES)? };
        let columns: Vec<usize> = [Some(user), Some(item), time, weight].into_iter().flatten().collect();

        let mut events = Self::default();
        let mut instants = InstantColumn::default();
        table.rows(&columns, |row, cells| {
            let bad = |message: String| Error::data_row(path, row, message);
            let (user, item) = (canonical_id(cells[0]), canonical_id(cells[1]));
            if user.is_empty() || item.is_empty() {
                return Err(bad(format!("no {} id", if user.is_empty() { "user" } else { "item" })));
            }
            let mut rest = cells[2..].iter();
            if time.is_some() {
                let cell = rest.next().copied().unwrap_or_default();
                events.times_ms.push(instants.parse(cell).map_err(bad)?);
            }
            if weight.is_some() {
                let cell = rest.next().copied().unwrap_or_default();
                let weight: f32 = cell.parse().map_err(|_| bad(format!("weight {cell:?} is not a number")))?;
                if !(weight.is_finite() && weight > 0.0) {
                    return Err(bad(format!("weight {cell}: must be finite and above zero (leave such rows out)")));
                }
                events.weights.push(weight);
            }
            events.push(user, item);
            Ok(())
        })?;
        if events.users.is_empty() {
            return Err(Error::data(path, "no interactions: nothing follows the header"));
        }
        if events.users.len() > u32::MAX as usize {
            return Err(Error::data(path, format!("more than {} interactions", u32::MAX)));
        }
        Ok(events)
    }

    /// Appends an event's user and item.
    pub(crate) fn push(&mut self, user: &str, item: &str) {
        self.users.push(self.user_ids.get_or_insert(user));
        self.items.push(self.item_ids.get_or_insert(item));
    }

    /// Merges repeated (user, item) pairs into their first occurrence, weights summed; returns how many went.
    ///
    /// For data without time: there a repeat says "more of it", not "again".
    pub(crate) fn merge_repeats(&mut self) -> u64 {
        let key = |events: &Self, row: u32| (events.users[row as usize], events.items[row as usize]);
        let mut rows: Vec<u32> = (0..self.users.len() as u32).collect();
        rows.sort_unstable_by_key(|&row| (key(self, row), row));
        let mut keep = vec![false; rows.len()];
        let mut first = None;
        for row in rows {
            match first {
                Some(kept) if key(self, kept) == key(self, row) => {
                    if !self.weights.is_empty() {
                        self.weights[kept as usize] += self.weights[row as usize];
                    }
                }
                _ => {
                    keep[row as usize] = true;
                    first = Some(row);
                }
            }
        }
        let before = self.users.len();
        retain(&mut self.users, &keep);
        retain(&mut self.items, &keep);
        retain(&mut self.weights, &keep);
        (before - self.users.len()) as u64
    }
}

fn retain<T>(values: &mut Vec<T>, keep: &[bool]) {
    let mut row = 0;
    values.retain(|_| {
        row += 1;
        keep[row - 1]
    });
}
