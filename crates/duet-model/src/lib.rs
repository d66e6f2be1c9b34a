//! The model of duet: two towers, history encoders, embedding tables with their sparse optimiser, and the loss.
//!
//! # Core concepts
//!
//! * [`device`]: a device is always named, `auto|cpu|ndarray|wgpu[:i]`.
//! * [`embedding::EmbeddingTable`]: rows outside the autodiff graph; a step costs what the batch touches, not what the table
//!   holds. It lies on the device or in host memory (`model.placement`).
//! * [`batch::Batch`]: one step's windows, candidates and targets as plain arrays. Prefix training: one pass over a user's
//!   window gives the user vector at many positions.
//! * [`loss::sampled_softmax`]: tiled, with the refined logQ correction and hand-written gradients.
//! * [`step::Learner`]: a model with its optimisers; [`inference::Embedder`]: the same model giving vectors.
//!
//! What is read from disk and what is written there is none of this crate's business.

pub mod adamw;
pub mod batch;
pub mod ceiling;
pub mod device;
pub mod embedding;
pub mod encoder;
pub mod feature_bags;
pub mod hashing;
mod host;
pub mod inference;
pub mod loss;
pub mod model;
mod placement;
mod rows_ahead;
pub mod state;
pub mod step;
pub mod tensor_file;
pub mod tower;
pub mod unique;

#[cfg(test)]
mod device_suite;
