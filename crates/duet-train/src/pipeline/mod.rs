//! The daily (or hourly) way from new events to a served bundle: `duet run`.
//!
//! ```text
//! WORK/dataset/            brought up to date by every tick
//! WORK/runs/ID/            trained from the run of the published bundle
//! WORK/evaluations/ID/     its report
//! WORK/bundles/ID/         its bundle
//! WORK/current             a link to the bundle that is published: what is served
//! WORK/records/ID.json     what every step of the tick did (see [`Record`])
//! ```
//!
//! * A tick does ingest (where there is something to take in), prepare, train, rerank (where trees are wanted), evaluate, embed, gate,
//!   publish. ID is its start, UTC: `20261124T190000Z`.
//! * Publishing is the rename of a link: a reader finds the old bundle or the new one. Whatever fails before leaves
//!   `current` as it is.
//! * After a kill, the next tick clears away what was half done and takes up a training from its checkpoint, if data and
//!   configuration are still the same.
//! * One process a work directory, held by a lock.

mod clock;
mod gate;
mod place;
mod record;
mod tick;

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
};

use duet_core::{Result, config::Config};
use duet_data::prepare::PrepareOptions;
use duet_model::device::DeviceChoice;

pub use clock::next_tick;
pub use gate::Gate;
pub use record::{Figures, Outcome, Record, Status, Step, StepRecord};
pub use tick::Pipeline;

/// Brings in what is new before each `prepare`, e.g. an ingest until the stream is empty.
pub type Flush = Box<dyn Fn() -> Result<Figures>>;

/// What a pipeline does, and where.
pub struct PipelineOptions {
    /// The work directory.
    pub work: PathBuf,
    /// What comes before `prepare`.
    pub flush: Option<Flush>,
    /// What `prepare` reads; days are always added to the dataset that is there.
    pub prepare: PrepareOptions,
    /// The training's configuration.
    pub config: Config,
    /// Whether each run gets boosted trees. They learn from a validation part, which no warm start has, so every training begins afresh.
    pub rerank: bool,
    /// Where to compute.
    pub device: DeviceChoice,
    /// What a bundle must reach to be published.
    pub gate: Gate,
    /// Published runs and bundles that are kept, the current one included; as many of those that were not published.
    pub keep: usize,
    /// Stop as soon as this is set: training after its step, everything else after the step of the tick.
    pub stop: Arc<AtomicBool>,
}

impl fmt::Debug for PipelineOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { work, config, rerank, device, gate, keep, .. } = self;
        formatter
            .debug_struct("PipelineOptions")
            .field("work", work)
            .field("config", config)
            .field("rerank", rerank)
            .field("device", device)
            .field("gate", gate)
            .field("keep", keep)
            .finish_non_exhaustive()
    }
}
