//! The first recommender minus each of the others, over all users, warm and cold ones.

use duet_core::{Error, Result};
use duet_retrieval::{
    Evaluation,
    bootstrap::{Bootstrap, PairedDifference},
    evaluation::Segment,
};
use serde::Serialize;

use super::Protocol;

/// Whom a difference is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SegmentKind {
    /// Everybody measured.
    All,
    /// Users with training events.
    Warm,
    /// Users without.
    Cold,
}

impl SegmentKind {
    /// The name in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Warm => "warm",
            Self::Cold => "cold",
        }
    }

    /// The metrics of these users.
    pub fn of(self, evaluation: &Evaluation) -> &Segment {
        match self {
            Self::All => &evaluation.all,
            Self::Warm => &evaluation.warm,
            Self::Cold => &evaluation.cold,
        }
    }

    fn holds(self, cold: bool) -> bool {
        match self {
            Self::All => true,
            Self::Warm => !cold,
            Self::Cold => cold,
        }
    }
}

/// The two-tower minus another recommender, over the same users.
#[derive(Debug, Clone, Serialize)]
pub struct Difference {
    /// The other.
    pub against: String,
    /// Whom it is over.
    pub segment: SegmentKind,
    /// E.g. `recall@10`.
    pub metric: String,
    /// The difference with its interval.
    #[serde(flatten)]
    pub paired: PairedDifference,
}

/// Differences of the metrics of interest, by recommender, segment and metric.
///
/// # Errors
/// [`Error::Internal`] if the evaluations are over different users.
pub(super) fn differences(protocol: &Protocol, evaluations: &[Evaluation]) -> Result<Vec<Difference>> {
    let Some((first, others)) = evaluations.split_first() else { return Ok(Vec::new()) };
    let panel = &first.per_user.panel;
    if let Some(other) = others.iter().find(|other| !other.per_user.panel.has_users_of(panel)) {
        return Err(Error::Internal(format!("{} was measured on other users", other.recommender)));
    }
    // Where everybody is warm (or cold), that segment is all of them: nothing to say twice.
    let is_mixed = (1..protocol.users).contains(&protocol.cold_users);
    let segments = [SegmentKind::All, SegmentKind::Warm, SegmentKind::Cold];
    let segments = if is_mixed { &segments[..] } else { &segments[..1] };
    let metrics = protocol.metrics_of_interest();
    let mut found = Vec::new();
    for (at, &segment) in segments.iter().enumerate() {
        let chosen: Vec<bool> = panel.cases().iter().map(|case| segment.holds(case.cold)).collect();
        let mut columns: Vec<Vec<f32>> = Vec::with_capacity(evaluations.len() * metrics.len());
        for evaluation in evaluations {
            for metric in &metrics {
                let all = evaluation.per_user.column(metric)?.iter().zip(&chosen);
                columns.push(all.filter(|(_, chosen)| **chosen).map(|(value, _)| *value).collect());
            }
        }
        let slices: Vec<&[f32]> = columns.iter().map(Vec::as_slice).collect();
        let resampled = Bootstrap::new(&slices, first.resamples, first.seed)?;
        for (other, evaluation) in others.iter().enumerate() {
            for (metric, name) in metrics.iter().enumerate() {
                let difference = Difference {
                    against: evaluation.recommender.clone(),
                    segment,
                    metric: name.clone(),
                    paired: resampled.difference(metric, (other + 1) * metrics.len() + metric),
                };
                found.push(((other, at), difference));
            }
        }
    }
    found.sort_by_key(|(place, _)| *place);
    Ok(found.into_iter().map(|(_, difference)| difference).collect())
}
