//! The two walks over all events: what counts, then every user's rows.

use std::collections::BTreeMap;

use duet_core::{
    Error, Result,
    artifact::DirWriter,
    event::{EventType, ItemKind},
};
use hashbrown::HashMap;
use rayon::prelude::*;

use super::{
    as_of::Counts,
    catalogue::Song,
    day_file::UserEvents,
    days::{self, Days},
    fate,
    features::Activity,
    options::PrepareOptions,
    outputs::{Ids, Outputs, Written},
    rows::Rows,
    user_rows::{UserRows, Walk},
    users::{KnownUser, Users},
};
use crate::quality::Books;

/// Ids of the catalogue to rows.
pub(super) struct Known {
    pub(super) artists: HashMap<String, u32>,
    pub(super) songs: HashMap<String, u32>,
}

impl Known {
    pub(super) fn row_of(&self, kind: ItemKind, id: &str) -> Option<u32> {
        match kind {
            ItemKind::Artist => self.artists.get(id).copied(),
            ItemKind::Song => self.songs.get(id).copied(),
        }
    }
}

/// Events read by day and type, in the order of [`EventType::ALL`].
type Found = HashMap<i32, [u64; EventType::ALL.len()]>;

/// Counts, events left out by (day, reason, type), events read.
type Tally = (Counts, HashMap<(i32, &'static str, &'static str), u64>, Found);

fn add_found(sums: &mut Found, more: Found) {
    for (day, counts) in more {
        sums.entry(day).or_default().iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
}

/// The first walk over all events: what counts, and the books of each day.
pub(super) fn count(
    options: &PrepareOptions,
    days: &mut Days<'_, impl Fn(ItemKind, &str) -> Option<u32> + Sync>,
    users: &Users,
    songs: &[Song],
    cutoff_day: i32,
) -> Result<(Counts, BTreeMap<String, Books>)> {
    let (mut counts, mut found) = (Counts::default(), Found::new());
    let mut day_books: BTreeMap<String, Books> =
        days.index.days.iter().map(|(name, state)| (name.clone(), state.books.clone())).collect();
    days.by_users(|events| {
        let each: Vec<_> = events.iter().collect();
        // A table of counts for each thread and no more: merging them costs.
        let share = each.len().div_ceil(rayon::current_num_threads()).max(1);
        let (range, filtered, found_here) = each
            .into_par_iter()
            .with_min_len(share)
            .fold(Tally::default, |(mut counts, mut filtered, mut found), (user, events)| {
                let fates = fate::fates(events, users.find(user), options.rate_limits);
                for (event, fate) in events.iter().zip(fates) {
                    found.entry(event.day()).or_default()[event.event_type as usize] += 1;
                    match fate {
                        None if event.day() < cutoff_day => counts.add(event, songs),
                        None => {}
                        Some(reason) => {
                            let key = (event.day(), reason, event.event_type.as_str());
                            *filtered.entry(key).or_default() += 1;
                        }
                    }
                }
                (counts, filtered, found)
            })
            .reduce(Tally::default, |(mut counts, mut filtered, mut found), (more, others, these)| {
                counts.merge(more);
                others.into_iter().for_each(|(key, count)| *filtered.entry(key).or_default() += count);
                add_found(&mut found, these);
                (counts, filtered, found)
            });
        counts.merge(range);
        for ((day, reason, event_type), number) in filtered {
            if let Some(books) = day_books.get_mut(&days::day_name(Some(day))) {
                books.leave_out(reason, event_type, number);
            }
        }
        add_found(&mut found, found_here);
        Ok(())
    })?;
    // Rows of forgotten users are no longer in the day files, though their lines were kept when the days were read.
    for (name, state) in &days.index.days {
        let day = name.parse::<chrono::NaiveDate>().ok().map(|date| date.to_epoch_days());
        for (event_type, kept) in &state.books.kept_by_type {
            let of_type = EventType::ALL.iter().position(|known| known.as_str() == event_type);
            let there = day.and_then(|day| found.get(&day)).zip(of_type).map_or(0, |(found, at)| found[at]);
            if there == *kept {
                continue;
            }
            let gone = kept.checked_sub(there).filter(|_| !users.nobody_forgotten());
            match (gone, day_books.get_mut(name)) {
                (Some(gone), Some(books)) => books.leave_out(fate::FORGOTTEN_USER, event_type, gone),
                _ => {
                    let message = format!("{there} {event_type} events, {kept} by the index: it was replaced");
                    return Err(Error::data(days::files_of(days.dataset, name).0, message));
                }
            }
        }
    }
    Ok((counts, day_books))
}

/// What the second walk found.
pub(super) struct Walked {
    pub(super) artists: Written,
    pub(super) songs: Written,
    /// What became of the positive events, as events of artists and as events of songs.
    pub(super) artist_rows: Rows,
    pub(super) song_rows: Rows,
    /// By row of the users table.
    pub(super) activity: Vec<Activity>,
}

/// The second walk: every user's rows, in order. `items` and `released` have the catalogue's rows of the items and the songs table.
pub(super) fn walk_users(
    options: &PrepareOptions,
    writer: &DirWriter,
    days: &mut Days<'_, impl Fn(ItemKind, &str) -> Option<u32> + Sync>,
    users: &Users,
    walk: &Walk<'_>,
    (items, released): (&[usize], &[usize]),
) -> Result<Walked> {
    let ids = Ids { accounts: &users.accounts, artists: walk.artists, songs: walk.songs, items, released };
    let mut outputs = Outputs::create(writer)?;
    let mut activity = vec![Activity::default(); users.accounts.len()];
    let (mut artist_rows, mut song_rows) = (Rows::default(), Rows::default());
    // The rows of a range are written while those of the next are worked out.
    let mut made: Vec<(u32, UserRows)> = Vec::new();
    days.by_users(|events| {
        let (written, next) = rayon::join(|| outputs.push(&mut made, ids), || user_rows(options, users, walk, events));
        written?;
        for (user, user_rows) in &next {
            artist_rows += user_rows.of_artists.counts;
            song_rows += user_rows.of_songs.counts;
            activity[*user as usize] = Activity {
                clicks: user_rows.clicks,
                impressions: user_rows.impressions_seen,
                first_day: user_rows.first_day,
                last_day: user_rows.last_day,
            };
        }
        made = next;
        Ok(())
    })?;
    outputs.push(&mut made, ids)?;
    let (artists, songs) = outputs.finish()?;
    Ok(Walked { artists, songs, artist_rows, song_rows, activity })
}

/// The rows of the known users among `events`, each with its row of the users table.
fn user_rows(options: &PrepareOptions, users: &Users, walk: &Walk<'_>, events: &UserEvents) -> Vec<(u32, UserRows)> {
    let each: Vec<_> = events.iter().collect();
    each.into_par_iter()
        .filter_map(|(user, events)| {
            let user = users.find(user);
            let KnownUser::Known { row, created_ms } = user else { return None };
            let fates = fate::fates(events, user, options.rate_limits);
            let kept: Vec<_> =
                events.iter().zip(fates).filter(|(_, fate)| fate.is_none()).map(|(event, _)| event).collect();
            Some((row, walk.rows(row, created_ms, &kept)))
        })
        .collect()
}
