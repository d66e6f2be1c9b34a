//! The trees in use: in a service, and as the second stage of a recommender that is measured.

use std::path::Path;

use duet_core::{Error, ItemIdx, Result, UserIdx};
use duet_data::dataset::Dataset;
use duet_retrieval::{
    Query, Scored, Vectors,
    rerank::{Rescorer, in_order_of},
    search::VectorSearch,
    vectors::read_vectors,
};

use super::{
    knowledge::{Candidate, Instant, Knowledge},
    listener::RerankListener,
    saved::SavedTrees,
};
use crate::{bundle, run::Run, run::read_records, served::ServedTwoTower};

/// The name under which model and trees together stand in tables.
pub const BOOSTED_TREES: &str = "boosted_trees";
const ITEM_VECTORS: &str = "items.parquet";

/// Trees and what their features are made from.
struct Stage {
    trees: SavedTrees,
    knowledge: Knowledge,
}

impl Stage {
    fn new(trees: SavedTrees, dataset: &Dataset, vectors: &Vectors, width: usize) -> Result<Self> {
        let followers = if trees.info.with_followers { Knowledge::catalogue_followers(dataset)? } else { None };
        let knowledge = Knowledge::new(dataset, dataset.timeline()?, vectors, width, followers)?;
        trees.check(&knowledge.features())?;
        Ok(Self { trees, knowledge })
    }

    fn scores(
        &self,
        user: Option<UserIdx>,
        history: &[ItemIdx],
        instant: Instant,
        candidates: &[Scored],
    ) -> Result<Vec<f32>> {
        let best = candidates.iter().map(|entry| entry.score).fold(f32::MIN, f32::max);
        let listed: Vec<Candidate> = candidates
            .iter()
            .enumerate()
            .map(|(place, &scored)| Candidate { scored, place: Some(place), position: 0 })
            .collect();
        self.trees.forest.score(&self.knowledge.rows(user, history, instant, &listed, best)?)
    }
}

/// The trees of a bundle, for serving.
pub struct BundleReranker(Stage);

impl BundleReranker {
    /// Reads the trees of a bundle and makes ready what the features are made from; `None` if the bundle has no trees. `dataset` is the
    /// bundle's own, as [`bundle::open`] gives it.
    ///
    /// # Errors
    /// [`Error::Data`] naming the file that is damaged or does not fit.
    pub fn open(bundle: &Path, dataset: &Dataset) -> Result<Option<Self>> {
        let info = bundle::open_info(bundle)?;
        let Some(trees) = SavedTrees::open(bundle, &info.dataset_fingerprint, &info.weights)? else { return Ok(None) };
        if dataset.fingerprint != info.dataset_fingerprint {
            return Err(Error::Internal("the dataset is not the bundle's own".into()));
        }
        let (_, vectors) = read_vectors(&bundle.join(ITEM_VECTORS))?;
        let (config, _) = read_records(bundle)?;
        Ok(Some(Self(Stage::new(trees, dataset, &vectors, config.model.dim)?)))
    }

    /// What is known of the trees.
    pub fn info(&self) -> &super::RerankerInfo {
        &self.0.trees.info
    }

    /// All given candidates, which stand best first by the model's score, in the order of the trees, with their scores. On the calling
    /// thread. The trees were made for lists of the model: lists of a fallback have other scores and should be left as they are.
    ///
    /// # Errors
    /// [`Error::Input`] for an item beyond the catalogue.
    pub fn rerank(&self, listener: &RerankListener<'_>, candidates: &[Scored]) -> Result<Vec<Scored>> {
        let instant = self.0.knowledge.at(listener.now_ms);
        in_order_of(candidates, &self.0.scores(listener.user, listener.history, instant, candidates)?)
    }
}

/// The trees of a run or a bundle over the dataset they were made for, as it ends.
pub struct RunReranker {
    stage: Stage,
    /// Whose lists come from the model.
    personal: Vec<bool>,
    /// Whether each user is asked about at their own last event, or all at the end of the data.
    at_last_event: bool,
}

impl RunReranker {
    /// The trees of a run, for the model as it serves; `None` if it has none.
    ///
    /// # Errors
    /// [`Error::Data`] naming the file that is damaged or does not fit.
    pub fn of_run(run: &Run, dataset: &Dataset, served: &ServedTwoTower) -> Result<Option<Self>> {
        let trees = SavedTrees::open(&run.dir, &run.info.dataset_fingerprint, &run.weights)?;
        trees.map(|trees| Self::new(trees, dataset, served, run.config.model.dim)).transpose()
    }

    /// The trees of a bundle.
    ///
    /// # Errors
    /// As [`RunReranker::of_run`]; as [`bundle::open_info`].
    pub fn of_bundle(bundle: &Path, served: &ServedTwoTower) -> Result<Option<Self>> {
        let info = bundle::open_info(bundle)?;
        let Some(trees) = SavedTrees::open(bundle, &info.dataset_fingerprint, &info.weights)? else { return Ok(None) };
        let (config, run) = read_records(bundle)?;
        let dataset = bundle::dataset(bundle, &info, &run);
        Self::new(trees, &dataset, served, config.model.dim).map(Some)
    }

    fn new(trees: SavedTrees, dataset: &Dataset, served: &ServedTwoTower, width: usize) -> Result<Self> {
        let model = served.model();
        let personal = (0..model.users().len()).map(|user| served.is_personal(Some(UserIdx::from(user)))).collect();
        Ok(Self {
            stage: Stage::new(trees, dataset, model.search().vectors(), width)?,
            personal,
            at_last_event: dataset.info.split.kind == LAST_OUT,
        })
    }

    /// Items of a list that are put in order.
    pub fn candidates(&self) -> usize {
        self.stage.trees.info.config.candidates
    }

    /// What is known of the trees.
    pub fn info(&self) -> &super::RerankerInfo {
        &self.stage.trees.info
    }
}

/// The split that holds out each user's last event: the next event is asked for as of the last.
pub(super) const LAST_OUT: &str = "leave-last-out";

impl Rescorer for RunReranker {
    /// Lists of the fallback stay as they are: the trees were made for those of the model.
    fn rescore(&self, query: &Query<'_>, candidates: &[Scored]) -> Result<Option<Vec<f32>>> {
        if !query.user.is_some_and(|user| self.personal.get(user.index()).copied().unwrap_or(false)) {
            return Ok(None);
        }
        let knowledge = &self.stage.knowledge;
        let instant = if self.at_last_event { knowledge.last_event(query.user) } else { knowledge.end() };
        self.stage.scores(query.user, query.history, instant, candidates).map(Some)
    }
}
