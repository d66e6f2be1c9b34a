//! Places in an object store: a directory, or a prefix in a bucket of S3, Google Cloud Storage or Azure.
//!
//! * [`Location`] is such a place. All errors name it; failures of the store are tried again, with growing pauses,
//!   until the location's patience is at an end.
//! * Writing to a directory is durable where asked: content and directory are synced before the call returns, which
//!   `object_store` alone does not do. A bucket is durable by itself.
//! * An object appears whole or not at all; with [`Mode::Create`] only if its name is free.

mod local;
mod location;

pub(crate) use local::PARTIAL;
pub use location::{Location, Mode, PATIENCE, Put};
