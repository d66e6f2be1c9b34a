//! `duet world`.

use std::{io::Write, path::PathBuf, time::Instant};

use anyhow::Result;
use chrono::NaiveDate;
use clap::Args;
use duet_data::{
    accounts::Connection,
    world::{AccountsTable, Dirt, WorldOptions, WorldSummary, generate, load_accounts},
};

use crate::{
    Outcome,
    values::{grouped, if_exists},
};

/// Make a synthetic streaming service whose truth is known: raw events, accounts, a catalogue.
///
/// Same options and seed, same bytes. What is not given is as in the demo.
#[derive(Debug, Clone, Args)]
pub(crate) struct WorldArgs {
    /// Where the world goes.
    #[arg(long, value_name = "WORLD", required_unless_present = "postgres")]
    out: Option<PathBuf>,
    /// Put the accounts into a Postgres table `accounts` (without --out: only them). What the URL leaves open comes
    /// from PGHOST, PGPASSWORD and so on.
    #[arg(long, value_name = "URL", num_args = 0..=1, default_missing_value = "postgres://")]
    postgres: Option<String>,
    /// The schema of the table, made if it is not there.
    #[arg(long, value_name = "NAME", requires = "postgres")]
    schema: Option<String>,
    /// Replace a world that is there, and the accounts in the table.
    #[arg(long)]
    overwrite: bool,
    /// Accounts.
    #[arg(long, value_name = "N")]
    users: Option<u64>,
    /// Artists.
    #[arg(long, value_name = "N")]
    artists: Option<u32>,
    /// Mean number of songs of an artist.
    #[arg(long, value_name = "X")]
    songs_per_artist: Option<f64>,
    /// Days of events.
    #[arg(long, value_name = "N")]
    days: Option<u32>,
    /// The first day.
    #[arg(long, value_name = "YYYY-MM-DD")]
    start: Option<NaiveDate>,
    /// Micro-genres: the length of the true taste vectors.
    #[arg(long, value_name = "N")]
    genres: Option<u32>,
    /// Mean number of events of a user on a day on which they come at all.
    #[arg(long, value_name = "X")]
    events_per_active_day: Option<f64>,
    /// Days at the end that the written truth is the mean of.
    #[arg(long, value_name = "N")]
    truth_days: Option<u32>,
    /// Seed.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// No dirt at all.
    #[arg(long, conflicts_with_all = ["malformed", "duplicate", "late", "unknown_id", "clock_skew"])]
    clean: bool,
    /// Share of events that are malformed lines.
    #[arg(long, value_name = "SHARE", help_heading = "Dirt")]
    malformed: Option<f64>,
    /// Share of events written twice.
    #[arg(long, value_name = "SHARE", help_heading = "Dirt")]
    duplicate: Option<f64>,
    /// Share of events that come one to three days late.
    #[arg(long, value_name = "SHARE", help_heading = "Dirt")]
    late: Option<f64>,
    /// Share of events of users or items that no table knows.
    #[arg(long, value_name = "SHARE", help_heading = "Dirt")]
    unknown_id: Option<f64>,
    /// Share of events from a wrong clock.
    #[arg(long, value_name = "SHARE", help_heading = "Dirt")]
    clock_skew: Option<f64>,
}

impl WorldArgs {
    fn options(&self) -> WorldOptions {
        let default = WorldOptions::default();
        let dirt = if self.clean { Dirt::NONE } else { default.dirt };
        WorldOptions {
            users: self.users.unwrap_or(default.users),
            artists: self.artists.unwrap_or(default.artists),
            songs_per_artist: self.songs_per_artist.unwrap_or(default.songs_per_artist),
            days: self.days.unwrap_or(default.days),
            start: self.start.unwrap_or(default.start),
            genres: self.genres.unwrap_or(default.genres),
            events_per_active_day: self.events_per_active_day.unwrap_or(default.events_per_active_day),
            // A short world has a shorter truth than the default, rather than none.
            truth_days: self.truth_days.unwrap_or(default.truth_days.min(self.days.unwrap_or(default.days))),
            dirt: Dirt {
                malformed: self.malformed.unwrap_or(dirt.malformed),
                duplicate: self.duplicate.unwrap_or(dirt.duplicate),
                late: self.late.unwrap_or(dirt.late),
                unknown_id: self.unknown_id.unwrap_or(dirt.unknown_id),
                clock_skew: self.clock_skew.unwrap_or(dirt.clock_skew),
            },
            seed: self.seed.unwrap_or(default.seed),
        }
    }
}

pub(crate) fn run(args: &WorldArgs, out: &mut dyn Write) -> Result<Outcome> {
    let options = args.options();
    // Before the work: a bad URL should not be found after minutes.
    let table = match &args.postgres {
        Some(url) => Some(AccountsTable {
            connection: Connection::new(Some(url))?,
            schema: args.schema.clone(),
            overwrite: args.overwrite,
        }),
        None => None,
    };
    if let Some(place) = &args.out {
        let started = Instant::now();
        let summary = generate(&options, place, if_exists(args.overwrite))?;
        writeln!(out, "{}: {}, in {:.1} s", place.display(), describe(&summary), started.elapsed().as_secs_f64())?;
    }
    if let Some(table) = &table {
        let started = Instant::now();
        let count = load_accounts(&options, table)?;
        let seconds = started.elapsed().as_secs_f64();
        writeln!(out, "{}: {} accounts, in {seconds:.1} s", table.connection, grouped(count))?;
    }
    Ok(Outcome::Done)
}

/// What there is in the world, in one phrase.
pub(crate) fn describe(summary: &WorldSummary) -> String {
    format!(
        "{} events of {} users over {} days, {} artists, {} songs",
        grouped(summary.stats.lines),
        grouped(summary.options.users),
        summary.options.days,
        grouped(u64::from(summary.options.artists)),
        grouped(summary.songs)
    )
}
