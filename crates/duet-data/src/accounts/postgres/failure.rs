//! What the server or the connection says, sorted by whether trying again can help, and without values.

use std::path::Path;

use duet_core::Error;

/// Why an attempt ended.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The connection was lost, or the server is not there at the moment.
    Lost(String),
    /// Trying again would end the same.
    Permanent(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Permanent(error)
    }
}

/// Classes of SQLSTATE whose messages speak of names and states, never of what is in a table. Others, such as 22 ("data
/// exception"), quote values.
const SAFE_CLASSES: [&str; 10] = ["08", "25", "28", "3D", "3F", "42", "53", "55", "57", "58"];

impl Failure {
    /// For those who do not try again.
    pub(crate) fn into_error(self, place: &Path) -> Error {
        match self {
            Self::Lost(what) => Error::Io { path: place.to_path_buf(), source: std::io::Error::other(what) },
            Self::Permanent(error) => error,
        }
    }

    pub(crate) fn new(place: &Path, error: &tokio_postgres::Error) -> Self {
        if let Some(answer) = error.as_db_error() {
            let code = answer.code().code();
            let what = match SAFE_CLASSES.iter().any(|class| code.starts_with(class)) {
                true => format!("the server says: {} (SQLSTATE {code})", answer.message()),
                false => format!("the server says SQLSTATE {code}; its message is left out, for it may quote a value"),
            };
            // Connection exceptions, too many connections, shut down, crashed, starting up.
            let comes_and_goes = code.starts_with("08") || ["53300", "57P01", "57P02", "57P03"].contains(&code);
            return if comes_and_goes { Self::Lost(what) } else { Self::Permanent(Error::data(place, what)) };
        }
        let cause = std::error::Error::source(error);
        let what = match cause {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        };
        // The kind of the error is private. A TLS failure has an I/O error within it, too, but trying again is of no use.
        let is_io = cause.is_some_and(|cause| cause.is::<std::io::Error>()) && !what.contains("TLS");
        if error.is_closed() || is_io || what.starts_with("timeout") {
            Self::Lost(what)
        } else {
            Self::Permanent(Error::data(place, what))
        }
    }
}
