//! Users and items tables from files: ids, display names and the declared columns.

use std::path::Path;

use duet_core::{
    Error, Result,
    schema::{Columns, FeatureKind},
    table::{ColumnValues, FeatureTable},
};

use super::{
    SchemaSource, infer,
    instant::parse_day,
    interactions::{ITEM_NAMES, USER_NAMES},
    source::{Layout, Table, canonical_id, split_list},
};

/// Which of the two tables is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Users,
    Items,
}

/// Column names taken for an item's display name. Users get none: their names are personal data.
const DISPLAY_NAMES: [&str; 9] =
    ["name", "title", "artist_name", "item_name", "track_name", "song_name", "movie_title", "movie_name", "artist"];

/// A table as read, with its declared columns and what is to be said about it.
pub(crate) struct ReadTable {
    pub(crate) table: FeatureTable,
    pub(crate) columns: Columns,
    pub(crate) notes: Vec<String>,
}

/// Reads a users or items table; `declared` is used where `schema` says so.
pub(crate) fn read(
    path: &Path,
    layout: &Layout,
    side: Side,
    name_column: Option<&str>,
    schema: &SchemaSource,
    declared: &Columns,
) -> Result<ReadTable> {
    let source = Table::open(path, layout)?;
    let known: &[&str] = if side == Side::Users { &USER_NAMES } else { &ITEM_NAMES };
    let id = source
        .find(known)
        .or_else(|| source.find(&["id"]))
        .ok_or_else(|| source.no_column("which column holds the id?"))?;
    let name = match (side, name_column) {
        (Side::Users, _) => None,
        (Side::Items, Some(name)) => Some(source.column(name)?),
        (Side::Items, None) => source.find(&DISPLAY_NAMES).filter(|&column| column != id),
    };
    let mut notes = Vec::new();
    let columns = match schema {
        SchemaSource::Infer => {
            let inferred = infer::columns(&source, id, name)?;
            notes = inferred.notes;
            inferred.columns
        }
        _ => declared.clone(),
    };
    let at: Vec<usize> = columns.keys().map(|column| source.column(column)).collect::<Result<_>>()?;
    let wanted: Vec<usize> = [id].into_iter().chain(name).chain(at).collect();
    let first_value = 1 + usize::from(name.is_some());

    let mut table = FeatureTable::with_columns(&columns);
    source.rows(&wanted, |row, cells| {
        let bad = |message: String| Error::data_row(path, row, message);
        let id = canonical_id(cells[0]);
        if id.is_empty() {
            return Err(bad("no id".into()));
        }
        // The ids alone, not the table's own `get_or_insert`: every column gets its value below.
        let rows = table.ids.len();
        if (table.ids.get_or_insert(id) as usize) < rows {
            return Err(bad(format!("the id {id:?} occurs a second time")));
        }
        if name.is_some() {
            table.names.push(cells[1].to_owned());
        }
        for ((column, kind), cell) in table.columns.iter_mut().zip(columns.values()).zip(&cells[first_value..]) {
            push(&mut column.values, kind, cell)
                .map_err(|message| bad(format!("column {:?}: {message}", column.name)))?;
        }
        Ok(())
    })?;
    if table.is_empty() {
        return Err(Error::data(path, "no rows: nothing follows the header"));
    }
    table.check()?;
    Ok(ReadTable { table, columns, notes })
}

/// Appends a cell to a column of its kind; an empty cell is missing.
fn push(values: &mut ColumnValues, kind: &FeatureKind, cell: &str) -> Result<(), String> {
    match (values, kind) {
        (values, _) if cell.is_empty() => values.push_missing(),
        (ColumnValues::Text(values), _) => values.push(Some(canonical_id(cell).to_owned())),
        (ColumnValues::TextList(values), FeatureKind::MultiCategorical { separator }) => {
            values.push(split_list(cell, separator).map(str::to_owned).collect());
        }
        (ColumnValues::Number(values), _) => match cell.parse::<f64>() {
            Ok(value) if value.is_finite() => values.push(value),
            Ok(_) => return Err(format!("{cell} is not finite (leave the cell empty if the value is missing)")),
            Err(_) => return Err(format!("{cell:?} is not a number")),
        },
        (ColumnValues::Day(values), _) => match parse_day(cell) {
            Some(day) => values.push(Some(day)),
            None => return Err(format!("{cell:?} is not a date (YYYY-MM-DD, RFC 3339, 01-Jan-1995, or Unix time)")),
        },
        (ColumnValues::TextList(_), kind) => return Err(format!("a list can't be read as {kind:?}")),
    }
    Ok(())
}
