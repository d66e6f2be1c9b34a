//! Training of duet's models and everything that is made from them: validation, checkpoints, vectors, bundles, evaluation.
//!
//! # Core concepts
//!
//! * [`train::train`]: dataset and configuration to a *run* directory ([`run`]), resumable at any moment.
//! * [`batcher::Batcher`]: training events to batches, a pure function of seed, epoch and number.
//! * [`bundle::embed`]: a run to a *bundle*: vectors, index, fallbacks, checked against exact search.
//! * [`retriever::Retriever`]: lists for users, from a run or a bundle.
//! * [`evaluate`]: the run and the baselines in one table, full catalogue, with intervals.

pub mod batcher;
pub mod bundle;
pub mod checkpoint;
pub mod embedding_pass;
pub mod evaluate;
pub mod examples;
pub mod metrics_log;
pub mod prior;
pub mod retriever;
pub mod run;
pub mod schedule;
pub mod served;
pub mod train;
pub mod validation;
pub mod windows;
