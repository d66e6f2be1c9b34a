//! Reading the catalogue: artists, the songs' artists and lengths, followers by day.

use std::{collections::HashMap, path::Path};

use duet_core::{Error, Result};

use super::table::{Table, parse_day, parse_number};

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

/// Reads `artists.csv`; columns `artist_id` (required), `name`, `genres` (separated by `|`), `first_release_date`,
/// `join_date`, `following`. `followers` is not read: it is the figure of the day of export, which may be later than
/// the training period; [`followers_before`] has the right one.
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

/// Reads `songs.csv`: song id to artist row and length in milliseconds.
pub(super) fn read_songs(path: &Path, artists: &HashMap<String, u32>) -> Result<HashMap<String, (u32, u64)>> {
    let table = Table::open(path, &["song_id", "artist_id", "duration_ms"])?;
    let [id, artist, duration] = ["song_id", "artist_id", "duration_ms"].map(|name| table.column(name));
    let mut songs = HashMap::new();
    table.for_each(|cells| {
        let song_id = cells.required(id, "song_id")?;
        let artist_id = cells.required(artist, "artist_id")?;
        let &row = artists
            .get(artist_id)
            .ok_or_else(|| Error::data_row(path, cells.row, format!("artist {artist_id:?} is not in artists.csv")))?;
        let length = cells
            .parse(duration, "duration_ms", "whole milliseconds from 1", |text| {
                text.parse::<u64>().ok().filter(|length| *length > 0)
            })?
            .ok_or_else(|| cells.bad("duration_ms", "a value"))?;
        if songs.insert(song_id.to_owned(), (row, length)).is_some() {
            return Err(Error::data_row(path, cells.row, format!("song {song_id:?} occurs twice")));
        }
        Ok(())
    })?;
    Ok(songs)
}

/// Followers of each artist at the end of the last day before `day`; NaN where there is no figure. An absent file
/// means no figures.
pub(super) fn followers_before(path: &Path, artists: &HashMap<String, u32>, day: i32) -> Result<Vec<f64>> {
    let mut followers = vec![f64::NAN; artists.len()];
    if !path.exists() {
        tracing::warn!(path = %path.display(), "absent: followers stay unknown, for other figures may be of a later day");
        return Ok(followers);
    }
    let table = Table::open(path, &["day", "artist_id", "followers"])?;
    let [day_column, id, count] = ["day", "artist_id", "followers"].map(|name| table.column(name));
    let mut latest = vec![i32::MIN; artists.len()];
    table.for_each(|cells| {
        let of = cells
            .parse(day_column, "day", "a date like 2024-12-31", parse_day)?
            .ok_or_else(|| cells.bad("day", "a value"))?;
        let artist_id = cells.required(id, "artist_id")?;
        let &row = artists
            .get(artist_id)
            .ok_or_else(|| Error::data_row(path, cells.row, format!("artist {artist_id:?} is not in artists.csv")))?;
        let value = cells
            .parse(count, "followers", "a number from 0", not_negative)?
            .ok_or_else(|| cells.bad("followers", "a value"))?;
        if of < day && of > latest[row as usize] {
            latest[row as usize] = of;
            followers[row as usize] = value;
        }
        Ok(())
    })?;
    Ok(followers)
}

fn not_negative(text: &str) -> Option<f64> {
    parse_number(text).filter(|value| *value >= 0.0)
}
