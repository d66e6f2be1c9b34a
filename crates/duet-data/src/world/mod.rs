//! A seeded streaming service whose truth is known: raw events, accounts, a catalogue, and the taste behind them.
//!
//! * [`WorldOptions`]: how large, how long, how dirty.
//! * [`generate`]: writes the world as an artifact directory (magic [`MAGIC`]).
//! * [`Visitors`]: its listeners after the last day, to be served lists by a real service.
//! * [`load_accounts`]: puts its accounts into a Postgres database.
//!
//! The model of the truth is `p(artist | user, day) = sum_g theta[user][g] * phi[g][artist](day)` over micro-genres
//! `g`: a listener draws a genre from their taste, then an artist from that genre's popularity of the day. Drawing is
//! O(1) (alias tables), and the best possible score of an artist for a user is a dot product, so that an evaluation
//! can say how far a model is from what can be known. A song is chosen among the artist's by its own mix, appeal and age
//! (`songs.rs`), in the genre that led to the artist: the same holds for songs of artists who are new to the listener
//! (`truth.rs` says what is left out). Every number comes from a counter-based generator keyed by (seed, stream, user,
//! day): no state is kept per user, memory does not grow with users, and the bytes written do not depend on the number
//! of threads.

mod account;
mod alias;
mod behaviour;
mod catalogue;
mod city;
mod dirt;
mod draws;
mod generate;
mod json;
mod listener;
mod options;
mod postgres;
mod songs;
mod truth;
mod visitors;

pub use generate::{MAGIC, Stats, VERSION, WorldSummary, generate};
pub use options::{Dirt, WorldOptions};
pub use postgres::{AccountsTable, load_accounts};
pub use visitors::{Habits, Login, MAX_LOGINS, Visit, Visitors};
