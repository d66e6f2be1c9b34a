//! Reading the catalogue: artists, the songs' artists and lengths, followers by day.

use std::path::Path;

use duet_core::{Error, Result};
use hashbrown::HashMap;

use super::table::{Cells, Table, parse_day, parse_number};

/// The file with followers by day; optional.
pub(super) const DAILY_FILE: &str = "artist_daily.csv";

/// An artist as the catalogue has it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Artist {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) genres: Vec<String>,
    /// Days since 1970-01-01, as `join`.
    pub(super) first_release: Option<i32>,
    pub(super) join: Option<i32>,
    pub(super) following: Option<f64>,
}

impl Artist {
    /// Followers for each artist followed; NaN where either is unknown.
    pub(super) fn follower_ratio(&self, followers: f64) -> f64 {
        self.following.map_or(f64::NAN, |count| followers / count.max(1.0))
    }
}

/// Reads `artists.csv`; columns `artist_id` (required), `name`, `genres` (separated by `|`), `first_release_date`,
/// `join_date`, `following`. `followers` is not read: it is the figure of the day of export, which may be later than
/// the training period; [`read_followers`] has the right ones.
pub(super) fn read_artists(path: &Path) -> Result<Vec<Artist>> {
    let table = Table::open(path, &["artist_id"])?;
    let [id, name, genres, first, join, following] =
        ["artist_id", "name", "genres", "first_release_date", "join_date", "following"].map(|name| table.column(name));
    let mut artists = Vec::new();
    let mut rows: HashMap<String, u64> = HashMap::new();
    let date = "a date like 2024-12-31";
    table.for_each(|cells| {
        let artist_id = cells.required(id, "artist_id")?.to_owned();
        if let Some(earlier) = rows.insert(artist_id.clone(), cells.row) {
            return Err(Error::data_row(path, cells.row, format!("artist {artist_id:?} is in row {earlier} already")));
        }
        let list = cells.text(genres).unwrap_or_default().split('|').map(str::trim).filter(|genre| !genre.is_empty());
        artists.push(Artist {
            id: artist_id,
            name: cells.text(name).unwrap_or_default().to_owned(),
            genres: list.map(str::to_owned).collect(),
            first_release: cells.parse(first, "first_release_date", date, parse_day)?,
            join: cells.parse(join, "join_date", date, parse_day)?,
            following: cells.parse(following, "following", "a number from 0", not_negative)?,
        });
        Ok(())
    })?;
    if artists.is_empty() {
        return Err(Error::data(path, "no artists below the header"));
    }
    Ok(artists)
}

/// A song as the catalogue has it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Song {
    pub(super) id: String,
    /// Row of the artists.
    pub(super) artist: u32,
    pub(super) title: String,
    pub(super) duration_ms: u64,
    /// Days since 1970-01-01.
    pub(super) release: Option<i32>,
}

impl Song {
    /// The part of the song that was heard, in `[0, 1]`.
    pub(super) fn listen_ratio(&self, ms_played: u64) -> f64 {
        ms_played.min(self.duration_ms) as f64 / self.duration_ms as f64
    }
}

/// Reads `songs.csv`; columns `song_id`, `artist_id`, `duration_ms` (required), `title`, `release_date`.
pub(super) fn read_songs(path: &Path, artists: &HashMap<String, u32>) -> Result<Vec<Song>> {
    let table = Table::open(path, &["song_id", "artist_id", "duration_ms"])?;
    let [id, artist, title, duration, release] =
        ["song_id", "artist_id", "title", "duration_ms", "release_date"].map(|name| table.column(name));
    let mut songs: Vec<Song> = Vec::new();
    let mut rows: HashMap<String, u64> = HashMap::new();
    table.for_each(|cells| {
        let song_id = cells.required(id, "song_id")?.to_owned();
        let artist = artist_row(path, cells, cells.required(artist, "artist_id")?, artists)?;
        let duration_ms = cells
            .parse(duration, "duration_ms", "whole milliseconds from 1", |text| {
                text.parse::<u64>().ok().filter(|length| *length > 0)
            })?
            .ok_or_else(|| cells.bad("duration_ms", "a value"))?;
        if let Some(earlier) = rows.insert(song_id.clone(), cells.row) {
            return Err(Error::data_row(path, cells.row, format!("song {song_id:?} is in row {earlier} already")));
        }
        songs.push(Song {
            id: song_id,
            artist,
            title: cells.text(title).unwrap_or_default().to_owned(),
            duration_ms,
            release: cells.parse(release, "release_date", "a date like 2024-12-31", parse_day)?,
        });
        Ok(())
    })?;
    Ok(songs)
}

/// Followers of an artist at the end of a day.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Followers {
    /// Row of the artists.
    pub(super) artist: u32,
    /// Days since 1970-01-01.
    pub(super) day: i32,
    pub(super) count: f64,
}

/// Followers by day, from the days before `before` only. An absent file means no figures.
pub(super) fn read_followers(path: &Path, artists: &HashMap<String, u32>, before: i32) -> Result<Vec<Followers>> {
    if !path.exists() {
        tracing::warn!(path = %path.display(), "absent: followers stay unknown, for other figures may be of a later day");
        return Ok(Vec::new());
    }
    let table = Table::open(path, &["day", "artist_id", "followers"])?;
    let [day_column, id, count] = ["day", "artist_id", "followers"].map(|name| table.column(name));
    let mut followers = Vec::new();
    table.for_each(|cells| {
        let day = cells
            .parse(day_column, "day", "a date like 2024-12-31", parse_day)?
            .ok_or_else(|| cells.bad("day", "a value"))?;
        let artist = artist_row(path, cells, cells.required(id, "artist_id")?, artists)?;
        let count = cells
            .parse(count, "followers", "a number from 0", not_negative)?
            .ok_or_else(|| cells.bad("followers", "a value"))?;
        if day < before {
            followers.push(Followers { artist, day, count });
        }
        Ok(())
    })?;
    Ok(followers)
}

fn artist_row(path: &Path, cells: &Cells<'_>, artist_id: &str, artists: &HashMap<String, u32>) -> Result<u32> {
    artists
        .get(artist_id)
        .copied()
        .ok_or_else(|| Error::data_row(path, cells.row, format!("artist {artist_id:?} is not in artists.csv")))
}

fn not_negative(text: &str) -> Option<f64> {
    parse_number(text).filter(|value| *value >= 0.0)
}
