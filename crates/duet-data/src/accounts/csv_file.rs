//! Accounts as CSV. Messages name file, row and column, and never a value.

use std::{fs::File, path::Path};

use chrono::{DateTime, NaiveDate, NaiveDateTime};
use duet_core::{Error, Result};

use super::{
    Account, AccountRules,
    age::{Age, MAX_YEARS},
    check_unique,
    reduce::{Reducer, Row, Sink, in_parallel},
};

/// The columns that are read, in the order of the cells of a block.
const COLUMNS: [&str; 8] = ["user_id", "age", "birth_date", "gender", "country", "lat", "lon", "created_at"];
/// Bytes of a block: some ten thousand rows.
const BLOCK_BYTES: usize = 1 << 19;
const DAY_MS: i64 = 86_400_000;

/// Some rows: the text of their cells in one piece, trimmed.
struct Block {
    /// The header is row 1.
    first_row: u64,
    text: String,
    /// Where each cell ends in the text, [`COLUMNS`] to a row.
    ends: Vec<usize>,
}

/// Reads the accounts in file order.
pub(super) fn read(path: &Path, rules: &AccountRules<'_>) -> Result<Vec<Account>> {
    let file = File::open(path).map_err(Error::io(path))?;
    let mut reader = csv::ReaderBuilder::new().buffer_capacity(1 << 18).from_reader(file);
    // The library's own text of this error may quote the line.
    let header = reader.headers().map_err(|error| failed(path, 1, error, "the header is not readable as CSV"))?.clone();
    if header.is_empty() {
        return Err(Error::data(path, "the file is empty"));
    }
    let columns = COLUMNS.map(|name| header.iter().position(|column| column == name));
    let [id, .., lat, lon, _] = columns;
    if id.is_none() {
        // Without a header the first line is somebody's.
        let found: Vec<&str> = header.iter().collect();
        let found = match columns.iter().any(Option::is_some) {
            true => format!("it has: {}", found.join(", ")),
            false => format!("the first line must name the columns: {}", COLUMNS.join(", ")),
        };
        return Err(Error::data(path, format!("no column \"user_id\"; {found}")));
    }
    if lat.is_some() != lon.is_some() {
        return Err(Error::data(path, "lat and lon belong together, but one of the columns is missing"));
    }
    let accounts = in_parallel(
        rules,
        |sink| blocks(path, &mut reader, columns, sink),
        |block: Block, reducer, accounts| block.reduce(path, reducer, accounts),
    )?;
    if accounts.is_empty() {
        return Err(Error::data(path, "no accounts below the header"));
    }
    check_unique(path, &accounts, |index| index as u64 + 2)?;
    Ok(accounts)
}

/// Cuts the file into blocks.
fn blocks(
    path: &Path,
    reader: &mut csv::Reader<File>,
    columns: [Option<usize>; COLUMNS.len()],
    sink: Sink<'_, Block>,
) -> Result<()> {
    let mut record = csv::StringRecord::new();
    let mut row = 2;
    loop {
        let mut block = Block { first_row: row, text: String::with_capacity(BLOCK_BYTES + 1_024), ends: Vec::new() };
        while block.text.len() < BLOCK_BYTES {
            if !reader.read_record(&mut record).map_err(|error| failed(path, row, error, "not readable as CSV"))? {
                if !block.ends.is_empty() {
                    sink(block);
                }
                return Ok(());
            }
            for column in columns {
                block.text.push_str(column.and_then(|column| record.get(column)).unwrap_or_default().trim());
                block.ends.push(block.text.len());
            }
            row += 1;
        }
        if !sink(block) {
            return Ok(());
        }
    }
}

fn failed(path: &Path, row: u64, error: csv::Error, otherwise: &str) -> Error {
    let message = match error.into_kind() {
        csv::ErrorKind::Io(source) => return Error::Io { path: path.to_path_buf(), source },
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("{len} fields where the header has {expected_len}")
        }
        csv::ErrorKind::Utf8 { .. } => "not UTF-8".to_owned(),
        _ => otherwise.to_owned(),
    };
    Error::data_row(path, row, message)
}

impl Block {
    fn reduce(&self, path: &Path, reducer: &mut Reducer<'_>, accounts: &mut Vec<Account>) -> Result<()> {
        accounts.reserve_exact(self.ends.len() / COLUMNS.len());
        let mut start = 0;
        for (at, ends) in self.ends.chunks_exact(COLUMNS.len()).enumerate() {
            let row = self.first_row + at as u64;
            let mut cells = [None; COLUMNS.len()];
            for (cell, &end) in cells.iter_mut().zip(ends) {
                *cell = Some(&self.text[start..end]).filter(|text| !text.is_empty());
                start = end;
            }
            let [user_id, age, born, gender, country, lat, lon, created] = cells;
            let cells = Cells { path, row };
            let years = cells.parse(age, "age", "whole years from 0 to 130", |text| {
                text.parse::<u32>().ok().filter(|years| *years <= MAX_YEARS)
            })?;
            let born =
                cells.parse(born, "birth_date", "a date like 1990-12-31", |text| text.parse::<NaiveDate>().ok())?;
            let degrees = |limit: f64| {
                move |text: &str| text.parse::<f64>().ok().filter(|value| value.is_finite() && value.abs() <= limit)
            };
            let lat = cells.parse(lat, "lat", "degrees from -90 to 90", degrees(90.0))?;
            let lon = cells.parse(lon, "lon", "degrees from -180 to 180", degrees(180.0))?;
            let created_ms = cells.parse(created, "created_at", "a date or an RFC 3339 time", parse_instant)?;
            accounts.push(reducer.reduce(&Row {
                user_id: user_id.ok_or_else(|| cells.bad("user_id", "a value"))?,
                age: years.map(Age::Years).or(born.map(Age::Born)),
                gender,
                country,
                coordinates: lat.zip(lon),
                created_ms,
            }));
        }
        Ok(())
    }
}

/// Where a row stands, for messages.
struct Cells<'a> {
    path: &'a Path,
    row: u64,
}

impl Cells<'_> {
    /// A parsed cell; nothing where it is empty.
    fn parse<T>(
        &self,
        cell: Option<&str>,
        name: &str,
        valid: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>> {
        match cell {
            None => Ok(None),
            Some(text) => parse(text).map(Some).ok_or_else(|| self.bad(name, valid)),
        }
    }

    fn bad(&self, name: &str, valid: &str) -> Error {
        Error::data_row(self.path, self.row, format!("column {name:?}: expected {valid}"))
    }
}

/// RFC 3339, the same without an offset or with a space (then UTC), or a date (midnight UTC).
fn parse_instant(text: &str) -> Option<i64> {
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Some(at.timestamp_millis());
    }
    for format in ["%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M:%S%.f%#z"] {
        if let Ok(at) = DateTime::parse_from_str(text, format) {
            return Some(at.timestamp_millis());
        }
    }
    for format in ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"] {
        if let Ok(at) = NaiveDateTime::parse_from_str(text, format) {
            return Some(at.and_utc().timestamp_millis());
        }
    }
    text.parse::<NaiveDate>().ok().map(|day| i64::from(day.to_epoch_days()) * DAY_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_come_in_several_forms() {
        let noon = Some(1_735_732_800_000);
        for text in
            ["2025-01-01T12:00:00Z", "2025-01-01T14:00:00+02:00", "2025-01-01 12:00:00", "2025-01-01 13:00:00+01"]
        {
            assert_eq!(parse_instant(text), noon, "{text}");
        }
        assert_eq!(parse_instant("2025-01-01"), Some(1_735_689_600_000));
        assert_eq!(parse_instant("yesterday"), None);
    }
}
