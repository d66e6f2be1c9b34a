//! Files of lines as blocks of a few megabytes, cut at line ends: any number of files of any size in bounded memory.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use duet_core::{Error, Result};
use fs_err as fs;

/// Bytes of a block, but for its last line.
const BLOCK_BYTES: usize = 4 << 20;
/// A line longer than this is no event but a file of another kind.
const MAX_LINE_BYTES: usize = 16 << 20;

/// Some whole lines of a file.
#[derive(Debug)]
pub(super) struct Block {
    /// Index of the file.
    pub(super) file: usize,
    /// Number of the first line, from 1.
    pub(super) first_line: u64,
    pub(super) bytes: Vec<u8>,
}

/// The files to read, in order, and how far the reading is.
#[derive(Debug)]
pub(super) struct Blocks {
    files: Vec<PathBuf>,
    root: PathBuf,
    at: usize,
    open: Option<Open>,
    pub(super) total_bytes: u64,
}

#[derive(Debug)]
struct Open {
    file: File,
    rest: Vec<u8>,
    line: u64,
}

impl Blocks {
    /// A file, or every `*.jsonl`, `*.ndjson` and `*.json` below a directory in path order.
    pub(super) fn new(path: &Path) -> Result<Self> {
        let mut files = Vec::new();
        let root = if path.is_dir() {
            search(path, &mut files)?;
            files.sort();
            if files.is_empty() {
                return Err(Error::data(path, "holds no .jsonl, .ndjson or .json file"));
            }
            path.to_path_buf()
        } else {
            files.push(path.to_path_buf());
            path.parent().map(Path::to_path_buf).unwrap_or_default()
        };
        let mut total_bytes = 0;
        for file in &files {
            total_bytes += fs::metadata(file).map_err(Error::io(file))?.len();
        }
        Ok(Self { files, root, at: 0, open: None, total_bytes })
    }

    /// Path of a file below the root, with `/`.
    pub(super) fn name(&self, file: usize) -> String {
        let path = &self.files[file];
        let path = path.strip_prefix(&self.root).unwrap_or(path);
        path.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
    }

    /// The files in reading order.
    pub(super) fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The next block, or nothing at the end of the last file.
    pub(super) fn next(&mut self) -> Result<Option<Block>> {
        while self.at < self.files.len() {
            let path = &self.files[self.at];
            let open = match &mut self.open {
                Some(open) => open,
                none => {
                    none.insert(Open { file: File::open(path).map_err(Error::io(path))?, rest: Vec::new(), line: 1 })
                }
            };
            let mut bytes = std::mem::take(&mut open.rest);
            loop {
                let before = bytes.len();
                let read =
                    open.file.by_ref().take(BLOCK_BYTES as u64).read_to_end(&mut bytes).map_err(Error::io(path))?;
                if read == 0 {
                    break;
                }
                if let Some(end) = memchr_last(&bytes[before..]) {
                    open.rest = bytes.split_off(before + end + 1);
                    break;
                }
                if bytes.len() > MAX_LINE_BYTES {
                    return Err(Error::data_row(
                        path,
                        open.line,
                        "a line of more than 16 MiB: this is no file of events",
                    ));
                }
            }
            let block = Block { file: self.at, first_line: open.line, bytes };
            open.line += block.bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
            if block.bytes.is_empty() || !block.bytes.ends_with(b"\n") {
                // The end of the file; a last line may lack its line end.
                self.open = None;
                self.at += 1;
            }
            if !block.bytes.is_empty() {
                return Ok(Some(block));
            }
        }
        Ok(None)
    }
}

fn memchr_last(bytes: &[u8]) -> Option<usize> {
    bytes.iter().rposition(|byte| *byte == b'\n')
}

fn search(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory).map_err(Error::io(directory))? {
        let path = entry.map_err(Error::io(directory))?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if path.is_dir() {
            search(&path, files)?;
        } else if !hidden
            && path.extension().is_some_and(|ending| ["jsonl", "ndjson", "json"].iter().any(|known| ending == *known))
        {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn blocks_put_together_are_the_files_and_lines_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let long = "x".repeat(1_000);
        let mut text = String::new();
        for line in 0..9_000 {
            text.push_str(&format!("{line} {long}\n"));
        }
        text.push_str("last line without an end");
        fs::write(dir.path().join("a.jsonl"), &text).unwrap();
        fs::write(dir.path().join("b.jsonl"), "one\n").unwrap();
        fs::write(dir.path().join("c.jsonl"), "").unwrap();
        fs::write(dir.path().join("d.txt"), "not an event file").unwrap();
        let mut blocks = Blocks::new(dir.path()).unwrap();
        let (mut first, mut second, mut count) = (String::new(), String::new(), 0);
        while let Some(block) = blocks.next().unwrap() {
            let part = String::from_utf8(block.bytes).unwrap();
            if block.file == 0 {
                assert_eq!(block.first_line - 1, first.lines().count() as u64);
                first.push_str(&part);
            } else {
                second.push_str(&part);
            }
            count += 1;
        }
        assert_eq!((first, second.as_str()), (text, "one\n"));
        assert!(count >= 4, "{count} blocks: the file was not cut");
        assert_eq!(blocks.name(1), "b.jsonl");
    }
}
