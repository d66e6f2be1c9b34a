//! One training of a row, and what is kept of it.
//!
//! ```text
//! DIR/ROW/seed-N/run/        the run; once it is measured, without its checkpoint
//! DIR/ROW/seed-N/measured/   what was measured of it (a `duet-ablation-training` artifact)
//! ```

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use duet_core::{
    Error, Result,
    artifact::{self, DirWriter, IfExists, Manifest},
    config::Config,
};
use duet_model::tensor_file::{self, NamedTensor};
use duet_retrieval::Evaluation;
use serde::{Deserialize, Serialize};

use crate::run;

const MAGIC: &str = "duet-ablation-training";
const VERSION: u32 = 1;
const RUN_DIR: &str = "run";
const MEASURED_DIR: &str = "measured";
const VALUES_FILE: &str = "users.safetensors";

/// The metric that decides, and the one beside it.
pub(super) const METRICS: [&str; 2] = ["ndcg@10", "recall@10"];

/// How lists are measured; figures of another protocol don't stand in the same table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AblationProtocol {
    /// Whether what the user had in training is ranked and counts.
    pub keep_seen: bool,
    /// Users measured.
    pub users: usize,
}

/// What is known of a training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The resolved configuration as TOML: JSON would not bring every number back to the last bit.
    pub(super) config: String,
    pub(super) dataset_fingerprint: String,
    pub(super) protocol: AblationProtocol,
    /// Seconds of training, stopped and resumed ones together.
    pub(super) seconds: f64,
    /// Whether a time limit ended it.
    pub(super) cut_short: bool,
    /// NDCG@10 of users without training events, and how many they are.
    pub(super) new_users: Option<(f64, usize)>,
}

/// A training that was measured.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Training {
    pub(super) record: Record,
    /// One column for each of [`METRICS`], one value for each user of the panel.
    pub(super) values: [Vec<f32>; 2],
}

/// The place of a training.
#[derive(Debug, Clone)]
pub(super) struct Place {
    dir: PathBuf,
}

impl Place {
    pub(super) fn new(out: &Path, row: &str, seed: u64) -> Self {
        Self { dir: out.join(row).join(format!("seed-{seed}")) }
    }

    pub(super) fn run(&self) -> PathBuf {
        self.dir.join(RUN_DIR)
    }

    /// What was measured of the training of `config`, whatever the protocol. `None` if there is none, or one of another
    /// configuration or dataset.
    ///
    /// # Errors
    /// [`Error::Data`] naming the file that is damaged.
    pub(super) fn find(&self, config: &Config, dataset_fingerprint: &str) -> Result<Option<Training>> {
        let place = self.dir.join(MEASURED_DIR);
        artifact::tidy(&place)?;
        if !place.exists() {
            return Ok(None);
        }
        let record = Manifest::<Record>::open(&place, MAGIC, VERSION)?.body;
        // What no longer resolves is another configuration.
        let trained = Config::resolve(&[(&place.display().to_string(), &record.config)], &[]).ok();
        let is_same = trained.is_some_and(|trained| trained.placed_as(config) == *config);
        if !is_same || record.dataset_fingerprint != dataset_fingerprint {
            return Ok(None);
        }
        let path = place.join(VALUES_FILE);
        let mut tensors = tensor_file::read(&path)?;
        let values = METRICS.map(|metric| tensors.remove(metric).map(|tensor| tensor.values).unwrap_or_default());
        if values.iter().any(|column| column.len() != record.protocol.users) {
            let message = format!("does not hold {} of {} users", METRICS.join(" and "), record.protocol.users);
            return Err(Error::data(path, message));
        }
        Ok(Some(Training { record, values }))
    }

    /// Whether a run of `config` is there, finished or not.
    pub(super) fn has_run_of(&self, config: &Config, dataset_fingerprint: &str) -> Result<bool> {
        let run = self.run();
        if !run.join("run.json").exists() {
            return Ok(false);
        }
        let (found, info) = run::read_records(&run)?;
        Ok(found.placed_as(config) == *config && info.dataset_fingerprint == dataset_fingerprint)
    }

    /// Keeps what was measured. A finished run needs its checkpoint no more.
    ///
    /// # Errors
    /// [`Error::Io`] with the path.
    pub(super) fn keep(&self, training: &Training) -> Result<()> {
        let writer = DirWriter::create(&self.dir.join(MEASURED_DIR), IfExists::Replace)?;
        let tensor = |(metric, values): (&str, &Vec<f32>)| NamedTensor {
            name: metric.to_owned(),
            shape: vec![values.len()],
            values: values.clone(),
        };
        let tensors: Vec<NamedTensor> = METRICS.into_iter().zip(&training.values).map(tensor).collect();
        tensor_file::write(&writer.path(VALUES_FILE), &tensors)?;
        writer.publish(MAGIC, VERSION, &training.record)?;
        let checkpoint = self.run().join("checkpoint");
        if !training.record.cut_short && checkpoint.exists() {
            artifact::remove(&checkpoint)?;
        }
        Ok(())
    }
}

impl Record {
    /// Whether a call with this time limit has nothing to add: it was finished, or would be cut short no later.
    pub(super) fn is_enough(&self, max_time: Option<Duration>) -> bool {
        !self.cut_short || max_time.is_some_and(|limit| limit.as_secs_f64() <= self.seconds)
    }
}

impl Training {
    /// Takes what is kept out of an evaluation.
    ///
    /// # Errors
    /// [`Error::Input`] if it lacks a metric.
    pub(super) fn new(record: Record, evaluation: &Evaluation) -> Result<Self> {
        let column = |metric: &str| evaluation.per_user.column(metric).map(<[f32]>::to_vec);
        let new_users = evaluation.cold.metric(METRICS[0]).map(|interval| (interval.mean, evaluation.cold.users));
        Ok(Self { record: Record { new_users, ..record }, values: [column(METRICS[0])?, column(METRICS[1])?] })
    }
}

/// Trainings by row (its place in the table) and seed.
pub(super) type Trainings = BTreeMap<(usize, u64), Training>;
