//! Everything between raw data and training batches: importers, the synthetic world, prepare, splits and the dataset
//! on disk.

pub mod dataset;
pub mod import;
pub mod prepare;
pub mod split;
pub mod world;
