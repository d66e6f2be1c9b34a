//! A place in an object store, by URL or path.

use std::{
    fmt, io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use duet_core::{Error, Result};
use futures::TryStreamExt;
use object_store::{
    BackoffConfig, ObjectStore, ObjectStoreExt, PutMode, PutOptions, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey},
    local::LocalFileSystem,
    path::Path,
};
use url::Url;

use super::local;

/// How long a failing store is tried again before the error comes.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The schemes of a URL, for messages.
const SCHEMES: [&str; 4] = ["file", "s3", "gs", "az"];
/// Most retries of a request inside the client of a cloud store.
const MAX_RETRIES: usize = 10;
/// The first pause after a failure; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What happens where the name of a new object is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Nothing is written, and [`Put::Taken`] says so.
    Create,
    /// The new object replaces the old one.
    Replace,
}

/// How a [`Location::put`] ended, errors apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// The object is there.
    Done,
    /// An object of that name was there before.
    Taken,
}

/// A directory, or a prefix in a bucket.
#[derive(Clone)]
pub struct Location {
    /// The place as a URL, without a slash at the end.
    pub url: Url,
    /// The store it lies in.
    pub store: Arc<dyn ObjectStore>,
    /// Where in the store.
    pub prefix: Path,
    /// The directory, where the store is the file system.
    directory: Option<PathBuf>,
    patience: Duration,
}

impl fmt::Debug for Location {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the store: what it prints may hold credentials.
        formatter.debug_tuple("Location").field(&self.to_string()).finish()
    }
}

impl fmt::Display for Location {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.directory {
            Some(directory) => directory.display().fmt(formatter),
            None => self.url.as_str().fmt(formatter),
        }
    }
}

impl Location {
    /// A path, `file://`, `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX` or `az://CONTAINER/PREFIX`. Credentials, endpoint and
    /// region come from the usual variables of each cloud (`AWS_*`, `GOOGLE_*`, `AZURE_*`).
    ///
    /// # Errors
    /// [`Error::Input`] for a scheme that is not listed, or variables that do not fit together.
    pub fn parse(text: &str) -> Result<Self> {
        Self::parse_with(text, &[], PATIENCE)
    }

    /// As [`Location::parse`], with settings that go before the variables (names as those, in lower case) and the time for
    /// which a failing store is tried again.
    ///
    /// # Errors
    /// As [`Location::parse`], and for an unknown setting.
    pub fn parse_with(text: &str, settings: &[(&str, &str)], patience: Duration) -> Result<Self> {
        if text.trim().is_empty() {
            return Err(Error::input("a place is needed: a directory, or a URL like s3://bucket/prefix"));
        }
        if !text.contains("://") {
            return Self::directory(PathBuf::from(text), patience);
        }
        let bad = |why: String| Error::input(format!("{text:?} is no place for objects: {why}"));
        let url = Url::parse(text.trim_end_matches('/')).map_err(|error| bad(error.to_string()))?;
        if url.scheme() == "file" {
            let path = url.to_file_path().map_err(|()| bad("a file URL looks like file:///path".to_owned()))?;
            return Self::directory(path, patience);
        }
        if !SCHEMES.contains(&url.scheme()) {
            return Err(Error::unknown("scheme", url.scheme(), SCHEMES));
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(bad(format!("it names no bucket, as {}://bucket/prefix does", url.scheme())));
        }
        let prefix = Path::from_url_path(url.path()).map_err(|error| bad(error.to_string()))?;
        let store = cloud_store(&url, settings, patience).map_err(|error| bad(error.to_string()))?;
        Ok(Self { url, store, prefix, directory: None, patience })
    }

    fn directory(path: PathBuf, patience: Duration) -> Result<Self> {
        let absolute = std::path::absolute(&path).map_err(Error::io(&path))?;
        // Joined anew, for "a/./b" and "a//b" are no paths of objects.
        let directory: PathBuf = absolute.components().collect();
        let bad = |why: String| Error::input(format!("{}: not a directory that can be used: {why}", path.display()));
        let url = Url::from_file_path(&directory).map_err(|()| bad("no absolute path".to_owned()))?;
        let prefix = Path::from_absolute_path(&directory).map_err(|error| bad(error.to_string()))?;
        let store = Arc::new(LocalFileSystem::new());
        Ok(Self { url, store, prefix, directory: Some(directory), patience })
    }

    /// The same place, with another time for which a failing store is tried again.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The directory, where the location is one.
    pub fn as_directory(&self) -> Option<&std::path::Path> {
        self.directory.as_deref()
    }

    /// The store's path of an object below this place.
    pub fn path(&self, relative: &str) -> Path {
        relative.split('/').filter(|part| !part.is_empty()).fold(self.prefix.clone(), |path, part| path.join(part))
    }

    /// The URL of an object below this place.
    pub fn url_of(&self, relative: &str) -> Url {
        let mut url = self.url.clone();
        url.set_path(&format!("{}/{relative}", self.url.path().trim_end_matches('/')));
        url
    }

    /// An object below this place as messages name it.
    pub fn name(&self, relative: &str) -> PathBuf {
        match &self.directory {
            Some(directory) => directory.join(relative),
            None => PathBuf::from(format!("{}/{relative}", self.url)),
        }
    }

    /// Makes the directory, where the location is one; a bucket must be there.
    ///
    /// # Errors
    /// [`Error::Io`] with the path.
    pub fn create_directory(&self) -> Result<()> {
        match &self.directory {
            Some(directory) => fs_err::create_dir_all(directory).map_err(Error::io(directory)),
            None => Ok(()),
        }
    }

    /// Reads an object; nothing if there is none.
    ///
    /// # Errors
    /// [`Error::Io`] with the object's name.
    pub async fn get(&self, relative: &str) -> Result<Option<Bytes>> {
        let path = self.path(relative);
        self.patiently(relative, || async {
            match self.store.get(&path).await {
                Ok(found) => Ok(Some(found.bytes().await?)),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        })
        .await
    }

    /// Writes an object: whole or not at all. `durable` says that it must outlive a power failure.
    ///
    /// # Errors
    /// [`Error::Io`] with the object's name.
    pub async fn put(&self, relative: &str, bytes: Bytes, mode: Mode, durable: bool) -> Result<Put> {
        self.patiently(relative, || self.try_put(relative, bytes.clone(), mode, durable)).await
    }

    async fn try_put(
        &self,
        relative: &str,
        bytes: Bytes,
        mode: Mode,
        durable: bool,
    ) -> Result<Put, object_store::Error> {
        let done = match &self.directory {
            Some(root) => {
                let (root, relative) = (root.clone(), relative.to_owned());
                let written =
                    tokio::task::spawn_blocking(move || local::write(&root, &relative, &bytes, mode, durable)).await?;
                match written {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(Put::Taken),
                    other => other.map_err(generic),
                }
            }
            None => {
                let mode = if mode == Mode::Create { PutMode::Create } else { PutMode::Overwrite };
                let options = PutOptions { mode, ..PutOptions::default() };
                self.store.put_opts(&self.path(relative), bytes.into(), options).await.map(drop)
            }
        };
        match done {
            Ok(()) => Ok(Put::Done),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => Ok(Put::Taken),
            Err(error) => Err(error),
        }
    }

    /// Every object below `relative` (all for an empty text), by name relative to this place, with its size.
    ///
    /// # Errors
    /// [`Error::Io`] with the place's name.
    pub async fn list(&self, relative: &str) -> Result<Vec<(String, u64)>> {
        let (path, depth) = (self.path(relative), self.prefix.parts_count());
        self.patiently(relative, || async {
            let listed: Vec<_> = match self.store.list(Some(&path)).try_collect().await {
                Err(object_store::Error::NotFound { .. }) => Vec::new(),
                listed => listed?,
            };
            let below = |path: &Path| -> String {
                path.parts().skip(depth).map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/")
            };
            Ok(listed.into_iter().map(|object| (below(&object.location), object.size)).collect())
        })
        .await
    }

    /// Removes an object; one that is not there is no error.
    ///
    /// # Errors
    /// [`Error::Io`] with the object's name.
    pub async fn delete(&self, relative: &str) -> Result<()> {
        let path = self.path(relative);
        self.patiently(relative, || async {
            match self.store.delete(&path).await {
                Err(object_store::Error::NotFound { .. }) => Ok(()),
                other => other,
            }
        })
        .await
    }

    /// Tries until it works or the patience is at an end.
    async fn patiently<T, F>(&self, relative: &str, mut attempt: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T, object_store::Error>>,
    {
        let (started, mut pause, mut attempts) = (Instant::now(), FIRST_PAUSE, 1_u32);
        loop {
            let error = match attempt().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let elapsed = started.elapsed();
            if !worth_another_try(&error) || elapsed + pause > self.patience {
                let tried = match attempts {
                    1 => String::new(),
                    _ => format!(" (tried {attempts} times in {:.1} s)", elapsed.as_secs_f64()),
                };
                let source = io::Error::other(format!("{error}{tried}"));
                return Err(Error::Io { path: self.name(relative), source });
            }
            tracing::warn!(object = %self.name(relative).display(), %error, ?pause, "the store failed; trying again");
            tokio::time::sleep(pause).await;
            (pause, attempts) = ((2 * pause).min(LONGEST_PAUSE), attempts + 1);
        }
    }
}

fn generic(error: io::Error) -> object_store::Error {
    object_store::Error::Generic { store: "directory", source: Box::new(error) }
}

fn worth_another_try(error: &object_store::Error) -> bool {
    use object_store::Error;
    !matches!(
        error,
        Error::NotImplemented { .. }
            | Error::NotSupported { .. }
            | Error::InvalidPath { .. }
            | Error::UnknownConfigurationKey { .. }
            | Error::Unauthenticated { .. }
            | Error::PermissionDenied { .. }
    )
}

fn cloud_store(
    url: &Url,
    settings: &[(&str, &str)],
    patience: Duration,
) -> Result<Arc<dyn ObjectStore>, object_store::Error> {
    let backoff = BackoffConfig { init_backoff: FIRST_PAUSE, max_backoff: LONGEST_PAUSE, base: 2.0 };
    let retry = RetryConfig { backoff, max_retries: MAX_RETRIES, retry_timeout: patience };
    Ok(match url.scheme() {
        "s3" => {
            let mut builder = AmazonS3Builder::from_env().with_url(url.as_str()).with_retry(retry);
            for (name, value) in settings {
                builder = builder.with_config(name.parse::<AmazonS3ConfigKey>()?, *value);
            }
            Arc::new(builder.build()?)
        }
        "gs" => {
            let mut builder = GoogleCloudStorageBuilder::from_env().with_url(url.as_str()).with_retry(retry);
            for (name, value) in settings {
                builder = builder.with_config(name.parse::<GoogleConfigKey>()?, *value);
            }
            Arc::new(builder.build()?)
        }
        _ => {
            let mut builder = MicrosoftAzureBuilder::from_env().with_url(url.as_str()).with_retry(retry);
            for (name, value) in settings {
                builder = builder.with_config(name.parse::<AzureConfigKey>()?, *value);
            }
            Arc::new(builder.build()?)
        }
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_apart() {
        let here = Location::parse("some/./dir//x").unwrap();
        let absolute = std::path::absolute("some/dir/x").unwrap();
        assert_eq!(here.as_directory(), Some(absolute.as_path()));
        assert_eq!(here.to_string(), absolute.display().to_string());
        let url = Location::parse("file:///tmp/a%20b/").unwrap();
        assert_eq!(url.as_directory(), Some(std::path::Path::new("/tmp/a b")));
        assert_eq!(url.path("date=x/y").to_string(), "tmp/a b/date=x/y");
        let bucket =
            Location::parse_with("s3://bucket/some/prefix", &[("aws_region", "eu-north-1")], PATIENCE).unwrap();
        assert_eq!((bucket.prefix.to_string().as_str(), bucket.as_directory()), ("some/prefix", None));
        assert_eq!(bucket.name("x").to_str(), Some("s3://bucket/some/prefix/x"));
        for (bad, word) in [
            ("ftp://host/x", "file, s3, gs, az"),
            ("s3://", "bucket"),
            ("", "a place is needed"),
            ("file://host/x", "file:///path"),
        ] {
            let error = Location::parse(bad).unwrap_err().to_string();
            assert!(error.contains(word), "{bad}: {error}");
        }
        assert!(Location::parse_with("s3://bucket", &[("aws_colour", "red")], PATIENCE).is_err());
    }
}
