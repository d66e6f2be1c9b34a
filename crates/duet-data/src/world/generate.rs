//! Writing a world: the order of the files, the chunks that keep memory flat, the counts.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use chrono::{Datelike, Days, NaiveDate};
use duet_core::{
    Error, Result,
    artifact::{DirWriter, IfExists},
    event::EventType,
    progress,
};
use fs_err as fs;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{
    account,
    behaviour::World,
    catalogue::Catalogue,
    json::{artist_id, song_id, user_id},
    listener::Population,
    options::WorldOptions,
    truth,
};

/// Magic of the manifest.
pub const MAGIC: &str = "duet-world";
/// Format version.
pub const VERSION: u32 = 1;

/// Users simulated as one piece of work. Small enough that the demo's 8,000 users fill two cores, and that the lines of
/// a piece (a few hundred kilobytes) stay in the cache until they are written.
const CHUNK: u64 = 512;
/// A part file ends at the first chunk after so many bytes.
const PART_BYTES: usize = 64 << 20;

/// Counts of lines by what they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Lines written, flawed ones and duplicates included.
    pub lines: u64,
    /// Days on which a user came.
    pub user_days: u64,
    /// Events by type, in the order of [`EventType::ALL`], duplicates not counted.
    pub by_type: [u64; 6],
    /// Malformed lines.
    pub malformed: u64,
    /// Second copies.
    pub duplicate: u64,
    /// Events written after their day.
    pub late: u64,
    /// Events with an id no table knows.
    pub unknown_id: u64,
    /// Events with a wrong clock.
    pub clock_skew: u64,
}

impl Stats {
    fn add(&mut self, other: &Self) {
        self.lines += other.lines;
        self.user_days += other.user_days;
        self.malformed += other.malformed;
        self.duplicate += other.duplicate;
        self.late += other.late;
        self.unknown_id += other.unknown_id;
        self.clock_skew += other.clock_skew;
        for (sum, count) in self.by_type.iter_mut().zip(other.by_type) {
            *sum += count;
        }
    }

    /// Events of a type, duplicates not counted.
    pub fn of(&self, event_type: EventType) -> u64 {
        self.by_type[event_type as usize]
    }
}

/// What was written; also the body of the manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorldSummary {
    /// What was asked for.
    pub options: WorldOptions,
    /// Songs in the catalogue.
    pub songs: u64,
    /// Lines of events.
    pub stats: Stats,
    /// Bytes of events.
    pub event_bytes: u64,
    /// Files of events.
    pub event_files: u64,
}

/// Makes the world of `options` in the directory `out`:
///
/// | file | content |
/// | --- | --- |
/// | `events/date=YYYY-MM-DD/part-NNNN.jsonl` | events by the local day they arrived |
/// | `accounts.csv`, `accounts.sql` | accounts with personal data (invented), for files and for Postgres |
/// | `catalogue/artists.csv`, `songs.csv`, `artist_daily.csv` | the catalogue, and followers at the end of each day |
/// | `truth/users.parquet`, `truth/artists.parquet`, `truth/songs.parquet` | true affinity vectors; score = dot product |
///
/// # Errors
/// [`Error::Input`] for impossible options or a taken `out`, [`Error::Io`] with the path; nothing is left behind then.
pub fn generate(options: &WorldOptions, out: &Path, if_exists: IfExists) -> Result<WorldSummary> {
    options.validate()?;
    let last = options.start.checked_add_days(Days::new(u64::from(options.days)));
    if options.start.year() < 1970 || last.is_none_or(|last| last.year() > 9_000) {
        return Err(Error::input(format!("world: start is {}; valid: 1970-01-01 to the year 9000", options.start)));
    }
    let directory = DirWriter::create(out, if_exists)?;
    for name in ["events", "catalogue", "truth"] {
        let path = directory.path(name);
        fs::create_dir(&path).map_err(Error::io(&path))?;
    }
    let world = World {
        options,
        population: Population::new(options),
        catalogue: Catalogue::new(options),
        start_day: i64::from(options.start.to_epoch_days()),
    };
    write_catalogue(&world, &directory.path("catalogue"))?;
    truth::write_artists(&world, &directory.path("truth/artists.parquet"))?;
    truth::write_songs(&world, &directory.path("truth/songs.parquet"))?;
    write_users(&world, &directory)?;

    let mut summary = WorldSummary {
        options: options.clone(),
        songs: world.catalogue.songs.len() as u64,
        stats: Stats::default(),
        event_bytes: 0,
        event_files: 0,
    };
    let bar = progress::bar("world", "days", u64::from(options.days));
    for day in 0..options.days {
        let date = options.start + Days::new(u64::from(day));
        let path = directory.path(&format!("events/date={date}"));
        fs::create_dir(&path).map_err(Error::io(&path))?;
        write_day(&world, day as i32, &path, &mut summary)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    directory.publish(MAGIC, VERSION, &summary)?;
    Ok(summary)
}

/// Calls `work` on every chunk of users in parallel, and `sink` on the results in order; a few chunks are in memory
/// at a time.
pub(super) fn by_chunks<T: Send>(
    users: u64,
    work: impl Fn(std::ops::Range<u64>) -> T + Sync,
    mut sink: impl FnMut(T) -> Result<()>,
) -> Result<()> {
    let chunks = users.div_ceil(CHUNK);
    let wave = 8 * rayon::current_num_threads() as u64;
    let mut first = 0;
    while first < chunks {
        let done: Vec<T> = (first..chunks.min(first + wave))
            .into_par_iter()
            .map(|chunk| work(chunk * CHUNK..users.min((chunk + 1) * CHUNK)))
            .collect();
        for result in done {
            sink(result)?;
        }
        first += wave;
    }
    Ok(())
}

fn write_day(world: &World<'_>, day: i32, directory: &Path, summary: &mut WorldSummary) -> Result<()> {
    let mut part: Option<(PathBuf, File, usize)> = None;
    let mut parts = 0;
    let simulate = |users: std::ops::Range<u64>| {
        let mut out = Vec::with_capacity(1 << 18);
        let mut stats = Stats::default();
        for user in users {
            world.live(user, day, &mut out, &mut stats);
        }
        (out, stats)
    };
    by_chunks(world.options.users, simulate, |(lines, stats)| {
        summary.stats.add(&stats);
        summary.event_bytes += lines.len() as u64;
        if lines.is_empty() {
            return Ok(());
        }
        if part.as_ref().is_none_or(|part| part.2 >= PART_BYTES) {
            let path = directory.join(format!("part-{parts:04}.jsonl"));
            let file = File::create(&path).map_err(Error::io(&path))?;
            parts += 1;
            part = Some((path, file, 0));
        }
        if let Some((path, file, bytes)) = &mut part {
            file.write_all(&lines).map_err(Error::io(&*path))?;
            *bytes += lines.len();
        }
        Ok(())
    })?;
    summary.event_files += parts;
    Ok(())
}

/// Accounts in both forms, and the users' half of the truth.
fn write_users(world: &World<'_>, directory: &DirWriter) -> Result<()> {
    let (csv_path, sql_path) = (directory.path("accounts.csv"), directory.path("accounts.sql"));
    let mut csv = create(&csv_path)?;
    let mut sql = create(&sql_path)?;
    writeln!(csv, "{}", account::COLUMNS).map_err(Error::io(&csv_path))?;
    sql.write_all(account::sql_head().as_bytes()).map_err(Error::io(&sql_path))?;
    let mut vectors =
        truth::VectorWriter::create(&directory.path("truth/users.parquet"), "user_id", world.catalogue.genres)?;
    let (mut ids, mut rows) = (Vec::new(), Vec::new());
    let derive = |users: std::ops::Range<u64>| {
        let (mut csv, mut sql, mut truth) = (String::new(), String::new(), Vec::new());
        for user in users.clone() {
            let person = world.population.person(user);
            account::push(world.options.seed, user, &person, world.options.start, &mut csv, &mut sql);
            truth.extend(truth::user_vector(world, user));
        }
        (users, csv, sql, truth)
    };
    by_chunks(world.options.users, derive, |(users, csv_rows, sql_rows, truth)| {
        csv.write_all(csv_rows.as_bytes()).map_err(Error::io(&csv_path))?;
        sql.write_all(sql_rows.as_bytes()).map_err(Error::io(&sql_path))?;
        ids.extend(users.map(user_id));
        rows.extend(truth);
        if ids.len() >= 65_536 {
            vectors.write(&std::mem::take(&mut ids), std::mem::take(&mut rows))?;
        }
        Ok(())
    })?;
    if !ids.is_empty() {
        vectors.write(&ids, rows)?;
    }
    vectors.close()?;
    sql.write_all(account::SQL_TAIL.as_bytes()).map_err(Error::io(&sql_path))?;
    csv.flush().map_err(Error::io(&csv_path))?;
    sql.flush().map_err(Error::io(&sql_path))
}

fn write_catalogue(world: &World<'_>, directory: &Path) -> Result<()> {
    let catalogue = &world.catalogue;
    let date = |day: i32| -> NaiveDate {
        world.options.start.checked_add_signed(chrono::Duration::days(i64::from(day))).unwrap_or(world.options.start)
    };
    let days = world.options.days as i32;
    let mean: f64 =
        (0..catalogue.len()).map(|artist| catalogue.popularity(artist, 0)).sum::<f64>() / catalogue.len() as f64;
    // Followers come with the years on the service, and grow by about one in a thousand a day.
    let mut followers: Vec<f64> = (0..catalogue.len())
        .map(|artist| {
            let years = f64::from(-catalogue.join[artist]).max(0.0) / 365.0;
            5_000.0 * years * catalogue.popularity(artist, 0) / mean
        })
        .collect();

    let path = directory.join("artist_daily.csv");
    let mut out = create(&path)?;
    writeln!(out, "day,artist_id,followers").map_err(Error::io(&path))?;
    for day in 0..days {
        for (artist, count) in followers.iter_mut().enumerate() {
            if catalogue.join[artist] > day {
                continue;
            }
            *count += 15.0 * catalogue.popularity(artist, day) / mean;
            writeln!(out, "{},{},{}", date(day), artist_id(artist), count.round()).map_err(Error::io(&path))?;
        }
    }
    out.flush().map_err(Error::io(&path))?;

    let path = directory.join("artists.csv");
    let mut out = create(&path)?;
    writeln!(out, "artist_id,name,genres,first_release_date,join_date,followers,following")
        .map_err(Error::io(&path))?;
    for (artist, count) in followers.iter().enumerate() {
        writeln!(
            out,
            "{},{},{},{},{},{},{}",
            artist_id(artist),
            catalogue.names[artist],
            catalogue.labels(world.options.seed, artist).join("|"),
            date(catalogue.first_release[artist]),
            date(catalogue.join[artist]),
            count.round(),
            catalogue.following[artist]
        )
        .map_err(Error::io(&path))?;
    }
    out.flush().map_err(Error::io(&path))?;

    let path = directory.join("songs.csv");
    let mut out = create(&path)?;
    writeln!(out, "song_id,artist_id,title,duration_ms,release_date").map_err(Error::io(&path))?;
    for artist in 0..catalogue.len() {
        for song in catalogue.songs.of(artist) {
            let title = catalogue.title(world.options.seed, song);
            let (length, released) = (catalogue.songs.length_ms[song], date(catalogue.songs.release[song]));
            writeln!(out, "{},{},{title},{length},{released}", song_id(song), artist_id(artist))
                .map_err(Error::io(&path))?;
        }
    }
    out.flush().map_err(Error::io(&path))
}

fn create(path: &Path) -> Result<BufWriter<File>> {
    Ok(BufWriter::with_capacity(1 << 18, File::create(path).map_err(Error::io(path))?))
}
