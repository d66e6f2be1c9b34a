//! The second stage: boosted trees that put the model's candidates in order, by what the model's dot product can't see.
//!
//! * [`Knowledge`]: what is known of listeners and items; [`Knowledge::rows`] makes the features, the same code for training,
//!   evaluation and serving. [`Feature`]: their names, units and sources.
//! * [`train_reranker`]: trees for a run, written as `RUN/reranker/`. `embed` carries them into the bundle.
//! * [`BundleReranker`]: a bundle's trees for serving. [`RunReranker`]: those of a run, as a [`Rescorer`](duet_retrieval::rerank::Rescorer)
//!   to evaluate.
//!
//! # What the trees may see
//! Features are of one instant and know what happened on the days before it, nothing else. Where a validation part is cut by time, that
//! instant is the midnight after its last training event, and the labels are what came later; where each user's last event is cut, it
//! is the user's last event before. The model's score is that of parameters that have not been trained on the validation part (`best/`,
//! or `searched/` after a refit), over vectors of the training part alone: a model scores what it was trained on higher than what it
//! will be asked for, and trees that learned from such scores would trust them too much. The test part is never read.

mod day_counts;
mod features;
mod knowledge;
mod learn;
mod listener;
mod live;
mod saved;

pub use self::{
    features::Feature,
    knowledge::{Candidate, Instant, Knowledge},
    learn::{RerankOptions, RerankSummary, train_reranker},
    listener::RerankListener,
    live::{BOOSTED_TREES, BundleReranker, RunReranker},
    saved::{DIR, FeatureGain, HeldOut, MAGIC, RerankerInfo, SavedTrees, VERSION},
};

const DAY_MS: i64 = 86_400_000;

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
