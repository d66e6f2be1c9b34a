//! Event files as days: which runs of lines belong to each UTC day, and those lines as a table.
//!
//! Files are read twice, first for the times alone, then a day at a time, so that no copy of them is made. A stream
//! writes its lines in order of time, mostly: a day is a few long runs.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use arrow::{
    array::{BinaryViewBuilder, Int64Array, RecordBatch, StringViewBuilder, UInt64Array},
    buffer::Buffer,
    datatypes::SchemaRef,
};
use datafusion::{
    catalog::streaming::StreamingTable,
    error::DataFusionError,
    execution::TaskContext,
    physical_plan::{SendableRecordBatchStream, stream::RecordBatchStreamAdapter, streaming::PartitionStream},
};
use duet_core::{Error, Result, artifact::FileEntry, progress};
use rayon::prelude::*;

use crate::{
    ingest::{MAX_LINE_BYTES, event_files, line_ranges},
    raw::event_hour,
};

/// Bytes that a thread reads at a time, by the first reading; few in tests, so that many lines cross an end.
const PIECE_BYTES: u64 = if cfg!(test) { 1 << 12 } else { 4 << 20 };
/// Bytes read at a time to find the end of a line.
const REST_BYTES: u64 = 64 << 10;
/// Bytes read at a time, by the second reading, of a long run and of a short one: within them further runs need no reading.
const WINDOW_BYTES: u64 = if cfg!(test) { 1 << 14 } else { 1 << 20 };
const SHORT_WINDOW_BYTES: u64 = if cfg!(test) { 1 << 10 } else { 1 << 14 };
/// A batch ends when it holds windows of so many bytes: lines without a time may stand far apart.
const BATCH_BYTES: usize = if cfg!(test) { 1 << 16 } else { 4 << 20 };

/// Lines of a file that stand together and belong to one day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    file: u32,
    lines: u32,
    /// Where it starts in the file, and how long it is with its line ends.
    offset: u64,
    bytes: u64,
    /// Number of its first line, from 1.
    first_line: u64,
}

/// The runs of every day; `None` is the day of lines without a readable time.
#[derive(Debug)]
pub(super) struct FileDays {
    files: Vec<(PathBuf, Arc<str>)>,
    days: BTreeMap<Option<i32>, Vec<Run>>,
    /// Bytes and checksum over all files.
    pub(super) entry: FileEntry,
}

impl FileDays {
    /// Reads the times of a file's lines, or of every `*.jsonl`, `*.ndjson` and `*.json` below a directory, as long as the
    /// files are now. Nothing if the days are so mixed that the runs would take more than `memory_bytes`, or something
    /// can't be read twice (a pipe).
    ///
    /// # Errors
    /// [`Error::Io`] with the path; [`Error::Data`] for a directory without such files, or a line of more than 16 MiB.
    pub(super) fn read(path: &Path, memory_bytes: usize) -> Result<Option<Self>> {
        let files = event_files(path)?;
        let mut pieces = Vec::new();
        for (file, (path, _)) in files.iter().enumerate() {
            let data = fs_err::metadata(path).map_err(Error::io(path))?;
            if !data.is_file() {
                return Ok(None);
            }
            let starts = (0..data.len()).step_by(PIECE_BYTES as usize);
            pieces.extend(starts.map(|start| Piece { file, start, end: data.len().min(start + PIECE_BYTES) }));
        }
        let bytes = pieces.iter().map(|piece| piece.end - piece.start).sum();
        let bar = progress::bar("prepare", "bytes", bytes);
        let (most_runs, runs) = (memory_bytes / size_of::<Run>(), AtomicUsize::new(0));
        let read: Result<Vec<Option<PieceRuns>>> = pieces
            .par_iter()
            .map_init(Vec::new, |buffer, piece| {
                if runs.load(Ordering::Relaxed) > most_runs {
                    return Ok(None);
                }
                let found = piece.runs(&files[piece.file].0, buffer)?;
                runs.fetch_add(found.runs.len(), Ordering::Relaxed);
                bar.inc(piece.end - piece.start);
                Ok(Some(found))
            })
            .collect();
        bar.finish_and_clear();
        let Some(read) = read?.into_iter().collect::<Option<Vec<PieceRuns>>>() else { return Ok(None) };

        let mut days: BTreeMap<Option<i32>, Vec<Run>> = BTreeMap::new();
        let (mut crc, mut count, mut lines) = (crc32fast::Hasher::new(), 0, 0);
        for (piece, found) in pieces.iter().zip(read) {
            if piece.start == 0 {
                lines = 0;
            }
            for (day, run) in found.runs {
                count += append(days.entry(day).or_default(), Run { first_line: lines + run.first_line, ..run });
            }
            lines += found.lines;
            crc.combine(&found.crc);
        }
        let entry = FileEntry { bytes, crc32: format!("{:08x}", crc.finalize()) };
        Ok((count <= most_runs).then_some(Self { files, days, entry }))
    }

    /// Days that have lines.
    pub(super) fn days(&self) -> impl Iterator<Item = Option<i32>> + '_ {
        self.days.keys().copied()
    }

    /// Lines of a day.
    pub(super) fn lines(&self, day: Option<i32>) -> u64 {
        self.days.get(&day).into_iter().flatten().map(|run| u64::from(run.lines)).sum()
    }

    /// A day's lines as a table of `schema` (that of a raw part), in about `partitions` parts of equal size.
    pub(super) fn table(
        self: &Arc<Self>,
        day: Option<i32>,
        schema: SchemaRef,
        partitions: usize,
    ) -> Result<StreamingTable> {
        let runs = self.days.get(&day).map_or(&[][..], Vec::as_slice);
        let share = runs.iter().map(|run| run.bytes).sum::<u64>().div_ceil(partitions.max(1) as u64);
        let mut parts: Vec<Arc<dyn PartitionStream>> = Vec::new();
        let (mut start, mut bytes) = (0, 0);
        for (at, run) in runs.iter().enumerate() {
            bytes += run.bytes;
            if bytes >= share || at + 1 == runs.len() {
                let lines = DayLines { files: Arc::clone(self), day, runs: start..at + 1, schema: Arc::clone(&schema) };
                parts.push(Arc::new(lines));
                (start, bytes) = (at + 1, 0);
            }
        }
        StreamingTable::try_new(schema, parts).map_err(|error| Error::Internal(format!("a table of lines: {error}")))
    }
}

/// A part of a file: the lines that start within it.
#[derive(Debug, Clone, Copy)]
struct Piece {
    file: usize,
    start: u64,
    end: u64,
}

/// What was found in a piece.
struct PieceRuns {
    /// In order; lines are counted from the first of the piece, which is 1.
    runs: Vec<(Option<i32>, Run)>,
    lines: u64,
    /// Over the bytes of the piece.
    crc: crc32fast::Hasher,
}

impl Piece {
    /// Reads the piece of the file at `path` and the rest of its last line.
    fn runs(&self, path: &Path, buffer: &mut Vec<u8>) -> Result<PieceRuns> {
        // The byte before says whether a line starts right here.
        let from = self.start.saturating_sub(1);
        let mut file = File::open(path).map_err(Error::io(path))?;
        file.seek(SeekFrom::Start(from)).map_err(Error::io(path))?;
        buffer.clear();
        file.by_ref().take(self.end - from).read_to_end(buffer).map_err(Error::io(path))?;
        let (before, length) = ((self.start - from) as usize, buffer.len());
        let mut crc = crc32fast::Hasher::new();
        crc.update(buffer.get(before..).unwrap_or_default());
        while !buffer.ends_with(b"\n") {
            let known = buffer.len();
            if known - length > MAX_LINE_BYTES {
                let message = format!("a line of more than 16 MiB before byte {}: this is no file of events", self.end);
                return Err(Error::data(path, message));
            }
            if file.by_ref().take(REST_BYTES).read_to_end(buffer).map_err(Error::io(path))? == 0 {
                break;
            }
            if let Some(end) = memchr::memchr(b'\n', &buffer[known..]) {
                buffer.truncate(known + end + 1);
            }
        }
        let mut found = PieceRuns { runs: Vec::new(), lines: 0, crc };
        let first = match self.start {
            0 => 0,
            // The line that the piece before began ends here.
            _ => memchr::memchr(b'\n', &buffer[..length]).map_or(length, |end| end + 1),
        };
        // A line that starts at the end belongs to the next piece.
        if first >= length {
            return Ok(found);
        }
        let offset = from + first as u64;
        for (start, end, next) in line_ranges(&buffer[first..]) {
            let hour = event_hour(&buffer[first + start..first + end]);
            let day = hour.and_then(|hour| i32::try_from(hour.div_euclid(24)).ok());
            let bytes = (next - start) as u64;
            found.lines += 1;
            match found.runs.last_mut() {
                Some((last, run)) if *last == day => {
                    run.lines += 1;
                    run.bytes += bytes;
                }
                _ => {
                    let (file, offset, first_line) = (self.file as u32, offset + start as u64, found.lines);
                    found.runs.push((day, Run { file, lines: 1, offset, bytes, first_line }));
                }
            }
        }
        Ok(found)
    }
}

/// Appends a run, to the last one if it goes on there; returns how many more there are.
fn append(runs: &mut Vec<Run>, run: Run) -> usize {
    match runs.last_mut() {
        Some(last) if last.file == run.file && last.offset + last.bytes == run.offset => {
            if let Some(lines) = last.lines.checked_add(run.lines) {
                last.lines = lines;
                last.bytes += run.bytes;
                return 0;
            }
            runs.push(run);
            1
        }
        _ => {
            runs.push(run);
            1
        }
    }
}

/// Some of a day's runs, as a partition of its table.
#[derive(Debug)]
struct DayLines {
    files: Arc<FileDays>,
    day: Option<i32>,
    runs: std::ops::Range<usize>,
    schema: SchemaRef,
}

impl DayLines {
    fn reader(&self, batch_rows: usize) -> LineReader {
        LineReader {
            runs: self.files.days.get(&self.day).map_or(&[][..], |runs| &runs[self.runs.clone()]).to_vec().into_iter(),
            files: Arc::clone(&self.files),
            schema: Arc::clone(&self.schema),
            batch_rows,
            open: None,
            window: Window::default(),
            run: None,
        }
    }
}

impl PartitionStream for DayLines {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let reader = self.reader(context.session_config().batch_size());
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), futures::stream::iter(reader)))
    }
}

/// Bytes of a file.
#[derive(Debug, Default)]
struct Window {
    file: u32,
    offset: u64,
    bytes: Buffer,
}

impl Window {
    /// Where the lines of a run from `offset` start in it, if it holds them or at least one of them whole.
    fn find(&self, run: &Run) -> Option<std::ops::Range<usize>> {
        let start = usize::try_from(run.offset.checked_sub(self.offset)?).ok()?;
        let held = self.bytes.len().checked_sub(start).filter(|held| *held > 0 && self.file == run.file)?;
        let wanted = usize::try_from(run.bytes).unwrap_or(usize::MAX);
        if wanted <= held {
            return Some(start..start + wanted);
        }
        let end = memchr::memrchr(b'\n', &self.bytes[start..])?;
        Some(start..start + end + 1)
    }
}

/// Reads runs to batches.
struct LineReader {
    runs: std::vec::IntoIter<Run>,
    files: Arc<FileDays>,
    schema: SchemaRef,
    batch_rows: usize,
    open: Option<(u32, File)>,
    window: Window,
    /// What is left of the run being read.
    run: Option<Run>,
}

impl Iterator for LineReader {
    type Item = Result<RecordBatch, DataFusionError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.batch().map_err(|error| DataFusionError::External(Box::new(error))).transpose()
    }
}

impl LineReader {
    /// The next lines; payloads and names are views into what was read, not copies.
    fn batch(&mut self) -> Result<Option<RecordBatch>> {
        let mut sequences = Vec::with_capacity(self.batch_rows);
        let mut payloads = BinaryViewBuilder::with_capacity(self.batch_rows);
        let mut sources = StringViewBuilder::with_capacity(self.batch_rows);
        // The views' buffers for the window and for the name of its file.
        let mut blocks: Option<(u32, u32)> = None;
        let mut held = 0;
        while sequences.len() < self.batch_rows && held < BATCH_BYTES {
            let Some(mut run) = self.run.take().or_else(|| self.runs.next()) else { break };
            let range = match self.window.find(&run) {
                Some(range) => range,
                None => {
                    blocks = None;
                    self.fill(&run)?
                }
            };
            let source = &self.files.files[run.file as usize].1;
            let (payload_block, source_block) = *blocks.get_or_insert_with(|| {
                held += self.window.bytes.len();
                let name = Buffer::from(source.as_bytes());
                (payloads.append_block(self.window.bytes.clone()), sources.append_block(name))
            });
            let (lines, mut consumed) = (self.window.bytes.get(range.clone()).unwrap_or_default(), 0);
            let wanted = self.batch_rows - sequences.len();
            for (start, end, next) in line_ranges(lines).take(wanted.min(run.lines as usize)) {
                let place = (range.start + start) as u32;
                payloads.try_append_view(payload_block, place, (end - start) as u32).map_err(internal)?;
                sources.try_append_view(source_block, 0, source.len() as u32).map_err(internal)?;
                sequences.push(run.first_line);
                run.first_line += 1;
                run.lines -= 1;
                consumed = next as u64;
            }
            run.offset += consumed;
            run.bytes -= consumed;
            match (run.lines, run.bytes) {
                (0, 0) => {}
                (0, _) | (_, 0) => return Err(self.changed(run.file)),
                _ => self.run = Some(run),
            }
        }
        if sequences.is_empty() {
            return Ok(None);
        }
        let rows = sequences.len();
        RecordBatch::try_new(
            Arc::clone(&self.schema),
            vec![
                Arc::new(sources.finish()),
                Arc::new(UInt64Array::from(sequences)),
                Arc::new(Int64Array::new_null(rows)),
                Arc::new(payloads.finish()),
            ],
        )
        .map(Some)
        .map_err(internal)
    }

    /// Reads a window from the start of a run on, with a whole line of it at least; returns where its lines are.
    fn fill(&mut self, run: &Run) -> Result<std::ops::Range<usize>> {
        let path = &self.files.files[run.file as usize].0;
        let file = match &mut self.open {
            Some((open, file)) if *open == run.file => file,
            open => &mut open.insert((run.file, File::open(path).map_err(Error::io(path))?)).1,
        };
        let mut size = run.bytes.clamp(SHORT_WINDOW_BYTES, WINDOW_BYTES);
        loop {
            let mut bytes = Vec::with_capacity(size as usize);
            file.seek(SeekFrom::Start(run.offset)).map_err(Error::io(path))?;
            file.by_ref().take(size).read_to_end(&mut bytes).map_err(Error::io(path))?;
            let whole = (bytes.len() as u64) < size;
            self.window = Window { file: run.file, offset: run.offset, bytes: Buffer::from_vec(bytes) };
            match self.window.find(run) {
                Some(range) => return Ok(range),
                None if whole || size >= run.bytes => return Err(self.changed(run.file)),
                None => size *= 4,
            }
        }
    }

    fn changed(&self, file: u32) -> Error {
        Error::data(&self.files.files[file as usize].0, "the file was changed while it was read: prepare again")
    }
}

fn internal(error: arrow::error::ArrowError) -> Error {
    Error::Internal(format!("a batch of lines: {error}"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use arrow::array::AsArray;

    use super::{super::raw_lines, *};

    const DAY: &str = "2025-01-02T10:00:00Z";
    const NEXT: &str = "2025-01-02T23:30:00-01:00";
    /// Of the first of them.
    const DAY_NUMBER: i32 = 20_090;

    fn line(ts: &str, length: usize) -> String {
        format!(r#"{{"ts":"{ts}","x":"{}"}}"#, "x".repeat(length))
    }

    /// Source, sequence and payload of every line of a day.
    fn rows(files: &Arc<FileDays>, day: Option<i32>, batch_rows: usize) -> Result<Vec<(String, u64, Vec<u8>)>> {
        let runs = 0..files.days.get(&day).map_or(0, Vec::len);
        let lines = DayLines { files: Arc::clone(files), day, runs, schema: raw_lines::schema() };
        let mut rows = Vec::new();
        let mut reader = lines.reader(batch_rows);
        while let Some(batch) = reader.batch()? {
            assert!(batch.num_rows() <= batch_rows);
            let windows: Vec<usize> = batch.column(3).as_binary_view().data_buffers().iter().map(|b| b.len()).collect();
            let held: usize = windows.iter().sum();
            assert!(held - windows.last().unwrap() < BATCH_BYTES, "{held} bytes for {} rows", batch.num_rows());
            let sequences = batch.column(1).as_primitive::<arrow::datatypes::UInt64Type>();
            for row in 0..batch.num_rows() {
                let source = batch.column(0).as_string_view().value(row).to_owned();
                rows.push((source, sequences.value(row), batch.column(3).as_binary_view().value(row).to_vec()));
            }
        }
        assert_eq!(rows.len() as u64, files.lines(day));
        Ok(rows)
    }

    #[test]
    fn every_line_is_in_its_day_once() {
        let dir = tempfile::tempdir().unwrap();
        // Short lines, empty ones, lines longer than a window, line ends of both kinds, none at the end.
        let lines: Vec<String> = (0..5_000_usize)
            .map(|at| match at % 11 {
                3 => String::new(),
                5 => line(NEXT, at % 90),
                7 => "no time".to_owned(),
                _ if at == 17 => line(DAY, 3 * WINDOW_BYTES as usize),
                _ => line(DAY, at % 700),
            })
            .collect();
        let (first, second) = lines.split_at(2_000);
        std::fs::write(dir.path().join("a.jsonl"), first.join("\n") + "\n").unwrap();
        std::fs::write(dir.path().join("b.jsonl"), second.join("\r\n")).unwrap();
        let files = Arc::new(FileDays::read(dir.path(), 1 << 20).unwrap().unwrap());
        assert_eq!(files.days().collect::<Vec<_>>(), [None, Some(DAY_NUMBER), Some(DAY_NUMBER + 1)]);
        let mut found = Vec::new();
        for (day, batch_rows) in [(None, 7), (Some(DAY_NUMBER), 1_000), (Some(DAY_NUMBER + 1), 8_192)] {
            found.extend(rows(&files, day, batch_rows).unwrap());
        }
        found.sort();
        let expected = [("a.jsonl", first), ("b.jsonl", second)].map(|(name, lines)| {
            let numbered = (1..).zip(lines);
            numbered.map(|(at, line)| (name.to_owned(), at, line.clone().into_bytes())).collect::<Vec<_>>()
        });
        assert!(found == expected.concat());
        // The partitions of a table are the same lines.
        let table = files.table(Some(DAY_NUMBER), raw_lines::schema(), 3).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let context = datafusion::prelude::SessionContext::new();
        let count = runtime.block_on(context.read_table(Arc::new(table)).unwrap().count()).unwrap();
        assert_eq!(count as u64, files.lines(Some(DAY_NUMBER)));
    }

    #[test]
    fn mixed_days_and_changed_files_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        let lines: Vec<String> = (0..200).map(|at| line(if at % 2 == 0 { DAY } else { NEXT }, 9)).collect();
        let whole = lines.join("\n") + "\n";
        std::fs::write(&path, &whole).unwrap();
        assert!(FileDays::read(&path, 199 * size_of::<Run>()).unwrap().is_none());
        let files = Arc::new(FileDays::read(&path, 200 * size_of::<Run>()).unwrap().unwrap());
        let before = rows(&files, Some(DAY_NUMBER), 64).unwrap();
        // What is appended later belongs to the next time.
        std::fs::write(&path, whole.clone() + &lines[0]).unwrap();
        assert!(rows(&files, Some(DAY_NUMBER), 64).unwrap() == before);
        for changed in [&whole[..whole.len() - 80], &whole.replace(":00Z", ":00\n"), ""] {
            std::fs::write(&path, changed).unwrap();
            let error = rows(&files, Some(DAY_NUMBER), 64).unwrap_err().to_string();
            assert!(error.contains("a.jsonl: the file was changed"), "{error}");
        }
        assert_eq!(files.entry.bytes, whole.len() as u64);
        assert_eq!(files.entry.crc32, format!("{:08x}", crc32fast::hash(whole.as_bytes())));
    }
}
