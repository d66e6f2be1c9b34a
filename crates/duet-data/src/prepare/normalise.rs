//! The raw parts of one day to its day file: a DataFusion plan that parses and sorts, and a stream behind it that drops
//! duplicates, puts bad lines aside and keeps the books.
//!
//! The plan is `scan -> parse_event -> sort by (user, ts_ms, event, all the rest)`; it sorts beyond its memory on disk.
//! Because the whole content is the sort key, copies of an event stand side by side, and which of two *different* lines
//! with one id stays (the earliest, then the smallest) does not depend on the order of arrival. A copy in the file of
//! another day would have another time: by its own account it is another event.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow::{
    array::{Array, AsArray, BooleanArray, FixedSizeBinaryArray, RecordBatch},
    compute::filter_record_batch,
    datatypes::{DataType, Field, Int64Type, Schema, UInt8Type, UInt64Type},
};
use datafusion::{
    execution::{memory_pool::FairSpillPool, runtime_env::RuntimeEnvBuilder},
    prelude::{ParquetReadOptions, SessionConfig, SessionContext, col},
};
use duet_core::{Error, Result, event::EventType};
use futures::StreamExt;

use super::{
    day_file::{self, bytes},
    parse_event,
};
use crate::{
    accounts::UserKey,
    dataset::parquet_file::{Reader, Writer, required},
    quality::Books,
    raw::{Part, RawZone},
};

/// Rows handed from operator to operator.
const BATCH_ROWS: usize = 8_192;

/// Where a day's outputs go.
pub(super) struct DayPaths {
    pub(super) events: PathBuf,
    pub(super) quarantine: PathBuf,
}

/// The engine for the days of a zone: `partitions` cores and `memory_bytes` for sorting, spill files below `temporary`.
pub(super) fn session(
    zone: &RawZone,
    partitions: usize,
    memory_bytes: usize,
    temporary: &Path,
) -> Result<SessionContext> {
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(FairSpillPool::new(memory_bytes)))
        .with_temp_file_path(temporary)
        .build_arc()
        .map_err(|error| Error::Internal(format!("DataFusion's runtime: {error}")))?;
    let config = SessionConfig::new()
        .with_target_partitions(partitions)
        .with_batch_size(BATCH_ROWS)
        .with_collect_statistics(false)
        .set_bool("datafusion.execution.parquet.schema_force_view_types", false);
    let context = SessionContext::new_with_config_rt(config, runtime);
    let location = zone.location();
    context.register_object_store(&location.url, Arc::clone(&location.store));
    Ok(context)
}

/// Normalises the parts of `day` (`None`: those whose time can't be read, all of which end in quarantine).
///
/// # Errors
/// [`Error::Data`] naming the zone if a part can't be read; [`Error::Io`].
pub(super) async fn normalise(
    context: &SessionContext,
    zone: &RawZone,
    day: Option<i32>,
    parts: &[&Part],
    user_key: &UserKey,
    paths: &DayPaths,
) -> Result<Books> {
    let failed = |error: datafusion::error::DataFusionError| engine_error(zone, error);
    let urls: Vec<String> = parts.iter().map(|part| zone.location().url_of(&part.path).to_string()).collect();
    let raw_schema = Schema::new(vec![
        Field::new("source", DataType::Utf8, false),
        Field::new("sequence", DataType::UInt64, false),
        Field::new("received_ms", DataType::Int64, true),
        Field::new("payload", DataType::Binary, false),
    ]);
    let options = ParquetReadOptions { schema: Some(&raw_schema), ..ParquetReadOptions::default() };
    let parse = parse_event::parse_event(user_key, day);
    let arguments = ["source", "sequence", "received_ms", "payload"].map(col).to_vec();
    // Rejected lines first (no user), by file and line.
    let order =
        ["user", "ts_ms", "event", "type", "item_kind", "item", "position", "request", "ms_played", "file", "line"];
    let mut stream = context
        .read_parquet(urls, options)
        .await
        .and_then(|raw| raw.select(vec![parse.call(arguments).alias("e")]))
        .and_then(|parsed| parsed.unnest_columns(&["e"]))
        .and_then(|events| events.sort(order.iter().map(|name| quoted(name).sort(true, true)).collect()))
        .map_err(failed)?
        .execute_stream()
        .await
        .map_err(failed)?;

    let mut sink = Sink::create(paths)?;
    while let Some(batch) = stream.next().await {
        sink.push(&batch.map_err(failed)?)?;
    }
    let books = sink.finish(paths)?;
    let rows: u64 = parts.iter().map(|part| part.rows).sum();
    if books.lines != rows {
        let message = format!("its log says {rows} lines for a day, {} were read: a part was replaced", books.lines);
        return Err(Error::data(zone.location().to_string(), message));
    }
    Ok(books)
}

/// A column of the unnested struct: its name holds a dot.
fn quoted(name: &str) -> datafusion::prelude::Expr {
    datafusion::prelude::ident(format!("e.{name}"))
}

/// What the engine says, without the lines it may quote.
fn engine_error(zone: &RawZone, error: datafusion::error::DataFusionError) -> Error {
    Error::data(zone.location().to_string(), format!("reading the raw zone: {error}"))
}

/// Takes the sorted stream apart.
struct Sink {
    writer: Option<Writer>,
    events_path: PathBuf,
    quarantine: Option<BufWriter<File>>,
    quarantine_path: PathBuf,
    books: Books,
    /// User, time and event of the last row.
    last: Option<([u8; 16], i64, [u8; 16])>,
    /// The first half of every event id kept, to find ids that were used twice.
    ids: Vec<u64>,
}

impl Sink {
    fn create(paths: &DayPaths) -> Result<Self> {
        Ok(Self {
            writer: None,
            events_path: paths.events.clone(),
            quarantine: None,
            quarantine_path: paths.quarantine.clone(),
            books: Books::default(),
            last: None,
            ids: Vec::new(),
        })
    }

    fn push(&mut self, batch: &RecordBatch) -> Result<()> {
        let wrong = || Error::Internal("parse_event: a column of another type".into());
        let column = |index: usize| batch.column(index);
        let users = column(0).as_fixed_size_binary_opt().ok_or_else(wrong)?;
        let times = column(1).as_primitive_opt::<Int64Type>().ok_or_else(wrong)?;
        let events = column(2).as_fixed_size_binary_opt().ok_or_else(wrong)?;
        let types = column(3).as_primitive_opt::<UInt8Type>().ok_or_else(wrong)?;
        let late = column(9).as_boolean_opt().ok_or_else(wrong)?;
        let mut keep = vec![false; batch.num_rows()];
        for (row, keep) in keep.iter_mut().enumerate() {
            if users.is_null(row) {
                self.put_aside(batch, row)?;
                continue;
            }
            let key = (bytes(users.value(row)), times.value(row), bytes(events.value(row)));
            if self.last == Some(key) {
                self.books.duplicate();
                continue;
            }
            self.last = Some(key);
            *keep = true;
            self.books.keep(*EventType::ALL.get(types.value(row) as usize).ok_or_else(wrong)?);
            self.books.late += u64::from(late.value(row));
            let mut half = [0; 8];
            half.copy_from_slice(&key.2[..8]);
            self.ids.push(u64::from_be_bytes(half));
        }
        if !keep.contains(&true) {
            return Ok(());
        }
        let kept = filter_record_batch(batch, &BooleanArray::from(keep))
            .map_err(|error| Error::Internal(format!("filter: {error}")))?;
        if self.writer.is_none() {
            self.writer = Some(day_file::create(self.events_path.clone())?);
        }
        match &mut self.writer {
            Some(writer) => writer.write(kept.columns()[..day_file::fields().len()].to_vec()),
            None => Ok(()),
        }
    }

    fn put_aside(&mut self, batch: &RecordBatch, row: usize) -> Result<()> {
        let wrong = || Error::Internal("parse_event: a column of another type".into());
        let text = |index: usize| -> Result<&str> {
            Ok(batch.column(index).as_string_opt::<i32>().ok_or_else(wrong)?.value(row))
        };
        let (reason, field, file) = (text(10)?, text(11)?, text(12)?);
        let line = batch.column(13).as_primitive_opt::<UInt64Type>().ok_or_else(wrong)?.value(row);
        self.books.quarantine(reason, field);
        let path = &self.quarantine_path;
        if self.quarantine.is_none() {
            self.quarantine = Some(BufWriter::new(File::create(path).map_err(Error::io(path))?));
        }
        let entry = serde_json::json!({ "file": file, "line": line, "reason": reason, "field": field });
        match &mut self.quarantine {
            Some(quarantine) => writeln!(quarantine, "{entry}").map_err(Error::io(path)),
            None => Ok(()),
        }
    }

    fn finish(mut self, paths: &DayPaths) -> Result<Books> {
        if let Some(mut quarantine) = self.quarantine.take() {
            quarantine.flush().map_err(Error::io(&paths.quarantine))?;
        }
        if let Some(writer) = self.writer.take() {
            writer.finish()?;
        }
        self.ids.sort_unstable();
        let twice: HashSet<u64> = self.ids.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
        if !twice.is_empty() {
            drop_reused_ids(&paths.events, &twice, &mut self.books)?;
        }
        self.books.check()?;
        Ok(self.books)
    }
}

/// Time, user and event of a row.
type Key = (i64, [u8; 16], [u8; 16]);

/// Of events of different users or times with one id the earliest stays (then that of the smallest pseudonym). Rare, so
/// the file is read twice more.
fn drop_reused_ids(path: &Path, candidates: &HashSet<u64>, books: &mut Books) -> Result<()> {
    let columns = |batch: &RecordBatch, first_row: u64| -> Result<Vec<Key>> {
        let users = required::<FixedSizeBinaryArray>(path, batch, 0, first_row)?;
        let times = required::<arrow::array::Int64Array>(path, batch, 1, first_row)?;
        let events = required::<FixedSizeBinaryArray>(path, batch, 2, first_row)?;
        Ok((0..batch.num_rows())
            .map(|row| (times.value(row), bytes(users.value(row)), bytes(events.value(row))))
            .collect())
    };
    let is_candidate = |event: &[u8; 16]| {
        let mut half = [0; 8];
        half.copy_from_slice(&event[..8]);
        candidates.contains(&u64::from_be_bytes(half))
    };
    let mut first: HashMap<[u8; 16], (i64, [u8; 16])> = HashMap::new();
    for batch in Reader::open(path)?.batches(None)? {
        for (time, user, event) in columns(&batch?, 1)? {
            if is_candidate(&event) {
                let best = first.entry(event).or_insert((time, user));
                *best = (*best).min((time, user));
            }
        }
    }
    let partial = path.with_extension("partial");
    let mut writer = day_file::create(partial.clone())?;
    for batch in Reader::open(path)?.batches(None)? {
        let batch = batch?;
        let keep: Vec<bool> = columns(&batch, 1)?
            .into_iter()
            .map(|(time, user, event)| !is_candidate(&event) || first.get(&event) == Some(&(time, user)))
            .collect();
        let types = required::<arrow::array::UInt8Array>(path, &batch, 3, 1)?;
        for (row, _) in keep.iter().enumerate().filter(|(_, keep)| !**keep) {
            if let Some(event_type) = EventType::ALL.get(types.value(row) as usize) {
                books.leave_out_duplicate(event_type.as_str());
            }
        }
        let kept = filter_record_batch(&batch, &BooleanArray::from(keep))
            .map_err(|error| Error::Internal(format!("filter: {error}")))?;
        writer.write(kept.columns().to_vec())?;
    }
    writer.finish()?;
    fs_err::rename(&partial, path).map_err(Error::io(path))
}
