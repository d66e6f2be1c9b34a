//! Evaluation of a run: its two-tower beside the baselines, on the held-out part of its dataset.
//!
//! Everything ranks the whole catalogue under one protocol ([`duet_retrieval::evaluation`]): the same users, the same
//! excluded items, the same bootstrap resamples, so that differences can be taken in pairs.
//!
//! * [`test_cases`]: held-out events to test users. [`Baseline`]: what the model has to beat.
//! * The model is measured as it serves ([`ServedTwoTower`](crate::served::ServedTwoTower)): with the fallback for people it
//!   knows nothing about.
//! * [`Report`]: everything measured, as JSON, Parquet (per user), Markdown and one HTML page.

mod baseline;
mod case;
mod html;
mod report;
mod table;

use std::path::PathBuf;

use duet_core::{Error, Result};
use duet_model::device::DeviceChoice;
use duet_retrieval::{
    Evaluation, EvaluationOptions, Recommender,
    baselines::Interactions,
    evaluation::{self, CatalogueInfo},
};

pub use self::{
    baseline::Baseline,
    case::test_cases,
    report::{DatasetFacts, Difference, MAGIC, ModelFacts, Protocol, REPORT_FILES, Report, SegmentKind, VERSION},
    table::Table,
};
use crate::{retriever::Retriever, run::Run};

/// What to evaluate, against what, and how.
#[derive(Debug, Clone)]
pub struct EvaluateOptions {
    /// The run.
    pub run: PathBuf,
    /// Further runs on the same dataset with the names they get in the tables, e.g. ablations.
    pub also: Vec<(String, PathBuf)>,
    /// Where the dataset lies, if not where it was at training.
    pub dataset: Option<PathBuf>,
    /// Where the towers run.
    pub device: DeviceChoice,
    /// Baselines to put beside; `None` takes all that the dataset allows.
    pub baselines: Option<Vec<Baseline>>,
    /// Rank, and count as truth, what the user had in training too.
    pub keep_seen: bool,
    /// Cut-offs, resamples, seed.
    pub options: EvaluationOptions,
}

impl EvaluateOptions {
    /// The run against all baselines.
    pub fn new(run: impl Into<PathBuf>) -> Self {
        Self {
            run: run.into(),
            also: Vec::new(),
            dataset: None,
            device: DeviceChoice::default(),
            baselines: None,
            keep_seen: false,
            options: EvaluationOptions::default(),
        }
    }
}

/// Evaluates a run and the baselines. Nothing is written: see [`Report::write`].
///
/// # Errors
/// [`Error::Input`] for a dataset without a held-out part, for a baseline the dataset does not allow, and for a run
/// trained on another dataset; the errors of reading run and dataset.
pub fn evaluate(options: &EvaluateOptions) -> Result<Report> {
    let run = Run::open(&options.run, options.device)?;
    let dataset = run.dataset(options.dataset.as_deref())?;
    if dataset.info.counts.test_events == 0 {
        return Err(Error::input(format!(
            "{} has no held-out part, so there is nothing to evaluate on; import it again with --split (for instance \
             --split leave-last-out), train on that, and evaluate",
            dataset.dir.display()
        )));
    }
    let items = dataset.items()?;
    let timeline = dataset.timeline()?;
    let interactions = Interactions::new(&timeline.offsets, &timeline.items, &timeline.timestamps_ms, items.len())?;
    let popularity = interactions.popularity(i64::MIN);
    let cases = test_cases(&dataset.test()?, &timeline, &items.ids, options.keep_seen);
    if cases.is_empty() {
        return Err(Error::input(format!(
            "{}: nobody has a held-out {item} that was not in their training part; --keep-seen counts those too",
            dataset.dir.display(),
            item = dataset.info.item_kind
        )));
    }
    // Before anything slow: a baseline that can't be built is a mistake in the command.
    let oracle = dataset.oracle()?;
    let baselines = match &options.baselines {
        Some(baselines) => baselines.clone(),
        None => Baseline::possible(&dataset.info, oracle.is_some()),
    };
    for baseline in &baselines {
        baseline.check(&dataset.info, oracle.is_some())?;
    }

    let catalogue = CatalogueInfo { n_items: items.len(), popularity: &popularity };
    let measure = |recommender: &dyn Recommender| -> Result<Evaluation> {
        let evaluation = evaluation::evaluate(recommender, &cases, catalogue, &options.options)?;
        tracing::info!(recommender = evaluation.recommender, seconds = evaluation.seconds, "evaluated");
        Ok(evaluation)
    };
    let mut evaluations = Vec::new();
    evaluations.push(measure(&Retriever::from_run(&run, &dataset)?.into_served())?);
    for (name, dir) in &options.also {
        let other = Run::open(dir, options.device)?;
        if other.info.dataset_fingerprint != run.info.dataset_fingerprint {
            return Err(Error::input(format!(
                "{} was trained on another dataset than {}, so the two can't stand in one table",
                dir.display(),
                options.run.display()
            )));
        }
        evaluations.push(measure(&Retriever::from_run(&other, &dataset)?.into_served().named(name))?);
    }
    for baseline in &baselines {
        let recommender =
            baseline.build(&interactions, oracle.as_ref(), run.config.fallback.trending_days, options.options.seed)?;
        evaluations.push(measure(recommender.as_ref())?);
    }
    Report::new(
        DatasetFacts::new(&dataset),
        ModelFacts { run: options.run.clone(), config: run.config.clone(), weights: run.weights.clone() },
        Protocol::new(options, &cases, items.len()),
        evaluations,
    )
}
