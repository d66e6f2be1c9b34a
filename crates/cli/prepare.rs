//! `duet prepare`.

use std::{io::Write, path::PathBuf, time::Instant};

use anyhow::Result;
use chrono::NaiveDate;
use clap::Args;
use duet_core::Error;
use duet_data::{
    accounts::{AccountSource, Connection, PostgresSource},
    dataset::{DatasetInfo, SONGS_DIR},
    prepare::{
        DayRange, EventSource, PrepareConfig, PrepareOptions, PrepareSummary, QUALITY_FILE, QUALITY_PAGE,
        QUARANTINE_DIR, prepare,
    },
    store::Location,
};

use crate::{
    Outcome, engine, user_key,
    values::{grouped, if_exists},
};

/// Make a dataset of raw events, accounts and a catalogue, without leaks and without personal data.
///
/// The dataset's items are artists; in its folder songs/ lies another one of the same users whose items are songs. Bad lines are
/// put aside with their file, line and reason, never lost. User ids become keyed hashes, coordinates places that many share, birth
/// dates age buckets. Everything else is set in a configuration: see configs/prepare.toml.
#[derive(Debug, Clone, Args)]
pub(crate) struct PrepareArgs {
    #[command(flatten)]
    sources: SourceArgs,
    /// Where the dataset goes.
    #[arg(long, value_name = "DATASET")]
    out: PathBuf,
    /// Replace a dataset that is there.
    #[arg(long, conflicts_with = "update")]
    overwrite: bool,
    /// Add to the dataset that is there: only days whose raw lines changed are read, the others are taken over.
    #[arg(long)]
    update: bool,
    /// First day to read; those before stay as they are (implies --update).
    #[arg(long, value_name = "YYYY-MM-DD", conflicts_with = "overwrite")]
    from: Option<NaiveDate>,
    /// Last day to read; those after stay as they are (implies --update).
    #[arg(long, value_name = "YYYY-MM-DD", conflicts_with = "overwrite")]
    to: Option<NaiveDate>,
}

/// Where events, accounts and catalogue lie, and the settings: the same for every command that prepares.
#[derive(Debug, Clone, Args)]
pub(crate) struct SourceArgs {
    /// A world made by `duet world`: short for its events, accounts, catalogue and truth.
    #[arg(long, value_name = "WORLD", conflicts_with_all = ["events", "raw", "accounts", "catalogue", "truth"])]
    world: Option<PathBuf>,
    /// Raw zone written by `duet ingest`: a directory, or s3://, gs://, az:// with bucket and prefix.
    #[arg(long, value_name = "ZONE", conflicts_with = "events", requires_all = ["accounts", "catalogue"])]
    pub(crate) raw: Option<String>,
    /// A file of JSON lines, or a directory searched for *.jsonl, *.ndjson and *.json.
    #[arg(long, value_name = "PATH", requires_all = ["accounts", "catalogue"])]
    events: Option<PathBuf>,
    /// Accounts: a CSV file, a postgres:// URL, or "postgres" for the server that the PG* variables name.
    #[arg(long, value_name = "SOURCE")]
    accounts: Option<String>,
    /// A directory with artists.csv, songs.csv and, where there is one, artist_daily.csv.
    #[arg(long, value_name = "DIR")]
    catalogue: Option<PathBuf>,
    /// The truth directory of a synthetic world, for the oracle in evaluations.
    #[arg(long, value_name = "DIR")]
    truth: Option<PathBuf>,
    /// Who parses and sorts raw lines: embedded, or ballista://HOST:PORT (a cluster; needs --raw).
    #[arg(long, default_value = engine::EMBEDDED, value_name = "ENGINE")]
    engine: String,
    #[command(flatten)]
    key: user_key::KeyArgs,
    /// Settings; see configs/prepare.toml.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Change a setting, as in --set split.held_out=days:7.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) settings: Vec<String>,
}

impl SourceArgs {
    pub(crate) fn options(&self) -> Result<PrepareOptions> {
        let config = PrepareConfig::load(self.config.as_deref(), &self.settings)?;
        let key = self.key.read()?;
        let mut options = match (&self.world, &self.accounts, &self.catalogue) {
            (Some(world), ..) => PrepareOptions::for_world(world, key),
            (None, Some(accounts), Some(catalogue)) => {
                let events = match (&self.raw, &self.events) {
                    (Some(zone), _) => EventSource::Zone(Location::parse(zone)?),
                    (None, Some(path)) => EventSource::Files(path.clone()),
                    (None, None) => return Err(missing()),
                };
                PrepareOptions::new(events, accounts_at(accounts, &config)?, catalogue.clone(), key)
            }
            _ => return Err(missing()),
        };
        options.truth = options.truth.or_else(|| self.truth.clone());
        options.engine = engine::parse(&self.engine)?;
        config.apply(&mut options)?;
        Ok(options)
    }
}

fn missing() -> anyhow::Error {
    Error::input("give --world, or --raw or --events with --accounts and --catalogue").into()
}

/// A URL, the word "postgres", or a file.
fn accounts_at(source: &str, config: &PrepareConfig) -> Result<AccountSource> {
    let is_url = ["postgres://", "postgresql://"].iter().any(|scheme| source.starts_with(scheme));
    if !is_url && source != "postgres" {
        return Ok(AccountSource::Csv(PathBuf::from(source)));
    }
    let mut postgres = PostgresSource::new(Connection::new(is_url.then_some(source))?);
    (postgres.table, postgres.columns) = config.account_table()?;
    Ok(AccountSource::Postgres(Box::new(postgres)))
}

pub(crate) fn run(args: &PrepareArgs, out: &mut dyn Write) -> Result<Outcome> {
    let started = Instant::now();
    let mut options = args.sources.options()?;
    options.update = args.update || args.from.is_some() || args.to.is_some();
    options.days = DayRange { from: args.from, to: args.to };
    let summary = prepare(&options, &args.out, if_exists(args.overwrite))?;
    writeln!(out, "{}: {}, in {:.1} s", args.out.display(), describe(&summary), started.elapsed().as_secs_f64())?;
    writeln!(out, "{}: {}", args.out.join(SONGS_DIR).display(), describe_dataset(&summary.songs))?;
    if options.update {
        writeln!(out, "{} days read, {} taken over", summary.days_read, summary.days_kept)?;
    }
    writeln!(out, "{}", summary.books)?;
    for (what, reasons) in [
        (format!("put aside in {QUARANTINE_DIR}/"), &summary.books.quarantined),
        ("left out".to_owned(), &summary.books.filtered),
    ] {
        if !reasons.is_empty() {
            let reasons: Vec<String> = reasons.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
            writeln!(out, "{what}: {}", reasons.join(", "))?;
        }
    }
    writeln!(out, "report: {} (all counts: {QUALITY_FILE})", args.out.join(QUALITY_PAGE).display())?;
    Ok(Outcome::Done)
}

/// What there is in the dataset, in one phrase.
pub(crate) fn describe(summary: &PrepareSummary) -> String {
    describe_dataset(&summary.info)
}

fn describe_dataset(info: &DatasetInfo) -> String {
    let counts = &info.counts;
    format!(
        "{} users, {} {}s, {} training events, {} held-out events of {} users ({})",
        grouped(counts.users),
        grouped(counts.items),
        info.item_kind,
        grouped(counts.events),
        grouped(counts.test_events),
        grouped(counts.test_users),
        info.split.parameters
    )
}
