//! Accounts without personal data: read in blocks from a CSV file or a Postgres table, reduced row by row.
//!
//! * [`AccountSource`]: where the accounts lie. [`read`] reads them all.
//! * [`AccountRules`]: how a row becomes an [`Account`]: the user id a [`Pseudonym`], the age or birth date a bucket,
//!   the coordinates a [`Place`].
//! * [`fold`]: places that too few users share become the larger place they lie in.
//!
//! What is personal stays in the buffer that a block was read into, and is gone when the block is reduced: no type
//! outside this module can hold it, no message shows a value. Columns that no feature is made of are not read at all
//! from Postgres, and skipped in a CSV file.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use chrono::NaiveDate;
use duet_core::{Error, Result};

mod age;
mod csv_file;
mod key;
mod place;
mod postgres;
mod reduce;

pub use age::age_bucket;
pub use key::{KEY_VARIABLE, Pseudonym, UserKey};
pub use place::{Place, fold, locate};
pub use postgres::{AccountColumns, Connection, PostgresSource, Retry, TableName};
pub(crate) use postgres::{Failure, Session, runtime};

/// Where accounts lie.
#[derive(Debug, Clone)]
pub enum AccountSource {
    /// A CSV file with the columns `user_id` (required), `age` or `birth_date`, `gender`, `country`, `lat` with `lon`,
    /// `created_at`; others are skipped.
    Csv(PathBuf),
    /// A table of a Postgres database.
    Postgres(Box<PostgresSource>),
}

/// How a row becomes an account.
#[derive(Debug, Clone, Copy)]
pub struct AccountRules<'a> {
    /// Turns user ids into pseudonyms.
    pub user_key: &'a UserKey,
    /// Ages (in years) at which a new bucket starts, strictly increasing.
    pub age_edges: &'a [u32],
    /// Ages that follow from a birth date are counted on this day.
    pub reference_day: NaiveDate,
}

/// A user as far as features need to know them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The keyed hash of the user id.
    pub pseudonym: Pseudonym,
    /// "18-24"; see [`age_bucket`].
    pub age_bucket: Option<Arc<str>>,
    /// As the source says it, in lower case.
    pub gender: Option<Arc<str>>,
    /// Where they live; not yet folded.
    pub place: Place,
    /// Milliseconds since 1970-01-01 UTC.
    pub created_ms: Option<i64>,
}

/// Reads all accounts, in the order of the source.
///
/// Blocks the calling thread; must not be called from asynchronous code.
///
/// # Errors
/// [`Error::Data`] naming the source, the row and the column of a bad cell, an id that occurs twice, or a column that is
/// missing; never a value. [`Error::Io`] if a file can't be read, or a server can't be reached or is lost for longer than
/// its [`Retry`] bridges. [`Error::Input`] for rules that are no rules.
pub fn read(source: &AccountSource, rules: &AccountRules<'_>) -> Result<Vec<Account>> {
    if rules.age_edges.is_empty() || !rules.age_edges.windows(2).all(|pair| pair[0] < pair[1]) {
        return Err(Error::input("age edges must be a non-empty, strictly increasing list of years"));
    }
    match source {
        AccountSource::Csv(path) => csv_file::read(path, rules),
        AccountSource::Postgres(source) => postgres::read(source, rules),
    }
}

/// Refuses ids that occur twice; `row_of` numbers the rows as the source does.
fn check_unique(place: &Path, accounts: &[Account], row_of: impl Fn(usize) -> u64) -> Result<()> {
    use rayon::prelude::*;
    // Sorting 16 bytes a row takes less memory and time than a hash map; the pseudonym's first bytes are as good as random.
    let mut order: Vec<(u64, usize)> =
        accounts.par_iter().enumerate().map(|(row, account)| (account.pseudonym.prefix(), row)).collect();
    order.par_sort_unstable();
    let twice = order
        .par_chunk_by(|a, b| a.0 == b.0)
        .filter(|rows| rows.len() > 1)
        .flat_map_iter(|rows| {
            (1..rows.len()).filter_map(|at| {
                let pseudonym = accounts[rows[at].1].pseudonym;
                let first = rows[..at].iter().find(|(_, row)| accounts[*row].pseudonym == pseudonym)?;
                Some((rows[at].1, first.1))
            })
        })
        .min();
    match twice {
        Some((row, first)) => Err(Error::data_row(
            place,
            row_of(row),
            format!("column \"user_id\": the same id as in row {}", row_of(first)),
        )),
        None => Ok(()),
    }
}
