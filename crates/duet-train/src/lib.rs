//! Training, validation, checkpoints, export.

pub mod batcher;
pub mod examples;
pub mod prior;
pub mod windows;
