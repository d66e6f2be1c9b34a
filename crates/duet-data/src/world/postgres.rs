//! The accounts of a world in a Postgres database, as a service would have them.

use std::path::PathBuf;

use bytes::Bytes;
use duet_core::{Error, Result};
use futures::{SinkExt, pin_mut};
use tokio_postgres::CopyInSink;

use super::{WorldOptions, account, generate::by_chunks, listener::Population};
use crate::accounts::{Connection, Failure, TableName, runtime};

/// The table the accounts go to: `accounts`, made if it is not there.
#[derive(Debug, Clone)]
pub struct AccountsTable {
    /// The database.
    pub connection: Connection,
    /// The schema, made if it is not there; without one, where the search path leads.
    pub schema: Option<String>,
    /// Empty the table first, if all that is in it are accounts of a synthetic world.
    pub overwrite: bool,
}

/// Writes the accounts that [`super::generate`] writes to files into a table, in one transaction and flat memory.
///
/// Returns the number of accounts.
///
/// # Errors
/// [`Error::Input`] for impossible options, a table that is not empty (without `overwrite`), or one that holds accounts of
/// real people; [`Error::Io`] and [`Error::Data`] for what the connection and the server say. The table is as it was then.
pub fn load_accounts(options: &WorldOptions, target: &AccountsTable) -> Result<u64> {
    options.validate()?;
    let table = TableName { schema: target.schema.clone(), name: "accounts".to_owned() };
    let place = PathBuf::from(format!("{}, table {table}", target.connection));
    let failed = |error| Failure::new(&place, &error).into_error(&place);
    let runtime = runtime()?;
    let (session, sink) = runtime.block_on(async {
        let session = target.connection.open().await.map_err(|failure| failure.into_error(&place))?;
        let client = &session.client;
        client.batch_execute("BEGIN").await.map_err(failed)?;
        if let Some(schema) = &target.schema {
            let name = TableName { schema: None, name: schema.clone() }.quoted();
            client.batch_execute(&format!("CREATE SCHEMA IF NOT EXISTS {name}")).await.map_err(failed)?;
        }
        let name = table.quoted();
        let create = format!("CREATE TABLE IF NOT EXISTS {name} ({})", account::DEFINITION);
        client.batch_execute(&create).await.map_err(failed)?;
        let exists = async |condition: String| {
            let row = client.query_one(&format!("SELECT EXISTS (SELECT FROM {name} {condition})"), &[]).await;
            row.map(|row| row.get::<_, bool>(0)).map_err(failed)
        };
        if exists(String::new()).await? {
            if !target.overwrite {
                return Err(Error::input(format!("{}: not empty; give another place or --overwrite", place.display())));
            }
            if exists(format!("WHERE email NOT LIKE '%{}'", account::MAIL_DOMAIN)).await? {
                return Err(Error::input(format!(
                    "{}: holds accounts that were not made by duet, so it is not emptied; give another --schema",
                    place.display()
                )));
            }
            client.batch_execute(&format!("TRUNCATE {name}")).await.map_err(failed)?;
        }
        let copy = format!("COPY {name} ({}) FROM STDIN", account::SQL_COLUMNS);
        let sink: CopyInSink<Bytes> = client.copy_in(&copy).await.map_err(failed)?;
        Ok((session, sink))
    })?;
    pin_mut!(sink);
    let population = Population::new(options);
    let rows = |users: std::ops::Range<u64>| {
        let (mut csv, mut sql) = (String::new(), String::new());
        for user in users {
            csv.clear();
            account::push(options.seed, user, &population.person(user), options.start, &mut csv, &mut sql);
        }
        Bytes::from(sql)
    };
    by_chunks(options.users, rows, |rows| runtime.block_on(sink.send(rows)).map_err(failed))?;
    let count = runtime.block_on(async {
        let count = sink.finish().await.map_err(failed)?;
        session.client.batch_execute("COMMIT").await.map_err(failed)?;
        Ok::<_, Error>(count)
    })?;
    Ok(count)
}
