//! Looking for personal data in files: Parquet column by column, everything else as it lies on the disk.
//!
//! Patterns are looked for in texts; planted strings in every byte, those of Parquet files both packed and unpacked.
//! Files packed as a whole (gz, zst, zip) are not unpacked: a warning names them.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use arrow::datatypes::DataType;
use duet_core::{Error, Result};
use fs_err as fs;
use rayon::prelude::*;

use super::{
    columns::{self, Meaning},
    patterns::{self, Kind},
    planted::Planted,
};
use crate::dataset::parquet_file::Reader;

/// Bytes read at once.
const CHUNK_BYTES: usize = 4 << 20;
/// Bytes looked at twice where a chunk ends within a line: longer than any pattern.
const OVERLAP_BYTES: usize = 1 << 10;
/// A file with a zero among its first bytes is no text.
const HEAD_BYTES: usize = 64 << 10;
/// First bytes of packed files, and what they are.
const PACKED: [(&[u8], &str); 3] =
    [(&[0x1f, 0x8b], "gzip"), (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"), (b"PK\x03\x04", "zip")];

/// What to look for beside the patterns.
#[derive(Debug, Clone, Default)]
pub struct ScanOptions {
    /// Strings that were planted.
    pub planted: Planted,
}

/// Where something was found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A row (from 1) of a column.
    Row {
        /// The column's name.
        column: String,
        /// The row, from 1; lines of a CSV file, the header being 1.
        row: u64,
    },
    /// A line of a text, from 1.
    Line(u64),
    /// A byte of a file that is no text.
    Byte(u64),
    /// The file's name itself.
    Name,
}

impl std::fmt::Display for Place {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Row { column, row } => write!(formatter, "column {column:?}, row {row}"),
            Self::Line(line) => write!(formatter, "line {line}"),
            Self::Byte(at) => write!(formatter, "byte {at}"),
            Self::Name => formatter.write_str("the file's name"),
        }
    }
}

/// All finds of one kind in one file, or in one column of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file.
    pub file: PathBuf,
    /// The first of them.
    pub place: Place,
    /// What it looks like.
    pub kind: Kind,
    /// The first of them, all but its first character hidden.
    pub masked: String,
    /// How many there are.
    pub count: u64,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}, {}: {} {}", self.file.display(), self.place, self.kind, self.masked)?;
        if self.count > 1 { write!(formatter, " ({} in all)", self.count) } else { Ok(()) }
    }
}

/// Looks through files, and all files below directories, for what looks personal or was planted.
///
/// One finding stands for all of its kind in a file, or in a column of a Parquet file. No value is shown.
///
/// # Errors
/// [`Error::Io`] with the path; [`Error::Data`] for a Parquet file that can't be read.
pub fn scan(paths: &[PathBuf], options: &ScanOptions) -> Result<Vec<Finding>> {
    let mut files = Vec::new();
    for path in paths {
        list(path, &mut files)?;
    }
    files.sort();
    files.dedup();
    let found: Vec<Vec<Finding>> = files.par_iter().map(|file| scan_file(file, options)).collect::<Result<_>>()?;
    Ok(found.into_iter().flatten().collect())
}

fn list(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    // Links are followed where they are named, not below: they may lead anywhere, or in a circle.
    if fs::metadata(path).map_err(Error::io(path))?.is_dir() {
        for entry in fs::read_dir(path).map_err(Error::io(path))? {
            let entry = entry.map_err(Error::io(path))?;
            if !entry.file_type().map_err(Error::io(path))?.is_symlink() {
                list(&entry.path(), files)?;
            }
        }
    } else {
        files.push(path.to_path_buf());
    }
    Ok(())
}

/// The finds of one file.
#[derive(Default)]
struct Finds(BTreeMap<(Option<String>, Kind), (Place, String, u64)>);

impl Finds {
    fn add(&mut self, place: Place, kind: Kind, masked: impl FnOnce() -> String, count: u64) {
        let column = match &place {
            Place::Row { column, .. } => Some(column.clone()),
            _ => None,
        };
        self.0.entry((column, kind)).or_insert_with(|| (place, masked(), 0)).2 += count;
    }
}

fn scan_file(path: &Path, options: &ScanOptions) -> Result<Vec<Finding>> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let mut head = Vec::new();
    file.by_ref().take(HEAD_BYTES as u64).read_to_end(&mut head).map_err(Error::io(path))?;
    let mut finds = Finds::default();
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    options.planted.search(name, |line, range| {
        finds.add(Place::Name, Kind::Planted(line), || mask(&name[range]), 1);
    });
    if let Some((_, what)) = PACKED.iter().find(|(magic, _)| head.starts_with(magic)) {
        tracing::warn!(file = %path.display(), "packed with {what}: not looked into");
    }
    let is_parquet = head.starts_with(b"PAR1");
    let is_text = !is_parquet && !head.contains(&0);
    scan_bytes(path, head, file, is_text, options, &mut finds)?;
    if is_parquet {
        scan_parquet(path, options, &mut finds)?;
    } else if is_text && path.extension().is_some_and(|ending| ending == "csv" || ending == "tsv") {
        scan_csv(path, &mut finds)?;
    }
    let finding =
        |((_, kind), (place, masked, count))| Finding { file: path.to_path_buf(), place, kind, masked, count };
    Ok(finds.0.into_iter().map(finding).collect())
}

/// The first character, and how long it is.
fn mask(value: &[u8]) -> String {
    let first = String::from_utf8_lossy(value).chars().next().filter(|first| !first.is_control()).unwrap_or('?');
    format!("{first}... ({} bytes)", value.len())
}

/// Everything as it lies on the disk, chunk by chunk.
fn scan_bytes(
    path: &Path,
    head: Vec<u8>,
    mut file: File,
    is_text: bool,
    options: &ScanOptions,
    finds: &mut Finds,
) -> Result<()> {
    let overlap = OVERLAP_BYTES.max(options.planted.longest());
    let mut chunk = head;
    let (mut offset, mut line) = (0, 1);
    loop {
        let before = chunk.len();
        file.by_ref().take(CHUNK_BYTES as u64).read_to_end(&mut chunk).map_err(Error::io(path))?;
        let is_last = chunk.len() == before;
        // Up to the last line end; a find that starts behind it is left to the next chunk.
        let until = match chunk.iter().rposition(|byte| *byte == b'\n') {
            _ if is_last => chunk.len(),
            Some(end) if is_text && end + 1 > overlap => end + 1,
            _ => chunk.len().saturating_sub(overlap),
        };
        let mut all = Vec::new();
        if is_text {
            patterns::search(&chunk, |kind, range| all.push((kind, range)));
        }
        options.planted.search(&chunk, |line, range| all.push((Kind::Planted(line), range)));
        all.retain(|(_, range)| range.start < until);
        all.sort_by_key(|(_, range)| range.start);
        let mut counted = 0;
        for (kind, range) in all {
            let place = if is_text {
                line += lines(&chunk[counted..range.start]);
                counted = range.start;
                Place::Line(line)
            } else {
                Place::Byte(offset + range.start as u64)
            };
            finds.add(place, kind, || mask(&chunk[range]), 1);
        }
        if is_last {
            return Ok(());
        }
        if is_text {
            line += lines(&chunk[counted..until]);
        }
        offset += until as u64;
        chunk.drain(..until);
    }
}

fn lines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// What the columns of a Parquet file hold, and what their names say.
fn scan_parquet(path: &Path, options: &ScanOptions, finds: &mut Finds) -> Result<()> {
    let reader = Reader::open(path)?;
    let fields = reader.fields();
    let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
    let file_name = path.file_name().unwrap_or_default().to_string_lossy();
    let of_users = columns::is_user_table(&file_name, &names);
    let meanings: Vec<Meaning> = names.iter().map(|name| columns::meaning(name)).collect();
    let has_both = meanings.contains(&Meaning::Latitude) && meanings.contains(&Meaning::Longitude);
    let mut births = vec![(0, 0); names.len()];
    let mut first_row = 1;
    for batch in reader.batches(None)? {
        let batch = batch?;
        for (index, array) in batch.columns().iter().enumerate() {
            let column = names[index];
            let place = |row: u64| Place::Row { column: column.to_owned(), row };
            columns::for_each_value(array, first_row, &mut |row, bytes| {
                // Raw bytes, such as pseudonyms, look like anything.
                if !bytes.contains(&0) && std::str::from_utf8(bytes).is_ok() {
                    patterns::search(bytes, |kind, range| {
                        if kind != Kind::CreditCard || !patterns::is_id_name(column.as_bytes()) {
                            finds.add(place(row), kind, || mask(&bytes[range]), 1);
                        }
                    });
                }
                options.planted.search(bytes, |line, range| {
                    finds.add(place(row), Kind::Planted(line), || mask(&bytes[range]), 1);
                });
            });
            if !options.planted.numbers.is_empty() {
                columns::for_each_number(array, first_row, |row, value, is_double| {
                    for (line, number) in &options.planted.numbers {
                        if value == *number || (!is_double && value as f32 == *number as f32) {
                            finds.add(place(row), Kind::Planted(*line), || "as a number".to_owned(), 1);
                        }
                    }
                });
            }
            let named = match meanings[index] {
                Meaning::Latitude | Meaning::Longitude if has_both => Some(Kind::Coordinates),
                Meaning::Birth if matches!(array.data_type(), DataType::Utf8 | DataType::Date32) => {
                    Some(Kind::BirthDate)
                }
                Meaning::Personal => Some(Kind::PersonalColumn),
                _ => None,
            };
            if let Some(kind) = named
                && let Some((first, count)) = columns::filled(array)
            {
                finds.add(place(first_row + first as u64), kind, || "by the column's name".to_owned(), count as u64);
            } else if of_users {
                let (birth_like, dates) = columns::birth_like_days(array);
                births[index].0 += birth_like;
                births[index].1 += dates;
            }
        }
        first_row += batch.num_rows() as u64;
    }
    for (column, (birth_like, dates)) in names.iter().zip(births) {
        if 2 * birth_like > dates {
            let place = Place::Row { column: (*column).to_owned(), row: 1 };
            finds.add(place, Kind::BirthDate, || "most dates lie between 1900 and 2015".to_owned(), birth_like);
        }
    }
    Ok(())
}

/// What the columns of a CSV file are called.
fn scan_csv(path: &Path, finds: &mut Finds) -> Result<()> {
    let delimiter = if path.extension().is_some_and(|ending| ending == "tsv") { b'\t' } else { b',' };
    let file = File::open(path).map_err(Error::io(path))?;
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).flexible(true).from_reader(file);
    let Ok(header) = reader.byte_headers().cloned() else { return Ok(()) };
    let named: Vec<(usize, String, Kind)> = header
        .iter()
        .enumerate()
        .filter_map(|(index, name)| {
            let name = String::from_utf8_lossy(name).into_owned();
            let kind = match columns::meaning(&name) {
                Meaning::Latitude | Meaning::Longitude => Kind::Coordinates,
                Meaning::Birth => Kind::BirthDate,
                Meaning::Personal => Kind::PersonalColumn,
                Meaning::Other => return None,
            };
            Some((index, name, kind))
        })
        .collect();
    if named.is_empty() {
        return Ok(());
    }
    let mut record = csv::ByteRecord::new();
    let mut row = 1;
    // A file that is no CSV after all was looked at as a text.
    while let Ok(true) = reader.read_byte_record(&mut record) {
        row += 1;
        for (index, name, kind) in &named {
            if record.get(*index).is_some_and(|value| !value.trim_ascii().is_empty()) {
                let place = Place::Row { column: name.clone(), row };
                finds.add(place, *kind, || "by the column's name".to_owned(), 1);
            }
        }
    }
    Ok(())
}
