//! `duet monitor`.

use std::{io::Write, path::PathBuf};

use anyhow::Result;
use chrono::NaiveDate;
use clap::Args;
use duet_train::monitor::{MonitorConfig, MonitorOptions, check_webhook, monitor, notify};

use crate::{Outcome, user_key, values};

/// Measure what served lists led to, and raise an alarm when it gets worse.
///
/// Click rate, completion, follows, churn and retention by variant, segment, position and bundle, with intervals; drift from the
/// training data; click rates watched for drops with a stated probability of ever raising a false alarm. Exit codes: 0 without an
/// alarm; 4 with one; 1 for an error, 2 for wrong usage. Formulas and guarantees: docs/monitoring.md.
#[derive(Debug, Clone, Args)]
pub(crate) struct MonitorArgs {
    /// Served-list log of `duet serve`: a directory or a file; may be given several times.
    #[arg(long, required = true, value_name = "DIR")]
    served: Vec<PathBuf>,
    /// Events: files of JSON lines, or directories of them (as the server's journal).
    #[arg(long, num_args = 1.., value_name = "PATH", required_unless_present = "raw")]
    events: Vec<PathBuf>,
    /// Events of a raw zone: a directory or s3://BUCKET/PREFIX.
    #[arg(long, value_name = "ZONE")]
    raw: Option<String>,
    /// The bundle that is served: segments, drift of features and of scores.
    #[arg(long, value_name = "BUNDLE")]
    bundle: Option<PathBuf>,
    /// The dataset, for segments, drift of features and lengths of songs; before those of the bundle.
    #[arg(long, value_name = "DATASET")]
    dataset: Option<PathBuf>,
    /// The evaluation of the bundle's run, for over-fitting [default: that of the same tick of `duet run`].
    #[arg(long, value_name = "PATH")]
    evaluation: Option<PathBuf>,
    /// File with the secret that turned user ids into pseudonyms, if events hold raw ids [default: the secret in DUET_USER_KEY].
    #[arg(long, value_name = "FILE")]
    user_key: Option<PathBuf>,
    /// First day (UTC) of the lists.
    #[arg(long, value_name = "DAY")]
    from: Option<NaiveDate>,
    /// Last day.
    #[arg(long, value_name = "DAY")]
    to: Option<NaiveDate>,
    /// Write monitor.json and monitor.html here.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// POST the alarms as JSON to this URL (http or https) if there are any.
    #[arg(long, value_name = "URL")]
    webhook: Option<String>,
    /// Configuration file; configs/monitor.toml says what can be in it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Change a setting, e.g. watch.alpha=0.01.
    #[arg(long, value_name = "KEY=VALUE", value_parser = values::setting)]
    set: Vec<String>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &MonitorArgs, out: &mut dyn Write) -> Result<Outcome> {
    let config = MonitorConfig::resolve(args.config.as_deref(), &args.set)?;
    if let Some(url) = &args.webhook {
        check_webhook(url)?;
    }
    let options = MonitorOptions {
        served: args.served.clone(),
        events: args.events.clone(),
        raw: args.raw.clone(),
        bundle: args.bundle.clone(),
        dataset: args.dataset.clone(),
        evaluation: args.evaluation.clone(),
        user_key: user_key::find(args.user_key.as_deref())?,
        from: args.from,
        to: args.to,
        config,
    };
    let report = monitor(&options)?;
    if let Some(dir) = &args.out {
        report.write(dir)?;
    }
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        write!(out, "{}", report.to_text())?;
    }
    if report.alarms.is_empty() {
        return Ok(Outcome::Done);
    }
    // An alarm that can't be passed on is an alarm all the same.
    if let Some(url) = &args.webhook
        && let Err(error) = notify(&report, url, &options.config.webhook)
    {
        eprintln!("warning: {error}");
    }
    Ok(Outcome::Alarm)
}
