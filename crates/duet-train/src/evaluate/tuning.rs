//! A small search over a baseline's parameters, on the validation part: never on the test part.

use duet_core::{Result, config::Config};
use duet_data::dataset::{Dataset, Timeline};
use duet_retrieval::{EvaluationCase, evaluation::mean_ndcg};
use serde::Serialize;

use super::{
    baseline::{Baseline, Materials},
    parameters::Parameters,
};
use crate::{interactions::interactions, validation};

/// The cut-off of the NDCG that decides, whatever the report's cut-offs are.
const K: usize = 10;

/// What a search found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Tuned {
    /// Parameters tried.
    pub tried: usize,
    /// Validation users.
    pub users: usize,
    /// Validation NDCG@10 of the defaults.
    pub default_ndcg: f64,
    /// That of the chosen ones.
    pub ndcg: f64,
}

/// The training events without the validation part, and the validation part.
pub(super) struct TuningPart {
    timeline: Timeline,
    cases: Vec<EvaluationCase>,
    n_items: usize,
}

impl TuningPart {
    /// Cuts the part that training would cut.
    ///
    /// # Errors
    /// As [`validation::cases`].
    pub(super) fn new(dataset: &Dataset, timeline: &Timeline, config: &Config) -> Result<Self> {
        let (timeline, cases) = validation::cases(timeline, config, &dataset.info)?;
        Ok(Self { timeline, cases, n_items: dataset.info.counts.items as usize })
    }

    /// The best parameters found, from `defaults` on, one key after the other. `None` where there is nothing to choose.
    ///
    /// # Errors
    /// The errors of fitting. Parameters that can't be fitted here (a learning rate that diverges) lose.
    pub(super) fn tune(
        &self,
        baseline: Baseline,
        defaults: Parameters,
        materials: &Materials,
        seed: u64,
    ) -> Result<Option<(Parameters, Tuned)>> {
        if defaults.variations(0).is_empty() {
            return Ok(None);
        }
        let interactions = interactions(&self.timeline, self.n_items)?;
        let measure = |parameters: &Parameters| -> Result<f64> {
            let recommender = baseline.build(&interactions, materials, parameters, seed)?;
            mean_ndcg(recommender.as_ref(), &self.cases, K)
        };
        let default_ndcg = measure(&defaults)?;
        let (mut best, mut ndcg, mut tried) = (defaults, default_ndcg, 1);
        for stage in 0.. {
            let variations = best.variations(stage);
            if variations.is_empty() {
                break;
            }
            // What is best so far stands in its own grid and is not fitted again.
            let current = best;
            for parameters in variations.into_iter().filter(|parameters| *parameters != current) {
                tried += 1;
                let value = match measure(&parameters) {
                    Ok(value) => value,
                    Err(error) => {
                        tracing::info!(%baseline, %parameters, %error, "not fitted");
                        continue;
                    }
                };
                if value > ndcg {
                    (best, ndcg) = (parameters, value);
                }
            }
        }
        tracing::info!(%baseline, %best, tried, ndcg, default_ndcg, "tuned");
        Ok(Some((best, Tuned { tried, users: self.cases.len(), default_ndcg, ndcg })))
    }
}
