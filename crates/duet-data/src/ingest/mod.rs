//! Ingest: events from a stream, from files or from standard input into a raw zone, each exactly once.
//!
//! * [`EventSource`] is a source; [`NatsSource`], [`LineSource`] and, with the feature `kafka`, `KafkaSource` are such.
//!   [`ingest`] copies one into a zone.
//! * [`ingest_files`] copies files: no acknowledgements, so it is far faster.
//!
//! Once means: an event is known by source and sequence. A batch counts when its entry is in the zone's log, and is
//! acknowledged after that; what comes again is found in the log and dropped.

mod blocks;
mod command;
mod files;
#[cfg(feature = "kafka")]
mod kafka;
mod lines;
mod nats;
mod run;
mod source;
mod summary;

pub(crate) use blocks::{MAX_LINE_BYTES, event_files, lines as line_ranges};
pub use command::{Origin, run};
pub use files::{FilesOptions, ingest_files};
#[cfg(feature = "kafka")]
pub use kafka::{KafkaOptions, KafkaSource};
pub use lines::LineSource;
pub use nats::{NatsOptions, NatsSource};
pub use run::{IngestOptions, ingest};
pub use source::{Delivery, EventSource, Feed, Flow, Lag, RECEIVE_BYTES};
pub use summary::IngestSummary;
