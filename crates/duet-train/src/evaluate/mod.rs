//! Evaluation of a run: its two-tower beside the baselines, on the held-out part of its dataset.
//!
//! Everything ranks the whole catalogue under one protocol ([`duet_retrieval::evaluation`]): the same users, the same
//! excluded items, the same bootstrap resamples, so that differences can be taken in pairs.
//!
//! * [`test_cases`]: held-out events to test users. [`Baseline`]: what the model has to beat.
//! * The model is measured as it serves ([`ServedTwoTower`](crate::served::ServedTwoTower)): with the fallback for people it
//!   knows nothing about.
//! * Where the run has a re-ranker, the two stages together are a challenger with a row of their own
//!   ([`RunReranker`]).
//! * For whom it is better or worse ([`Segments`]), what new users and items get ([`ColdStart`]), who is shown ([`ExposureRow`]),
//!   whether it learned by heart ([`FitGap`]), whether its scores go with clicks.
//! * [`Report`]: everything measured, as JSON, Parquet (per user), Markdown and one HTML page.

mod baseline;
mod case;
mod clicks;
mod cold_start;
mod divisions;
mod examples;
mod exposure;
mod fit_gap;
mod future;
pub(crate) mod groups;
mod learning;
mod page;
mod parameters;
mod report;
mod table;
pub(crate) mod test_bed;
mod tuning;
pub(crate) mod words;

use std::{path::PathBuf, time::Instant};

use duet_core::{Error, Result};
use duet_model::device::DeviceChoice;
use duet_retrieval::{
    Evaluation, EvaluationOptions, rerank::Reranked, search::VectorSearch, segments::FoldLimits,
    unit_vectors::UnitVectors,
};

pub use self::{
    baseline::{Baseline, Materials},
    case::test_cases,
    cold_start::ColdStart,
    exposure::{ExposureRow, ShownShare},
    fit_gap::{DEFAULT_MAX_GAP, FitGap, FitPart},
    groups::{Divided, GroupDifference, GroupScore, MeasuredDivision, MeasuredGroup},
    parameters::Parameters,
    report::{
        BaselineFacts, DatasetFacts, Difference, ExampleList, Findings, LearningPoint, MAGIC, ModelFacts, Protocol,
        REPORT_FILES, Report, SegmentKind, Segments, VERSION,
    },
    table::Table,
    tuning::Tuned,
};
use self::{
    groups::{Measures, correct},
    test_bed::TestBed,
    tuning::TuningPart,
};
use crate::{
    reranker::{BOOSTED_TREES, RunReranker},
    retriever::Retriever,
    run::Run,
};

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
    /// How small segments may be.
    pub limits: FoldLimits,
    /// The largest drop from training sample to validation without an alarm, as a share.
    pub max_gap: f64,
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
            limits: FoldLimits::default(),
            max_gap: DEFAULT_MAX_GAP,
            options: EvaluationOptions::default(),
        }
    }
}

/// Vectors that tell how alike two items are.
pub(crate) const BY_FEATURES: &str = "the item features";
const BY_EMBEDDINGS: &str = "the run's item embeddings";

/// Evaluates a run and the baselines. Nothing is written: see [`Report::write`].
///
/// # Errors
/// [`Error::Input`] for a dataset without a held-out part, for a baseline the dataset does not allow, and for a run
/// trained on another dataset; the errors of reading run and dataset.
pub fn evaluate(options: &EvaluateOptions) -> Result<Report> {
    let run = Run::open(&options.run, options.device)?;
    let dataset = run.dataset(options.dataset.as_deref())?;
    let mut bed = TestBed::new(dataset, options.keep_seen, options.limits, options.options.clone())?;
    // Before anything slow: a baseline that can't be built is a mistake in the command.
    let baselines = match &options.baselines {
        Some(baselines) => baselines.clone(),
        None => Baseline::possible(&bed.materials),
    };
    for baseline in &baselines {
        baseline.check(&bed.materials)?;
    }
    let tuning = if options.tune { Some(TuningPart::new(&bed.dataset, &bed.timeline, &run.config)?) } else { None };

    let served = Retriever::from_run(&run, &bed.dataset)?.into_served();
    let mut diversity_by = bed.vectors.as_ref().map(|_| BY_FEATURES);
    if bed.vectors.is_none() {
        bed.vectors = Some(UnitVectors::directions(served.model().search().vectors(), run.config.model.dim));
        diversity_by = Some(BY_EMBEDDINGS);
    }
    let mut evaluations = vec![bed.measure(&served)?];
    for (name, dir) in &options.also {
        let other = Run::open(dir, options.device)?;
        if other.info.dataset_fingerprint != run.info.dataset_fingerprint {
            return Err(Error::input(format!(
                "{} was trained on another dataset than {}, so the two can't stand in one table",
                dir.display(),
                options.run.display()
            )));
        }
        evaluations.push(bed.measure(&Retriever::from_run(&other, &bed.dataset)?.into_served().named(name))?);
    }
    let trees = RunReranker::of_run(&run, &bed.dataset, &served)?;
    if let Some(trees) = &trees {
        evaluations.push(bed.measure(&Reranked::new(BOOSTED_TREES, &served, trees, trees.candidates())?)?);
    }
    let seed = options.options.seed;
    let mut facts = Vec::with_capacity(baselines.len());
    for &baseline in &baselines {
        let mut parameters = Parameters::of(baseline, run.config.fallback.trending_days, seed);
        let mut tuned = None;
        if let Some(part) = &tuning
            && let Some((best, found)) = part.tune(baseline, parameters, &bed.materials, seed)?
        {
            (parameters, tuned) = (best, Some(found));
        }
        let started = Instant::now();
        let recommender = bed.fit(baseline, &parameters, seed)?;
        let fit_seconds = started.elapsed().as_secs_f64();
        evaluations.push(bed.measure(recommender.as_ref())?);
        facts.push(BaselineFacts { name: baseline.as_str(), parameters, tuned, fit_seconds });
    }
    let protocol = Protocol::new(options, &bed.panel, bed.items.len(), diversity_by);
    let first_baseline = 1 + options.also.len() + usize::from(trees.is_some());
    let test = fit_part(&evaluations);
    let findings = Findings {
        segments: segments(&bed, &evaluations, first_baseline, &protocol)?,
        cold_start: cold_start(&bed, &evaluations, &protocol)?,
        exposure: exposure::exposure(&bed.item_divisions[0], &bed.popularity, &evaluations),
        fit_gap: FitGap::measure(
            &run,
            &bed.dataset,
            &bed.timeline,
            served.model(),
            test,
            options.max_gap,
            &options.options,
        )?,
        calibration: clicks::click_calibration(&bed.dataset, served.model())?,
        learning: learning::learning(&options.run),
        examples: examples::examples(&served, &bed.panel, &bed.items)?,
    };
    Report::new(
        DatasetFacts::new(&bed.dataset),
        ModelFacts { run: options.run.clone(), config: run.config.clone(), weights: run.weights.clone() },
        protocol,
        facts,
        evaluations,
        findings,
    )
}

fn measures<'a>(evaluations: &'a [Evaluation], protocol: &Protocol) -> Measures<'a> {
    let [ndcg, recall] = protocol.metrics_of_interest();
    Measures {
        evaluations: evaluations.iter().collect(),
        metrics: vec![ndcg, recall.clone()],
        part_metric: recall,
        pairs: Vec::new(),
    }
}

/// The run beside the best baseline, segment by segment.
fn segments(bed: &TestBed, evaluations: &[Evaluation], first_baseline: usize, protocol: &Protocol) -> Result<Segments> {
    let metric = &protocol.metrics_of_interest()[0];
    let ndcg = |at: usize| evaluations[at].all.metric(metric).map_or(0.0, |interval| interval.mean);
    let is_rival = |at: &usize| !matches!(evaluations[*at].recommender.as_str(), "random" | "oracle");
    let best = (first_baseline..evaluations.len()).filter(is_rival).max_by(|&a, &b| ndcg(a).total_cmp(&ndcg(b)));
    let measures = Measures {
        evaluations: [Some(0), best].into_iter().flatten().map(|at| &evaluations[at]).collect(),
        pairs: best.map(|_| (0, 1)).into_iter().collect(),
        ..measures(evaluations, protocol)
    };
    let mut divisions = bed.divisions.iter().map(|division| measures.users(division)).collect::<Result<Vec<_>>>()?;
    // The last division of the items belongs to the cold start.
    let last = bed.item_divisions.len() - 1;
    for (at, division) in bed.item_divisions[..last].iter().enumerate() {
        divisions.push(measures.items(at, division, protocol.min_segment_users)?);
    }
    correct(&mut divisions);
    Ok(Segments { against: best.map(|at| evaluations[at].recommender.clone()), divisions })
}

fn cold_start(bed: &TestBed, evaluations: &[Evaluation], protocol: &Protocol) -> Result<ColdStart> {
    let last = bed.item_divisions.len() - 1;
    ColdStart::new(evaluations, &measures(evaluations, protocol), &bed.history, (last, &bed.item_divisions[last]))
}

/// The test part of the over-fitting gap: users with training events, as in the other parts.
fn fit_part(evaluations: &[Evaluation]) -> Option<FitPart> {
    let warm = |evaluation: &Evaluation| evaluation.warm.metric("ndcg@10");
    let own = evaluations.first()?;
    let popularity = evaluations.iter().find(|evaluation| evaluation.recommender == Baseline::Popularity.as_str());
    Some(FitPart { users: own.warm.users, ndcg: warm(own)?, popularity: warm(popularity?)?.mean })
}
