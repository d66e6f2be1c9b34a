//! The service: a bundle behind HTTP. Lists at log-in, live events, hot swap, the log of what was served.
//!
//! # Core concepts
//!
//! * [`engine::Engine`]: all of one bundle, immutable; opened, checked, and replaced as a whole.
//! * [`worker::Worker`]: answers batches on one engine, through the stages
//!   history -> user vector -> candidates -> filters -> re-rank -> diversity -> answer.
//! * [`dispatch::Dispatcher`]: a bounded queue before the workers; what can't be answered in time is refused at once.
//! * [`http`]: the interface.

pub mod app;
pub mod clock;
pub mod config;
pub mod dispatch;
pub mod engine;
pub mod http;
pub mod journal;
pub mod live;
pub mod precomputed;
pub mod request;
pub mod served_log;
pub mod server;
#[cfg(test)]
mod small_bundle;
mod stages;
pub mod stats;
pub mod variants;
pub mod worker;
