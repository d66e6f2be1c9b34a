//! A symbolic link that is turned from one artifact to the next in one step.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use duet_core::{Error, Result};
use fs_err as fs;

/// Turns the link `name` in `dir` to `target`, a path relative to `dir` (the directory may be moved, or mounted elsewhere). A reader
/// finds the old target or the new one.
///
/// # Errors
/// [`Error::Io`] with the path; the link is as it was then. [`Error::Input`] where the system has no symbolic links.
pub(crate) fn turn(dir: &Path, name: &str, target: &str) -> Result<()> {
    let (link, partial) = (dir.join(name), dir.join(format!(".{name}.partial")));
    if partial.symlink_metadata().is_ok() {
        fs::remove_file(&partial).map_err(Error::io(&partial))?;
    }
    symlink(Path::new(target), &partial)?;
    fs::rename(&partial, &link).map_err(Error::io(&link))?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(Error::io(dir))
}

/// Where the link `name` in `dir` points to, as it says; nothing if there is no link.
pub(crate) fn target(dir: &Path, name: &str) -> Option<PathBuf> {
    fs::read_link(dir.join(name)).ok()
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> Result<()> {
    std::os::unix::fs::symlink(target, link).map_err(Error::io(link))
}

#[cfg(not(unix))]
fn symlink(_target: &Path, _link: &Path) -> Result<()> {
    Err(Error::input("duet publishes by a symbolic link, which this system has none of"))
}
