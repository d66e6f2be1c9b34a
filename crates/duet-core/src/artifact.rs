//! Files and directories that appear whole or not at all, and are checked when they are read.
//!
//! * [`write_file`]: one file: written beside its place, synced, renamed.
//! * [`DirWriter`]: a directory (dataset, checkpoint, bundle) with a `manifest.json` that lists every file with size
//!   and CRC-32; built as `.NAME.partial`, then renamed. Whatever a killed run left is removed by the next one.
//! * [`Manifest::open`]: reads the manifest, checks magic, version, its own CRC and every listed file.
//!
//! A truncated file or a flipped byte is therefore an error that names the file, never a wrong answer.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Write},
    path::{Path, PathBuf},
};

use fs_err as fs;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{Error, Result};

/// The name of the manifest in every artifact directory.
pub const MANIFEST: &str = "manifest.json";

/// Writes `bytes` to `path` so that a reader (or a crash) sees the old content or the new, never a mixture.
///
/// # Errors
/// [`Error::Io`] with the path; nothing is left behind.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let partial = sibling(path, "partial");
    let written = File::create(&partial)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| std::fs::rename(&partial, path));
    if let Err(source) = written {
        // The write failed: what stands there is ours and worthless.
        let _ = std::fs::remove_file(&partial);
        return Err(Error::Io { path: path.to_path_buf(), source });
    }
    sync_parent(path)
}

/// CRC-32 (IEEE) and size of a file, read once in blocks.
///
/// # Errors
/// [`Error::Io`] with the path.
pub fn checksum(path: &Path) -> Result<FileEntry> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0_u8; 1 << 20];
    let mut bytes = 0;
    loop {
        let read = file.read(&mut buffer).map_err(Error::io(path))?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        bytes += read as u64;
    }
    Ok(FileEntry { bytes, crc32: format!("{:08x}", hasher.finalize()) })
}

/// A file as the manifest lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Size in bytes.
    pub bytes: u64,
    /// CRC-32 (IEEE), eight hex digits.
    pub crc32: String,
}

/// The manifest of an artifact directory; `body` is what the kind of artifact wants to say about itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest<T> {
    /// Which kind of artifact this is, e.g. `duet-dataset`.
    pub magic: String,
    /// Format version of the kind.
    pub version: u32,
    /// Every file of the directory but the manifest, by path relative to the directory.
    pub files: BTreeMap<String, FileEntry>,
    /// The artifact's own description.
    pub body: T,
    /// CRC-32 of the manifest's text with these eight digits zeroed. The last field on purpose.
    crc32: String,
}

const NO_CRC: &str = "00000000";

impl<T: Serialize + DeserializeOwned> Manifest<T> {
    /// Reads and checks `dir/manifest.json` and every file it lists.
    ///
    /// # Errors
    /// [`Error::Data`] naming the file that is missing, truncated, damaged, or of another kind or version.
    pub fn open(dir: &Path, magic: &str, version: u32) -> Result<Self> {
        let manifest = Self::open_unchecked(dir, magic, version)?;
        manifest.verify(dir)?;
        Ok(manifest)
    }

    /// Checks every listed file of `dir`.
    ///
    /// # Errors
    /// As [`Manifest::open`].
    pub fn verify(&self, dir: &Path) -> Result<()> {
        for (name, entry) in &self.files {
            let path = dir.join(name);
            if !path.exists() {
                return Err(Error::data(&path, format!("missing, though {MANIFEST} lists it")));
            }
            let found = checksum(&path)?;
            if found.bytes != entry.bytes {
                return Err(Error::data(
                    &path,
                    format!(
                        "{} bytes long, {MANIFEST} says {}: the file is truncated or was replaced",
                        found.bytes, entry.bytes
                    ),
                ));
            }
            if found.crc32 != entry.crc32 {
                return Err(Error::data(
                    &path,
                    format!("damaged: CRC-32 {} where {MANIFEST} says {}", found.crc32, entry.crc32),
                ));
            }
        }
        Ok(())
    }

    /// Reads and checks the manifest alone.
    ///
    /// # Errors
    /// As [`Manifest::open`].
    pub fn open_unchecked(dir: &Path, magic: &str, version: u32) -> Result<Self> {
        let path = dir.join(MANIFEST);
        if !dir.is_dir() {
            return Err(Error::data(dir, format!("no such directory (expected a {magic})")));
        }
        if !path.exists() {
            return Err(Error::data(dir, format!("not a {magic}: it holds no {MANIFEST}")));
        }
        Self::read(&path, magic, version)
    }

    /// Reads and checks a manifest of any name.
    ///
    /// # Errors
    /// As [`Manifest::open`].
    pub fn read(path: &Path, magic: &str, version: u32) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(Error::io(path))?;
        let manifest: Self = serde_json::from_str(&text).map_err(|error| {
            // Say "wrong kind" rather than "missing field" where the file is another artifact's manifest.
            match serde_json::from_str::<Manifest<serde_json::Value>>(&text) {
                Ok(other) if other.magic != magic => {
                    Error::data(path, format!("this is a {}, not a {magic}", other.magic))
                }
                _ => Error::data(path, format!("not a valid {magic} manifest: {error}")),
            }
        })?;
        if manifest.magic != magic {
            return Err(Error::data(path, format!("this is a {}, not a {magic}", manifest.magic)));
        }
        if manifest.version != version {
            return Err(Error::data(
                path,
                format!("{magic} version {}; this build reads version {version}", manifest.version),
            ));
        }
        let zeroed = zero_crc(&text, &manifest.crc32)
            .ok_or_else(|| Error::data(path, "damaged: its crc32 field is not where it must be"))?;
        let found = format!("{:08x}", crc32fast::hash(zeroed.as_bytes()));
        if found != manifest.crc32 {
            return Err(Error::data(path, format!("damaged: CRC-32 {found} where it says {}", manifest.crc32)));
        }
        Ok(manifest)
    }
}

fn render<T: Serialize>(magic: &str, version: u32, files: BTreeMap<String, FileEntry>, body: &T) -> Result<String> {
    let manifest = Manifest { magic: magic.to_owned(), version, files, body, crc32: NO_CRC.to_owned() };
    let text = serde_json::to_string_pretty(&manifest)
        .map_err(|error| Error::Internal(format!("manifest of {magic}: {error}")))?;
    let crc32 = format!("{:08x}", crc32fast::hash(text.as_bytes()));
    let at = text.rfind(NO_CRC).ok_or_else(|| Error::Internal("manifest without crc32".into()))?;
    Ok(format!("{}{crc32}{}", &text[..at], &text[at + NO_CRC.len()..]))
}

fn zero_crc(text: &str, crc32: &str) -> Option<String> {
    let at = text.rfind(crc32).filter(|_| crc32.len() == NO_CRC.len())?;
    Some(format!("{}{NO_CRC}{}", &text[..at], &text[at + crc32.len()..]))
}

/// Writes a manifest over the named files of its directory: for directories that grow and are not published at once.
///
/// # Errors
/// [`Error::Io`] with the path.
pub fn write_manifest<T: Serialize>(path: &Path, magic: &str, version: u32, names: &[&str], body: &T) -> Result<()> {
    let mut files = BTreeMap::new();
    for name in names {
        files.insert((*name).to_owned(), checksum(&path.with_file_name(name))?);
    }
    write_file(path, render(magic, version, files, body)?.as_bytes())
}

/// Puts the place of an artifact in order after a killed run: its unfinished successor is removed, and the artifact itself put back if
/// it was being replaced.
///
/// # Errors
/// [`Error::Input`] if another process is writing it.
pub fn tidy(target: &Path) -> Result<()> {
    if ["partial", "old", "lock"].iter().any(|suffix| sibling(target, suffix).exists()) {
        drop(DirWriter::create(target, IfExists::Replace)?);
    }
    Ok(())
}

/// What to do when the place of a new artifact is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfExists {
    /// Refuse, and say so.
    Fail,
    /// Replace the old artifact once the new one is complete.
    Replace,
}

/// Builds an artifact directory beside its place; [`DirWriter::publish`] makes it appear.
///
/// Dropped without publishing, it leaves nothing behind. While it lives it holds a lock, so that two runs can't build
/// the same artifact at once.
#[derive(Debug)]
pub struct DirWriter {
    target: PathBuf,
    partial: PathBuf,
    if_exists: IfExists,
    published: bool,
    _lock: DirLock,
}

#[derive(Debug)]
struct DirLock {
    path: PathBuf,
    _file: File,
}

impl Drop for DirLock {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl DirWriter {
    /// Starts building the directory that will be `target`.
    ///
    /// # Errors
    /// [`Error::Input`] if `target` exists and may not be replaced, or another process is building it.
    pub fn create(target: &Path, if_exists: IfExists) -> Result<Self> {
        let target = std::path::absolute(target).map_err(Error::io(target))?;
        let parent = target
            .parent()
            .ok_or_else(|| Error::input(format!("{} can't be a directory to write", target.display())))?;
        fs::create_dir_all(parent).map_err(Error::io(parent))?;
        let lock_path = sibling(&target, "lock");
        let lock_file = File::create(&lock_path).map_err(Error::io(&lock_path))?;
        if lock_file.try_lock().is_err() {
            return Err(Error::input(format!("{}: another process is writing it", target.display())));
        }
        let lock = DirLock { path: lock_path, _file: lock_file };
        recover(&target)?;
        if target.exists() && if_exists == IfExists::Fail {
            return Err(Error::input(format!(
                "{} exists already; give another place or --overwrite",
                target.display()
            )));
        }
        let partial = sibling(&target, "partial");
        if partial.exists() {
            tracing::info!(path = %partial.display(), "removing what an interrupted run left");
            fs::remove_dir_all(&partial).map_err(Error::io(&partial))?;
        }
        fs::create_dir(&partial).map_err(Error::io(&partial))?;
        Ok(Self { target, partial, if_exists, published: false, _lock: lock })
    }

    /// Where to write the files: a path inside the unfinished directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.partial.join(name)
    }

    /// The unfinished directory itself.
    pub fn dir(&self) -> &Path {
        &self.partial
    }

    /// Writes the manifest over every file found in the directory, syncs, and moves it to its place.
    ///
    /// # Errors
    /// [`Error::Io`] with the path; nothing is published then.
    pub fn publish<T: Serialize>(mut self, magic: &str, version: u32, body: &T) -> Result<PathBuf> {
        let mut files = BTreeMap::new();
        let mut names = Vec::new();
        list_files(&self.partial, "", &mut names)?;
        for name in names {
            let path = self.partial.join(&name);
            File::open(&path).and_then(|file| file.sync_all()).map_err(Error::io(&path))?;
            files.insert(name, checksum(&path)?);
        }
        write_file(&self.path(MANIFEST), render(magic, version, files, body)?.as_bytes())?;
        let old = sibling(&self.target, "old");
        if self.target.exists() {
            if self.if_exists == IfExists::Fail {
                return Err(Error::input(format!("{} appeared meanwhile", self.target.display())));
            }
            fs::rename(&self.target, &old).map_err(Error::io(&self.target))?;
        }
        fs::rename(&self.partial, &self.target).map_err(Error::io(&self.target))?;
        self.published = true;
        sync_parent(&self.target)?;
        if old.exists() {
            fs::remove_dir_all(&old).map_err(Error::io(&old))?;
        }
        Ok(self.target.clone())
    }
}

impl Drop for DirWriter {
    fn drop(&mut self) {
        if !self.published {
            let _ = std::fs::remove_dir_all(&self.partial);
        }
    }
}

/// Puts back the old directory if a run died between the two renames of [`DirWriter::publish`].
fn recover(target: &Path) -> Result<()> {
    let old = sibling(target, "old");
    if !old.exists() {
        return Ok(());
    }
    if target.exists() {
        fs::remove_dir_all(&old).map_err(Error::io(&old))
    } else {
        fs::rename(&old, target).map_err(Error::io(target))
    }
}

fn list_files(dir: &Path, prefix: &str, names: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::io(dir))? {
        let entry = entry.map_err(Error::io(dir))?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            list_files(&entry.path(), &format!("{name}/"), names)?;
        } else if name != MANIFEST {
            names.push(name);
        }
    }
    names.sort();
    Ok(())
}

fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!(".{name}.{suffix}"))
}

fn sync_parent(path: &Path) -> Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(Error::io(parent))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn write_one(dir: &Path, text: &str, if_exists: IfExists) -> Result<PathBuf> {
        let writer = DirWriter::create(&dir.join("art"), if_exists)?;
        fs::write(writer.path("a.txt"), text).unwrap();
        writer.publish("duet-test", 1, &vec![0.1_f64, 1e-7])
    }

    #[test]
    fn publishes_whole_and_replaces_only_when_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = write_one(dir.path(), "one", IfExists::Fail).unwrap();
        let manifest = Manifest::<Vec<f64>>::open(&path, "duet-test", 1).unwrap();
        assert_eq!(manifest.body, vec![0.1, 1e-7]);
        assert!(write_one(dir.path(), "two", IfExists::Fail).unwrap_err().to_string().contains("--overwrite"));
        write_one(dir.path(), "two", IfExists::Replace).unwrap();
        assert_eq!(fs::read_to_string(path.join("a.txt")).unwrap(), "two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else may stay behind");
    }

    #[test]
    fn dropped_writer_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let writer = DirWriter::create(&dir.path().join("art"), IfExists::Fail).unwrap();
        fs::write(writer.path("a.txt"), "x").unwrap();
        drop(writer);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn every_flipped_byte_and_every_truncation_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = write_one(dir.path(), "some content", IfExists::Fail).unwrap();
        for name in ["a.txt", MANIFEST] {
            let file = path.join(name);
            let good = fs::read(&file).unwrap();
            for at in 0..good.len() {
                let mut bad = good.clone();
                bad[at] ^= 0x20;
                fs::write(&file, &bad).unwrap();
                let error = Manifest::<Vec<f64>>::open(&path, "duet-test", 1).unwrap_err().to_string();
                // A flipped byte in the file list is reported on the name it now says.
                assert!(error.contains("art"), "{name}@{at}: {error}");
            }
            fs::write(&file, &good[..good.len() / 2]).unwrap();
            assert!(Manifest::<Vec<f64>>::open(&path, "duet-test", 1).is_err());
            fs::write(&file, &good).unwrap();
        }
        Manifest::<Vec<f64>>::open(&path, "duet-test", 1).unwrap();
        let error = Manifest::<Vec<f64>>::open(&path, "duet-other", 1).unwrap_err().to_string();
        assert!(error.contains("this is a duet-test, not a duet-other"), "{error}");
    }

    #[test]
    fn an_interrupted_replacement_is_undone() {
        let dir = tempfile::tempdir().unwrap();
        let path = write_one(dir.path(), "one", IfExists::Fail).unwrap();
        fs::rename(&path, dir.path().join(".art.old")).unwrap();
        let writer = DirWriter::create(&path, IfExists::Replace).unwrap();
        assert_eq!(fs::read_to_string(path.join("a.txt")).unwrap(), "one");
        drop(writer);
    }
}
