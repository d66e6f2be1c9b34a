//! Reading accounts from Postgres beside `psql \copy` of the same columns, and where the time goes.
//!
//! `cargo bench -p duet-data --bench accounts -- [ACCOUNTS]` (default 5000000). The server is that of `DATABASE_URL` or
//! the `PG*` variables; the table goes into a schema `duet_bench` that is made for it and stays: the next run finds it.
//! Figures are the best of three passes, for the machine is shared with the server.

use std::{process::Command, sync::Arc, time::Instant};

use chrono::NaiveDate;
use duet_core::Result;
use duet_data::{
    accounts::{
        Account, AccountColumns, AccountRules, AccountSource, Connection, PostgresSource, TableName, UserKey, fold,
        locate, read,
    },
    world::{AccountsTable, WorldOptions, load_accounts},
};

const SCHEMA: &str = "duet_bench";
const PASSES: usize = 3;

/// Runs `work` several times and prints the best rate.
fn best<T>(what: &str, rows: u64, mut work: impl FnMut() -> Result<T>) -> Result<T> {
    let mut fastest = f64::INFINITY;
    let mut last = None;
    for _ in 0..PASSES {
        drop(last.take());
        let started = Instant::now();
        last = Some(work()?);
        fastest = fastest.min(started.elapsed().as_secs_f64());
    }
    println!("{what:50} {fastest:6.2} s {:>10.0} rows/s", rows as f64 / fastest);
    last.map_or_else(&mut work, Ok)
}

/// What `psql` needs for the same rows; nothing is printed where there is no `psql`.
fn psql(what: &str, rows: u64, url: &str, command: &str) -> Result<()> {
    let run = || Command::new("psql").args([url, "-q", "-c", command]).output();
    if run().is_ok_and(|output| output.status.success()) {
        best(what, rows, || Ok(run().is_ok()))?;
    }
    Ok(())
}

/// The process's largest resident memory so far, in megabytes.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kilobytes| kilobytes >> 10)
}

fn main() -> Result<()> {
    let count = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(5_000_000);
    let url = std::env::var("DATABASE_URL")
        .unwrap_or_else(|_| "postgres://postgres@127.0.0.1:5432/test?sslmode=disable".to_owned());
    let connection = Connection::new(Some(&url))?;
    let mut source = PostgresSource::new(connection.clone());
    source.table = TableName { schema: Some(SCHEMA.to_owned()), name: "accounts".to_owned() };
    let key = UserKey::new(b"a key for the benchmark")?;
    let reference_day = NaiveDate::from_ymd_opt(2025, 5, 1).unwrap_or_default();
    let rules = AccountRules { user_key: &key, age_edges: &[18, 25, 35, 45, 55], reference_day };
    let all = |source: &PostgresSource| read(&AccountSource::Postgres(Box::new(source.clone())), &rules);

    let columns = AccountColumns {
        age: None,
        birth_date: None,
        gender: None,
        lat: None,
        lon: None,
        country: None,
        created_at: None,
        ..AccountColumns::default()
    };
    let ids = PostgresSource { columns, ..source.clone() };
    if !all(&ids).is_ok_and(|accounts| accounts.len() as u64 == count) {
        let started = Instant::now();
        let options = WorldOptions { users: count, ..WorldOptions::default() };
        load_accounts(&options, &AccountsTable { connection, schema: Some(SCHEMA.to_owned()), overwrite: true })?;
        println!("loaded in {:.1} s", started.elapsed().as_secs_f64());
    }
    let select = format!("SELECT user_id, birth_date, gender, lat, lon, country, created_at FROM {SCHEMA}.accounts");
    psql("psql \\copy to /dev/null, text", count, &url, &format!("\\copy ({select}) to '/dev/null'"))?;
    psql(
        "psql \\copy to /dev/null, binary",
        count,
        &url,
        &format!("\\copy ({select}) to '/dev/null' with (format binary)"),
    )?;
    best("ids alone", count, || all(&ids))?;
    let mut places = source.clone();
    (places.columns.lat, places.columns.lon) = (None, None);
    best("all features but places", count, || all(&places))?;
    let accounts: Vec<Account> = best("all features", count, || all(&source))?;
    println!(
        "{} accounts of {} bytes, names shared; peak {:?} MB",
        accounts.len(),
        size_of::<Account>(),
        peak_memory()
    );

    let file = std::env::temp_dir().join(format!("duet-accounts-{}.csv", std::process::id()));
    let command = format!("\\copy (SELECT * FROM {SCHEMA}.accounts) to '{}' with (format csv, header)", file.display());
    if Command::new("psql").args([&url, "-q", "-c", &command]).status().is_ok_and(|status| status.success()) {
        best("all features, from a CSV file", count, || read(&AccountSource::Csv(file.clone()), &rules))?;
    }
    let _ = std::fs::remove_file(&file);

    let names: Vec<String> = (0..1_000_000).map(|user| format!("u{user:09}")).collect();
    best("HMAC alone, one thread", 1_000_000, || {
        Ok(names.iter().fold(0, |sum: u64, name| sum.wrapping_add(u64::from(key.pseudonym_bytes(name).0[0]))))
    })?;
    let coordinates: Vec<Option<(f64, f64)>> =
        (0..1_000_000).map(|at| Some((f64::from(at % 140) - 60.0, f64::from(at % 359) - 179.0))).collect();
    best("far coordinates to places, all threads", 1_000_000, || Ok(locate(&coordinates)))?;
    let counted = vec![true; accounts.len()];
    best("fold", count, || {
        let mut places: Vec<_> = accounts.iter().map(|account| account.place.clone()).collect();
        fold(&mut places, &counted, 20);
        Ok(places.last().and_then(|place| place.city.as_ref().map(Arc::strong_count)))
    })?;
    Ok(())
}
