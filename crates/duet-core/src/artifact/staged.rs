//! Files that appear whole or not at all.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use crate::{Error, Result};

/// Writes `bytes` to `path` so that a reader (or a crash) sees the old content or the new, never a mixture.
///
/// # Errors
/// [`Error::Io`] with the path; nothing is left behind.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = StagedFile::create(path)?;
    file.write_all(bytes).map_err(Error::io(path))?;
    file.commit()
}

/// Takes a file of another artifact over: files of artifacts never change, so both may share it; where the file system
/// can't, it is copied.
///
/// # Errors
/// [`Error::Io`] with the path.
pub fn link_file(from: &Path, to: &Path) -> Result<()> {
    if std::fs::hard_link(from, to).is_err() {
        std::fs::copy(from, to).map_err(Error::io(from))?;
    }
    Ok(())
}

/// A file written in a stream: `.NAME.partial` until [`StagedFile::commit`], removed if dropped before.
#[derive(Debug)]
pub struct StagedFile {
    writer: BufWriter<File>,
    partial: PathBuf,
    target: PathBuf,
    committed: bool,
}

impl StagedFile {
    /// Starts writing what will be `target`.
    ///
    /// # Errors
    /// [`Error::Io`] with the path.
    pub fn create(target: &Path) -> Result<Self> {
        let partial = sibling(target, "partial");
        let file = File::create(&partial).map_err(Error::io(target))?;
        let writer = BufWriter::with_capacity(1 << 20, file);
        Ok(Self { writer, partial, target: target.to_path_buf(), committed: false })
    }

    /// Syncs the content and moves it to its place.
    ///
    /// # Errors
    /// [`Error::Io`] with the path; nothing is left behind.
    pub fn commit(mut self) -> Result<()> {
        self.writer
            .flush()
            .and_then(|()| self.writer.get_ref().sync_all())
            .and_then(|()| std::fs::rename(&self.partial, &self.target))
            .map_err(Error::io(&self.target))?;
        self.committed = true;
        sync_parent(&self.target)
    }
}

impl Write for StagedFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.writer.flush()
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        if !self.committed {
            // Ours and worthless; a failure to remove it changes nothing about the error already on its way.
            let _ = std::fs::remove_file(&self.partial);
        }
    }
}

pub(super) fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!(".{name}.{suffix}"))
}

pub(super) fn sync_parent(path: &Path) -> Result<()> {
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

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write_file(&path, b"old").unwrap();
        let mut unfinished = StagedFile::create(&path).unwrap();
        unfinished.write_all(b"new").unwrap();
        unfinished.flush().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        drop(unfinished);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        write_file(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        let error = write_file(&dir.path().join("none/file"), b"x").unwrap_err().to_string();
        assert!(error.contains("none/file"), "{error}");
    }
}
