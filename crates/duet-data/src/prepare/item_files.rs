//! The files about items: `songs.parquet` as of the cutoff, `item_daily.parquet` and `song_daily.parquet` as of every day.
//!
//! | file | one row per | columns |
//! | --- | --- | --- |
//! | `songs.parquet` | song released before the cutoff | `id`, `artist` (id), `title`, `duration_ms`, `release_day`, `release_age_days`, `mean_listen`, `plays_7d`, `plays_28d`, `artist_rank` (1: the artist's most played in 28 days) |
//! | `item_daily.parquet` | artist and day with plays in 28 days or a figure of followers | `item`, `day`, `plays_7d`, `plays_28d`, `trending_rank`, `followers`, `follower_ratio`, `catalogue_age_days` |
//! | `song_daily.parquet` | song and day with plays | `song`, `day`, `plays_7d`, `plays_28d`, `mean_listen` |
//!
//! A row of day `d` says what was known at the end of `d`: join it to events of `d + 1`. No row in `item_daily` means no
//! plays in 28 days, in `song_daily` that the last row before still stands (but for the plays, which fall out of reach).

use arrow::{
    array::{Date32Array, Float64Array, StringArray},
    datatypes::{DataType, Float64Type, UInt32Type, UInt64Type},
};
use duet_core::{Result, artifact::DirWriter};

use super::{
    as_of::AsOf,
    catalogue::{Artist, Song},
    outputs::{Rows, array, field, known, optional, values},
};

pub(super) const SONGS_FILE: &str = "songs.parquet";
pub(super) const ITEM_DAILY_FILE: &str = "item_daily.parquet";
pub(super) const SONG_DAILY_FILE: &str = "song_daily.parquet";

struct SongRow<'a> {
    song: &'a Song,
    artist: &'a str,
    figures: super::as_of::SongFigures,
    rank: u32,
    reference_day: i32,
}

/// Writes the songs in the order of `order` (rows of the catalogue).
pub(super) fn write_songs(
    writer: &DirWriter,
    songs: &[Song],
    artists: &[Artist],
    order: &[usize],
    as_of: &AsOf,
    reference_day: i32,
) -> Result<()> {
    let mut rows: Vec<SongRow<'_>> = order
        .iter()
        .map(|&row| SongRow {
            song: &songs[row],
            artist: &artists[songs[row].artist as usize].id,
            figures: as_of.song(row as u32, reference_day),
            rank: 0,
            reference_day,
        })
        .collect();
    let mut by_artist: Vec<usize> = (0..rows.len()).collect();
    by_artist.sort_by(|&a, &b| {
        let key = |at: usize| (rows[at].song.artist, -rows[at].figures.plays_28d);
        key(a).0.cmp(&key(b).0).then(key(a).1.total_cmp(&key(b).1)).then(rows[a].song.id.cmp(&rows[b].song.id))
    });
    let (mut last, mut rank) = (u32::MAX, 0);
    for at in by_artist {
        rank = if rows[at].song.artist == last { rank + 1 } else { 1 };
        last = rows[at].song.artist;
        rows[at].rank = rank;
    }
    let fields = vec![
        field("id", DataType::Utf8),
        field("artist", DataType::Utf8),
        field("title", DataType::Utf8),
        field("duration_ms", DataType::UInt64),
        optional("release_day", DataType::Date32),
        optional("release_age_days", DataType::Float64),
        field("mean_listen", DataType::Float64),
        field("plays_7d", DataType::Float64),
        field("plays_28d", DataType::Float64),
        field("artist_rank", DataType::UInt32),
    ];
    let mut out: Rows<SongRow<'_>> = Rows::create(writer.path(SONGS_FILE), fields, |rows: &[SongRow<'_>]| {
        let age = |row: &SongRow<'_>| row.song.release.map(|day| f64::from(row.reference_day - day));
        vec![
            array::<_, _, StringArray>(rows, |row| Some(row.song.id.clone())),
            array::<_, _, StringArray>(rows, |row| Some(row.artist.to_owned())),
            array::<_, _, StringArray>(rows, |row| Some(row.song.title.clone())),
            values::<_, UInt64Type>(rows, |row| row.song.duration_ms),
            array::<_, _, Date32Array>(rows, |row| row.song.release),
            array::<_, _, Float64Array>(rows, age),
            values::<_, Float64Type>(rows, |row| row.figures.mean_listen),
            values::<_, Float64Type>(rows, |row| row.figures.plays_7d),
            values::<_, Float64Type>(rows, |row| row.figures.plays_28d),
            values::<_, UInt32Type>(rows, |row| row.rank),
        ]
    })?;
    out.extend(rows)?;
    out.finish()
}

struct ItemDay {
    item: u32,
    day: i32,
    figures: super::as_of::ArtistFigures,
    follower_ratio: f64,
    catalogue_age: f64,
}

/// Writes the figures of artists by day; `item_rows` are rows of the items table by row of the catalogue, and `order`
/// its inverse.
pub(super) fn write_item_days(writer: &DirWriter, artists: &[Artist], order: &[usize], as_of: &AsOf) -> Result<()> {
    let fields = vec![
        field("item", DataType::UInt32),
        field("day", DataType::Date32),
        field("plays_7d", DataType::Float64),
        field("plays_28d", DataType::Float64),
        field("trending_rank", DataType::Float64),
        optional("followers", DataType::Float64),
        optional("follower_ratio", DataType::Float64),
        optional("catalogue_age_days", DataType::Float64),
    ];
    let mut out: Rows<ItemDay> = Rows::create(writer.path(ITEM_DAILY_FILE), fields, |rows: &[ItemDay]| {
        vec![
            values::<_, UInt32Type>(rows, |row| row.item),
            array::<_, _, Date32Array>(rows, |row| Some(row.day)),
            values::<_, Float64Type>(rows, |row| row.figures.plays_7d),
            values::<_, Float64Type>(rows, |row| row.figures.plays_28d),
            values::<_, Float64Type>(rows, |row| row.figures.trending_rank),
            array::<_, _, Float64Array>(rows, |row| known(row.figures.followers)),
            array::<_, _, Float64Array>(rows, |row| known(row.follower_ratio)),
            array::<_, _, Float64Array>(rows, |row| known(row.catalogue_age)),
        ]
    })?;
    for (item, &row) in order.iter().enumerate() {
        let artist = &artists[row];
        let days = as_of.artist_days(row as u32).into_iter().map(|day| {
            let figures = as_of.artist(row as u32, day);
            ItemDay {
                item: item as u32,
                day,
                follower_ratio: artist.follower_ratio(figures.followers),
                catalogue_age: artist.first_release.map_or(f64::NAN, |first| f64::from(day - first)),
                figures,
            }
        });
        out.extend(days)?;
    }
    out.finish()
}

struct SongDay {
    song: u32,
    day: i32,
    figures: super::as_of::SongFigures,
}

/// Writes the figures of songs by day, in the order of the songs table.
pub(super) fn write_song_days(writer: &DirWriter, order: &[usize], as_of: &AsOf) -> Result<()> {
    let fields = vec![
        field("song", DataType::UInt32),
        field("day", DataType::Date32),
        field("plays_7d", DataType::Float64),
        field("plays_28d", DataType::Float64),
        field("mean_listen", DataType::Float64),
    ];
    let mut out: Rows<SongDay> = Rows::create(writer.path(SONG_DAILY_FILE), fields, |rows: &[SongDay]| {
        vec![
            values::<_, UInt32Type>(rows, |row| row.song),
            array::<_, _, Date32Array>(rows, |row| Some(row.day)),
            values::<_, Float64Type>(rows, |row| row.figures.plays_7d),
            values::<_, Float64Type>(rows, |row| row.figures.plays_28d),
            values::<_, Float64Type>(rows, |row| row.figures.mean_listen),
        ]
    })?;
    for (song, &row) in order.iter().enumerate() {
        let days = as_of.song_days(row as u32).map(|day| SongDay {
            song: song as u32,
            day,
            figures: as_of.song(row as u32, day),
        });
        out.extend(days)?;
    }
    out.finish()
}
