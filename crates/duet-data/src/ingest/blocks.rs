//! Files of lines as blocks of a few megabytes, cut at line ends: any number of files of any size in bounded memory.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use duet_core::{Error, Result};
use fs_err as fs;

use crate::raw::{Events, NOT_RECEIVED, Ranges, RawZone, Row};

/// Bytes of a block, but for its last line.
const BLOCK_BYTES: usize = 4 << 20;
/// A line longer than this is no event but a file of another kind.
pub(crate) const MAX_LINE_BYTES: usize = 16 << 20;

/// Some whole lines of a file.
#[derive(Debug)]
pub(super) struct Block {
    source: Arc<str>,
    identity: Arc<str>,
    /// Lines that the zone has already.
    committed: Arc<Ranges>,
    /// Number of the first line, from 1.
    first_line: u64,
    pub(super) bytes: Bytes,
}

/// The lines of `bytes`: where each starts and ends, without its line end (`\n` or `\r\n`), and where the next one starts.
pub(crate) fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, usize, usize)> + '_ {
    let last = bytes.last().filter(|last| **last != b'\n').map(|_| bytes.len());
    let mut start = 0;
    memchr::memchr_iter(b'\n', bytes).map(|end| end + 1).chain(last).map(move |next| {
        let line = &bytes[start..next];
        let length = match line {
            [.., b'\r', b'\n'] => line.len() - 2,
            [.., b'\n'] => line.len() - 1,
            _ => line.len(),
        };
        let at = (start, start + length, next);
        start = next;
        at
    })
}

impl Block {
    /// The lines as events; those that the zone has are left out and counted.
    pub(super) fn split(self) -> (Events, u64) {
        let (mut rows, mut known) = (Vec::with_capacity(self.bytes.len() / 192), 0);
        for ((start, end, _), sequence) in lines(&self.bytes).zip(self.first_line..) {
            if self.committed.is_empty() || !self.committed.contains(sequence) {
                let (start, length) = (start as u32, (end - start) as u32);
                rows.push(Row { sequence, received_ms: NOT_RECEIVED, start, length });
            } else {
                known += 1;
            }
        }
        let mut covered = Ranges::default();
        match (rows.first(), known) {
            (Some(first), 0) => covered.insert(first.sequence, first.sequence + rows.len() as u64 - 1),
            _ => rows.iter().for_each(|row| covered.insert(row.sequence, row.sequence)),
        }
        let events = Events { source: self.source, identity: Some(self.identity), bytes: self.bytes, rows, covered };
        (events, known)
    }
}

/// A file, or every `*.jsonl`, `*.ndjson` and `*.json` below a directory: path and name as source, in the order of the names.
///
/// # Errors
/// [`Error::Data`] for a directory without such files; [`Error::Io`].
pub(crate) fn event_files(path: &Path) -> Result<Vec<(PathBuf, Arc<str>)>> {
    let mut paths = Vec::new();
    let root = match path.is_dir() {
        true => {
            search(path, &mut paths)?;
            path
        }
        false => {
            paths.push(path.to_path_buf());
            path.parent().unwrap_or(Path::new(""))
        }
    };
    if paths.is_empty() {
        return Err(Error::data(path, "holds no .jsonl, .ndjson or .json file"));
    }
    let name = |path: &Path| -> Arc<str> {
        let path = path.strip_prefix(root).unwrap_or(path);
        path.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/").into()
    };
    let mut files: Vec<(PathBuf, Arc<str>)> = paths.into_iter().map(|path| (path.clone(), name(&path))).collect();
    files.sort_by(|a, b| a.1.cmp(&b.1));
    Ok(files)
}

/// The files to read, in order, and how far the reading is.
#[derive(Debug)]
pub(super) struct Blocks {
    /// As [`event_files`] gives them.
    files: Vec<(PathBuf, Arc<str>)>,
    /// The sources that the zone knows.
    known: BTreeMap<Arc<str>, Known>,
    at: usize,
    open: Option<Open>,
    pub(super) total_bytes: u64,
}

/// A source that the zone knows: what it must still be, and its lines.
#[derive(Debug)]
struct Known {
    identity: Option<Arc<str>>,
    committed: Arc<Ranges>,
}

#[derive(Debug)]
struct Open {
    file: File,
    rest: Vec<u8>,
    line: u64,
    identity: Arc<str>,
    committed: Arc<Ranges>,
}

impl Blocks {
    /// The lines of [`event_files`], less those that the zone has.
    pub(super) fn new(path: &Path, zone: &RawZone) -> Result<Self> {
        let files = event_files(path)?;
        let mut total_bytes = 0;
        let mut known = BTreeMap::new();
        for (file, source) in &files {
            total_bytes += fs::metadata(file).map_err(Error::io(file))?.len();
            if let Some(state) = zone.source(source) {
                let (identity, committed) = (state.identity.clone(), Arc::new(state.ranges.clone()));
                known.insert(Arc::clone(source), Known { identity, committed });
            }
        }
        Ok(Self { files, known, at: 0, open: None, total_bytes })
    }

    /// The next block, or nothing at the end of the last file.
    fn next(&mut self) -> Result<Option<Block>> {
        while let Some((path, source)) = self.files.get(self.at) {
            let open = match &mut self.open {
                Some(open) => open,
                none => {
                    let file = File::open(path).map_err(Error::io(path))?;
                    let (identity, committed) = (Arc::from(""), Arc::default());
                    none.insert(Open { file, rest: Vec::new(), line: 1, identity, committed })
                }
            };
            let mut bytes = Vec::with_capacity(open.rest.len() + BLOCK_BYTES + 1);
            bytes.append(&mut open.rest);
            loop {
                let before = bytes.len();
                let read =
                    open.file.by_ref().take(BLOCK_BYTES as u64).read_to_end(&mut bytes).map_err(Error::io(path))?;
                if read == 0 {
                    break;
                }
                if let Some(end) = memchr::memrchr(b'\n', &bytes[before..]) {
                    open.rest = bytes.split_off(before + end + 1);
                    break;
                }
                if bytes.len() > MAX_LINE_BYTES {
                    let line = open.line;
                    return Err(Error::data_row(path, line, "a line of more than 16 MiB: this is no file of events"));
                }
            }
            if open.line == 1 && !bytes.is_empty() {
                open.identity = identity(&bytes);
                if let Some(known) = self.known.get(source) {
                    if known.identity.as_ref().is_some_and(|known| *known != open.identity) {
                        let message = "the zone has lines of another file of this name: its first line was another one; \
                                       give the new file another name, or take another zone";
                        return Err(Error::data(path, message));
                    }
                    open.committed = Arc::clone(&known.committed);
                }
            }
            let ended = !bytes.ends_with(b"\n");
            let block = Block {
                source: Arc::clone(source),
                identity: Arc::clone(&open.identity),
                committed: Arc::clone(&open.committed),
                first_line: open.line,
                bytes: bytes.into(),
            };
            open.line += memchr::memchr_iter(b'\n', &block.bytes).count() as u64;
            if ended {
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

    /// Blocks of about so many bytes together; none at the end.
    pub(super) fn next_batch(&mut self, bytes: usize) -> Result<Vec<Block>> {
        let (mut blocks, mut size) = (Vec::new(), 0);
        while size < bytes {
            let Some(block) = self.next()? else { break };
            size += block.bytes.len();
            blocks.push(block);
        }
        Ok(blocks)
    }
}

/// What a file is known by when it is read again: its first line.
fn identity(bytes: &[u8]) -> Arc<str> {
    let end = memchr::memchr(b'\n', bytes).unwrap_or(bytes.len());
    let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
    format!("first line of {} bytes, CRC-32 {:08x}", line.len(), crc32fast::hash(line)).into()
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
