//! The vocabulary of duet: what every other crate agrees on.
//!
//! * [`ids`]: external ids (strings, as the source system writes them) and dense indices (rows of a table).
//! * [`event`]: the JSON event contract of a click stream.
//! * [`schema`] and [`table`]: declared feature columns and their values in memory.
//! * [`condition`]: `genre=rock` and the like, on the rows of a table.
//! * [`encoding`]: raw feature values to model inputs; the same code trains and serves.
//! * [`config`]: TOML to a validated training configuration.
//! * [`layers`]: how configuration files and settings are put over a default that knows every key.
//! * [`artifact`]: files and directories that appear whole or not at all, each with a checksum.
//! * [`markup`]: text, figures and axes of HTML pages.
//! * [`memory`]: freed blocks are kept, for work in steps.
//! * [`mixing`]: well-mixed bits from counters and ids.
//! * [`number`]: numbers as people read them.
//! * [`progress`]: bars on a terminal, silence elsewhere.
//!
//! Nothing here trains, searches or talks to a network.

pub mod artifact;
pub mod condition;
pub mod config;
pub mod encoding;
pub mod error;
pub mod event;
pub mod ids;
pub mod layers;
pub mod markup;
pub mod memory;
pub mod mixing;
pub mod number;
pub mod progress;
pub mod schema;
pub mod table;

pub use error::{Error, Result};
pub use ids::{ItemIdx, UserIdx};
