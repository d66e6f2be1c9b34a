//! CSV by column names. Messages name file, row and column, and never a value: it may be personal data.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use duet_core::{Error, Result};

/// An open CSV file with a header.
pub(super) struct Table {
    path: PathBuf,
    reader: csv::Reader<File>,
    header: csv::StringRecord,
}

/// A row and where it stands.
pub(super) struct Cells<'a> {
    path: &'a Path,
    /// Row number; the header is row 1.
    pub(super) row: u64,
    record: &'a csv::StringRecord,
}

impl Table {
    /// Opens `path` and checks that it has the `required` columns.
    pub(super) fn open(path: &Path, required: &[&str]) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path))?;
        let mut reader = csv::Reader::from_reader(file);
        let header = reader.headers().map_err(|error| Error::data(path, error.to_string()))?.clone();
        if header.is_empty() {
            return Err(Error::data(path, "the file is empty"));
        }
        for column in required {
            if !header.iter().any(|name| name == *column) {
                let found: Vec<&str> = header.iter().collect();
                return Err(Error::data(path, format!("no column {column:?}; it has: {}", found.join(", "))));
            }
        }
        Ok(Self { path: path.to_path_buf(), reader, header })
    }

    /// Where a column stands, if it does.
    pub(super) fn column(&self, name: &str) -> Option<usize> {
        self.header.iter().position(|column| column == name)
    }

    /// Calls `each` with every row.
    pub(super) fn for_each(mut self, mut each: impl FnMut(&Cells<'_>) -> Result<()>) -> Result<()> {
        let mut record = csv::StringRecord::new();
        let mut row = 1;
        loop {
            row += 1;
            match self.reader.read_record(&mut record) {
                Ok(true) => each(&Cells { path: &self.path, row, record: &record })?,
                Ok(false) => return Ok(()),
                Err(error) => {
                    let message = match error.kind() {
                        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                            format!("{len} fields where the header has {expected_len}")
                        }
                        csv::ErrorKind::Utf8 { .. } => "not UTF-8".to_owned(),
                        _ => "not readable as CSV".to_owned(),
                    };
                    return Err(Error::data_row(&self.path, row, message));
                }
            }
        }
    }
}

impl Cells<'_> {
    /// The text of a cell; nothing where the column is absent or the cell empty.
    pub(super) fn text(&self, column: Option<usize>) -> Option<&str> {
        self.record.get(column?).map(str::trim).filter(|text| !text.is_empty())
    }

    /// A cell that must not be empty.
    pub(super) fn required(&self, column: Option<usize>, name: &str) -> Result<&str> {
        self.text(column).ok_or_else(|| self.bad(name, "a value"))
    }

    /// A parsed cell; nothing where it is empty.
    pub(super) fn parse<T>(
        &self,
        column: Option<usize>,
        name: &str,
        valid: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>> {
        match self.text(column) {
            None => Ok(None),
            Some(text) => parse(text).map(Some).ok_or_else(|| self.bad(name, valid)),
        }
    }

    /// The error for a bad cell.
    pub(super) fn bad(&self, name: &str, valid: &str) -> Error {
        Error::data_row(self.path, self.row, format!("column {name:?}: expected {valid}"))
    }
}

/// A whole number of days since 1970-01-01 from `YYYY-MM-DD`.
pub(super) fn parse_day(text: &str) -> Option<i32> {
    text.parse::<chrono::NaiveDate>().ok().map(|date| date.to_epoch_days())
}

/// A finite number.
pub(super) fn parse_number(text: &str) -> Option<f64> {
    text.parse::<f64>().ok().filter(|value| value.is_finite())
}
