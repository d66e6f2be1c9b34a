//! The raw lines of one day to its day file: a DataFusion plan that parses and sorts, and a stream behind it that drops
//! duplicates, puts bad lines aside and keeps the books.
//!
//! The plan is `scan -> parse_event -> sort`, run by an [`super::engine::Engine`]; it sorts beyond its memory on disk.
//! [`super::event_row`] is what it carries: because an event's whole content is the sort key, copies of it stand side by side, and which of two *different* lines
//! with one id stays (the earliest, then the smallest) does not depend on the order of arrival. A copy in the file of
//! another day would have another time: by its own account it is another event.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use arrow::{
    array::{Array, AsArray, BooleanArray, FixedSizeBinaryArray, RecordBatch},
    compute::filter_record_batch,
};
use datafusion::prelude::{DataFrame, SessionContext, col};
use duet_core::{Error, Result, event::EventType};
use futures::StreamExt;

use super::{
    day_file::{self, DayColumns, bytes},
    event_row::{AsideRow, Row},
    parse_event,
    raw_lines::RawLines,
};
use crate::{
    accounts::UserKey,
    dataset::parquet_file::{Reader, Writer, required},
    quality::Books,
};

/// Rows written at once to a day file.
const WRITTEN_ROWS: usize = 1 << 14;

/// Where a day's outputs go.
pub(super) struct DayPaths {
    pub(super) events: PathBuf,
    pub(super) quarantine: PathBuf,
}

/// The plan of a day: its lines, parsed and sorted.
pub(super) fn plan(lines: DataFrame, user_key: &UserKey, day: Option<i32>) -> datafusion::common::Result<DataFrame> {
    let arguments = ["source", "sequence", "received_ms", "payload"].map(col).to_vec();
    let parsed = lines.select(vec![parse_event::parse_event(user_key, day).call(arguments).alias("row")])?;
    parsed.sort(vec![col("row").sort(true, true)])
}

/// Normalises the lines of `day` (`None`: those whose time can't be read, all of which end in quarantine).
///
/// # Errors
/// [`Error::Data`] naming where the lines come from if they can't be read; [`Error::Io`].
pub(super) async fn normalise(
    context: &SessionContext,
    lines: &RawLines,
    day: Option<i32>,
    user_key: &UserKey,
    paths: &DayPaths,
) -> Result<Books> {
    let failed = |error: datafusion::error::DataFusionError| lines.failed(&error);
    let scan = lines.scan(context, day).await?;
    let mut stream = plan(scan, user_key, day).map_err(failed)?.execute_stream().await.map_err(failed)?;
    let mut sink = Sink::create(paths)?;
    while let Some(batch) = stream.next().await {
        sink.push(&batch.map_err(failed)?)?;
    }
    let books = sink.finish(paths)?;
    let expected = lines.lines(day);
    if books.lines != expected {
        let message =
            format!("a day should have {expected} lines, {} were read: it was changed meanwhile", books.lines);
        return Err(Error::data(&lines.name, message));
    }
    Ok(books)
}

/// Takes the sorted stream apart.
struct Sink {
    writer: Option<Writer>,
    /// Rows on their way to it: as many at a time whatever the batches, so that a file's bytes depend on its rows alone.
    kept: DayColumns,
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
            kept: DayColumns::default(),
            events_path: paths.events.clone(),
            quarantine: None,
            quarantine_path: paths.quarantine.clone(),
            books: Books::default(),
            last: None,
            ids: Vec::new(),
        })
    }

    fn push(&mut self, batch: &RecordBatch) -> Result<()> {
        let wrong = || Error::Internal("parse_event: what came back is no row".into());
        let rows = batch.column(0).as_binary_opt::<i32>().ok_or_else(wrong)?;
        for row in 0..rows.len() {
            let event = match Row::decode(rows.value(row)).ok_or_else(wrong)? {
                Row::Aside(aside) => {
                    self.put_aside(&aside)?;
                    continue;
                }
                Row::Event(event) => event,
            };
            let key = (event.user, event.ts_ms, event.event);
            if self.last == Some(key) {
                self.books.duplicate();
                continue;
            }
            self.last = Some(key);
            self.books.keep(*EventType::ALL.get(event.event_type as usize).ok_or_else(wrong)?);
            self.books.late += u64::from(event.late);
            let mut half = [0; 8];
            half.copy_from_slice(&event.event[..8]);
            self.ids.push(u64::from_be_bytes(half));
            self.kept.push(&event)?;
            if self.kept.len() == WRITTEN_ROWS {
                self.write()?;
            }
        }
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        let columns = self.kept.finish();
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => none.insert(day_file::create(self.events_path.clone())?),
        };
        writer.write(columns)
    }

    fn put_aside(&mut self, row: &AsideRow<'_>) -> Result<()> {
        let AsideRow { file, line, reason, field } = row;
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
        if self.kept.len() > 0 {
            self.write()?;
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{ArrayRef, BinaryViewArray, Int64Array, StringViewArray, UInt64Array},
        compute::{cast, interleave},
        datatypes::DataType,
    };
    use datafusion::{
        datasource::MemTable,
        physical_plan::{ExecutionPlan, execute_stream},
    };

    use super::*;
    use crate::prepare::{
        engine::{BATCH_ROWS, Embedded, Engine, Resources},
        raw_lines,
    };

    /// 2025-03-03.
    const DAY: i32 = 20_150;

    fn key() -> UserKey {
        UserKey::new(b"0123456789abcdef").unwrap()
    }

    /// A batch of clicks of that day on items with ids of so many bytes, in no order.
    fn lines(item_bytes: usize) -> RecordBatch {
        let payload = |row: usize| {
            let (user, item) = (row % 997, row * 7919 % BATCH_ROWS);
            let (hour, minute, second) = (row / 3600, row / 60 % 60, row % 60);
            format!(
                r#"{{"event_id":"e{row}","type":"click","user_id":"u{user}","item_kind":"artist","item_id":"{item:0>item_bytes$}","ts":"2025-03-03T{hour:02}:{minute:02}:{second:02}Z"}}"#
            )
        };
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringViewArray::from_iter_values((0..BATCH_ROWS).map(|_| "date=2025-03-03/part-0000.jsonl"))),
            Arc::new(UInt64Array::from_iter_values(0..BATCH_ROWS as u64)),
            Arc::new(Int64Array::new_null(BATCH_ROWS)),
            Arc::new(BinaryViewArray::from_iter_values((0..BATCH_ROWS).map(payload))),
        ];
        RecordBatch::try_new(raw_lines::schema(), columns).unwrap()
    }

    /// Sorts a day of so many copies of a batch, whose buffers they share, in as many parts as the engine cuts it into. The rows that
    /// come back in order, and the files that were spilled.
    async fn sort(lines: &RecordBatch, copies: usize, partitions: usize, memory_bytes: usize) -> (usize, usize) {
        let dir = tempfile::tempdir().unwrap();
        let resources = Resources { side_by_side: 1, partitions, memory_bytes, temporary: dir.path() };
        let session = Embedded.session(&resources).await.unwrap();
        let parts = session.state().config().target_partitions();
        assert!((1..=partitions).contains(&parts));
        sort_day(&Embedded.of_a_day(&session, &resources).unwrap(), lines, copies).await
    }

    async fn sort_day(context: &SessionContext, lines: &RecordBatch, copies: usize) -> (usize, usize) {
        let parts = context.state().config().target_partitions();
        let table =
            MemTable::try_new(lines.schema(), vec![vec![lines.clone(); copies.div_ceil(parts)]; parts]).unwrap();
        let frame = plan(context.read_table(Arc::new(table)).unwrap(), &key(), Some(DAY)).unwrap();
        let task = Arc::new(frame.task_ctx());
        let physical = frame.create_physical_plan().await.unwrap();
        let mut stream = execute_stream(Arc::clone(&physical), task).unwrap();
        let (mut rows, mut last) = (0, Vec::new());
        while let Some(batch) = stream.next().await {
            let batch = cast(batch.unwrap().column(0), &DataType::Binary).unwrap();
            for value in batch.as_binary::<i32>().iter().flatten() {
                assert!(last.as_slice() <= value, "row {rows} is out of order");
                last.clear();
                last.extend_from_slice(value);
                rows += 1;
            }
        }
        assert_eq!(rows, copies.div_ceil(parts) * parts * BATCH_ROWS);
        (rows, spilled_files(&physical))
    }

    fn spilled_files(plan: &Arc<dyn ExecutionPlan>) -> usize {
        let own = plan.metrics().and_then(|metrics| metrics.spill_count()).unwrap_or(0);
        own + plan.children().into_iter().map(spilled_files).sum::<usize>()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn rows_count_for_their_own_bytes_alone() {
        // What a sort hands on: rows of several parsed batches in a new one. Views would count for all of the batches below them,
        // and a sort of many batches would run out of memory however much of it goes to disk.
        let lines = lines(90);
        let context = SessionContext::new();
        let mut parsed = Vec::new();
        for _ in 0..4 {
            let arguments = ["source", "sequence", "received_ms", "payload"].map(col).to_vec();
            let call = parse_event::parse_event(&key(), Some(DAY)).call(arguments);
            let frame = context.read_batch(lines.clone()).unwrap().select(vec![call]).unwrap();
            parsed.extend(frame.collect().await.unwrap());
        }
        let batches: Vec<&dyn Array> = parsed.iter().map(|batch| batch.column(0).as_ref()).collect();
        let places: Vec<(usize, usize)> =
            (0..256).map(|at| (at % batches.len(), at * 31 % batches[at % batches.len()].len())).collect();
        let rows = interleave(&batches, &places).unwrap();
        let plain = cast(&rows, &DataType::Binary).unwrap();
        let bytes: usize = plain.as_binary::<i32>().iter().flatten().map(<[u8]>::len).sum();
        assert_eq!(bytes, 256 * (64 + 90), "all of them are events");
        let counted = rows.get_array_memory_size();
        assert!(counted < 3 * bytes, "{counted} bytes are counted for {bytes}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn spilled_runs_are_merged_within_little_memory() {
        let (rows, files) = sort(&lines(90), 48, 1, 64 << 20).await;
        assert!(files >= 3, "{rows} rows went to {files} files");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn spilled_runs_are_merged_within_the_usual_memory() {
        // Long ids, so that few lines are more than the 512 MiB of configs/prepare.toml: 650 MB of rows, which count twice.
        let (rows, files) = sort(&lines(900), 80, 1, 512 << 20).await;
        assert!(files >= 2, "{rows} rows went to {files} files");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn days_side_by_side_leave_each_other_memory() {
        let dir = tempfile::tempdir().unwrap();
        let resources = Resources { side_by_side: 4, partitions: 1, memory_bytes: 256 << 20, temporary: dir.path() };
        let session = Embedded.session(&resources).await.unwrap();
        let lines = lines(90);
        let days = (0..resources.side_by_side).map(|_| {
            let (context, lines) = (Embedded.of_a_day(&session, &resources).unwrap(), lines.clone());
            tokio::spawn(async move { sort_day(&context, &lines, 120).await })
        });
        for day in futures::future::join_all(days).await {
            let (rows, files) = day.unwrap();
            assert!(files >= 3, "{rows} rows went to {files} files");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_day_in_many_parts_leaves_each_of_them_memory() {
        for (partitions, memory_bytes) in [(2, 64 << 20), (16, 64 << 20), (16, 512 << 20), (64, 512 << 20)] {
            sort(&lines(20), 64, partitions, memory_bytes).await;
        }
    }
}
