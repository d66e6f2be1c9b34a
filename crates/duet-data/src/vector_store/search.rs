//! The best items of a table by inner product.
//!
//! * The HNSW index is approximate. From pgvector 0.8 on it is asked to go on until the conditions have let K rows through
//!   (`hnsw.iterative_scan = strict_order`); before, a condition would be looked at after the index has given its few dozen rows, so
//!   with conditions the allowed rows are scanned exactly there. So they are wherever a list comes out short: K rows come back
//!   whenever K are allowed.
//! * Every row says of which table it is (`tableoid`), and the comment of that table of which bundle: a table that is replaced
//!   between two searches is noticed by the next, and no list mixes two.
//! * A lost connection is made anew, once a search.

use std::{
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use duet_core::{Error, Result, condition::Condition, table::FeatureTable};
use tokio::runtime::Runtime;
use tokio_postgres::{Client, Statement, types::ToSql};

use super::{VectorTable, Version, columns, look, vector::Components};
use crate::accounts::{Failure, Session, runtime};

/// Statements kept in a session: one for each combination of columns in conditions.
const STATEMENTS: usize = 64;
/// A server that says nothing for so long, beyond the time it was given, is as good as gone.
const SILENCE: Duration = Duration::from_secs(10);
/// The largest `hnsw.ef_search`.
const EF_MOST: usize = 1_000;

/// How a table is searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SearcherOptions {
    /// Rows that the index keeps in view (`hnsw.ef_search`), at least; more where K asks for it.
    pub ef_search: usize,
    /// How long the server works on a search before it gives up; forever, if not given.
    pub statement_timeout: Option<Duration>,
}

impl Default for SearcherOptions {
    /// pgvector's own 40 gives up too much recall at K = 10.
    fn default() -> Self {
        Self { ef_search: 100, statement_timeout: None }
    }
}

/// What is looked for.
#[derive(Debug, Clone, Copy)]
pub struct TableQuery<'a> {
    /// The query vector.
    pub vector: &'a [f32],
    /// How many items; at least 1.
    pub k: usize,
    /// What must hold for an item.
    pub conditions: &'a [Condition],
    /// Rows that must not be returned.
    pub exclude: &'a [u32],
    /// Items for which the conditions hold and that are not excluded: a list that is shorter than it need be is looked for again,
    /// exactly.
    pub allowed: usize,
}

/// Why there is no list.
#[derive(Debug)]
pub enum SearchFailure {
    /// The table is of another bundle, or of none.
    OtherBundle(String),
    /// The connection or the server.
    Failed(Error),
}

impl fmt::Display for SearchFailure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherBundle(what) => formatter.write_str(what),
            Self::Failed(error) => error.fmt(formatter),
        }
    }
}

impl SearchFailure {
    /// For those to whom it is all one.
    pub fn into_error(self) -> Error {
        match self {
            Self::OtherBundle(what) => Error::Input(what),
            Self::Failed(error) => error,
        }
    }
}

/// Why an attempt gave no list.
enum Attempt {
    Other(String),
    Failed(Failure),
}

impl From<Failure> for Attempt {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<Error> for Attempt {
    fn from(error: Error) -> Self {
        Self::Failed(error.into())
    }
}

/// Searches the table of one bundle over one connection, which is made at the first search. Blocks the calling thread; must not be
/// used from asynchronous code.
pub struct TableSearcher {
    target: VectorTable,
    place: PathBuf,
    bundle: String,
    options: SearcherOptions,
    runtime: Runtime,
    session: Option<Open>,
}

impl fmt::Debug for TableSearcher {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TableSearcher").field("target", &self.target).finish_non_exhaustive()
    }
}

/// A connection and what the server was told on it.
struct Open {
    session: Session,
    version: Version,
    /// The table that was found to be the bundle's.
    oid: Option<u32>,
    statements: HashMap<String, Statement>,
    ef_search: usize,
    is_exact: bool,
}

impl TableSearcher {
    /// Prepares for searches in the table of a bundle.
    ///
    /// # Errors
    /// [`Error::Internal`] if there is no runtime to be had.
    pub fn new(target: &VectorTable, bundle: &str, options: SearcherOptions) -> Result<Self> {
        Ok(Self {
            target: target.clone(),
            place: target.place(),
            bundle: bundle.to_owned(),
            options,
            runtime: runtime()?,
            session: None,
        })
    }

    /// Connects, unless that is done, and returns the version of pgvector.
    ///
    /// # Errors
    /// [`SearchFailure`].
    pub fn connect(&mut self) -> Result<&str, SearchFailure> {
        if self.session.is_none() {
            let connecting = async { Ok(connect(&self.target, &self.options).await?) };
            let connected = self.runtime.block_on(within(&self.options, connecting));
            self.session = Some(connected.map_err(|failure| self.told(failure))?);
        }
        Ok(self.session.as_ref().map_or("", |open| &open.version.text))
    }

    /// Whether the index goes on until conditions have let enough rows through; false before [`Self::connect`].
    pub fn is_iterative(&self) -> bool {
        self.session.as_ref().is_some_and(|open| open.version.is_iterative())
    }

    /// The best items, best first, each with its inner product. `items` are the bundle's: their columns name those of conditions.
    ///
    /// # Errors
    /// [`SearchFailure`]; the next search starts with a new connection, if this one failed.
    pub fn search(&mut self, items: &FeatureTable, query: &TableQuery<'_>) -> Result<Vec<(u32, f32)>, SearchFailure> {
        let Self { target, place, bundle, options, runtime, session } = self;
        let had = session.is_some();
        let mut attempt = runtime.block_on(within(options, async {
            if session.is_none() {
                *session = Some(connect(target, options).await?);
            }
            find(session, target, place, bundle, options, items, query).await
        }));
        // A server that was started anew leaves connections that are dead and don't know it.
        if had && matches!(attempt, Err(Attempt::Failed(Failure::Lost(_)))) {
            attempt = runtime.block_on(within(options, async {
                *session = Some(connect(target, options).await?);
                find(session, target, place, bundle, options, items, query).await
            }));
        }
        if matches!(attempt, Err(Attempt::Failed(_))) {
            *session = None;
        }
        attempt.map_err(|failure| self.told(failure))
    }

    fn told(&self, failure: Attempt) -> SearchFailure {
        match failure {
            Attempt::Other(what) => SearchFailure::OtherBundle(what),
            Attempt::Failed(failure) => SearchFailure::Failed(failure.into_error(&self.place)),
        }
    }
}

/// Gives up on a server that is silent.
async fn within<T>(options: &SearcherOptions, work: impl Future<Output = Result<T, Attempt>>) -> Result<T, Attempt> {
    let Some(limit) = options.statement_timeout.map(|timeout| timeout + SILENCE) else { return work.await };
    tokio::time::timeout(limit, work)
        .await
        .unwrap_or_else(|_| Err(Failure::Lost(format!("no answer within {} s", limit.as_secs())).into()))
}

async fn connect(target: &VectorTable, options: &SearcherOptions) -> Result<Open, Failure> {
    let place = target.place();
    let session = target.connection.open().await?;
    let version = Version::of(&session.client, &place).await?;
    // A plan for any values would not know how selective a condition is.
    let mut settings = format!(
        "SET plan_cache_mode = force_custom_plan; SET statement_timeout = {}",
        options.statement_timeout.map_or(0, |timeout| timeout.as_millis().max(1))
    );
    if version.is_iterative() {
        settings += "; SET hnsw.iterative_scan = strict_order";
    }
    session.client.batch_execute(&settings).await.map_err(|error| Failure::new(&place, &error))?;
    Ok(Open { session, version, oid: None, statements: HashMap::new(), ef_search: 0, is_exact: false })
}

async fn find(
    session: &mut Option<Open>,
    target: &VectorTable,
    place: &Path,
    bundle: &str,
    options: &SearcherOptions,
    items: &FeatureTable,
    query: &TableQuery<'_>,
) -> Result<Vec<(u32, f32)>, Attempt> {
    let Some(open) = session else {
        return Err(Error::Internal("no session to search in".to_owned()).into());
    };
    if open.oid.is_none() {
        open.oid = Some(own_table(&open.session.client, target, place, bundle).await?);
    }
    let possible = query.allowed.min(query.k);
    let is_approximate = query.conditions.is_empty() || open.version.is_iterative();
    for is_exact in [false, true] {
        if !is_exact && !is_approximate {
            continue;
        }
        let (oid, list) = match open.rows(target, place, options, items, query, is_exact).await {
            Ok(found) => found,
            Err(failure) => {
                // A table of another bundle may lack a column, or have vectors of another width.
                if matches!(failure, Failure::Permanent(_)) {
                    own_table(&open.session.client, target, place, bundle).await?;
                }
                return Err(failure.into());
            }
        };
        if oid.is_some() && oid != open.oid {
            open.oid = None;
            open.oid = Some(own_table(&open.session.client, target, place, bundle).await?);
            if oid != open.oid {
                // Replaced twice between two statements.
                return Err(Failure::Lost("the table is being replaced".to_owned()).into());
            }
        }
        if list.len() >= possible || is_exact {
            return Ok(list);
        }
    }
    Ok(Vec::new())
}

/// The number of the table, if it is the bundle's.
async fn own_table(client: &Client, target: &VectorTable, place: &Path, bundle: &str) -> Result<u32, Attempt> {
    let mut found = look(client, place, &target.table).await?;
    if !matches!(found, Some((_, Some(_)))) {
        // A rename in the midst of a statement: its name was known already, its rows were not.
        found = look(client, place, &target.table).await?;
    }
    match found {
        Some((oid, Some(record))) if record.duet_bundle == bundle => Ok(oid),
        Some((_, Some(record))) => {
            let other = record.duet_bundle;
            Err(Attempt::Other(format!("{}: holds bundle {other}, not {bundle}", place.display())))
        }
        Some((_, None)) => Err(Attempt::Other(format!("{}: not written by duet export-vectors", place.display()))),
        None => Err(Attempt::Other(format!("{}: no such table; duet export-vectors makes it", place.display()))),
    }
}

impl Open {
    /// Rows of the table with the number of that table.
    async fn rows(
        &mut self,
        target: &VectorTable,
        place: &Path,
        options: &SearcherOptions,
        items: &FeatureTable,
        query: &TableQuery<'_>,
        is_exact: bool,
    ) -> Result<(Option<u32>, Vec<(u32, f32)>), Failure> {
        let failed = |error| Failure::new(place, &error);
        // Without iterative scans the index gives `ef_search` rows, and excluded ones are taken out of those.
        let wanted = if self.version.is_iterative() { query.k } else { query.k + query.exclude.len() };
        let ef_search = wanted.max(options.ef_search).next_multiple_of(20).min(EF_MOST);
        if ef_search != self.ef_search {
            self.session.client.batch_execute(&format!("SET hnsw.ef_search = {ef_search}")).await.map_err(failed)?;
            self.ef_search = ef_search;
        }
        if is_exact != self.is_exact {
            // The index of the vectors is read by index scans alone; those of the columns give bitmaps.
            let state = if is_exact { "off" } else { "on" };
            self.session.client.batch_execute(&format!("SET enable_indexscan = {state}")).await.map_err(failed)?;
            self.is_exact = is_exact;
        }
        let (conditions, values) = columns::clauses(items, query.conditions, 4)?;
        let text = format!(
            "SELECT tableoid, item, vector <#> $1 FROM {} WHERE item <> ALL ($2){conditions} ORDER BY vector <#> $1 LIMIT $3",
            target.table.quoted()
        );
        let statement = match self.statements.get(&text) {
            Some(statement) => statement.clone(),
            None => {
                let statement = self.session.client.prepare(&text).await.map_err(failed)?;
                if self.statements.len() >= STATEMENTS {
                    self.statements.clear();
                }
                self.statements.insert(text, statement.clone());
                statement
            }
        };
        let exclude: Vec<i32> = query.exclude.iter().filter_map(|&item| i32::try_from(item).ok()).collect();
        let (vector, limit) = (Components(query.vector), i64::try_from(query.k).unwrap_or(i64::MAX));
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&vector, &exclude, &limit];
        parameters.extend(values.iter().map(|value| &**value as &(dyn ToSql + Sync)));
        let rows = self.session.client.query(&statement, &parameters).await.map_err(failed)?;
        let mut list = Vec::with_capacity(rows.len());
        let mut oid = None;
        for row in &rows {
            let (item, distance): (i32, f64) = (row.try_get(1).map_err(failed)?, row.try_get(2).map_err(failed)?);
            oid = Some(row.try_get(0).map_err(failed)?);
            let item = u32::try_from(item).map_err(|_| Error::data(place, "column item holds a number below 0"))?;
            // pgvector's <#> is the negative of the inner product: its indexes only go upwards.
            list.push((item, -distance as f32));
        }
        Ok((oid, list))
    }
}
