//! The record of a tick: a JSON file for people and monitoring, rewritten after every step.

use std::path::Path;

use chrono::{SecondsFormat, Utc};
use duet_core::{Error, Result, artifact};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Key figures of a step.
pub type Figures = Map<String, Value>;

pub(super) fn figures<'a>(entries: impl IntoIterator<Item = (&'a str, Value)>) -> Figures {
    entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The steps of a tick, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "each is the command of its name")]
pub enum Step {
    Ingest,
    Prepare,
    Train,
    Rerank,
    Evaluate,
    Embed,
    Gate,
    Publish,
}

impl Step {
    /// The name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Prepare => "prepare",
            Self::Train => "train",
            Self::Rerank => "rerank",
            Self::Evaluate => "evaluate",
            Self::Embed => "embed",
            Self::Gate => "gate",
            Self::Publish => "publish",
        }
    }
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Status {
    Running,
    Done,
    Failed,
    Interrupted,
}

/// How a tick ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Under way.
    Running,
    /// `current` is this tick's bundle, or was.
    Published,
    /// The gate was not passed.
    Refused,
    /// A step failed.
    Failed,
    /// Stopped by a signal.
    Interrupted,
    /// The process died.
    Died,
}

impl Outcome {
    /// In a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Published => "published",
            Self::Refused => "refused by the gate",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
            Self::Died => "died",
        }
    }
}

/// One step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Which.
    pub step: Step,
    /// How it ended.
    pub status: Status,
    /// How long it took.
    pub seconds: f64,
    /// What it found.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub figures: Figures,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One tick.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Its start, UTC; the name of its run, evaluation and bundle.
    pub id: String,
    /// Version of duet.
    pub duet: String,
    /// How it ended.
    pub outcome: Outcome,
    /// When it began.
    pub started: String,
    /// When it ended.
    pub finished: Option<String>,
    /// The bundle it published, relative to the work directory.
    pub published: Option<String>,
    /// NDCG@10 of the two-tower over all test users.
    pub ndcg_at_10: Option<f64>,
    /// NDCG@10 of popularity over the same users.
    pub popularity_ndcg_at_10: Option<f64>,
    /// What was done.
    pub steps: Vec<StepRecord>,
}

impl Record {
    /// A tick that begins now.
    pub(super) fn start(id: String) -> Self {
        Self {
            id,
            duet: env!("CARGO_PKG_VERSION").to_owned(),
            outcome: Outcome::Running,
            started: now(),
            finished: None,
            published: None,
            ndcg_at_10: None,
            popularity_ndcg_at_10: None,
            steps: Vec::new(),
        }
    }

    /// The step that failed and why, if one did.
    pub fn error(&self) -> Option<(Step, &str)> {
        self.steps.iter().find_map(|step| Some((step.step, step.error.as_deref()?)))
    }

    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = fs_err::read_to_string(path).map_err(Error::io(path))?;
        serde_json::from_str(&text).map_err(|error| Error::data(path, format!("not a record of a tick: {error}")))
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|error| Error::Internal(format!("record: {error}")))?;
        artifact::write_file(path, (text + "\n").as_bytes())
    }
}

pub(super) fn now() -> String {
    Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// The id of a tick that begins now.
pub(super) fn id() -> String {
    Utc::now().format("%Y%m%dT%H%M%SZ").to_string()
}
