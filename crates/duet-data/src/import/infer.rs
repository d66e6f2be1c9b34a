//! Guessing each column's kind from its values, in one pass before the table is read.
//!
//! Few distinct values: categorical. Clear lists (`a|b|c`): multi-categorical. Numbers: numeric, unless they are
//! whole and few, or codes (leading zeros). Dates: date. Text that is nearly unique (titles, addresses, e-mails) can
//! teach nothing and may be personal data: skipped with a note, as are constant and empty columns.

use std::collections::HashMap;

use duet_core::{
    Result,
    schema::{Columns, FeatureKind},
};

use super::{
    instant::parse_day_text,
    source::{Table, split_list},
};

/// Distinct values counted exactly; a column with more has "many".
const DISTINCT_CAP: usize = 50_000;
/// Whole numbers with at most this many distinct values are categories.
const FEW_NUMBERS: usize = 20;
/// Separators of lists, surest first.
const SEPARATORS: [&str; 4] = ["|", ";", ",", " "];

/// The guess for a table.
pub(crate) struct Inferred {
    pub(crate) columns: Columns,
    pub(crate) notes: Vec<String>,
}

#[derive(Default)]
struct ListCount {
    cells: u64,
    tokens: u64,
    vocabulary: HashMap<String, ()>,
}

#[derive(Default)]
struct Statistics {
    filled: u64,
    numbers: u64,
    integers: u64,
    codes: u64,
    dates: u64,
    addresses: u64,
    distinct: HashMap<String, ()>,
    lists: [ListCount; SEPARATORS.len()],
}

impl Statistics {
    fn add(&mut self, cell: &str) {
        if cell.is_empty() {
            return;
        }
        self.filled += 1;
        insert(&mut self.distinct, cell);
        if let Ok(number) = cell.parse::<f64>() {
            // Non-finite numbers count as numbers: reading them then names the row, instead of a silent category.
            self.numbers += 1;
            self.integers += u64::from(number.fract() == 0.0);
            let digits = cell.trim_start_matches('-');
            self.codes += u64::from(digits.len() > 1 && digits.starts_with('0') && !digits.starts_with("0."));
        } else if parse_day_text(cell).is_some() {
            self.dates += 1;
        }
        self.addresses += u64::from(cell.contains('@') || cell.contains("://"));
        for (list, separator) in self.lists.iter_mut().zip(SEPARATORS) {
            let mut parts = 0;
            for part in split_list(cell, separator) {
                parts += 1;
                list.tokens += 1;
                insert(&mut list.vocabulary, part);
            }
            list.cells += u64::from(parts > 1);
        }
    }

    /// The kind, or why the column is skipped.
    fn kind(&self) -> Result<FeatureKind, &'static str> {
        let distinct = self.distinct.len() as u64;
        match distinct {
            0 => return Err("empty"),
            1 => return Err("one value only"),
            _ => {}
        }
        if self.addresses * 2 > self.filled {
            return Err("addresses");
        }
        // Every value about twice at least, and not cut off at the cap.
        let repeats = distinct < DISTINCT_CAP as u64 && distinct * 2 <= self.filled;
        if self.numbers == self.filled && self.codes == 0 {
            let few = self.integers == self.filled && distinct <= FEW_NUMBERS as u64 && repeats;
            return Ok(if few { FeatureKind::Categorical {} } else { FeatureKind::Numeric {} });
        }
        if self.dates == self.filled {
            return Ok(FeatureKind::Date {});
        }
        for (list, separator) in self.lists.iter().zip(SEPARATORS) {
            let vocabulary = list.vocabulary.len() as u64;
            // A bar is hardly ever anything else; commas and spaces also stand in titles and names, so they need
            // a small vocabulary, used often, that explains many more distinct cells.
            let clear = match separator {
                "|" => list.cells > 0,
                _ => list.cells * 10 >= self.filled * 3 && vocabulary <= 500 && vocabulary * 2 <= distinct,
            };
            if clear && vocabulary < DISTINCT_CAP as u64 && (separator == "|" || vocabulary * 3 <= list.tokens) {
                return Ok(FeatureKind::MultiCategorical { separator: separator.to_owned() });
            }
        }
        if repeats { Ok(FeatureKind::Categorical {}) } else { Err("nearly unique text") }
    }
}

fn insert(set: &mut HashMap<String, ()>, value: &str) {
    if set.len() < DISTINCT_CAP && !set.contains_key(value) {
        set.insert(value.to_owned(), ());
    }
}

/// Guesses the columns of `table` but its id and display name.
pub(crate) fn columns(table: &Table, id: usize, name: Option<usize>) -> Result<Inferred> {
    let at: Vec<usize> = (0..table.names().len()).filter(|&column| column != id && Some(column) != name).collect();
    let mut statistics: Vec<Statistics> = at.iter().map(|_| Statistics::default()).collect();
    table.rows(&at, |_, cells| {
        statistics.iter_mut().zip(cells).for_each(|(column, cell)| column.add(cell));
        Ok(())
    })?;
    let mut inferred = Inferred { columns: Columns::new(), notes: Vec::new() };
    for (column, statistics) in at.into_iter().zip(statistics) {
        let column = &table.names()[column];
        let reserved = ["id", "name", ""].contains(&column.as_str());
        match statistics.kind() {
            Ok(kind) if !reserved => {
                inferred.columns.insert(column.clone(), kind);
            }
            Ok(_) => {
                inferred.notes.push(format!("{}: column {column:?} skipped: reserved name", table.path().display()))
            }
            Err(why) => inferred.notes.push(format!("{}: column {column:?} skipped: {why}", table.path().display())),
        }
    }
    Ok(inferred)
}
