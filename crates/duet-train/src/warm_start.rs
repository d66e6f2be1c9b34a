//! Warm start: a training that begins with the parameters of another run, where they fit.
//!
//! * Rows of the item tables go by external id, rows of the feature tables by column and value, rows of the users table by
//!   user id, dense parameters of the towers as they are. What the other run did not know keeps its fresh initialisation.
//! * Numeric features keep the other run's bins, so that the towers read them as they learned to.
//! * Adagrad's memory is taken over in part (`train.warm_memory`), so that known rows are refined and new ones learned.
//! * No validation part: the other run was trained on most of it. `train.warm_epochs` epochs on all events instead.
//!
//! The run's first checkpoint holds the parameters it begins with, so that a resumed run never needs the other one again.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use duet_core::{Error, Result, artifact::Manifest, config::Config, ids::IdMap};
use duet_data::dataset::{Dataset, DatasetInfo};
use duet_model::{
    hashing::RowMap,
    model::TwoTower,
    tensor_file::{self, NamedTensor},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::run::{self, RunInfo, VERSION, Vocabulary, WEIGHTS_FILE, WEIGHTS_MAGIC, WeightsInfo};

/// Which run to start from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WarmStart {
    /// The run.
    pub run: PathBuf,
    /// Start afresh, with a warning, where the run's parameters do not fit; otherwise that is an error.
    pub or_fresh: bool,
}

/// Rows of a table with a past, and without.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// Rows taken over.
    pub kept: usize,
    /// Rows that start afresh.
    pub new: usize,
}

impl Taken {
    fn count(map: &[Option<u32>]) -> Self {
        let kept = map.iter().flatten().count();
        Self { kept, new: map.len() - kept }
    }
}

/// What a run was warmed from: part of its record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WarmedFrom {
    /// Where the other run lay.
    pub run: PathBuf,
    /// Fingerprint of its dataset.
    pub dataset_fingerprint: String,
    /// Its parameters.
    pub weights: WeightsInfo,
    /// Items.
    pub items: Taken,
    /// Values of the users' features.
    pub user_values: Taken,
    /// Values of the items' features.
    pub item_values: Taken,
    /// Users, where the model has vectors of their own for them.
    pub users: Option<Taken>,
}

impl fmt::Display for WarmedFrom {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { run, items, user_values, item_values, users, .. } = self;
        write!(formatter, "warm start from {}: {} items taken over, {} new", run.display(), items.kept, items.new)?;
        if user_values.kept + user_values.new + item_values.kept + item_values.new > 0 {
            let (kept, new) = (user_values.kept + item_values.kept, user_values.new + item_values.new);
            write!(formatter, "; feature values {kept}, {new} new")?;
        }
        match users {
            Some(users) => write!(formatter, "; users {}, {} new", users.kept, users.new),
            None => Ok(()),
        }
    }
}

/// A run whose parameters are to be taken over.
#[derive(Debug)]
pub struct Source {
    dir: PathBuf,
    config: Config,
    info: RunInfo,
    weights: WeightsInfo,
    tensors: BTreeMap<String, NamedTensor>,
    vocabulary: Vocabulary,
}

/// Which rows of the source are which rows of a new model, by tensor.
#[derive(Debug)]
pub struct Plan {
    items: Vec<Option<u32>>,
    users: Vec<Option<u32>>,
    user_values: Vec<Option<u32>>,
    item_values: Vec<Option<u32>>,
    user_dense: Vec<Option<u32>>,
    item_dense: Vec<Option<u32>>,
}

/// A setting of `[model]` that gives parameters their shape or meaning, with the parameters it is about.
const SHAPING: [(&str, &str); 15] = [
    ("dim", "towers.start and every table"),
    ("encoder", "towers.attention and towers.transformer"),
    ("layers", "towers.transformer"),
    ("heads", "towers.transformer"),
    ("feed_forward", "towers.transformer"),
    ("shared_table", "tables.history"),
    ("bias", "tables.bias"),
    ("normalise", "towers.log_scale"),
    ("item_id", "tables.items"),
    ("user_id", "tables.users"),
    ("user_features", "tables.user_features"),
    ("item_features", "tables.item_features"),
    ("history_length", "towers.length"),
    ("hidden", "towers.user_residual and towers.item_residual"),
    ("hash_buckets", "tables.items"),
];

impl Source {
    /// Opens a run and reads its best parameters.
    ///
    /// # Errors
    /// [`Error::Data`] naming the file that is missing or damaged.
    pub fn open(dir: &std::path::Path) -> Result<Self> {
        let (config, info) = run::read_records(dir)?;
        let best = dir.join("best");
        if !best.exists() {
            return Err(Error::data(dir, "holds no trained model yet (no best/), so nothing can start from it"));
        }
        let weights = Manifest::<WeightsInfo>::open(&best, WEIGHTS_MAGIC, VERSION)?.body;
        let tensors = tensor_file::read(&best.join(WEIGHTS_FILE))?;
        let vocabulary = run::read_vocabulary(dir, &info, config.model.user_id)?;
        Ok(Self { dir: dir.to_path_buf(), config, info, weights, tensors, vocabulary })
    }

    /// Checks that a model of `config` on `dataset` may start from this run.
    ///
    /// # Errors
    /// [`Error::Input`] naming the setting that differs and the parameters it is about, or the leak there would be.
    pub fn check(&self, config: &Config, dataset: &DatasetInfo) -> Result<()> {
        let settings = |config: &Config| {
            serde_json::to_value(&config.model).map_err(|error| Error::Internal(format!("configuration: {error}")))
        };
        let (there, here) = (settings(&self.config)?, settings(config)?);
        let is_off = |key: &str| match key {
            "layers" | "heads" | "feed_forward" => there["encoder"] != "transformer",
            _ => false,
        };
        let hashes = ("hashes", "tables.items");
        let hashed = if config.model.hash_buckets > 0 { Some(hashes) } else { None };
        for (key, tensors) in SHAPING.into_iter().chain(hashed).filter(|(key, _)| !is_off(key)) {
            if there[key] != here[key] {
                return Err(self.unfit(&format!(
                    "model.{key} is {} there and {} here, so {tensors} can't be taken over",
                    plain(&there[key]),
                    plain(&here[key])
                )));
            }
        }
        self.check_split(dataset)
    }

    /// What this run was trained on must not be held out now.
    fn check_split(&self, dataset: &DatasetInfo) -> Result<()> {
        let (there, here) = (&self.info.dataset.split, &dataset.split);
        let leak = match (there.cutoff_ms, here.cutoff_ms) {
            _ if there.hash == here.hash || here.kind == "none" => None,
            (Some(there), Some(here)) if there <= here => None,
            (Some(_), Some(_)) => Some("its training part ends later than this dataset's".to_owned()),
            _ if there.kind == "leave-last-out" && here.kind == "leave-last-out" => None,
            _ => Some(format!("its split is another one ({}, here {})", there.parameters, here.parameters)),
        };
        match leak {
            None => Ok(()),
            Some(leak) => Err(self.unfit(&format!("{leak}, so it may have seen what is held out here"))),
        }
    }

    fn unfit(&self, why: &str) -> Error {
        Error::input(format!(
            "can't start from {}: {why}; train without --warm-start, or as that run was",
            self.dir.display()
        ))
    }

    /// Finds the rows for a model of `info` on `dataset`. The numeric features of `info` get this run's bins.
    ///
    /// # Errors
    /// As [`Dataset::items`]; [`Error::Input`] if hashed rows stand for other items than they did.
    pub fn plan(&self, config: &Config, info: &mut RunInfo, dataset: &Dataset) -> Result<(Plan, WarmedFrom)> {
        let items = find(&dataset.items()?.ids, &self.vocabulary.items);
        let moved = items.iter().enumerate().filter(|(row, old)| old.is_some_and(|old| old as usize != *row)).count();
        if config.model.hash_buckets > 0 && moved > 0 {
            return Err(self.unfit(&format!(
                "{moved} items have another place in the dataset than there, and with model.hash_buckets tables.items goes by \
                 place"
            )));
        }
        let user_ids = if config.model.user_id { Some(dataset.users()?.ids) } else { None };
        let mut users = Vec::new();
        if let (Some(here), Some(there)) = (&user_ids, &self.vocabulary.users) {
            users = find(here, there);
        }
        let taken_users = user_ids.map(|_| Taken::count(&users));
        // The last row stands for everyone without training events, there as here.
        users.push(Some(self.info.shape().users as u32));
        let plan = Plan {
            user_dense: info.users.keep_bins(&self.info.users),
            item_dense: info.items.keep_bins(&self.info.items),
            user_values: info.users.ids_in(&self.info.users),
            item_values: info.items.ids_in(&self.info.items),
            items,
            users,
        };
        let warmed = WarmedFrom {
            run: std::path::absolute(&self.dir).map_err(Error::io(&self.dir))?,
            dataset_fingerprint: self.info.dataset_fingerprint.clone(),
            weights: self.weights.clone(),
            items: Taken::count(&plan.items),
            user_values: Taken::count(&plan.user_values),
            item_values: Taken::count(&plan.item_values),
            users: taken_users,
        };
        Ok((plan, warmed))
    }

    /// Puts the parameters that `plan` names into a fresh model, with `memory` of Adagrad's memory.
    ///
    /// # Errors
    /// [`Error::Data`] naming the parameter that does not fit after all.
    pub fn take_over(&self, model: &mut TwoTower, plan: &Plan, memory: f64) -> Result<()> {
        let is_hashed = model.row_map() != RowMap::Identity;
        let mut tensors: BTreeMap<String, NamedTensor> =
            model.state(true)?.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
        for (name, tensor) in &mut tensors {
            let Some(old) = self.tensors.get(name) else {
                // Weights that were written without the optimiser's memory; features that there were none of.
                if name.ends_with(".accumulators") || name.contains("_features") {
                    continue;
                }
                return Err(self.misfit(name, "is missing"));
            };
            let rows = match name.as_str() {
                "towers.user_features.dense" => Some(&plan.user_dense),
                "towers.item_features.dense" => Some(&plan.item_dense),
                _ => match name.split('.').nth(1) {
                    Some("items" | "history") if !is_hashed => Some(&plan.items),
                    Some("bias") => Some(&plan.items),
                    Some("user_features") => Some(&plan.user_values),
                    Some("item_features") => Some(&plan.item_values),
                    Some("users") => Some(&plan.users),
                    _ => None,
                },
            };
            let factor = if name.ends_with(".accumulators") { memory as f32 } else { 1.0 };
            match rows {
                None if old.shape == tensor.shape => copy(&old.values, &mut tensor.values, factor),
                None => {
                    let shapes = format!("has shape {:?}, the model needs {:?}", old.shape, tensor.shape);
                    return Err(self.misfit(name, &shapes));
                }
                Some(rows) => {
                    let width: usize = tensor.shape[1..].iter().product();
                    if tensor.shape[0] != rows.len() || old.shape[1..] != tensor.shape[1..] {
                        return Err(self.misfit(name, &format!("has rows of shape {:?}", &old.shape[1..])));
                    }
                    for (row, old_row) in rows.iter().enumerate() {
                        let Some(old_row) = old_row.map(|old_row| old_row as usize) else { continue };
                        let Some(values) = old.values.get(old_row * width..(old_row + 1) * width) else {
                            return Err(self.misfit(name, &format!("has no row {old_row}")));
                        };
                        copy(values, &mut tensor.values[row * width..(row + 1) * width], factor);
                    }
                }
            }
        }
        model.restore(&tensors)
    }

    fn misfit(&self, tensor: &str, what: &str) -> Error {
        Error::data(self.dir.join("best").join(WEIGHTS_FILE), format!("{tensor:?} {what}: another model's parameters"))
    }
}

fn copy(from: &[f32], to: &mut [f32], factor: f32) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = factor * from;
    }
}

/// For every id of `here` its row `there`.
fn find(here: &IdMap, there: &IdMap) -> Vec<Option<u32>> {
    here.ids().iter().map(|id| there.get(id)).collect()
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
