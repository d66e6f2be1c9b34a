//! `duet embed`, and the binary `embed`.

use std::{io::Write, path::PathBuf};

use anyhow::Result;
use clap::Args;
use duet_model::device::DeviceChoice;
use duet_train::bundle::{EmbedOptions, EmbedSummary, embed};

use crate::{Outcome, values::grouped};

/// Turn a run into a bundle that can be served: vectors, index, fallback.
///
/// The index is measured against exact search first; below the configured recall nothing is published.
#[derive(Debug, Clone, Args)]
pub(crate) struct EmbedArgs {
    /// The run, as `train` made it.
    #[arg(long)]
    run: PathBuf,
    /// Where the bundle goes.
    #[arg(long, value_name = "BUNDLE")]
    out: PathBuf,
    /// Where the dataset lies, if not where it was at training.
    #[arg(long, value_name = "DATASET")]
    dataset: Option<PathBuf>,
    /// auto, cpu, ndarray, wgpu or wgpu:INDEX.
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    device: DeviceChoice,
    /// Replace a bundle that is there.
    #[arg(long)]
    overwrite: bool,
}

pub(crate) fn run(args: &EmbedArgs, out: &mut dyn Write) -> Result<Outcome> {
    let summary = embed(&EmbedOptions {
        run: args.run.clone(),
        out: args.out.clone(),
        dataset: args.dataset.clone(),
        device: args.device,
        overwrite: args.overwrite,
    })?;
    writeln!(out, "{}: {}", args.out.display(), describe(&summary))?;
    Ok(Outcome::Done)
}

/// The result in one phrase.
pub(crate) fn describe(summary: &EmbedSummary) -> String {
    format!(
        "{} users and {} items, {} index with recall@10 {:.4} and recall@100 {:.4} of exact search, in {:.1} s",
        grouped(summary.users as u64),
        grouped(summary.items as u64),
        summary.index,
        summary.recall_at_10,
        summary.recall_at_100,
        summary.seconds
    )
}
