//! `duet rerank`.

use std::{io::Write, path::PathBuf};

use anyhow::Result;
use clap::Args;
use duet_model::device::DeviceChoice;
use duet_train::{
    evaluate::Table,
    reranker::{RerankOptions, train_reranker},
};

use crate::{Outcome, values::grouped};

/// Features named.
const NAMED: usize = 10;

/// Train boosted trees that put a run's candidates in order: a challenger, and a second stage.
///
/// They learn from the validation part, with features as of before it, and are written as RUN/reranker. `evaluate` then measures them
/// beside the run, `embed` carries them into the bundle, `recommend --rerank` and `compare RUN RUN+reranker` use them.
#[derive(Debug, Clone, Args)]
pub(crate) struct RerankArgs {
    /// The run, as `train` made it, with a validation part.
    #[arg(long)]
    run: PathBuf,
    /// Where the dataset lies, if not where it was at training.
    #[arg(long, value_name = "DATASET")]
    dataset: Option<PathBuf>,
    /// A setting of the re-ranker, e.g. reranker.objective=lambda (see the section [reranker] of configs/default.toml). Repeatable.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// auto, cpu, ndarray, wgpu or wgpu:INDEX.
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    device: DeviceChoice,
}

pub(crate) fn run(args: &RerankArgs, out: &mut dyn Write) -> Result<Outcome> {
    let made = train_reranker(&RerankOptions {
        run: args.run.clone(),
        dataset: args.dataset.clone(),
        device: args.device,
        settings: args.set.clone(),
    })?;
    let info = &made.info;
    writeln!(
        out,
        "{}: {} trees from {} {} ({} wanted), in {:.1} s",
        made.dir.display(),
        info.trees,
        grouped(info.rows as u64),
        match info.examples.as_str() {
            "impressions" => "impressions",
            _ => "candidates of the model",
        },
        grouped(info.positives as u64),
        made.seconds
    )?;
    match info.held_out {
        Some(held_out) => writeln!(
            out,
            "NDCG@10 of {} lists of users held out: {:.4} by the model, {:.4} by the trees (as many trees as are best on these lists: \
             `evaluate` has the last word)",
            grouped(held_out.lists as u64),
            held_out.model_ndcg,
            held_out.trees_ndcg
        )?,
        None => writeln!(out, "no lists were left to hold out: all trees are kept")?,
    }
    let mut features: Vec<_> = info.features.iter().filter(|feature| feature.gain > 0.0).collect();
    features.sort_by(|a, b| b.gain.total_cmp(&a.gain));
    let total: f64 = features.iter().map(|feature| feature.gain).sum();
    let mut table = Table::new().text("feature").number("share of gain").text("unit");
    for feature in features.into_iter().take(NAMED) {
        let share = format!("{:.1} %", 100.0 * feature.gain / total);
        table.push([feature.feature.name.clone(), share, feature.feature.unit.to_string()]);
    }
    writeln!(out, "{}", table.to_text())?;
    Ok(Outcome::Done)
}
