//! Tables as files: delimited text or Parquet, read row by row as text cells.
//!
//! A cell is text whatever the file held: 12 (also where a Parquet column says 12.0), an RFC 3339 instant, or a list
//! ([`split_list`]). An empty cell is a missing value. Memory is one batch.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

use arrow::{
    array::{Array, ArrayRef, AsArray, StringArray},
    compute::cast,
    datatypes::{DataType, Float64Type, TimeUnit, TimestampMillisecondType},
};
use duet_core::{Error, Result};

use crate::dataset::parquet_file::Reader;

/// What stands between the elements of a list cell that came from Parquet.
const LIST_SEPARATOR: char = '\u{1f}';

/// What stands between two cells of a text file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delimiter {
    /// One byte. Double quotes enclose cells for `,` and `;` only: tab and pipe files hold bare quotes.
    Byte(u8),
    /// `::`, as in the first MovieLens files.
    DoubleColon,
}

/// How a text file is laid out; Parquet files (by extension) ignore it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    /// `None`: from the extension or the header line.
    pub delimiter: Option<Delimiter>,
    /// Column names of a file without a header line.
    pub header: Option<Vec<String>>,
    /// Whether the file is ISO-8859-1 rather than UTF-8.
    pub latin1: bool,
}

/// An opened table: its column names are known, its rows not yet read.
#[derive(Debug)]
pub(crate) struct Table {
    path: PathBuf,
    names: Vec<String>,
    form: Form,
}

#[derive(Debug, Clone, Copy)]
enum Form {
    Parquet,
    Text { delimiter: Delimiter, skip_header: bool, latin1: bool },
}

impl Table {
    /// Opens `path` and reads its column names.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Data`] with the path, e.g. for an empty file.
    pub(crate) fn open(path: &Path, layout: &Layout) -> Result<Self> {
        let extension =
            path.extension().map(|extension| extension.to_string_lossy().to_lowercase()).unwrap_or_default();
        if ["parquet", "pq"].contains(&extension.as_str()) {
            let names = Reader::open(path)?.fields().into_iter().map(|(name, _)| name).collect();
            return Ok(Self { path: path.to_path_buf(), names, form: Form::Parquet });
        }
        let mut first = Vec::new();
        let mut reader = BufReader::new(File::open(path).map_err(Error::io(path))?);
        while first.trim_ascii().is_empty() {
            first.clear();
            if reader.read_until(b'\n', &mut first).map_err(Error::io(path))? == 0 {
                return Err(Error::data(path, "the file is empty"));
            }
        }
        let line = String::from_utf8_lossy(&first);
        let delimiter = layout.delimiter.unwrap_or_else(|| match extension.as_str() {
            "tsv" | "tab" => Delimiter::Byte(b'\t'),
            _ if line.contains("::") => Delimiter::DoubleColon,
            // The first of these in the first line, rarest inside names first.
            _ => Delimiter::Byte(b"\t|;,".iter().copied().find(|&byte| first.contains(&byte)).unwrap_or(b',')),
        });
        let mut table = Self {
            path: path.to_path_buf(),
            names: layout.header.clone().unwrap_or_default(),
            form: Form::Text { delimiter, skip_header: false, latin1: layout.latin1 },
        };
        if layout.header.is_none() {
            let mut names = Vec::new();
            // Stops after the first row: its only purpose is the header, with the file's own quoting.
            table.text_rows(delimiter, layout.latin1, &mut |_, cells| {
                names = cells.iter().map(|cell| cell.trim_start_matches('\u{feff}').trim().to_owned()).collect();
                Ok(false)
            })?;
            table.names = names;
            table.form = Form::Text { delimiter, skip_header: true, latin1: layout.latin1 };
        }
        Ok(table)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// The index of a column.
    ///
    /// # Errors
    /// [`Error::Data`] listing the columns of the file.
    pub(crate) fn column(&self, name: &str) -> Result<usize> {
        self.names.iter().position(|other| other == name).ok_or_else(|| self.no_column(&format!("no column {name:?}")))
    }

    /// The first column called by one of `candidates`, letter case aside.
    pub(crate) fn find(&self, candidates: &[&str]) -> Option<usize> {
        candidates.iter().find_map(|name| self.names.iter().position(|other| other.eq_ignore_ascii_case(name)))
    }

    /// An error about the columns, listing them.
    pub(crate) fn no_column(&self, message: &str) -> Error {
        Error::data(&self.path, format!("{message}; its columns are: {}", self.names.join(", ")))
    }

    /// Calls `each` with the row number (from 1, header included for text) and the cells of `columns`, in that order.
    ///
    /// # Errors
    /// Those of `each`, and [`Error::Data`] naming the row that is ragged or not UTF-8.
    pub(crate) fn rows(&self, columns: &[usize], mut each: impl FnMut(u64, &[&str]) -> Result<()>) -> Result<()> {
        let Form::Text { delimiter, skip_header, latin1 } = self.form else {
            return self.parquet_rows(columns, each);
        };
        let width = self.names.len();
        let mut header = skip_header;
        self.text_rows(delimiter, latin1, &mut |row, cells| {
            if std::mem::take(&mut header) {
                return Ok(true);
            }
            if cells.len() != width {
                return Err(Error::data_row(
                    &self.path,
                    row,
                    format!("{} cells where there are {width} columns (a cut-off or malformed line?)", cells.len()),
                ));
            }
            // Four columns at most in the long files: a fixed array spares an allocation a row.
            let mut picked = [""; 8];
            if columns.len() <= picked.len() {
                for (slot, &column) in picked.iter_mut().zip(columns) {
                    *slot = cells[column].trim();
                }
                each(row, &picked[..columns.len()])?;
            } else {
                let picked: Vec<&str> = columns.iter().map(|&column| cells[column].trim()).collect();
                each(row, &picked)?;
            }
            Ok(true)
        })
    }

    /// Every line of the file, split; `each` says whether to go on.
    fn text_rows(
        &self,
        delimiter: Delimiter,
        latin1: bool,
        each: &mut dyn FnMut(u64, &[&str]) -> Result<bool>,
    ) -> Result<()> {
        let path = &self.path;
        let file = File::open(path).map_err(Error::io(path))?;
        let not_utf8 = |row| Error::data_row(path, row, "not UTF-8 (an ISO-8859-1 file must be declared as such)");
        match delimiter {
            Delimiter::DoubleColon => {
                let mut reader = BufReader::with_capacity(1 << 18, file);
                let (mut line, mut row) = (Vec::new(), 0);
                loop {
                    line.clear();
                    if reader.read_until(b'\n', &mut line).map_err(Error::io(path))? == 0 {
                        return Ok(());
                    }
                    row += 1;
                    let text = decode(line.trim_ascii_end(), latin1).ok_or_else(|| not_utf8(row))?;
                    if !text.is_empty() && !each(row, &text.split("::").collect::<Vec<_>>())? {
                        return Ok(());
                    }
                }
            }
            Delimiter::Byte(byte) => {
                let mut reader = csv::ReaderBuilder::new()
                    .delimiter(byte)
                    .has_headers(false)
                    .flexible(true)
                    .quoting(matches!(byte, b',' | b';'))
                    .buffer_capacity(1 << 18)
                    .from_reader(file);
                let mut record = csv::ByteRecord::new();
                loop {
                    let read = reader.read_byte_record(&mut record).map_err(|error| match error.into_kind() {
                        csv::ErrorKind::Io(source) => Error::Io { path: path.clone(), source },
                        other => Error::data(path, format!("not readable as text: {other:?}")),
                    })?;
                    if !read {
                        return Ok(());
                    }
                    let row = record.position().map_or(0, csv::Position::line);
                    let go_on = if latin1 {
                        let cells: Vec<_> = record.iter().filter_map(|cell| decode(cell, true)).collect();
                        each(row, &cells.iter().map(AsRef::as_ref).collect::<Vec<&str>>())?
                    } else {
                        let cells: Option<Vec<&str>> =
                            record.iter().map(|cell| std::str::from_utf8(cell).ok()).collect();
                        each(row, &cells.ok_or_else(|| not_utf8(row))?)?
                    };
                    if !go_on {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn parquet_rows(&self, columns: &[usize], mut each: impl FnMut(u64, &[&str]) -> Result<()>) -> Result<()> {
        let mut in_file_order = columns.to_vec();
        in_file_order.sort_unstable();
        in_file_order.dedup();
        let mut row_number = 0;
        for batch in Reader::open(&self.path)?.batches(Some(&in_file_order))? {
            let batch = batch?;
            let mut arrays = Vec::with_capacity(columns.len());
            for column in columns {
                let at = in_file_order.iter().position(|other| other == column).unwrap_or_default();
                let array = batch.column(at);
                arrays.push(render(array).ok_or_else(|| {
                    Error::data(
                        &self.path,
                        format!(
                            "column {:?} has the type {}, which can't be read",
                            self.names[*column],
                            array.data_type()
                        ),
                    )
                })?);
            }
            let mut cells: Vec<&str> = Vec::with_capacity(columns.len());
            for row in 0..batch.num_rows() {
                row_number += 1;
                cells.clear();
                cells.extend(arrays.iter().map(|array| if array.is_null(row) { "" } else { array.value(row).trim() }));
                each(row_number, &cells)?;
            }
        }
        Ok(())
    }
}

fn decode(bytes: &[u8], latin1: bool) -> Option<std::borrow::Cow<'_, str>> {
    match latin1 {
        true if !bytes.is_ascii() => Some(bytes.iter().map(|&byte| char::from(byte)).collect::<String>().into()),
        _ => std::str::from_utf8(bytes).ok().map(Into::into),
    }
}

/// The values of a list cell: as Parquet held them, or the text cut at `separator`. Empty values are left out.
pub(crate) fn split_list<'a>(cell: &'a str, separator: &'a str) -> impl Iterator<Item = &'a str> {
    let separator = if cell.contains(LIST_SEPARATOR) { "\u{1f}" } else { separator };
    cell.split(separator).map(str::trim).filter(|value| !value.is_empty())
}

/// A Parquet column as text; `None` for a type that has no text form here.
fn render(array: &ArrayRef) -> Option<StringArray> {
    let text = |array: &ArrayRef| Some(cast(array, &DataType::Utf8).ok()?.as_string::<i32>().clone());
    match array.data_type() {
        DataType::Float16 | DataType::Float32 | DataType::Float64 | DataType::Decimal128(..) => {
            let array = cast(array, &DataType::Float64).ok()?;
            let values = array.as_primitive::<Float64Type>().iter();
            // NaN is how data frames write a missing number.
            Some(values.map(|value| value.filter(|value| !value.is_nan()).map(|value| value.to_string())).collect())
        }
        DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => {
            let zone = match array.data_type() {
                DataType::Timestamp(_, zone) => zone.clone(),
                _ => None,
            };
            let array = cast(array, &DataType::Timestamp(TimeUnit::Millisecond, zone)).ok()?;
            let values = array.as_primitive::<TimestampMillisecondType>().iter();
            Some(values.map(|value| Some(chrono::DateTime::from_timestamp_millis(value?)?.to_rfc3339())).collect())
        }
        DataType::List(_) | DataType::LargeList(_) => {
            let field = match array.data_type() {
                DataType::LargeList(field) | DataType::List(field) => field,
                _ => return None,
            };
            let lists = cast(array, &DataType::List(field.clone())).ok()?;
            let joined = lists.as_list::<i32>().iter().map(|list| {
                let values = render(&list?)?;
                Some(values.iter().flatten().flat_map(|value| [value, "\u{1f}"]).collect::<String>())
            });
            Some(joined.collect())
        }
        kind if kind.is_integer() => text(array),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Boolean | DataType::Dictionary(..) => {
            text(array)
        }
        DataType::Null => Some(StringArray::new_null(array.len())),
        _ => None,
    }
}

/// An id as it is kept: without a trailing `.0`, which data frames add to whole numbers beside missing ones.
pub(crate) fn canonical_id(cell: &str) -> &str {
    match cell.strip_suffix(".0") {
        Some(head) if !head.is_empty() && head.bytes().all(|byte| byte.is_ascii_digit()) => head,
        _ => cell,
    }
}
