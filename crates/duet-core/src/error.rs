//! One error type for the libraries, split by whose fault it is.
//!
//! The command line maps every variant to exit code 1; usage errors (exit code 2) never reach this type.

use std::path::{Path, PathBuf};

/// The result of every fallible library function.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, with enough in it to mend the cause without reading code.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller asked for something impossible: an unknown name, a value out of range.
    #[error("{0}")]
    Input(String),
    /// A file's content is not what it must be.
    #[error("{}{}: {message}", .file.display(), row.map(|row| format!(", row {row}")).unwrap_or_default())]
    Data {
        /// The file (or artifact directory) that holds the bad content.
        file: PathBuf,
        /// The first bad row, counted from 1, the header line included for text files.
        row: Option<u64>,
        /// What is wrong and what would be valid.
        message: String,
    },
    /// The operating system refused.
    #[error("{}", with_path(.path, .source))]
    Io {
        /// The file or directory concerned.
        path: PathBuf,
        /// The system's own word.
        source: std::io::Error,
    },
    /// The run was stopped by the user (Ctrl-C or SIGTERM) before it was complete.
    #[error("interrupted: {0}")]
    Interrupted(String),
    /// A bug in duet.
    #[error("internal error: {0} (this is a bug in duet)")]
    Internal(String),
}

impl Error {
    /// A user's mistake.
    pub fn input(message: impl Into<String>) -> Self {
        Self::Input(message.into())
    }

    /// Bad content of a whole file.
    pub fn data(file: impl AsRef<Path>, message: impl Into<String>) -> Self {
        Self::Data { file: file.as_ref().to_path_buf(), row: None, message: message.into() }
    }

    /// Bad content at a row (counted from 1; for text files the header is row 1).
    pub fn data_row(file: impl AsRef<Path>, row: u64, message: impl Into<String>) -> Self {
        Self::Data { file: file.as_ref().to_path_buf(), row: Some(row), message: message.into() }
    }

    /// An I/O failure on `path`; to be used as `.map_err(Error::io(path))`.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { path, source }
    }

    /// An unknown name, with the names that would be valid.
    pub fn unknown<'a>(what: &str, name: &str, valid: impl IntoIterator<Item = &'a str>) -> Self {
        let valid: Vec<&str> = valid.into_iter().collect();
        Self::Input(format!("unknown {what} {name:?}; valid: {}", valid.join(", ")))
    }
}

/// `fs_err` names the path in its errors; others do not, and once is enough.
fn with_path(path: &Path, source: &std::io::Error) -> String {
    let (path, text) = (path.display().to_string(), source.to_string());
    if text.contains(&path) { text } else { format!("{path}: {text}") }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_named_once() {
        let text = Error::io("/none/here")(fs_err::read("/none/here").unwrap_err()).to_string();
        assert_eq!(text.matches("/none/here").count(), 1, "{text}");
        assert!(text.contains("No such file"), "{text}");
        let text = Error::io("/none/here")(std::fs::read("/none/here").unwrap_err()).to_string();
        assert_eq!(text, "/none/here: No such file or directory (os error 2)");
    }
}
