//! Accounts from a Postgres table: the columns asked for, from one snapshot, as `COPY ... BINARY`.
//!
//! The role needs `SELECT` on the columns that are read and nothing else; the transaction is read-only.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use duet_core::{Error, Result};
use futures::{StreamExt, pin_mut};
use tokio::runtime::Runtime;

use super::{
    Account, AccountRules, check_unique,
    reduce::{Sink, in_parallel},
};

mod binary;
mod columns;
mod connection;
mod failure;
mod tls;

pub use columns::{AccountColumns, TableName};
pub use connection::Connection;
pub(crate) use connection::{Session, runtime};
pub(crate) use failure::Failure;

use binary::{Block, Layout};

/// Bytes of a block: some ten thousand rows.
const BLOCK_BYTES: usize = 1 << 20;

/// How a lost connection is bridged: the whole snapshot is read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// How often reading is tried, at least 1.
    pub attempts: u32,
    /// The wait before the second attempt; doubled before each further one.
    pub first_wait: Duration,
    /// The longest wait.
    pub longest_wait: Duration,
}

impl Default for Retry {
    /// Six attempts, 15.5 s of waiting in all: a server that restarts is back by then.
    fn default() -> Self {
        Self { attempts: 6, first_wait: Duration::from_millis(500), longest_wait: Duration::from_secs(8) }
    }
}

impl Retry {
    /// The wait after an attempt, counted from 1; nothing after the last.
    fn wait_after(&self, attempt: u32) -> Option<Duration> {
        let factor = 1_u32.checked_shl(attempt - 1).unwrap_or(u32::MAX);
        (attempt < self.attempts).then(|| self.first_wait.saturating_mul(factor).min(self.longest_wait))
    }
}

/// A table of accounts in a Postgres database.
#[derive(Debug, Clone)]
pub struct PostgresSource {
    /// The database.
    pub connection: Connection,
    /// The table or view.
    pub table: TableName,
    /// Which column is what.
    pub columns: AccountColumns,
    /// How a lost connection is bridged.
    pub retry: Retry,
}

impl PostgresSource {
    /// The table `accounts` with the columns of a synthetic world.
    pub fn new(connection: Connection) -> Self {
        let table = TableName { schema: None, name: "accounts".to_owned() };
        Self { connection, table, columns: AccountColumns::default(), retry: Retry::default() }
    }

    /// What messages call it: "Postgres HOST:PORT/DATABASE, table NAME".
    pub(crate) fn place(&self) -> PathBuf {
        PathBuf::from(format!("{}, table {}", self.connection, self.table))
    }
}

/// Reads the accounts in the order of the table.
pub(super) fn read(source: &PostgresSource, rules: &AccountRules<'_>) -> Result<Vec<Account>> {
    source.columns.validate()?;
    let place = source.place();
    let runtime = runtime()?;
    let mut attempt = 1;
    let accounts = loop {
        match (read_once(&runtime, source, &place, rules), source.retry.wait_after(attempt)) {
            (Ok(accounts), _) => break accounts,
            (Err(Failure::Permanent(error)), _) => return Err(error),
            (Err(Failure::Lost(what)), Some(wait)) => {
                tracing::warn!(place = %place.display(), attempt, "{what}; reading again in {} ms", wait.as_millis());
                std::thread::sleep(wait);
                attempt += 1;
            }
            (Err(Failure::Lost(what)), None) => {
                let message = format!("{what}; gave up after {attempt} attempts, nothing was kept");
                return Err(Error::Io { path: place, source: std::io::Error::other(message) });
            }
        }
    };
    if accounts.is_empty() {
        return Err(Error::data(&place, "the table has no rows"));
    }
    check_unique(&place, &accounts, |index| index as u64 + 1)?;
    Ok(accounts)
}

fn read_once(
    runtime: &Runtime,
    source: &PostgresSource,
    place: &Path,
    rules: &AccountRules<'_>,
) -> Result<Vec<Account>, Failure> {
    let (session, layout) = runtime.block_on(async {
        let session = source.connection.open().await?;
        // Without the setting, the scan of a large table may start in the middle, where another scan is just then.
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL synchronize_seqscans = off";
        session.client.batch_execute(begin).await.map_err(|error| Failure::new(place, &error))?;
        let layout = columns::resolve(&session.client, place, &source.table, &source.columns).await?;
        Ok::<_, Failure>((session, layout))
    })?;
    let accounts = in_parallel(
        rules,
        |sink| runtime.block_on(copy(&session, place, &source.table, &layout, sink)),
        |block: Block, reducer, accounts| block.reduce(place, &layout, reducer, accounts),
    )?;
    runtime.block_on(session.client.batch_execute("COMMIT")).map_err(|error| Failure::new(place, &error))?;
    Ok(accounts)
}

/// Cuts the stream into blocks. The server sends one row a message.
async fn copy(
    session: &Session,
    place: &Path,
    table: &TableName,
    layout: &Layout,
    sink: Sink<'_, Block>,
) -> Result<(), Failure> {
    let lost = |error| Failure::new(place, &error);
    let statement = format!("COPY (SELECT {} FROM {}) TO STDOUT (FORMAT binary)", layout.select_list(), table.quoted());
    let stream = session.client.copy_out(&statement).await.map_err(lost)?;
    pin_mut!(stream);
    let mut block = Block::new(1, BLOCK_BYTES);
    let mut rows = 0;
    let mut first = true;
    while let Some(message) = stream.next().await {
        let message = message.map_err(lost)?;
        let row = match std::mem::take(&mut first) {
            true => binary::after_header(&message).ok_or_else(|| binary::malformed(place, 1))?,
            false => &message[..],
        };
        if row.is_empty() {
            continue;
        }
        if row == binary::TRAILER {
            sink(block);
            return Ok(());
        }
        rows += 1;
        block.push(row);
        if block.is_full() && !sink(std::mem::replace(&mut block, Block::new(rows + 1, BLOCK_BYTES))) {
            return Ok(());
        }
    }
    Err(Failure::Lost("the server ended the data before its end".to_owned()))
}
