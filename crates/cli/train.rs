//! `duet train`, and the binary `train`.

use std::{io::Write, path::PathBuf, time::Duration};

use anyhow::Result;
use clap::Args;
use duet_model::device::DeviceChoice;
use duet_train::{
    train::{StopReason, TrainOptions, TrainSummary, train},
    warm_start::WarmStart,
};

use crate::{Outcome, configuration, interrupt, values};

/// Train a two-tower model on a dataset.
///
/// Ctrl-C stops after the current step and keeps a checkpoint; the same command with --resume goes on from it.
#[derive(Debug, Clone, Args)]
pub(crate) struct TrainArgs {
    /// The dataset, as `import` or `prepare` made it.
    #[arg(long, value_name = "DATASET")]
    data: PathBuf,
    /// Where the run goes: checkpoints, metrics, configuration.
    #[arg(long, value_name = "RUN")]
    out: PathBuf,
    /// Configuration; without one, the shipped one for the dataset's kind (sequences, sets or events).
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// Change one setting, e.g. --set model.dim=128. Repeatable.
    #[arg(long, value_name = "KEY=VALUE", value_parser = values::setting)]
    set: Vec<String>,
    /// Seed of everything random; short for --set train.seed=N.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// auto, cpu, ndarray, wgpu or wgpu:INDEX.
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    device: DeviceChoice,
    /// Stop after this long, with a checkpoint, e.g. 90s, 2m, 1h.
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    max_time: Option<Duration>,
    /// Go on from the last checkpoint of the run, if there is one.
    #[arg(long, conflicts_with = "overwrite")]
    resume: bool,
    /// Replace a run that is there.
    #[arg(long)]
    overwrite: bool,
    /// Begin with the parameters of another run, for the items, users and feature values it knew; then train.warm_epochs
    /// epochs on all events. The run may be of an older dataset.
    #[arg(long, value_name = "RUN")]
    warm_start: Option<PathBuf>,
}

pub(crate) fn run(args: &TrainArgs, out: &mut dyn Write) -> Result<Outcome> {
    let mut settings = args.set.clone();
    settings.extend(args.seed.map(|seed| format!("train.seed={seed}")));
    let options = TrainOptions {
        config: configuration::resolve(&args.data, args.config.as_deref(), &settings)?,
        dataset: args.data.clone(),
        out: args.out.clone(),
        device: args.device,
        resume: args.resume,
        overwrite: args.overwrite,
        warm_start: args.warm_start.clone().map(|run| WarmStart { run, or_fresh: false }),
        max_time: args.max_time,
        stop: interrupt::stop_flag(),
    };
    let summary = train(&options)?;
    writeln!(out, "{}: {}", args.out.display(), describe(&summary))?;
    Ok(outcome(&summary))
}

/// The result in one phrase.
pub(crate) fn describe(summary: &TrainSummary) -> String {
    let validation = summary.validation_ndcg.map_or_else(String::new, |ndcg| {
        format!(", best validation NDCG@10 {ndcg:.4} after epoch {}", summary.best_epoch)
    });
    let warm = summary.warmed_from.as_ref().map_or_else(String::new, |warmed| format!("; {warmed}"));
    format!(
        "{} epochs in {:.1} s on {} ({} rows/s, parameters {:.1} MiB), {}{validation}{warm}",
        summary.epochs,
        summary.seconds,
        summary.device,
        values::grouped(summary.rows_per_second.round() as u64),
        summary.parameter_bytes as f64 / f64::from(1 << 20),
        summary.stopped
    )
}

pub(crate) fn outcome(summary: &TrainSummary) -> Outcome {
    match summary.stopped {
        StopReason::Interrupted => Outcome::Interrupted,
        StopReason::Finished | StopReason::Patience | StopReason::MaxTime => Outcome::Done,
    }
}
