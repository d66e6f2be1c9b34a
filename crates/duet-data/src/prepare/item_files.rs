//! The files about items as of every day: `item_daily.parquet` and `song_daily.parquet`.
//!
//! | file | one row per | columns |
//! | --- | --- | --- |
//! | `item_daily.parquet` | artist and day with plays in 28 days or a figure of followers | `item`, `day`, `plays_7d`, `plays_28d`, `trending_rank`, `followers`, `follower_ratio`, `catalogue_age_days` |
//! | `song_daily.parquet` | song and day with plays | `song`, `day`, `plays_7d`, `plays_28d`, `mean_listen` |
//!
//! A row of day `d` says what was known at the end of `d`: join it to events of `d + 1`. No row in `item_daily` means no
//! plays in 28 days, in `song_daily` that the last row before still stands (but for the plays, which fall out of reach).

use arrow::{
    array::{Date32Array, Float64Array},
    datatypes::{DataType, Float64Type, UInt32Type},
};
use duet_core::{Result, artifact::DirWriter};

use super::{
    as_of::AsOf,
    catalogue::Artist,
    outputs::{Rows, array, field, known, optional, values},
};

pub(super) const ITEM_DAILY_FILE: &str = "item_daily.parquet";
pub(super) const SONG_DAILY_FILE: &str = "song_daily.parquet";

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
