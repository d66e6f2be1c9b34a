//! The normalised events of one UTC day: `days/YYYY-MM-DD.parquet`, sorted by user, time and event.
//!
//! A day file depends on the raw lines of its day and on the user key alone: not on accounts, not on the catalogue, not
//! on the order in which the lines arrived. So a day is read again only when its raw parts changed.

use std::path::{Path, PathBuf};

use arrow::{
    array::{Array, FixedSizeBinaryArray, Int64Array, RecordBatch, StringArray, UInt8Array, UInt32Array, UInt64Array},
    datatypes::{DataType, Field},
};
use duet_core::{
    Error, Result,
    event::{EventType, ItemKind},
};

use crate::dataset::parquet_file::{Batches, Reader, Writer, optional, required};

/// The folder of the day files inside a dataset.
pub const DAYS_DIR: &str = "days";
/// Rows of a row group: many day files are read at a time.
const GROUP_ROWS: usize = 1 << 16;

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

/// An event as the features need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct DayEvent {
    /// Pseudonym.
    pub(super) user: [u8; 16],
    /// Milliseconds since 1970-01-01 UTC.
    pub(super) ts_ms: i64,
    pub(super) event: [u8; 16],
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
        let rows = reader.rows();
        Ok(Self { path: path.to_path_buf(), rows, batches: reader.batches(None)?, batch: None, at: 0, first_row: 1 })
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
        out: &mut Vec<DayEvent>,
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
            let end = match limit {
                None => batch.num_rows(),
                Some(limit) => {
                    let mut end = self.at;
                    while end < batch.num_rows() && users.value(end) < limit.as_slice() {
                        end += 1;
                    }
                    end
                }
            };
            let times = required::<Int64Array>(path, batch, 1, first)?;
            let events = required::<FixedSizeBinaryArray>(path, batch, 2, first)?;
            let types = required::<UInt8Array>(path, batch, 3, first)?;
            let kinds = required::<UInt8Array>(path, batch, 4, first)?;
            let items = required::<StringArray>(path, batch, 5, first)?;
            let positions = optional::<UInt32Array>(path, batch, 6)?;
            let requests = optional::<UInt64Array>(path, batch, 7)?;
            let played = optional::<UInt64Array>(path, batch, 8)?;
            for row in self.at..end {
                let bad = |what: &str, code: u8| {
                    Error::data_row(path, first + row as u64, format!("unknown {what} code {code}"))
                };
                let (event_type, kind) = (types.value(row), kinds.value(row));
                let item_kind = match kind {
                    0 => ItemKind::Artist,
                    1 => ItemKind::Song,
                    _ => return Err(bad("item_kind", kind)),
                };
                out.push(DayEvent {
                    user: bytes(users.value(row)),
                    ts_ms: times.value(row),
                    event: bytes(events.value(row)),
                    event_type: *EventType::ALL.get(event_type as usize).ok_or_else(|| bad("type", event_type))?,
                    item_kind,
                    item: row_of(item_kind, items.value(row)),
                    position: positions.is_valid(row).then(|| positions.value(row)),
                    request: requests.is_valid(row).then(|| requests.value(row)),
                    ms_played: played.is_valid(row).then(|| played.value(row)),
                });
            }
            let rows = batch.num_rows();
            self.at = end;
            if end < rows {
                return Ok(());
            }
        }
    }
}

/// 16 bytes of a fixed-size value.
pub(super) fn bytes(value: &[u8]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(value);
    bytes
}
