//! What a bundle must reach to be published.

use duet_core::{Error, Result};
use duet_retrieval::Evaluation;
use serde_json::json;

use super::record::{Figures, Record, figures};
use crate::{
    evaluate::{Baseline, Report},
    reranker::BOOSTED_TREES,
    served::TWO_TOWER,
};

/// The metric that decides.
const METRIC: &str = "ndcg@10";

/// Limits of NDCG@10 over all test users. (The index has a limit of its own: `index.recall_floor`.)
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gate {
    /// Least gain over popularity on the same users, as a share of popularity's. -1: no limit.
    pub min_gain: f64,
    /// Largest drop below the published run's, each on its own test days, as a share of it. 1: no limit.
    pub max_drop: f64,
}

impl Default for Gate {
    fn default() -> Self {
        Self { min_gain: 0.0, max_drop: 0.1 }
    }
}

/// What the evaluation of a tick found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Measured {
    pub(super) ndcg: f64,
    pub(super) popularity: f64,
    /// Of the run's trees, where it has any; the gate asks for nothing of them.
    pub(super) boosted_trees: Option<f64>,
    pub(super) users: usize,
}

impl Measured {
    pub(super) fn of(report: &Report) -> Result<Self> {
        let find = |name: &str| {
            let is_named = |evaluation: &&Evaluation| {
                evaluation.recommender == name || evaluation.recommender.replace('_', "-") == name
            };
            let found = report.evaluations.iter().find(is_named).and_then(|evaluation| evaluation.all.metric(METRIC));
            found.map(|interval| interval.mean)
        };
        let needed = |name: &str| find(name).ok_or_else(|| Error::Internal(format!("no {METRIC} of {name}")));
        Ok(Self {
            ndcg: needed(TWO_TOWER)?,
            popularity: needed(Baseline::Popularity.as_str())?,
            boosted_trees: find(BOOSTED_TREES),
            users: report.protocol.users,
        })
    }
}

impl Gate {
    /// Holds `measured` against the limits, and against the tick of the published bundle.
    ///
    /// # Errors
    /// [`Error::Input`] naming the limit that is broken.
    pub(super) fn check(&self, measured: &Measured, published: Option<&Record>) -> Result<Figures> {
        let Measured { ndcg, popularity, .. } = *measured;
        let least = popularity * (1.0 + self.min_gain);
        if ndcg < least {
            return Err(Error::input(format!(
                "NDCG@10 {ndcg:.4} is below {least:.4}: popularity has {popularity:.4}, and --min-gain is {}",
                self.min_gain
            )));
        }
        let before = published.and_then(|record| Some((&record.id, record.ndcg_at_10?)));
        if let Some((id, before)) = before {
            let least = before * (1.0 - self.max_drop);
            if ndcg < least {
                return Err(Error::input(format!(
                    "NDCG@10 {ndcg:.4} is below {least:.4}: {id}, which is published, has {before:.4}, and --max-drop is {}",
                    self.max_drop
                )));
            }
        }
        Ok(figures([
            ("over_popularity", json!(ndcg / popularity - 1.0)),
            ("compared_with", json!(before.map(|(id, _)| id))),
            ("over_published", json!(before.map(|(_, before)| ndcg / before - 1.0))),
        ]))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn limits_are_held() {
        let measured = |ndcg: f64| Measured { ndcg, popularity: 0.05, boosted_trees: None, users: 10 };
        let published = |ndcg: f64| Record { ndcg_at_10: Some(ndcg), ..Record::start("then".into()) };
        let gate = Gate::default();
        gate.check(&measured(0.05), None).unwrap();
        let error = gate.check(&measured(0.049), None).unwrap_err().to_string();
        assert!(error.contains("popularity has 0.0500") && error.contains("--min-gain"), "{error}");
        gate.check(&measured(0.0901), Some(&published(0.1))).unwrap();
        let error = gate.check(&measured(0.0899), Some(&published(0.1))).unwrap_err().to_string();
        assert!(error.contains("then") && error.contains("--max-drop"), "{error}");
        Gate { min_gain: -1.0, max_drop: 1.0 }.check(&measured(0.0), Some(&published(0.1))).unwrap();
    }
}
