//! Jobs to answers on one engine, whatever panics on the way.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Instant,
};

use super::{DispatchError, queue::Job};
use crate::{
    engine::Engine,
    http::error::ApiError,
    request::{Answer, ListRequest},
    stages::user_vector::TOWER_FAILED,
    worker::Worker,
};

/// Answers a piece of every job, a batch at a time; returns how many requests were worked on, and the jobs that have more.
pub(super) fn answer_jobs(
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
            job.begin_anew();
        }
        let made = catch_unwind(AssertUnwindSafe(|| {
            let makes = job.makes.iter().skip(job.answered()).take(piece);
            // The lists of a job share the time of a re-ranker, in all its pieces.
            let timed = |request: ListRequest| ListRequest { rerank_time: job.rerank_time.clone(), ..request };
            makes.map(|make| make(engine).map(timed)).collect::<Result<Vec<ListRequest>, ApiError>>()
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
    use std::time::Duration;

    use duet_core::{Result, UserIdx};
    use duet_retrieval::Scored;
    use duet_train::reranker::RerankListener;

    use super::*;
    use crate::{
        dispatch::Make,
        engine::EngineOptions,
        small_bundle::{Which, bundle, known, request, variant},
        stages::rerank::Rerank,
        variants::Arm,
    };

    const BUDGET: Duration = Duration::from_secs(60);

    /// Leaves the order as it is.
    struct Content;

    impl Rerank for Content {
        fn rerank(&self, _listener: &RerankListener<'_>, candidates: &[Scored]) -> Result<Vec<Scored>> {
            Ok(candidates.to_vec())
        }
    }

    fn engine() -> Arc<Engine> {
        let options = EngineOptions { rerank_budget: BUDGET, ..EngineOptions::default() };
        let mut engine = Engine::build(&bundle(Which::First), &options).unwrap();
        engine.reranker = Some(Arc::new(Content));
        Arc::new(engine)
    }

    #[test]
    fn a_submission_that_begins_anew_has_the_whole_time_of_the_re_ranker() {
        let make = || -> Make {
            Box::new(|_| Ok(ListRequest { variant: variant(Arm::TwoTower, true), ..request(known(UserIdx(0), &[3])) }))
        };
        let now = Instant::now();
        let (job, _answer) = Job::new((0..7).map(|_| make()).collect(), now, now + BUDGET);
        // A piece on an engine: what its lists say, and the job again.
        let turn = |engine: &Arc<Engine>, job: Job| {
            let (count, mut unfinished) = answer_jobs(engine, &mut Worker::new(Arc::clone(engine)), vec![job], (2, 4));
            assert_eq!(count, 2);
            let job = unfinished.pop().unwrap();
            let (_, answers) = job.begun.as_ref().unwrap();
            let of_piece = answers[answers.len() - 2..].iter();
            let words: Vec<Vec<&'static str>> = of_piece.map(|answer| answer.degraded.clone()).collect();
            (words, job)
        };
        let nothing: Vec<Vec<&str>> = vec![Vec::new(); 2];
        let engines = [engine(), engine()];
        let (words, job) = turn(&engines[0], job);
        assert_eq!(words, nothing);
        assert!(job.rerank_time.taken() > Duration::ZERO);
        job.rerank_time.add(BUDGET);
        let (words, job) = turn(&engines[0], job);
        assert_eq!(words, [["reranker_budget"]; 2], "the next piece has no time of its own");
        let (words, job) = turn(&engines[1], job);
        assert_eq!((words, job.answered()), (nothing, 2));
    }
}
