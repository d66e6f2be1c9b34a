//! The items of a bundle as a new table, in one transaction: `COPY`, the indexes, the comment, then the rename. Whatever fails on
//! the way leaves the old table as it was.

use std::{
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use duet_core::{Error, Result, table::FeatureTable};
use futures::pin_mut;
use tokio_postgres::{
    Client,
    binary_copy::BinaryCopyInWriter,
    types::{ToSql, Type},
};

use super::{
    MAX_DIM, TableRecord, VectorTable, Version,
    columns::{self, Value},
    look,
    vector::Components,
};
use crate::accounts::{Failure, TableName, runtime};

/// How long the rename waits for readers of the old table; they wait behind it meanwhile.
const LOCK_TIMEOUT: &str = "30s";

/// What goes into a table.
#[derive(Debug, Clone, Copy)]
pub struct TableContents<'a> {
    /// The id of the bundle.
    pub bundle: &'a str,
    /// Ids, names and features of the items.
    pub items: &'a FeatureTable,
    /// Components of a vector.
    pub dim: usize,
    /// The vectors `[items, dim]`.
    pub vectors: &'a [f32],
}

impl TableContents<'_> {
    fn check(&self) -> Result<()> {
        let Self { items, dim, vectors, .. } = self;
        items.check()?;
        if vectors.len() != items.len() * dim {
            return Err(Error::Internal(format!("{} components for {} items of {dim}", vectors.len(), items.len())));
        }
        if !(1..=MAX_DIM).contains(dim) {
            return Err(Error::input(format!(
                "vectors of {dim} components; an HNSW index of pgvector takes 1 to {MAX_DIM} (set model.dim)"
            )));
        }
        if i32::try_from(items.len()).is_err() {
            return Err(Error::input(format!("{} items; the column item is a 32-bit integer", items.len())));
        }
        Ok(())
    }
}

/// What became of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Whether it was written; if not, it was there already, of the same bundle.
    pub is_new: bool,
    /// Rows.
    pub items: usize,
    /// The version of pgvector.
    pub pgvector: String,
}

/// Writes a table, or finds it there already, of the same bundle. With `overwrite` a table of another bundle is replaced.
///
/// Blocks the calling thread; must not be called from asynchronous code.
///
/// # Errors
/// [`Error::Input`] if the table is of another bundle (without `overwrite`) or none of duet's, or for vectors that are too wide;
/// [`Error::Data`] and [`Error::Io`] for what the connection and the server say, a missing extension among it.
pub fn write(target: &VectorTable, contents: &TableContents<'_>, overwrite: bool) -> Result<Written> {
    contents.check()?;
    let place = target.place();
    let runtime = runtime()?;
    let written = runtime.block_on(async {
        let session = target.connection.open().await?;
        transaction(&session.client, &place, &target.table, contents, overwrite).await
    });
    written.map_err(|failure: Failure| failure.into_error(&place))
}

async fn transaction(
    client: &Client,
    place: &Path,
    table: &TableName,
    contents: &TableContents<'_>,
    overwrite: bool,
) -> Result<Written, Failure> {
    let TableContents { bundle, items, dim, .. } = *contents;
    let failed = |error| Failure::new(place, &error);
    let pgvector = Version::of(client, place).await?.text;
    client.batch_execute("BEGIN; SET LOCAL statement_timeout = 0").await.map_err(failed)?;
    // Two exports of one table go one after the other.
    let lock = format!("duet export-vectors {table}");
    client.execute("SELECT pg_advisory_xact_lock(hashtext($1))", &[&lock]).await.map_err(failed)?;
    let before = look(client, place, table).await?;
    match &before {
        Some((_, None)) => {
            let what = format!("{}: not written by duet, so it is not replaced; give another --table", place.display());
            return Err(Error::input(what).into());
        }
        Some((_, Some(record))) if record.duet_bundle == bundle && !overwrite => {
            let items = record.items;
            return Ok(Written { is_new: false, items, pgvector });
        }
        Some((_, Some(record))) if !overwrite => {
            let other = &record.duet_bundle;
            let what = format!("{}: holds bundle {other}; --overwrite replaces it by {bundle}", place.display());
            return Err(Error::input(what).into());
        }
        _ => {}
    }
    let staging = staging(table);
    let fresh = staging.quoted();
    let features: String = (0..items.columns.len())
        .map(|column| {
            format!(", {} {}", columns::name(items, column), columns::sql_type(&items.columns[column].values))
        })
        .collect();
    let create = format!(
        "CREATE TABLE {fresh} (item integer NOT NULL, id text NOT NULL, name text NOT NULL, vector vector({dim}) NOT NULL{features})"
    );
    client.batch_execute(&create).await.map_err(failed)?;
    copy(client, place, &fresh, contents).await?;
    // Names are left to the server: those of indexes are their schema's, and the old table still has its own.
    let mut statements = format!(
        "ALTER TABLE {fresh} ADD PRIMARY KEY (item); CREATE INDEX ON {fresh} USING hnsw (vector vector_ip_ops);"
    );
    for (at, column) in items.columns.iter().enumerate() {
        if let Some(index) = columns::index(&column.values, &columns::name(items, at)) {
            statements += &format!("CREATE INDEX ON {fresh} USING {index};");
        }
    }
    statements += &format!("ANALYZE {fresh};");
    client.batch_execute(&statements).await.map_err(failed)?;
    let record = TableRecord { duet_bundle: bundle.to_owned(), items: items.len(), dim };
    let record = serde_json::to_string(&record).map_err(|error| Error::Internal(error.to_string()))?;
    // A comment can't be a parameter.
    let comment = format!(
        "SET LOCAL standard_conforming_strings = on; COMMENT ON TABLE {fresh} IS '{}'",
        record.replace('\'', "''")
    );
    client.batch_execute(&comment).await.map_err(failed)?;
    if let Some((oid, _)) = before {
        keep_readers(client, place, oid, &fresh).await?;
        let drop = format!("SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; DROP TABLE {}", table.quoted());
        client.batch_execute(&drop).await.map_err(failed)?;
    }
    let name = TableName { schema: None, name: table.name.clone() }.quoted();
    client.batch_execute(&format!("ALTER TABLE {fresh} RENAME TO {name}; COMMIT")).await.map_err(failed)?;
    Ok(Written { is_new: true, items: items.len(), pgvector })
}

/// A name that nobody has.
fn staging(table: &TableName) -> TableName {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
    TableName { schema: table.schema.clone(), name: format!("duet_next_{:x}_{nanos:x}", std::process::id()) }
}

async fn copy(client: &Client, place: &Path, table: &str, contents: &TableContents<'_>) -> Result<(), Failure> {
    let TableContents { items, dim, vectors, .. } = *contents;
    let failed = |error| Failure::new(place, &error);
    // The number of the type `vector` differs from database to database.
    let layout = client.prepare(&format!("SELECT * FROM {table}")).await.map_err(failed)?;
    let types: Vec<Type> = layout.columns().iter().map(|column| column.type_().clone()).collect();
    let sink = client.copy_in(&format!("COPY {table} FROM STDIN (FORMAT binary)")).await.map_err(failed)?;
    let writer = BinaryCopyInWriter::new(sink, &types);
    pin_mut!(writer);
    for row in 0..items.len() {
        let bad = |error: Error| Error::data_row("the bundle's items", row as u64 + 1, error.to_string());
        let item = i32::try_from(row).map_err(|_| Error::Internal(format!("row {row} of a table of 32 bits")))?;
        let id = columns::storable(items.ids.id(row)).map_err(bad)?;
        let name = columns::storable(items.name(row)).map_err(bad)?;
        let vector = Components(&vectors[row * dim..(row + 1) * dim]);
        let features: Vec<Value> = items
            .columns
            .iter()
            .map(|column| columns::value(&column.values, row))
            .collect::<Result<_>>()
            .map_err(bad)?;
        let mut values: Vec<&(dyn ToSql + Sync)> = vec![&item, &id, &name, &vector];
        values.extend(features.iter().map(|value| &**value as &(dyn ToSql + Sync)));
        writer.as_mut().write(&values).await.map_err(failed)?;
    }
    writer.finish().await.map_err(failed)?;
    Ok(())
}

/// Lets everybody read the new table who could read the old one.
async fn keep_readers(client: &Client, place: &Path, old: u32, fresh: &str) -> Result<(), Failure> {
    let statement = "SELECT DISTINCT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END \
         FROM pg_class, aclexplode(relacl) WHERE pg_class.oid = $1 AND privilege_type = 'SELECT'";
    let failed = |error| Failure::new(place, &error);
    for row in client.query(statement, &[&old]).await.map_err(failed)? {
        let reader: String = row.get(0);
        client.batch_execute(&format!("GRANT SELECT ON {fresh} TO {reader}")).await.map_err(failed)?;
    }
    Ok(())
}
