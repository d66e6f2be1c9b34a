//! Everything between raw data and training batches: importers, the synthetic world, the raw zone and what fills it,
//! accounts without personal data, prepare, splits and the dataset on disk.

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
pub mod world;
