//! The trees on disk: `RUN/reranker/` and `BUNDLE/reranker/`.

use std::path::{Path, PathBuf};

use duet_core::{
    Error, Result,
    artifact::{DirWriter, IfExists, MANIFEST, Manifest},
    config::RerankerConfig,
};
use duet_retrieval::rerank::Forest;
use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::features::Feature;
use crate::run::WeightsInfo;

/// Magic of the manifest.
pub const MAGIC: &str = "duet-reranker";
/// Format version this build writes and reads.
pub const VERSION: u32 = 1;
/// The directory in a run or a bundle.
pub const DIR: &str = "reranker";
const TREES: &str = "trees.bin";

/// The manifest's body.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RerankerInfo {
    /// Fingerprint of the dataset.
    pub dataset_fingerprint: String,
    /// The parameters of the run whose candidates are put in order.
    pub weights: WeightsInfo,
    /// How the trees were made.
    pub config: RerankerConfig,
    /// What they learned from: "impressions" or "candidates".
    pub examples: String,
    /// Examples, those held out aside.
    pub rows: usize,
    /// Wanted ones among them.
    pub positives: usize,
    /// Lists they stand in.
    pub lists: usize,
    /// Whether followers were known at the time of the examples; else they are left out.
    pub with_followers: bool,
    /// Trees kept.
    pub trees: usize,
    /// NDCG@10 of the lists of users who were held out, by the model's score and by the trees.
    pub held_out: Option<HeldOut>,
    /// The features of a row, in order, with the gain of their splits.
    pub features: Vec<FeatureGain>,
}

/// What the trees do for users they have not seen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct HeldOut {
    /// Lists with something wanted.
    pub lists: usize,
    /// NDCG@10 by the model's score.
    pub model_ndcg: f64,
    /// NDCG@10 by the trees. As many trees are kept as are best here, so it flatters a little.
    pub trees_ndcg: f64,
}

/// A feature and how much the trees gained by it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FeatureGain {
    /// The feature.
    #[serde(flatten)]
    pub feature: Feature,
    /// Sum of the gains of its splits.
    pub gain: f64,
}

/// Trees with what is known of them.
#[derive(Debug, Clone)]
pub struct SavedTrees {
    /// Where they lie.
    pub dir: PathBuf,
    /// The manifest's body.
    pub info: RerankerInfo,
    /// The trees.
    pub forest: Forest,
}

impl SavedTrees {
    /// Publishes trees as `run/reranker/`, in place of older ones.
    ///
    /// # Errors
    /// [`Error::Io`] with the path.
    pub(super) fn write(run: &Path, info: &RerankerInfo, forest: &Forest) -> Result<PathBuf> {
        let writer = DirWriter::create(&run.join(DIR), IfExists::Replace)?;
        forest.save(&writer.path(TREES))?;
        writer.publish(MAGIC, VERSION, info)
    }

    /// Reads the trees of a run or a bundle; `None` if it has none.
    ///
    /// # Errors
    /// [`Error::Data`] naming the file that is damaged, or if the trees were made for another dataset or other parameters.
    pub fn open(place: &Path, fingerprint: &str, weights: &WeightsInfo) -> Result<Option<Self>> {
        let dir = place.join(DIR);
        if !dir.exists() {
            return Ok(None);
        }
        let info = Manifest::<RerankerInfo>::open(&dir, MAGIC, VERSION)?.body;
        let other = |what: &str| Err(Error::data(&dir, format!("was made for {what}; run `duet rerank` again")));
        if info.dataset_fingerprint != fingerprint {
            return other("another dataset");
        }
        if info.weights != *weights {
            return other("other parameters of the model");
        }
        let forest = Forest::load(&dir.join(TREES))?;
        if forest.features() != info.features.len() {
            return Err(Error::data(
                dir.join(TREES),
                format!("trees over {} features, {MANIFEST} names {}", forest.features(), info.features.len()),
            ));
        }
        Ok(Some(Self { dir, info, forest }))
    }

    /// Refuses features that are not those the trees were made with.
    pub(super) fn check(&self, features: &[Feature]) -> Result<()> {
        let same = features.len() == self.info.features.len()
            && features.iter().zip(&self.info.features).all(|(now, then)| now.name == then.feature.name);
        if same {
            return Ok(());
        }
        let names: Vec<&str> = features.iter().map(|feature| feature.name.as_str()).collect();
        Err(Error::data(
            &self.dir,
            format!(
                "was made with other features than this build makes ({}); run `duet rerank` again",
                names.join(", ")
            ),
        ))
    }

    /// Copies the trees into the directory of a bundle.
    pub(crate) fn copy_to(&self, bundle: &Path) -> Result<()> {
        let to = bundle.join(DIR);
        fs::create_dir(&to).map_err(Error::io(&to))?;
        for name in [MANIFEST, TREES] {
            std::fs::copy(self.dir.join(name), to.join(name)).map_err(Error::io(to.join(name)))?;
        }
        Ok(())
    }
}
