//! The journal of accepted events: an event that was acknowledged is on the disk.
//!
//! One thread writes. It takes every append that waits, writes them together, syncs once and then answers all: the more
//! come at the same time, the fewer syncs each costs. A full queue refuses at once ([`AppendError::Overloaded`]).
//!
//! An event whose id was seen among the last [`RECENT_EVENTS`] is a duplicate: acknowledged, and not written again.
//! Later duplicates reach the journal; `duet ingest` and `duet prepare` drop them, as from every other source.
//!
//! After a failed sync nothing of the group is acknowledged. Whether the disk has it is unknown (see
//! `segments.rs`), so whoever repeats an event should do so under the same id.

use std::{
    collections::{HashSet, VecDeque},
    hash::{BuildHasher, RandomState},
    io::{BufRead, BufReader},
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use duet_core::{Error, Result, event::Event};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::sync::oneshot;

use crate::{
    clock::Clock,
    config::EventsConfig,
    segments::{Disk, SegmentOptions, Segments, SystemDisk, closed_segments, opened_ms},
};

/// How the segments' names begin.
const PREFIX: &str = "events";
/// Ids remembered to find duplicates: a client that repeats does so within seconds, and this is a minute at 4,000 events
/// a second. 16 bytes each and as much again for the set.
pub const RECENT_EVENTS: usize = 1 << 18;
/// Appends that may wait; with bodies of at most 256 KiB that is at most 128 MiB.
const QUEUE: usize = 512;
/// A group that is so long is written, whoever else waits.
const GROUP_BYTES: usize = 8 << 20;
/// How far the time of an event may be ahead of when it is journaled: clocks of whoever sends events are not ours.
pub(crate) const MOST_AHEAD_MS: i64 = 86_400_000;
/// How often the writer looks whether the segment has become old.
const TICK: Duration = Duration::from_millis(200);

/// Why nothing of an append was acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// More appends wait than the queue holds.
    #[error("more events are waiting to be written than the journal takes on; try again later")]
    Overloaded,
    /// The disk refused, or the journal is closed.
    #[error("{0}")]
    Failed(Arc<str>),
}

/// What became of an append.
#[derive(Debug, Clone, PartialEq)]
pub struct Appended {
    /// The events that are in the journal now and were not before, in order.
    pub accepted: Vec<Event>,
    /// Events that were there already.
    pub duplicates: usize,
}

/// Appends events; clones are not needed, a reference will do from every thread.
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    sender: Mutex<Option<SyncSender<Message>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    hasher: RandomIds,
}

enum Message {
    Append(Append),
    /// Close the segment, so that readers of closed segments see what is in it.
    Rotate(oneshot::Sender<Result<(), Arc<str>>>),
}

struct Append {
    /// The events as JSON lines.
    lines: Vec<u8>,
    /// Where each is in `lines`, and its id.
    events: Vec<(EventId, Range<usize>)>,
    /// Told which of the events are new.
    reply: oneshot::Sender<Result<Vec<bool>, Arc<str>>>,
}

impl Journal {
    /// Opens the journal: closes what a killed process left open and reads the ids of the latest events.
    ///
    /// # Errors
    /// [`Error::Input`] if another process writes there; [`Error::Io`] and [`Error::Data`] with the path.
    pub fn open(config: &EventsConfig, clock: Clock) -> Result<Self> {
        Self::on(config, clock, Box::new(SystemDisk), QUEUE)
    }

    fn on(config: &EventsConfig, clock: Clock, disk: Box<dyn Disk>, queue: usize) -> Result<Self> {
        let dir = Path::new(&config.dir);
        let options = SegmentOptions::new(PREFIX, config.segment_mib, config.segment_minutes);
        let segments = Segments::open(dir, options, clock, disk)?;
        let hasher = RandomIds::default();
        let recent = RecentIds::load(dir, &hasher, RECENT_EVENTS)?;
        let (sender, receiver) = sync_channel(queue);
        let writer = Writer { segments, recent, group: Vec::new() };
        let writer = std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || writer.run(&receiver))
            .map_err(Error::io(dir))?;
        Ok(Self { dir: dir.to_path_buf(), sender: Mutex::new(Some(sender)), writer: Mutex::new(Some(writer)), hasher })
    }

    /// Appends events, and returns when they are on the disk.
    ///
    /// # Errors
    /// [`AppendError`]; nothing was acknowledged then.
    pub async fn append(&self, events: Vec<Event>) -> Result<Appended, AppendError> {
        let (reply, answer) = oneshot::channel();
        let mut lines = Vec::with_capacity(events.len() * 256);
        let mut places = Vec::with_capacity(events.len());
        for event in &events {
            let start = lines.len();
            serde_json::to_writer(&mut lines, event).map_err(|error| AppendError::Failed(error.to_string().into()))?;
            lines.push(b'\n');
            places.push((self.hasher.of(&event.event_id), start..lines.len()));
        }
        self.send(Message::Append(Append { lines, events: places, reply }))?;
        let is_new = answer.await.map_err(|_| stopped())?.map_err(AppendError::Failed)?;
        let n_events = events.len();
        let accepted: Vec<Event> =
            events.into_iter().zip(is_new).filter_map(|(event, is_new)| is_new.then_some(event)).collect();
        let duplicates = n_events - accepted.len();
        metrics::counter!("duet_journal_events_total").increment(accepted.len() as u64);
        metrics::counter!("duet_journal_duplicates_total").increment(duplicates as u64);
        Ok(Appended { accepted, duplicates })
    }

    /// Closes the segment that is being written, if anything is in it: `duet ingest` reads closed ones.
    ///
    /// # Errors
    /// [`AppendError`], as for an append.
    pub async fn rotate(&self) -> Result<(), AppendError> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Rotate(reply))?;
        answer.await.map_err(|_| stopped())?.map_err(AppendError::Failed)
    }

    /// Writes what waits, closes the segment and takes nothing more. Dropping does the same.
    pub fn close(&self) {
        drop(lock(&self.sender).take());
        if let Some(writer) = lock(&self.writer).take() {
            // A writer that panicked has said so already.
            let _ = writer.join();
        }
    }

    /// Gives every event of the closed segments that may have happened after `after_ms` to `each`: in order within a
    /// segment, several segments at a time. A segment is left out if the next one was begun `MOST_AHEAD_MS` before
    /// then: no event in it is of a later time.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Data`] with the path.
    pub fn replay(&self, after_ms: i64, each: impl Fn(&Event) + Sync) -> Result<()> {
        let mut paths = closed_segments(&self.dir, PREFIX)?;
        let last = after_ms.saturating_sub(MOST_AHEAD_MS);
        let over = paths.iter().skip(1).take_while(|next| opened_ms(next).is_some_and(|at| at <= last)).count();
        paths.drain(..over);
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(paths.len());
        let next = AtomicUsize::new(0);
        let work = || -> Result<()> {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(path) = paths.get(at) else { return Ok(()) };
                read_lines(path, |event: Event| each(&event))?;
            }
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_for_each(|worker| {
                worker.join().map_err(|_| Error::Internal("a reader of the journal panicked".into()))?
            })
        })
    }

    fn send(&self, message: Message) -> Result<(), AppendError> {
        let Some(sender) = lock(&self.sender).clone() else { return Err(stopped()) };
        sender.try_send(message).map_err(|error| match error {
            TrySendError::Full(_) => AppendError::Overloaded,
            TrySendError::Disconnected(_) => stopped(),
        })
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.close();
    }
}

fn stopped() -> AppendError {
    AppendError::Failed("the journal is closed".into())
}

/// Nothing that is guarded is left half done, so a panic elsewhere does no harm.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread that writes.
struct Writer {
    segments: Segments,
    recent: RecentIds,
    /// The lines of a group; kept for its memory.
    group: Vec<u8>,
}

impl Writer {
    fn run(mut self, receiver: &Receiver<Message>) {
        let mut is_late = false;
        loop {
            match receiver.recv_timeout(TICK) {
                Ok(Message::Append(first)) => self.commit(first, receiver),
                Ok(Message::Rotate(reply)) => self.rotate(reply),
                Err(RecvTimeoutError::Timeout) => {
                    let rotated = self.segments.rotate_if_due();
                    // Said once, not five times a second.
                    if let (Err(error), false) = (&rotated, is_late) {
                        tracing::warn!(%error, "a segment of the journal stays open until the next start");
                    }
                    is_late = rotated.is_err();
                }
                // Everybody is gone; dropping the segments closes the last one.
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn rotate(&mut self, reply: oneshot::Sender<Result<(), Arc<str>>>) {
        // An asker who is gone needs no answer.
        let _ = reply.send(self.segments.close().map_err(|error| error.to_string().into()));
    }

    /// Writes everything that waits, syncs once and answers all.
    fn commit(&mut self, first: Append, receiver: &Receiver<Message>) {
        self.group.clear();
        let mut ids = Vec::new();
        let mut in_group = HashSet::new();
        let mut waiting = Vec::new();
        let mut rotations = Vec::new();
        let mut next = Some(first);
        while let Some(append) = next.take() {
            let is_new: Vec<bool> = append
                .events
                .iter()
                .map(|(id, place)| {
                    let is_new = !self.recent.contains(*id) && in_group.insert(*id);
                    if is_new {
                        ids.push(*id);
                        self.group.extend_from_slice(&append.lines[place.clone()]);
                    }
                    is_new
                })
                .collect();
            waiting.push((append.reply, is_new));
            while next.is_none() && self.group.len() < GROUP_BYTES {
                match receiver.try_recv() {
                    Ok(Message::Append(append)) => next = Some(append),
                    Ok(Message::Rotate(reply)) => rotations.push(reply),
                    Err(_) => break,
                }
            }
        }
        let written = self.segments.append_durably(&self.group).map_err(|error| {
            tracing::error!(%error, "events could not be written");
            Arc::<str>::from(error.to_string())
        });
        if written.is_ok() {
            ids.into_iter().for_each(|id| self.recent.insert(id));
        }
        metrics::counter!("duet_journal_groups_total").increment(1);
        for (reply, is_new) in waiting {
            // An asker who is gone needs no answer.
            let _ = reply.send(written.clone().map(|()| is_new));
        }
        rotations.into_iter().for_each(|reply| self.rotate(reply));
    }
}

/// An event id as 128 keyed bits: nobody can make two ids alike, and by chance none are.
type EventId = u128;

#[derive(Debug, Clone, Default)]
struct RandomIds(RandomState, RandomState);

impl RandomIds {
    fn of(&self, event_id: &str) -> EventId {
        u128::from(self.0.hash_one(event_id)) << 64 | u128::from(self.1.hash_one(event_id))
    }
}

/// The ids of the latest events.
struct RecentIds {
    limit: usize,
    order: VecDeque<EventId>,
    ids: HashSet<EventId>,
}

impl RecentIds {
    fn new(limit: usize) -> Self {
        Self { limit, order: VecDeque::new(), ids: HashSet::new() }
    }

    fn contains(&self, id: EventId) -> bool {
        self.ids.contains(&id)
    }

    fn insert(&mut self, id: EventId) {
        if self.ids.insert(id) {
            self.order.push_back(id);
        }
        while self.order.len() > self.limit {
            if let Some(oldest) = self.order.pop_front() {
                self.ids.remove(&oldest);
            }
        }
    }

    /// From the newest segments that hold `limit` events.
    fn load(dir: &Path, hasher: &RandomIds, limit: usize) -> Result<Self> {
        let mut newest_first: Vec<Vec<EventId>> = Vec::new();
        let mut events = 0;
        for path in closed_segments(dir, PREFIX)?.iter().rev() {
            let mut ids = Vec::new();
            read_lines(path, |line: IdOfLine| ids.push(hasher.of(&line.event_id)))?;
            events += ids.len();
            newest_first.push(ids);
            if events >= limit {
                break;
            }
        }
        let mut recent = Self::new(limit);
        newest_first.into_iter().rev().flatten().for_each(|id| recent.insert(id));
        Ok(recent)
    }
}

/// What the search for duplicates needs of a line.
#[derive(Deserialize)]
struct IdOfLine {
    event_id: String,
}

/// Reads a closed segment line by line.
fn read_lines<T: DeserializeOwned>(path: &Path, mut each: impl FnMut(T)) -> Result<()> {
    let mut reader = BufReader::with_capacity(1 << 18, std::fs::File::open(path).map_err(Error::io(path))?);
    let mut line = Vec::new();
    let mut row = 0;
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line).map_err(Error::io(path))? == 0 {
            return Ok(());
        }
        row += 1;
        let parsed = serde_json::from_slice(&line)
            .map_err(|error| Error::data_row(path, row, format!("not an event as the journal writes it: {error}")))?;
        each(parsed);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::{fs::File, io, sync::Condvar};

    use futures::future::join_all;

    use super::*;
    use crate::segments::tests::BadDisk;

    fn config(dir: &Path) -> EventsConfig {
        EventsConfig { dir: dir.to_str().unwrap().to_owned(), segment_mib: 64, segment_minutes: 60, users: 1_000 }
    }

    fn event(id: &str, ts: &str) -> Event {
        let text = format!(
            r#"{{"event_id":"{id}","type":"click","user_id":"u1","item_kind":"artist","item_id":"a1","ts":"{ts}"}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn events(ids: &[&str]) -> Vec<Event> {
        ids.iter().map(|id| event(id, "2026-11-25T06:00:00.5+01:00")).collect()
    }

    fn ids(events: &[Event]) -> Vec<&str> {
        events.iter().map(|event| event.event_id.as_str()).collect()
    }

    fn journaled(dir: &Path) -> Vec<Event> {
        let mut events = Vec::new();
        for path in closed_segments(dir, PREFIX).unwrap() {
            read_lines(&path, |event| events.push(event)).unwrap();
        }
        events
    }

    #[tokio::test]
    async fn events_are_kept_once_over_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::manual(0);
        let journal = Journal::open(&config(dir.path()), clock.clone()).unwrap();
        let appended = journal.append(events(&["a", "b", "a"])).await.unwrap();
        assert_eq!((ids(&appended.accepted), appended.duplicates), (vec!["a", "b"], 1));
        let appended = journal.append(events(&["b", "c"])).await.unwrap();
        assert_eq!((ids(&appended.accepted), appended.duplicates), (vec!["c"], 1));
        assert!(journaled(dir.path()).is_empty(), "the segment is open");
        journal.rotate().await.unwrap();
        assert_eq!(journaled(dir.path()), events(&["a", "b", "c"]));
        drop(journal);
        let journal = Journal::open(&config(dir.path()), clock).unwrap();
        let appended = journal.append(events(&["c", "d"])).await.unwrap();
        assert_eq!((ids(&appended.accepted), appended.duplicates), (vec!["d"], 1));
        journal.close();
        assert!(journal.append(events(&["e"])).await.unwrap_err().to_string().contains("closed"));
        assert_eq!(ids(&journaled(dir.path())), ["a", "b", "c", "d"]);
    }

    /// A disk whose sync waits for a gate.
    struct Gate {
        open: Arc<(Mutex<bool>, Condvar)>,
        syncs: Arc<AtomicUsize>,
    }

    impl Disk for Gate {
        fn sync(&mut self, file: &File) -> io::Result<()> {
            self.syncs.fetch_add(1, Ordering::SeqCst);
            let (open, turned) = &*self.open;
            drop(turned.wait_while(open.lock().unwrap(), |open| !*open).unwrap());
            file.sync_data()
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nobody_is_answered_before_the_sync_and_one_sync_answers_all() {
        let dir = tempfile::tempdir().unwrap();
        let (open, syncs) = (Arc::new((Mutex::new(false), Condvar::new())), Arc::new(AtomicUsize::new(0)));
        let disk = Gate { open: Arc::clone(&open), syncs: Arc::clone(&syncs) };
        let journal = Arc::new(Journal::on(&config(dir.path()), Clock::manual(0), Box::new(disk), 100).unwrap());
        let append = |id: String| {
            let journal = Arc::clone(&journal);
            tokio::spawn(async move { journal.append(events(&[&id])).await })
        };
        let first = append("first".into());
        while syncs.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // The writer waits for the disk. Fifty come meanwhile, and more than the queue holds are refused.
        let waiting: Vec<_> = (0..50).map(|n| append(format!("w{n}"))).collect();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!first.is_finished() && waiting.iter().all(|append| !append.is_finished()));
        let more: Vec<_> = (0..60).map(|n| append(format!("m{n}"))).collect();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(more.iter().filter(|append| append.is_finished()).count(), 10);
        *open.0.lock().unwrap() = true;
        open.1.notify_all();
        assert_eq!(first.await.unwrap().unwrap().accepted.len(), 1);
        for append in join_all(waiting).await {
            assert_eq!(append.unwrap().unwrap().accepted.len(), 1);
        }
        let more = join_all(more).await;
        let refused = more.iter().filter(|append| matches!(append.as_ref().unwrap(), Err(AppendError::Overloaded)));
        assert_eq!(refused.count(), 10);
        assert_eq!(syncs.load(Ordering::SeqCst), 2, "a hundred appends, one sync");
        drop(journal);
        assert_eq!(journaled(dir.path()).len(), 101);
    }

    #[tokio::test]
    async fn a_failed_sync_refuses_every_waiter_and_loses_nothing_that_was_acknowledged() {
        for torn in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            // Every second group fails, and so may the last closing.
            let disk = BadDisk { syncs: Arc::default(), fails: |sync| sync % 3 == 1, torn };
            let journal = Journal::on(&config(dir.path()), Clock::manual(0), Box::new(disk), 100).unwrap();
            let (mut acknowledged, mut refused) = (Vec::new(), Vec::new());
            for round in 0..20 {
                // Two in one group or each in its own, as it falls.
                let (one, two) = (format!("{round}-1"), format!("{round}-2"));
                let (first, second) = tokio::join!(journal.append(events(&[&one])), journal.append(events(&[&two])));
                for (id, appended) in [(one, first), (two, second)] {
                    match appended {
                        Ok(appended) => {
                            assert_eq!(appended.duplicates, 0);
                            acknowledged.push(id);
                        }
                        Err(AppendError::Failed(_)) => refused.push(id),
                        Err(AppendError::Overloaded) => panic!("there is room"),
                    }
                }
            }
            assert!(acknowledged.len() > 10 && refused.len() > 3, "{} and {}", acknowledged.len(), refused.len());
            drop(journal);
            // The next process closes what could not be closed.
            let journal = Journal::open(&config(dir.path()), Clock::manual(0)).unwrap();
            let kept = journaled(dir.path());
            let kept: HashSet<&str> = ids(&kept).into_iter().collect();
            assert!(acknowledged.iter().all(|id| kept.contains(id.as_str())));
            // What was refused may be repeated, and is new.
            let repeated: Vec<&str> = refused.iter().map(String::as_str).collect();
            let appended = journal.append(events(&repeated)).await.unwrap();
            drop(journal);
            let all = journaled(dir.path());
            assert_eq!((ids(&appended.accepted), appended.duplicates), (repeated, 0));
            assert_eq!((all.len(), ids(&all).into_iter().collect::<HashSet<_>>().len()), (40, 40));
        }
    }

    #[tokio::test]
    async fn replay_leaves_out_segments_that_were_over() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::manual(0);
        let journal = Journal::open(&config(dir.path()), clock.clone()).unwrap();
        for (at_ms, id) in [(1_000, "a"), (2_000, "b"), (3_000, "c")] {
            clock.set_ms(at_ms);
            journal.append(events(&[id])).await.unwrap();
            journal.rotate().await.unwrap();
        }
        let replayed = |after_ms: i64| {
            let seen = Mutex::new(Vec::new());
            journal
                .replay(after_ms + MOST_AHEAD_MS, |event| seen.lock().unwrap().push(event.event_id.clone()))
                .unwrap();
            let mut seen = seen.into_inner().unwrap();
            seen.sort();
            seen.concat()
        };
        let all: Vec<String> = [0, 1_999, 2_000, 2_999, 3_000, 9_000].into_iter().map(replayed).collect();
        assert_eq!(all, ["abc", "abc", "bc", "bc", "c", "c"]);
    }

    #[test]
    fn the_oldest_ids_are_forgotten() {
        let mut recent = RecentIds::new(3);
        for id in [1, 2, 2, 3, 4] {
            recent.insert(id);
        }
        assert_eq!((1..6).map(|id| recent.contains(id)).collect::<Vec<_>>(), [false, true, true, true, false]);
    }

    #[test]
    fn a_damaged_line_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("events-19700101T000000.000Z-0.jsonl"), "{\"event_id\":\"a\"}\n{\n").unwrap();
        let error = Journal::open(&config(dir.path()), Clock::manual(0)).err().unwrap().to_string();
        assert!(error.contains("0.jsonl, row 2"), "{error}");
    }
}
