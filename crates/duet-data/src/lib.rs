//! Everything between raw data and training batches: importers, the synthetic world, the raw zone and what fills it,
//! accounts without personal data, prepare, splits, the dataset on disk, and item vectors in a Postgres table.

pub mod accounts;
pub mod dataset;
pub mod import;
pub mod ingest;
pub mod prepare;
pub mod privacy;
pub mod quality;
pub mod raw;
pub mod split;
pub mod store;
pub mod vector_store;
pub mod world;
