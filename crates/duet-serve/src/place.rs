//! Where the bundle is: a directory, a link to one, or a place in an object store.
//!
//! In an object store, `s3://bucket/prefix` is a bundle where it holds a `manifest.json`; otherwise an object `CURRENT` there holds the
//! name of the bundle below the prefix, and is written anew to turn to another. A bundle is downloaded into a cache directory, checked
//! against its manifest, and opened from there.

use std::{
    io::Write,
    path::{Component, Path, PathBuf},
    time::Duration,
};

use duet_core::{
    Error, Result,
    artifact::{MANIFEST, Manifest, checksum},
};
use duet_data::store::Location;
use duet_train::bundle;
use fs_err as fs;
use futures::StreamExt;
use object_store::ObjectStoreExt;

use crate::config::SwapConfig;

/// The object that holds the name of a bundle.
pub(crate) const CURRENT: &str = "CURRENT";
/// What the place may be, for whoever gave another one.
const VALID: &str = "bundle (--bundle) must be a directory that duet embed wrote, a link to one (checkpoints/champion, \
                     WORK/current), or a place in an object store (s3://bucket/prefix)";
/// Looks at a link for each one at an object store.
const REMOTE_LOOKS: u32 = 30;
/// How long a failing store is tried again within one look.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bundles of a place that stay in the cache: the one that serves, the one before, and one more.
const KEPT: usize = 3;

/// A download in which no file was begun for so long is nobody's any more.
const ABANDONED: Duration = Duration::from_secs(86_400);

/// Which bundle is there now. Two looks that find the same content give equal values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// The directory, or the name below the place.
    name: String,
    /// CRC-32 of the manifest, which has those of all files.
    manifest: String,
}

impl std::fmt::Display for Found {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = Path::new(&self.name).file_name().map_or(self.name.as_str().into(), |name| name.to_string_lossy());
        write!(formatter, "{name}-{}", self.manifest)
    }
}

/// Where to look.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    Directory(PathBuf),
    Store { location: Location, cache: PathBuf },
}

impl Place {
    /// The place of `bundle`, a path or a URL.
    ///
    /// # Errors
    /// Those of [`Location::parse`]; [`Error::Input`] if there is no directory for the cache.
    pub(crate) fn parse(bundle: &str, swap: &SwapConfig) -> Result<Self> {
        if !bundle.contains("://") {
            return Ok(Self::Directory(PathBuf::from(bundle)));
        }
        let location = Location::parse(bundle)?.with_patience(PATIENCE);
        if let Some(directory) = location.as_directory() {
            return Ok(Self::Directory(directory.to_path_buf()));
        }
        let cache = match swap.cache.as_str() {
            "" => user_cache().ok_or_else(|| {
                Error::input(
                    "neither HOME nor XDG_CACHE_HOME is set: give swap.cache, a directory for downloaded bundles",
                )
            })?,
            directory => PathBuf::from(directory),
        };
        Ok(Self::Store { location, cache })
    }

    /// The pause between two looks.
    pub(crate) fn pause(&self, swap: &SwapConfig) -> Duration {
        let pause = Duration::from_millis(swap.poll_ms);
        match self {
            Self::Directory(_) => pause,
            Self::Store { .. } => pause.saturating_mul(REMOTE_LOOKS),
        }
    }

    /// The directory in which a champion has its history, if the bundle is a link of that kind.
    pub(crate) fn champion_history(&self) -> Option<PathBuf> {
        match self {
            Self::Directory(path) => Some(path.parent()?.join(duet_train::champion::HISTORY)),
            Self::Store { .. } => None,
        }
    }

    /// Which bundle is there now.
    ///
    /// # Errors
    /// [`Error::Data`] or [`Error::Io`] naming what is not there.
    pub(crate) async fn look(&self) -> Result<Found> {
        match self {
            Self::Directory(path) => {
                let path = path.clone();
                blocking(move || {
                    let directory = directory_of(&path)?;
                    let manifest = directory.join(MANIFEST);
                    if !manifest.exists() {
                        let what = bundle::MAGIC;
                        return Err(Error::data(&path, format!("not a {what}: it holds no {MANIFEST}; {VALID}")));
                    }
                    let manifest = checksum(&manifest)?.crc32;
                    Ok(Found { name: directory.to_string_lossy().into_owned(), manifest })
                })
                .await
            }
            Self::Store { location, .. } => look_in(location).await.map(|(found, _)| found),
        }
    }

    /// The directory of the bundle that was found; downloads it where it is not here yet.
    ///
    /// # Errors
    /// [`Error::Io`] for the store; [`Error::Data`] for a bundle that is damaged or has changed since it was found.
    pub(crate) async fn fetch(&self, found: &Found) -> Result<PathBuf> {
        match self {
            Self::Directory(_) => Ok(PathBuf::from(&found.name)),
            Self::Store { location, cache } => download(location, cache, found).await,
        }
    }
}

/// Where a path leads, links followed.
fn directory_of(path: &Path) -> Result<PathBuf> {
    let missing = match fs::canonicalize(path) {
        Ok(directory) => return Ok(directory),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => match fs::read_link(path) {
            Ok(target) => format!("a link to {}, which is not there", target.display()),
            Err(_) => "there is nothing of this name".to_owned(),
        },
        Err(error) => return Err(Error::io(path)(error)),
    };
    Err(Error::data(path, format!("{missing}; {VALID}")))
}

fn user_cache() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")))?;
    Some(cache.join("duet").join("bundles"))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::Internal(error.to_string()))?
}

/// The bundle at a place in a store, and its manifest's text.
async fn look_in(location: &Location) -> Result<(Found, Vec<u8>)> {
    let found = |name: String, text: &[u8]| Found { name, manifest: format!("{:08x}", crc32fast::hash(text)) };
    if let Some(text) = location.get(MANIFEST).await? {
        return Ok((found(String::new(), &text), text.to_vec()));
    }
    let pointer = location.name(CURRENT);
    let Some(name) = location.get(CURRENT).await? else {
        let place = location.name("");
        return Err(Error::data(
            place,
            format!("neither a {MANIFEST} (a bundle) nor a {CURRENT} (the name of one) there; {VALID}"),
        ));
    };
    let name = String::from_utf8_lossy(&name).trim().trim_matches('/').to_owned();
    if name.is_empty() || !is_inside(&name) {
        return Err(Error::data(pointer, "not the name of a bundle below this place"));
    }
    let manifest = format!("{name}/{MANIFEST}");
    let text = location.get(&manifest).await?;
    let text = text.ok_or_else(|| Error::data(&pointer, format!("names {name}, where there is no {MANIFEST}")))?;
    Ok((found(name, &text), text.to_vec()))
}

/// Whether a directory is a whole bundle: the manifest is one, and every file is what it says.
fn check(directory: &Path) -> Result<()> {
    Manifest::<serde_json::Value>::open(directory, bundle::MAGIC, bundle::VERSION).map(drop)
}

/// Whether a relative path stays below where it starts.
fn is_inside(path: &str) -> bool {
    !path.contains('\\') && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

async fn download(location: &Location, cache: &Path, expected: &Found) -> Result<PathBuf> {
    let (found, text) = look_in(location).await?;
    if found != *expected {
        return Err(Error::Io {
            path: location.name(&found.name),
            source: std::io::Error::other("the bundle changed while it was being fetched"),
        });
    }
    let url = location.url.as_str().trim_end_matches('/');
    let last = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    // Places of the same name in different buckets must not meet.
    let place = cache.join(format!("{}-{:08x}", last(url), crc32fast::hash(url.as_bytes())));
    let name = if found.name.is_empty() { last(url) } else { last(&found.name) };
    let target = place.join(&found.manifest).join(name);
    let here = target.clone();
    if blocking(move || Ok(check(&here).is_ok())).await? {
        return Ok(target);
    }
    fs::create_dir_all(&place).map_err(Error::io(&place))?;
    // Several processes may share the cache.
    let partial = place.join(format!(".{}.partial", uuid::Uuid::now_v7()));
    fs::create_dir(&partial).map_err(Error::io(&partial))?;
    let published = match fill(location, &found, &text, &partial).await {
        Ok(()) => publish(partial.clone(), target.clone(), place).await,
        Err(error) => Err(error),
    };
    if published.is_err() {
        let _ = std::fs::remove_dir_all(&partial);
    }
    published.map(|()| target)
}

async fn publish(partial: PathBuf, target: PathBuf, place: PathBuf) -> Result<()> {
    blocking(move || {
        check(&partial)?;
        if target.exists() {
            // Another process put it there meanwhile, and may be reading it: it is the same bundle.
            if check(&target).is_ok() {
                return fs::remove_dir_all(&partial).map_err(Error::io(&partial));
            }
            fs::remove_dir_all(&target).map_err(Error::io(&target))?;
        }
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(Error::io(parent))?;
        }
        fs::rename(&partial, &target).map_err(Error::io(&target))?;
        sweep(&place);
        Ok(())
    })
    .await
}

/// Downloads every file the manifest lists, in a stream, and the manifest last.
async fn fill(location: &Location, found: &Found, text: &[u8], directory: &Path) -> Result<()> {
    let manifest_name = location.name(&format!("{}/{MANIFEST}", found.name));
    let manifest: Manifest<serde_json::Value> = serde_json::from_slice(text)
        .map_err(|error| Error::data(&manifest_name, format!("not a valid {} manifest: {error}", bundle::MAGIC)))?;
    if manifest.magic != bundle::MAGIC {
        return Err(Error::data(&manifest_name, format!("this is a {}, not a {}", manifest.magic, bundle::MAGIC)));
    }
    for name in manifest.files.keys() {
        if !is_inside(name) {
            return Err(Error::data(&manifest_name, format!("{name:?} is no path below the bundle")));
        }
        let remote = format!("{}/{name}", found.name);
        let failed = |error: object_store::Error| Error::Io {
            path: location.name(&remote),
            source: std::io::Error::other(error.to_string()),
        };
        let local = directory.join(name);
        if let Some(parent) = local.parent() {
            fs::create_dir_all(parent).map_err(Error::io(parent))?;
        }
        let mut file = fs::File::create(&local).map_err(Error::io(&local))?;
        let mut chunks = location.store.get(&location.path(&remote)).await.map_err(failed)?.into_stream();
        while let Some(chunk) = chunks.next().await {
            let (chunk, path) = (chunk.map_err(failed)?, local.clone());
            // A disk that can't keep up must not hold the threads that answer.
            file = blocking(move || file.write_all(&chunk).map(|()| file).map_err(Error::io(&path))).await?;
        }
    }
    let local = directory.join(MANIFEST);
    fs::write(&local, text).map_err(Error::io(&local))
}

/// Removes all but the newest bundles of a place from the cache, and downloads that a killed process left. A bundle that is still mapped
/// stays readable until it is let go.
fn sweep(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    let (mut partials, mut bundles): (Vec<_>, Vec<_>) = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            Some((entry.metadata().ok()?.modified().ok()?, entry.path()))
        })
        .partition(|(_, path)| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')));
    // A younger one may be under way in another process.
    partials.retain(|(modified, _)| modified.elapsed().is_ok_and(|age| age > ABANDONED));
    bundles.sort_unstable_by(|a, b| b.cmp(a));
    for (_, path) in bundles.into_iter().skip(KEPT).chain(partials) {
        if let Err(error) = std::fs::remove_dir_all(&path) {
            tracing::warn!(path = %path.display(), %error, "an old bundle stays in the cache");
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::Arc;

    use duet_core::artifact::{DirWriter, IfExists};
    use object_store::{memory::InMemory, path::Path as ObjectPath};

    use super::*;

    fn swap(cache: &Path) -> SwapConfig {
        SwapConfig { poll_ms: 10, self_check_users: 0, cache: cache.display().to_string() }
    }

    /// A directory with the manifest of a bundle and one file.
    fn write_bundle(target: &Path, content: &str) {
        let writer = DirWriter::create(target, IfExists::Replace).unwrap();
        std::fs::create_dir(writer.path("data")).unwrap();
        std::fs::write(writer.path("data/file"), content).unwrap();
        writer.publish(bundle::MAGIC, bundle::VERSION, &serde_json::json!({})).unwrap();
    }

    async fn upload(store: &InMemory, from: &Path, to: &str) {
        for name in ["data/file", MANIFEST] {
            let bytes = std::fs::read(from.join(name)).unwrap();
            store.put(&ObjectPath::from(format!("{to}/{name}")), bytes.into()).await.unwrap();
        }
    }

    #[test]
    fn places_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let swap = swap(dir.path());
        assert!(matches!(Place::parse("some/champion", &swap).unwrap(), Place::Directory(_)));
        assert!(
            matches!(Place::parse("file:///tmp/x", &swap).unwrap(), Place::Directory(path) if path == Path::new("/tmp/x"))
        );
        assert!(Place::parse("ftp://host/x", &swap).unwrap_err().to_string().contains("s3"));
        assert_eq!(Place::Directory("x".into()).pause(&swap), Duration::from_millis(10));
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn what_is_no_bundle_is_named_with_what_would_be_one() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("champion");
        std::os::unix::fs::symlink("gone", &link).unwrap();
        std::fs::create_dir(dir.path().join("empty")).unwrap();
        for (name, why) in [
            ("none", "nothing of this name"),
            ("champion", "a link to gone, which is not there"),
            ("empty", "holds no manifest.json"),
        ] {
            let path = dir.path().join(name);
            let message = Place::Directory(path.clone()).look().await.unwrap_err().to_string();
            assert!(message.starts_with(&path.display().to_string()) && message.contains(why), "{message}");
            for valid in ["--bundle", "duet embed", "checkpoints/champion", "s3://"] {
                assert!(message.contains(valid), "no {valid} in: {message}");
            }
        }
    }

    #[test]
    fn paths_stay_inside() {
        for good in ["a", "a/b.c"] {
            assert!(is_inside(good), "{good}");
        }
        for bad in ["../a", "a/../../b", "/a", "a\\..\\b"] {
            assert!(!is_inside(bad), "{bad}");
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_link_that_turns_and_a_directory_that_is_replaced_are_other_bundles() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b, link) = (dir.path().join("a"), dir.path().join("b"), dir.path().join("champion"));
        write_bundle(&a, "one");
        write_bundle(&b, "one");
        std::os::unix::fs::symlink("a", &link).unwrap();
        let place = Place::Directory(link.clone());
        let first = place.look().await.unwrap();
        assert_eq!(place.look().await.unwrap(), first);
        assert!(first.to_string().starts_with("a-"), "{first}");
        assert_eq!(place.fetch(&first).await.unwrap(), fs::canonicalize(&a).unwrap());
        std::fs::remove_file(&link).unwrap();
        assert!(place.look().await.is_err());
        std::os::unix::fs::symlink("b", &link).unwrap();
        let second = place.look().await.unwrap();
        assert_ne!(second, first);
        write_bundle(&b, "two");
        assert_ne!(place.look().await.unwrap(), second);
        assert_eq!(place.champion_history().unwrap(), dir.path().join("champion.jsonl"));
    }

    #[tokio::test]
    async fn a_store_names_its_bundle_and_gives_it_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let local = dir.path().join("made");
        write_bundle(&local, "one");
        let store = Arc::new(InMemory::new());
        upload(&store, &local, "models/first").await;
        let mut location =
            Location::parse_with("s3://bucket/models", &[("aws_region", "eu-north-1")], Duration::ZERO).unwrap();
        location.store = store.clone();
        let place = Place::Store { location, cache: dir.path().join("cache") };
        let message = place.look().await.unwrap_err().to_string();
        assert!(message.contains(CURRENT) && message.contains("--bundle"), "{message}");
        let point = |name: &'static str| {
            let store = store.clone();
            async move { store.put(&ObjectPath::from("models/CURRENT"), name.into()).await.unwrap() }
        };
        point("../other\n").await;
        assert!(place.look().await.is_err());
        point("first\n").await;
        let found = place.look().await.unwrap();
        let here = place.fetch(&found).await.unwrap();
        assert_eq!(std::fs::read_to_string(here.join("data/file")).unwrap(), "one");
        // A damaged copy is fetched anew.
        std::fs::write(here.join("data/file"), "xxx").unwrap();
        assert_eq!(place.fetch(&found).await.unwrap(), here);
        assert_eq!(std::fs::read_to_string(here.join("data/file")).unwrap(), "one");
        // A bundle whose file is not what its manifest says leaves nothing behind.
        upload(&store, &local, "models/second").await;
        store.put(&ObjectPath::from("models/second/data/file"), "bad".into()).await.unwrap();
        point("second").await;
        let second = place.look().await.unwrap();
        assert_ne!(second, found);
        assert!(place.fetch(&second).await.unwrap_err().to_string().contains("damaged"));
        assert_eq!(std::fs::read_dir(here.ancestors().nth(2).unwrap()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn processes_share_a_cache_and_abandoned_downloads_are_cleared_away() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().to_path_buf();
        let (target, partial) = (place.join("0a0b0c0d/bundle"), place.join(".own.partial"));
        let inode = || std::fs::metadata(&target).unwrap().ino();
        write_bundle(&place.join(".first.partial"), "one");
        publish(place.join(".first.partial"), target.clone(), place.clone()).await.unwrap();
        let first = inode();
        // Somebody may be reading what is there.
        write_bundle(&partial, "one");
        publish(partial.clone(), target.clone(), place.clone()).await.unwrap();
        assert_eq!((inode(), partial.exists()), (first, false));
        // What is damaged makes room; a day later a download is nobody's, and a young one is somebody's.
        std::fs::write(target.join("data/file"), "xxx").unwrap();
        let (old, young) = (place.join(".old.partial"), place.join(".young.partial"));
        std::fs::create_dir(&old).unwrap();
        std::fs::create_dir(&young).unwrap();
        let long_ago = std::time::SystemTime::now() - 2 * ABANDONED;
        std::fs::File::open(&old).unwrap().set_modified(long_ago).unwrap();
        write_bundle(&partial, "one");
        publish(partial, target.clone(), place.clone()).await.unwrap();
        assert_ne!(inode(), first);
        assert!(check(&target).is_ok() && young.exists() && !old.exists());
    }
}
