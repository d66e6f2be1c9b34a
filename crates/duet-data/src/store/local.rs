//! Files of a local store: whole or not at all, and synced where asked.

use std::{
    fs::{self, File},
    hash::{BuildHasher, RandomState},
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::location::Mode;

/// The ending of files that are not complete yet; they start with a dot.
pub(crate) const PARTIAL: &str = ".partial";

/// Writes `bytes` to `root/relative`. Directories below the root are made; the root itself must be there, for a zone
/// whose directory went away must not start anew in silence.
pub(super) fn write(root: &Path, relative: &str, bytes: &[u8], mode: Mode, durable: bool) -> io::Result<()> {
    let path = root.join(relative);
    let parent = path.parent().ok_or_else(|| io::Error::other("a file needs a directory"))?.to_path_buf();
    let name = path.file_name().ok_or_else(|| io::Error::other("a file needs a name"))?.to_string_lossy().into_owned();
    create_below(root, &parent, durable)?;
    if mode == Mode::Create && path.exists() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    // A name of its own and a file that is new: a partial file that somebody else opened too, be it another task or a process
    // of the same number in another container, could be linked to the name already, and writing to it would replace that.
    let random = RandomState::new().hash_one(std::process::id());
    let partial = Partial(parent.join(format!(".{name}.{random:016x}{PARTIAL}")));
    let mut file = File::create_new(&partial.0)?;
    file.write_all(bytes)?;
    if durable {
        file.sync_all()?;
    }
    drop(file);
    match mode {
        // A link fails where the name is taken, a rename would replace.
        Mode::Create => fs::hard_link(&partial.0, &path)?,
        Mode::Replace => fs::rename(&partial.0, &path)?,
    }
    drop(partial);
    if durable { sync(&parent) } else { Ok(()) }
}

/// Removed when dropped; after a rename there is nothing left to remove.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn create_below(root: &Path, directory: &Path, durable: bool) -> io::Result<()> {
    if directory == root || directory.is_dir() {
        return Ok(());
    }
    let parent = directory.parent().ok_or(io::ErrorKind::NotFound)?;
    create_below(root, parent, durable)?;
    match fs::create_dir(directory) {
        Ok(()) if durable => sync(parent),
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn of_many_writers_of_a_name_one_gets_it_and_what_it_wrote_stays() {
        let dir = tempfile::tempdir().unwrap();
        for round in 0..200 {
            let name = format!("entry-{round}");
            let writers: Vec<_> = (0..8_u8)
                .map(|writer| {
                    let (root, name) = (dir.path().to_path_buf(), name.clone());
                    std::thread::spawn(move || {
                        write(&root, &name, &[writer; 5_000], Mode::Create, false).map(|()| writer)
                    })
                })
                .collect();
            let results: Vec<_> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
            let won: Vec<u8> = results.iter().filter_map(|result| result.as_ref().ok().copied()).collect();
            assert_eq!(won.len(), 1, "{results:?}");
            assert_eq!(fs::read(dir.path().join(&name)).unwrap(), [won[0]; 5_000]);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 200);
    }

    #[test]
    fn names_are_taken_once_and_a_missing_root_stays_missing() {
        let dir = tempfile::tempdir().unwrap();
        for durable in [true, false] {
            let name = format!("a/{durable}/x");
            write(dir.path(), &name, b"one", Mode::Create, durable).unwrap();
            let taken = write(dir.path(), &name, b"two", Mode::Create, durable).unwrap_err();
            assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(fs::read(dir.path().join(&name)).unwrap(), b"one");
            write(dir.path(), &name, b"three", Mode::Replace, durable).unwrap();
            assert_eq!(fs::read(dir.path().join(&name)).unwrap(), b"three");
            assert_eq!(fs::read_dir(dir.path().join(&name).parent().unwrap()).unwrap().count(), 1);
        }
        let gone = dir.path().join("gone");
        let error = write(&gone, "a/x", b"one", Mode::Create, true).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(!gone.exists());
    }
}
