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
mod parameters;
mod report;
mod table;
mod tuning;

use std::{path::PathBuf, time::Instant};

use duet_core::{Error, Result};
use duet_model::device::DeviceChoice;
use duet_retrieval::{
    Evaluation, EvaluationOptions, Recommender,
    baselines::Interactions,
    evaluation::{self, CatalogueInfo},
};

use self::tuning::TuningPart;
pub use self::{
    baseline::{Baseline, Materials},
    case::test_cases,
    parameters::Parameters,
    report::{
        BaselineFacts, DatasetFacts, Difference, MAGIC, ModelFacts, Protocol, REPORT_FILES, Report, SegmentKind,
        VERSION,
    },
    table::Table,
    tuning::Tuned,
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
    /// Choose the parameters of the baselines on the validation part.
    pub tune: bool,
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
            tune: false,
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
    let materials = Materials::new(&dataset, &timeline)?;
    let baselines = match &options.baselines {
        Some(baselines) => baselines.clone(),
        None => Baseline::possible(&materials),
    };
    for baseline in &baselines {
        baseline.check(&materials)?;
    }
    let tuning = if options.tune { Some(TuningPart::new(&dataset, &timeline, &run.config)?) } else { None };

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
    let seed = options.options.seed;
    let mut facts = Vec::with_capacity(baselines.len());
    for &baseline in &baselines {
        let mut parameters = Parameters::of(baseline, run.config.fallback.trending_days, seed);
        let mut tuned = None;
        if let Some(part) = &tuning
            && let Some((best, found)) = part.tune(baseline, parameters, &materials, seed)?
        {
            (parameters, tuned) = (best, Some(found));
        }
        let started = Instant::now();
        let recommender = baseline.build(&interactions, &materials, &parameters, seed)?;
        let fit_seconds = started.elapsed().as_secs_f64();
        evaluations.push(measure(recommender.as_ref())?);
        facts.push(BaselineFacts { name: baseline.as_str(), parameters, tuned, fit_seconds });
    }
    Report::new(
        DatasetFacts::new(&dataset),
        ModelFacts { run: options.run.clone(), config: run.config.clone(), weights: run.weights.clone() },
        Protocol::new(options, &cases, items.len()),
        facts,
        evaluations,
    )
}
