//! The manifest of an artifact: what is in it, with sizes and checksums.

use std::{collections::BTreeMap, fs::File, io::Read, path::Path};

use fs_err as fs;
use rayon::prelude::*;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::staged::write_file;
use crate::{Error, Result};

/// The name of the manifest in every artifact directory.
pub const MANIFEST: &str = "manifest.json";

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
        // At the same time, but of several bad files the first by name is told.
        let files: Vec<(&String, &FileEntry)> = self.files.iter().collect();
        let checks: Vec<Result<()>> =
            files.into_par_iter().map(|(name, entry)| verify_file(&dir.join(name), entry)).collect();
        checks.into_iter().collect()
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

fn verify_file(path: &Path, entry: &FileEntry) -> Result<()> {
    if !path.exists() {
        return Err(Error::data(path, format!("missing, though {MANIFEST} lists it")));
    }
    let found = checksum(path)?;
    if found.bytes != entry.bytes {
        return Err(Error::data(
            path,
            format!(
                "{} bytes long, {MANIFEST} says {}: the file is truncated or was replaced",
                found.bytes, entry.bytes
            ),
        ));
    }
    if found.crc32 != entry.crc32 {
        return Err(Error::data(
            path,
            format!("damaged: CRC-32 {} where {MANIFEST} says {}", found.crc32, entry.crc32),
        ));
    }
    Ok(())
}

pub(super) fn render<T: Serialize>(
    magic: &str,
    version: u32,
    files: BTreeMap<String, FileEntry>,
    body: &T,
) -> Result<String> {
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
