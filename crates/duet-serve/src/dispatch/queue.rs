//! A bounded queue of requests for lists, and how fast it is emptied.

use std::{
    collections::VecDeque,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{
    Answered, DispatchError, Make,
    admission::{Admission, Load},
};
use crate::request::RerankTime;

/// How much a batch moves the pace: one part in eight.
const PACE_SHIFT: u32 = 3;

/// What becomes of a submission.
pub(super) type Reply = Result<Answered, DispatchError>;

/// A submission: lists that are made on one engine.
pub(super) struct Job {
    pub(super) makes: Vec<Make>,
    /// When its bytes had come.
    pub(super) arrived: Instant,
    pub(super) deadline: Instant,
    pub(super) reply: oneshot::Sender<Reply>,
    /// What is answered of a long submission: its first lists.
    pub(super) begun: Option<Answered>,
    /// What the lists of `begun` have taken of the re-ranker's time.
    pub(super) rerank_time: RerankTime,
}

impl Job {
    /// A submission, and where its answer will be.
    pub(super) fn new(makes: Vec<Make>, arrived: Instant, deadline: Instant) -> (Self, oneshot::Receiver<Reply>) {
        let (reply, answer) = oneshot::channel();
        (Self { makes, arrived, deadline, reply, begun: None, rerank_time: RerankTime::default() }, answer)
    }

    /// Forgets the lists that are answered, and what they took.
    pub(super) fn begin_anew(&mut self) {
        (self.begun, self.rerank_time) = (None, RerankTime::default());
    }

    /// Requests with an answer.
    pub(super) fn answered(&self) -> usize {
        self.begun.as_ref().map_or(0, |(_, answers)| answers.len())
    }

    /// Requests without one.
    fn left(&self) -> usize {
        self.makes.len() - self.answered()
    }

    /// Requests that are answered when its turn comes.
    fn in_turn(&self, piece: usize) -> usize {
        self.left().min(piece)
    }
}

struct Waiting {
    jobs: VecDeque<Job>,
    /// Requests in `jobs`.
    requests: usize,
    /// Those of them that are answered before what comes now: of each job a piece at most.
    ahead: usize,
    admission: Admission,
    is_closed: bool,
}

impl Waiting {
    fn push(&mut self, job: Job, piece: usize) {
        self.requests += job.left();
        self.ahead += job.in_turn(piece);
        self.jobs.push_back(job);
    }

    fn pop(&mut self, piece: usize) -> Option<Job> {
        let job = self.jobs.pop_front()?;
        self.requests -= job.left();
        self.ahead -= job.in_turn(piece);
        Some(job)
    }
}

/// The queue.
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    /// Requests of one job that are answered at once; the rest of a batch is for others.
    piece: usize,
    arrival: Condvar,
    /// As `waiting.requests`, to be read without the lock.
    depth: AtomicUsize,
    /// Nanoseconds a request took lately, on one thread.
    pace: AtomicU64,
}

/// What a thread that waits for jobs gets.
pub(super) enum Next {
    Jobs(Vec<Job>),
    Idle,
    Closed,
}

impl Queue {
    /// A queue whose jobs are answered up to `piece` requests at a time.
    pub(super) fn new(admission: Admission, piece: usize) -> Self {
        let waiting = Waiting { jobs: VecDeque::new(), requests: 0, ahead: 0, admission, is_closed: false };
        Self {
            waiting: Mutex::new(waiting),
            piece: piece.max(1),
            arrival: Condvar::new(),
            depth: AtomicUsize::new(0),
            pace: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests of one job that are answered at once.
    pub(super) fn piece(&self) -> usize {
        self.piece
    }

    /// Requests that wait.
    pub(super) fn depth(&self) -> usize {
        self.depth.load(Ordering::Relaxed)
    }

    /// What a request took lately, on one thread.
    pub(super) fn pace(&self) -> Duration {
        Duration::from_nanos(self.pace.load(Ordering::Relaxed))
    }

    /// Whether a request that arrived then would be let in now.
    pub(super) fn has_room(&self, arrived: Instant) -> bool {
        let mut waiting = self.lock();
        self.admits(&mut waiting, 1, arrived)
    }

    fn admits(&self, waiting: &mut Waiting, count: usize, arrived: Instant) -> bool {
        self.let_go(waiting);
        let now = Instant::now();
        let load = Load { waiting: waiting.requests, ahead: waiting.ahead, pace: self.pace() };
        waiting.admission.admits(load, count, now.saturating_duration_since(arrived), now)
    }

    /// Drops the oldest jobs whose callers have left. Who asks for a short list makes it: a queue full of what nobody waits for would
    /// let nobody in who could empty it. What was left behind a job that somebody waits for comes to the front in time.
    fn let_go(&self, waiting: &mut Waiting) {
        while waiting.jobs.front().is_some_and(|job| job.reply.is_closed()) {
            drop(waiting.pop(self.piece));
        }
        self.depth.store(waiting.requests, Ordering::Relaxed);
    }

    /// Lets a job in, or refuses it. Nobody is woken: see [`Queue::wake`].
    pub(super) fn push(&self, job: Job) -> Result<(), DispatchError> {
        let count = job.makes.len();
        let mut waiting = self.lock();
        if waiting.is_closed {
            return Err(DispatchError::Closed);
        }
        if !self.admits(&mut waiting, count, job.arrived) {
            return Err(DispatchError::Full);
        }
        self.enqueue(&mut waiting, job);
        Ok(())
    }

    fn enqueue(&self, waiting: &mut Waiting, job: Job) {
        waiting.push(job, self.piece);
        self.depth.store(waiting.requests, Ordering::Relaxed);
    }

    /// Puts a job of which more is to be answered at the end. It was let in already: it waits for its turn whatever else does, and after a
    /// stop too.
    pub(super) fn put_back(&self, job: Job) {
        self.enqueue(&mut self.lock(), job);
        self.wake();
    }

    /// Wakes a thread that waits for jobs.
    pub(super) fn wake(&self) {
        self.arrival.notify_one();
    }

    /// The oldest jobs, with `most` requests to be answered in this turn or the first of them alone; none where none wait.
    pub(super) fn take(&self, most: usize) -> Vec<Job> {
        self.taken(&mut self.lock(), most)
    }

    fn taken(&self, waiting: &mut Waiting, most: usize) -> Vec<Job> {
        let (mut jobs, mut requests) = (Vec::new(), 0);
        while let Some(job) = waiting.pop(self.piece) {
            requests += job.in_turn(self.piece);
            jobs.push(job);
            let next = waiting.jobs.front().map_or(0, |job| job.in_turn(self.piece));
            if requests + next > most {
                break;
            }
        }
        self.depth.store(waiting.requests, Ordering::Relaxed);
        jobs
    }

    /// As [`Queue::take`], but waits for jobs for up to `patience`.
    pub(super) fn wait(&self, most: usize, patience: Duration) -> Next {
        let mut waiting = self.lock();
        if waiting.jobs.is_empty() && !waiting.is_closed {
            waiting = self.arrival.wait_timeout(waiting, patience).unwrap_or_else(PoisonError::into_inner).0;
        }
        match (waiting.jobs.is_empty(), waiting.is_closed) {
            (false, _) => Next::Jobs(self.taken(&mut waiting, most)),
            (true, false) => Next::Idle,
            (true, true) => Next::Closed,
        }
    }

    /// Lets nothing more in; what waits can still be taken.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.arrival.notify_all();
    }

    /// Notes how long a thread took for so many requests.
    pub(super) fn note_pace(&self, took: Duration, requests: usize) {
        if requests == 0 {
            return;
        }
        let now = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX) / requests as u64;
        let before = self.pace.load(Ordering::Relaxed);
        let pace = if before == 0 { now } else { before - (before >> PACE_SHIFT) + (now >> PACE_SHIFT) };
        // Two threads may write over each other: it is an estimate.
        self.pace.store(pace, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::{
        engine::{Engine, EngineOptions},
        http::error::ApiError,
        request::{Answer, Source},
        small_bundle::{Which, bundle},
    };

    /// Puts a job of so many requests into the queue. Its caller waits for as long as the receiver is kept.
    fn push(queue: &Queue, count: usize) -> Result<oneshot::Receiver<Reply>, DispatchError> {
        let make = || -> Make { Box::new(|_| Err(ApiError::overloaded())) };
        let now = Instant::now();
        let (job, answer) = Job::new((0..count).map(|_| make()).collect(), now, now);
        queue.push(job).map(|()| answer)
    }

    /// Requests that wait, twice, and those of them that come first.
    fn counts(queue: &Queue) -> (usize, usize, usize) {
        let waiting = queue.lock();
        (queue.depth(), waiting.requests, waiting.ahead)
    }

    #[test]
    fn of_a_long_job_a_piece_counts_as_before_others() {
        let queue = Queue::new(Admission::new(1, 8, 100, Duration::from_secs(1)), 4);
        let counts = || counts(&queue);
        let mut answers = vec![push(&queue, 10).unwrap(), push(&queue, 1).unwrap()];
        assert_eq!(counts(), (11, 11, 5));
        answers.push(push(&queue, 4).unwrap());
        // A piece of the long one, the list and no more: a piece of four goes beyond 8.
        let mut taken = queue.take(8);
        assert_eq!((taken.len(), counts()), (2, (4, 4, 4)));
        // It goes on after a stop, too, and waits behind the others.
        queue.close();
        assert!(matches!(push(&queue, 1), Err(DispatchError::Closed)));
        let mut long = taken.swap_remove(0);
        let engine = Engine::open(&bundle(Which::First), &EngineOptions::default()).unwrap();
        let answer = || Answer { source: Source::Trending, degraded: Vec::new(), items: Vec::new() };
        long.begun = Some((engine, (0..8).map(|_| answer()).collect()));
        queue.put_back(long);
        assert_eq!(counts(), (6, 6, 6));
        let lengths: Vec<usize> = queue.take(8).iter().map(Job::left).collect();
        assert_eq!((lengths, counts()), (vec![4, 2], (0, 0, 0)));
        assert!(queue.take(8).is_empty());
    }

    #[test]
    fn whoever_left_keeps_no_place_once_nobody_waits_before_them() {
        let queue = Queue::new(Admission::new(1, 8, 12, Duration::from_secs(1)), 4);
        let mut answers: Vec<_> = [5, 1, 6].map(|count| push(&queue, count).unwrap()).into();
        assert_eq!(counts(&queue), (12, 12, 9));
        assert!(!queue.has_room(Instant::now()), "everybody waits");
        // The first one waits, and who left stands behind it.
        answers.truncate(1);
        assert!(!queue.has_room(Instant::now()));
        assert_eq!(counts(&queue), (12, 12, 9));
        answers.clear();
        assert!(queue.has_room(Instant::now()));
        assert_eq!(counts(&queue), (0, 0, 0));
        // Who comes finds the room as well as who asks for it.
        drop(push(&queue, 12).unwrap());
        let kept = push(&queue, 2).unwrap();
        assert_eq!(counts(&queue), (2, 2, 2));
        drop(kept);
    }
}
