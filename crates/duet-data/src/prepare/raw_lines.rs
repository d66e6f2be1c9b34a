//! Where the lines of days come from: a raw zone, or event files as they are.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::{
    error::DataFusionError,
    prelude::{DataFrame, ParquetReadOptions, SessionContext},
};
use duet_core::{Error, Result, artifact::FileEntry};

use super::{
    days,
    file_days::FileDays,
    options::{EventSource, PrepareOptions},
};
use crate::{
    raw::{self, Compression, FilesOptions, Granularity, Part, RawZone, ZoneOptions},
    store::Location,
};

/// About four batches are in memory at once.
const STAGED_BATCH_BYTES: usize = 32 << 20;
/// The runs of event files may take so large a part of the memory for sorting.
const RUNS_SHARE: usize = 8;
/// Stands for the raw parts of a day that was read from files, which have no names that stay.
const FROM_FILES: &str = "files";

/// Raw lines by day.
#[derive(Debug)]
pub(super) struct RawLines {
    /// What they come from: a zone's address, or a path.
    pub(super) name: PathBuf,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Zone {
        zone: Box<RawZone>,
        days: BTreeMap<Option<i32>, Vec<Part>>,
        /// Whether its parts keep their names from run to run.
        lasting: bool,
    },
    Files(Arc<FileDays>),
}

impl RawLines {
    /// Opens the events of `options`. Files whose days are so mixed that they can't be read a day at a time are copied to a
    /// raw zone at `staged` first.
    pub(super) async fn open(options: &PrepareOptions, staged: &std::path::Path) -> Result<Self> {
        match &options.events {
            EventSource::Zone(location) => {
                let zone = RawZone::open(location.clone()).await?;
                Ok(Self { name: PathBuf::from(location.to_string()), source: Source::zone(zone, true) })
            }
            EventSource::Files(path) => {
                let source = match FileDays::read(path, options.memory_bytes / RUNS_SHARE)? {
                    Some(files) => Source::Files(Arc::new(files)),
                    None => {
                        let location = Location::parse(&staged.display().to_string())?;
                        let form = ZoneOptions {
                            granularity: Granularity::Day,
                            compression: Compression::Zstd,
                            durable: false,
                        };
                        let mut zone = RawZone::create_or_open(location, form).await?;
                        let batches = FilesOptions { batch_bytes: STAGED_BATCH_BYTES, ..FilesOptions::default() };
                        raw::ingest_files(path, &mut zone, &batches).await?;
                        Source::zone(zone, false)
                    }
                };
                Ok(Self { name: path.clone(), source })
            }
        }
    }

    /// Days that have lines; `None` is that of lines without a readable time.
    pub(super) fn days(&self) -> Vec<Option<i32>> {
        match &self.source {
            Source::Zone { days, .. } => days.keys().copied().collect(),
            Source::Files(files) => files.days().collect(),
        }
    }

    /// Tells whether a day's lines are those of an earlier run; nothing where that can't be told.
    pub(super) fn version(&self, day: Option<i32>) -> Option<String> {
        match &self.source {
            Source::Zone { days, lasting: true, .. } => days.get(&day).map(|parts| days::hash_of(parts)),
            _ => None,
        }
    }

    /// What an index says of a day without a version.
    pub(super) fn version_or_files(&self, day: Option<i32>) -> String {
        self.version(day).unwrap_or_else(|| FROM_FILES.to_owned())
    }

    /// Lines of a day.
    pub(super) fn lines(&self, day: Option<i32>) -> u64 {
        match &self.source {
            Source::Zone { days, .. } => days.get(&day).into_iter().flatten().map(|part| part.rows).sum(),
            Source::Files(files) => files.lines(day),
        }
    }

    /// Bytes and checksum of everything, as a dataset's manifest has them.
    pub(super) fn entry(&self) -> FileEntry {
        match &self.source {
            Source::Zone { zone, .. } => {
                let crcs: String = zone.parts().iter().map(|part| part.crc32.as_str()).collect();
                FileEntry {
                    bytes: zone.parts().iter().map(|part| part.payload_bytes).sum(),
                    crc32: format!("{:08x}", crc32fast::hash(crcs.as_bytes())),
                }
            }
            Source::Files(files) => files.entry.clone(),
        }
    }

    /// Makes the place of the lines known to an engine.
    pub(super) fn register(&self, context: &SessionContext) {
        if let Source::Zone { zone, .. } = &self.source {
            let location = zone.location();
            context.register_object_store(&location.url, Arc::clone(&location.store));
        }
    }

    /// A day's lines: columns `source`, `sequence`, `received_ms`, `payload`.
    pub(super) async fn scan(&self, context: &SessionContext, day: Option<i32>) -> Result<DataFrame> {
        let schema = schema();
        match &self.source {
            Source::Zone { zone, days, .. } => {
                let parts = days.get(&day).map_or(&[][..], Vec::as_slice);
                let urls: Vec<String> =
                    parts.iter().map(|part| zone.location().url_of(&part.path).to_string()).collect();
                let options = ParquetReadOptions { schema: Some(&schema), ..ParquetReadOptions::default() };
                context.read_parquet(urls, options).await.map_err(|error| self.failed(&error))
            }
            Source::Files(files) => {
                let partitions = context.state().config().target_partitions();
                let table = files.table(day, schema, partitions)?;
                context.read_table(Arc::new(table)).map_err(|error| self.failed(&error))
            }
        }
    }

    /// What the engine says, without the lines it may quote; what this crate said below it stays as it is.
    pub(super) fn failed(&self, error: &DataFusionError) -> Error {
        let root = error.find_root();
        let own = match root {
            DataFusionError::External(source) => source.downcast_ref::<Error>(),
            _ => None,
        };
        match own {
            Some(Error::Data { file, row: None, message }) => Error::data(file, message),
            Some(Error::Io { path, source }) => Error::io(path)(std::io::Error::new(source.kind(), source.to_string())),
            _ => Error::data(&self.name, format!("reading the raw lines: {root}")),
        }
    }
}

impl Source {
    fn zone(zone: RawZone, lasting: bool) -> Self {
        let mut days: BTreeMap<Option<i32>, Vec<Part>> = BTreeMap::new();
        for part in zone.parts() {
            days.entry(part.date.map(|date| date.to_epoch_days())).or_default().push(part.clone());
        }
        Self::Zone { zone: Box::new(zone), days, lasting }
    }
}

/// The columns of raw lines, in a part of a zone as in a table of files.
pub(super) fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("source", DataType::Utf8View, false),
        Field::new("sequence", DataType::UInt64, false),
        Field::new("received_ms", DataType::Int64, true),
        Field::new("payload", DataType::BinaryView, false),
    ]))
}
