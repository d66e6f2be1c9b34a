//! A log shipper, as it runs beside any service: whole lines of a directory of segments, each handed on once.
//!
//! What is handed on goes into one file a day, so that names and contents do not depend on when the service began a segment.
//! The open segment is read as well, up to its last whole line: whatever was acknowledged is there.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use duet_core::{Error, artifact};
use fs_err as fs;

/// A log that is written behind the answer's back is given so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// What was taken from a directory of segments, and where it goes.
#[derive(Debug)]
pub(super) struct Shipper {
    from: PathBuf,
    to: PathBuf,
    /// Bytes taken of each segment, by its name once it is closed.
    taken: BTreeMap<String, u64>,
    lines: u64,
}

impl Shipper {
    pub(super) fn new(from: &Path, to: &Path) -> Result<Self> {
        fs::create_dir_all(to)?;
        Ok(Self { from: from.to_path_buf(), to: to.to_path_buf(), taken: BTreeMap::new(), lines: 0 })
    }

    /// Where the files of all days are.
    pub(super) fn place(&self) -> &Path {
        &self.to
    }

    /// Waits until the segments have `total` lines, those of earlier days included, and writes what is new to
    /// `NAME.jsonl`.
    ///
    /// # Errors
    /// If the lines do not come, or more than so many are there.
    pub(super) fn ship(&mut self, name: &str, total: u64) -> Result<PathBuf> {
        let begun = Instant::now();
        let mut new = Vec::new();
        loop {
            self.take(&mut new)?;
            match self.lines {
                lines if lines == total => break,
                lines if lines < total && begun.elapsed() < PATIENCE => sleep(Duration::from_millis(10)),
                lines => bail!(Error::data(&self.from, format!("has {lines} lines where {total} were written"))),
            }
        }
        let path = self.to.join(format!("{name}.jsonl"));
        artifact::write_file(&path, &new)?;
        Ok(path)
    }

    /// Appends the whole lines that were not taken yet, segments in order of their names (that is, of their start).
    fn take(&mut self, new: &mut Vec<u8>) -> Result<()> {
        let mut segments = BTreeMap::new();
        for entry in fs::read_dir(&self.from)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let stem = name.strip_suffix(".open").unwrap_or(&name);
            let stem = stem.strip_suffix(".jsonl").unwrap_or(stem);
            if stem != name && !stem.starts_with('.') {
                segments.insert(format!("{stem}.jsonl"), path);
            }
        }
        for (name, path) in segments {
            let taken = self.taken.entry(name.clone()).or_default();
            // A segment that is closed between the listing and this has another name now.
            let closed = self.from.join(&name);
            let opened = File::open(&path).or_else(|_| File::open(&closed));
            let mut file = opened.map_err(Error::io(&path))?;
            let mut bytes = Vec::new();
            file.seek(SeekFrom::Start(*taken)).and_then(|_| file.read_to_end(&mut bytes)).map_err(Error::io(&path))?;
            let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
            *taken += whole as u64;
            self.lines += bytes[..whole].iter().filter(|&&byte| byte == b'\n').count() as u64;
            new.extend_from_slice(&bytes[..whole]);
        }
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn every_whole_line_is_handed_on_once_whatever_its_segment_is_called_by_then() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("journal"), dir.path().join("intake"));
        fs::create_dir(&from).unwrap();
        let mut shipper = Shipper::new(&from, &to).unwrap();
        fs::write(from.join("events-1.jsonl"), "a\nb\n").unwrap();
        fs::write(from.join("events-2.jsonl.open"), "c\nhalf").unwrap();
        fs::write(from.join(".key"), "no log\n").unwrap();
        let first = shipper.ship("day-001", 3).unwrap();
        assert_eq!(fs::read_to_string(first).unwrap(), "a\nb\nc\n");
        fs::remove_file(from.join("events-2.jsonl.open")).unwrap();
        fs::write(from.join("events-2.jsonl"), "c\nhalf a line\n").unwrap();
        let second = shipper.ship("day-002", 4).unwrap();
        assert_eq!(fs::read_to_string(second).unwrap(), "half a line\n");
        let error = shipper.ship("day-003", 3).unwrap_err().to_string();
        assert!(error.contains("journal") && error.contains("has 4 lines where 3"), "{error}");
    }
}
