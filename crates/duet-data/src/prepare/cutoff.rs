//! Where the held-out period starts, and what is said when nothing is left before it.

use std::{collections::BTreeMap, path::PathBuf};

use duet_core::{Error, Result};

use super::{
    days::{self, DayIndex},
    options::{EventSource, HeldOut, PrepareOptions},
};
use crate::quality::Books;

/// The first held-out day.
pub(super) fn cutoff(options: &PrepareOptions, index: &DayIndex) -> Result<i32> {
    let by_day = index.sizes();
    if by_day.is_empty() {
        let books: Books = index.days.values().map(|day| &day.books).sum();
        return Err(Error::data(events_name(options), no_positives(&books)));
    }
    let day = match options.held_out {
        HeldOut::From(date) => date.to_epoch_days(),
        HeldOut::Nothing | HeldOut::LastDays(_) => {
            // Wrong clocks and western time zones leave a few events after the last full day, and before the first.
            let total: u64 = by_day.values().sum();
            let full = by_day.iter().rev().find(|(_, events)| **events * 2 >= typical(&by_day, total));
            let held_out = if let HeldOut::LastDays(days) = options.held_out { days as i32 } else { 0 };
            full.map_or(0, |(day, _)| day + 1) - held_out
        }
        HeldOut::Quantile(quantile) => {
            let total: u64 = by_day.values().sum();
            let mut sum = 0;
            by_day
                .iter()
                .find(|(_, events)| {
                    sum += **events;
                    sum as f64 >= quantile * total as f64
                })
                .map_or(0, |(day, _)| *day)
        }
    };
    if by_day.range(..day - options.gap_days as i32).next().is_none() {
        let first = by_day.keys().next().map_or_else(|| "none".to_owned(), |day| days::day_name(Some(*day)));
        let message =
            format!("{}: no training events are left before it; the first is of {first}", artist_split(options));
        return Err(Error::data(events_name(options), message));
    }
    Ok(day)
}

/// The size of the day on which the middle event lies, days in order of size: many tiny days of wrong clocks don't move it.
fn typical(by_day: &BTreeMap<i32, u64>, total: u64) -> u64 {
    let mut sizes: Vec<u64> = by_day.values().copied().collect();
    sizes.sort_unstable();
    let mut sum = 0;
    sizes
        .into_iter()
        .find(|size| {
            sum += size;
            2 * sum >= total
        })
        .unwrap_or(0)
}

/// The split of artists in words.
pub(super) fn artist_split(options: &PrepareOptions) -> String {
    describe(options, if options.new_artists_only { "first events with an artist" } else { "all events" })
}

/// The split of songs in words.
pub(super) fn song_split(options: &PrepareOptions) -> String {
    describe(options, if options.new_songs_only { "first listens to a song" } else { "all listens" })
}

fn describe(options: &PrepareOptions, what: &str) -> String {
    let from = match options.held_out {
        HeldOut::Nothing => return "nothing held out".to_owned(),
        HeldOut::LastDays(days) => format!("last {days} days"),
        HeldOut::Quantile(quantile) => format!("quantile {quantile}, from midnight UTC"),
        HeldOut::From(date) => format!("from {date}"),
    };
    format!("{from}, gap of {} days, {what}", options.gap_days)
}

pub(super) fn no_positives(books: &Books) -> String {
    format!("no event that says a user likes an artist ({books}; put aside: {:?})", books.quarantined)
}

/// What errors about the events as a whole name.
pub(super) fn events_name(options: &PrepareOptions) -> PathBuf {
    match &options.events {
        EventSource::Files(path) => path.clone(),
        EventSource::Zone(location) => PathBuf::from(location.to_string()),
    }
}
