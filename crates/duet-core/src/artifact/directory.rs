//! Directories that appear whole or not at all.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
};

use fs_err as fs;
use rayon::prelude::*;
use serde::Serialize;

use super::{
    manifest::{FileEntry, MANIFEST, Manifest, checksum, render},
    staged::{sibling, sync_parent, write_file},
};
use crate::{Error, Result};

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

/// Removes an artifact, and what a killed run left beside it.
///
/// # Errors
/// [`Error::Input`] if another process is writing it, or it is not an artifact of duet alone.
pub fn remove(target: &Path) -> Result<()> {
    drop(DirWriter::create(target, IfExists::Replace)?);
    if target.exists() {
        fs::remove_dir_all(target).map_err(Error::io(target))?;
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
    /// [`Error::Input`] if `target` exists and may not be replaced (an empty directory always may; anything that duet
    /// did not write never, nor a part of another artifact), or another process is building it.
    pub fn create(target: &Path, if_exists: IfExists) -> Result<Self> {
        let target = std::path::absolute(target).map_err(Error::io(target))?;
        check_is_no_part(&target)?;
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
        if is_taken(&target)? {
            match if_exists {
                IfExists::Fail => {
                    let target = target.display();
                    return Err(Error::input(format!("{target} exists already; give another place or --overwrite")));
                }
                IfExists::Replace => check_is_ours(&target)?,
            }
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
        // Waiting for the disk, not computing: many files are synced at the same time.
        let entries: Vec<Result<(String, FileEntry)>> = names
            .into_par_iter()
            .map(|name| {
                let path = self.partial.join(&name);
                File::open(&path).and_then(|file| file.sync_all()).map_err(Error::io(&path))?;
                let entry = checksum(&path)?;
                Ok((name, entry))
            })
            .collect();
        for entry in entries {
            let (name, entry) = entry?;
            files.insert(name, entry);
        }
        write_file(&self.path(MANIFEST), render(magic, version, files, body)?.as_bytes())?;
        let mut replaced = None;
        if is_taken(&self.target)? {
            if self.if_exists == IfExists::Fail {
                return Err(Error::input(format!("{} appeared meanwhile", self.target.display())));
            }
            check_is_ours(&self.target)?;
            replaced = Some(self.replace()?);
        } else {
            fs::rename(&self.partial, &self.target).map_err(Error::io(&self.target))?;
        }
        self.published = true;
        sync_parent(&self.target)?;
        if let Some(old) = replaced {
            fs::remove_dir_all(&old).map_err(Error::io(&old))?;
        }
        Ok(self.target.clone())
    }
}

impl DirWriter {
    /// Puts the new directory in the place of the old one; returns where the old one is now.
    fn replace(&self) -> Result<PathBuf> {
        if exchange(&self.partial, &self.target) {
            return Ok(self.partial.clone());
        }
        let old = sibling(&self.target, "old");
        fs::rename(&self.target, &old).map_err(Error::io(&self.target))?;
        fs::rename(&self.partial, &self.target).map_err(Error::io(&self.target))?;
        Ok(old)
    }
}

/// Swaps two directories in one step, so that a reader finds the old or the new one at any moment. False where the system
/// can't: then there is a moment without either.
#[cfg(target_os = "linux")]
fn exchange(new: &Path, target: &Path) -> bool {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, new, CWD, target, RenameFlags::EXCHANGE).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn exchange(_new: &Path, _target: &Path) -> bool {
    false
}

impl Drop for DirWriter {
    fn drop(&mut self) {
        if !self.published {
            let _ = std::fs::remove_dir_all(&self.partial);
        }
    }
}

/// Whether something stands at the place that can't just be written over.
fn is_taken(target: &Path) -> Result<bool> {
    if !target.is_dir() {
        return Ok(target.symlink_metadata().is_ok());
    }
    Ok(fs::read_dir(target).map_err(Error::io(target))?.next().is_some())
}

/// An artifact inside another one is covered by the outer manifest, and is made anew with it.
fn check_is_no_part(target: &Path) -> Result<()> {
    let (Some(outer), Some(name)) = (target.parent(), target.file_name()) else { return Ok(()) };
    let Some(manifest) = read_ours(&outer.join(MANIFEST))? else { return Ok(()) };
    let inner = format!("{}/", name.to_string_lossy());
    match manifest.files.keys().any(|file| file.starts_with(&inner)) {
        true => Err(Error::input(format!(
            "{} is a part of the {} in {}, and is written with it; name that instead",
            target.display(),
            manifest.magic,
            outer.display()
        ))),
        false => Ok(()),
    }
}

/// The manifest at `path`, if there is one that duet wrote.
fn read_ours(path: &Path) -> Result<Option<Manifest<serde_json::Value>>> {
    if !path.is_file() {
        return Ok(None);
    }
    let text = fs::read_to_string(path).map_err(Error::io(path))?;
    let manifest: Option<Manifest<serde_json::Value>> = serde_json::from_str(&text).ok();
    Ok(manifest.filter(|manifest| manifest.magic.starts_with("duet-")))
}

/// Only what duet wrote may be replaced: a directory with a duet manifest and nothing beside what the manifest lists.
fn check_is_ours(target: &Path) -> Result<()> {
    let refuse = |what: &str| {
        let target = target.display();
        Error::input(format!("{target} {what}, so it is not replaced; move it away or give another place"))
    };
    if target.is_symlink() || !target.is_dir() {
        return Err(refuse("is not a directory"));
    }
    let path = target.join(MANIFEST);
    if !path.is_file() {
        return Err(refuse(&format!("was not written by duet (it holds no {MANIFEST})")));
    }
    let Some(manifest) = read_ours(&path)? else {
        return Err(refuse(&format!("was not written by duet, or its {MANIFEST} is damaged")));
    };
    let mut names = Vec::new();
    list_files(target, "", &mut names)?;
    match names.iter().find(|name| !manifest.files.contains_key(*name)) {
        Some(name) => Err(refuse(&format!("holds {name}, which duet did not write"))),
        None => Ok(()),
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
    fn of_several_bad_files_the_first_by_name_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let writer = DirWriter::create(&dir.path().join("art"), IfExists::Fail).unwrap();
        let names: Vec<String> = (0..40).map(|number| format!("{number:02}.txt")).collect();
        for name in &names {
            fs::write(writer.path(name), "sound").unwrap();
        }
        let path = writer.publish("duet-test", 1, &Vec::<f64>::new()).unwrap();
        let open = || Manifest::<Vec<f64>>::open(&path, "duet-test", 1);
        open().unwrap();
        // From the last to the first, each in another way: whatever is told must be the newest.
        for (at, name) in names.iter().enumerate().rev() {
            let (file, said) = (path.join(name), ["damaged", "truncated", "missing"][at % 3]);
            match said {
                "damaged" => fs::write(&file, "soUnd").unwrap(),
                "truncated" => fs::write(&file, "sou").unwrap(),
                _ => fs::remove_file(&file).unwrap(),
            }
            let error = open().unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(said), "{name}: {error}");
        }
    }

    #[test]
    fn nothing_but_our_own_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("art");
        let refused = |what: &str| {
            let before: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
            let error = write_one(dir.path(), "new", IfExists::Replace).unwrap_err().to_string();
            assert!(error.contains(what) && error.contains("art"), "{error}");
            let after: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
            assert_eq!(before, after);
        };
        fs::write(&target, "a file of somebody's").unwrap();
        refused("is not a directory");
        assert_eq!(fs::read_to_string(&target).unwrap(), "a file of somebody's");
        fs::remove_file(&target).unwrap();

        // An empty directory is a place like any other.
        for if_exists in [IfExists::Fail, IfExists::Replace] {
            fs::create_dir(&target).unwrap();
            write_one(dir.path(), "one", if_exists).unwrap();
            fs::remove_dir_all(&target).unwrap();
        }

        fs::create_dir(&target).unwrap();
        fs::write(target.join("thesis.txt"), "years of work").unwrap();
        refused("holds no manifest.json");
        fs::write(target.join(MANIFEST), r#"{"magic": "npm", "files": {}}"#).unwrap();
        refused("was not written by duet");
        fs::remove_dir_all(&target).unwrap();
        write_one(dir.path(), "one", IfExists::Fail).unwrap();
        fs::create_dir(target.join("notes")).unwrap();
        fs::write(target.join("notes/mine.txt"), "notes").unwrap();
        refused("holds notes/mine.txt");
        assert_eq!(fs::read_to_string(target.join("notes/mine.txt")).unwrap(), "notes");
        fs::remove_dir_all(target.join("notes")).unwrap();
        write_one(dir.path(), "two", IfExists::Replace).unwrap();
    }

    #[test]
    fn a_part_of_an_artifact_is_not_replaced_alone() {
        let dir = tempfile::tempdir().unwrap();
        let writer = DirWriter::create(&dir.path().join("outer"), IfExists::Fail).unwrap();
        fs::create_dir(writer.path("inner")).unwrap();
        fs::write(writer.path("inner/a.txt"), "a part").unwrap();
        let outer = writer.publish("duet-test", 1, &Vec::<f64>::new()).unwrap();
        let error = DirWriter::create(&outer.join("inner"), IfExists::Replace).unwrap_err().to_string();
        assert!(error.contains("inner is a part of the duet-test in") && error.contains("outer"), "{error}");
        Manifest::<Vec<f64>>::open(&outer, "duet-test", 1).unwrap();
        // What the outer one does not list is a thing of its own.
        drop(DirWriter::create(&outer.join("inne"), IfExists::Fail).unwrap());
        assert_eq!(fs::read_dir(&outer).unwrap().count(), 2);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_reader_finds_the_old_or_the_new_at_any_moment() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let dir = tempfile::tempdir().unwrap();
        let file = write_one(dir.path(), "0", IfExists::Fail).unwrap().join("a.txt");
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut reads = 0;
                while !done.load(Ordering::Relaxed) {
                    fs::read_to_string(&file).unwrap().parse::<u32>().unwrap();
                    reads += 1;
                }
                reads
            });
            for content in 1..200 {
                write_one(dir.path(), &content.to_string(), IfExists::Replace).unwrap();
            }
            done.store(true, Ordering::Relaxed);
            assert!(reader.join().unwrap() > 0);
        });
        assert_eq!(fs::read_to_string(&file).unwrap(), "199");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
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
