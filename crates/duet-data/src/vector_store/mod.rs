//! Item vectors in a Postgres table with the extension `vector` (pgvector), for catalogues that outgrow one machine's memory or
//! that other programs search too.
//!
//! * [`write`](fn@write): the items of a bundle as a new table with an HNSW index, put into its place by a rename: a reader sees
//!   the old table or the new one, whole.
//! * [`TableSearcher`]: the best items by inner product, with conditions on the catalogue's columns and without excluded items, from
//!   the table of one bundle and no other.
//!
//! The columns are `item` (the row in the bundle's items table), `id`, `name`, `vector`, and one for each feature column. The table's
//! comment says which bundle it is of. Nothing here knows a model: vectors are slices, conditions those of
//! [`duet_core::condition`].

mod columns;
mod search;
mod vector;
mod write;

use std::path::{Path, PathBuf};

use duet_core::{Error, Result};
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use crate::accounts::{Connection, Failure, TableName};

pub use self::{
    search::{SearchFailure, SearcherOptions, TableQuery, TableSearcher},
    write::{TableContents, Written, write},
};

/// The widest vectors that an HNSW index of pgvector takes.
pub const MAX_DIM: usize = 2_000;

/// The first version of pgvector whose index goes on searching until a filter has let enough rows through.
const ITERATIVE_SINCE: (u32, u32) = (0, 8);

/// A table of item vectors in a Postgres database.
#[derive(Debug, Clone)]
pub struct VectorTable {
    /// The database.
    pub connection: Connection,
    /// The table.
    pub table: TableName,
}

impl VectorTable {
    /// What messages call it: "Postgres HOST:PORT/DATABASE, table NAME".
    pub fn place(&self) -> PathBuf {
        PathBuf::from(format!("{}, table {}", self.connection, self.table))
    }
}

/// The table's comment, as JSON: whose vectors these are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct TableRecord {
    /// The id of the bundle.
    duet_bundle: String,
    /// Rows.
    items: usize,
    /// Components of a vector.
    dim: usize,
}

impl TableRecord {
    /// Reads a comment; nothing, if it is none of ours.
    fn parse(comment: &str) -> Option<Self> {
        serde_json::from_str(comment).ok()
    }
}

/// A version of pgvector.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Version {
    text: String,
    numbers: (u32, u32),
}

impl Version {
    fn parse(text: &str) -> Self {
        let mut parts = text.split('.').map(|part| part.parse().unwrap_or(0));
        let numbers = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
        Self { text: text.to_owned(), numbers }
    }

    fn is_iterative(&self) -> bool {
        self.numbers >= ITERATIVE_SINCE
    }

    /// The version that the database uses.
    async fn of(client: &Client, place: &Path) -> Result<Self, Failure> {
        let failed = |error| Failure::new(place, &error);
        let used = client.query_opt("SELECT extversion FROM pg_extension WHERE extname = 'vector'", &[]).await;
        if let Some(row) = used.map_err(failed)? {
            return Ok(Self::parse(row.get(0)));
        }
        let known = "SELECT default_version FROM pg_available_extensions WHERE name = 'vector'";
        let known = client.query_opt(known, &[]).await.map_err(failed)?;
        let server: String = client.query_one("SHOW server_version_num", &[]).await.map_err(failed)?.get(0);
        let major = server.parse::<u32>().unwrap_or(0) / 10_000;
        Err(Failure::Permanent(Error::data(place, missing(known.and_then(|row| row.get(0)), major))))
    }
}

/// What to do where the database lacks the extension.
fn missing(available: Option<String>, major: u32) -> String {
    match available {
        Some(version) => format!(
            "the database has no extension vector, but its server has pgvector {version}: run CREATE EXTENSION vector in it, as a \
             superuser"
        ),
        None => format!(
            "the database has no extension vector, and its server has no pgvector: install the package \
             postgresql-{major}-pgvector (Debian 13 or apt.postgresql.org; Debian 12 has none), then run CREATE EXTENSION vector, as \
             a superuser"
        ),
    }
}

/// The number of the table under this name, and its record, where it has one.
async fn look(client: &Client, place: &Path, table: &TableName) -> Result<Option<(u32, Option<TableRecord>)>, Failure> {
    let statement = "SELECT oid, obj_description(oid, 'pg_class') FROM pg_class WHERE oid = to_regclass($1)";
    let row = client.query_opt(statement, &[&table.quoted()]).await.map_err(|error| Failure::new(place, &error))?;
    Ok(row.map(|row| {
        let comment: Option<String> = row.get(1);
        (row.get(0), comment.as_deref().and_then(TableRecord::parse))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        for (text, is_iterative) in [("0.6.2", false), ("0.7", false), ("0.8.0", true), ("0.10.1", true), ("1.0", true)]
        {
            assert_eq!(Version::parse(text).is_iterative(), is_iterative, "{text}");
        }
    }

    #[test]
    fn what_is_missing_is_named_with_its_package() {
        assert!(missing(None, 15).contains("postgresql-15-pgvector"));
        assert!(missing(Some("0.8.1".to_owned()), 17).contains("pgvector 0.8.1: run CREATE EXTENSION"));
    }

    #[test]
    fn comments_of_others_are_no_records() {
        let record = TableRecord { duet_bundle: "a'b\\-00".to_owned(), items: 3, dim: 2 };
        let text = serde_json::to_string(&record).unwrap_or_default();
        assert_eq!(TableRecord::parse(&text), Some(record));
        assert_eq!(TableRecord::parse("accounts of the shop"), None);
        assert_eq!(TableRecord::parse("{\"items\":3}"), None);
    }
}
