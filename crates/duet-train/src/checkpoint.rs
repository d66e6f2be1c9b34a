//! Checkpoints: everything a stopped training needs to go on as if it had never stopped.

use std::path::Path;

use duet_core::{
    Error, Result,
    artifact::{DirWriter, IfExists, Manifest},
};
use duet_model::{step::Learner, tensor_file};
use serde::{Deserialize, Serialize};

use crate::run::{VERSION, WEIGHTS_FILE};

const MAGIC: &str = "duet-checkpoint";

/// Which pass over the data is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Training without the validation part, to find the best epoch.
    Search,
    /// Training on everything for as many epochs as were best.
    Refit,
    /// Nothing is left to do.
    Done,
}

/// Where training stands. The position in the data is (epoch, batch): batches are functions of seed, epoch and number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Which pass.
    pub phase: Phase,
    /// The epoch that is under way or next.
    pub epoch: usize,
    /// Batches of it that are done.
    pub batch: usize,
    /// Steps of this phase that are done.
    pub step: u64,
    /// Epochs of the search that are done.
    pub searched: usize,
    /// Best validation so far: epochs trained, NDCG@10.
    pub best: Option<(usize, f64)>,
    /// Validations since.
    pub stale: usize,
    /// Seconds of training so far.
    pub seconds: f64,
    /// Loss rows so far.
    pub rows: u64,
    /// Steps of the towers' optimiser.
    pub optimiser_steps: i32,
    /// Lines of metrics.jsonl that belong to what was done so far.
    pub metric_lines: usize,
}

impl Progress {
    /// The beginning.
    pub fn start() -> Self {
        Self {
            phase: Phase::Search,
            epoch: 0,
            batch: 0,
            step: 0,
            searched: 0,
            best: None,
            stale: 0,
            seconds: 0.0,
            rows: 0,
            optimiser_steps: 0,
            metric_lines: 0,
        }
    }
}

/// Writes `dir/checkpoint/`, replacing the old one once the new one is complete.
///
/// # Errors
/// [`Error::Io`] with the path; the old checkpoint stays then.
pub fn save(dir: &Path, learner: &Learner, progress: &mut Progress) -> Result<()> {
    let writer = DirWriter::create(&dir.join("checkpoint"), IfExists::Replace)?;
    let (steps, tensors) = learner.state()?;
    progress.optimiser_steps = steps;
    tensor_file::write(&writer.path(WEIGHTS_FILE), &tensors)?;
    writer.publish(MAGIC, VERSION, progress)?;
    Ok(())
}

/// Reads the progress of `dir/checkpoint/`, if there is a checkpoint.
///
/// # Errors
/// [`Error::Data`] naming the damaged file.
pub fn progress(dir: &Path) -> Result<Option<Progress>> {
    let place = dir.join("checkpoint");
    if !place.exists() {
        return Ok(None);
    }
    Ok(Some(Manifest::<Progress>::open(&place, MAGIC, VERSION)?.body))
}

/// Loads the parameters and optimiser states of `dir/checkpoint/`.
///
/// # Errors
/// [`Error::Data`] if they belong to another model.
pub fn restore(dir: &Path, learner: &mut Learner, progress: &Progress) -> Result<()> {
    let path = dir.join("checkpoint").join(WEIGHTS_FILE);
    let tensors = tensor_file::read(&path)?;
    learner.restore(progress.optimiser_steps, &tensors).map_err(|error| Error::data(&path, error.to_string()))
}
