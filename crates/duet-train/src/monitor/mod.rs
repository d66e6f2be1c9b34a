//! Monitoring: served lists and the events after them, turned into rates with intervals, drift, and alarms.
//!
//! * [`monitor`] reads everything once and makes a [`MonitorReport`]; [`MonitorReport::write`] writes it as JSON and as one page.
//! * [`SliceReport`]: click rate, completion and follows, by variant, bundle, source, position and segment, with intervals over users.
//! * [`Retention`]: churn and survival curves.
//! * [`Watched`]: series that are looked at every day, with one probability of ever being wrong. [`OnlineVerdict`]: champion and
//!   challenger.
//! * [`Shift`]: features and scores beside training. [`OverFit`]: what the evaluation of the run said.
//!
//! Formulas, guarantees and their sources: `docs/monitoring.md`. No output names a user.

mod config;
mod divisions;
mod evidence;
mod ledger;
mod lines;
mod over_fit;
mod page;
mod rate;
mod report;
mod shift;
mod slices;
mod sources;
mod survival;
mod user_days;
mod watch;
mod webhook;

#[cfg(test)]
mod tests;

use std::{collections::HashMap, path::PathBuf};

use chrono::{NaiveDate, SecondsFormat, Utc};
use duet_core::{Error, Result};
use duet_data::accounts::UserKey;
use duet_retrieval::segments::{Division, FoldLimits};

pub use self::{
    config::{DriftConfig, MonitorConfig, OverFitConfig, SlicesConfig, WatchConfig, WebhookConfig},
    divisions::FoldNote,
    ledger::EventCounts,
    lines::Tally,
    over_fit::OverFit,
    rate::Rate,
    report::{Alarm, AlarmKind, Inputs, MONITOR_FILES, MonitorReport},
    shift::{Shift, ShiftBin},
    slices::{ChurnDay, DayFigures, Figures, Retention, SliceReport},
    survival::SurvivalDay,
    watch::{Against, OnlineVerdict, WatchDay, Watched},
};
use self::{
    ledger::{Days, Ledger, Scored},
    sources::{EventReader, Identity, read_served, tables},
    user_days::{day_name, user_days},
    watch::Watch,
};

/// What to look at.
#[derive(Debug, Clone)]
pub struct MonitorOptions {
    /// Served-list logs: directories or files.
    pub served: Vec<PathBuf>,
    /// Events: files of JSON lines, or directories of them.
    pub events: Vec<PathBuf>,
    /// A raw zone with events.
    pub raw: Option<String>,
    /// The bundle that is served, for segments, drift and scores.
    pub bundle: Option<PathBuf>,
    /// The dataset, for segments and drift, if not the bundle's.
    pub dataset: Option<PathBuf>,
    /// The evaluation of the bundle's run.
    pub evaluation: Option<PathBuf>,
    /// The key of user ids.
    pub user_key: Option<UserKey>,
    /// The first day (UTC) looked at.
    pub from: Option<NaiveDate>,
    /// The last.
    pub to: Option<NaiveDate>,
    /// Everything else.
    pub config: MonitorConfig,
}

/// Reads everything and measures it.
///
/// # Errors
/// [`Error::Input`] for places with nothing, or without a single list in the days asked for; [`Error::Data`] for a damaged zone, bundle
/// or dataset; [`Error::Io`]. Bad lines are no error: they are counted.
pub fn monitor(options: &MonitorOptions) -> Result<MonitorReport> {
    let config = &options.config;
    let day = |day: Option<NaiveDate>, otherwise: i32| day.map_or(otherwise, |day| day.to_epoch_days());
    let days = Days { from: day(options.from, i32::MIN), to: day(options.to, i32::MAX) };
    if days.from > days.to {
        return Err(Error::input("--from is after --to"));
    }
    let identity = Identity::find(options.user_key.clone(), &options.served)?;
    let tables = tables(options.dataset.as_deref(), options.bundle.as_deref())?;
    // The server calls a bundle by its directory, and eight digits more.
    let name = |bundle: &PathBuf| {
        let real = fs_err::canonicalize(bundle).unwrap_or_else(|_| bundle.clone());
        real.file_name().map(|name| format!("{}-", name.to_string_lossy()))
    };
    let scored = Scored { variant: config.watch.control.clone(), bundle: options.bundle.as_ref().and_then(name) };
    let mut ledger = Ledger::new(days, scored);
    let served = read_served(&options.served, &mut ledger)?;
    if ledger.lists.is_empty() {
        return Err(Error::input(format!(
            "no served list of a user in the days asked for: {} lines read, {} of other days, {} anonymous, {} bad",
            served.lines, ledger.outside_lists, ledger.anonymous_lists, served.bad_lines
        )));
    }
    let none = HashMap::new();
    let songs = tables.as_ref().map_or(&none, |tables| &tables.songs);
    let mut reader = EventReader { identity: &identity, songs, ledger: &mut ledger, tally: Tally::default() };
    for place in &options.events {
        reader.read_place(place)?;
    }
    if let Some(zone) = &options.raw {
        reader.read_zone(zone, days)?;
    }
    let events = reader.tally;

    let by_user = lists_by_user(&ledger);
    let rows = tables.as_ref().map(|tables| identity.rows(ledger.users.ids(), &tables.users));
    let limits = FoldLimits { min_users: config.slices.min_users, max_groups: config.slices.max_values };
    let divisions: Vec<Division> = match (&tables, &rows) {
        (Some(tables), Some(rows)) => divisions::divide(&tables.users, rows, &config.slices.columns, limits)?,
        _ => Vec::new(),
    };
    // A segment with fewer users than either limit is never tested.
    let testable = FoldLimits { min_users: config.slices.min_users.max(config.watch.min_users), ..limits };
    let segment_slots = match &tables {
        Some(tables) => divisions::slots(&tables.users, &config.slices.columns, testable)?,
        None => 0,
    };
    let user_days = user_days(&ledger, &by_user);
    let segment = |division: &Division| -> Vec<(String, String, Vec<u32>)> {
        let of =
            |group: &duet_retrieval::segments::Group| (division.name.clone(), group.label.clone(), group.users.clone());
        division.groups.iter().map(of).collect()
    };
    let first = ledger.lists.iter().map(|list| list.day).min().unwrap_or(ledger.last_day);
    let last = ledger.lists.iter().map(|list| list.day).max().unwrap_or(ledger.last_day);
    // Half a day tells too little of silence, and who looks at it twice would test it twice.
    let last_whole = if last == Utc::now().date_naive().to_epoch_days() { last - 1 } else { last };
    ledger.last_day = last_whole;
    let watch = Watch {
        users: &user_days,
        variants: ledger.variants.ids(),
        bundles: ledger.bundles.ids(),
        segments: divisions.iter().flat_map(segment).collect(),
        segment_slots,
        days: (first, last_whole),
        config: &config.watch,
    };
    let (watched, verdicts) = (watch.run(), watch.verdicts());

    let mut notes = Vec::new();
    if last_whole < last {
        notes.push(format!("{} (UTC) is not over: drops, verdicts and churn wait for its end.", day_name(last)));
    }
    let unknown = rows.as_ref().map_or(0, |rows| rows.iter().filter(|row| row.is_none()).count());
    let mut shifts = Vec::new();
    // Now is the longest window: among everybody who was ever served, those of today would be lost.
    let window = config.watch.windows.iter().copied().max().unwrap_or(1) as i32;
    let is_recent = recent(&ledger, &by_user, last - window + 1);
    if let (Some(tables), Some(rows)) = (&tables, &rows) {
        let known: Vec<u32> =
            rows.iter().zip(&is_recent).filter(|(_, recent)| **recent).filter_map(|(row, _)| *row).collect();
        if known.len() >= config.drift.min_users {
            shifts.extend(shift::features(&tables.users, &known, config.drift.max_psi));
        } else {
            notes.push(format!(
                "Drift of features is not judged: {} users served within {window} days are in the dataset, {} are needed.",
                known.len(),
                config.drift.min_users
            ));
        }
    }
    if let Some(bundle) = options.bundle.as_ref().filter(|_| config.drift.score_users > 0) {
        let scores = ledger.scores.iter().zip(&is_recent).filter(|(_, recent)| **recent);
        let served: Vec<f64> = scores.filter_map(|(found, _)| Some(f64::from(found.as_ref()?.1))).collect();
        if served.len() >= config.drift.min_users {
            let training = shift::bundle_scores(bundle, config.drift.score_users)?;
            shifts.push(shift::scores(training, served, config.drift.max_psi));
        } else {
            notes.push(format!(
                "Drift of scores is not judged: {} users had a personal list of this bundle in the variant {}, {} are needed.",
                served.len(),
                config.watch.control,
                config.drift.min_users
            ));
        }
    }
    let evaluation = options.evaluation.clone().or_else(|| over_fit::place_of(options.bundle.as_deref()?));
    let over_fit = match &evaluation {
        Some(place) => over_fit::read(place, config.over_fit.max_gap)?,
        None => None,
    };
    if over_fit.is_none() {
        notes.push(
            "Over-fitting is not judged: no evaluation with a gap between training and validation is known.".to_owned(),
        );
    }
    if tables.is_none() {
        notes.push("No segments and no drift: they need --bundle or --dataset.".to_owned());
    }
    let control = &config.watch.control;
    if ledger.variants.len() > 1 && !ledger.variants.ids().contains(control) {
        notes.push(format!("No list has the variant {control}, which watch.control names: variants are not compared."));
    }

    let mut report = MonitorReport {
        version: report::VERSION,
        made_at: Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true),
        first_day: day_name(first),
        last_day: day_name(last),
        bundle: options.bundle.as_ref().map(|bundle| bundle.display().to_string()),
        inputs: Inputs {
            served,
            repeated_lists: ledger.repeated_lists,
            outside_lists: ledger.outside_lists,
            anonymous_lists: ledger.anonymous_lists,
            lists_without_impressions: ledger.lists.iter().filter(|list| !list.is_reported()).count() as u64,
            events,
            event_counts: ledger.counts.clone(),
            users: ledger.users.len() as u64,
            users_not_in_dataset: unknown as u64,
        },
        alpha: config.watch.alpha,
        control: config.watch.control.clone(),
        alarms: Vec::new(),
        verdicts,
        slices: slices::slices(&ledger, &by_user, &divisions, config.slices.positions),
        retention: slices::retention(&ledger, &by_user, &divisions, &config.slices.churn_days),
        watched,
        shifts,
        over_fit,
        folded: divisions.iter().flat_map(divisions::notes).collect(),
        notes,
    };
    report.raise(config.drift.alarm);
    Ok(report)
}

/// The places of each user's lists, in the order of days.
fn lists_by_user(ledger: &Ledger) -> Vec<Vec<u32>> {
    let mut by_user: Vec<Vec<u32>> = vec![Vec::new(); ledger.users.len()];
    for (place, list) in ledger.lists.iter().enumerate() {
        by_user[list.user as usize].push(place as u32);
    }
    for lists in &mut by_user {
        lists.sort_by_key(|&place| ledger.lists[place as usize].day);
    }
    by_user
}

/// Whether each user had a list on a day or later.
fn recent(ledger: &Ledger, by_user: &[Vec<u32>], from: i32) -> Vec<bool> {
    let last = |lists: &Vec<u32>| lists.last().is_some_and(|&list| ledger.lists[list as usize].day >= from);
    by_user.iter().map(last).collect()
}

/// Checks a webhook's URL before any work is done.
///
/// # Errors
/// [`Error::Input`] unless it is one of http or https.
pub fn check_webhook(url: &str) -> Result<()> {
    webhook::shown(url).map(|_| ())
}

/// Sends the alarms of a report to a webhook.
///
/// # Errors
/// [`Error::Input`] saying what went wrong; the URL's secrets are not in it.
pub fn notify(report: &MonitorReport, url: &str, config: &WebhookConfig) -> Result<()> {
    webhook::post(url, report.notice()?, std::time::Duration::from_secs(config.timeout_s))
}
