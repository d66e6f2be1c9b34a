//! The key that turns user ids into pseudonyms: from a file or an environment variable, never from an argument.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    path::{Path, PathBuf},
};

use clap::Args;
use duet_core::{Error, Result};
use duet_data::accounts::{KEY_VARIABLE, UserKey};

/// Bytes of a new key: what HMAC-SHA-256 can use of one.
const KEY_BYTES: usize = 32;

/// Where the key is.
#[derive(Debug, Clone, Args)]
pub(crate) struct KeyArgs {
    /// File with the secret that turns user ids into pseudonyms (at least 16 bytes) [default: the secret in DUET_USER_KEY].
    #[arg(long, value_name = "FILE")]
    user_key: Option<PathBuf>,
    /// Make the key file, readable for its owner only, if it is not there.
    #[arg(long, requires = "user_key")]
    create_key: bool,
}

impl KeyArgs {
    /// The key, which must be somewhere.
    ///
    /// # Errors
    /// Those of [`find`]; [`Error::Input`] where there is none.
    pub(crate) fn read(&self) -> Result<UserKey> {
        match &self.user_key {
            Some(path) => read_or_create(path, self.create_key),
            None => find(None)?.ok_or_else(|| {
                Error::input(format!("a user key is needed: --user-key FILE, or the secret in {KEY_VARIABLE}"))
            }),
        }
    }
}

/// Reads the key at `path`; makes one there first, if `create` and nothing is there.
///
/// # Errors
/// Those of [`UserKey::from_file`]; the hint at `--create-key` where there is no file.
pub(crate) fn read_or_create(path: &Path, create: bool) -> Result<UserKey> {
    if !path.exists() {
        if !create {
            return Err(Error::input(format!(
                "{}: no such key file; --create-key makes one. Keep it: without it the same user gets another pseudonym",
                path.display()
            )));
        }
        write_new(path, &hex(&random_bytes()?))?;
        tracing::info!(path = %path.display(), "made a user key");
    }
    UserKey::from_file(path)
}

/// The key of a file, or of the environment variable where no file is named.
///
/// # Errors
/// Those of [`UserKey::from_file`] and [`UserKey::from_environment`].
pub(crate) fn find(path: Option<&Path>) -> Result<Option<UserKey>> {
    match path {
        Some(path) if !path.exists() => {
            Err(Error::input(format!("{}: no such key file; a key may also be in {KEY_VARIABLE}", path.display())))
        }
        Some(path) => UserKey::from_file(path).map(Some),
        None => UserKey::from_environment(),
    }
}

/// Writes a key file that only its owner can read; never over another one.
///
/// # Errors
/// [`Error::Io`] with the path.
pub(crate) fn write_new(path: &Path, key: &str) -> Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path).map_err(Error::io(path))?;
    let written = file.write_all(key.as_bytes()).and_then(|()| file.sync_all());
    written.map_err(|source| {
        // Half a key would be taken for a whole one next time.
        let _ = std::fs::remove_file(path);
        Error::Io { path: path.to_path_buf(), source }
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n"
}

/// From the operating system.
fn random_bytes() -> Result<[u8; KEY_BYTES]> {
    let source = Path::new("/dev/urandom");
    if !source.exists() {
        return Err(Error::input(
            "this system has no /dev/urandom to make a key from: write at least 16 random bytes to the key file yourself",
        ));
    }
    let mut bytes = [0; KEY_BYTES];
    File::open(source).and_then(|mut file| file.read_exact(&mut bytes)).map_err(Error::io(source))?;
    Ok(bytes)
}

#[cfg(all(test, unix))]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn made_once_for_its_owner_and_read_ever_after() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("user.key");
        assert!(read_or_create(&path, false).unwrap_err().to_string().contains("--create-key"));
        let first = read_or_create(&path, true).unwrap().pseudonym("me").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read_or_create(&path, true).unwrap().pseudonym("me").unwrap(), first);
        let other = read_or_create(&dir.path().join("other.key"), true).unwrap().pseudonym("me").unwrap();
        assert_ne!(first, other);
        std::fs::write(&path, "short").unwrap();
        assert!(read_or_create(&path, true).unwrap_err().to_string().contains("user.key"));
    }
}
