//! The plans of `duet prepare` on a [Ballista](https://datafusion.apache.org/ballista/) cluster.
//!
//! * [`ClusterEngine`]: what `prepare` is given instead of the embedded engine. It sends the plan of each day to a
//!   scheduler and writes the day file of the sorted rows that come back.
//! * [`serve_scheduler`]: cuts plans into stages and gives them to executors. It never has the user key.
//! * [`run_executor`]: reads raw parts, parses and sorts. It has its own copy of the user key, which never travels.
//!
//! All of them read and write object stores the same way, by their addresses ([`duet_data::store::Location`]), and must be
//! of the same version of duet.

mod codec;
mod engine;
mod executor;
mod scheduler;
mod session;
mod stores;

pub use engine::{ClusterEngine, DEFAULT_PORT, SCHEME};
pub use executor::{ExecutorOptions, run_executor};
pub use scheduler::serve_scheduler;
