//! Between the connections and the engine: who makes a list, and who is refused.
//!
//! * **Short lists** ([`Dispatcher::submit_short`]) are made by the thread that read their request. A thread of its own for the work means
//!   two ways from thread to thread and two sleepers to be woken for each request, and where cores are few the work, the connections and
//!   their clients take turns on them; that costs more than a short list does. So that requests which come together still share a batch,
//!   each waits in a queue until everything else that is ready was read, and then whoever is first takes what has gathered.
//! * **All others** ([`Dispatcher::submit_all`]) wait for threads of the dispatcher, so that the connections go on meanwhile: submissions of several
//!   lists, and lists that are long in the making. A thread takes what waits, up to `engine.max_batch` lists.
//! * What does not fit is refused at once ([`DispatchError::Full`]); `admission.rs` says what fits. Whoever is let in is answered fast.
//! * A batch is answered on one engine: the one in the slot at that moment. A new bundle is taken up between two batches.
//! * A submission of many lists is answered half a batch at a time, and goes to the end of the queue after each: who asks for one list is
//!   answered with the next half. All its lists are of one engine: where another has taken over meanwhile, it begins anew. They share the
//!   time of a re-ranker, too.
//! * What waited beyond its deadline is not worked on any more ([`DispatchError::Expired`]).
//! * A panic ends no thread: the worker is made anew, and the requests of that batch are tried one by one. Only what panics again is
//!   answered without the towers, and only what panics even then has no answer.

mod admission;
mod batch;
mod queue;

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio::sync::oneshot::{self, error::TryRecvError};

use self::{
    admission::Admission,
    queue::{Job, Next, Queue, Reply},
};
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
/// The time of a re-ranker is the submission's, whatever the request says of it.
pub type Make = Box<dyn Fn(&Engine) -> Result<ListRequest, ApiError> + Send>;

/// Lists of one submission and the engine they were made on.
pub type Answered = (Arc<Engine>, Vec<Answer>);

/// An idle thread looks for a new engine this often, so that it does not keep an old one in memory.
const IDLE: Duration = Duration::from_secs(1);
/// How long a thread that has connections to look after makes lists at a stretch, about.
const STRETCH: Duration = Duration::from_millis(2);

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

struct Shared {
    slot: Arc<Slot>,
    /// What the threads of the dispatcher make.
    queue: Queue,
    /// What those who ask make.
    short: Queue,
    /// Workers for those who ask: one for each thread that makes lists at the same time.
    spare: Mutex<Vec<Worker>>,
    short_under: Duration,
    workers: usize,
    max_batch: usize,
}

/// The queues and the threads.
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
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = if config.workers == 0 { cores } else { config.workers };
        let max_batch = config.max_batch.max(1);
        let deadline = Duration::from_millis(limits.deadline_ms);
        let queue = |threads| {
            let admission = Admission::new(threads, max_batch, limits.queue, deadline);
            Queue::new(admission, max_batch.div_ceil(2))
        };
        let shared = Arc::new(Shared {
            slot,
            queue: queue(workers),
            // The runtime has a thread a core.
            short: queue(cores),
            spare: Mutex::default(),
            short_under: Duration::from_micros(config.short_us),
            workers,
            max_batch,
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

    /// Whether the lists of the engine that serves now are short: they take less than `engine.short_us`, and no database is asked for them.
    pub fn makes_short_lists(&self) -> bool {
        let engine = self.shared.slot.load();
        engine.retriever.is_none() && engine.list_cost().unwrap_or_default() < self.shared.short_under
    }

    /// Whether a request for a short list that arrived then would be let in now.
    pub fn has_room(&self, arrived: Instant) -> bool {
        self.shared.short.has_room(arrived)
    }

    /// Waits for a list that is short in the making, or makes it; `arrived` is when the bytes of its request had come.
    ///
    /// # Errors
    /// [`DispatchError`]
    pub async fn submit_short(
        &self,
        make: Make,
        arrived: Instant,
        deadline: Instant,
    ) -> Result<(Arc<Engine>, Answer), DispatchError> {
        let (job, mut answer) = Job::new(vec![make], arrived, deadline);
        self.shared.short.push(job)?;
        loop {
            // What else is ready is read before this goes on.
            tokio::task::yield_now().await;
            if let Some(answer) = there(&mut answer) {
                return answer.and_then(single);
            }
            if !self.shared.make_short() {
                break;
            }
            if let Some(answer) = there(&mut answer) {
                return answer.and_then(single);
            }
        }
        // Another thread has it in hand.
        wait(answer, deadline).await.and_then(single)
    }

    /// Waits for a list; `arrived` is when the bytes of its request had come.
    ///
    /// # Errors
    /// [`DispatchError`]
    pub async fn submit(
        &self,
        make: Make,
        arrived: Instant,
        deadline: Instant,
    ) -> Result<(Arc<Engine>, Answer), DispatchError> {
        self.submit_all(vec![make], arrived, deadline).await.and_then(single)
    }

    /// Waits for several lists, all made on one engine; `arrived` is when their request was there.
    ///
    /// # Errors
    /// [`DispatchError`]; one bad request is the failure of all.
    pub async fn submit_all(
        &self,
        makes: Vec<Make>,
        arrived: Instant,
        deadline: Instant,
    ) -> Result<Answered, DispatchError> {
        let (job, answer) = Job::new(makes, arrived, deadline);
        self.shared.queue.push(job)?;
        self.shared.queue.wake();
        wait(answer, deadline).await
    }

    /// Requests that wait.
    pub fn depth(&self) -> usize {
        self.shared.queue.depth() + self.shared.short.depth()
    }

    /// How many threads answer.
    pub(crate) fn workers(&self) -> usize {
        self.shared.workers
    }

    /// Takes nothing more, answers what waits, and ends the threads.
    pub fn close_and_drain(&self) {
        self.shared.short.close();
        self.shared.queue.close();
        while self.shared.make_short() {}
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

/// One list a request; were there none, it would be as if nobody had answered.
fn single((engine, answers): Answered) -> Result<(Arc<Engine>, Answer), DispatchError> {
    answers.into_iter().next().map(|answer| (engine, answer)).ok_or(DispatchError::Closed)
}

/// The answer, if it is there.
fn there(answer: &mut oneshot::Receiver<Reply>) -> Option<Reply> {
    match answer.try_recv() {
        Ok(answer) => Some(answer),
        Err(TryRecvError::Empty) => None,
        Err(TryRecvError::Closed) => Some(Err(DispatchError::Closed)),
    }
}

async fn wait(answer: oneshot::Receiver<Reply>, deadline: Instant) -> Reply {
    match tokio::time::timeout_at(deadline.into(), answer).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(DispatchError::Closed),
        Err(_) => Err(DispatchError::Expired),
    }
}

impl Shared {
    /// A thread's life.
    fn work(&self) {
        stay_on_this_thread();
        let mut worker: Option<Worker> = None;
        loop {
            let jobs = match self.queue.wait(self.max_batch, IDLE) {
                Next::Jobs(jobs) => jobs,
                Next::Idle => {
                    self.drop_old_spares();
                    match worker {
                        Some(_) => Vec::new(),
                        None => continue,
                    }
                }
                Next::Closed => return,
            };
            worker = self.turn(&self.queue, worker.take(), jobs);
        }
    }

    /// Makes short lists for as long as a thread with connections may; false if none waited.
    fn make_short(&self) -> bool {
        let pace = self.short.pace().max(Duration::from_nanos(1));
        let stretch = usize::try_from(STRETCH.as_nanos() / pace.as_nanos()).unwrap_or(usize::MAX);
        let jobs = self.short.take(stretch.clamp(1, self.max_batch));
        if jobs.is_empty() {
            return false;
        }
        stay_on_this_thread();
        let worker = self.spares().pop();
        let worker = self.turn(&self.short, worker, jobs);
        self.spares().extend(worker);
        true
    }

    /// Answers jobs, if there are any, with a worker on the engine of the moment; nothing if no worker could be made.
    fn turn(&self, queue: &Queue, before: Option<Worker>, jobs: Vec<Job>) -> Option<Worker> {
        let turn = catch_unwind(AssertUnwindSafe(|| {
            let engine = self.slot.load_full();
            let mut worker = match before {
                Some(worker) if Arc::ptr_eq(worker.engine(), &engine) => worker,
                _ => Worker::new(Arc::clone(&engine)),
            };
            let started = Instant::now();
            let sizes = (queue.piece(), self.max_batch);
            let (answered, unfinished) = batch::answer_jobs(&engine, &mut worker, jobs, sizes);
            queue.note_pace(started.elapsed(), answered);
            unfinished.into_iter().for_each(|job| queue.put_back(job));
            worker
        }));
        turn.inspect_err(|_| tracing::error!("no worker could be made; the thread goes on")).ok()
    }

    fn spares(&self) -> MutexGuard<'_, Vec<Worker>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of spare workers on an engine that serves no more.
    fn drop_old_spares(&self) {
        let serving = self.slot.load_full();
        let is_old = |worker: &mut Worker| !Arc::ptr_eq(worker.engine(), &serving);
        // Dropped outside the lock: it takes a while.
        let old: Vec<Worker> = self.spares().extract_if(.., is_old).collect();
        drop(old);
    }
}

/// Searches and towers share their work out by rayon. In a pool of this thread alone they stay here: handing a millisecond's work to other
/// threads and waiting for it costs as much as doing it, and all cores have a thread of ours already.
fn stay_on_this_thread() {
    thread_local! {
        static STAYS: Cell<bool> = const { Cell::new(false) };
    }
    if STAYS.replace(true) || rayon::current_thread_index().is_some() {
        return;
    }
    if let Err(error) = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build() {
        tracing::warn!(%error, "lists are made in the common thread pool");
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    };

    use duet_core::{ItemIdx, UserIdx};
    use duet_retrieval::{Query, Recommender, Scored};
    use futures::FutureExt;

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

    fn dispatcher(engine: Arc<Engine>, workers: usize, max_batch: usize, queue: usize) -> (Arc<Slot>, Arc<Dispatcher>) {
        let ServeConfig { engine: config, limits, .. } = ServeConfig::resolve(&[], &[]).unwrap();
        let slot = Arc::new(Slot::new(engine));
        let config = EngineConfig { workers, max_batch, ..config };
        let dispatcher = Dispatcher::start(Arc::clone(&slot), &config, &LimitsConfig { queue, ..limits });
        (slot, Arc::new(dispatcher))
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

    /// Waits for a list that is asked for now.
    async fn asked(dispatcher: &Dispatcher, make: Make) -> Result<(Arc<Engine>, Answer), DispatchError> {
        dispatcher.submit(make, Instant::now(), soon()).await
    }

    type Submitted = tokio::task::JoinHandle<Reply>;

    /// The same for several, in a task of their own.
    fn submitted(dispatcher: &Arc<Dispatcher>, makes: impl IntoIterator<Item = Make>) -> Submitted {
        let (dispatcher, makes) = (Arc::clone(dispatcher), makes.into_iter().collect());
        tokio::spawn(async move { dispatcher.submit_all(makes, Instant::now(), soon()).await })
    }

    /// Keeps a thread busy with the first list of a submission until it is told to go on; `others` are of the same submission.
    fn busy(dispatcher: &Arc<Dispatcher>, others: impl IntoIterator<Item = Make>) -> (Submitted, mpsc::Sender<()>) {
        let (make, is_begun, go) = held();
        let task = submitted(dispatcher, std::iter::once(make).chain(others));
        is_begun.recv().unwrap();
        (task, go)
    }

    /// Goes on when so many requests wait.
    async fn until_there_wait(dispatcher: &Dispatcher, count: usize) {
        let until = soon();
        while dispatcher.depth() < count {
            assert!(Instant::now() < until, "{} wait, not {count}", dispatcher.depth());
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_does_not_fit_is_refused_at_once_and_the_rest_is_answered() {
        let (_, dispatcher) = dispatcher(engine(Which::First), 1, 1, 3);
        let (first, go) = busy(&dispatcher, []);
        let waiting: Vec<Submitted> = (0..3).map(|_| submitted(&dispatcher, [list()])).collect();
        until_there_wait(&dispatcher, 3).await;
        let started = Instant::now();
        assert!(matches!(asked(&dispatcher, list()).await, Err(DispatchError::Full)));
        assert!(started.elapsed() < Duration::from_secs(1));
        go.send(()).unwrap();
        for task in waiting.into_iter().chain([first]) {
            assert_eq!(task.await.unwrap().unwrap().1[0].items.len(), 10);
        }
        assert_eq!(dispatcher.depth(), 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn whoever_leaves_before_their_short_list_is_taken_up_keeps_nobody_out() {
        let (_, dispatcher) = dispatcher(engine(Which::First), 1, 1, 3);
        let ask = || dispatcher.submit_short(list(), Instant::now(), soon());
        // At its first poll a list is put into the queue, and nobody takes it before the second.
        let mut leaving: Vec<_> = (0..3).map(|_| Box::pin(ask())).collect();
        assert!(leaving.iter_mut().all(|one| one.now_or_never().is_none()));
        assert!(matches!(ask().await, Err(DispatchError::Full)) && !dispatcher.has_room(Instant::now()));
        drop(leaving);
        assert_eq!(ask().await.unwrap().1.items.len(), 10);
        // One after another, too.
        for _ in 0..10 {
            assert!(ask().now_or_never().is_none());
        }
        assert_eq!(dispatcher.depth(), 1);
        assert!(dispatcher.has_room(Instant::now()));
        assert_eq!(dispatcher.depth(), 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_waited_beyond_its_deadline_is_not_worked_on() {
        let (_, dispatcher) = dispatcher(engine(Which::First), 1, 16, 100);
        let (first, go) = busy(&dispatcher, []);
        let made = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&made);
        let make: Make = Box::new(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok(request(known(UserIdx(0), &[])))
        });
        let now = Instant::now();
        let late = dispatcher.submit(make, now, now + Duration::from_millis(20)).await;
        assert!(matches!(late, Err(DispatchError::Expired)));
        go.send(()).unwrap();
        first.await.unwrap().unwrap();
        // Behind it in the queue: when this is answered, the late one has been passed.
        asked(&dispatcher, list()).await.unwrap();
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
        let log = Arc::new(Mutex::new(Vec::new()));
        let (long, go) = busy(&dispatcher, ["long 1", "long 2", "long 3", "long 4"].map(|word| noted(&log, word)));
        // What is left of the long one waits behind whoever comes while its first lists are made.
        let mut short = Vec::new();
        for word in ["short 1", "short 2", "short 3"] {
            short.push(submitted(&dispatcher, [noted(&log, word)]));
            until_there_wait(&dispatcher, short.len()).await;
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
        let (under_way, go) = busy(&dispatcher, []);
        // At this pace nobody may wait for more than a batch.
        dispatcher.shared.queue.note_pace(Duration::from_secs(1), 1);
        let long = submitted(&dispatcher, (0..50).map(|_| list()));
        until_there_wait(&dispatcher, 50).await;
        // It is not refused for lists that come after it.
        let short = submitted(&dispatcher, [list()]);
        until_there_wait(&dispatcher, 51).await;
        go.send(()).unwrap();
        under_way.await.unwrap().unwrap();
        assert_eq!(short.await.unwrap().unwrap().1.len(), 1);
        assert_eq!(long.await.unwrap().unwrap().1.len(), 50);
        assert_eq!(dispatcher.depth(), 0);
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
        let (of, answers) = submitted(&dispatcher, users.clone().map(make)).await.unwrap().unwrap();
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
        let (first, go) = busy(&dispatcher, []);
        let waiting: Vec<Submitted> = (0..20).map(|_| submitted(&dispatcher, [list()])).collect();
        until_there_wait(&dispatcher, 20).await;
        let closing = Arc::clone(&dispatcher);
        let closing = tokio::task::spawn_blocking(move || closing.close_and_drain());
        // Until it is closed this is let in, and gives up at once.
        let hurried = || {
            let now = Instant::now();
            dispatcher.submit(list(), now, now)
        };
        while !matches!(hurried().await, Err(DispatchError::Closed)) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        go.send(()).unwrap();
        closing.await.unwrap();
        for task in waiting.into_iter().chain([first]) {
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
        let (_, answers) = submitted(&dispatcher, makes).await.unwrap().unwrap();
        let sources: Vec<Source> = answers.iter().map(|answer| answer.source).collect();
        assert_eq!(sources, [Source::Baseline, Source::Trending, Source::Personal, Source::Baseline]);
        assert_eq!(answers[1].degraded, ["tower_failed"]);
        assert!([0, 2, 3].iter().all(|&at: &usize| answers[at].degraded.is_empty()));
        assert!(answers.iter().all(|answer| answer.items.len() == 10));
        // A request that can't even be made is its own failure alone.
        let panics: Make = Box::new(|_| panic!("planted"));
        assert!(matches!(asked(&dispatcher, panics).await, Err(DispatchError::Bad(_))));
        let bad: Make = Box::new(|_| Err(ApiError::bad_request("planted")));
        assert!(matches!(asked(&dispatcher, bad).await, Err(DispatchError::Bad(_))));
        assert_eq!(asked(&dispatcher, list()).await.unwrap().1.source, Source::Personal);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_panics_without_the_towers_too_ends_no_thread() {
        let (_, dispatcher) = dispatcher(engine(Which::First), 1, 16, 100);
        // A row that no bundle gives: every stage that reads it panics.
        let broken = || -> Make { Box::new(|_| Ok(request(known(UserIdx(1_000_000), &[])))) };
        for _ in 0..3 {
            assert!(matches!(asked(&dispatcher, broken()).await, Err(DispatchError::Bad(_))));
            assert_eq!(asked(&dispatcher, list()).await.unwrap().1.source, Source::Personal);
        }
        // Who shares its batch is answered.
        let (first, go) = busy(&dispatcher, []);
        let (broken, other) = (submitted(&dispatcher, [broken()]), submitted(&dispatcher, [list()]));
        until_there_wait(&dispatcher, 2).await;
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
                    let answered = asked(&dispatcher, make).await;
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
