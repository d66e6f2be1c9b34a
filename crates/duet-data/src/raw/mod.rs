//! The raw zone: events as they came, byte for byte, by the hour they happened, with a log that says which count.
//!
//! ```text
//! date=2025-03-03/hour=07/00000000000000000042-9f3a01bc-00.parquet   a part: batch, writer, number
//! date=unknown/...                                                   lines whose time can't be read
//! _log/00000000000000000042.json                                     one entry a batch: the commit point
//! _log/00000000000000000256.checkpoint.json                          every 256 entries: all so far in one file
//! ```
//!
//! * A batch counts once its log entry is there. The entry is created only if its name is free, so of two writers one
//!   fails, with nothing lost. Parts without an entry are what a killed run left; the next writer removes them.
//! * An entry holds the sequences it committed, so a delivery that comes again is known and dropped: every event is in
//!   the zone once, whenever a writer was killed.
//! * Columns of a part: `source` (text), `sequence` (u64), `received_ms` (i64, null for files), `payload` (bytes); rows
//!   are sorted by source and sequence.

mod encode;
mod event_hour;
mod events;
mod inspect;
mod log;
mod part;
mod ranges;
mod rfc3339;
mod zone;

pub use event_hour::event_hour;
pub use inspect::{inspect, is_zone};
pub use part::Part;
pub use ranges::Ranges;
pub use zone::{Compression, Granularity, RawZone, ZoneOptions};

pub(crate) use encode::{EncodedPart, encode};
pub(crate) use events::{Events, NOT_RECEIVED, Row};
pub(crate) use log::SourceState;
pub(crate) use rfc3339::Rfc3339;

pub use crate::ingest::{FilesOptions, IngestSummary, ingest_files};
