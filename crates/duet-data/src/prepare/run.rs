//! The whole of `prepare`: read, cut, compute, write.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use duet_core::{
    Error, ItemIdx, Result,
    artifact::{DirWriter, FileEntry, IfExists, Manifest, checksum},
};
use fs_err as fs;
use rayon::prelude::*;

use super::{
    account, catalogue,
    events::{self, Collected, Row, RowKey},
    features,
    lines::Blocks,
    options::{HeldOut, PrepareOptions},
    oracle,
    parse::Known,
    quality::Quality,
};
use crate::dataset::{
    self, Counts, DatasetInfo, DatasetKind, DatasetParts, MAGIC, Oracle, SplitInfo, TestUser, Timeline, VERSION,
};

/// The account of the lines, inside the dataset.
pub const QUALITY_FILE: &str = "quality.json";
/// The lines put aside, inside the dataset: file, line, reason, field; never their content.
pub const QUARANTINE_FILE: &str = "quarantine.jsonl";

const DAY_MS: i64 = 86_400_000;

/// What was made.
#[derive(Debug, Clone)]
pub struct PrepareSummary {
    /// The manifest's body of the dataset.
    pub info: DatasetInfo,
    /// What became of the lines.
    pub quality: Quality,
}

/// Makes a dataset in the directory `out` (kind [`DatasetKind::Events`], items are artists).
///
/// * **Accounts** need a column `user_id`; `age` or `birth_date`, `gender`, `country`, `lat` with `lon` and
///   `created_at` are used where they are there. Every account becomes a row of the users table, with or without events.
/// * **Catalogue**: `artists.csv` (`artist_id`, `name`, `genres`, `first_release_date`, `join_date`, `following`),
///   `songs.csv` (`song_id`, `artist_id`, `duration_ms`) and, for followers as they were, `artist_daily.csv` (`day`,
///   `artist_id`, `followers`). An artist who joins in the held-out period is no row: an index made at the cutoff
///   could not know them.
/// * **Events**: clicks and follows of artists, and songs heard for 30 s or half of their length, become one row per
///   user, artist and UTC day, with the time of the first event and the largest strength as weight.
///
/// [`QUALITY_FILE`] and [`QUARANTINE_FILE`] lie in the dataset and are covered by its manifest.
///
/// # Errors
/// [`Error::Input`] for impossible options or a taken `out`; [`Error::Data`] naming file and row for accounts or a
/// catalogue that are not what they must be, for events without a single positive one, and for a split that leaves no
/// training part; [`Error::Io`]. Bad lines of events are no errors. Nothing is left behind then.
pub fn prepare(options: &PrepareOptions, out: &Path, if_exists: IfExists) -> Result<PrepareSummary> {
    options.validate()?;
    let writer = DirWriter::create(out, if_exists)?;
    let accounts = account::read(&options.accounts)?;
    let artists_path = options.catalogue.join("artists.csv");
    let songs_path = options.catalogue.join("songs.csv");
    let daily_path = options.catalogue.join(catalogue::DAILY_FILE);
    let artists = catalogue::read_artists(&artists_path)?;
    let mut known = Known {
        users: accounts.iter().enumerate().map(|(row, account)| (account.user_id.clone(), row as u32)).collect(),
        artists: artists.iter().enumerate().map(|(row, artist)| (artist.id.clone(), row as u32)).collect(),
        ..Known::default()
    };
    known.songs = catalogue::read_songs(&songs_path, &known.artists)?;
    let pseudonyms: Vec<String> =
        accounts.par_iter().map(|account| options.user_key.pseudonym(&account.user_id)).collect::<Result<_>>()?;

    let mut blocks = Blocks::new(&options.events)?;
    let sign_up: Vec<Option<i64>> = accounts.iter().map(|account| account.created_ms).collect();
    let quarantine_path = writer.path(QUARANTINE_FILE);
    let mut quarantine = BufWriter::new(File::create(&quarantine_path).map_err(Error::io(&quarantine_path))?);
    let mut collected =
        events::collect(&mut blocks, &known, &sign_up, options.strengths, &mut quarantine, &quarantine_path)?;
    quarantine.flush().map_err(Error::io(&quarantine_path))?;
    drop(quarantine);
    let held_out_day = cutoff(options, &collected)?;
    // Training and every feature end here; with a gap that is before the held-out period.
    let cutoff_day = held_out_day - options.gap_days as i32;

    // Rows in the order of ids: the same tables whatever the order of the source files.
    let mut users: Vec<usize> = (0..accounts.len()).collect();
    users.sort_unstable_by_key(|&account| &pseudonyms[account]);
    let mut items: Vec<usize> =
        (0..artists.len()).filter(|&artist| artists[artist].join.is_none_or(|day| day < cutoff_day)).collect();
    items.sort_unstable_by_key(|&artist| &artists[artist].id);

    let followers = catalogue::followers_before(&daily_path, &known.artists, cutoff_day)?;
    let user_table = features::users(options, &accounts, &pseudonyms, &users, &collected, cutoff_day)?;
    let item_table = features::items(&artists, &items, &followers, &collected, cutoff_day)?;
    let user_rows = invert(&users, accounts.len());
    let item_rows = invert(&items, artists.len());
    let (timeline, test) = cut(
        options,
        &mut collected,
        held_out_day,
        &user_rows,
        &item_rows,
        |row| user_table.ids.id(row).to_owned(),
        |artist| artists[artist].id.clone(),
    )?;
    let oracle = match &options.truth {
        None => None,
        Some(truth) => {
            let user_ids: Vec<&str> = users.iter().map(|&account| accounts[account].user_id.as_str()).collect();
            let item_ids: Vec<&str> = items.iter().map(|&artist| artists[artist].id.as_str()).collect();
            let (users, dim) = oracle::read_vectors(&truth.join("users.parquet"), "user_id", &user_ids)?;
            let artists_path = truth.join("artists.parquet");
            let (items, item_dim) = oracle::read_vectors(&artists_path, "artist_id", &item_ids)?;
            if dim != item_dim {
                let message = format!("vectors of length {item_dim}, but those of the users have length {dim}");
                return Err(Error::data(artists_path, message));
            }
            Some(Oracle { dim, users, items })
        }
    };

    collected.quality.check()?;
    let mut sources = vec![options.accounts.clone(), artists_path, songs_path];
    sources.extend(Some(daily_path).filter(|path| path.exists()));
    sources.extend(blocks.files().iter().cloned());
    let sources: Vec<(PathBuf, FileEntry)> =
        sources.into_par_iter().map(|path| checksum(&path).map(|entry| (path, entry))).collect::<Result<_>>()?;
    let parts = DatasetParts {
        info: DatasetInfo {
            kind: DatasetKind::Events,
            item_kind: "artist".to_owned(),
            schema: features::schema(),
            counts: Counts::default(),
            split: SplitInfo {
                kind: if options.held_out == HeldOut::Nothing { "none" } else { "global-time" }.to_owned(),
                parameters: describe(options),
                cutoff_ms: (options.held_out != HeldOut::Nothing).then(|| i64::from(held_out_day) * DAY_MS),
                hash: String::new(),
            },
            has_time: true,
            has_weight: true,
            reference_day: Some(cutoff_day - 1),
            sources,
        },
        users: user_table,
        items: item_table,
        timeline,
        test,
        oracle,
    };
    let info = publish(writer, &parts, &collected.quality)?;
    tracing::info!(lines = %collected.quality, "prepared");
    Ok(PrepareSummary { info, quality: collected.quality })
}

/// Row of the table for each source row; nothing for those left out.
fn invert(order: &[usize], len: usize) -> Vec<Option<u32>> {
    let mut rows = vec![None; len];
    for (row, &source) in order.iter().enumerate() {
        rows[source] = Some(row as u32);
    }
    rows
}

fn describe(options: &PrepareOptions) -> String {
    let what = if options.new_artists_only { "first events with an artist" } else { "all events" };
    let from = match options.held_out {
        HeldOut::Nothing => return "nothing held out".to_owned(),
        HeldOut::LastDays(days) => format!("last {days} days"),
        HeldOut::Quantile(quantile) => format!("quantile {quantile}, from midnight UTC"),
        HeldOut::From(date) => format!("from {date}"),
    };
    format!("{from}, gap of {} days, {what}", options.gap_days)
}

/// The first held-out day.
fn cutoff(options: &PrepareOptions, collected: &Collected) -> Result<i32> {
    if collected.rows.is_empty() {
        return Err(Error::data(
            &options.events,
            format!(
                "no event that says a user likes an artist ({}; reasons: {:?})",
                collected.quality, collected.quality.quarantined
            ),
        ));
    }
    let mut by_day = std::collections::BTreeMap::<i32, u64>::new();
    for &(_, _, day) in collected.rows.keys() {
        *by_day.entry(day).or_default() += 1;
    }
    let day = match options.held_out {
        HeldOut::From(date) => date.to_epoch_days(),
        HeldOut::Nothing | HeldOut::LastDays(_) => {
            // Wrong clocks and western time zones leave a few rows after the last full day.
            let mut sizes: Vec<u64> = by_day.values().copied().collect();
            sizes.sort_unstable();
            let typical = sizes[sizes.len() / 2];
            let last = by_day.iter().rev().find(|(_, rows)| **rows * 2 >= typical).map_or(0, |(day, _)| *day);
            let held_out = if let HeldOut::LastDays(days) = options.held_out { days as i32 } else { 0 };
            last + 1 - held_out
        }
        HeldOut::Quantile(quantile) => {
            let total: u64 = by_day.values().sum();
            let mut sum = 0;
            by_day
                .iter()
                .find(|(_, rows)| {
                    sum += **rows;
                    sum as f64 >= quantile * total as f64
                })
                .map_or(0, |(day, _)| *day)
        }
    };
    let before: u64 = by_day.range(..day - options.gap_days as i32).map(|(_, rows)| rows).sum();
    if before == 0 {
        let first = by_day.keys().next().and_then(|day| chrono::NaiveDate::from_epoch_days(*day)).unwrap_or_default();
        return Err(Error::data(
            &options.events,
            format!("{}: no training events are left before it; the first is of {first}", describe(options)),
        ));
    }
    Ok(day)
}

/// Rows to the training timeline and the held-out part.
fn cut(
    options: &PrepareOptions,
    collected: &mut Collected,
    held_out_day: i32,
    user_rows: &[Option<u32>],
    item_rows: &[Option<u32>],
    user_id: impl Fn(usize) -> String,
    artist_id: impl Fn(usize) -> String,
) -> Result<(Timeline, Vec<TestUser>)> {
    let mut rows: Vec<(RowKey, Row)> = collected
        .rows
        .drain()
        .map(|((user, artist, day), row)| {
            let user = user_rows[user as usize].ok_or_else(|| Error::Internal("an account without a row".into()))?;
            Ok(((user, artist, day), row))
        })
        .collect::<Result<_>>()?;
    rows.par_sort_unstable_by_key(|((user, artist, _), row)| (*user, row.at_ms, row.id, *artist));
    let quality = &mut collected.quality.rows;
    let cutoff_day = held_out_day - options.gap_days as i32;
    let mut timeline = Timeline { offsets: vec![0], ..Timeline::default() };
    let mut test: Vec<TestUser> = Vec::new();
    for user in 0..user_rows.len() {
        let start = rows.partition_point(|((other, ..), _)| (*other as usize) < user);
        let end = start + rows[start..].partition_point(|((other, ..), _)| *other as usize == user);
        let mut had = std::collections::HashSet::new();
        let mut held_out = Vec::new();
        for ((_, artist, day), row) in &rows[start..end] {
            if *day < cutoff_day {
                let Some(item) = item_rows[*artist as usize] else {
                    quality.not_yet_listed += 1;
                    continue;
                };
                had.insert(*artist);
                timeline.items.push(ItemIdx(item));
                timeline.timestamps_ms.push(row.at_ms);
                timeline.weights.push(row.strength);
                quality.train += 1;
            } else if *day < held_out_day || options.held_out == HeldOut::Nothing {
                had.insert(*artist);
                quality.outside += 1;
            } else if options.new_artists_only && !had.insert(*artist) {
                quality.seen_before += 1;
            } else {
                held_out.push(artist_id(*artist as usize));
                quality.test += 1;
            }
        }
        timeline.offsets.push(timeline.items.len());
        if !held_out.is_empty() {
            test.push(TestUser { id: user_id(user), user: Some(user.into()), items: held_out });
        }
    }
    Ok((timeline, test))
}

/// Writes the dataset with the books beside its tables, under one manifest.
fn publish(writer: DirWriter, parts: &DatasetParts, quality: &Quality) -> Result<DatasetInfo> {
    let inner = dataset::write(&writer.path("tables"), IfExists::Fail, parts)?;
    let info = Manifest::<DatasetInfo>::open_unchecked(&inner, MAGIC, VERSION)?;
    for name in info.files.keys() {
        let (from, to) = (inner.join(name), writer.path(name));
        fs::rename(&from, &to).map_err(Error::io(&from))?;
    }
    fs::remove_dir_all(&inner).map_err(Error::io(&inner))?;
    let path = writer.path(QUALITY_FILE);
    let text =
        serde_json::to_string_pretty(quality).map_err(|error| Error::Internal(format!("{QUALITY_FILE}: {error}")))?;
    fs::write(&path, text + "\n").map_err(Error::io(&path))?;
    writer.publish(MAGIC, VERSION, &info.body)?;
    Ok(info.body)
}
