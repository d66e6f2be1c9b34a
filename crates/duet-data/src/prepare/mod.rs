//! From raw events, accounts and a catalogue to a dataset without leaks and without personal data.
//!
//! * [`PrepareOptions`]: where everything lies, and how to cut it.
//! * [`Engine`]: where the plans over raw lines run; [`Embedded`] is this process.
//! * [`prepare`]: the raw lines of each UTC day become a day file (parsed, pseudonymous, without duplicates, sorted; bad
//!   lines are put aside with file, line and reason); then all tables are made from the day files, the accounts and the
//!   catalogue alone. Adding days to a dataset therefore gives the same bytes as preparing all days at once. Inside the
//!   dataset, whose items are artists, lies another one whose items are songs.
//!
//! **Point in time**: all times are UTC; the held-out period starts at a midnight, features end before it, and what
//! describes an event of day `t` is as of the end of day `t - 1`. **Personal data**: names, mail addresses, birth dates,
//! coordinates and raw user ids stay outside; an age becomes a bucket, coordinates become places shared by at least
//! `min_users_per_place`, a user id becomes a keyed hash. **Books**: every line is accounted for once.

mod as_of;
mod catalogue;
mod config;
mod cutoff;
mod day_file;
mod days;
mod engine;
mod event_row;
mod fate;
mod features;
mod file_days;
mod flat_object;
mod item_files;
mod line;
mod normalise;
mod options;
mod oracle;
mod outputs;
mod parse_event;
mod positives;
mod raw_lines;
mod rows;
mod run;
mod song_dataset;
mod sort_memory;
mod table;
mod user_rows;
mod users;
mod walks;

pub use config::{AccountsConfig, EngineConfig, PrepareConfig, PrivacyConfig, QualityConfig, SplitConfig};
pub use day_file::DAYS_DIR;
pub use days::QUARANTINE_DIR;
pub use engine::{BATCH_ROWS, Embedded, Engine, Resources};
pub use fate::RateLimits;
pub use options::{DayRange, EventSource, HeldOut, PrepareOptions, Strengths};
pub(crate) use outputs::IMPRESSIONS_FILE;
pub use parse_event::{decode_function, encode_function};
pub use rows::Rows;
pub use run::{PrepareSummary, QUALITY_FILE, QUALITY_PAGE, prepare};
