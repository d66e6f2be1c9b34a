//! A file written in a stream that appears whole or not at all.
//!
//! `duet_core::artifact::write_file` does the same for content that is in memory; vectors and indexes of many
//! gigabytes should not be there twice. Written as `.NAME.partial`, synced, renamed; removed if dropped unfinished.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use duet_core::{Error, Result};

/// The unfinished file.
#[derive(Debug)]
pub(crate) struct StagedFile {
    writer: BufWriter<File>,
    partial: PathBuf,
    target: PathBuf,
    committed: bool,
}

impl StagedFile {
    /// Starts writing what will be `target`.
    pub(crate) fn create(target: &Path) -> Result<Self> {
        let name = target.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let partial = target.with_file_name(format!(".{name}.partial"));
        let file = File::create(&partial).map_err(Error::io(target))?;
        let writer = BufWriter::with_capacity(1 << 20, file);
        Ok(Self { writer, partial, target: target.to_path_buf(), committed: false })
    }

    /// Syncs the content and moves it to its place.
    pub(crate) fn commit(mut self) -> Result<()> {
        self.writer
            .flush()
            .and_then(|()| self.writer.get_ref().sync_all())
            .and_then(|()| std::fs::rename(&self.partial, &self.target))
            .map_err(Error::io(&self.target))?;
        self.committed = true;
        let parent = match self.target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        File::open(parent).and_then(|dir| dir.sync_all()).map_err(Error::io(parent))
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
