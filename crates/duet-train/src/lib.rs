//! Training of duet's models and everything that is made from them: validation, checkpoints, vectors, bundles, evaluation.
//!
//! # Core concepts
//!
//! * [`train::train`]: dataset and configuration to a *run* directory ([`run`]), resumable at any moment.
//! * [`warm_start`]: the parameters of one run as the beginning of another.
//! * [`batcher::Batcher`]: training events to batches, a pure function of seed, epoch and number.
//! * [`bundle::embed`]: a run to a *bundle*: vectors, index, fallbacks, checked against exact search.
//! * [`retriever::Retriever`]: lists for users, from a run or a bundle. [`serving`]: a bundle read for a service.
//! * [`reranker`]: boosted trees as a second stage: features, training, use.
//! * [`pipeline`]: all of it on a schedule, from new events to a published bundle.
//! * [`champion`]: which bundle is the champion, by a link with a history.
//! * [`compare`](mod@compare): two recommenders on the same users, with a verdict.
//! * [`ablate`](mod@ablate): a configuration and variants of it in one table, several seeds each.
//! * [`evaluate`]: the run and the baselines in one table, full catalogue, with intervals.
//! * [`monitor`](mod@monitor): what served lists led to, and alarms with a stated rate of false ones.

pub mod ablate;
pub mod batcher;
pub mod bundle;
pub mod champion;
pub mod checkpoint;
pub mod compare;
pub mod embedding_pass;
pub mod evaluate;
pub mod examples;
mod interactions;
pub mod metrics_log;
pub mod monitor;
mod page;
pub mod pipeline;
mod pointer;
pub mod prior;
pub mod reranker;
pub mod retriever;
pub mod run;
pub mod schedule;
pub mod served;
pub mod serving;
pub mod train;
pub mod validation;
pub mod warm_start;
pub mod windows;
