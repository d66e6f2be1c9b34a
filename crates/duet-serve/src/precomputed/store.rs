//! Lists in Redis, which all replicas share.

use std::{
    fmt,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use duet_core::{Error, ItemIdx, Result};
use duet_retrieval::Scored;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};

/// How long an answer of Redis may take.
pub const REDIS_TIMEOUT: Duration = Duration::from_millis(20);
/// How long Redis is not asked after it did not answer.
pub const REDIS_PAUSE: Duration = Duration::from_secs(1);
/// How long connecting to Redis may take; whoever waits for a list does not wait so long.
const REDIS_CONNECT: Duration = Duration::from_secs(1);
/// How long `duet precompute` waits for a connection, and for a tile to be stored.
const WRITER_CONNECT: Duration = Duration::from_secs(5);
const WRITER_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes of an entry.
const ENTRY_BYTES: usize = 8;

fn redis_key(prefix: &str, bundle: &str, user_id: &str) -> String {
    format!("{prefix}{bundle}:{user_id}")
}

/// Lists in Redis, read by the service.
pub(super) struct RedisLists {
    client: redis::Client,
    /// Made at the first question: it belongs to the runtime that asks.
    manager: OnceLock<ConnectionManager>,
    prefix: String,
    started: Instant,
    /// Milliseconds since `started` before which nothing is asked.
    paused_until: AtomicU64,
}

impl fmt::Debug for RedisLists {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may hold a password.
        formatter.debug_struct("RedisLists").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl RedisLists {
    pub(super) fn new(url: &str, prefix: &str) -> Result<Self> {
        Ok(Self {
            client: client(url)?,
            manager: OnceLock::new(),
            prefix: prefix.to_owned(),
            started: Instant::now(),
            paused_until: AtomicU64::new(0),
        })
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) async fn get(&self, user_id: &str, bundle: &str) -> Option<Vec<Scored>> {
        let paused_until = self.paused_until.load(Ordering::Relaxed);
        if self.now_ms() < paused_until {
            return None;
        }
        let found = tokio::time::timeout(REDIS_TIMEOUT, self.ask(user_id, bundle)).await;
        let error = match found {
            Ok(Ok(bytes)) => return self.decode(bytes?),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} ms", REDIS_TIMEOUT.as_millis()),
        };
        metrics::counter!("duet_precomputed_redis_errors_total").increment(1);
        let until = self.now_ms() + REDIS_PAUSE.as_millis() as u64;
        // Of all who waited in vain one says so.
        if self.paused_until.compare_exchange(paused_until, until, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            tracing::warn!(error, "no lists from Redis for a second: they are made live");
        }
        None
    }

    async fn ask(&self, user_id: &str, bundle: &str) -> redis::RedisResult<Option<Vec<u8>>> {
        let mut manager = match self.manager.get() {
            Some(manager) => manager.clone(),
            None => {
                let config = ConnectionManagerConfig::new()
                    .set_number_of_retries(1)
                    .set_connection_timeout(Some(REDIS_CONNECT))
                    .set_response_timeout(Some(REDIS_TIMEOUT));
                let manager = ConnectionManager::new_lazy_with_config(self.client.clone(), config)?;
                self.manager.get_or_init(|| manager).clone()
            }
        };
        redis::cmd("GET").arg(redis_key(&self.prefix, bundle, user_id)).query_async(&mut manager).await
    }

    fn decode(&self, bytes: Vec<u8>) -> Option<Vec<Scored>> {
        let list = decode(&bytes);
        if list.is_none() {
            metrics::counter!("duet_precomputed_damaged_total").increment(1);
        }
        list
    }
}

fn client(url: &str) -> Result<redis::Client> {
    // The library's own text may quote the URL, and with it a password.
    redis::Client::open(url).map_err(|_| {
        Error::input("the address of Redis is none; expected redis://[USER:PASSWORD@]HOST:PORT[/DATABASE]")
    })
}

fn encode(list: &[Scored]) -> Vec<u8> {
    list.iter()
        .flat_map(|entry| {
            let ([a, b, c, d], [e, f, g, h]) = (entry.item.0.to_le_bytes(), entry.score.to_le_bytes());
            [a, b, c, d, e, f, g, h]
        })
        .collect()
}

/// Nothing for what is no list.
fn decode(bytes: &[u8]) -> Option<Vec<Scored>> {
    let (entries, rest) = bytes.as_chunks::<ENTRY_BYTES>();
    if !rest.is_empty() {
        return None;
    }
    entries
        .iter()
        .map(|&[a, b, c, d, e, f, g, h]| {
            let score = f32::from_le_bytes([e, f, g, h]);
            score.is_finite().then_some(Scored { item: ItemIdx(u32::from_le_bytes([a, b, c, d])), score })
        })
        .collect()
}

/// Puts lists into Redis, for `duet precompute`.
pub struct RedisWriter {
    connection: redis::Connection,
    prefix: String,
    bundle: String,
    expires: Duration,
}

impl RedisWriter {
    /// Connects. Lists vanish after `expires`, so that those of bundles long gone don't stay for ever.
    ///
    /// # Errors
    /// [`Error::Input`] for a URL that is none; [`Error::Io`] if nobody answers.
    pub fn connect(url: &str, prefix: &str, bundle: &str, expires: Duration) -> Result<Self> {
        let connection = client(url)?.get_connection_with_timeout(WRITER_CONNECT).map_err(refused)?;
        connection.set_read_timeout(Some(WRITER_TIMEOUT)).map_err(refused)?;
        connection.set_write_timeout(Some(WRITER_TIMEOUT)).map_err(refused)?;
        Ok(Self { connection, prefix: prefix.to_owned(), bundle: bundle.to_owned(), expires })
    }

    /// Stores lists; returns when Redis has them all.
    ///
    /// # Errors
    /// [`Error::Io`] with what Redis says.
    pub fn push(&mut self, lists: &[(&str, &[Scored])]) -> Result<()> {
        let seconds = self.expires.as_secs().max(1);
        let mut pipeline = redis::pipe();
        for (user, list) in lists {
            let key = redis_key(&self.prefix, &self.bundle, user);
            pipeline.cmd("SET").arg(key).arg(encode(list)).arg("EX").arg(seconds).ignore();
        }
        pipeline.query(&mut self.connection).map_err(refused)
    }
}

fn refused(error: redis::RedisError) -> Error {
    Error::Io { path: "redis".into(), source: std::io::Error::other(error.to_string()) }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use proptest::prelude::*;

    use super::*;

    const BUNDLE: &str = "2026-11-25-ab12cd34";

    fn list(entries: &[(u32, f32)]) -> Vec<Scored> {
        entries.iter().map(|&(item, score)| Scored { item: ItemIdx(item), score }).collect()
    }

    proptest! {
        #[test]
        fn entries_come_back_from_bytes(entries in prop::collection::vec((any::<u32>(), -1e9..1e9_f32), 0..30)) {
            let list = list(&entries);
            let bytes = encode(&list);
            prop_assert_eq!(decode(&bytes), Some(list.clone()));
            if !bytes.is_empty() {
                prop_assert_eq!(decode(&bytes[1..]), None);
            }
        }
    }

    /// `REDIS_URL` or the local server; nothing, and a word about it, where none answers.
    fn redis_url() -> Option<String> {
        let url = std::env::var("REDIS_URL").unwrap_or_else(|_| "redis://127.0.0.1:6379".to_owned());
        let place = url.rsplit('@').next().unwrap_or_default().trim_start_matches("redis://");
        let place = place.split('/').next().unwrap_or_default();
        let place = if place.contains(':') { place.to_owned() } else { format!("{place}:6379") };
        if TcpStream::connect(&place).is_ok() {
            return Some(url);
        }
        assert!(std::env::var("DUET_REQUIRE_SERVICES").as_deref() != Ok("1"), "no Redis at {place}");
        println!("skipped: no Redis at {place}");
        None
    }

    #[tokio::test]
    async fn lists_are_shared_through_redis() {
        let Some(url) = redis_url() else { return };
        let prefix = format!("duet-test:{}:", uuid::Uuid::now_v7());
        let wanted = list(&[(3, 0.5), (u32::MAX, -1.0)]);
        let mut writer = RedisWriter::connect(&url, &prefix, BUNDLE, Duration::from_secs(60)).unwrap();
        writer.push(&[("u1", &wanted), ("ü 2", &[])]).unwrap();
        let redis = RedisLists::new(&url, &prefix).unwrap();
        // Connecting may take longer than an answer.
        redis.ask("u1", BUNDLE).await.unwrap();
        assert_eq!(redis.get("u1", BUNDLE).await, Some(wanted));
        assert_eq!(redis.get("ü 2", BUNDLE).await, Some(Vec::new()));
        assert_eq!(redis.get("u1", "other").await, None);
        assert_eq!(redis.get("u3", BUNDLE).await, None);
        let keys = ["u1", "ü 2"].map(|user| redis_key(&prefix, BUNDLE, user));
        let mut expires: Vec<i64> = Vec::new();
        for key in &keys {
            expires.push(redis::cmd("TTL").arg(key.as_str()).query(&mut writer.connection).unwrap());
        }
        assert!(expires.iter().all(|seconds| (1..=60).contains(seconds)), "{expires:?}");
        redis::cmd("SET").arg(keys[0].as_str()).arg("no list").exec(&mut writer.connection).unwrap();
        assert_eq!(redis.get("u1", BUNDLE).await, None);
        redis::cmd("DEL").arg(keys[0].as_str()).arg(keys[1].as_str()).exec(&mut writer.connection).unwrap();
        assert_eq!(redis.paused_until.load(Ordering::Relaxed), 0, "nothing of this is a failure of Redis");
    }

    #[tokio::test]
    async fn a_redis_that_is_not_there_costs_nobody_much() {
        // One that takes connections and says nothing, and one that is gone.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        for address in [silent.local_addr().unwrap(), gone] {
            let redis = RedisLists::new(&format!("redis://{address}"), "").unwrap();
            let started = Instant::now();
            for _ in 0..100 {
                assert_eq!(redis.get("u1", BUNDLE).await, None);
            }
            assert!(started.elapsed() < 10 * REDIS_TIMEOUT, "{:?}", started.elapsed());
        }
        let error = RedisLists::new("http://secret@host", "").unwrap_err().to_string();
        assert!(error.contains("redis://") && !error.contains("secret"), "{error}");
    }
}
