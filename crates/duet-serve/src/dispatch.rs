//! Between the connections and the engine: a bounded queue, and threads that empty it.
//!
//! * What does not fit is refused at once ([`DispatchError::Full`]): by the length of the queue, and earlier, when what waits would
//!   take more than a tenth of the deadline at the pace of the last requests. Whoever is let in is answered fast.
//! * A thread takes what waits, up to `engine.max_batch` lists, and answers it on one engine: the one in the slot at that moment. A new
//!   bundle is taken up between two batches.
//! * A submission of many lists is answered half a batch at a time, and goes to the end of the queue after each: who asks for one list is
//!   answered with the next half. All its lists are of one engine: where another has taken over meanwhile, it begins anew.
//! * What waited beyond its deadline is not worked on any more ([`DispatchError::Expired`]).
//! * A panic ends no thread: the worker is made anew, and the requests of that batch are tried one by one. Only what panics again is
//!   answered without the towers, and only what panics even then has no answer.
//!
//! Work is done by few threads rather than many tasks: two batches on one core would only take turns.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio::sync::oneshot;

use crate::{
    config::{EngineConfig, LimitsConfig},
    engine::Engine,
    http::error::ApiError,
    request::{Answer, ListRequest},
    worker::Worker,
};

/// The engine that answers now.
pub type Slot = ArcSwap<Engine>;

/// Makes a request on the engine that will answer it: ids become rows there and nowhere else. Called anew for an engine that takes over.
pub type Make = Box<dyn Fn(&Engine) -> Result<ListRequest, ApiError> + Send>;

/// Lists of one submission and the engine they were made on.
pub type Answered = (Arc<Engine>, Vec<Answer>);

/// The part of the deadline that a request may be expected to wait when it comes.
const WAIT_SHARE: u32 = 10;
/// An idle thread looks for a new engine this often, so that it does not keep an old one in memory.
const IDLE: Duration = Duration::from_secs(1);
/// What is told of a list whose making panicked.
const TOWER_FAILED: &str = "tower_failed";
/// How much a batch moves the pace: one part in eight.
const PACE_SHIFT: u32 = 3;

/// Why there is no list.
#[derive(Debug)]
pub enum DispatchError {
    /// More waits than can be answered in time.
    Full,
    /// The deadline passed.
    Expired,
    /// The service is being stopped.
    Closed,
    /// The request makes no sense on this bundle.
    Bad(ApiError),
}

struct Job {
    makes: Vec<Make>,
    deadline: Instant,
    reply: oneshot::Sender<Result<Answered, DispatchError>>,
    /// What is answered of a long submission: its first lists.
    begun: Option<Answered>,
}

impl Job {
    /// Requests without an answer.
    fn left(&self) -> usize {
        self.makes.len() - self.answered()
    }

    fn answered(&self) -> usize {
        self.begun.as_ref().map_or(0, |(_, answers)| answers.len())
    }
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Requests in `jobs`.
    requests: usize,
    /// Those of them that are answered before what comes now: of each job a piece at most.
    ahead: usize,
    is_closed: bool,
}

impl Queue {
    fn push(&mut self, job: Job, piece: usize) {
        self.requests += job.left();
        self.ahead += job.left().min(piece);
        self.jobs.push_back(job);
    }

    fn pop(&mut self, piece: usize) -> Option<Job> {
        let job = self.jobs.pop_front()?;
        self.requests -= job.left();
        self.ahead -= job.left().min(piece);
        Some(job)
    }
}

struct Shared {
    slot: Arc<Slot>,
    queue: Mutex<Queue>,
    arrival: Condvar,
    /// As `queue.requests`, to be read without the lock.
    depth: AtomicUsize,
    /// Nanoseconds a request took lately, on one thread.
    pace: AtomicU64,
    workers: usize,
    max_batch: usize,
    /// Requests of one job that are answered at once; the rest of a batch is for others.
    piece: usize,
    capacity: usize,
    most_wait: Duration,
}

/// The queue and its threads.
pub struct Dispatcher {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl std::fmt::Debug for Dispatcher {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Dispatcher").field("depth", &self.depth()).finish_non_exhaustive()
    }
}

impl Dispatcher {
    /// Starts the threads.
    pub fn start(slot: Arc<Slot>, config: &EngineConfig, limits: &LimitsConfig) -> Self {
        let workers = match config.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            workers => workers,
        };
        let max_batch = config.max_batch.max(1);
        let shared = Arc::new(Shared {
            slot,
            queue: Mutex::default(),
            arrival: Condvar::new(),
            depth: AtomicUsize::new(0),
            pace: AtomicU64::new(0),
            workers,
            max_batch,
            piece: max_batch.div_ceil(2),
            capacity: limits.queue.max(1),
            most_wait: Duration::from_millis(limits.deadline_ms) / WAIT_SHARE,
        });
        let spawn = |number: usize| {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name(format!("lists-{number}")).spawn(move || shared.work())
        };
        let threads: Vec<JoinHandle<()>> = (0..workers)
            .filter_map(|number| {
                spawn(number).inspect_err(|error| tracing::error!(%error, "a thread for lists did not start")).ok()
            })
            .collect();
        Self { shared, threads: Mutex::new(threads) }
    }

    /// Waits for a list.
    ///
    /// # Errors
    /// [`DispatchError`]
    pub async fn submit(&self, make: Make, deadline: Instant) -> Result<(Arc<Engine>, Answer), DispatchError> {
        let (engine, answers) = self.submit_all(vec![make], deadline).await?;
        // One list a request; were there none, it would be as if nobody had answered.
        answers.into_iter().next().map(|answer| (engine, answer)).ok_or(DispatchError::Closed)
    }

    /// Waits for several lists, all made on one engine.
    ///
    /// # Errors
    /// [`DispatchError`]; one bad request is the failure of all.
    pub async fn submit_all(&self, makes: Vec<Make>, deadline: Instant) -> Result<Answered, DispatchError> {
        let (reply, answer) = oneshot::channel();
        self.shared.push(Job { makes, deadline, reply, begun: None })?;
        match tokio::time::timeout_at(deadline.into(), answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(DispatchError::Closed),
            Err(_) => Err(DispatchError::Expired),
        }
    }

    /// Requests that wait.
    pub fn depth(&self) -> usize {
        self.shared.depth.load(Ordering::Relaxed)
    }

    /// How many threads answer.
    pub(crate) fn workers(&self) -> usize {
        self.shared.workers
    }

    /// Takes nothing more, answers what waits, and ends the threads.
    pub fn close_and_drain(&self) {
        self.shared.lock().is_closed = true;
        self.shared.arrival.notify_all();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        // What a job holds may be the last thing that holds this: a thread can't wait for itself.
        let me = std::thread::current().id();
        for thread in threads.into_iter().filter(|thread| thread.thread().id() != me) {
            if thread.join().is_err() {
                tracing::error!("a thread for lists had panicked");
            }
        }
    }
}

impl Drop for Dispatcher {
    fn drop(&mut self) {
        self.close_and_drain();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, job: Job) -> Result<(), DispatchError> {
        let count = job.makes.len();
        let queue = self.lock();
        if queue.is_closed {
            return Err(DispatchError::Closed);
        }
        // A submission larger than the queue is let in alone: it could never come otherwise.
        let has_room = queue.requests + count <= self.capacity || queue.requests == 0;
        if !has_room || self.is_too_long(queue.ahead) {
            return Err(DispatchError::Full);
        }
        self.enqueue(queue, job);
        Ok(())
    }

    fn enqueue(&self, mut queue: MutexGuard<'_, Queue>, job: Job) {
        queue.push(job, self.piece);
        self.depth.store(queue.requests, Ordering::Relaxed);
        drop(queue);
        self.arrival.notify_one();
    }

    /// Whether what comes before would take too long at the pace of late. What the threads can take up at once never does.
    fn is_too_long(&self, waiting: usize) -> bool {
        if waiting < self.workers * self.max_batch {
            return false;
        }
        let pace = Duration::from_nanos(self.pace.load(Ordering::Relaxed));
        pace.saturating_mul(u32::try_from(waiting).unwrap_or(u32::MAX)) / self.workers as u32 > self.most_wait
    }

    /// A thread's life.
    fn work(&self) {
        // Searches and towers share their work out by rayon. In a pool of this thread alone they stay here: handing a millisecond's
        // work to other threads and waiting for it costs as much as doing it, and all cores have a thread of ours already.
        if let Err(error) = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build() {
            tracing::warn!(%error, "lists are made in the common thread pool");
        }
        let mut worker: Option<Worker> = None;
        loop {
            let jobs = match self.next_batch() {
                Next::Jobs(jobs) => jobs,
                Next::Idle if worker.is_some() => Vec::new(),
                Next::Idle => continue,
                Next::Closed => return,
            };
            let before = worker.take();
            let turn = catch_unwind(AssertUnwindSafe(|| self.turn(before, jobs)));
            worker = turn.inspect_err(|_| tracing::error!("no worker could be made; the thread goes on")).ok();
        }
    }

    /// Answers jobs, if there are any, with a worker on the engine of the moment.
    fn turn(&self, before: Option<Worker>, jobs: Vec<Job>) -> Worker {
        let engine = self.slot.load_full();
        let mut worker = match before {
            Some(worker) if Arc::ptr_eq(worker.engine(), &engine) => worker,
            _ => Worker::new(Arc::clone(&engine)),
        };
        let started = Instant::now();
        let (answered, unfinished) = answer_jobs(&engine, &mut worker, jobs, (self.piece, self.max_batch));
        self.note_pace(started.elapsed(), answered);
        // Let in already: they wait for their turn whatever else does, and after a stop too.
        unfinished.into_iter().for_each(|job| self.enqueue(self.lock(), job));
        worker
    }

    fn next_batch(&self) -> Next {
        let mut queue = self.lock();
        if queue.jobs.is_empty() && !queue.is_closed {
            queue = self.arrival.wait_timeout(queue, IDLE).unwrap_or_else(PoisonError::into_inner).0;
        }
        if queue.jobs.is_empty() {
            return if queue.is_closed { Next::Closed } else { Next::Idle };
        }
        let (mut jobs, mut requests) = (Vec::new(), 0);
        while let Some(job) = queue.pop(self.piece) {
            requests += job.left().min(self.piece);
            jobs.push(job);
            let next = queue.jobs.front().map_or(0, |job| job.left().min(self.piece));
            if requests + next > self.max_batch {
                break;
            }
        }
        self.depth.store(queue.requests, Ordering::Relaxed);
        Next::Jobs(jobs)
    }

    fn note_pace(&self, took: Duration, requests: usize) {
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

enum Next {
    Jobs(Vec<Job>),
    Idle,
    Closed,
}

/// Answers a piece of every job, a batch at a time; returns how many requests were worked on, and the jobs that have more.
fn answer_jobs(
    engine: &Arc<Engine>,
    worker: &mut Worker,
    jobs: Vec<Job>,
    (piece, max_batch): (usize, usize),
) -> (usize, Vec<Job>) {
    let now = Instant::now();
    let mut waiting = Vec::with_capacity(jobs.len());
    let mut requests = Vec::new();
    for mut job in jobs {
        if job.reply.is_closed() {
            continue;
        }
        if now >= job.deadline {
            // Whoever went away needs no answer.
            let _ = job.reply.send(Err(DispatchError::Expired));
            continue;
        }
        if job.begun.as_ref().is_some_and(|(other, _)| !Arc::ptr_eq(other, engine)) {
            job.begun = None;
        }
        let made = catch_unwind(AssertUnwindSafe(|| {
            let makes = job.makes.iter().skip(job.answered()).take(piece);
            makes.map(|make| make(engine)).collect::<Result<Vec<ListRequest>, ApiError>>()
        }))
        .unwrap_or_else(|_| Err(ApiError::internal("making a request panicked")));
        match made {
            Ok(made) => {
                waiting.push((job, made.len()));
                requests.extend(made);
            }
            Err(error) => {
                let _ = job.reply.send(Err(DispatchError::Bad(error)));
            }
        }
    }
    let mut answers = Vec::with_capacity(requests.len());
    for batch in requests.chunks(max_batch) {
        answers.extend(answer_batch(engine, worker, batch));
    }
    let mut answers = answers.into_iter();
    let mut unfinished = Vec::new();
    for (mut job, count) in waiting {
        // Taken first and looked at then: a job that fails must not leave its answers to the next one.
        let of_job: Vec<Option<Answer>> = answers.by_ref().take(count).collect();
        let Some(whole) = of_job.into_iter().collect::<Option<Vec<Answer>>>() else {
            let error = ApiError::internal("a list panicked, and so did what stands for it");
            let _ = job.reply.send(Err(DispatchError::Bad(error)));
            continue;
        };
        let (of, mut answered) = job.begun.take().unwrap_or_else(|| (Arc::clone(engine), Vec::new()));
        answered.extend(whole);
        if answered.len() == job.makes.len() {
            let _ = job.reply.send(Ok((of, answered)));
        } else {
            job.begun = Some((of, answered));
            unfinished.push(job);
        }
    }
    (requests.len(), unfinished)
}

/// Nothing for a request that panics with the towers and without.
fn answer_batch(engine: &Arc<Engine>, worker: &mut Worker, batch: &[ListRequest]) -> Vec<Option<Answer>> {
    if let Some(answers) = answer_whole(engine, worker, batch) {
        return answers.into_iter().map(Some).collect();
    }
    let without_towers =
        |request: &ListRequest| catch_unwind(AssertUnwindSafe(|| engine.fallback(request, TOWER_FAILED))).ok();
    let one = |request: &ListRequest| {
        let answers = if batch.len() > 1 { answer_whole(engine, worker, std::slice::from_ref(request)) } else { None };
        answers.and_then(|mut answers| answers.pop()).or_else(|| without_towers(request))
    };
    batch.iter().map(one).collect()
}

/// Nothing if it panics or an answer is missing; the worker is a new one then.
fn answer_whole(engine: &Arc<Engine>, worker: &mut Worker, batch: &[ListRequest]) -> Option<Vec<Answer>> {
    let answers = catch_unwind(AssertUnwindSafe(|| worker.answer(batch)));
    match answers {
        Ok(answers) if answers.len() == batch.len() => return Some(answers),
        Ok(_) => tracing::error!("fewer answers than requests"),
        Err(_) => tracing::error!("a worker panicked and is made anew"),
    }
    *worker = Worker::new(Arc::clone(engine));
    None
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::mpsc;

    use duet_core::{ItemIdx, UserIdx};
    use duet_retrieval::{Query, Recommender, Scored};

    use super::*;
    use crate::{
        config::ServeConfig,
        engine::EngineOptions,
        request::Source,
        small_bundle::{Which, bundle, known, request, variant},
        variants::Arm,
    };

    fn engine(which: Which) -> Arc<Engine> {
        Engine::open(&bundle(which), &EngineOptions::default()).unwrap()
    }

    fn dispatcher(engine: Arc<Engine>, workers: usize, max_batch: usize, queue: usize) -> (Arc<Slot>, Dispatcher) {
        let ServeConfig { engine: config, limits, .. } = ServeConfig::resolve(&[], &[]).unwrap();
        let slot = Arc::new(Slot::new(engine));
        let config = EngineConfig { workers, max_batch, ..config };
        let dispatcher = Dispatcher::start(Arc::clone(&slot), &config, &LimitsConfig { queue, ..limits });
        (slot, dispatcher)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    fn list() -> Make {
        Box::new(|_| Ok(request(known(UserIdx(0), &[3]))))
    }

    /// Makes its request once it is told to; says that it was begun.
    fn held() -> (Make, mpsc::Receiver<()>, mpsc::Sender<()>) {
        let (begun, is_begun) = mpsc::channel();
        let (go, may_go) = mpsc::channel::<()>();
        let make: Make = Box::new(move |_| {
            begun.send(()).unwrap();
            let _ = may_go.recv();
            Ok(request(known(UserIdx(0), &[])))
        });
        (make, is_begun, go)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_does_not_fit_is_refused_at_once_and_the_rest_is_answered() {
        let (_, dispatcher) = dispatcher(engine(Which::First), 1, 1, 3);
        let dispatcher = Arc::new(dispatcher);
        let (make, is_begun, go) = held();
        let submit = |make: Make| {
            let dispatcher = Arc::clone(&dispatcher);
            tokio::spawn(async move { dispatcher.submit(make, soon()).await })
        };
        let first = submit(make);
        is_begun.recv().unwrap();
        let waiting: Vec<_> = (0..3).map(|_| submit(list())).collect();
        while dispatcher.depth() < 3 {
            tokio::task::yield_now().await;
        }
        let started = Instant::now();
        assert!(matches!(dispatcher.submit(list(), soon()).await, Err(DispatchError::Full)));
        assert!(started.elapsed() < Duration::from_secs(1));
        go.send(()).unwrap();
        for task in waiting.into_iter().chain([first]) {
            assert_eq!(task.await.unwrap().unwrap().1.items.len(), 10);
        }
        assert_eq!(dispatcher.depth(), 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_waited_beyond_its_deadline_is_not_worked_on() {
        let (_, dispatcher) = dispatcher(engine(Which::First), 1, 16, 100);
        let dispatcher = Arc::new(dispatcher);
        let (make, is_begun, go) = held();
        let other = Arc::clone(&dispatcher);
        let first = tokio::spawn(async move { other.submit(make, soon()).await });
        is_begun.recv().unwrap();
        let made = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&made);
        let make: Make = Box::new(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok(request(known(UserIdx(0), &[])))
        });
        let late = dispatcher.submit(make, Instant::now() + Duration::from_millis(20)).await;
        assert!(matches!(late, Err(DispatchError::Expired)));
        go.send(()).unwrap();
        first.await.unwrap().unwrap();
        // Behind it in the queue: when this is answered, the late one has been passed.
        dispatcher.submit(list(), soon()).await.unwrap();
        assert_eq!(made.load(Ordering::Relaxed), 0);
    }

    /// Makes a list and notes a word.
    fn noted(log: &Arc<Mutex<Vec<String>>>, word: &str) -> Make {
        let (log, word) = (Arc::clone(log), word.to_owned());
        Box::new(move |_| {
            log.lock().unwrap().push(word.clone());
            Ok(request(known(UserIdx(0), &[])))
        })
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn others_pass_between_the_pieces_of_a_long_submission() {
        let (_, dispatcher) = dispatcher(engine(Which::First), 1, 4, 100);
        let dispatcher = Arc::new(dispatcher);
        let log = Arc::new(Mutex::new(Vec::new()));
        let (first, is_begun, go) = held();
        let others = ["long 1", "long 2", "long 3", "long 4"].map(|word| noted(&log, word));
        let makes: Vec<Make> = std::iter::once(first).chain(others).collect();
        let long = Arc::clone(&dispatcher);
        let long = tokio::spawn(async move { long.submit_all(makes, soon()).await });
        is_begun.recv().unwrap();
        // What is left of the long one waits behind whoever comes while its first lists are made.
        let mut short = Vec::new();
        for word in ["short 1", "short 2", "short 3"] {
            let (dispatcher, make) = (Arc::clone(&dispatcher), noted(&log, word));
            let before = dispatcher.depth();
            let waiting = Arc::clone(&dispatcher);
            short.push(tokio::spawn(async move { dispatcher.submit(make, soon()).await }));
            while waiting.depth() == before {
                tokio::task::yield_now().await;
            }
        }
        go.send(()).unwrap();
        for task in short {
            task.await.unwrap().unwrap();
        }
        assert_eq!(long.await.unwrap().unwrap().1.len(), 5);
        let log = log.lock().unwrap().clone();
        assert_eq!(log, ["long 1", "short 1", "short 2", "short 3", "long 2", "long 3", "long 4"]);
        assert_eq!(dispatcher.depth(), 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_long_submission_keeps_nobody_out() {
        let (_, dispatcher) = dispatcher(engine(Which::First), 1, 4, 100);
        let dispatcher = Arc::new(dispatcher);
        let (first, is_begun, go) = held();
        let other = Arc::clone(&dispatcher);
        let under_way = tokio::spawn(async move { other.submit(first, soon()).await });
        is_begun.recv().unwrap();
        // At this pace nobody may wait for more than a batch.
        dispatcher.shared.pace.store(1_000_000_000, Ordering::Relaxed);
        let submit = |makes: Vec<Make>| {
            let dispatcher = Arc::clone(&dispatcher);
            tokio::spawn(async move { dispatcher.submit_all(makes, soon()).await })
        };
        let long = submit((0..50).map(|_| list()).collect());
        while dispatcher.depth() < 50 {
            tokio::task::yield_now().await;
        }
        let short = submit(vec![list()]);
        while dispatcher.depth() < 51 {
            assert!(!short.is_finished(), "refused for lists that come after it");
            tokio::task::yield_now().await;
        }
        go.send(()).unwrap();
        under_way.await.unwrap().unwrap();
        assert_eq!(short.await.unwrap().unwrap().1.len(), 1);
        assert_eq!(long.await.unwrap().unwrap().1.len(), 50);
        let queue = dispatcher.shared.lock();
        assert_eq!((queue.requests, queue.ahead), (0, 0));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_long_submission_is_of_one_bundle_though_another_takes_over_between_its_pieces() {
        let engines = [engine(Which::First), engine(Which::Second)];
        let (slot, dispatcher) = dispatcher(Arc::clone(&engines[0]), 1, 4, 100);
        let next = Arc::clone(&engines[1]);
        let users = 0..7_u32;
        let make = |user: u32| -> Make {
            let (slot, next) = (Arc::clone(&slot), Arc::clone(&next));
            Box::new(move |_| {
                // The second piece is under way when the other bundle comes.
                if user == 3 {
                    slot.store(Arc::clone(&next));
                }
                Ok(request(known(UserIdx(user), &[user])))
            })
        };
        let (of, answers) = dispatcher.submit_all(users.clone().map(make).collect(), soon()).await.unwrap();
        assert!(Arc::ptr_eq(&of, &engines[1]));
        let requests: Vec<ListRequest> = users.map(|user| request(known(UserIdx(user), &[user]))).collect();
        let items = |answers: &[Answer]| -> Vec<Vec<ItemIdx>> {
            answers.iter().map(|answer| answer.items.iter().map(|entry| entry.item).collect()).collect()
        };
        let expected = Worker::new(Arc::clone(&engines[1])).answer(&requests);
        assert_eq!(items(&answers), items(&expected));
        assert_ne!(items(&answers), items(&Worker::new(Arc::clone(&engines[0])).answer(&requests)));
        assert_eq!(dispatcher.depth(), 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn closing_answers_what_waits_and_takes_nothing_more() {
        let (_, dispatcher) = dispatcher(engine(Which::First), 1, 4, 100);
        let dispatcher = Arc::new(dispatcher);
        let (make, is_begun, go) = held();
        let submit = |make: Make| {
            let dispatcher = Arc::clone(&dispatcher);
            tokio::spawn(async move { dispatcher.submit(make, soon()).await })
        };
        let mut tasks = vec![submit(make)];
        is_begun.recv().unwrap();
        tasks.extend((0..20).map(|_| submit(list())));
        while dispatcher.depth() < 20 {
            tokio::task::yield_now().await;
        }
        let closing = Arc::clone(&dispatcher);
        let closing = tokio::task::spawn_blocking(move || closing.close_and_drain());
        // Until it is closed this is let in, and gives up at once.
        while !matches!(dispatcher.submit(list(), Instant::now()).await, Err(DispatchError::Closed)) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        go.send(()).unwrap();
        closing.await.unwrap();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
    }

    /// Panics for a listener without a history.
    struct Moody;

    impl Recommender for Moody {
        fn name(&self) -> &str {
            "moody"
        }

        fn is_exact(&self) -> bool {
            true
        }

        fn recommend(&self, queries: &[Query<'_>]) -> duet_core::Result<Vec<Vec<Scored>>> {
            assert!(!queries[0].history.is_empty(), "planted");
            Ok(vec![(0..queries[0].k).map(|row| Scored { item: ItemIdx::from(row), score: -(row as f32) }).collect()])
        }

        fn similar(&self, _item: ItemIdx, _k: usize) -> duet_core::Result<Vec<Scored>> {
            Ok(Vec::new())
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_panic_costs_one_list_its_towers_and_nobody_else_anything() {
        let mut engine = Engine::build(&bundle(Which::First), &EngineOptions::default()).unwrap();
        engine.plant_baseline("moody", Box::new(Moody));
        let (_, dispatcher) = dispatcher(Arc::new(engine), 1, 16, 100);
        let make = |history: Vec<ItemIdx>| -> Make {
            Box::new(move |_| {
                let mut asked = request(crate::request::Listener::Anonymous { history: history.clone() });
                asked.variant = variant(Arm::Baseline("moody".into()), false);
                Ok(asked)
            })
        };
        let makes = vec![make(vec![ItemIdx(1)]), make(Vec::new()), list(), make(vec![ItemIdx(2)])];
        let (_, answers) = dispatcher.submit_all(makes, soon()).await.unwrap();
        let sources: Vec<Source> = answers.iter().map(|answer| answer.source).collect();
        assert_eq!(sources, [Source::Baseline, Source::Trending, Source::Personal, Source::Baseline]);
        assert_eq!(answers[1].degraded, ["tower_failed"]);
        assert!([0, 2, 3].iter().all(|&at: &usize| answers[at].degraded.is_empty()));
        assert!(answers.iter().all(|answer| answer.items.len() == 10));
        // A request that can't even be made is its own failure alone.
        let panics: Make = Box::new(|_| panic!("planted"));
        assert!(matches!(dispatcher.submit(panics, soon()).await, Err(DispatchError::Bad(_))));
        let bad: Make = Box::new(|_| Err(ApiError::bad_request("planted")));
        assert!(matches!(dispatcher.submit(bad, soon()).await, Err(DispatchError::Bad(_))));
        assert_eq!(dispatcher.submit(list(), soon()).await.unwrap().1.source, Source::Personal);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_panics_without_the_towers_too_ends_no_thread() {
        let (_, dispatcher) = dispatcher(engine(Which::First), 1, 16, 100);
        // A row that no bundle gives: every stage that reads it panics.
        let broken = || -> Make { Box::new(|_| Ok(request(known(UserIdx(1_000_000), &[])))) };
        for _ in 0..3 {
            assert!(matches!(dispatcher.submit(broken(), soon()).await, Err(DispatchError::Bad(_))));
            assert_eq!(dispatcher.submit(list(), soon()).await.unwrap().1.source, Source::Personal);
        }
        // Who shares its batch is answered.
        let dispatcher = Arc::new(dispatcher);
        let submit = |make: Make| {
            let dispatcher = Arc::clone(&dispatcher);
            tokio::spawn(async move { dispatcher.submit(make, soon()).await })
        };
        let (make, is_begun, go) = held();
        let first = submit(make);
        is_begun.recv().unwrap();
        let (broken, other) = (submit(broken()), submit(list()));
        while dispatcher.depth() < 2 {
            tokio::task::yield_now().await;
        }
        go.send(()).unwrap();
        assert!(first.await.unwrap().is_ok() && other.await.unwrap().is_ok());
        assert!(matches!(broken.await.unwrap(), Err(DispatchError::Bad(_))));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_answer_is_of_one_bundle_while_bundles_change() {
        let engines = [engine(Which::First), engine(Which::Second)];
        let expected: Vec<Vec<Answer>> = engines
            .iter()
            .map(|engine| {
                let requests: Vec<ListRequest> = (0..20).map(|user| request(known(UserIdx(user), &[user]))).collect();
                Worker::new(Arc::clone(engine)).answer(&requests)
            })
            .collect();
        assert_ne!(expected[0], expected[1]);
        let (slot, dispatcher) = dispatcher(Arc::clone(&engines[0]), 2, 4, 1000);
        let dispatcher = Arc::new(dispatcher);
        let mut tasks = Vec::new();
        for round in 0..40_u32 {
            for user in 0..20_u32 {
                let dispatcher = Arc::clone(&dispatcher);
                tasks.push(tokio::spawn(async move {
                    let (told, made_on) = mpsc::channel();
                    let make: Make = Box::new(move |engine| {
                        told.send(engine.bundle().to_owned()).unwrap();
                        Ok(request(known(UserIdx(user), &[user])))
                    });
                    let answered = dispatcher.submit(make, soon()).await;
                    (user, answered, made_on.try_recv())
                }));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
            slot.store(Arc::clone(&engines[(round as usize + 1) % 2]));
        }
        let mut by = [0, 0];
        for task in tasks {
            let (user, answered, made_on) = task.await.unwrap();
            let (engine, answer) = match answered {
                Ok(answered) => answered,
                // Shed, as it may be: no mixed answer.
                Err(DispatchError::Full) => continue,
                Err(error) => panic!("{error:?}"),
            };
            assert_eq!(made_on.unwrap(), engine.bundle());
            let at = engines.iter().position(|one| Arc::ptr_eq(one, &engine)).unwrap();
            by[at] += 1;
            let items = |answer: &Answer| answer.items.iter().map(|entry| entry.item).collect::<Vec<_>>();
            assert_eq!(items(&answer), items(&expected[at][user as usize]));
        }
        assert!(by[0] > 0 && by[1] > 0, "{by:?}");
    }
}
