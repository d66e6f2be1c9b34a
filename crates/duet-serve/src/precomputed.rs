//! Lists made before anybody asks: `duet precompute` writes them, the service finds them by the model's user id.
//!
//! A list holds rows of a bundle's items table, so it goes with that very bundle ([`bundle_id`]) and with no other: of
//! another bundle there are no lists, and the service makes them live. What the listeners had in training is left out.
//!
//! * **A file**: Parquet, one row a user, sorted by user: `user`, `items` (list of u32), `scores` (list of f32); `duet.bundle`
//!   and `duet.items` (rows of the items table) in its metadata. Held in memory in five arrays, 8 bytes an entry and the user
//!   ids, without a pointer or a table of hashes: a million users with 20 items each are 180 MB.
//! * **Redis**, shared by all replicas: the key `<prefix><bundle>:<user>` holds entries of 8 bytes, row and score in
//!   little-endian order. A server that does not answer within [`REDIS_TIMEOUT`] is left alone for
//!   [`REDIS_PAUSE`]: the lists are made live meanwhile.

use std::{
    fs::File,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use arrow::{
    array::{Array, ArrayRef, AsArray, Float32Array, ListArray, RecordBatch, StringArray, UInt32Array},
    buffer::OffsetBuffer,
    datatypes::{DataType, Field, Float32Type, Schema, SchemaRef, UInt32Type},
};
use duet_core::{
    Error, ItemIdx, Result,
    artifact::{MANIFEST, StagedFile, checksum},
};
use duet_retrieval::Scored;
use fs_err as fs;
use parquet::{
    arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder},
    basic::Compression,
    file::{metadata::KeyValue, properties::WriterProperties},
};
use redis::aio::{ConnectionManager, ConnectionManagerConfig};

use crate::config::PrecomputedConfig;

/// How long an answer of Redis may take.
pub const REDIS_TIMEOUT: Duration = Duration::from_millis(20);
/// How long Redis is not asked after it did not answer.
pub const REDIS_PAUSE: Duration = Duration::from_secs(1);
/// How long connecting to Redis may take; whoever waits for a list does not wait so long.
const REDIS_CONNECT: Duration = Duration::from_secs(1);
/// How long `duet precompute` waits for a connection, and for a tile to be stored.
const WRITER_CONNECT: Duration = Duration::from_secs(5);
const WRITER_TIMEOUT: Duration = Duration::from_secs(60);

const BUNDLE_KEY: &str = "duet.bundle";
const ITEMS_KEY: &str = "duet.items";
/// Users a row group.
const GROUP_USERS: usize = 1 << 16;
/// Bytes of an entry in Redis.
const ENTRY_BYTES: usize = 8;

/// What a bundle is called in answers, logs and lists: the name of its directory (links followed) and the CRC-32 of its
/// manifest, which is over all its files.
///
/// # Errors
/// [`Error::Io`] with the path of the manifest.
pub fn bundle_id(dir: &Path) -> Result<String> {
    let dir = &fs::canonicalize(dir).unwrap_or_else(|_| dir.to_path_buf());
    let name = dir.file_name().map_or_else(|| "bundle".into(), |name| name.to_string_lossy());
    Ok(format!("{name}-{}", checksum(&dir.join(MANIFEST))?.crc32))
}

/// Lists made before.
#[derive(Debug)]
pub struct Precomputed {
    file: Option<ListsFile>,
    redis: Option<RedisLists>,
}

impl Precomputed {
    /// Loads the file; Redis is connected to when it is first asked.
    ///
    /// # Errors
    /// [`Error::Input`] for a URL that is none; [`Error::Io`] and [`Error::Data`] naming the file.
    pub fn open(config: &PrecomputedConfig) -> Result<Self> {
        let file = match config.file.as_str() {
            "" => None,
            path => Some(ListsFile::open(Path::new(path))?),
        };
        let redis = match config.redis.as_str() {
            "" => None,
            url => Some(RedisLists::new(url, &config.redis_prefix)?),
        };
        Ok(Self { file, redis })
    }

    /// The list of a user, given by the model's id, if there is one of this very bundle; best first. Rows from Redis are
    /// not checked against the bundle: whoever looks them up must be ready for rows that it has not.
    pub async fn get(&self, user_id: &str, bundle: &str) -> Option<Vec<Scored>> {
        if let Some(file) = &self.file
            && let Some(list) = file.lists.load().get(user_id, bundle)
        {
            return Some(list);
        }
        match &self.redis {
            Some(redis) => redis.get(user_id, bundle).await,
            None => None,
        }
    }

    /// Loads the file again if it was replaced. Reads the file: not for a thread that answers requests. What was loaded stays
    /// if the new file can't be read.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Data`] naming the file.
    pub fn refresh(&self) -> Result<()> {
        match &self.file {
            Some(file) => file.refresh(),
            None => Ok(()),
        }
    }
}

/// A file of lists that may be replaced by the next one.
#[derive(Debug)]
struct ListsFile {
    path: PathBuf,
    lists: ArcSwap<Lists>,
}

impl ListsFile {
    fn open(path: &Path) -> Result<Self> {
        Ok(Self { path: path.to_path_buf(), lists: ArcSwap::from_pointee(Lists::read(path)?) })
    }

    fn refresh(&self) -> Result<()> {
        if Version::of(&self.path)? != self.lists.load().version {
            self.lists.store(Arc::new(Lists::read(&self.path)?));
        }
        Ok(())
    }
}

/// What tells one file from the next at the same place.
#[derive(Debug, Clone, PartialEq)]
struct Version {
    modified: Option<SystemTime>,
    bytes: u64,
    inode: u64,
}

impl Version {
    fn of(path: &Path) -> Result<Self> {
        let metadata = std::fs::metadata(path).map_err(Error::io(path))?;
        Ok(Self { modified: metadata.modified().ok(), bytes: metadata.len(), inode: metadata.ino() })
    }
}

/// The lists of a file.
#[derive(Debug)]
struct Lists {
    version: Version,
    bundle: String,
    /// All user ids in one piece, ascending.
    users: String,
    /// Where each ends.
    user_ends: Vec<u64>,
    items: Vec<u32>,
    scores: Vec<f32>,
    /// Where each list ends in `items` and `scores`.
    list_ends: Vec<u64>,
}

impl Lists {
    fn get(&self, user_id: &str, bundle: &str) -> Option<Vec<Scored>> {
        if self.bundle != bundle {
            return None;
        }
        let (mut low, mut high) = (0, self.user_ends.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.user(middle).cmp(user_id) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => {
                    let range = range(&self.list_ends, middle);
                    let entries = self.items[range.clone()].iter().zip(&self.scores[range]);
                    return Some(entries.map(|(&item, &score)| Scored { item: ItemIdx(item), score }).collect());
                }
            }
        }
        None
    }

    fn user(&self, at: usize) -> &str {
        &self.users[range(&self.user_ends, at)]
    }

    fn read(path: &Path) -> Result<Self> {
        let version = Version::of(path)?;
        let damaged = |error: &dyn std::fmt::Display| Error::data(path, format!("not readable as lists: {error}"));
        let file = File::open(path).map_err(Error::io(path))?;
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| damaged(&error))?;
        let metadata = builder.metadata().file_metadata();
        let value = |key: &str| {
            let pair = metadata.key_value_metadata()?.iter().find(|pair| pair.key == key)?;
            pair.value.clone()
        };
        let bundle = value(BUNDLE_KEY)
            .ok_or_else(|| Error::data(path, format!("no {BUNDLE_KEY} in it: not written by duet precompute")))?;
        let n_items: u32 = value(ITEMS_KEY)
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| Error::data(path, format!("no {ITEMS_KEY} in it: not written by duet precompute")))?;
        let n_users = usize::try_from(metadata.num_rows()).unwrap_or(0);
        let columns = schema();
        if builder.schema().fields() != columns.fields() {
            let found: Vec<String> = builder
                .schema()
                .fields()
                .iter()
                .map(|field| format!("{}: {}", field.name(), field.data_type()))
                .collect();
            return Err(Error::data(
                path,
                format!(
                    "the columns are {}; expected user, items and scores as duet precompute writes them",
                    found.join(", ")
                ),
            ));
        }
        let mut lists = Self {
            version,
            bundle,
            users: String::new(),
            user_ends: Vec::with_capacity(n_users),
            items: Vec::new(),
            scores: Vec::new(),
            list_ends: Vec::with_capacity(n_users),
        };
        for batch in builder.with_batch_size(GROUP_USERS).build().map_err(|error| damaged(&error))? {
            lists.push(path, &batch.map_err(|error| damaged(&error))?, n_items)?;
        }
        lists.users.shrink_to_fit();
        lists.items.shrink_to_fit();
        lists.scores.shrink_to_fit();
        Ok(lists)
    }

    fn push(&mut self, path: &Path, batch: &RecordBatch, n_items: u32) -> Result<()> {
        // The schema was checked: these are the types.
        let (users, items, scores) =
            (batch.column(0).as_string::<i32>(), batch.column(1).as_list::<i32>(), batch.column(2).as_list::<i32>());
        if items.value_offsets() != scores.value_offsets() {
            return Err(Error::data(path, "a list has more or fewer scores than items"));
        }
        for row in 0..batch.num_rows() {
            let user = users.value(row);
            let at = self.user_ends.len();
            if at > 0 && self.user(at - 1) >= user {
                let message = "the users are not sorted, or one is there twice";
                return Err(Error::data_row(path, at as u64 + 1, message));
            }
            self.users.push_str(user);
            self.user_ends.push(self.users.len() as u64);
            let (of_user, scores_of_user) = (items.value(row), scores.value(row));
            let of_user = of_user.as_primitive::<UInt32Type>().values();
            let scores_of_user = scores_of_user.as_primitive::<Float32Type>().values();
            if of_user.iter().any(|&item| item >= n_items) || scores_of_user.iter().any(|score| !score.is_finite()) {
                let message = "a list holds an item that the bundle has not, or a score that is no number";
                return Err(Error::data_row(path, at as u64 + 1, message));
            }
            self.items.extend_from_slice(of_user);
            self.scores.extend_from_slice(scores_of_user);
            self.list_ends.push(self.items.len() as u64);
        }
        Ok(())
    }
}

fn range(ends: &[u64], at: usize) -> std::ops::Range<usize> {
    let start = if at == 0 { 0 } else { ends[at - 1] };
    start as usize..ends[at] as usize
}

fn schema() -> SchemaRef {
    let list = |of: DataType| DataType::List(Arc::new(Field::new_list_field(of, false)));
    Arc::new(Schema::new(vec![
        Field::new("user", DataType::Utf8, false),
        Field::new("items", list(DataType::UInt32), false),
        Field::new("scores", list(DataType::Float32), false),
    ]))
}

/// Writes a file of lists, in tiles; dropped before [`ListsWriter::finish`], nothing is left of it.
pub struct ListsWriter {
    writer: ArrowWriter<StagedFile>,
    target: PathBuf,
    last: Option<String>,
}

impl ListsWriter {
    /// Starts what will be `target`, of a bundle with so many items.
    ///
    /// # Errors
    /// [`Error::Io`] with the path.
    pub fn create(target: &Path, bundle: &str, n_items: usize) -> Result<Self> {
        let metadata = vec![
            KeyValue::new(BUNDLE_KEY.to_owned(), bundle.to_owned()),
            KeyValue::new(ITEMS_KEY.to_owned(), n_items.to_string()),
        ];
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_max_row_group_row_count(Some(GROUP_USERS))
            .set_key_value_metadata(Some(metadata))
            .build();
        let file = StagedFile::create(target)?;
        let writer = ArrowWriter::try_new(file, schema(), Some(properties)).map_err(|error| failed(target, error))?;
        Ok(Self { writer, target: target.to_path_buf(), last: None })
    }

    /// Appends lists; users must ascend, in a tile and from tile to tile.
    ///
    /// # Errors
    /// [`Error::Internal`] for users out of order; [`Error::Io`] with the path.
    pub fn push(&mut self, lists: &[(&str, &[Scored])]) -> Result<()> {
        for (user, _) in lists {
            if self.last.as_deref().is_some_and(|last| last >= *user) {
                return Err(Error::Internal("lists are not in the order of their users".into()));
            }
            self.last = Some((*user).to_owned());
        }
        let lengths = || OffsetBuffer::from_lengths(lists.iter().map(|(_, list)| list.len()));
        let entries = || lists.iter().flat_map(|(_, list)| list.iter());
        let list = |values: ArrayRef| {
            let field = Arc::new(Field::new_list_field(values.data_type().clone(), false));
            ListArray::try_new(field, lengths(), values, None)
        };
        let items = list(Arc::new(UInt32Array::from_iter_values(entries().map(|entry| entry.item.0))));
        let scores = list(Arc::new(Float32Array::from_iter_values(entries().map(|entry| entry.score))));
        let users = StringArray::from_iter_values(lists.iter().map(|(user, _)| *user));
        let written = items.and_then(|items| Ok((items, scores?))).and_then(|(items, scores)| {
            RecordBatch::try_new(schema(), vec![Arc::new(users), Arc::new(items), Arc::new(scores)])
        });
        let batch = written.map_err(|error| failed(&self.target, error))?;
        self.writer.write(&batch).map_err(|error| failed(&self.target, error))
    }

    /// Syncs the file and moves it to its place.
    ///
    /// # Errors
    /// [`Error::Io`] with the path; nothing is left behind then.
    pub fn finish(self) -> Result<()> {
        self.writer.into_inner().map_err(|error| failed(&self.target, error))?.commit()
    }
}

fn failed(target: &Path, error: impl std::fmt::Display) -> Error {
    Error::Io { path: target.to_path_buf(), source: std::io::Error::other(error.to_string()) }
}

fn redis_key(prefix: &str, bundle: &str, user_id: &str) -> String {
    format!("{prefix}{bundle}:{user_id}")
}

/// Lists in Redis, read by the service.
struct RedisLists {
    client: redis::Client,
    /// Made at the first question: it belongs to the runtime that asks.
    manager: OnceLock<ConnectionManager>,
    prefix: String,
    started: Instant,
    /// Milliseconds since `started` before which nothing is asked.
    paused_until: AtomicU64,
}

impl std::fmt::Debug for RedisLists {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URL may hold a password.
        formatter.debug_struct("RedisLists").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl RedisLists {
    fn new(url: &str, prefix: &str) -> Result<Self> {
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

    async fn get(&self, user_id: &str, bundle: &str) -> Option<Vec<Scored>> {
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
    use std::{
        collections::BTreeMap,
        net::{TcpListener, TcpStream},
    };

    use proptest::prelude::*;

    use super::*;

    const BUNDLE: &str = "2026-11-25-ab12cd34";

    fn list(entries: &[(u32, f32)]) -> Vec<Scored> {
        entries.iter().map(|&(item, score)| Scored { item: ItemIdx(item), score }).collect()
    }

    fn write(path: &Path, bundle: &str, lists: &BTreeMap<String, Vec<Scored>>, tile: usize) {
        let mut writer = ListsWriter::create(path, bundle, 1_000).unwrap();
        let lists: Vec<(&str, &[Scored])> = lists.iter().map(|(user, list)| (user.as_str(), list.as_slice())).collect();
        lists.chunks(tile).for_each(|lists| writer.push(lists).unwrap());
        writer.finish().unwrap();
    }

    fn config(file: &Path) -> PrecomputedConfig {
        PrecomputedConfig { file: file.to_str().unwrap().into(), redis: String::new(), redis_prefix: String::new() }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Against a map, with ids of any characters.
        #[test]
        fn every_user_finds_their_list_and_nobody_else_any(
            lists in prop::collection::btree_map(".{0,6}", prop::collection::vec((0..1_000_u32, -9.0..9.0_f32), 0..5), 0..40),
            others in prop::collection::vec(".{0,6}", 0..20),
            tile in 1..50_usize,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("lists.parquet");
            let lists: BTreeMap<String, Vec<Scored>> =
                lists.into_iter().map(|(user, entries)| (user, list(&entries))).collect();
            write(&path, BUNDLE, &lists, tile);
            let read = Lists::read(&path).unwrap();
            for user in lists.keys().chain(&others) {
                prop_assert_eq!(read.get(user, BUNDLE), lists.get(user).cloned());
                prop_assert_eq!(read.get(user, "2026-11-25-ab12cd35"), None);
            }
        }

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

    #[tokio::test]
    async fn a_replaced_file_is_found_and_a_damaged_one_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lists.parquet");
        let one = |score: f32| BTreeMap::from([("u1".to_owned(), list(&[(7, score)]))]);
        write(&path, BUNDLE, &one(1.0), 1);
        let lists = Precomputed::open(&config(&path)).unwrap();
        assert_eq!(lists.get("u1", BUNDLE).await, Some(list(&[(7, 1.0)])));
        assert_eq!(lists.get("u2", BUNDLE).await, None);
        write(&path, "next-00000000", &one(2.0), 1);
        lists.refresh().unwrap();
        assert_eq!(lists.get("u1", BUNDLE).await, None);
        assert_eq!(lists.get("u1", "next-00000000").await, Some(list(&[(7, 2.0)])));
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let error = lists.refresh().unwrap_err().to_string();
        assert!(error.contains("lists.parquet"), "{error}");
        assert_eq!(lists.get("u1", "next-00000000").await, Some(list(&[(7, 2.0)])));
        assert!(Precomputed::open(&config(&path)).is_err());
        assert!(Precomputed::open(&config(&dir.path().join("none"))).unwrap_err().to_string().contains("none"));
    }

    #[test]
    fn lists_that_no_bundle_can_have_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lists.parquet");
        let refused = |entry: (u32, f32)| {
            write(&path, BUNDLE, &BTreeMap::from([("u1".to_owned(), list(&[(0, 0.0), entry]))]), 1);
            Lists::read(&path).unwrap_err().to_string()
        };
        assert!(refused((1_000, 0.0)).contains("row 1"));
        assert!(refused((0, f32::NAN)).contains("row 1"));
        let mut writer = ListsWriter::create(&path, BUNDLE, 1).unwrap();
        writer.push(&[("b", &[])]).unwrap();
        assert!(writer.push(&[("a", &[])]).unwrap_err().to_string().contains("order"));
        drop(writer);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_bundle_is_named_by_its_directory_and_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = dir.path().join("2026-11-25");
        fs::create_dir(&bundle).unwrap();
        fs::write(bundle.join(MANIFEST), "123456789").unwrap();
        // The check value of CRC-32.
        assert_eq!(bundle_id(&bundle).unwrap(), "2026-11-25-cbf43926");
        std::os::unix::fs::symlink(&bundle, dir.path().join("current")).unwrap();
        assert_eq!(bundle_id(&dir.path().join("current")).unwrap(), "2026-11-25-cbf43926");
        assert!(bundle_id(dir.path()).is_err());
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
            expires.push(redis::cmd("TTL").arg(key).query(&mut writer.connection).unwrap());
        }
        assert!(expires.iter().all(|seconds| (1..=60).contains(seconds)), "{expires:?}");
        redis::cmd("SET").arg(&keys[0]).arg("no list").exec(&mut writer.connection).unwrap();
        assert_eq!(redis.get("u1", BUNDLE).await, None);
        redis::cmd("DEL").arg(&keys[0]).arg(&keys[1]).exec(&mut writer.connection).unwrap();
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
