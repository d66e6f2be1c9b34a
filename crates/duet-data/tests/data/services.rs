//! The servers that tests need: found by the usual variables, or at their default local ports.
//!
//! Where none answers, the test says so and is skipped; with `DUET_REQUIRE_SERVICES=1` a missing server is a failure.

use std::{
    env,
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use tokio_postgres::{Config, NoTls, SimpleQueryMessage, config::SslMode};

/// URL of a NATS server with JetStream.
pub(crate) fn nats() -> Option<String> {
    let url = env::var("NATS_URL").unwrap_or_else(|_| "nats://127.0.0.1:4222".to_owned());
    let place = url.rsplit_once('@').map_or(url.as_str(), |(_, place)| place);
    let place = place.trim_start_matches("nats://").trim_start_matches("tls://").trim_end_matches('/');
    let place = if place.contains(':') { place.to_owned() } else { format!("{place}:4222") };
    if answers(&place) { Some(url) } else { missing(&format!("no NATS at {place}")) }
}

/// The program `nats-server`, for tests that stop and start one of their own.
pub(crate) fn nats_server() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let places = env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let found = places.map(|place| place.join("nats-server")).find(|program| program.is_file());
    found.or_else(|| missing("no program nats-server in PATH"))
}

/// Address of an Azurite: `AZURITE_BLOB_STORAGE_URL`, which its clients go by too, or the local one.
pub(crate) fn azurite() -> Option<String> {
    let url = env::var("AZURITE_BLOB_STORAGE_URL").unwrap_or_else(|_| "http://127.0.0.1:10000".to_owned());
    let url = url.trim_end_matches('/').to_owned();
    let place = url.trim_start_matches("http://").trim_start_matches("https://");
    let place = if place.contains(':') { place.to_owned() } else { format!("{place}:80") };
    // Nothing else needs one: no reason to fail where all other services are there.
    if answers(&place) {
        return Some(url);
    }
    println!("skipped: no Azurite at {place}");
    None
}

fn answers(place: &str) -> bool {
    let addresses: Vec<SocketAddr> = place.to_socket_addrs().map(Iterator::collect).unwrap_or_default();
    addresses.iter().any(|address| TcpStream::connect_timeout(address, Duration::from_secs(2)).is_ok())
}

fn missing<T>(what: &str) -> Option<T> {
    assert!(env::var("DUET_REQUIRE_SERVICES").as_deref() != Ok("1"), "{what}, and DUET_REQUIRE_SERVICES is set");
    println!("skipped: {what}");
    None
}

/// The URL of a Postgres database to test with: `DATABASE_URL`, the `PG*` variables, or the local server.
pub(crate) fn postgres() -> Option<String> {
    let variable = |name: &str, otherwise: &str| std::env::var(name).unwrap_or_else(|_| otherwise.to_owned());
    let url = std::env::var("DATABASE_URL").unwrap_or_else(|_| {
        let password = std::env::var("PGPASSWORD").map(|password| format!(":{password}")).unwrap_or_default();
        format!(
            "postgres://{}{password}@{}:{}/{}",
            variable("PGUSER", "postgres"),
            variable("PGHOST", "127.0.0.1"),
            variable("PGPORT", "5432"),
            variable("PGDATABASE", "test")
        )
    });
    if try_sql(&url, "SELECT 1").is_ok() {
        return Some(url);
    }
    missing(&format!("no Postgres at {}", url.rsplit('@').next().unwrap_or_default()))
}

/// The URL of a Postgres with the extension `vector`: `DUET_PGVECTOR_URL`. Debian 12 has no package of it, so that it may be missing
/// where all other services are there.
pub(crate) fn pgvector() -> Option<String> {
    let Ok(url) = env::var("DUET_PGVECTOR_URL") else {
        println!("skipped: no pgvector at DUET_PGVECTOR_URL, which is not set");
        return None;
    };
    sql(&url, "CREATE EXTENSION IF NOT EXISTS vector");
    Some(url)
}

/// Runs statements and returns the first column of every row.
pub(crate) fn sql(url: &str, statements: &str) -> Vec<String> {
    try_sql(url, statements).unwrap_or_else(|error| panic!("{error:?} in {statements}"))
}

fn try_sql(url: &str, statements: &str) -> Result<Vec<String>, tokio_postgres::Error> {
    let mut config: Config = url.parse().unwrap();
    config.connect_timeout(Duration::from_secs(3)).ssl_mode(SslMode::Disable);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (client, connection) = config.connect(NoTls).await?;
        let task = tokio::spawn(connection);
        let messages = client.simple_query(statements).await?;
        drop(client);
        task.await.unwrap()?;
        Ok(messages
            .iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
                _ => None,
            })
            .collect())
    })
}

/// A schema of a test's own, dropped at its end.
pub(crate) struct Schema {
    /// The database.
    pub(crate) url: String,
    /// The name of the schema.
    pub(crate) name: String,
}

impl Schema {
    /// Makes a schema, if there is a server.
    pub(crate) fn create() -> Option<Self> {
        postgres().map(Self::create_at)
    }

    /// Makes a schema in a database.
    pub(crate) fn create_at(url: String) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("duet_test_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        sql(&url, &format!("DROP SCHEMA IF EXISTS {name} CASCADE; CREATE SCHEMA {name}"));
        Self { url, name }
    }

    /// Runs statements in the schema.
    pub(crate) fn sql(&self, statements: &str) -> Vec<String> {
        sql(&self.url, &format!("SET search_path TO {}; {statements}", self.name))
    }
}

impl Drop for Schema {
    fn drop(&mut self) {
        let _ = try_sql(&self.url, &format!("DROP SCHEMA IF EXISTS {} CASCADE", self.name));
    }
}
