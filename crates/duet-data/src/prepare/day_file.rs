//! The normalised events of one UTC day: `days/YYYY-MM-DD.parquet`, sorted by user, time and event.
//!
//! A day file depends on the raw lines of its day and on the user key alone: not on accounts, not on the catalogue, not
//! on the order in which the lines arrived. So a day is read again only when its raw parts changed.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow::{
    array::{
        Array, ArrayBuilder, ArrayRef, FixedSizeBinaryArray, FixedSizeBinaryBuilder, Int64Array, Int64Builder,
        RecordBatch, StringArray, StringBuilder, UInt8Array, UInt8Builder, UInt32Array, UInt32Builder, UInt64Array,
        UInt64Builder,
    },
    datatypes::{DataType, Field},
};
use duet_core::{
    Error, Result,
    event::{EventType, ItemKind},
};

use super::event_row::EventRow;
use crate::dataset::parquet_file::{Batches, Reader, Writer, optional, required};

/// The folder of the day files inside a dataset.
pub const DAYS_DIR: &str = "days";
/// Rows of a row group: many day files are read at a time.
const GROUP_ROWS: usize = 1 << 16;

/// Rows that a cursor holds: there are as many cursors as days.
const CURSOR_ROWS: usize = 1 << 13;

/// Columns of a day file.
pub(super) fn fields() -> Vec<Field> {
    vec![
        Field::new("user", DataType::FixedSizeBinary(16), false),
        Field::new("ts_ms", DataType::Int64, false),
        Field::new("event", DataType::FixedSizeBinary(16), false),
        Field::new("type", DataType::UInt8, false),
        Field::new("item_kind", DataType::UInt8, false),
        Field::new("item", DataType::Utf8, false),
        Field::new("position", DataType::UInt32, true),
        Field::new("request", DataType::UInt64, true),
        Field::new("ms_played", DataType::UInt64, true),
    ]
}

/// Opens a writer for a day file.
pub(super) fn create(path: PathBuf) -> Result<Writer> {
    Writer::create_with(path, fields(), GROUP_ROWS, &["user", "ts_ms", "event", "request", "ms_played"])
}

/// Rows of a day file on their way into it.
pub(super) struct DayColumns {
    user: FixedSizeBinaryBuilder,
    ts_ms: Int64Builder,
    event: FixedSizeBinaryBuilder,
    event_type: UInt8Builder,
    item_kind: UInt8Builder,
    item: StringBuilder,
    position: UInt32Builder,
    request: UInt64Builder,
    ms_played: UInt64Builder,
}

impl Default for DayColumns {
    fn default() -> Self {
        Self {
            user: FixedSizeBinaryBuilder::new(16),
            ts_ms: Int64Builder::new(),
            event: FixedSizeBinaryBuilder::new(16),
            event_type: UInt8Builder::new(),
            item_kind: UInt8Builder::new(),
            item: StringBuilder::new(),
            position: UInt32Builder::new(),
            request: UInt64Builder::new(),
            ms_played: UInt64Builder::new(),
        }
    }
}

impl DayColumns {
    pub(super) fn push(&mut self, row: &EventRow<'_>) -> Result<()> {
        let wrong = |error| Error::Internal(format!("16 bytes: {error}"));
        self.user.append_value(row.user).map_err(wrong)?;
        self.ts_ms.append_value(row.ts_ms);
        self.event.append_value(row.event).map_err(wrong)?;
        self.event_type.append_value(row.event_type);
        self.item_kind.append_value(row.item_kind);
        self.item.append_value(row.item);
        self.position.append_option(row.position);
        self.request.append_option(row.request);
        self.ms_played.append_option(row.ms_played);
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.user.len()
    }

    /// One array a column, in the order of [`fields`]; nothing is left.
    pub(super) fn finish(&mut self) -> Vec<ArrayRef> {
        vec![
            Arc::new(self.user.finish()),
            Arc::new(self.ts_ms.finish()),
            Arc::new(self.event.finish()),
            Arc::new(self.event_type.finish()),
            Arc::new(self.item_kind.finish()),
            Arc::new(self.item.finish()),
            Arc::new(self.position.finish()),
            Arc::new(self.request.finish()),
            Arc::new(self.ms_played.finish()),
        ]
    }
}

/// An event as the features need it; whose it is, and its place among events of the same time, is told by where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DayEvent {
    /// Milliseconds since 1970-01-01 UTC.
    pub(super) ts_ms: i64,
    pub(super) event_type: EventType,
    pub(super) item_kind: ItemKind,
    /// Row of the catalogue's artists or songs; nothing for an unknown id.
    pub(super) item: Option<u32>,
    pub(super) position: Option<u32>,
    pub(super) request: Option<u64>,
    pub(super) ms_played: Option<u64>,
}

const DAY_MS: i64 = 86_400_000;

impl DayEvent {
    /// UTC day (days since 1970-01-01).
    pub(super) fn day(&self) -> i32 {
        self.ts_ms.div_euclid(DAY_MS) as i32
    }
}

/// Events of a range of users, in order.
#[derive(Debug, Default)]
pub(super) struct UserEvents {
    pub(super) events: Vec<DayEvent>,
    /// Each user (a pseudonym, ascending) with the end of their events.
    pub(super) users: Vec<([u8; 16], usize)>,
}

impl UserEvents {
    /// Each user's events.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8; 16], &[DayEvent])> {
        let starts = std::iter::once(0).chain(self.users.iter().map(|(_, end)| *end));
        self.users.iter().zip(starts).map(|((user, end), start)| (user, &self.events[start..*end]))
    }
}

/// The columns a walk reads: all but `event`, whose order the rows have.
const WALKED: [usize; 8] = [0, 1, 3, 4, 5, 6, 7, 8];

/// Reads one day file from front to back, a range of users at a time.
pub(super) struct Cursor {
    path: PathBuf,
    rows: usize,
    batches: Batches,
    batch: Option<RecordBatch>,
    at: usize,
    first_row: u64,
}

impl Cursor {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let reader = Reader::open(path)?;
        reader.expect(&fields())?;
        let (rows, batches) = (reader.rows(), reader.batches_of(CURSOR_ROWS, Some(&WALKED))?);
        Ok(Self { path: path.to_path_buf(), rows, batches, batch: None, at: 0, first_row: 1 })
    }

    /// Rows of the whole file.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Appends the events of users below `limit` (all that are left without one) that were not handed out before.
    /// `row_of` finds the catalogue's row of an id.
    pub(super) fn take_below(
        &mut self,
        limit: Option<&[u8; 16]>,
        row_of: impl Fn(ItemKind, &str) -> Option<u32>,
        out: &mut UserEvents,
    ) -> Result<()> {
        loop {
            if self.batch.as_ref().is_none_or(|batch| self.at >= batch.num_rows()) {
                self.first_row += self.batch.take().map_or(0, |batch| batch.num_rows() as u64);
                self.at = 0;
                match self.batches.next() {
                    None => return Ok(()),
                    Some(batch) => self.batch = Some(batch?),
                }
            }
            let Some(batch) = &self.batch else { return Ok(()) };
            let (path, first) = (&self.path, self.first_row);
            let users = required::<FixedSizeBinaryArray>(path, batch, 0, first)?;
            let times = required::<Int64Array>(path, batch, 1, first)?;
            let types = required::<UInt8Array>(path, batch, 2, first)?;
            let kinds = required::<UInt8Array>(path, batch, 3, first)?;
            let items = required::<StringArray>(path, batch, 4, first)?;
            let positions = optional::<UInt32Array>(path, batch, 5)?;
            let requests = optional::<UInt64Array>(path, batch, 6)?;
            let played = optional::<UInt64Array>(path, batch, 7)?;
            let limit = limit.map(number);
            for row in self.at..batch.num_rows() {
                let bad = |what: &str, code: u8| {
                    Error::data_row(path, first + row as u64, format!("unknown {what} code {code}"))
                };
                let user = bytes(users.value(row));
                if limit.is_some_and(|limit| number(&user) >= limit) {
                    self.at = row;
                    return Ok(());
                }
                let (event_type, kind) = (types.value(row), kinds.value(row));
                let item_kind = match kind {
                    0 => ItemKind::Artist,
                    1 => ItemKind::Song,
                    _ => return Err(bad("item_kind", kind)),
                };
                out.events.push(DayEvent {
                    ts_ms: times.value(row),
                    event_type: *EventType::ALL.get(event_type as usize).ok_or_else(|| bad("type", event_type))?,
                    item_kind,
                    item: row_of(item_kind, items.value(row)),
                    position: positions.is_valid(row).then(|| positions.value(row)),
                    request: requests.is_valid(row).then(|| requests.value(row)),
                    ms_played: played.is_valid(row).then(|| played.value(row)),
                });
                let end = out.events.len();
                match out.users.last_mut() {
                    Some((last, last_end)) if number(last) == number(&user) => *last_end = end,
                    Some((last, _)) if number(last) > number(&user) => {
                        return Err(Error::data_row(path, first + row as u64, "the users are not in order"));
                    }
                    _ => out.users.push((user, end)),
                }
            }
            self.at = batch.num_rows();
        }
    }
}

/// A pseudonym as a number of the same order: two of them are compared in place, not by a call.
pub(super) fn number(user: &[u8; 16]) -> u128 {
    u128::from_be_bytes(*user)
}

/// 16 bytes of a fixed-size value.
pub(super) fn bytes(value: &[u8]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(value);
    bytes
}
