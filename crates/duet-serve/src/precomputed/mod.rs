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

mod file;
mod store;

use std::path::Path;

use duet_core::{
    Result,
    artifact::{MANIFEST, checksum},
};
use duet_retrieval::Scored;
use fs_err as fs;

use self::{file::ListsFile, store::RedisLists};
pub use self::{
    file::ListsWriter,
    store::{REDIS_PAUSE, REDIS_TIMEOUT, RedisWriter},
};
use crate::config::PrecomputedConfig;

/// What a bundle is called in answers, logs and lists: the name of its directory (links followed) and the CRC-32 of its
/// manifest, which is over all its files.
///
/// # Errors
/// [`Io`](duet_core::Error::Io) with the path of the manifest.
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
    /// [`Input`](duet_core::Error::Input) for a URL that is none; [`Io`](duet_core::Error::Io) and [`Data`](duet_core::Error::Data) naming the file.
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
            && let Some(list) = file.get(user_id, bundle)
        {
            return Some(list);
        }
        match &self.redis {
            Some(redis) => redis.get(user_id, bundle).await,
            None => None,
        }
    }

    /// Loads the file again if it was replaced. Reads the file: not for a thread that answers requests. What was loaded stays
    /// if the new file can't be read; that one is an error once.
    ///
    /// # Errors
    /// [`Io`](duet_core::Error::Io) and [`Data`](duet_core::Error::Data) naming the file.
    pub fn refresh(&self) -> Result<()> {
        match &self.file {
            Some(file) => file.refresh(),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use duet_core::ItemIdx;

    use super::*;

    const BUNDLE: &str = "2026-11-25-ab12cd34";

    fn write(path: &Path, bundle: &str, score: f32) {
        let mut writer = ListsWriter::create(path, bundle, 10).unwrap();
        writer.push(&[("u1", &one(score))]).unwrap();
        writer.finish().unwrap();
    }

    fn one(score: f32) -> Vec<Scored> {
        vec![Scored { item: ItemIdx(7), score }]
    }

    fn config(file: &Path) -> PrecomputedConfig {
        PrecomputedConfig { file: file.to_str().unwrap().into(), redis: String::new(), redis_prefix: String::new() }
    }

    #[tokio::test]
    async fn a_replaced_file_is_found_and_a_damaged_one_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lists.parquet");
        write(&path, BUNDLE, 1.0);
        let lists = Precomputed::open(&config(&path)).unwrap();
        assert_eq!(lists.get("u1", BUNDLE).await, Some(one(1.0)));
        assert_eq!(lists.get("u2", BUNDLE).await, None);
        write(&path, "next-00000000", 2.0);
        lists.refresh().unwrap();
        assert_eq!(lists.get("u1", BUNDLE).await, None);
        assert_eq!(lists.get("u1", "next-00000000").await, Some(one(2.0)));
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let error = lists.refresh().unwrap_err().to_string();
        assert!(error.contains("lists.parquet"), "{error}");
        lists.refresh().unwrap();
        assert_eq!(lists.get("u1", "next-00000000").await, Some(one(2.0)));
        assert!(Precomputed::open(&config(&path)).is_err());
        assert!(Precomputed::open(&config(&dir.path().join("none"))).unwrap_err().to_string().contains("none"));
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
}
