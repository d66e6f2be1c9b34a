//! `duet compare`.

use std::{io::Write, path::PathBuf};

use anyhow::Result;
use clap::Args;
use duet_model::device::DeviceChoice;
use duet_retrieval::{EvaluationOptions, segments::FoldLimits, verdict};
use duet_train::compare::{CompareOptions, Contender, compare};

use crate::{Outcome, values};

/// Compare two recommenders on the same users: metrics, paired intervals, segments, verdict.
///
/// Each is a bundle, a run, either with its re-ranker (BUNDLE+reranker), or a baseline by its name. Exit codes: 0 if B is not shown to be worse (better, or no difference shown); 3
/// if B is worse over all users, or with --strict for any segment; 1 for an error, 2 for wrong usage. Verdicts over segments are
/// corrected for there being many (Holm).
#[derive(Debug, Clone, Args)]
pub(crate) struct CompareArgs {
    /// The one that stands: a bundle, a run, or a baseline (see `evaluate --baselines`).
    #[arg(value_name = "A")]
    a: String,
    /// The challenger.
    #[arg(value_name = "B")]
    b: String,
    /// The dataset, if it is not where it was at training; needed for two baselines.
    #[arg(long, value_name = "DATASET")]
    dataset: Option<PathBuf>,
    /// Cut-offs of the metrics.
    #[arg(long, value_delimiter = ',', default_value = "10,20,100", value_name = "K,K", value_parser = values::positive)]
    k: Vec<usize>,
    /// The metric that decides, e.g. recall@20; without it, NDCG at the first cut-off.
    #[arg(long, value_name = "METRIC")]
    metric: Option<String>,
    /// A segment for which B is shown to be worse is reason enough for exit code 3.
    #[arg(long)]
    strict: bool,
    /// Let items of a user's training part be recommended, and count them.
    #[arg(long)]
    keep_seen: bool,
    /// Fewest users of a segment; smaller ones are put together.
    #[arg(long, default_value_t = 30, value_name = "USERS", value_parser = values::positive)]
    min_segment: usize,
    /// Bootstrap resamples behind the intervals.
    #[arg(long, default_value_t = 1000, value_name = "N")]
    resamples: usize,
    /// Seed of the bootstrap and of random baselines.
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// auto, cpu, ndarray, wgpu or wgpu:INDEX.
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    device: DeviceChoice,
}

pub(crate) fn run(args: &CompareArgs, out: &mut dyn Write) -> Result<Outcome> {
    let mut ks = args.k.clone();
    ks.sort_unstable();
    ks.dedup();
    let found = compare(&CompareOptions {
        a: Contender::find(&args.a)?,
        b: Contender::find(&args.b)?,
        dataset: args.dataset.clone(),
        device: args.device,
        keep_seen: args.keep_seen,
        metric: args.metric.clone(),
        limits: FoldLimits { min_users: args.min_segment, ..FoldLimits::default() },
        options: EvaluationOptions { ks, resamples: args.resamples, seed: args.seed, ..EvaluationOptions::default() },
    })?;
    let text = if args.json { serde_json::to_string_pretty(&found)? } else { found.to_text() };
    writeln!(out, "{text}")?;
    let is_worse = found.outcome == verdict::Outcome::Worse || (args.strict && found.worse_segments > 0);
    Ok(if is_worse { Outcome::Worse } else { Outcome::Done })
}
