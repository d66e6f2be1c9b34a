//! `duet prepare`.

use std::{io::Write, path::PathBuf, time::Instant};

use anyhow::Result;
use chrono::NaiveDate;
use clap::Args;
use duet_data::prepare::{HeldOut, PrepareOptions, PrepareSummary, QUALITY_FILE, QUARANTINE_FILE, prepare};

use crate::{
    Outcome, user_key,
    values::{grouped, if_exists},
};

/// Make a dataset of raw events, accounts and a catalogue, without leaks and without personal data.
///
/// Bad lines are put aside with their file, line and reason, never lost. User ids become keyed hashes.
#[derive(Debug, Clone, Args)]
pub(crate) struct PrepareArgs {
    /// A world made by `duet world`: short for its events, accounts, catalogue and truth.
    #[arg(long, value_name = "WORLD", conflicts_with_all = ["events", "accounts", "catalogue", "truth"])]
    world: Option<PathBuf>,
    /// A file of JSON lines, or a directory searched for *.jsonl, *.ndjson and *.json.
    #[arg(long, value_name = "PATH", required_unless_present = "world", requires_all = ["accounts", "catalogue"])]
    events: Option<PathBuf>,
    /// Accounts as CSV.
    #[arg(long, value_name = "FILE", requires = "events")]
    accounts: Option<PathBuf>,
    /// A directory with artists.csv, songs.csv and, where there is one, artist_daily.csv.
    #[arg(long, value_name = "DIR", requires = "events")]
    catalogue: Option<PathBuf>,
    /// The truth directory of a synthetic world, for the oracle in evaluations.
    #[arg(long, value_name = "DIR", requires = "events")]
    truth: Option<PathBuf>,
    /// File with the secret that turns user ids into pseudonyms (at least 16 bytes).
    #[arg(long, value_name = "FILE")]
    user_key: PathBuf,
    /// Make the key file, readable for its owner only, if it is not there.
    #[arg(long)]
    create_key: bool,
    /// Where the dataset goes.
    #[arg(long, value_name = "DATASET")]
    out: PathBuf,
    /// Replace a dataset that is there.
    #[arg(long)]
    overwrite: bool,
    /// Hold out the last N full days [default: 14].
    #[arg(long, value_name = "N", group = "held_out", help_heading = "Held-out part")]
    held_out_days: Option<u32>,
    /// Hold out everything from this day on.
    #[arg(long, value_name = "YYYY-MM-DD", group = "held_out", help_heading = "Held-out part")]
    held_out_from: Option<NaiveDate>,
    /// Hold out what comes after this share of the events, from the next midnight on.
    #[arg(long, value_name = "SHARE", group = "held_out", help_heading = "Held-out part")]
    held_out_quantile: Option<f64>,
    /// Drop so many full days before the held-out part: features and training end before them.
    #[arg(long, default_value_t = 0, value_name = "N", help_heading = "Held-out part")]
    gap_days: u32,
    /// Hold out events with artists the user had before, too (otherwise: discoveries only).
    #[arg(long, help_heading = "Held-out part")]
    repeats: bool,
    /// Ages at which a new bucket starts.
    #[arg(long, value_delimiter = ',', value_name = "AGE,AGE", help_heading = "Features")]
    age_edges: Option<Vec<u32>>,
    /// A place with fewer users is folded into the next larger one.
    #[arg(long, value_name = "N", help_heading = "Features")]
    min_users_per_place: Option<usize>,
}

impl PrepareArgs {
    fn options(&self) -> Result<PrepareOptions> {
        let key = user_key::read_or_create(&self.user_key, self.create_key)?;
        let mut options = match (&self.world, &self.events, &self.accounts, &self.catalogue) {
            (Some(world), ..) => PrepareOptions::for_world(world, key),
            (None, Some(events), Some(accounts), Some(catalogue)) => {
                PrepareOptions::new(events.clone(), accounts.clone(), catalogue.clone(), key)
            }
            _ => anyhow::bail!("give --world, or --events with --accounts and --catalogue"),
        };
        options.truth = options.truth.or_else(|| self.truth.clone());
        options.held_out = match (self.held_out_days, self.held_out_from, self.held_out_quantile) {
            (Some(days), ..) => HeldOut::LastDays(days),
            (_, Some(date), _) => HeldOut::From(date),
            (.., Some(quantile)) => HeldOut::Quantile(quantile),
            _ => options.held_out,
        };
        options.gap_days = self.gap_days;
        options.new_artists_only = !self.repeats;
        if let Some(edges) = &self.age_edges {
            options.age_edges.clone_from(edges);
        }
        options.min_users_per_place = self.min_users_per_place.unwrap_or(options.min_users_per_place);
        Ok(options)
    }
}

pub(crate) fn run(args: &PrepareArgs, out: &mut dyn Write) -> Result<Outcome> {
    let started = Instant::now();
    let summary = prepare(&args.options()?, &args.out, if_exists(args.overwrite))?;
    writeln!(out, "{}: {}, in {:.1} s", args.out.display(), describe(&summary), started.elapsed().as_secs_f64())?;
    writeln!(out, "{}", summary.quality)?;
    if summary.quality.quarantined_lines() > 0 {
        let reasons: Vec<String> =
            summary.quality.quarantined.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        writeln!(out, "put aside in {QUARANTINE_FILE}: {} (all counts: {QUALITY_FILE})", reasons.join(", "))?;
    }
    Ok(Outcome::Done)
}

/// What there is in the dataset, in one phrase.
pub(crate) fn describe(summary: &PrepareSummary) -> String {
    let counts = &summary.info.counts;
    format!(
        "{} users, {} {}s, {} training events, {} held-out events of {} users ({})",
        grouped(counts.users),
        grouped(counts.items),
        summary.info.item_kind,
        grouped(counts.events),
        grouped(counts.test_events),
        grouped(counts.test_users),
        summary.info.split.parameters
    )
}
