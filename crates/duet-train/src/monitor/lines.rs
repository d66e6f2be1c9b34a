//! JSON lines from files and directories, a line at a time, with a tally of what could not be read.
//!
//! Files that a server is still writing end in `.open`: their last line may be torn and is left for the next look. A bad line is
//! counted and its place is kept; what it says is not, for it may name a user.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

use duet_core::{Error, Result};
use fs_err as fs;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The ending of a file that is being written.
const OPEN: &str = ".open";
/// Places of bad lines that are kept.
const NAMED: usize = 20;

/// What was read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Files.
    pub files: u64,
    /// Lines that could be read.
    pub lines: u64,
    /// Lines that could not.
    pub bad_lines: u64,
    /// Where the first of those are: file, line and what is wrong with it.
    pub first_bad: Vec<String>,
    /// Last lines of files being written that were not complete yet.
    pub torn_lines: u64,
}

impl Tally {
    /// Counts a bad line and keeps its place.
    pub(super) fn bad(&mut self, place: &str, line: u64, what: &str) {
        self.bad_lines += 1;
        if self.first_bad.len() < NAMED {
            self.first_bad.push(format!("{place}, line {line}: {what}"));
        }
    }

    /// Reads a line as JSON and hands it on, or counts it as bad. Empty lines are nothing.
    pub(super) fn take<T: DeserializeOwned>(
        &mut self,
        (place, number): (&str, u64),
        line: &[u8],
        what: &str,
        take: &mut impl FnMut(T) -> Result<(), &'static str>,
    ) {
        if line.trim_ascii().is_empty() {
            return;
        }
        match serde_json::from_slice(line) {
            // The parser's own words may quote a value.
            Err(error) if error.is_data() => {
                self.bad(place, number, &format!("not {what} (column {})", error.column()))
            }
            Err(error) => self.bad(place, number, &format!("not valid JSON (column {})", error.column())),
            Ok(value) => match take(value) {
                Ok(()) => self.lines += 1,
                Err(why) => self.bad(place, number, why),
            },
        }
    }
}

/// The files of a place: itself, or what lies in the directory and ends in `.jsonl`, `.ndjson`, `.json` or `.open`, by name.
///
/// # Errors
/// [`Error::Input`] if there is nothing at the place; [`Error::Io`].
pub(super) fn files(place: &Path) -> Result<Vec<PathBuf>> {
    if !place.exists() {
        return Err(Error::input(format!("{}: no such file or directory", place.display())));
    }
    if !place.is_dir() {
        return Ok(vec![place.to_path_buf()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(place).map_err(Error::io(place))? {
        let path = entry.map_err(Error::io(place))?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let is_lines = [".jsonl", ".ndjson", ".json", OPEN].iter().any(|ending| name.ends_with(ending));
        if is_lines && !name.starts_with('.') && path.is_file() {
            found.push(path);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Reads every line of a file.
///
/// # Errors
/// [`Error::Io`] with the path.
pub(super) fn read<T: DeserializeOwned>(
    path: &Path,
    what: &str,
    tally: &mut Tally,
    take: &mut impl FnMut(T) -> Result<(), &'static str>,
) -> Result<()> {
    let mut is_open = path.to_string_lossy().ends_with(OPEN);
    let file = match fs::File::open(path) {
        // The server closed the file since it was listed.
        Err(error) if is_open && error.kind() == std::io::ErrorKind::NotFound => {
            is_open = false;
            let closed = path.to_string_lossy().strip_suffix(OPEN).map(PathBuf::from).unwrap_or_default();
            fs::File::open(&closed).map_err(Error::io(&closed))?
        }
        file => file.map_err(Error::io(path))?,
    };
    tally.files += 1;
    let place = path.display().to_string();
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let (mut line, mut number) = (Vec::new(), 0);
    loop {
        line.clear();
        number += 1;
        if reader.read_until(b'\n', &mut line).map_err(Error::io(path))? == 0 {
            return Ok(());
        }
        if is_open && line.last() != Some(&b'\n') {
            tally.torn_lines += 1;
            return Ok(());
        }
        tally.take((&place, number), &line, what, take);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Number {
        n: u32,
    }

    fn all(path: &Path) -> (Vec<u32>, Tally) {
        let (mut found, mut tally) = (Vec::new(), Tally::default());
        let mut take = |number: Number| {
            found.push(number.n);
            Ok(())
        };
        read(path, "a number", &mut tally, &mut take).unwrap();
        (found, tally)
    }

    #[test]
    fn a_torn_last_line_waits_and_bad_lines_are_named_without_their_content() {
        let dir = tempfile::tempdir().unwrap();
        let text = "{\"n\":1}\n{\"n\":\"secret-user\"}\n\nnonsense\n{\"n\":2}\n{\"n\":3";
        let open = dir.path().join("a.jsonl.open");
        fs::write(&open, text).unwrap();
        let (found, tally) = all(&open);
        assert_eq!((found, tally.lines, tally.bad_lines, tally.torn_lines), (vec![1, 2], 2, 2, 1));
        assert!(
            tally.first_bad[0].contains("line 2: not a number") && tally.first_bad[1].contains("line 4: not valid")
        );
        assert!(!tally.first_bad.concat().contains("secret-user"), "{tally:?}");
        // In a closed file a line without its end is a bad line, and a whole one counts.
        let closed = dir.path().join("b.jsonl");
        fs::write(&closed, text).unwrap();
        assert_eq!((all(&closed).1.bad_lines, all(&closed).1.torn_lines), (3, 0));
        fs::write(&closed, "{\"n\":7}").unwrap();
        assert_eq!(all(&closed).0, [7]);
        assert_eq!(files(dir.path()).unwrap(), [open.clone(), closed]);
        fs::rename(&open, dir.path().join("a.jsonl")).unwrap();
        assert_eq!(all(&open).0, [1, 2], "closed since it was listed");
    }

    #[test]
    fn only_files_of_lines() {
        let dir = tempfile::tempdir().unwrap();
        for name in [".key", ".x.jsonl", "notes.txt", "b.jsonl", "a.ndjson"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let names: Vec<String> = files(dir.path())
            .unwrap()
            .iter()
            .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(names, ["a.ndjson", "b.jsonl"]);
        assert!(files(&dir.path().join("none")).unwrap_err().to_string().contains("none"));
    }
}
