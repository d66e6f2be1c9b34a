//! The whole of `prepare`: days, cutoff, accounts, counts, rows, tables, report.

use std::{
    cell::Cell,
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use duet_core::{
    Error, Result,
    artifact::{DirWriter, FileEntry, IfExists, MANIFEST, checksum},
    memory, progress,
    table::FeatureTable,
};
use fs_err as fs;
use futures::{StreamExt, TryStreamExt};
use hashbrown::HashMap;
use rayon::prelude::*;

use super::{
    as_of::AsOf,
    catalogue,
    cutoff::{artist_split, cutoff, events_name, no_positives, song_split},
    days::{self, DayIndex, DayState, Days},
    engine::{Resources, SORTER_BYTES},
    features, item_files,
    normalise::{self, DayPaths},
    options::{HeldOut, PrepareOptions},
    oracle,
    raw_lines::RawLines,
    rows::Rows,
    song_dataset,
    user_rows::Walk,
    users::Users,
    walks::{self, Known, Walked},
};
use crate::{
    accounts::{self, AccountRules, AccountSource},
    dataset::{
        self, Counts as DatasetCounts, Dataset, DatasetInfo, DatasetKind, ITEMS_FILE, MAGIC, SONGS_DIR, SplitInfo,
        USERS_FILE, VERSION,
    },
    privacy::ForgottenList,
    quality::{self, Books, DayBooks, Report},
};

/// The data quality report, inside the dataset: for machines.
pub const QUALITY_FILE: &str = "quality.json";
/// The same for people.
pub const QUALITY_PAGE: &str = "quality.html";
const STAGED_ZONE: &str = ".raw";
const SPILL_DIR: &str = ".spill";
const DAY_MS: i64 = 86_400_000;

/// What was made.
#[derive(Debug, Clone)]
pub struct PrepareSummary {
    /// The manifest's body of the dataset.
    pub info: DatasetInfo,
    /// That of the dataset of songs inside it.
    pub songs: DatasetInfo,
    /// What became of the lines of all days.
    pub books: Books,
    /// What became of the positive events, as events of artists.
    pub rows: Rows,
    /// The same as listens to songs.
    pub song_rows: Rows,
    /// Days whose lines were read in this run, and days taken over from the dataset that was there.
    pub days_read: usize,
    /// See `days_read`.
    pub days_kept: usize,
}

/// Makes a dataset in the directory `out` (kind [`DatasetKind::Events`], items are artists), or adds days to the one that
/// is there ([`PrepareOptions::update`]); a reader sees the old one until the new one is complete.
///
/// * **Accounts**: see [`AccountSource`]. Every account becomes a row of the users table, with or without events.
/// * **Catalogue**: `artists.csv` (`artist_id`, `name`, `genres`, `first_release_date`, `join_date`, `following`),
///   `songs.csv` (`song_id`, `artist_id`, `duration_ms`, `title`, `release_date`) and, for followers as they were,
///   `artist_daily.csv` (`day`, `artist_id`, `followers`). An artist who joins in the held-out period is no row: an index
///   made at the cutoff could not know them.
/// * **Events**: clicks and follows of artists, and songs heard for 30 s or half of their length, become one row per
///   user, artist and UTC day, with the time of the first event and the largest strength as weight.
/// * **Songs**: [`SONGS_DIR`] is a dataset of its own inside, in the same layout: the same users; items are the songs released before
///   the cutoff; heard songs become one row per user, song and UTC day, likewise. Repeats on other days are rows, too.
///
/// [`QUALITY_FILE`], [`QUALITY_PAGE`] and the lines put aside lie in the dataset and are covered by its manifest.
///
/// # Errors
/// [`Error::Input`] for impossible options or a taken `out`; [`Error::Data`] naming file and row for accounts or a
/// catalogue that are not what they must be, for events without a single positive one, for a split that leaves no
/// training part, and for data that breaks a threshold (the report is then beside `out`); [`Error::Io`]. Bad lines of
/// events are no errors. Nothing else is left behind then.
pub fn prepare(options: &PrepareOptions, out: &Path, if_exists: IfExists) -> Result<PrepareSummary> {
    options.validate()?;
    let if_exists = if options.update { IfExists::Replace } else { if_exists };
    // The writer's lock first: nobody else may replace the dataset that is added to.
    let writer = DirWriter::create(out, if_exists)?;
    let previous = match options.update && out.join(MANIFEST).exists() {
        true => Some(Dataset::open(out)?),
        false => None,
    };
    for name in [days::QUARANTINE_DIR, super::DAYS_DIR, SONGS_DIR, SPILL_DIR] {
        fs::create_dir(writer.path(name)).map_err(Error::io(writer.path(name)))?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(rayon::current_num_threads())
        .enable_all()
        .build()
        .map_err(Error::io(out))?;
    memory::keep_freed();
    let clock = Clock::start();
    let (index, source, days_read) = runtime.block_on(read_days(options, &writer, previous.as_ref()))?;
    drop(runtime);
    clock.lap("days");
    for name in [STAGED_ZONE, SPILL_DIR] {
        let path = writer.path(name);
        if path.exists() {
            fs::remove_dir_all(&path).map_err(Error::io(&path))?;
        }
    }
    index.write(writer.dir())?;
    let held_out_day = cutoff(options, &index)?;
    let derived = derive(options, &writer, previous.as_ref(), &index, held_out_day, &clock)?;
    report(options, &writer, out, previous.as_ref(), &derived)?;

    let mut sources = vec![source];
    sources.extend(derived.sources);
    let Walked { artists: written, songs: of_songs, artist_rows, song_rows, .. } = derived.walked;
    let info = DatasetInfo {
        kind: DatasetKind::Events,
        item_kind: "artist".to_owned(),
        schema: features::schema(),
        counts: DatasetCounts {
            users: derived.users.len() as u64,
            items: derived.items.len() as u64,
            events: written.events,
            test_events: written.test_events,
            test_users: written.test_users,
        },
        split: SplitInfo {
            kind: if options.held_out == HeldOut::Nothing { "none" } else { "global-time" }.to_owned(),
            parameters: artist_split(options),
            cutoff_ms: (options.held_out != HeldOut::Nothing).then(|| i64::from(held_out_day) * DAY_MS),
            hash: written.split_hash,
        },
        has_time: true,
        has_weight: true,
        reference_day: Some(held_out_day - options.gap_days as i32 - 1),
        sources,
    };
    let songs = song_dataset::info(&info, song_split(options), &derived.songs, &of_songs);
    dataset::seal_songs(&writer.path(SONGS_DIR), &songs)?;
    writer.publish(MAGIC, VERSION, &info)?;
    clock.lap("publish");
    tracing::info!(lines = %derived.books, "prepared");
    Ok(PrepareSummary {
        info,
        songs,
        books: derived.books,
        rows: artist_rows,
        song_rows,
        days_read,
        days_kept: index.days.len() - days_read,
    })
}

/// How long each stage took, for logs at level debug.
struct Clock(Cell<Instant>);

impl Clock {
    fn start() -> Self {
        Self(Cell::new(Instant::now()))
    }

    fn lap(&self, stage: &str) {
        let seconds = self.0.replace(Instant::now()).elapsed().as_secs_f64();
        tracing::debug!(stage, seconds, "prepare");
    }
}

/// Brings every day into `writer`: normalised from its raw parts, or taken over. Returns the index, what the events came
/// from, and how many days were read.
async fn read_days(
    options: &PrepareOptions,
    writer: &DirWriter,
    previous: Option<&Dataset>,
) -> Result<(DayIndex, (PathBuf, FileEntry), usize)> {
    let lines = RawLines::open(options, &writer.path(STAGED_ZONE)).await?;
    let mut index = match previous {
        Some(dataset) => DayIndex::read(&dataset.dir, &options.user_key)?,
        None => DayIndex::new(&options.user_key),
    };
    let changed: Vec<Option<i32>> = lines
        .days()
        .into_iter()
        .filter(|day| day.is_none_or(|day| options.days.contains(day)))
        .filter(|day| {
            let known = index.days.get(&days::day_name(*day));
            lines.version(*day).is_none_or(|version| known.is_none_or(|state| state.parts != version))
        })
        .collect();
    if let Some(dataset) = previous {
        for name in index.days.keys().filter(|name| changed.iter().all(|day| days::day_name(*day) != **name)) {
            days::link(&dataset.dir, writer.dir(), name)?;
        }
    }

    let workers = rayon::current_num_threads().max(1);
    // Executors have memory of their own.
    let affordable = if options.engine.is_remote() { usize::MAX } else { options.memory_bytes / SORTER_BYTES };
    let side_by_side = options.engine.days_side_by_side(workers).min(changed.len()).min(affordable).max(1);
    let resources = Resources {
        side_by_side,
        partitions: (workers / side_by_side).max(1),
        memory_bytes: options.memory_bytes,
        temporary: &writer.path(SPILL_DIR),
    };
    let session = options.engine.session(&resources).await?;
    lines.register(&session);
    let lines = Arc::new(lines);
    let bar = progress::bar("prepare", "days", changed.len() as u64);
    let states: Vec<(String, DayState)> = futures::stream::iter(changed)
        .map(|day| {
            let name = days::day_name(day);
            let (events, quarantine) = days::files_of(writer.dir(), &name);
            let context = options.engine.of_a_day(&session, &resources);
            let (user_key, lines) = (options.user_key.clone(), Arc::clone(&lines));
            let task = tokio::spawn(async move {
                let context = context?;
                let paths = DayPaths { events, quarantine };
                let books = normalise::normalise(&context, &lines, day, &user_key, &paths).await?;
                Ok::<_, Error>((name, DayState { parts: lines.version_or_files(day), books }))
            });
            let bar = &bar;
            async move {
                let state = task.await.map_err(|error| Error::Internal(format!("a day's task: {error}")))?;
                bar.inc(1);
                state
            }
        })
        .buffer_unordered(side_by_side)
        .try_collect()
        .await?;
    bar.finish_and_clear();
    let days_read = states.len();
    index.days.extend(states);
    Ok((index, (lines.name.clone(), lines.entry()), days_read))
}

/// What [`derive`] made.
struct Derived {
    users: FeatureTable,
    items: FeatureTable,
    songs: FeatureTable,
    walked: Walked,
    books: Books,
    day_books: BTreeMap<String, Books>,
    sources: Vec<(PathBuf, FileEntry)>,
}

/// Everything that is made of the day files.
fn derive(
    options: &PrepareOptions,
    writer: &DirWriter,
    previous: Option<&Dataset>,
    index: &DayIndex,
    held_out_day: i32,
    clock: &Clock,
) -> Result<Derived> {
    // Training and every feature end here; with a gap that is before the held-out period.
    let cutoff_day = held_out_day - options.gap_days as i32;
    let reference_day = chrono::NaiveDate::from_epoch_days(cutoff_day - 1)
        .ok_or_else(|| Error::input("the cutoff is outside of the calendar"))?;
    let rules = AccountRules { user_key: &options.user_key, age_edges: &options.age_edges, reference_day };
    let artists_path = options.catalogue.join("artists.csv");
    let songs_path = options.catalogue.join("songs.csv");
    let daily_path = options.catalogue.join(catalogue::DAILY_FILE);
    let (accounts, catalogue) = rayon::join(
        || accounts::read(&options.accounts, &rules),
        || {
            let artists = catalogue::read_artists(&artists_path)?;
            let rows: HashMap<String, u32> =
                artists.iter().enumerate().map(|(row, artist)| (artist.id.clone(), row as u32)).collect();
            let songs = catalogue::read_songs(&songs_path, &rows)?;
            let followers = catalogue::read_followers(&daily_path, &rows, cutoff_day)?;
            Ok::<_, Error>((artists, rows, songs, followers))
        },
    );
    let (accounts, (artists, artist_rows, songs, followers)) = (accounts?, catalogue?);
    let forgotten = match previous {
        Some(dataset) => ForgottenList::read(&dataset.dir)?,
        None => ForgottenList::default(),
    };
    forgotten.write(writer.dir())?;
    let users = Users::new(accounts, &forgotten);
    let known = Known {
        artists: artist_rows,
        songs: songs.iter().enumerate().map(|(row, song)| (song.id.clone(), row as u32)).collect(),
    };
    clock.lap("accounts and catalogue");

    let mut days = Days::new(writer.dir(), index, |kind, id| known.row_of(kind, id));
    let (counts, day_books) = walks::count(options, &mut days, &users, &songs, cutoff_day)?;
    let mut books = Books::default();
    day_books.values().for_each(|day| books += day);
    books.check()?;
    let joins = artists.iter().map(|artist| artist.join.unwrap_or(i32::MIN)).collect();
    let as_of = AsOf::new(&counts, songs.len(), joins, &followers, cutoff_day);
    drop(counts);
    clock.lap("first walk");

    // Rows in the order of ids: the same tables whatever the order of the source files.
    let mut items: Vec<usize> =
        (0..artists.len()).filter(|&artist| artists[artist].join.is_none_or(|day| day < cutoff_day)).collect();
    items.sort_unstable_by_key(|&artist| &artists[artist].id);
    let item_rows = invert(&items, artists.len());
    let mut released: Vec<usize> = (0..songs.len())
        .filter(|&song| songs[song].release.is_none_or(|day| day < cutoff_day))
        .filter(|&song| item_rows[songs[song].artist as usize].is_some())
        .collect();
    released.sort_unstable_by_key(|&song| &songs[song].id);
    let song_rows = invert(&released, songs.len());
    let walk = Walk {
        artists: &artists,
        songs: &songs,
        item_rows: &item_rows,
        song_rows: &song_rows,
        as_of: &as_of,
        strengths: options.strengths,
        cutoff_day,
        held_out_day: (options.held_out != HeldOut::Nothing).then_some(held_out_day),
        new_artists_only: options.new_artists_only,
        new_songs_only: options.new_songs_only,
    };
    let (walked, item_files) = rayon::join(
        || walks::walk_users(options, writer, &mut days, &users, &walk, (&items, &released)),
        || {
            item_files::write_item_days(writer, &artists, &items, &as_of)?;
            item_files::write_song_days(writer, &released, &as_of)
        },
    );
    let walked = walked?;
    clock.lap("second walk");
    if walked.artist_rows.train == 0 {
        let message = match walked.artist_rows.positive_events {
            0 => no_positives(&books),
            _ => {
                let first = days::day_name(walked.activity.iter().filter_map(|user| user.first_day).min());
                format!("{}: no training events are left before it; the first is of {first}", artist_split(options))
            }
        };
        return Err(Error::data(events_name(options), message));
    }
    item_files?;
    let user_table =
        features::users(&users.accounts, &walked.activity, &as_of, options.min_users_per_place, cutoff_day)?;
    let item_table = features::items(&artists, &items, &as_of, cutoff_day)?;
    let song_table = features::songs(&songs, &artists, &released, &as_of, cutoff_day)?;
    let schema = features::schema();
    for (what, file, table, columns) in
        [("users", USERS_FILE, &user_table, &schema.users), ("items", ITEMS_FILE, &item_table, &schema.items)]
    {
        dataset::check_table(what, table, columns)?;
        dataset::write_table(writer.path(file), table, columns)?;
    }
    song_dataset::write_tables(writer, &song_table)?;
    if let Some(truth) = &options.truth {
        oracle::write(truth, &options.user_key, writer, &user_table, [&item_table, &song_table])?;
    }
    clock.lap("tables");
    let mut sources = vec![artists_path, songs_path];
    sources.extend(Some(daily_path).filter(|path| path.exists()));
    if let AccountSource::Csv(path) = &options.accounts {
        sources.push(path.clone());
    }
    let sources =
        sources.into_par_iter().map(|path| checksum(&path).map(|entry| (path, entry))).collect::<Result<_>>()?;
    Ok(Derived { users: user_table, items: item_table, songs: song_table, walked, books, day_books, sources })
}

/// Row of the table for each source row; nothing for those left out.
fn invert(order: &[usize], len: usize) -> Vec<Option<u32>> {
    let mut rows = vec![None; len];
    for (row, &source) in order.iter().enumerate() {
        rows[source] = Some(row as u32);
    }
    rows
}

/// Writes the quality report into the dataset; a broken threshold is an error, and the report then lies beside `out`.
fn report(
    options: &PrepareOptions,
    writer: &DirWriter,
    out: &Path,
    previous: Option<&Dataset>,
    derived: &Derived,
) -> Result<()> {
    let days = derived.day_books.iter().map(|(day, books)| DayBooks { day: day.clone(), books: books.clone() });
    let mut report = Report::new(derived.books.clone(), days.collect());
    let tables = [("users", &derived.users), ("items", &derived.items), (SONGS_DIR, &derived.songs)];
    report.describe(&tables);
    if let Some(dataset) = previous {
        let path = dataset.dir.join(QUALITY_FILE);
        if path.exists() {
            let before = Report::read_json(&path)?;
            report.compare(&before, &dataset.fingerprint, &tables);
        }
    }
    let passed = quality::check(&mut report, &options.thresholds);
    let refused = [QUALITY_FILE, QUALITY_PAGE].map(|name| {
        let stem = out.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        out.with_file_name(format!("{stem}.refused.{name}"))
    });
    let [json, page] = match passed {
        true => {
            // What an earlier run was refused for no longer stands.
            refused
                .iter()
                .filter(|path| path.exists())
                .try_for_each(|path| fs::remove_file(path).map_err(Error::io(path)))?;
            [writer.path(QUALITY_FILE), writer.path(QUALITY_PAGE)]
        }
        false => refused,
    };
    report.write_json(&json)?;
    report.write_html(&page)?;
    match passed {
        true => Ok(()),
        false => {
            Err(Error::data(page, format!("the data breaks {}; nothing was published", report.failures().join("; "))))
        }
    }
}
