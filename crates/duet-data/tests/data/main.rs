//! The tests of duet-data that are larger than a file's own, in one binary.
#![expect(clippy::unwrap_used, reason = "tests")]

mod accounts;
mod azurite;
mod fuzz;
mod ingest;
#[cfg(feature = "kafka")]
mod kafka;
mod prepare;
mod privacy;
mod quality;
mod raw;
mod s3;
mod services;
mod songs;
mod vector_store;
