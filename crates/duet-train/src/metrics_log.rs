//! `metrics.jsonl`: one JSON object a line, appended while training runs.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use duet_core::{Error, Result, artifact};
use fs_err as fs;
use serde::Serialize;

use crate::checkpoint::Phase;

/// The name of the log in a run directory.
pub(crate) const FILE: &str = "metrics.jsonl";

/// A line of the log.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Line {
    /// Every `train.log_every` steps.
    Step {
        /// Which pass over the data.
        phase: Phase,
        /// Epoch under way, from 0.
        epoch: usize,
        /// Steps done in this phase.
        step: u64,
        /// Loss of the last step.
        loss: f32,
        /// Learning rate of the towers.
        tower_rate: f64,
        /// Learning rate of the tables.
        table_rate: f64,
        /// Learning rate of the feature tables.
        feature_rate: f64,
        /// Loss rows (positions) a second since the last line.
        positions_per_second: f64,
        /// Seconds since the last line spent waiting for batches.
        seconds_data: f64,
        /// Seconds in gather and towers.
        seconds_forward: f64,
        /// Seconds in loss and gradients.
        seconds_backward: f64,
        /// Seconds in updates.
        seconds_update: f64,
        /// Learned temperature, with normalised vectors.
        #[serde(skip_serializing_if = "Option::is_none")]
        temperature: Option<f32>,
    },
    /// After a validation.
    Validation {
        /// Epochs trained.
        epoch: usize,
        /// Steps done.
        step: u64,
        /// NDCG@10 over the validation users, full catalogue.
        ndcg_at_10: f64,
        /// Recall@10 likewise.
        recall_at_10: f64,
        /// Users ranked.
        users: usize,
        /// Whether this is the best so far.
        best: bool,
        /// Seconds the validation took.
        seconds: f64,
    },
}

/// The open log.
#[derive(Debug)]
pub struct MetricsLog {
    path: PathBuf,
    lines: usize,
}

impl MetricsLog {
    /// Opens the log and cuts it to its first `keep` lines: what a stopped run wrote after its last checkpoint is done again.
    ///
    /// # Errors
    /// [`Error::Io`] with the path.
    pub fn open(dir: &Path, keep: usize) -> Result<Self> {
        let path = dir.join(FILE);
        let text = if path.exists() { fs::read_to_string(&path).map_err(Error::io(&path))? } else { String::new() };
        let kept: String = text.split_inclusive('\n').filter(|line| line.ends_with('\n')).take(keep).collect();
        let lines = kept.lines().count();
        artifact::write_file(&path, kept.as_bytes())?;
        Ok(Self { path, lines })
    }

    /// Appends a line.
    ///
    /// # Errors
    /// [`Error::Io`] with the path.
    pub fn append(&mut self, line: &Line) -> Result<()> {
        let mut text = serde_json::to_string(line).map_err(|error| Error::Internal(format!("metrics: {error}")))?;
        text.push('\n');
        let mut file =
            fs::OpenOptions::new().append(true).create(true).open(&self.path).map_err(Error::io(&self.path))?;
        file.write_all(text.as_bytes()).map_err(Error::io(&self.path))?;
        self.lines += 1;
        Ok(())
    }

    /// Lines written so far.
    pub fn lines(&self) -> usize {
        self.lines
    }
}
