//! Candidates from a table of vectors in a database, instead of from the index of the bundle.
//!
//! A worker has a thread of its own for it, with a connection of its own. A list waits for the thread as long as the budget; then the
//! index of the bundle answers, and the list says so. The table must be of the engine's very bundle: rows of another would be other
//! items. After some failures in a row the database is left alone for a while, as a re-ranker is.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TryRecvError},
    },
    time::{Duration, Instant},
};

use duet_core::{
    Error, ItemIdx, Result,
    condition::Condition,
    table::{Column, ColumnValues, FeatureTable},
};
use duet_data::{
    accounts::{Connection, TableName},
    vector_store::{SearchFailure, SearcherOptions, TableQuery, TableSearcher, VectorTable},
};
use duet_retrieval::Scored;

use super::Draft;
use crate::{config::EngineConfig, engine::Engine};

/// What is told where the database gave no list in time, or none at all.
const FAILED: &str = "retriever_failed";
/// What is told where its table is of another bundle.
const OTHER_BUNDLE: &str = "retriever_other_bundle";

/// A table of vectors, and how it is asked.
#[derive(Debug, Clone)]
pub struct RetrieverOptions {
    /// The table.
    pub table: VectorTable,
    /// How long a list waits for it.
    pub budget: Duration,
    /// What the table's index keeps in view.
    pub ef_search: usize,
}

impl RetrieverOptions {
    /// Those of a configuration; nothing, where the bundle's own index is to be searched.
    ///
    /// # Errors
    /// [`Error::Input`] naming the key; no address is shown, for it may hold a password.
    pub fn of(config: &EngineConfig) -> Result<Option<Self>> {
        let EngineConfig { retriever, retriever_table, retriever_budget_ms, retriever_ef_search, .. } = config;
        if retriever.is_empty() {
            return Ok(None);
        }
        let named = |key: &'static str| move |error: Error| Error::input(format!("configuration: {key}: {error}"));
        let connection = Connection::new(Some(retriever)).map_err(named("engine.retriever"))?;
        let table: TableName = retriever_table.parse().map_err(named("engine.retriever_table"))?;
        Ok(Some(Self {
            table: VectorTable { connection, table },
            budget: Duration::from_millis(*retriever_budget_ms),
            ef_search: *retriever_ef_search,
        }))
    }

    /// What makes searchers of a bundle's table; `items` are the bundle's.
    pub(crate) fn source(&self, bundle: &str, items: &FeatureTable) -> RetrieverSource {
        let (options, bundle, columns) = (self.clone(), bundle.to_owned(), Arc::new(without_rows(items)));
        RetrieverSource(Arc::new(move || {
            let searching = SearcherOptions { ef_search: options.ef_search, statement_timeout: Some(options.budget) };
            let searcher = TableSearcher::new(&options.table, &bundle, searching)?;
            Ok(Box::new(TableRetriever { searcher, columns: Arc::clone(&columns) }) as Box<dyn Retrieve>)
        }))
    }
}

/// The columns alone: their names are all that a condition needs to become SQL.
fn without_rows(items: &FeatureTable) -> FeatureTable {
    let columns = items.columns.iter().map(|column| Column {
        name: column.name.clone(),
        values: match column.values {
            ColumnValues::Text(_) => ColumnValues::Text(Vec::new()),
            ColumnValues::TextList(_) => ColumnValues::TextList(Vec::new()),
            ColumnValues::Number(_) => ColumnValues::Number(Vec::new()),
            ColumnValues::Day(_) => ColumnValues::Day(Vec::new()),
        },
    });
    FeatureTable { columns: columns.collect(), ..FeatureTable::default() }
}

/// What a list is asked for with.
pub(crate) struct Job {
    vector: Vec<f32>,
    k: usize,
    conditions: Vec<Condition>,
    exclude: Vec<u32>,
    allowed: usize,
}

/// Finds candidates.
pub(crate) trait Retrieve: Send {
    /// Gets ready, for as long as that takes; nobody waits.
    fn prepare(&mut self) -> Result<(), SearchFailure>;

    /// Rows and scores, best first.
    fn retrieve(&mut self, job: &Job) -> Result<Vec<(u32, f32)>, SearchFailure>;
}

struct TableRetriever {
    searcher: TableSearcher,
    columns: Arc<FeatureTable>,
}

impl Retrieve for TableRetriever {
    fn prepare(&mut self) -> Result<(), SearchFailure> {
        self.searcher.connect().map(|_| ())
    }

    fn retrieve(&mut self, job: &Job) -> Result<Vec<(u32, f32)>, SearchFailure> {
        let Job { vector, k, conditions, exclude, allowed } = job;
        let query = TableQuery { vector, k: *k, conditions, exclude, allowed: *allowed };
        self.searcher.search(&self.columns, &query)
    }
}

type Make = dyn Fn() -> Result<Box<dyn Retrieve>> + Send + Sync;

/// Makes a retriever for every worker.
#[derive(Clone)]
pub(crate) struct RetrieverSource(Arc<Make>);

impl fmt::Debug for RetrieverSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("RetrieverSource")
    }
}

/// The thread that asks the database for a worker's lists. It ends with the worker; one that hangs is left behind.
#[derive(Debug)]
pub(crate) struct TableThread {
    jobs: SyncSender<Job>,
    lists: Receiver<Result<Vec<(u32, f32)>, SearchFailure>>,
    /// A list that was given up and is still being made.
    is_busy: bool,
    /// Whether it was said already that the table is of another bundle.
    is_told: bool,
}

impl TableThread {
    /// Starts it; where it can't be, every list will say so.
    pub(crate) fn start(source: &RetrieverSource) -> Self {
        let (jobs, received) = mpsc::sync_channel::<Job>(1);
        let (sender, lists) = mpsc::sync_channel(1);
        let make = Arc::clone(&source.0);
        let work = move || {
            let mut retriever = match make() {
                Ok(retriever) => retriever,
                Err(error) => {
                    tracing::error!(%error, "no retriever");
                    return;
                }
            };
            // The first list finds a connection. If there is none, it will say what is wrong.
            drop(retriever.prepare());
            for job in received {
                let list = catch_unwind(AssertUnwindSafe(|| retriever.retrieve(&job)))
                    .unwrap_or_else(|_| Err(SearchFailure::Failed(Error::Internal("the retriever panicked".into()))));
                if sender.send(list).is_err() {
                    return;
                }
            }
        };
        if let Err(error) = std::thread::Builder::new().name("retriever".to_owned()).spawn(work) {
            tracing::error!(%error, "no thread for the retriever");
        }
        Self { jobs, lists, is_busy: false, is_told: false }
    }

    /// Puts `k` candidates into a draft; if it can't, says so there and returns false.
    pub(super) fn fills(&mut self, engine: &Engine, draft: &mut Draft<'_>, k: usize) -> bool {
        let budget = engine.options.retriever.as_ref().map_or(BUDGET, |options| options.budget);
        let found = match engine.retriever_breaker.refuses(Instant::now()) {
            Some(why) => Err(why),
            None => {
                let found = self.ask(engine, draft, k, budget);
                // A table of another bundle is one that answers.
                let failure = found.as_ref().err().copied().filter(|why| *why == FAILED);
                engine.retriever_breaker.note(failure, Instant::now());
                found
            }
        };
        match found {
            Ok(candidates) => {
                draft.candidates = candidates;
                true
            }
            Err(why) => {
                draft.degraded.push(why);
                false
            }
        }
    }

    fn ask(
        &mut self,
        engine: &Engine,
        draft: &Draft<'_>,
        k: usize,
        budget: Duration,
    ) -> Result<Vec<Scored>, &'static str> {
        if self.is_busy {
            match self.lists.try_recv() {
                Ok(_) => self.is_busy = false,
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return Err(FAILED),
            }
        }
        let allowed = draft.allowed();
        let items = engine.items().len();
        let job = Job {
            vector: draft.vector.clone().unwrap_or_default(),
            k,
            conditions: draft.request.conditions.clone(),
            exclude: allowed.exclude.iter().map(|item| item.0).collect(),
            allowed: match allowed.filter {
                None => items.saturating_sub(allowed.exclude.len()),
                Some(filter) => filter.count() - allowed.exclude.iter().filter(|item| filter.contains(**item)).count(),
            },
        };
        self.jobs.send(job).map_err(|_| FAILED)?;
        match self.lists.recv_timeout(budget) {
            Ok(Ok(list)) => {
                self.is_told = false;
                checked(list, items).ok_or_else(|| {
                    tracing::error!("the retriever gave items that the bundle has not, or scores that are no numbers");
                    FAILED
                })
            }
            Ok(Err(SearchFailure::OtherBundle(what))) => {
                if !std::mem::replace(&mut self.is_told, true) {
                    tracing::warn!("{what}: the index of the bundle is searched instead");
                }
                Err(OTHER_BUNDLE)
            }
            Ok(Err(SearchFailure::Failed(error))) => {
                tracing::error!(%error, "the retriever failed");
                Err(FAILED)
            }
            Err(RecvTimeoutError::Timeout) => {
                self.is_busy = true;
                tracing::warn!(budget_ms = budget.as_millis() as u64, "the retriever is over its budget");
                Err(FAILED)
            }
            Err(RecvTimeoutError::Disconnected) => Err(FAILED),
        }
    }
}

/// The budget of a retriever that was planted without options.
const BUDGET: Duration = Duration::from_millis(200);

/// The list, if it can be one.
fn checked(list: Vec<(u32, f32)>, items: usize) -> Option<Vec<Scored>> {
    let mut scored: Vec<Scored> = list.into_iter().map(|(item, score)| Scored { item: ItemIdx(item), score }).collect();
    let is_sound = scored.iter().all(|entry| entry.item.index() < items && entry.score.is_finite());
    scored.sort_by(|left, right| right.score.total_cmp(&left.score));
    is_sound.then_some(scored)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use duet_core::UserIdx;

    use super::*;
    use crate::{
        engine::EngineOptions,
        request::{Answer, ListRequest},
        small_bundle::{UNHEARD, Which, bundle, known, request},
        worker::Worker,
    };

    type How = fn(&Job) -> Result<Vec<(u32, f32)>, SearchFailure>;

    struct Planted {
        how: How,
        calls: Arc<AtomicUsize>,
    }

    impl Retrieve for Planted {
        fn prepare(&mut self) -> Result<(), SearchFailure> {
            Ok(())
        }

        fn retrieve(&mut self, job: &Job) -> Result<Vec<(u32, f32)>, SearchFailure> {
            self.calls.fetch_add(1, Ordering::Relaxed);
            (self.how)(job)
        }
    }

    fn asked(engine: &Engine) -> ListRequest {
        let filter = ["genre=rock".to_owned()];
        ListRequest {
            filter: engine.filter(&filter).unwrap(),
            conditions: engine.conditions(&filter).unwrap(),
            ..request(known(UserIdx(0), &[3]))
        }
    }

    /// A rock artist that is not among some.
    fn rock(exclude: &[u32]) -> u32 {
        (0..UNHEARD.0).find(|item| item % 7 != 0 && item % 4 == 3 && !exclude.contains(item)).unwrap()
    }

    /// Answers with a planted retriever, and how often that was asked.
    fn answers(how: How, count: usize) -> (Vec<Answer>, usize) {
        let mut engine = Engine::build(&bundle(Which::First), &EngineOptions::default()).unwrap();
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        engine.retriever = Some(RetrieverSource(Arc::new(move || {
            Ok(Box::new(Planted { how, calls: Arc::clone(&counted) }) as Box<dyn Retrieve>)
        })));
        let asked = asked(&engine);
        let mut worker = Worker::new(Arc::new(engine));
        let answers = (0..count).map(|_| worker.answer(std::slice::from_ref(&asked)).remove(0)).collect();
        (answers, calls.load(Ordering::Relaxed))
    }

    fn plain() -> Answer {
        let engine = Engine::open(&bundle(Which::First), &EngineOptions::default()).unwrap();
        let asked = asked(&engine);
        assert!(asked.conditions.is_empty(), "nobody would read them");
        Worker::new(engine).answer(&[asked]).remove(0)
    }

    #[test]
    fn a_sound_list_is_taken_and_still_filtered() {
        let (answers, calls) = answers(
            |job| {
                assert_eq!((job.conditions.len(), job.k), (1, 10));
                assert!(job.exclude.contains(&3) && job.allowed < 200 && !job.vector.is_empty());
                // Item 3 was played, item 4 is folk.
                Ok(vec![(3, 9.0), (4, 8.0), (rock(&job.exclude), 7.0)])
            },
            2,
        );
        assert_eq!(calls, 2);
        let plain = plain();
        for answer in answers {
            assert!(answer.degraded.is_empty(), "{answer:?}");
            assert_eq!((answer.items[0].item.0 % 4, answer.items[0].score), (3, 7.0));
            assert!(answer.items.iter().all(|entry| ![ItemIdx(3), ItemIdx(4)].contains(&entry.item)));
            assert_eq!(answer.items.len(), plain.items.len(), "filled up with what is played");
        }
    }

    #[test]
    fn what_fails_costs_time_and_no_list() {
        let cases: [(How, &str); 5] = [
            (|_| Err(SearchFailure::Failed(Error::input("planted"))), FAILED),
            (|_| panic!("planted"), FAILED),
            (|_| Ok(vec![(200, 1.0)]), FAILED),
            (|_| Ok(vec![(11, f32::NAN)]), FAILED),
            (
                |_| {
                    std::thread::sleep(Duration::from_millis(700));
                    Ok(vec![(11, 1.0)])
                },
                FAILED,
            ),
        ];
        let plain = plain();
        for (how, word) in cases {
            let (answers, calls) = answers(how, 6);
            for answer in &answers {
                assert_eq!((&answer.items, answer.degraded.as_slice()), (&plain.items, &[word][..]));
            }
            assert!(calls <= 3, "left alone after three, and {calls} calls were made");
        }
        let (answers, calls) = answers(|_| Err(SearchFailure::OtherBundle("planted".to_owned())), 6);
        assert!(answers.iter().all(|answer| answer.items == plain.items && answer.degraded == [OTHER_BUNDLE]));
        assert_eq!(calls, 6, "the next one may find the right bundle");
    }

    #[test]
    fn a_database_that_is_not_there_is_a_word_and_no_delay() {
        // Takes connections and says nothing.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("postgres://nobody@{}/none?sslmode=disable", silent.local_addr().unwrap());
        let table =
            VectorTable { connection: Connection::new(Some(&url)).unwrap(), table: "duet_items".parse().unwrap() };
        let retriever = RetrieverOptions { table, budget: Duration::from_millis(20), ef_search: 100 };
        let options = EngineOptions { retriever: Some(retriever), ..EngineOptions::default() };
        let engine = Engine::open(&bundle(Which::First), &options).unwrap();
        engine.self_check().unwrap();
        let asked = asked(&engine);
        assert_eq!(asked.conditions.len(), 1);
        let mut worker = Worker::new(engine);
        let started = Instant::now();
        for _ in 0..100 {
            let answer = worker.answer(std::slice::from_ref(&asked)).remove(0);
            assert_eq!((answer.items, answer.degraded), (plain_items(), vec![FAILED]));
        }
        assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    }

    fn plain_items() -> Vec<crate::request::AnswerItem> {
        static ITEMS: std::sync::OnceLock<Vec<crate::request::AnswerItem>> = std::sync::OnceLock::new();
        ITEMS.get_or_init(|| plain().items).clone()
    }
}
