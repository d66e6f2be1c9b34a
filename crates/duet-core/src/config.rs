//! TOML to a validated training configuration.
//!
//! Three layers, later ones win key by key: the compiled-in `configs/default.toml`, a config file, `--set key=value`. The
//! default file holds every key, so the set of valid keys is the set of its keys, and an unknown one is an error that lists
//! what would be valid. The resolved configuration is saved with each run and read back by everything that uses the run.

use std::path::Path;

use fs_err as fs;
use serde::{Deserialize, Serialize};

use crate::{Error, Result, layers};

/// The commented default configuration.
pub const DEFAULT: &str = include_str!("../../../configs/default.toml");

/// A resolved, validated configuration; see `configs/default.toml` for what each key means.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "configs/default.toml documents every key")]
pub struct Config {
    pub data: DataConfig,
    pub model: ModelConfig,
    pub loss: LossConfig,
    pub train: TrainConfig,
    pub index: IndexConfig,
    pub fallback: FallbackConfig,
    pub reranker: RerankerConfig,
}

/// `[data]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "configs/default.toml documents every key")]
pub struct DataConfig {
    pub window: usize,
    pub objective: Objective,
    pub future_items: usize,
    pub position_fraction: f64,
    pub keep_fraction: [f64; 2],
    pub history_dropout: f64,
    pub recency_half_life_days: f64,
    pub use_event_weights: bool,
    pub new_items_only: bool,
    pub validation: Validation,
    pub validation_fraction: f64,
    pub validation_users: usize,
}

/// How training examples are made from a user's items.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Objective {
    /// The items before a position predict those after it.
    Next,
    /// A random part of the items predicts all of them.
    Masked,
}

/// How the validation part is cut from the training events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "configs/default.toml documents every value")]
pub enum Validation {
    Auto,
    None,
    LeaveLastOut,
    GlobalTime,
    Random,
}

/// `[model]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "configs/default.toml documents every key")]
pub struct ModelConfig {
    pub dim: usize,
    pub encoder: Encoder,
    pub half_life: f64,
    pub pooling_power: f64,
    pub layers: usize,
    pub heads: usize,
    pub feed_forward: usize,
    pub add_mean: bool,
    pub shared_table: bool,
    pub bias: bool,
    pub bias_init: f64,
    pub trend_weight: f64,
    pub trend_half_life_days: f64,
    pub normalise: bool,
    pub item_id: bool,
    pub user_id: bool,
    pub user_features: bool,
    pub item_features: bool,
    pub history_length: bool,
    pub feature_dropout: f64,
    pub hidden: usize,
    pub dropout: f64,
    pub id_dropout: f64,
    pub hash_buckets: usize,
    pub hashes: usize,
    pub init_deviation: f64,
    pub placement: Placement,
    pub device_budget: usize,
}

/// Where the embedding tables lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "configs/default.toml documents every value")]
pub enum Placement {
    Auto,
    Device,
    Host,
}

/// The history encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "configs/default.toml documents every value")]
pub enum Encoder {
    Mean,
    Attention,
    Transformer,
}

/// `[loss]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "configs/default.toml documents every key")]
pub struct LossConfig {
    pub candidates: CandidateSource,
    pub uniform_negatives: usize,
    pub popularity_negatives: usize,
    pub logq: bool,
    pub logq_positives: bool,
    pub mask_history: bool,
    pub temperature: f64,
    pub temperature_bounds: [f64; 2],
    pub learn_temperature: bool,
}

/// Which items a training step ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "configs/default.toml documents every value")]
pub enum CandidateSource {
    Auto,
    Catalogue,
    Sampled,
}

/// `[train]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "configs/default.toml documents every key")]
pub struct TrainConfig {
    pub epochs: usize,
    pub warm_epochs: usize,
    pub warm_memory: f64,
    pub batch_windows: usize,
    pub tower_rate: f64,
    pub table_rate: f64,
    pub feature_rate: f64,
    pub weight_decay: f64,
    pub warmup_steps: usize,
    pub clip_norm: f64,
    pub validate_every: usize,
    pub patience: usize,
    pub refit: bool,
    pub seed: u64,
    pub log_every: usize,
    pub checkpoint_minutes: f64,
}

/// `[index]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "configs/default.toml documents every key")]
pub struct IndexConfig {
    pub kind: IndexKind,
    pub lists: usize,
    pub recall_floor: f64,
    pub recall_users: usize,
}

/// The search structure of a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "configs/default.toml documents every value")]
pub enum IndexKind {
    Auto,
    Exact,
    Ivf,
}

/// `[fallback]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "configs/default.toml documents every key")]
pub struct FallbackConfig {
    pub trending_days: f64,
}

/// `[reranker]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "configs/default.toml documents every key")]
pub struct RerankerConfig {
    pub examples: RerankerExamples,
    pub objective: RerankerObjective,
    pub candidates: usize,
    pub max_examples: usize,
    pub trees: usize,
    pub leaves: usize,
    pub learning_rate: f64,
    pub leaf_examples: usize,
    pub l2: f64,
}

/// What the trees of the re-ranker learn from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "configs/default.toml documents every value")]
pub enum RerankerExamples {
    Auto,
    Impressions,
    Candidates,
}

/// What the trees of the re-ranker are fitted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "configs/default.toml documents every value")]
pub enum RerankerObjective {
    Binary,
    Lambda,
}

impl Config {
    /// Resolves a configuration from TOML texts (each with the name used in messages) and `key=value` settings.
    ///
    /// # Errors
    /// [`Error::Input`] naming the text or setting and what would be valid.
    pub fn resolve(texts: &[(&str, &str)], settings: &[String]) -> Result<Self> {
        let config: Self = layers::resolve(("configs/default.toml", DEFAULT), texts, settings)?;
        config.validate()?;
        Ok(config)
    }

    /// This configuration with the tables where `other` has them: they may lie elsewhere when a run is resumed.
    #[must_use]
    pub fn placed_as(mut self, other: &Self) -> Self {
        self.model.placement = other.model.placement;
        self.model.device_budget = other.model.device_budget;
        self
    }

    /// Reads a configuration file and resolves it with `settings`.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Input`].
    pub fn load(path: &Path, settings: &[String]) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(Error::io(path))?;
        Self::resolve(&[(&path.display().to_string(), &text)], settings)
    }

    /// The whole configuration as TOML.
    ///
    /// # Errors
    /// [`Error::Internal`] if it can't be written as TOML.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|error| Error::Internal(format!("configuration: {error}")))
    }

    fn validate(&self) -> Result<()> {
        let Self { data, model, loss, train, index, fallback, reranker } = self;
        let check = |ok: bool, key: &str, valid: &str| {
            if ok { Ok(()) } else { Err(Error::input(format!("configuration: {key} must be {valid}"))) }
        };
        let share = |value: f64| (0.0..=1.0).contains(&value);
        let probability = |value: f64| (0.0..1.0).contains(&value);
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let not_negative = |value: f64| value.is_finite() && value >= 0.0;
        check((1..=4096).contains(&data.window), "data.window", "between 1 and 4096")?;
        check(data.future_items >= 1, "data.future_items", "at least 1")?;
        check(
            share(data.position_fraction) && data.position_fraction > 0.0,
            "data.position_fraction",
            "above 0 and at most 1",
        )?;
        let [least, greatest] = data.keep_fraction;
        check(
            least <= greatest && share(least) && share(greatest),
            "data.keep_fraction",
            "two shares, the lesser first",
        )?;
        check(probability(data.history_dropout), "data.history_dropout", "at least 0 and below 1")?;
        check(not_negative(data.recency_half_life_days), "data.recency_half_life_days", "at least 0")?;
        check(
            probability(data.validation_fraction) && data.validation_fraction > 0.0,
            "data.validation_fraction",
            "between 0 and 1",
        )?;
        check((1..=4096).contains(&model.dim), "model.dim", "between 1 and 4096")?;
        check(not_negative(model.half_life), "model.half_life", "at least 0")?;
        check(share(model.pooling_power), "model.pooling_power", "between 0 and 1")?;
        check(model.layers >= 1, "model.layers", "at least 1")?;
        check(
            model.heads >= 1 && model.dim.is_multiple_of(model.heads),
            "model.heads",
            &format!("at least 1 and a divisor of model.dim ({})", model.dim),
        )?;
        check(model.feed_forward >= 1, "model.feed_forward", "at least 1")?;
        check(model.item_id || model.item_features, "model.item_id", "true, or else model.item_features")?;
        check(probability(model.dropout), "model.dropout", "at least 0 and below 1")?;
        check(share(model.feature_dropout), "model.feature_dropout", "between 0 and 1")?;
        check(probability(model.id_dropout), "model.id_dropout", "at least 0 and below 1")?;
        check((1..=8).contains(&model.hashes), "model.hashes", "between 1 and 8")?;
        check(model.hash_buckets <= u32::MAX as usize, "model.hash_buckets", "below 2^32")?;
        check(not_negative(model.init_deviation), "model.init_deviation", "at least 0")?;
        check(not_negative(model.bias_init), "model.bias_init", "at least 0")?;
        check(
            not_negative(model.trend_weight) && (model.bias || model.trend_weight == 0.0),
            "model.trend_weight",
            "at least 0, and 0 without model.bias",
        )?;
        check(positive(model.trend_half_life_days), "model.trend_half_life_days", "positive")?;
        let [coldest, hottest] = loss.temperature_bounds;
        check(
            positive(coldest) && coldest <= loss.temperature && loss.temperature <= hottest && hottest.is_finite(),
            "loss.temperature",
            "positive and within loss.temperature_bounds",
        )?;
        check(train.epochs >= 1, "train.epochs", "at least 1")?;
        check(train.warm_epochs >= 1, "train.warm_epochs", "at least 1")?;
        check(share(train.warm_memory), "train.warm_memory", "between 0 and 1")?;
        check(train.batch_windows >= 1, "train.batch_windows", "at least 1")?;
        check(positive(train.tower_rate), "train.tower_rate", "positive")?;
        check(positive(train.table_rate), "train.table_rate", "positive")?;
        check(positive(train.feature_rate), "train.feature_rate", "positive")?;
        check(not_negative(train.weight_decay), "train.weight_decay", "at least 0")?;
        check(not_negative(train.clip_norm), "train.clip_norm", "at least 0")?;
        check(train.validate_every >= 1, "train.validate_every", "at least 1")?;
        check(train.patience >= 1, "train.patience", "at least 1")?;
        check(train.log_every >= 1, "train.log_every", "at least 1")?;
        check(not_negative(train.checkpoint_minutes), "train.checkpoint_minutes", "at least 0")?;
        check(share(index.recall_floor), "index.recall_floor", "between 0 and 1")?;
        check(index.recall_users >= 1, "index.recall_users", "at least 1")?;
        check(positive(fallback.trending_days), "fallback.trending_days", "positive")?;
        check((1..=10_000).contains(&reranker.candidates), "reranker.candidates", "between 1 and 10000")?;
        check(reranker.max_examples >= 1000, "reranker.max_examples", "at least 1000")?;
        check((1..=10_000).contains(&reranker.trees), "reranker.trees", "between 1 and 10000")?;
        check((2..=1024).contains(&reranker.leaves), "reranker.leaves", "between 2 and 1024")?;
        check(
            share(reranker.learning_rate) && reranker.learning_rate > 0.0,
            "reranker.learning_rate",
            "above 0 and at most 1",
        )?;
        check(reranker.leaf_examples >= 1, "reranker.leaf_examples", "at least 1")?;
        check(not_negative(reranker.l2), "reranker.l2", "at least 0")
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn resolve(text: &str, settings: &[&str]) -> Result<Config> {
        let settings: Vec<String> = settings.iter().map(|&setting| setting.to_owned()).collect();
        Config::resolve(&[("test.toml", text)], &settings)
    }

    #[test]
    fn later_layers_win_and_the_result_survives_a_round_trip() {
        let config = resolve(
            "[model]\ndim = 32\nhidden = 8",
            &["model.dim=128", "model.encoder=attention", "train.table_rate=1"],
        )
        .unwrap();
        assert_eq!((config.model.dim, config.model.hidden), (128, 8));
        assert_eq!(config.model.encoder, Encoder::Attention);
        assert_eq!(config.train.table_rate, 1.0);
        assert_eq!((config.model.placement, config.model.device_budget), (Placement::Auto, 0));
        assert_eq!(resolve(&config.to_toml().unwrap(), &[]).unwrap(), config);
    }

    #[test]
    fn errors_say_what_would_be_valid() {
        let message = |text: &str, settings: &[&str]| resolve(text, settings).unwrap_err().to_string();
        let error = message("[model]\ndims = 32", &[]);
        assert!(error.contains("test.toml") && error.contains("model.dims") && error.contains("model.dim,"), "{error}");
        let error = message("", &["model.encoder=lstm"]);
        assert!(error.contains("lstm") && error.contains("transformer"), "{error}");
        assert!(message("", &["model.dim=wide"]).contains("must be an integer"));
        assert!(message("", &["model.dim"]).contains("key=value"));
        assert!(message("", &["model.dim=0"]).contains("between 1 and 4096"));
        assert!(message("", &["model.heads=7"]).contains("divisor of model.dim (64)"));
        assert!(message("", &["model.placement=disk"]).contains("device"));
        assert!(message("", &["model.device_budget=8GB"]).contains("must be an integer"));
        assert!(message("", &["loss.temperature=5"]).contains("temperature_bounds"));
        assert!(message("[model", &[]).contains("test.toml"));
    }
}
