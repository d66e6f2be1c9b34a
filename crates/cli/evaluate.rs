//! `duet evaluate`.

use std::{io::Write, path::PathBuf};

use anyhow::Result;
use clap::Args;
use duet_core::Error;
use duet_model::device::DeviceChoice;
use duet_retrieval::{EvaluationOptions, segments::FoldLimits};
use duet_train::evaluate::{Baseline, DEFAULT_MAX_GAP, EvaluateOptions, Report, evaluate};

use crate::{Outcome, values};

/// Measure a run on the held-out part of its dataset, beside baselines, with intervals.
///
/// Writes evaluation.json, evaluation.parquet (a row per recommender and user), report.html and report.md.
#[derive(Debug, Clone, Args)]
pub(crate) struct EvaluateArgs {
    /// The run, as `train` made it.
    #[arg(long)]
    run: PathBuf,
    /// Baselines: all that the dataset allows, none, or some of random, popularity, trending, decayed-popularity, item-knn,
    /// item-knn-tfidf, item-knn-bm25, content, ease, als, bpr, oracle.
    #[arg(long, default_value = "all", value_name = "all|none|A,B")]
    baselines: Baselines,
    /// Search the parameters of the baselines on the validation part first; without it they have published defaults.
    #[arg(long)]
    tune: bool,
    /// Another run on the same dataset for the same table, with the name it gets there. Repeatable.
    #[arg(long, value_name = "NAME=RUN", value_parser = named_run)]
    also: Vec<(String, PathBuf)>,
    /// Where the report goes, in place of an older one; without it RUN/evaluation.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Cut-offs of the metrics.
    #[arg(long, value_delimiter = ',', default_value = "10,20,100", value_name = "K,K", value_parser = values::positive)]
    k: Vec<usize>,
    /// Let items of a user's training part be recommended, and count them.
    #[arg(long)]
    keep_seen: bool,
    /// Where the dataset lies, if not where it was at training.
    #[arg(long, value_name = "DATASET")]
    dataset: Option<PathBuf>,
    /// Bootstrap resamples behind the intervals.
    #[arg(long, default_value_t = 1000, value_name = "N")]
    resamples: usize,
    /// Fewest users of a segment; smaller ones are put together, and the report says so.
    #[arg(long, default_value_t = 30, value_name = "USERS", value_parser = values::positive)]
    min_segment: usize,
    /// Raise an alarm in the report if NDCG@10 drops by more than this share from a sample of the training events to the
    /// validation part.
    #[arg(long, default_value_t = DEFAULT_MAX_GAP, value_name = "SHARE")]
    max_gap: f64,
    /// Seed of the bootstrap and of the random baseline.
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// auto, cpu, ndarray, wgpu or wgpu:INDEX.
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    device: DeviceChoice,
}

/// `None`: all that the dataset allows.
#[derive(Debug, Clone)]
struct Baselines(Option<Vec<Baseline>>);

impl std::str::FromStr for Baselines {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "all" => Ok(Self(None)),
            "none" => Ok(Self(Some(Vec::new()))),
            _ => text.split(',').map(|name| name.trim().parse()).collect::<Result<_, _>>().map(|list| Self(Some(list))),
        }
    }
}

fn named_run(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, run)) if !name.is_empty() && !run.is_empty() => Ok((name.to_owned(), run.into())),
        _ => Err("expected NAME=RUN".to_owned()),
    }
}

pub(crate) fn run(args: &EvaluateArgs, out: &mut dyn Write) -> Result<Outcome> {
    let mut ks = args.k.clone();
    ks.sort_unstable();
    ks.dedup();
    let report = evaluate(&EvaluateOptions {
        also: args.also.clone(),
        dataset: args.dataset.clone(),
        device: args.device,
        baselines: args.baselines.0.clone(),
        tune: args.tune,
        keep_seen: args.keep_seen,
        limits: FoldLimits { min_users: args.min_segment, ..FoldLimits::default() },
        max_gap: args.max_gap,
        options: EvaluationOptions { ks, resamples: args.resamples, seed: args.seed, ..EvaluationOptions::default() },
        ..EvaluateOptions::new(&args.run)
    })?;
    let place = args.out.clone().unwrap_or_else(|| args.run.join("evaluation"));
    report.write(&place)?;
    print(&report, out)?;
    writeln!(out, "report: {}", place.join("report.html").display())?;
    Ok(Outcome::Done)
}

/// The tables.
pub(crate) fn print(report: &Report, out: &mut dyn Write) -> Result<()> {
    Ok(writeln!(out, "{}", report.to_text())?)
}
