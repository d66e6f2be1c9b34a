//! From raw events, accounts and a catalogue to a dataset without leaks and without personal data.
//!
//! * [`PrepareOptions`]: where everything lies, and how to cut it.
//! * [`prepare`]: reads the events once, in parallel and in bounded blocks; bad lines are quarantined with file, line
//!   and reason, and every line is accounted for ([`Quality`]).
//!
//! **Point in time**: all times are UTC; the held-out period starts at a midnight, and every feature counts only what
//! happened before it. **Personal data**: names, mail addresses, birth dates, coordinates and raw user ids stay outside;
//! an age becomes a bucket, coordinates become places shared by at least `min_users_per_place`, a user id becomes a
//! keyed hash.

mod account;
mod catalogue;
mod events;
mod features;
mod lines;
mod options;
mod oracle;
mod parse;
mod place;
mod quality;
mod run;
mod table;
#[cfg(test)]
mod tests;

pub use options::{HeldOut, PrepareOptions, Strengths, UserKey};
pub use quality::{Quality, Reasons, Rows};
pub use run::{PrepareSummary, QUALITY_FILE, QUARANTINE_FILE, prepare};
