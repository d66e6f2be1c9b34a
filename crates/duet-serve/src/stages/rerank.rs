//! Fifth stage, for variants that ask for it: a re-ranker puts the candidates in another order.
//!
//! It runs on a thread of its own beside the worker, started for the first list that wants it, and has a budget. Where it fails, panics,
//! answers with other items, or is over the budget, the list goes on as it was and says so. After [`FAILURES`] in a row it is left
//! alone for [`PAUSE`]: lists don't wait for what is known to be broken. Then one list tries again.
//!
//! Lists that were asked for together have one budget: no list is begun when it is spent. So they take less than twice of it, and nobody
//! else is kept from a worker by a batch that is put in order.

use std::{
    collections::HashSet,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TryRecvError},
    },
    time::{Duration, Instant},
};

use duet_core::{Error, ItemIdx, Result, UserIdx};
use duet_data::dataset::Dataset;
use duet_retrieval::Scored;
use duet_train::reranker::{BundleReranker, RerankListener};

use super::Draft;
use crate::{engine::Engine, meters::StageMeter, request::Source};

static METER: StageMeter = StageMeter::new("rerank");

/// Failures in a row after which the re-ranker is left alone.
const FAILURES: u32 = 3;
/// For how long.
const PAUSE: Duration = Duration::from_secs(10);

/// What is told of a re-ranker that failed.
const FAILED: &str = "reranker_failed";
/// What is told of one that was over its budget.
const SLOW: &str = "reranker_slow";
/// What is told where others of the same batch have taken the time.
const SPENT: &str = "reranker_budget";
/// What is told where the bundle has none, or the system had no thread for it.
const MISSING: &str = "reranker_missing";

/// Puts candidates in another order.
pub(crate) trait Rerank: Send + Sync {
    /// The same candidates, with new scores.
    fn rerank(&self, listener: &RerankListener<'_>, candidates: &[Scored]) -> Result<Vec<Scored>>;
}

impl Rerank for BundleReranker {
    fn rerank(&self, listener: &RerankListener<'_>, candidates: &[Scored]) -> Result<Vec<Scored>> {
        Self::rerank(self, listener, candidates)
    }
}

/// The re-ranker of a bundle, if it holds one.
pub(crate) fn open(bundle: &Path, dataset: &Dataset) -> Result<Option<Arc<dyn Rerank>>> {
    Ok(BundleReranker::open(bundle, dataset)?.map(|reranker| Arc::new(reranker) as Arc<dyn Rerank>))
}

fn wants(draft: &Draft<'_>) -> bool {
    draft.request.variant.rerank && draft.source == Source::Personal && !draft.candidates.is_empty()
}

pub(crate) fn run(engine: &Engine, thread: &mut LazyThread, drafts: &mut [Draft<'_>]) {
    // Most workers never see a list that wants one.
    if !drafts.iter().any(wants) {
        return;
    }
    let Some(thread) = thread.get(engine) else {
        drafts.iter_mut().filter(|draft| wants(draft)).for_each(|draft| draft.degraded.push(MISSING));
        return;
    };
    let _span = tracing::debug_span!("rerank", lists = drafts.len()).entered();
    let _timer = METER.start();
    let budget = engine.options.rerank_budget;
    for draft in drafts.iter_mut().filter(|draft| wants(draft)) {
        let (time, started) = (&draft.request.rerank_time, Instant::now());
        let reranked = if time.taken() >= budget {
            Err(SPENT)
        } else if let Some(why) = engine.breaker.refuses(started) {
            Err(why)
        } else {
            let reranked = thread.rerank(draft, budget);
            let ended = Instant::now();
            time.add(ended.saturating_duration_since(started));
            engine.breaker.note(reranked.as_ref().err().copied(), ended);
            reranked
        };
        match reranked {
            Ok(candidates) => draft.candidates = candidates,
            Err(why) => draft.degraded.push(why),
        }
    }
}

/// Leaves a helper (a re-ranker, a database) alone that failed several times in a row.
#[derive(Debug, Default)]
pub(crate) struct Breaker(Mutex<Failures>);

#[derive(Debug, Default)]
struct Failures {
    in_a_row: u32,
    last: Option<(&'static str, Instant)>,
}

impl Breaker {
    /// What the last failure was, while it is left alone for that.
    pub(super) fn refuses(&self, now: Instant) -> Option<&'static str> {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (why, at) = failures.last.filter(|_| failures.in_a_row >= FAILURES)?;
        if now.saturating_duration_since(at) < PAUSE {
            return Some(why);
        }
        // One list tries; the others wait for another pause.
        failures.last = Some((why, now));
        None
    }

    pub(super) fn note(&self, failure: Option<&'static str>, now: Instant) {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *failures = match failure {
            Some(why) => Failures { in_a_row: failures.in_a_row.saturating_add(1), last: Some((why, now)) },
            None => Failures::default(),
        };
    }
}

struct Job {
    user: Option<UserIdx>,
    history: Vec<ItemIdx>,
    now_ms: i64,
    candidates: Vec<Scored>,
}

/// A worker's thread for the re-ranker, once a list wanted it; one that did not start is not tried again.
#[derive(Debug, Default)]
pub(crate) struct LazyThread(Option<Result<RerankThread>>);

impl LazyThread {
    /// Nothing where the bundle has no re-ranker, or the thread did not start.
    fn get(&mut self, engine: &Engine) -> Option<&mut RerankThread> {
        let reranker = engine.reranker.as_ref()?;
        let start = || {
            let thread = RerankThread::start(Arc::clone(reranker));
            thread.inspect_err(|error| tracing::error!(%error, "lists go on without the re-ranker"))
        };
        self.0.get_or_insert_with(start).as_mut().ok()
    }
}

/// The thread on which a worker's lists are re-ranked. It ends with the worker; one that hangs is left behind.
#[derive(Debug)]
struct RerankThread {
    jobs: SyncSender<Job>,
    lists: Receiver<Result<Vec<Scored>>>,
    /// A list that was given up and is still being made.
    is_busy: bool,
}

impl RerankThread {
    fn start(reranker: Arc<dyn Rerank>) -> Result<Self> {
        let (jobs, received) = mpsc::sync_channel::<Job>(1);
        let (sender, lists) = mpsc::sync_channel(1);
        let work = move || {
            for Job { user, history, now_ms, candidates } in received {
                let listener = RerankListener { user, history: &history, now_ms };
                let list = catch_unwind(AssertUnwindSafe(|| reranker.rerank(&listener, &candidates)))
                    .unwrap_or_else(|_| Err(Error::Internal("the re-ranker panicked".into())));
                if sender.send(list).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new()
            .name("rerank".to_owned())
            .spawn(work)
            .map_err(|error| Error::Internal(format!("a thread for the re-ranker: {error}")))?;
        Ok(Self { jobs, lists, is_busy: false })
    }

    /// The draft's candidates in another order, or what went wrong.
    fn rerank(&mut self, draft: &Draft<'_>, budget: Duration) -> Result<Vec<Scored>, &'static str> {
        if self.is_busy {
            match self.lists.try_recv() {
                Ok(_) => self.is_busy = false,
                Err(TryRecvError::Empty) => return Err(SLOW),
                Err(TryRecvError::Disconnected) => return Err(FAILED),
            }
        }
        let job = Job {
            user: draft.request.listener.row(),
            history: draft.history.items.clone(),
            now_ms: draft.request.now_ms,
            candidates: draft.candidates.clone(),
        };
        self.jobs.send(job).map_err(|_| FAILED)?;
        match self.lists.recv_timeout(budget) {
            Ok(Ok(list)) => checked(list, &draft.candidates).ok_or_else(|| {
                tracing::error!("the re-ranker gave other items than it got, or scores that are no numbers");
                FAILED
            }),
            Ok(Err(error)) => {
                tracing::error!(%error, "the re-ranker failed");
                Err(FAILED)
            }
            Err(RecvTimeoutError::Timeout) => {
                self.is_busy = true;
                tracing::warn!(budget_ms = budget.as_millis() as u64, "the re-ranker is over its budget");
                Err(SLOW)
            }
            Err(RecvTimeoutError::Disconnected) => Err(FAILED),
        }
    }
}

/// The list best first, if it holds the candidates, each once.
fn checked(mut list: Vec<Scored>, candidates: &[Scored]) -> Option<Vec<Scored>> {
    let given: HashSet<ItemIdx> = candidates.iter().map(|entry| entry.item).collect();
    let back: HashSet<ItemIdx> = list.iter().map(|entry| entry.item).collect();
    let is_sound = list.len() == candidates.len() && given == back && list.iter().all(|entry| entry.score.is_finite());
    list.sort_by(|left, right| right.score.total_cmp(&left.score));
    is_sound.then_some(list)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::{
        engine::EngineOptions,
        request::{Answer, ListRequest, RerankTime},
        small_bundle::{Which, bundle, known, request, variant},
        variants::Arm,
        worker::Worker,
    };

    /// Turns the list around, unless told to do worse.
    struct Planted {
        how: fn(&[Scored]) -> Result<Vec<Scored>>,
        calls: Arc<AtomicUsize>,
    }

    impl Rerank for Planted {
        fn rerank(&self, _listener: &RerankListener<'_>, candidates: &[Scored]) -> Result<Vec<Scored>> {
            self.calls.fetch_add(1, Ordering::Relaxed);
            (self.how)(candidates)
        }
    }

    fn turned(candidates: &[Scored]) -> Result<Vec<Scored>> {
        Ok(candidates.iter().map(|entry| Scored { score: -entry.score, ..*entry }).collect())
    }

    /// A worker with a planted re-ranker, and how often that was asked.
    fn planted(how: fn(&[Scored]) -> Result<Vec<Scored>>) -> (Worker, Arc<AtomicUsize>) {
        let options = EngineOptions { rerank_budget: Duration::from_millis(200), ..EngineOptions::default() };
        let mut engine = Engine::build(&bundle(Which::First), &options).unwrap();
        let calls = Arc::new(AtomicUsize::new(0));
        engine.reranker = Some(Arc::new(Planted { how, calls: Arc::clone(&calls) }));
        (Worker::new(Arc::new(engine)), calls)
    }

    fn asked() -> ListRequest {
        ListRequest { variant: variant(Arm::TwoTower, true), ..request(known(UserIdx(0), &[3])) }
    }

    /// Answers of a worker with a planted re-ranker to so many requests, and how often that was asked.
    fn answers(how: fn(&[Scored]) -> Result<Vec<Scored>>, count: usize) -> (Vec<Answer>, usize) {
        let (mut worker, calls) = planted(how);
        let answers = (0..count).map(|_| worker.answer(&[asked()]).remove(0)).collect();
        (answers, calls.load(Ordering::Relaxed))
    }

    fn plain() -> Answer {
        let engine = Engine::open(&bundle(Which::First), &EngineOptions::default()).unwrap();
        Worker::new(engine).answer(&[request(known(UserIdx(0), &[3]))]).remove(0)
    }

    #[test]
    fn a_sound_one_decides_the_order() {
        let (answers, calls) = answers(turned, 2);
        assert_eq!(calls, 2);
        assert!(answers.iter().all(|answer| answer.degraded.is_empty() && answer.items.len() == 10));
        // Of a hundred candidates the last come first.
        assert!(answers[0].items[0].score >= -plain().items[9].score);
        assert_ne!(answers[0].items[0].item, plain().items[0].item);
    }

    #[test]
    fn a_failing_panicking_cheating_or_slow_one_costs_the_order_alone() {
        type How = fn(&[Scored]) -> Result<Vec<Scored>>;
        let slow = |candidates: &[Scored]| {
            std::thread::sleep(Duration::from_millis(700));
            turned(candidates)
        };
        let cases: [(How, &str); 4] = [
            (|_| Err(Error::input("planted")), FAILED),
            (|_| panic!("planted"), FAILED),
            (|candidates| Ok(candidates[1..].to_vec()), FAILED),
            (slow, SLOW),
        ];
        for (how, word) in cases {
            let (answers, calls) = answers(how, 6);
            for answer in &answers {
                assert_eq!(answer.items, plain().items, "{word}");
                assert_eq!(answer.degraded, [word]);
            }
            assert!(calls <= FAILURES as usize, "{word}: left alone after {FAILURES}, and {calls} calls were made");
        }
    }

    #[test]
    fn the_lists_of_a_batch_have_one_budget() {
        let (mut worker, calls) = planted(|candidates| {
            std::thread::sleep(Duration::from_millis(120));
            turned(candidates)
        });
        // Two batches in the same turn, and a list of its own; two more pieces of the first batch after it.
        let (first, second) = (RerankTime::default(), RerankTime::default());
        let of = |time: &RerankTime| ListRequest { rerank_time: time.clone(), ..asked() };
        let turn = [of(&first), of(&first), of(&second), of(&first), asked()];
        let words = |answers: &[Answer]| -> Vec<Option<&str>> {
            answers.iter().map(|answer| answer.degraded.first().copied()).collect()
        };
        let answers = worker.answer(&turn);
        assert_eq!(words(&answers), [None, None, None, Some(SPENT), None]);
        assert_eq!(words(&worker.answer(&[of(&first), of(&first)])), [Some(SPENT); 2]);
        // Nothing failed: the re-ranker is not left alone.
        assert_eq!(words(&worker.answer(&[asked()])), [None]);
        assert_eq!(calls.load(Ordering::Relaxed), 5);
        assert_eq!(answers[3].items, plain().items);
        assert_ne!(answers[2].items, plain().items);
    }

    #[test]
    fn a_bundle_without_one_says_so() {
        let engine = Engine::open(&bundle(Which::First), &EngineOptions::default()).unwrap();
        let answer = Worker::new(engine).answer(&[asked()]).remove(0);
        assert_eq!((answer.items, answer.degraded), (plain().items, vec![MISSING]));
    }

    #[test]
    fn the_thread_is_started_for_the_first_list_that_wants_it_and_not_tried_again() {
        let (worker, calls) = planted(turned);
        let (usual, wanting) = (request(known(UserIdx(0), &[3])), asked());
        let mut thread = LazyThread::default();
        let ranked = |thread: &mut LazyThread, request: &ListRequest| {
            let mut draft = [Draft::new(request)];
            draft[0].source = Source::Personal;
            draft[0].candidates =
                vec![Scored { item: ItemIdx(1), score: 2.0 }, Scored { item: ItemIdx(2), score: 1.0 }];
            run(worker.engine(), thread, &mut draft);
            let [draft] = draft;
            (draft.degraded, draft.candidates[0].item.0)
        };
        assert_eq!(ranked(&mut thread, &usual), (Vec::new(), 1));
        assert!(thread.0.is_none());
        assert_eq!(ranked(&mut thread, &wanting), (Vec::new(), 2));
        assert!(thread.0.is_some() && calls.load(Ordering::Relaxed) == 1);
        let mut failed = LazyThread(Some(Err(Error::Internal("planted".into()))));
        assert_eq!(ranked(&mut failed, &wanting), (vec![MISSING], 1));
        assert!(matches!(failed.0, Some(Err(_))) && calls.load(Ordering::Relaxed) == 1);
    }

    #[test]
    fn three_failures_in_a_row_are_a_pause() {
        let breaker = Breaker::default();
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        breaker.note(Some(FAILED), start);
        breaker.note(Some(FAILED), start);
        breaker.note(None, start);
        breaker.note(Some(FAILED), start);
        breaker.note(Some(FAILED), start);
        assert_eq!(breaker.refuses(start), None);
        breaker.note(Some(SLOW), start);
        assert_eq!(breaker.refuses(after(1)), Some(SLOW));
        assert_eq!(breaker.refuses(after(10)), None, "one tries");
        assert_eq!(breaker.refuses(after(10)), Some(SLOW), "the others wait for it");
        breaker.note(None, after(11));
        assert_eq!(breaker.refuses(after(11)), None);
    }

    #[test]
    fn other_items_than_the_candidates_are_refused() {
        let scored = |item, score| Scored { item: ItemIdx(item), score };
        let candidates = [scored(1, 2.0), scored(2, 1.0)];
        let sound = checked(vec![scored(1, 0.1), scored(2, 0.2)], &candidates);
        assert_eq!(sound, Some(vec![scored(2, 0.2), scored(1, 0.1)]));
        assert_eq!(checked(vec![scored(1, 0.1)], &candidates), None);
        assert_eq!(checked(vec![scored(1, 0.1), scored(3, 0.2)], &candidates), None);
        assert_eq!(checked(vec![scored(1, 0.1), scored(1, 0.1)], &candidates), None);
        assert_eq!(checked(vec![scored(1, 0.1), scored(2, f32::NAN)], &candidates), None);
    }
}
