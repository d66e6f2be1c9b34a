//! Two recommenders on the same users: who is better, by how much, and for whom.

mod contender;

use std::path::PathBuf;

use duet_core::{Error, Result};
use duet_data::dataset::Dataset;
use duet_model::device::DeviceChoice;
use duet_retrieval::{
    Evaluation, EvaluationOptions,
    bootstrap::{Bootstrap, Interval},
    segments::FoldLimits,
    verdict::{Outcome, Verdict},
};
use serde::Serialize;

pub use self::contender::Contender;
use crate::evaluate::{
    DatasetFacts, MeasuredDivision, Table,
    groups::{Measures, correct, fold_notes, with_outcome},
    test_bed::TestBed,
    words::{display_metric, segment_lines, show, show_paired},
};

/// What to compare, and how.
#[derive(Debug, Clone)]
pub struct CompareOptions {
    /// The one that stands.
    pub a: Contender,
    /// The challenger.
    pub b: Contender,
    /// The dataset, if it is no longer where it was; needed where both are baselines.
    pub dataset: Option<PathBuf>,
    /// Where towers run.
    pub device: DeviceChoice,
    /// Rank, and count as truth, what the user had in training too.
    pub keep_seen: bool,
    /// The metric that decides, e.g. `ndcg@10`; without one, NDCG at the first cut-off.
    pub metric: Option<String>,
    /// How small segments may be.
    pub limits: FoldLimits,
    /// Cut-offs, resamples, seed.
    pub options: EvaluationOptions,
}

/// A metric of both, and what the difference says of the challenger.
#[derive(Debug, Clone, Serialize)]
pub struct Compared {
    /// Of the one that stands.
    pub a: Interval,
    /// Of the challenger.
    pub b: Interval,
    /// Challenger minus the other.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// The one that stands.
    pub a: Contender,
    /// The challenger.
    pub b: Contender,
    /// The dataset.
    pub dataset: DatasetFacts,
    /// Users compared.
    pub users: usize,
    /// Fewest users of a segment.
    pub min_segment_users: usize,
    /// The metric that decides.
    pub metric: String,
    /// All metrics over all users.
    pub metrics: Vec<Compared>,
    /// Both by segment; verdicts are of the challenger, corrected over all segments.
    pub segments: Vec<MeasuredDivision>,
    /// Segments for which the challenger is shown to be worse.
    pub worse_segments: usize,
    /// The verdict on the challenger over all users.
    pub outcome: Outcome,
}

/// Measures both on the held-out part of their dataset.
///
/// # Errors
/// [`Error::Input`] if the two are of different datasets, no dataset is named, the metric is unknown, or the dataset does not allow a
/// baseline; the errors of reading.
pub fn compare(options: &CompareOptions) -> Result<Comparison> {
    let CompareOptions { a, b, dataset, device, keep_seen, metric, limits, options } = options;
    let place = match (dataset, a.dataset()?, b.dataset()?) {
        (Some(place), ..) => place.clone(),
        (None, Some((place, _)), _) | (None, None, Some((place, _))) => place,
        (None, None, None) => {
            return Err(Error::input("two baselines have no dataset of their own: name one with --dataset"));
        }
    };
    let dataset = Dataset::open(&place)?;
    a.check(&dataset)?;
    b.check(&dataset)?;
    let bed = TestBed::new(dataset, *keep_seen, *limits, options.clone())?;
    for contender in [a, b] {
        if let Contender::Baseline(baseline) = contender {
            baseline.check(&bed.materials)?;
        }
    }
    let measure = |side: &Contender| bed.measure(side.load(&bed, *device, options.seed)?.as_ref());
    let mut evaluations = vec![measure(a)?, measure(b)?];
    // Names are what verdicts go by: the two sides must differ even if both are the same.
    for (evaluation, name) in evaluations.iter_mut().zip(["A", "B"]) {
        evaluation.recommender = name.to_owned();
    }
    let first = options.ks.first().copied().unwrap_or(10);
    let metric = metric.clone().unwrap_or_else(|| format!("ndcg@{first}"));
    let metrics = over_all(&evaluations)?;
    let Some(decisive) = metrics.iter().find(|compared| compared.verdict.metric == metric) else {
        return Err(Error::unknown("metric", &metric, metrics.iter().map(|compared| compared.verdict.metric.as_str())));
    };
    let outcome = decisive.verdict.outcome;
    let measures = Measures {
        evaluations: evaluations.iter().collect(),
        metrics: vec![metric.clone()],
        part_metric: format!("recall@{first}"),
        pairs: vec![(1, 0)],
    };
    let mut segments = bed.divisions.iter().map(|division| measures.users(division)).collect::<Result<Vec<_>>>()?;
    for (at, division) in bed.item_divisions.iter().enumerate() {
        segments.push(measures.items(at, division, limits.min_users)?);
    }
    correct(&mut segments);
    let worse_segments = with_outcome(&segments, Outcome::Worse).len();
    Ok(Comparison {
        a: a.clone(),
        b: b.clone(),
        dataset: DatasetFacts::new(&bed.dataset),
        users: bed.panel.len(),
        min_segment_users: limits.min_users,
        metric,
        metrics,
        segments,
        worse_segments,
        outcome,
    })
}

/// Every metric of both over all users, from one set of resamples.
fn over_all(evaluations: &[Evaluation]) -> Result<Vec<Compared>> {
    let [a, b] = evaluations else { return Err(Error::Internal("a comparison is of two".into())) };
    let names = &a.per_user.columns;
    let columns: Vec<&[f32]> = a.per_user.values.iter().chain(&b.per_user.values).map(Vec::as_slice).collect();
    let resampled = Bootstrap::new(&columns, a.resamples, a.seed)?;
    let compared = |(at, name): (usize, &String)| {
        let other = at + names.len();
        Compared {
            a: resampled.interval(at),
            b: resampled.interval(other),
            verdict: Verdict::alone(name, resampled.difference(other, at)),
        }
    };
    Ok(names.iter().enumerate().map(compared).collect())
}

impl Comparison {
    /// The verdict in a line.
    pub fn verdict(&self) -> String {
        let decisive = self.metrics.iter().find(|compared| compared.verdict.metric == self.metric);
        let verdict = decisive.map_or_else(String::new, |compared| compared.verdict.to_string());
        format!("B on {}: {verdict}", display_metric(&self.metric))
    }

    /// For a terminal.
    pub fn to_text(&self) -> String {
        let mut table = Table::new().text("metric").number("A [95 %]").number("B [95 %]").number("B minus A [95 %]");
        for Compared { a, b, verdict } in &self.metrics {
            let difference = show_paired(&verdict.paired);
            table.push([display_metric(&verdict.metric), show(*a), show(*b), difference]);
        }
        let mut lines = vec![
            format!("A  {}", self.a),
            format!("B  {}", self.b),
            format!("{} users of {}", self.users, self.dataset.dir.display()),
            String::new(),
            table.to_text(),
        ];
        let by_segment = segment_lines(&self.segments);
        lines.push("B by segment (corrected over all of them, Holm):".to_owned());
        lines.extend(by_segment.into_iter().map(|line| format!("  {line}")));
        let limits = FoldLimits { min_users: self.min_segment_users, ..FoldLimits::default() };
        lines.extend(fold_notes(&self.segments, limits).into_iter().map(|note| format!("  {note}")));
        lines.extend([String::new(), self.verdict()]);
        lines.join("\n")
    }
}
