//! The run directory: what training leaves behind and everything after it reads.
//!
//! ```text
//! RUN/config.toml       the resolved configuration
//! RUN/run.json          which dataset, which encoders (a `duet-run` record)
//! RUN/metrics.jsonl     one line every `train.log_every` steps, one a validation
//! RUN/checkpoint/       everything needed to go on (a `duet-checkpoint` artifact)
//! RUN/best/             the parameters of the best epoch, with Adagrad's memory (a `duet-weights` artifact)
//! RUN/searched/         the parameters of the best epoch before a refit: they have not seen the validation part (a `duet-weights` artifact)
//! RUN/reranker/         the trees of `rerank` (a `duet-reranker` artifact)
//! RUN/vocabulary/       the ids of the dataset's items (and users, where the model knows them) (a `duet-vocabulary` artifact)
//! ```

use std::path::{Path, PathBuf};

use duet_core::{
    Error, Result,
    artifact::{self, DirWriter, IfExists, Manifest, link_file},
    config::Config,
    encoding::{EncodedTable, TableEncoder},
    ids::IdMap,
};
use duet_data::dataset::{Dataset, DatasetInfo};
use duet_model::{
    device::{DeviceChoice, OpenDevice},
    model::{DataShape, TwoTower},
    tensor_file::{self, NamedTensor},
};
use fs_err as fs;
use serde::{Deserialize, Serialize};

use crate::warm_start::WarmedFrom;

/// Magic of `run.json`.
pub const MAGIC: &str = "duet-run";
/// Magic of `best/`.
pub const WEIGHTS_MAGIC: &str = "duet-weights";
/// Format version of run directories.
pub const VERSION: u32 = 1;

/// The file of parameters in `best/`, `checkpoint/` and bundles.
pub const WEIGHTS_FILE: &str = "weights.safetensors";

const VOCABULARY_MAGIC: &str = "duet-vocabulary";
const VOCABULARY_DIR: &str = "vocabulary";
/// The dataset's tables, as the dataset names them.
const ITEMS_FILE: &str = "items.parquet";
const USERS_FILE: &str = "users.parquet";

/// What a refit replaced in `best/`.
const SEARCHED_DIR: &str = "searched";

const RUN_FILE: &str = "run.json";
const CONFIG_FILE: &str = "config.toml";

/// What a run was made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunInfo {
    /// Where the dataset lay.
    pub dataset_dir: PathBuf,
    /// Its fingerprint: vectors can only be made from the same one.
    pub dataset_fingerprint: String,
    /// Its description.
    pub dataset: DatasetInfo,
    /// Encoder of user features.
    pub users: TableEncoder,
    /// Encoder of item features.
    pub items: TableEncoder,
    /// The run whose parameters it began with, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warmed_from: Option<WarmedFrom>,
}

impl RunInfo {
    /// The sizes the model is built for. Tables that the configuration leaves out count as absent.
    pub fn shape(&self) -> DataShape {
        DataShape {
            users: self.dataset.counts.users as usize,
            items: self.dataset.counts.items as usize,
            user_vocabulary: self.users.vocabulary_size(),
            user_dense: self.users.dense_width(),
            item_vocabulary: self.items.vocabulary_size(),
            item_dense: self.items.dense_width(),
        }
    }

    /// Encoded features of all users and items of the dataset; the users have one more row, in which everything is missing.
    ///
    /// # Errors
    /// As [`Dataset::users`] and [`TableEncoder::encode`].
    pub fn encode(&self, dataset: &Dataset) -> Result<(EncodedTable, EncodedTable)> {
        let mut users = self.users.encode(&dataset.users()?)?;
        users.append(&self.users.missing_row());
        Ok((users, self.items.encode(&dataset.items()?)?))
    }
}

/// What is known of the parameters in `best/`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WeightsInfo {
    /// Epochs trained.
    pub epoch: usize,
    /// NDCG@10 on the validation part, where there was one.
    pub validation_ndcg: Option<f64>,
    /// Whether the parameters were trained on all events, the validation part included.
    pub refitted: bool,
}

/// A run that was opened for use.
#[derive(Debug)]
pub struct Run {
    /// Where it lies.
    pub dir: PathBuf,
    /// Its configuration.
    pub config: Config,
    /// What it was made from.
    pub info: RunInfo,
    /// The parameters of the best epoch.
    pub model: TwoTower,
    /// What is known of them.
    pub weights: WeightsInfo,
}

impl Run {
    /// Opens a run and loads its best parameters.
    ///
    /// # Errors
    /// [`Error::Data`] naming the file that is missing, damaged or of another kind.
    pub fn open(dir: &Path, device: DeviceChoice) -> Result<Self> {
        let (config, info) = read_records(dir)?;
        let best = dir.join("best");
        if !best.exists() {
            return Err(Error::data(dir, "holds no trained model yet (no best/); let training finish an epoch"));
        }
        let manifest = Manifest::<WeightsInfo>::open(&best, WEIGHTS_MAGIC, VERSION)?;
        let model = load_model(&best.join(WEIGHTS_FILE), &config, &info, &device.open()?)?;
        Ok(Self { dir: dir.to_path_buf(), config, info, model, weights: manifest.body })
    }

    /// The parameters that have not seen the validation part, with the epochs they were trained.
    ///
    /// # Errors
    /// [`Error::Input`] if there are none: the run was trained without a validation part, or an earlier duet refitted it.
    pub fn unseen_model(&self, device: DeviceChoice) -> Result<TwoTower> {
        let none = |why: &str| {
            Err(Error::input(format!(
                "{} {why}, so no parameters are left that have not seen the events to learn from; train it with a validation part \
                 (data.validation, without --warm-start)",
                self.dir.display()
            )))
        };
        if self.weights.validation_ndcg.is_none() {
            return none("was trained without a validation part");
        }
        let dir = self.dir.join(if self.weights.refitted { SEARCHED_DIR } else { "best" });
        if !dir.exists() {
            return none("was refitted by an earlier duet, which kept nothing of the search");
        }
        Manifest::<WeightsInfo>::open(&dir, WEIGHTS_MAGIC, VERSION)?;
        load_model(&dir.join(WEIGHTS_FILE), &self.config, &self.info, &device.open()?)
    }

    /// Opens the dataset the run was trained on, where it lay or at `other_place`.
    ///
    /// # Errors
    /// [`Error::Data`] if it is not there, damaged, or another dataset.
    pub fn dataset(&self, other_place: Option<&Path>) -> Result<Dataset> {
        let place = other_place.unwrap_or(&self.info.dataset_dir);
        let dataset = Dataset::open(place)?;
        if dataset.fingerprint != self.info.dataset_fingerprint {
            return Err(Error::data(
                place,
                format!("this is not the dataset that {} was trained on (another fingerprint)", self.dir.display()),
            ));
        }
        Ok(dataset)
    }
}

/// Builds a model and loads its parameters from `path`.
///
/// # Errors
/// [`Error::Data`] naming the file, if it is not a tensor file or belongs to another model.
pub fn load_model(path: &Path, config: &Config, info: &RunInfo, device: &OpenDevice) -> Result<TwoTower> {
    let tensors = tensor_file::read(path)?;
    let mut model = TwoTower::unset(&config.model, &config.loss, info.shape(), device);
    model.restore(&tensors).map_err(|error| Error::data(path, error.to_string()))?;
    Ok(model)
}

/// Reads `config.toml` and `run.json`.
///
/// # Errors
/// [`Error::Data`] naming the file.
pub fn read_records(dir: &Path) -> Result<(Config, RunInfo)> {
    let path = dir.join(RUN_FILE);
    if !path.exists() {
        return Err(Error::data(dir, format!("not a run: it holds no {RUN_FILE}")));
    }
    let manifest = Manifest::<RunInfo>::read(&path, MAGIC, VERSION)?;
    manifest.verify(dir)?;
    Ok((Config::load(&dir.join(CONFIG_FILE), &[])?, manifest.body))
}

/// Starts a run directory.
///
/// # Errors
/// [`Error::Io`] with the path.
pub fn write_records(dir: &Path, config: &Config, info: &RunInfo) -> Result<()> {
    fs::create_dir_all(dir).map_err(Error::io(dir))?;
    artifact::write_file(&dir.join(CONFIG_FILE), config.to_toml()?.as_bytes())?;
    artifact::write_manifest(&dir.join(RUN_FILE), MAGIC, VERSION, &[CONFIG_FILE], info)
}

/// The external ids that the rows of a run's tables stand for.
#[derive(Debug)]
pub struct Vocabulary {
    /// Rows of the item tables.
    pub items: IdMap,
    /// Rows of the users table, where the model has one.
    pub users: Option<IdMap>,
}

/// Keeps the ids of a dataset in a run: another run may start from this one when the dataset is long gone. Hard links, where the
/// file system can.
///
/// # Errors
/// [`Error::Io`] with the path.
pub fn write_vocabulary(dir: &Path, dataset: &Dataset, with_users: bool) -> Result<()> {
    let writer = DirWriter::create(&dir.join(VOCABULARY_DIR), IfExists::Replace)?;
    for name in [Some(ITEMS_FILE), with_users.then_some(USERS_FILE)].into_iter().flatten() {
        link_file(&dataset.dir.join(name), &writer.path(name))?;
    }
    writer.publish(VOCABULARY_MAGIC, VERSION, &dataset.fingerprint)?;
    Ok(())
}

/// Reads what [`write_vocabulary`] wrote.
///
/// # Errors
/// [`Error::Data`] naming the file that is missing or damaged.
pub fn read_vocabulary(dir: &Path, info: &RunInfo, with_users: bool) -> Result<Vocabulary> {
    let place = dir.join(VOCABULARY_DIR);
    if !place.exists() {
        let message =
            "keeps no ids of its items (an earlier duet made it), so nothing can start from it; train it again";
        return Err(Error::data(dir, message));
    }
    Manifest::<String>::open(&place, VOCABULARY_MAGIC, VERSION)?;
    let tables = Dataset { dir: place, info: info.dataset.clone(), fingerprint: info.dataset_fingerprint.clone() };
    let users = if with_users { Some(tables.users()?.ids) } else { None };
    Ok(Vocabulary { items: tables.items()?.ids, users })
}

/// Empties a run directory for a new run. What duet did not write makes it refuse: nothing of it is touched then.
///
/// # Errors
/// [`Error::Input`] naming what duet did not write; [`Error::Io`] with the path.
pub fn remove(dir: &Path) -> Result<()> {
    const FILES: [&str; 3] = [crate::metrics_log::FILE, RUN_FILE, CONFIG_FILE];
    const ARTIFACTS: [&str; 6] =
        ["checkpoint", "best", SEARCHED_DIR, crate::reranker::DIR, VOCABULARY_DIR, "evaluation"];
    for entry in fs::read_dir(dir).map_err(Error::io(dir))? {
        let name = entry.map_err(Error::io(dir))?.file_name().to_string_lossy().into_owned();
        let is_ours =
            FILES.iter().chain(&ARTIFACTS).any(|part| name == *part || name.starts_with(&format!(".{part}.")));
        if !is_ours {
            return Err(Error::input(format!(
                "{} holds {name}, which training did not write, so it is not replaced; move it away or give another place",
                dir.display()
            )));
        }
    }
    for name in ARTIFACTS {
        artifact::remove(&dir.join(name))?;
    }
    for name in FILES {
        let path = dir.join(name);
        if path.exists() {
            fs::remove_file(&path).map_err(Error::io(&path))?;
        }
    }
    Ok(())
}

/// Keeps `best/` as `searched/` before a refit replaces it. Hard links, where the file system can.
///
/// # Errors
/// [`Error::Io`] with the path; [`Error::Data`] if `best/` is damaged.
pub fn keep_searched(dir: &Path) -> Result<()> {
    let best = dir.join("best");
    if !best.exists() {
        return Ok(());
    }
    let manifest = Manifest::<WeightsInfo>::open(&best, WEIGHTS_MAGIC, VERSION)?;
    // A training that was killed after it had replaced `best/` comes here again.
    if manifest.body.refitted {
        return Ok(());
    }
    let writer = DirWriter::create(&dir.join(SEARCHED_DIR), IfExists::Replace)?;
    link_file(&best.join(WEIGHTS_FILE), &writer.path(WEIGHTS_FILE))?;
    writer.publish(WEIGHTS_MAGIC, VERSION, &manifest.body)?;
    Ok(())
}

/// Publishes parameters as `best/`.
///
/// # Errors
/// [`Error::Io`] with the path; the old `best/` stays then.
pub fn write_best(dir: &Path, tensors: &[NamedTensor], info: &WeightsInfo) -> Result<()> {
    let writer = DirWriter::create(&dir.join("best"), IfExists::Replace)?;
    tensor_file::write(&writer.path(WEIGHTS_FILE), tensors)?;
    writer.publish(WEIGHTS_MAGIC, VERSION, info)?;
    Ok(())
}
