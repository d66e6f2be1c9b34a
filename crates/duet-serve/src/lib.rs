//! The service of duet: a bundle behind HTTP, from a listener's log-in to a list in a millisecond or so.
//!
//! # Core concepts
//!
//! * [`engine::Engine`]: all of one bundle, immutable; opened, checked and replaced as a whole.
//! * [`worker::Worker`]: answers batches of requests on one engine, through the stages history, user vector, candidates, filters,
//!   re-rank, diversity, answer. Whatever fails on the way, there is a list: personal, computed ahead, trending in the listener's segment,
//!   trending. The answer says which, and what fell away.
//! * [`dispatch::Dispatcher`]: bounded queues before the workers; what can't be answered in time is refused at once.
//! * [`journal::Journal`] and [`live::LiveHistories`]: posted events, durable before they are acknowledged, and part of the next list.
//! * [`variants::Variants`]: who is served by which recommender; [`served_log::ServedLog`]: what was served, for `duet monitor`.
//! * [`swap`]: the next bundle without a stop, and back to the old one if it fails its check.
//! * [`http`]: the routes, and what stands before them: keys, rates, limits.
//! * [`server::Server`]: all of it from one configuration ([`config`]), until it is stopped and has drained.
//!
//! Nothing here trains; a server keeps no state but the journal and the log, so that any number of them may stand side by side.

pub mod app;
pub mod arrival;
pub mod clock;
pub mod config;
mod connections;
pub mod dispatch;
pub mod engine;
pub mod http;
pub mod journal;
pub mod live;
mod meters;
mod place;
pub mod precomputed;
pub mod request;
mod segments;
pub mod served_log;
pub mod server;
#[cfg(test)]
mod small_bundle;
mod stages;
mod stall;
pub mod stats;
pub mod swap;
mod tls;
pub mod variants;
pub mod worker;
