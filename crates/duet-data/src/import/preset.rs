//! Public sets in the layout they are published in.
//!
//! MovieLens ratings are taken as plain interactions, all of them: the question is what someone watches, not how much
//! they liked it. Titles become display names; zip codes and links are not read.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use duet_core::{
    Error, Result,
    schema::{Columns as Declared, FeatureKind},
    table::{Column, ColumnValues, FeatureTable},
};

use super::{
    Columns, Inputs, SchemaSource,
    features::{self, Side},
    interactions::Events,
    source::{Delimiter, Layout, Table, canonical_id},
};

/// The names [`super::import_preset`] knows.
pub const PRESETS: [&str; 3] = ["movielens-100k", "movielens-1m", "hetrec-lastfm-2k"];

/// Tags of an artist that are kept: its most frequent, given at least [`MIN_TAG_COUNT`] times.
const MAX_TAGS: usize = 10;
const MIN_TAG_COUNT: u32 = 2;

pub(super) fn read(name: &str, dir: &Path) -> Result<Inputs> {
    match name {
        "movielens-100k" => movielens_100k(dir),
        "movielens-1m" => movielens_1m(dir),
        "hetrec-lastfm-2k" => hetrec(dir),
        _ => Err(Error::unknown("preset", name, PRESETS)),
    }
}

fn layout(delimiter: Delimiter, header: &[&str], latin1: bool) -> Layout {
    let header = header.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    Layout { delimiter: Some(delimiter), header: Some(header).filter(|header| !header.is_empty()), latin1 }
}

fn multi_categorical() -> FeatureKind {
    FeatureKind::MultiCategorical { separator: "|".to_owned() }
}

/// The users of both MovieLens sets. The age borders are those of the larger set, which publishes nothing finer.
fn movielens_users(path: &Path, layout: &Layout, inputs: &mut Inputs) -> Result<()> {
    let declared: Declared = [
        ("age", FeatureKind::Bucketed { edges: vec![18.0, 25.0, 35.0, 45.0, 50.0, 56.0] }),
        ("gender", FeatureKind::Categorical {}),
        ("occupation", FeatureKind::Categorical {}),
    ]
    .map(|(name, kind)| (name.to_owned(), kind))
    .into();
    inputs.users = features::read(path, layout, Side::Users, None, &SchemaSource::None, &declared)?.table;
    inputs.schema.users = declared;
    Ok(())
}

fn movielens_100k(dir: &Path) -> Result<Inputs> {
    let mut inputs = Inputs { item_kind: "film".to_owned(), ..Inputs::default() };
    let files = ["u.data", "u.user", "u.item", "u.genre"].map(|name| dir.join(name));
    let [data, users, items, genres] = &files;
    let bar = Delimiter::Byte(b'|');
    movielens_users(users, &layout(bar, &["user_id", "age", "gender", "occupation", "zip"], false), &mut inputs)?;

    let mut genre_names = Vec::new();
    let table = Table::open(genres, &layout(bar, &["genre", "number"], false))?;
    table.rows(&[0], |_, cells| {
        genre_names.push(cells[0].to_owned());
        Ok(())
    })?;
    let mut header = vec!["item_id", "title", "release_date", "video_release_date", "url"];
    let fixed = header.len();
    header.extend(genre_names.iter().map(String::as_str));
    let item_layout = layout(bar, &header, true);
    let declared: Declared = [("release_date".to_owned(), FeatureKind::Date {})].into();
    let mut table =
        features::read(items, &item_layout, Side::Items, Some("title"), &SchemaSource::None, &declared)?.table;
    let flags: Vec<usize> = (fixed..header.len()).collect();
    let mut lists = Vec::with_capacity(table.len());
    Table::open(items, &item_layout)?.rows(&flags, |row, cells| {
        let mut list = Vec::new();
        for (cell, genre) in cells.iter().zip(&genre_names) {
            match *cell {
                "0" => {}
                "1" => list.push(genre.clone()),
                other => return Err(Error::data_row(items, row, format!("genre flag {other:?}: must be 0 or 1"))),
            }
        }
        lists.push(list);
        Ok(())
    })?;
    // Columns stand sorted by name: "genres" before "release_date".
    table.columns.insert(0, Column { name: "genres".to_owned(), values: ColumnValues::TextList(lists) });
    inputs.schema.items = declared;
    inputs.schema.items.insert("genres".to_owned(), multi_categorical());
    inputs.items = table;

    let header = ["user_id", "item_id", "rating", "timestamp"];
    let columns = Columns { ignore_weight: true, ..Columns::default() };
    inputs.events = Events::read(data, &layout(Delimiter::Byte(b'\t'), &header, false), &columns)?;
    inputs.fingerprint(files.iter())?;
    Ok(inputs)
}

fn movielens_1m(dir: &Path) -> Result<Inputs> {
    let mut inputs = Inputs { item_kind: "film".to_owned(), ..Inputs::default() };
    let files = ["ratings.dat", "users.dat", "movies.dat"].map(|name| dir.join(name));
    let [data, users, items] = &files;
    let colons = Delimiter::DoubleColon;
    movielens_users(users, &layout(colons, &["user_id", "gender", "age", "occupation", "zip"], false), &mut inputs)?;
    let declared: Declared = [("genres".to_owned(), multi_categorical())].into();
    let item_layout = layout(colons, &["item_id", "title", "genres"], true);
    let title = Some("title");
    inputs.items = features::read(items, &item_layout, Side::Items, title, &SchemaSource::None, &declared)?.table;
    inputs.schema.items = declared;
    let columns = Columns { ignore_weight: true, ..Columns::default() };
    let header = ["user_id", "item_id", "rating", "timestamp"];
    inputs.events = Events::read(data, &layout(colons, &header, false), &columns)?;
    inputs.fingerprint(files.iter())?;
    Ok(inputs)
}

/// Last.fm listens of HetRec 2011: weight is the play count. Tags are read where their two files are present.
///
/// The tags were given by the same listeners, held-out part included; a count of at least two and no user in it keep
/// single listens from showing through, but a strict comparison should leave the tag files out.
fn hetrec(dir: &Path) -> Result<Inputs> {
    let mut inputs = Inputs { item_kind: "artist".to_owned(), ..Inputs::default() };
    let (data, items) = (dir.join("user_artists.dat"), dir.join("artists.dat"));
    let (tags, tagged) = (dir.join("tags.dat"), dir.join("user_taggedartists.dat"));
    let tabs = layout(Delimiter::Byte(b'\t'), &[], false);
    let none = Declared::new();
    inputs.items = features::read(&items, &tabs, Side::Items, Some("name"), &SchemaSource::None, &none)?.table;
    let mut files = vec![data.clone(), items];
    if tags.exists() && tagged.exists() {
        let lists = artist_tags(&inputs.items, &tags, &tagged)?;
        inputs.items.columns.push(Column { name: "tags".to_owned(), values: ColumnValues::TextList(lists) });
        inputs.schema.items.insert("tags".to_owned(), multi_categorical());
        files.extend([tags, tagged]);
    }
    inputs.events = Events::read(&data, &tabs, &Columns::default())?;
    inputs.fingerprint(files.iter())?;
    Ok(inputs)
}

fn artist_tags(artists: &FeatureTable, tags: &Path, tagged: &Path) -> Result<Vec<Vec<String>>> {
    let mut names = HashMap::new();
    let table = Table::open(tags, &layout(Delimiter::Byte(b'\t'), &[], true))?;
    table.rows(&[table.column("tagID")?, table.column("tagValue")?], |_, cells| {
        names.insert(canonical_id(cells[0]).to_owned(), cells[1].to_owned());
        Ok(())
    })?;
    let mut counts: Vec<BTreeMap<u32, u32>> = vec![BTreeMap::new(); artists.len()];
    let table = Table::open(tagged, &layout(Delimiter::Byte(b'\t'), &[], false))?;
    table.rows(&[table.column("artistID")?, table.column("tagID")?], |row, cells| {
        let bad = |what: &str, id: &str| Error::data_row(tagged, row, format!("{what} {id:?} is not in its table"));
        let tag = cells[1].parse().ok().filter(|_| names.contains_key(cells[1])).ok_or_else(|| bad("tag", cells[1]))?;
        // The published file tags artists that nobody listened to; they are in no table.
        if let Some(artist) = artists.ids.get(cells[0]) {
            *counts[artist as usize].entry(tag).or_default() += 1;
        }
        Ok(())
    })?;
    let top = |counts: BTreeMap<u32, u32>| {
        let mut counts: Vec<(u32, u32)> = counts.into_iter().filter(|&(_, count)| count >= MIN_TAG_COUNT).collect();
        counts.sort_unstable_by_key(|&(tag, count)| (std::cmp::Reverse(count), tag));
        counts.iter().take(MAX_TAGS).filter_map(|(tag, _)| names.get(&tag.to_string()).cloned()).collect()
    };
    Ok(counts.into_iter().map(top).collect())
}
