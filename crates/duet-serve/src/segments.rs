//! Files of JSON lines that are appended to for a while, then closed for good: the journal of events and the log of
//! served lists.
//!
//! * `PREFIX-START-UUID.jsonl.open` is being written, `PREFIX-START-UUID.jsonl` never changes again: the last step of
//!   closing is the rename, after everything is on the disk. `START` is when it was opened, so names sort by time.
//! * A segment is closed when it is long or old enough, and by [`Segments::close`].
//! * What a killed process left open is closed by the next one: a torn last line, of which nobody was told that it is
//!   kept, is cut off first. A machine that lost its power may leave zeros where bytes were on their way: they are behind
//!   everything that was synced, and are cut off with what follows them.
//! * A write or sync that fails ends the segment at the last line that was kept: after a failed sync nobody knows which
//!   of the later bytes the disk has.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use chrono::DateTime;
use duet_core::{Error, Result};
use fs_err as fs;
use uuid::Uuid;

use crate::clock::Clock;

/// How a segment that is being written ends.
const OPEN: &str = ".jsonl.open";
/// How a closed segment ends.
const CLOSED: &str = ".jsonl";
/// Held for as long as a process writes segments in the directory.
const LOCK: &str = ".lock";
/// Bytes read at once when looking for the end of the last whole line.
const TAIL_BYTES: u64 = 1 << 16;

/// Which segments, and when one is full.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SegmentOptions {
    /// How the names begin.
    pub(crate) prefix: &'static str,
    /// A segment of so many bytes is closed.
    pub(crate) max_bytes: u64,
    /// A segment opened so long ago is closed, if anything is in it.
    pub(crate) max_age_ms: i64,
}

impl SegmentOptions {
    /// From the numbers of a configuration.
    pub(crate) fn new(prefix: &'static str, mib: u64, minutes: u64) -> Self {
        let max_age_ms = i64::try_from(minutes.saturating_mul(60_000)).unwrap_or(i64::MAX);
        Self { prefix, max_bytes: mib.saturating_mul(1 << 20), max_age_ms }
    }
}

/// What is done to a file to keep bytes; tests let it fail and wait.
pub(crate) trait Disk: Send {
    /// Appends bytes.
    fn write(&mut self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }

    /// Returns once everything written is on the disk.
    fn sync(&mut self, file: &File) -> io::Result<()> {
        file.sync_data()
    }
}

/// The disk as the operating system offers it.
#[derive(Debug)]
pub(crate) struct SystemDisk;

impl Disk for SystemDisk {}

/// A segment that is being written.
struct OpenSegment {
    file: File,
    /// Where it is now.
    path: PathBuf,
    /// Where it goes when it is closed.
    closed: PathBuf,
    opened_ms: i64,
    /// Bytes of lines that are kept: durable ones, or written ones where nobody asked for more.
    kept: u64,
}

/// The segments of one directory, written by one process at a time.
pub(crate) struct Segments {
    dir: PathBuf,
    options: SegmentOptions,
    clock: Clock,
    disk: Box<dyn Disk>,
    open: Option<OpenSegment>,
    _lock: File,
}

impl Segments {
    /// Takes the directory over (made if it is missing) and closes what an earlier process left open.
    ///
    /// # Errors
    /// [`Error::Input`] if another process writes there; [`Error::Io`] with the path.
    pub(crate) fn open(dir: &Path, options: SegmentOptions, clock: Clock, disk: Box<dyn Disk>) -> Result<Self> {
        fs::create_dir_all(dir).map_err(Error::io(dir))?;
        let lock_path = dir.join(LOCK);
        let lock = File::create(&lock_path).map_err(Error::io(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::input(format!(
                    "{}: another process writes here; give every server a directory of its own",
                    dir.display()
                )));
            }
            Err(TryLockError::Error(source)) => return Err(Error::Io { path: lock_path, source }),
        }
        for path in names(dir, options.prefix, OPEN)? {
            recover(&path)?;
        }
        sync_dir(dir)?;
        Ok(Self { dir: dir.to_path_buf(), options, clock, disk, open: None, _lock: lock })
    }

    /// Appends whole lines; they survive the process, not the machine, until the segment is closed.
    ///
    /// # Errors
    /// [`Error::Io`] with the path; nothing of the lines is kept then.
    pub(crate) fn append(&mut self, lines: &[u8]) -> Result<()> {
        self.write(lines, false)
    }

    /// Appends whole lines and returns when they are on the disk.
    ///
    /// # Errors
    /// As [`Segments::append`]. Where even the cutting off fails, the next process may find some of the lines: whoever
    /// was refused does not know.
    pub(crate) fn append_durably(&mut self, lines: &[u8]) -> Result<()> {
        self.write(lines, true)
    }

    fn write(&mut self, lines: &[u8], durably: bool) -> Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        debug_assert!(lines.ends_with(b"\n"), "only whole lines are appended");
        self.rotate_if_due()?;
        let mut segment = match self.open.take() {
            Some(segment) => segment,
            None => self.start()?,
        };
        let written = self.disk.write(&mut segment.file, lines);
        let written = if durably { written.and_then(|()| self.disk.sync(&segment.file)) } else { written };
        match written {
            Ok(()) => {
                segment.kept += lines.len() as u64;
                self.open = Some(segment);
                Ok(())
            }
            Err(source) => {
                let path = segment.path.clone();
                self.abandon(segment);
                Err(Error::Io { path, source })
            }
        }
    }

    /// Closes the segment if it is long or old enough.
    ///
    /// # Errors
    /// As [`Segments::close`].
    pub(crate) fn rotate_if_due(&mut self) -> Result<()> {
        let now = self.clock.now_ms();
        let due = self.open.as_ref().is_some_and(|segment| {
            segment.kept >= self.options.max_bytes
                || (segment.kept > 0 && now.saturating_sub(segment.opened_ms) >= self.options.max_age_ms)
        });
        if due { self.close() } else { Ok(()) }
    }

    /// Closes the segment, if one is open: syncs it, then takes the `.open` off its name.
    ///
    /// # Errors
    /// [`Error::Io`] with the path; the file then keeps its name, and the next process closes it.
    pub(crate) fn close(&mut self) -> Result<()> {
        match self.open.take() {
            Some(segment) => self.finish(&segment),
            None => Ok(()),
        }
    }

    /// Ends a segment that could not be written to at what it kept.
    fn abandon(&mut self, segment: OpenSegment) {
        let closed =
            segment.file.set_len(segment.kept).map_err(Error::io(&segment.path)).and_then(|()| self.finish(&segment));
        if let Err(error) = closed {
            tracing::warn!(%error, "a segment stays open until the next start");
        }
    }

    fn finish(&mut self, segment: &OpenSegment) -> Result<()> {
        if segment.kept == 0 {
            return fs::remove_file(&segment.path).map_err(Error::io(&segment.path));
        }
        self.disk.sync(&segment.file).map_err(Error::io(&segment.path))?;
        fs::rename(&segment.path, &segment.closed).map_err(Error::io(&segment.closed))?;
        sync_dir(&self.dir)
    }

    fn start(&self) -> Result<OpenSegment> {
        let opened_ms = self.clock.now_ms();
        let start = DateTime::from_timestamp_millis(opened_ms).unwrap_or_default().format("%Y%m%dT%H%M%S%.3fZ");
        let name = format!("{}-{start}-{}", self.options.prefix, Uuid::now_v7().simple());
        let path = self.dir.join(format!("{name}{OPEN}"));
        let file = OpenOptions::new().append(true).create_new(true).open(&path).map_err(Error::io(&path))?;
        // A synced file that no directory lists is lost with the machine.
        sync_dir(&self.dir)?;
        Ok(OpenSegment { file, path, closed: self.dir.join(format!("{name}{CLOSED}")), opened_ms, kept: 0 })
    }
}

impl Drop for Segments {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::warn!(%error, "a segment stays open until the next start");
        }
    }
}

/// The closed segments of a directory, oldest first; none where the directory is missing.
///
/// # Errors
/// [`Error::Io`] with the path.
pub(crate) fn closed_segments(dir: &Path, prefix: &str) -> Result<Vec<PathBuf>> {
    if dir.is_dir() { names(dir, prefix, CLOSED) } else { Ok(Vec::new()) }
}

/// When a segment was opened, by its name.
pub(crate) fn opened_ms(path: &Path) -> Option<i64> {
    let name = path.file_name()?.to_str()?;
    let start = name.split('-').nth(1)?;
    let start = chrono::NaiveDateTime::parse_from_str(start, "%Y%m%dT%H%M%S%.3fZ").ok()?;
    Some(start.and_utc().timestamp_millis())
}

fn names(dir: &Path, prefix: &str, suffix: &str) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io(dir))? {
        let entry = entry.map_err(Error::io(dir))?;
        let name = entry.file_name();
        let ours = name.to_str().and_then(|name| name.strip_prefix(prefix)).is_some_and(|rest| rest.starts_with('-'));
        if ours && name.to_str().is_some_and(|name| name.ends_with(suffix)) {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// Cuts a torn last line off a segment that was left open, and closes it.
fn recover(path: &Path) -> Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(Error::io(path))?;
    let length = file.metadata().map_err(Error::io(path))?.len();
    let written = first_zero(&file).map_err(Error::io(path))?.unwrap_or(length);
    let whole = whole_lines(&file, written).map_err(Error::io(path))?;
    if whole == 0 {
        return fs::remove_file(path).map_err(Error::io(path));
    }
    if whole < length {
        tracing::info!(path = %path.display(), bytes = length - whole, "cutting off a torn line");
        file.set_len(whole).map_err(Error::io(path))?;
    }
    file.sync_all().map_err(Error::io(path))?;
    let closed = path.with_extension("");
    fs::rename(path, &closed).map_err(Error::io(&closed))
}

/// Where the first zero byte is: no line of JSON has one.
fn first_zero(mut file: &File) -> io::Result<Option<u64>> {
    let (mut block, mut start) = (vec![0; 1 << 20], 0);
    file.seek(SeekFrom::Start(0))?;
    loop {
        let read = file.read(&mut block)?;
        if read == 0 {
            return Ok(None);
        }
        if let Some(at) = block[..read].iter().position(|&byte| byte == 0) {
            return Ok(Some(start + at as u64));
        }
        start += read as u64;
    }
}

/// Bytes up to the end of the last whole line among the first `length`.
fn whole_lines(mut file: &File, length: u64) -> io::Result<u64> {
    let mut end = length;
    let mut block = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(TAIL_BYTES);
        block.resize((end - start) as usize, 0);
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block)?;
        if let Some(at) = block.iter().rposition(|&byte| byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(Error::io(dir))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
pub(crate) mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    /// A disk on which the given syncs (counted from 0) fail, and with `torn` the writes before them halfway.
    pub(crate) struct BadDisk {
        pub(crate) syncs: Arc<AtomicUsize>,
        pub(crate) fails: fn(usize) -> bool,
        pub(crate) torn: bool,
    }

    impl Disk for BadDisk {
        fn write(&mut self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
            if self.torn && (self.fails)(self.syncs.load(Ordering::SeqCst)) {
                self.syncs.fetch_add(1, Ordering::SeqCst);
                file.write_all(&bytes[..bytes.len() / 2])?;
                return Err(io::Error::from(io::ErrorKind::StorageFull));
            }
            file.write_all(bytes)
        }

        fn sync(&mut self, file: &File) -> io::Result<()> {
            if (self.fails)(self.syncs.fetch_add(1, Ordering::SeqCst)) {
                return Err(io::Error::other("the sync failed"));
            }
            file.sync_data()
        }
    }

    const MINUTE_MS: i64 = 60_000;

    fn options() -> SegmentOptions {
        SegmentOptions { prefix: "events", max_bytes: 10, max_age_ms: MINUTE_MS }
    }

    fn open(dir: &Path, clock: &Clock) -> Segments {
        Segments::open(dir, options(), clock.clone(), Box::new(SystemDisk)).unwrap()
    }

    fn closed_text(dir: &Path) -> Vec<String> {
        closed_segments(dir, "events").unwrap().iter().map(|path| fs::read_to_string(path).unwrap()).collect()
    }

    fn open_files(dir: &Path) -> usize {
        names(dir, "events", OPEN).unwrap().len()
    }

    #[test]
    fn segments_are_closed_by_size_and_by_age() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::manual(1_764_050_400_123);
        let mut segments = open(dir.path(), &clock);
        segments.append(b"12345\n").unwrap();
        segments.append(b"67890\n").unwrap();
        assert_eq!((closed_text(dir.path()).len(), open_files(dir.path())), (0, 1));
        // The segment has reached its size: the next line goes to another.
        segments.append(b"a\n").unwrap();
        assert_eq!(closed_text(dir.path()), ["12345\n67890\n"]);
        clock.set_ms(clock.now_ms() + MINUTE_MS - 1);
        segments.rotate_if_due().unwrap();
        assert_eq!(open_files(dir.path()), 1);
        clock.set_ms(clock.now_ms() + 1);
        segments.rotate_if_due().unwrap();
        assert_eq!((closed_text(dir.path()), open_files(dir.path())), (vec!["12345\n67890\n".into(), "a\n".into()], 0));
        // Nothing is open, so nothing gets old.
        clock.set_ms(clock.now_ms() + 10 * MINUTE_MS);
        segments.rotate_if_due().unwrap();
        segments.append_durably(b"b\n").unwrap();
        drop(segments);
        assert_eq!(closed_text(dir.path()).last().unwrap(), "b\n");
        let starts: Vec<i64> =
            closed_segments(dir.path(), "events").unwrap().iter().map(|path| opened_ms(path).unwrap()).collect();
        let first = 1_764_050_400_123;
        assert_eq!(starts, [first, first, first + 11 * MINUTE_MS]);
    }

    #[test]
    fn a_torn_line_is_cut_off_wherever_the_process_was_killed() {
        let whole = format!("{}\n{}\n", "a".repeat(7), "b".repeat(2 * TAIL_BYTES as usize));
        let clock = Clock::manual(0);
        let dir = tempfile::tempdir().unwrap();
        let ends = (0..20).chain([TAIL_BYTES as usize, whole.len() - 1, whole.len()]);
        for end in ends {
            let torn = dir.path().join("events-19700101T000000.000Z-0.jsonl.open");
            fs::write(&torn, &whole[..end]).unwrap();
            // Somebody else's file stays as it is.
            let other = dir.path().join("served-19700101T000000.000Z-0.jsonl.open");
            fs::write(&other, "torn").unwrap();
            drop(open(dir.path(), &clock));
            let kept = whole[..end].rfind('\n').map_or(0, |at| at + 1);
            let expected: Vec<String> = if kept == 0 { vec![] } else { vec![whole[..kept].to_owned()] };
            assert_eq!((closed_text(dir.path()), open_files(dir.path())), (expected, 0), "killed after {end} bytes");
            assert_eq!(fs::read_to_string(&other).unwrap(), "torn");
            for path in closed_segments(dir.path(), "events").unwrap() {
                fs::remove_file(path).unwrap();
            }
        }
    }

    #[test]
    fn zeros_after_a_power_cut_are_cut_off_with_what_follows() {
        let dir = tempfile::tempdir().unwrap();
        let torn = dir.path().join("events-19700101T000000.000Z-0.jsonl.open");
        fs::write(&torn, b"synced\nhalf of \0\0\0\0\nlater\n").unwrap();
        drop(open(dir.path(), &Clock::manual(0)));
        assert_eq!((closed_text(dir.path()), open_files(dir.path())), (vec!["synced\n".into()], 0));
    }

    #[test]
    fn what_was_kept_survives_a_failure_and_what_was_not_is_gone() {
        for torn in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let fails = |sync: usize| sync == 1;
            let disk = BadDisk { syncs: Arc::default(), fails, torn };
            let options = SegmentOptions { max_bytes: 1 << 20, ..options() };
            let mut segments = Segments::open(dir.path(), options, Clock::manual(0), Box::new(disk)).unwrap();
            segments.append_durably(b"first\n").unwrap();
            let error = segments.append_durably(b"second\n").unwrap_err().to_string();
            assert!(error.contains("events-19700101"), "{error}");
            segments.append_durably(b"third\n").unwrap();
            drop(segments);
            assert_eq!(closed_text(dir.path()), ["first\n", "third\n"]);
            assert_eq!(open_files(dir.path()), 0);
        }
    }

    #[test]
    fn a_directory_has_one_writer() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::manual(0);
        let first = open(dir.path(), &clock);
        let second = Segments::open(dir.path(), options(), clock.clone(), Box::new(SystemDisk));
        assert!(second.err().unwrap().to_string().contains("another process writes here"));
        drop(first);
        open(dir.path(), &clock);
    }
}
