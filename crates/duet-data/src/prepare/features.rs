//! The tables of users, artists and songs: every figure counts only what happened before the cutoff day.

use std::collections::HashMap;

use duet_core::{
    Result,
    ids::IdMap,
    schema::{Columns, FeatureKind, Schema},
    table::{Column, ColumnValues, FeatureTable},
};

use super::{
    as_of::AsOf,
    catalogue::{Artist, Song},
};
use crate::accounts::{Account, Place, fold};

const DAY_MS: i64 = 86_400_000;

fn categorical() -> FeatureKind {
    FeatureKind::Categorical {}
}

fn genres() -> FeatureKind {
    FeatureKind::MultiCategorical { separator: "|".to_owned() }
}

fn numeric() -> FeatureKind {
    FeatureKind::Numeric {}
}

fn columns<const N: usize>(list: [(&str, FeatureKind); N]) -> Columns {
    list.into_iter().map(|(name, kind)| (name.to_owned(), kind)).collect()
}

/// The columns of the dataset of songs; its users are those of artists.
pub(super) fn song_schema() -> Schema {
    Schema {
        items: columns([
            ("artist", categorical()),
            ("artist_followers", numeric()),
            ("artist_trending_rank", numeric()),
            ("duration_ms", numeric()),
            ("genres", genres()),
            ("mean_listen", numeric()),
            ("plays_7d", numeric()),
            ("plays_28d", numeric()),
            ("release", FeatureKind::Date {}),
        ]),
        ..schema()
    }
}

/// The columns that `prepare` makes of users and artists.
pub(super) fn schema() -> Schema {
    Schema {
        users: columns([
            ("age_bucket", categorical()),
            ("gender", categorical()),
            ("city", categorical()),
            ("state", categorical()),
            ("country", categorical()),
            ("tenure_days", numeric()),
            ("recency_days", numeric()),
            ("click_rate", numeric()),
        ]),
        items: columns([
            ("genres", genres()),
            ("followers", numeric()),
            ("follower_ratio", numeric()),
            ("trending_rank", numeric()),
            ("plays_7d", numeric()),
            ("plays_28d", numeric()),
            ("first_release", FeatureKind::Date {}),
        ]),
    }
}

fn assemble(
    ids: Vec<String>,
    names: Vec<String>,
    declared: &Columns,
    mut values: HashMap<&str, ColumnValues>,
) -> Result<FeatureTable> {
    let columns = declared
        .keys()
        .filter_map(|name| values.remove(name.as_str()).map(|values| Column { name: name.clone(), values }))
        .collect();
    let table = FeatureTable { ids: IdMap::new(ids)?, names, columns };
    table.check()?;
    Ok(table)
}

/// What a user's own events say of them as of the cutoff.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Activity {
    pub(super) clicks: u64,
    pub(super) impressions: u64,
    /// UTC day of the first event, whenever it was.
    pub(super) first_day: Option<i32>,
    /// UTC day of the last event.
    pub(super) last_day: Option<i32>,
}

/// The users table, in the order of the accounts.
pub(super) fn users(
    accounts: &[Account],
    activity: &[Activity],
    as_of: &AsOf,
    min_users_per_place: usize,
    cutoff_day: i32,
) -> Result<FeatureTable> {
    let cutoff_ms = i64::from(cutoff_day) * DAY_MS;
    let mut places: Vec<Place> = accounts.iter().map(|account| account.place.clone()).collect();
    // Those who sign up later must not decide which places have a name.
    let there: Vec<bool> = accounts.iter().map(|account| account.created_ms.is_none_or(|at| at < cutoff_ms)).collect();
    fold(&mut places, &there, min_users_per_place);
    let tenure = |account: &Account| {
        let days = |at: i64| f64::from((cutoff_day - 1 - at.div_euclid(DAY_MS) as i32).max(0));
        account.created_ms.map_or(f64::NAN, days)
    };
    let recency = |activity: &Activity| activity.last_day.map_or(f64::NAN, |day| f64::from(cutoff_day - 1 - day));
    let rate = |activity: &Activity| as_of.click_rate(activity.clicks, activity.impressions, cutoff_day - 1);
    let text = |of: fn(&Account) -> Option<&str>| {
        ColumnValues::Text(accounts.iter().map(|account| of(account).map(str::to_owned)).collect())
    };
    let place = |of: fn(&Place) -> Option<&str>| {
        ColumnValues::Text(places.iter().map(|place| of(place).map(str::to_owned)).collect())
    };
    let values = HashMap::from([
        ("age_bucket", text(|account| account.age_bucket.as_deref())),
        ("gender", text(|account| account.gender.as_deref())),
        ("city", place(|place| place.city.as_deref())),
        ("state", place(|place| place.state.as_deref())),
        ("country", place(|place| place.country.as_deref())),
        ("tenure_days", ColumnValues::Number(accounts.iter().map(tenure).collect())),
        ("recency_days", ColumnValues::Number(activity.iter().map(recency).collect())),
        ("click_rate", ColumnValues::Number(activity.iter().map(rate).collect())),
    ]);
    let ids = accounts.iter().map(|account| account.pseudonym.to_string()).collect();
    assemble(ids, Vec::new(), &schema().users, values)
}

/// The items table; `order[row]` is the artist of a row.
pub(super) fn items(artists: &[Artist], order: &[usize], as_of: &AsOf, cutoff_day: i32) -> Result<FeatureTable> {
    let figures: Vec<_> = order.iter().map(|&artist| as_of.artist(artist as u32, cutoff_day - 1)).collect();
    let number = |of: &dyn Fn(usize) -> f64| ColumnValues::Number((0..order.len()).map(of).collect());
    let values = HashMap::from([
        ("genres", ColumnValues::TextList(order.iter().map(|&artist| artists[artist].genres.clone()).collect())),
        ("followers", number(&|row| figures[row].followers)),
        ("follower_ratio", number(&|row| artists[order[row]].follower_ratio(figures[row].followers))),
        ("trending_rank", number(&|row| figures[row].trending_rank)),
        ("plays_7d", number(&|row| figures[row].plays_7d)),
        ("plays_28d", number(&|row| figures[row].plays_28d)),
        ("first_release", ColumnValues::Day(order.iter().map(|&artist| artists[artist].first_release).collect())),
    ]);
    let ids = order.iter().map(|&artist| artists[artist].id.clone()).collect();
    let names = order.iter().map(|&artist| artists[artist].name.clone()).collect();
    assemble(ids, names, &schema().items, values)
}

/// The songs table; `order[row]` is the song of a row. A song is called by its artist's name and its title: titles repeat.
pub(super) fn songs(
    songs: &[Song],
    artists: &[Artist],
    order: &[usize],
    as_of: &AsOf,
    cutoff_day: i32,
) -> Result<FeatureTable> {
    let song = |row: usize| &songs[order[row]];
    let artist = |row: usize| &artists[song(row).artist as usize];
    let day = cutoff_day - 1;
    let figures: Vec<_> = order.iter().map(|&song| as_of.song(song as u32, day)).collect();
    let of_artists: Vec<_> = (0..artists.len()).map(|artist| as_of.artist(artist as u32, day)).collect();
    let of_artist = |row: usize| &of_artists[song(row).artist as usize];
    let number = |of: &dyn Fn(usize) -> f64| ColumnValues::Number((0..order.len()).map(of).collect());
    let values = HashMap::from([
        ("artist", ColumnValues::Text((0..order.len()).map(|row| Some(artist(row).id.clone())).collect())),
        ("artist_followers", number(&|row| of_artist(row).followers)),
        ("artist_trending_rank", number(&|row| of_artist(row).trending_rank)),
        ("duration_ms", number(&|row| song(row).duration_ms as f64)),
        ("genres", ColumnValues::TextList((0..order.len()).map(|row| artist(row).genres.clone()).collect())),
        ("mean_listen", number(&|row| figures[row].mean_listen)),
        ("plays_7d", number(&|row| figures[row].plays_7d)),
        ("plays_28d", number(&|row| figures[row].plays_28d)),
        ("release", ColumnValues::Day((0..order.len()).map(|row| song(row).release).collect())),
    ]);
    let ids = order.iter().map(|&song| songs[song].id.clone()).collect();
    let names = (0..order.len()).map(|row| song_name(&artist(row).name, &song(row).title)).collect();
    assemble(ids, names, &song_schema().items, values)
}

/// `Artist - Title`; nothing without a title.
fn song_name(artist: &str, title: &str) -> String {
    match (artist, title) {
        (_, "") => String::new(),
        ("", title) => title.to_owned(),
        (artist, title) => format!("{artist} - {title}"),
    }
}
