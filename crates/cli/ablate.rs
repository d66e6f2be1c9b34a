//! `duet ablate`.

use std::{io::Write, path::PathBuf, time::Duration};

use anyhow::Result;
use clap::Args;
use duet_core::Error;
use duet_model::device::DeviceChoice;
use duet_train::ablate::{AblateOptions, MARKDOWN_FILE, ablate};

use crate::{Outcome, configuration, interrupt, values};

/// Train a configuration and variants of it, several seeds each: which parts of it pay, with intervals.
///
/// Trains what is not trained yet and measures all of it on the test part: ablation.json and ablation.md have the settings of each row,
/// NDCG@10 and Recall@10 over the seeds, and the difference to the configuration as it is with a verdict. Finished trainings are kept
/// and taken over, so that a long table can be made in pieces.
#[derive(Debug, Clone, Args)]
pub(crate) struct AblateArgs {
    /// The dataset, with a held-out part.
    #[arg(long, value_name = "DATASET")]
    data: PathBuf,
    /// Where trainings and tables go, and where earlier ones are taken from; without it DATASET-ablation.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Rows to train: all, or some by name; those that they are compared with come too. See duet-train/src/ablate/rows.toml.
    #[arg(long, default_value = "all", value_name = "all|NAME,NAME")]
    rows: Rows,
    /// How many trainings of a row, with the seeds from 0 on.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Configuration to vary; without one, the shipped one for the dataset's kind.
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// Change one setting in all rows, e.g. --set model.dim=128. Repeatable.
    #[arg(long, value_name = "KEY=VALUE", value_parser = values::setting)]
    set: Vec<String>,
    /// At most this long for each training, e.g. 90s, 30m; the table marks what was cut short. More time later goes on.
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    max_time: Option<Duration>,
    /// Let items of a user's training part be recommended, and count them.
    #[arg(long)]
    keep_seen: bool,
    /// Bootstrap resamples behind the intervals.
    #[arg(long, default_value_t = 1000, value_name = "N")]
    resamples: usize,
    /// auto, cpu, ndarray, wgpu or wgpu:INDEX.
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    device: DeviceChoice,
}

/// Empty: all.
#[derive(Debug, Clone)]
struct Rows(Vec<String>);

impl std::str::FromStr for Rows {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Ok(match text {
            "all" => Self(Vec::new()),
            _ => Self(text.split(',').map(|name| name.trim().to_owned()).collect()),
        })
    }
}

pub(crate) fn run(args: &AblateArgs, out: &mut dyn Write) -> Result<Outcome> {
    let dir = match &args.out {
        Some(dir) => dir.clone(),
        None => {
            let data = std::path::absolute(&args.data).map_err(Error::io(&args.data))?;
            let name = data.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
            data.with_file_name(format!("{name}-ablation"))
        }
    };
    let options = AblateOptions {
        dataset: args.data.clone(),
        config: configuration::text(&args.data, args.config.as_deref())?,
        settings: args.set.clone(),
        rows: args.rows.0.clone(),
        seeds: args.seeds,
        max_time: args.max_time,
        out: dir.clone(),
        device: args.device,
        keep_seen: args.keep_seen,
        resamples: args.resamples,
        stop: interrupt::stop_flag(),
    };
    // Nobody listening is no reason to stop training: what is trained is kept.
    let found = ablate(&options, &mut |line| {
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    })?;
    writeln!(out, "\n{}", found.to_text())?;
    writeln!(out, "table: {}", dir.join(MARKDOWN_FILE).display())?;
    Ok(if found.interrupted { Outcome::Interrupted } else { Outcome::Done })
}
