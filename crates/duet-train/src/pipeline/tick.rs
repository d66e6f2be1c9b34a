//! A tick, step by step, and one tick after the other.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::Ordering,
    thread::sleep,
    time::{Duration, Instant},
};

use duet_core::{Error, Result, artifact::IfExists, config::Validation};
use duet_data::{
    dataset::Dataset,
    prepare::{HeldOut, prepare},
};
use serde_json::json;

use super::{
    PipelineOptions, clock,
    gate::Measured,
    place::Place,
    record::{self, Figures, Outcome, Record, Status, Step, StepRecord, figures},
};
use crate::{
    bundle::{EmbedOptions, embed},
    evaluate::{Baseline, EvaluateOptions, evaluate},
    reranker::{RerankOptions, train_reranker},
    run,
    train::{StopReason, TrainOptions, train},
    warm_start::WarmStart,
};

/// How often a waiting pipeline looks at the stop flag.
const LOOK: Duration = Duration::from_millis(200);

/// A work directory and what is done in it.
#[derive(Debug)]
pub struct Pipeline {
    options: PipelineOptions,
    place: Place,
}

/// A tick ended before it published; its record says how.
struct Ended;

impl Pipeline {
    /// Takes the work directory.
    ///
    /// # Errors
    /// [`Error::Input`] if another process works there, or nothing is to be held out for the evaluation or the trees.
    pub fn open(mut options: PipelineOptions) -> Result<Self> {
        if options.prepare.held_out == HeldOut::Nothing {
            return Err(Error::input("split.held_out is none, and the gate needs a held-out part: give days:7, say"));
        }
        if options.rerank && options.config.data.validation == Validation::None {
            return Err(Error::input(
                "data.validation is none, and --rerank needs a validation part: the trees learn from it; give auto, say",
            ));
        }
        options.prepare.update = true;
        let place = Place::open(&options.work)?;
        Ok(Self { options, place })
    }

    /// Ticks at once and then every `period`, counted from now, until stopped. `seen` gets every record; an error is one
    /// of keeping records. Whatever fails, the next tick comes.
    pub fn every(&self, period: Duration, mut seen: impl FnMut(&Result<Record>)) {
        let started = Instant::now();
        let mut number = 0;
        loop {
            while let Some(left) =
                clock::due(period, number).checked_sub(started.elapsed()).filter(|left| !left.is_zero())
            {
                if self.is_stopped() {
                    return;
                }
                sleep(left.min(LOOK));
            }
            if self.is_stopped() {
                return;
            }
            seen(&self.tick());
            let (next, missed) = clock::next_tick(started.elapsed(), period, number);
            if missed > 0 {
                tracing::warn!(missed, "the tick took longer than the period: ticks are left out");
            }
            number = next;
        }
    }

    fn is_stopped(&self) -> bool {
        self.options.stop.load(Ordering::Relaxed)
    }

    /// One tick. How it ended is in its record.
    ///
    /// # Errors
    /// [`Error::Io`] if the record can't be written; nothing is published then.
    pub fn tick(&self) -> Result<Record> {
        let mut record = self.place.start()?;
        let ended = self.steps(&mut record)?;
        if ended.is_ok() {
            record.outcome = Outcome::Published;
        }
        record.finished = Some(record::now());
        self.place.write(&record)?;
        // What is old is no reason to call a tick failed.
        if let Err(error) = self.place.retire(self.options.keep) {
            tracing::warn!(%error, "old runs and bundles could not be removed");
        }
        Ok(record)
    }

    fn steps(&self, record: &mut Record) -> Result<Result<(), Ended>> {
        let PipelineOptions { flush, prepare: prepare_options, rerank, device, gate, .. } = &self.options;
        let id = record.id.clone();
        let published = self.place.current();
        macro_rules! step {
            ($step:expr, $work:expr) => {
                match self.step(record, $step, $work)? {
                    Ok(value) => value,
                    Err(ended) => return Ok(Err(ended)),
                }
            };
        }
        if let Some(flush) = flush {
            step!(Step::Ingest, || flush().map(|figures| ((), figures)));
        }
        step!(Step::Prepare, || {
            let summary = prepare(prepare_options, &self.place.dataset(), IfExists::Replace)?;
            let counts = &summary.info.counts;
            Ok((
                (),
                figures([
                    ("days_read", json!(summary.days_read)),
                    ("days_kept", json!(summary.days_kept)),
                    ("users", json!(counts.users)),
                    ("items", json!(counts.items)),
                    ("events", json!(counts.events)),
                    ("test_events", json!(counts.test_events)),
                    ("split", json!(summary.info.split.parameters)),
                    ("lines", json!(summary.books.to_string())),
                ]),
            ))
        });
        step!(Step::Train, || self.train(&id, published.as_deref()));
        if *rerank {
            step!(Step::Rerank, || self.rerank(&id));
        }
        let measured = step!(Step::Evaluate, || {
            let report = evaluate(&EvaluateOptions {
                device: *device,
                baselines: Some(vec![Baseline::Popularity, Baseline::Trending]),
                ..EvaluateOptions::new(self.place.run(&id))
            })?;
            report.write(&self.place.evaluation(&id))?;
            let measured = Measured::of(&report)?;
            let mut found = figures([
                ("ndcg_at_10", json!(measured.ndcg)),
                ("popularity_ndcg_at_10", json!(measured.popularity)),
                ("users", json!(measured.users)),
            ]);
            found.extend(measured.boosted_trees.map(|ndcg| ("boosted_trees_ndcg_at_10".to_owned(), json!(ndcg))));
            Ok((measured, found))
        });
        record.ndcg_at_10 = Some(measured.ndcg);
        record.popularity_ndcg_at_10 = Some(measured.popularity);
        step!(Step::Embed, || {
            let summary = embed(&EmbedOptions {
                run: self.place.run(&id),
                out: self.place.bundle(&id),
                dataset: None,
                device: *device,
                overwrite: false,
            })?;
            Ok((
                (),
                figures([
                    ("users", json!(summary.users)),
                    ("items", json!(summary.items)),
                    ("index", json!(summary.index)),
                    ("recall_at_10", json!(summary.recall_at_10)),
                    ("recall_at_100", json!(summary.recall_at_100)),
                ]),
            ))
        });
        let before = published.as_deref().and_then(|id| self.place.record(id));
        step!(Step::Gate, || gate.check(&measured, before.as_ref()).map(|figures| ((), figures)));
        let target = step!(Step::Publish, || Ok((self.place.publish(&id)?, Figures::new())));
        record.published = Some(target);
        Ok(Ok(()))
    }

    /// Does a step and writes down what came of it. The outer error: the record can't be written.
    fn step<T>(
        &self,
        record: &mut Record,
        step: Step,
        work: impl FnOnce() -> Result<(T, Figures)>,
    ) -> Result<Result<T, Ended>> {
        // The last two take no time.
        if self.is_stopped() && !matches!(step, Step::Gate | Step::Publish) {
            record.outcome = Outcome::Interrupted;
            return Ok(Err(Ended));
        }
        let entry = StepRecord { step, status: Status::Running, seconds: 0.0, figures: Figures::new(), error: None };
        record.steps.push(entry);
        self.place.write(record)?;
        tracing::info!(id = record.id, step = step.as_str(), "step");
        let started = Instant::now();
        // A scheduler must outlive a bug in one of its steps.
        let result = catch_unwind(AssertUnwindSafe(work))
            .unwrap_or_else(|_| Err(Error::Internal(format!("the step {} panicked", step.as_str()))));
        let Some(entry) = record.steps.last_mut() else {
            return Err(Error::Internal("a step without an entry".into()));
        };
        entry.seconds = started.elapsed().as_secs_f64();
        let result = match result {
            Ok((value, figures)) => {
                entry.status = Status::Done;
                entry.figures = figures;
                Ok(value)
            }
            Err(error) => {
                let is_interrupted = matches!(error, Error::Interrupted(_));
                entry.status = if is_interrupted { Status::Interrupted } else { Status::Failed };
                entry.error = Some(error.to_string());
                record.outcome = match step {
                    _ if is_interrupted => Outcome::Interrupted,
                    Step::Gate => Outcome::Refused,
                    _ => Outcome::Failed,
                };
                Err(Ended)
            }
        };
        self.place.write(record)?;
        Ok(result)
    }

    fn train(&self, id: &str, published: Option<&str>) -> Result<((), Figures)> {
        let PipelineOptions { config, rerank, device, stop, .. } = &self.options;
        let out = self.place.run(id);
        let resumed = self.take_up(id)?;
        // The run may have been removed by hand; a training afresh needs none.
        let source = published.filter(|_| !rerank).map(|id| self.place.run(id)).filter(|run| run.exists());
        let summary = train(&TrainOptions {
            config: config.clone(),
            dataset: self.place.dataset(),
            out,
            device: *device,
            resume: resumed.is_some(),
            overwrite: false,
            warm_start: source.map(|run| WarmStart { run, or_fresh: true }),
            max_time: None,
            stop: stop.clone(),
        })?;
        if summary.stopped == StopReason::Interrupted {
            return Err(Error::Interrupted(format!("training, with a checkpoint in {}", summary.run.display())));
        }
        let warm = summary.warmed_from.as_ref();
        Ok((
            (),
            figures([
                ("epochs", json!(summary.epochs)),
                ("best_epoch", json!(summary.best_epoch)),
                ("validation_ndcg_at_10", json!(summary.validation_ndcg)),
                ("warmed_from", json!(warm.and_then(|warm| warm.run.file_name()?.to_str()))),
                ("items_taken_over", json!(warm.map(|warm| warm.items.kept))),
                ("items_new", json!(warm.map(|warm| warm.items.new))),
                ("began_afresh", json!(summary.began_afresh)),
                ("resumed_from", json!(resumed)),
                ("device", json!(summary.device)),
            ]),
        ))
    }

    fn rerank(&self, id: &str) -> Result<((), Figures)> {
        let made = train_reranker(&RerankOptions {
            run: self.place.run(id),
            dataset: None,
            device: self.options.device,
            settings: Vec::new(),
        })?;
        let info = &made.info;
        let held_out = info.held_out;
        Ok((
            (),
            figures([
                ("trees", json!(info.trees)),
                ("learned_from", json!(info.examples)),
                ("rows", json!(info.rows)),
                ("positives", json!(info.positives)),
                ("held_out_lists", json!(held_out.map(|held_out| held_out.lists))),
                ("held_out_model_ndcg_at_10", json!(held_out.map(|held_out| held_out.model_ndcg))),
                ("held_out_trees_ndcg_at_10", json!(held_out.map(|held_out| held_out.trees_ndcg))),
            ]),
        ))
    }

    /// Takes up the training of the tick before this one, if that was stopped or killed and data and configuration are the
    /// same. Returns that tick's id.
    fn take_up(&self, id: &str) -> Result<Option<String>> {
        let ids = self.place.record_ids()?;
        let Some(before) = ids.iter().rev().find(|other| other.as_str() != id) else { return Ok(None) };
        let is_unfinished = |record: Record| matches!(record.outcome, Outcome::Interrupted | Outcome::Died);
        let from = self.place.run(before);
        if !from.join("run.json").exists() || !self.place.record(before).is_some_and(is_unfinished) {
            return Ok(None);
        }
        let fingerprint = Dataset::open(&self.place.dataset())?.fingerprint;
        match run::read_records(&from) {
            Ok((config, info))
                if info.dataset_fingerprint == fingerprint
                    && !(self.options.rerank && info.warmed_from.is_some())
                    && config.clone().placed_as(&self.options.config) == self.options.config =>
            {
                let to = self.place.run(id);
                fs_err::rename(&from, &to).map_err(Error::io(&from))?;
                tracing::info!(from = before, "going on with the training of the tick before");
                Ok(Some(before.clone()))
            }
            _ => Ok(None),
        }
    }
}
