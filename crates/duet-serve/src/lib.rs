//! The service.

pub mod journal;
pub mod live;
pub mod precomputed;
mod segments;
pub mod served_log;
pub mod variants;
