//! The log of served lists: what was shown to whom, so that events can be joined to it later.
//!
//! JSON lines in segments: `served-START-UUID.jsonl`, the one being written ends in `.open`. A line is
//! ```json
//! {"ts":"2026-11-25T06:00:00.123Z","request_id":"0193…","user":"9c1f…","variant":"control","bundle":"2026-11-25-ab12cd34",
//!  "kind":"artist","source":"personal","degraded":[],"k":10,"items":["a1","a2"],"scores":[1.5,1.25]}
//! ```
//! Positions are places in `items`, from 0. `user` is the model's pseudonym, or else the pseudonym under the log's own key
//! (`.key` beside the segments, made at the first start; [`UserKey::from_file`] reads it), or null for anonymous lists.
//!
//! No request waits for the log: [`ServedLog::record`] writes the line into memory, and a thread takes what has gathered there to the
//! disk, some fifty times a second. Woken for each list, that thread would cost more than the lists do. If too much has gathered, or the
//! disk refuses, lists are dropped and counted in `duet_served_log_dropped_total`. A killed server loses what it had not written yet;
//! a stopped one nothing.

use std::{
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use chrono::{DateTime, SecondsFormat};
use duet_core::{Error, Result};
use duet_data::accounts::UserKey;
use fs_err as fs;
use serde::Serialize;

use crate::{
    clock::Clock,
    config::ServedLogConfig,
    segments::{Disk, SegmentOptions, Segments, SystemDisk},
};

/// How the segments' names begin.
const PREFIX: &str = "served";
/// The key of the user hashes.
const KEY_FILE: &str = ".key";
/// Lists that may wait to be written: some tenths of a second at full speed.
const MOST_LISTS: u64 = 8_192;
/// Bytes that may wait to be written: long lists fill the memory before their number does.
const MOST_BYTES: usize = 32 << 20;
/// How long lists gather before they are written together.
const GATHER: Duration = Duration::from_millis(20);
/// How often the writer looks whether the segment has become old.
const TICK: Duration = Duration::from_millis(200);
/// Room for a line of ten items.
const LINE_BYTES: usize = 512;

/// Whom a list was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServedUser<'a> {
    /// A pseudonym already: logged as it is.
    Pseudonym(&'a str),
    /// The id of the source system: logged as a pseudonym under the log's key.
    Given(&'a str),
    /// A history in the body of the request.
    Anonymous,
}

/// A list that was served.
#[derive(Debug, Clone, PartialEq)]
pub struct ServedList<'a> {
    /// When, in milliseconds since 1970.
    pub ts_ms: i64,
    /// As in the answer.
    pub request_id: &'a str,
    /// Whom for.
    pub user: ServedUser<'a>,
    /// Name of the variant.
    pub variant: &'a str,
    /// The bundle it was made from.
    pub bundle: &'a str,
    /// `artist` or `song`.
    pub kind: &'static str,
    /// As in the answer.
    pub source: &'static str,
    /// As in the answer.
    pub degraded: &'a [&'static str],
    /// The length that was asked for.
    pub k: usize,
    /// Ids of the items, best first.
    pub items: Vec<&'a str>,
    /// Their scores.
    pub scores: Vec<f32>,
}

/// A line of the log.
#[derive(Serialize)]
struct LineText<'a> {
    ts: &'a str,
    request_id: &'a str,
    user: Option<&'a str>,
    variant: &'a str,
    bundle: &'a str,
    kind: &'a str,
    source: &'a str,
    degraded: &'a [&'static str],
    k: usize,
    items: &'a [&'a str],
    scores: &'a [f32],
}

/// Takes lists from every thread.
#[derive(Debug)]
pub struct ServedLog {
    shared: Arc<Shared>,
    key: UserKey,
    writer: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    gathered: Mutex<Gathered>,
    /// The first list has come, the last one has, or half of what may wait.
    news: Condvar,
    most_lists: u64,
    dropped: AtomicU64,
}

/// What waits to be written.
#[derive(Debug, Default)]
struct Gathered {
    lines: Vec<u8>,
    lists: u64,
    is_closed: bool,
}

impl ServedLog {
    /// Opens the log: closes what a killed process left open, and makes the key if there is none.
    ///
    /// # Errors
    /// [`Error::Input`] if another process writes there; [`Error::Io`] and [`Error::Data`] with the path.
    pub fn open(config: &ServedLogConfig, clock: Clock) -> Result<Self> {
        Self::on(config, clock, Box::new(SystemDisk), MOST_LISTS)
    }

    fn on(config: &ServedLogConfig, clock: Clock, disk: Box<dyn Disk>, most_lists: u64) -> Result<Self> {
        let dir = Path::new(&config.dir);
        let options = SegmentOptions::new(PREFIX, config.segment_mib, config.segment_minutes);
        let segments = Segments::open(dir, options, clock, disk)?;
        let key = UserKey::new(&user_hash_key(dir)?)?;
        let (gathered, news) = (Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared { gathered, news, most_lists, dropped: AtomicU64::new(0) });
        let writer = Writer { segments, shared: Arc::clone(&shared), fails: false };
        let writer = std::thread::Builder::new()
            .name("served-log".into())
            .spawn(move || writer.run())
            .map_err(Error::io(dir))?;
        // A counter that was never raised is not shown: zero is worth showing.
        metrics::counter!("duet_served_log_dropped_total").increment(0);
        Ok(Self { shared, key, writer: Mutex::new(Some(writer)) })
    }

    /// Puts a list among those to be written; drops and counts it if too many wait.
    pub fn record(&self, list: &ServedList<'_>) {
        // Outside the lock: whoever else records waits for a copy of half a kilobyte and no more.
        let line = self.line(list);
        let mut gathered = self.shared.lock();
        let is_full = gathered.lists >= self.shared.most_lists || gathered.lines.len() >= MOST_BYTES;
        if line.is_empty() || is_full || gathered.is_closed {
            drop(gathered);
            return self.shared.count_dropped(1);
        }
        gathered.lines.extend_from_slice(&line);
        gathered.lists += 1;
        let lists = gathered.lists;
        drop(gathered);
        if lists == 1 || lists == self.shared.hurry_at() {
            self.shared.news.notify_one();
        }
    }

    /// The line with its end; nothing, and a word about it, if it is no JSON.
    fn line(&self, list: &ServedList<'_>) -> Vec<u8> {
        let ServedList { ts_ms, request_id, user, variant, bundle, kind, source, degraded, k, items, scores } = list;
        let ts = DateTime::from_timestamp_millis(*ts_ms).unwrap_or_default();
        let pseudonym = match *user {
            ServedUser::Given(id) => self.key.pseudonym_bytes(id).to_string(),
            ServedUser::Pseudonym(_) | ServedUser::Anonymous => String::new(),
        };
        let text = LineText {
            ts: &ts.to_rfc3339_opts(SecondsFormat::Millis, true),
            request_id,
            user: match *user {
                ServedUser::Pseudonym(pseudonym) => Some(pseudonym),
                ServedUser::Given(_) => Some(&pseudonym),
                ServedUser::Anonymous => None,
            },
            variant,
            bundle,
            kind,
            source,
            degraded,
            k: *k,
            items,
            scores,
        };
        let mut line = Vec::with_capacity(LINE_BYTES);
        match serde_json::to_writer(&mut line, &text) {
            Ok(()) => line.push(b'\n'),
            Err(error) => {
                line.clear();
                tracing::error!(%error, "a served list is no JSON");
            }
        }
        line
    }

    /// Lists dropped so far.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Writes what waits and closes the segment; lists recorded later are dropped. Dropping the log does the same.
    pub fn close(&self) {
        self.shared.lock().is_closed = true;
        self.shared.news.notify_one();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            // A writer that panicked has said so already.
            let _ = writer.join();
        }
    }
}

impl Drop for ServedLog {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many lists are written at once, however short they have waited.
    fn hurry_at(&self) -> u64 {
        self.most_lists.div_ceil(2)
    }

    fn count_dropped(&self, lists: u64) {
        self.dropped.fetch_add(lists, Ordering::Relaxed);
        metrics::counter!("duet_served_log_dropped_total").increment(lists);
    }
}

/// The key of the user hashes in a log's directory, made if there is none: 64 hex digits in `.key`, readable by its owner.
///
/// # Errors
/// [`Error::Io`] with the path; [`Error::Data`] if what is there is too short for a key.
pub fn user_hash_key(dir: &Path) -> Result<Vec<u8>> {
    fs::create_dir_all(dir).map_err(Error::io(dir))?;
    let path = dir.join(KEY_FILE);
    if !path.exists() {
        let digits: String = rand::random::<[u8; 32]>().iter().map(|byte| format!("{byte:02x}")).collect();
        // Whole or not at all, and not over the key of another who came first.
        let partial = dir.join(format!(".key.{}", uuid::Uuid::now_v7().simple()));
        let written = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&partial)
            .and_then(|mut file| file.write_all(digits.as_bytes()).and_then(|()| file.sync_all()));
        let linked = written.and_then(|()| match std::fs::hard_link(&partial, &path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        });
        // Ours and worthless now, whatever became of it.
        let _ = std::fs::remove_file(&partial);
        linked.map_err(Error::io(&path))?;
    }
    let bytes = fs::read(&path).map_err(Error::io(&path))?;
    let key = bytes.trim_ascii();
    if key.len() < UserKey::MIN_BYTES {
        let least = UserKey::MIN_BYTES;
        return Err(Error::data(&path, format!("a key of {} bytes; at least {least} are needed", key.len())));
    }
    Ok(key.to_vec())
}

/// The thread that writes.
struct Writer {
    segments: Segments,
    shared: Arc<Shared>,
    /// The last write failed; said once.
    fails: bool,
}

impl Writer {
    fn run(mut self) {
        let mut lines = Vec::new();
        loop {
            let (lists, is_closed) = self.take(&mut lines);
            if lists > 0 {
                let written = self.segments.append(&lines);
                self.note(written, lists);
            } else if is_closed {
                // Dropping the segments closes the last one.
                return;
            } else {
                let rotated = self.segments.rotate_if_due();
                self.note(rotated, 0);
            }
        }
    }

    /// Waits for lists and lets them gather for a while; their number, which is 0 after a tick without any, and whether the log is closed.
    fn take(&self, lines: &mut Vec<u8>) -> (u64, bool) {
        lines.clear();
        let Shared { news, .. } = &*self.shared;
        let waited =
            news.wait_timeout_while(self.shared.lock(), TICK, |gathered| gathered.lists == 0 && !gathered.is_closed);
        let (mut gathered, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if gathered.lists > 0 {
            let hurry_at = self.shared.hurry_at();
            let waited =
                news.wait_timeout_while(gathered, GATHER, |gathered| gathered.lists < hurry_at && !gathered.is_closed);
            gathered = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        std::mem::swap(lines, &mut gathered.lines);
        (std::mem::take(&mut gathered.lists), gathered.is_closed)
    }

    fn note(&mut self, written: Result<()>, lists: u64) {
        if let Err(error) = &written {
            self.shared.count_dropped(lists);
            if !self.fails {
                tracing::warn!(%error, "served lists are not logged");
            }
        }
        // An idle tick says nothing about the disk.
        if lists > 0 || written.is_err() {
            self.fails = written.is_err();
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::{
        fs::File,
        io,
        sync::{Condvar, atomic::AtomicUsize},
        time::Instant,
    };

    use serde::Deserialize;

    use super::*;
    use crate::segments::{closed_segments, tests::BadDisk};

    /// A line as whoever reads the log finds it.
    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct ServedLine {
        ts: String,
        request_id: String,
        user: Option<String>,
        variant: String,
        bundle: String,
        kind: String,
        source: String,
        degraded: Vec<String>,
        k: usize,
        items: Vec<String>,
        scores: Vec<f32>,
    }

    fn config(dir: &Path) -> ServedLogConfig {
        ServedLogConfig { dir: dir.to_str().unwrap().to_owned(), segment_mib: 64, segment_minutes: 60 }
    }

    fn record(log: &ServedLog, request: &str, user: ServedUser<'_>) {
        log.record(&ServedList {
            ts_ms: 1_764_050_400_123,
            request_id: request,
            user,
            variant: "control",
            bundle: "b-00000001",
            kind: "artist",
            source: "personal",
            degraded: &["deadline"],
            k: 3,
            items: vec!["a\"1", "a2"],
            scores: vec![1.5, -0.25],
        });
    }

    fn lines(dir: &Path) -> Vec<ServedLine> {
        let text = |path: &std::path::PathBuf| fs::read_to_string(path).unwrap();
        let all: String = closed_segments(dir, PREFIX).unwrap().iter().map(text).collect();
        all.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn lists_are_logged_under_pseudonyms() {
        let dir = tempfile::tempdir().unwrap();
        let given = ServedUser::Given("listener 17");
        for start in 0..2 {
            let log = ServedLog::open(&config(dir.path()), Clock::manual(0)).unwrap();
            record(&log, &format!("{start}-0"), given);
            record(&log, &format!("{start}-1"), ServedUser::Pseudonym("p17"));
            record(&log, &format!("{start}-2"), ServedUser::Anonymous);
            log.close();
            record(&log, "late", ServedUser::Anonymous);
            assert_eq!(log.dropped(), 1);
        }
        let lines = lines(dir.path());
        let requests: Vec<&str> = lines.iter().map(|line| line.request_id.as_str()).collect();
        assert_eq!(requests, ["0-0", "0-1", "0-2", "1-0", "1-1", "1-2"]);
        // The key outlives the process, and is one that readers can use.
        let key = UserKey::from_file(&dir.path().join(KEY_FILE)).unwrap();
        let hash = key.pseudonym("listener 17").unwrap();
        let users: Vec<Option<&str>> = lines.iter().map(|line| line.user.as_deref()).collect();
        let expected = [Some(hash.as_str()), Some("p17"), None];
        assert_eq!(users, [expected, expected].concat());
        let first = &lines[0];
        assert_eq!(first.ts, "2025-11-25T06:00:00.123Z");
        assert_eq!((&first.items, &first.scores), (&vec!["a\"1".to_owned(), "a2".into()], &vec![1.5, -0.25]));
        assert_eq!((first.k, first.degraded.as_slice()), (3, ["deadline".to_owned()].as_slice()));
        let names = [&first.variant, &first.bundle, &first.kind, &first.source];
        assert_eq!(names, ["control", "b-00000001", "artist", "personal"]);
    }

    #[test]
    fn the_key_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let first = user_hash_key(dir.path()).unwrap();
        assert_eq!((first.len(), &first), (64, &user_hash_key(dir.path()).unwrap()));
        let path = dir.path().join(KEY_FILE);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        fs::write(&path, "short").unwrap();
        let error = user_hash_key(dir.path()).unwrap_err().to_string();
        assert!(error.contains(".key") && error.contains("5 bytes") && !error.contains("short\""), "{error}");
    }

    /// A disk that writes nothing before its gate is opened.
    struct Gate(Arc<(Mutex<bool>, Condvar)>, Arc<AtomicUsize>);

    impl Disk for Gate {
        fn write(&mut self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
            self.1.fetch_add(1, Ordering::SeqCst);
            let (open, turned) = &*self.0;
            drop(turned.wait_while(open.lock().unwrap(), |open| !*open).unwrap());
            file.write_all(bytes)
        }
    }

    #[test]
    fn nobody_waits_for_a_slow_disk_and_what_is_dropped_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let (gate, writes) = (Arc::new((Mutex::new(false), Condvar::new())), Arc::new(AtomicUsize::new(0)));
        let disk = Gate(Arc::clone(&gate), Arc::clone(&writes));
        let log = ServedLog::on(&config(dir.path()), Clock::manual(0), Box::new(disk), 10).unwrap();
        record(&log, "first", ServedUser::Anonymous);
        while writes.load(Ordering::SeqCst) == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let started = Instant::now();
        for request in 0..1_000 {
            record(&log, &request.to_string(), ServedUser::Anonymous);
        }
        assert!(started.elapsed() < Duration::from_secs(1));
        assert_eq!(log.dropped(), 990);
        *gate.0.lock().unwrap() = true;
        gate.1.notify_all();
        drop(log);
        assert_eq!(lines(dir.path()).len(), 11);
    }

    #[test]
    fn lists_gather_and_are_written_together() {
        let dir = tempfile::tempdir().unwrap();
        let (gate, writes) = (Arc::new((Mutex::new(true), Condvar::new())), Arc::new(AtomicUsize::new(0)));
        let disk = Gate(gate, Arc::clone(&writes));
        let log = ServedLog::on(&config(dir.path()), Clock::manual(0), Box::new(disk), MOST_LISTS).unwrap();
        for request in 0..1_000 {
            record(&log, &request.to_string(), ServedUser::Anonymous);
        }
        let started = Instant::now();
        while writes.load(Ordering::SeqCst) == 0 {
            assert!(started.elapsed() < Duration::from_secs(20), "nobody writes before the log is closed");
            std::thread::sleep(Duration::from_millis(1));
        }
        log.close();
        assert_eq!((log.dropped(), lines(dir.path()).len()), (0, 1_000));
        // Not one for each, however often this thread was kept from its work.
        assert!(writes.load(Ordering::SeqCst) <= 100, "{writes:?}");
    }

    #[test]
    fn lists_that_the_disk_refuses_are_counted_and_later_ones_logged() {
        let dir = tempfile::tempdir().unwrap();
        // The first write ends halfway.
        let disk = BadDisk { syncs: Arc::default(), fails: |write| write == 0, torn: true };
        let log = ServedLog::on(&config(dir.path()), Clock::manual(0), Box::new(disk), 10).unwrap();
        record(&log, "lost", ServedUser::Anonymous);
        while log.dropped() == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        record(&log, "kept", ServedUser::Anonymous);
        log.close();
        assert_eq!((log.dropped(), lines(dir.path()).len()), (1, 1));
        assert_eq!(lines(dir.path())[0].request_id, "kept");
    }
}
