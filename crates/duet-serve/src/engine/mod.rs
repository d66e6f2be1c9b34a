//! All of one bundle, ready to answer: immutable, shared by the workers, replaced as a whole.
//!
//! [`Engine::open`] reads and checks everything once; after that nothing here grows with requests but the kept filters. What a request
//! needs is found by row: no scan of users or items, unless a new filter asks for one.

mod filters;
pub(crate) mod rankings;
mod self_check;

use std::{
    collections::BTreeMap,
    fmt,
    path::Path,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use duet_core::{
    Error, ItemIdx, Result, UserIdx, condition::Condition, config::Config, encoding::EncodedTable, ids::IdMap,
    mixing::splitmix64, table::FeatureTable,
};
use duet_data::dataset::Timeline;
use duet_model::model::TwoTower;
use duet_retrieval::{
    ItemFilter, Recommender, Scored, Vectors,
    baselines::Interactions,
    diversity,
    search::{ExactIndex, Index, SearchRequest, VectorSearch},
};
use duet_train::{
    embedding_pass::UserInput,
    evaluate::{Baseline, Materials, Parameters},
    prior::item_counts,
    retriever::{has_features, item_filter},
    serving::{self, ServingParts},
};
use fs_err as fs;

pub use crate::stages::retriever::RetrieverOptions;

use self::{filters::FilterCache, rankings::Rankings};
use crate::{
    config::{ServeConfig, TWO_TOWER},
    precomputed::bundle_id,
    request::{Answer, ListRequest},
    stages::{
        self,
        rerank::{Breaker, Rerank},
        retriever::RetrieverSource,
    },
};

/// The weight of a live event where the bundle's events have weights: nothing but "once".
const LIVE_WEIGHT: f32 = 1.0;

/// How lists are kept from being all of a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiversityOptions {
    /// The column of the items table whose first value is an item's group.
    pub column: String,
    /// The most items of one group in a list; at least 1.
    pub max_per_group: usize,
}

/// What an engine is made with, beside the bundle.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Names of baselines that stand as variants.
    pub baselines: Vec<String>,
    /// Whether the bundle's re-ranker is loaded.
    pub rerank: bool,
    /// Candidates that a re-ranker gets.
    pub rerank_candidates: usize,
    /// How long a re-ranker may take for a list, and for how long it may begin lists that were asked for together.
    pub rerank_budget: Duration,
    /// The column of the users table that says whose trends count for whom.
    pub segment_column: Option<String>,
    /// How lists are kept from being all of a kind.
    pub diversity: Option<DiversityOptions>,
    /// Where candidates are looked for before the bundle's own index.
    pub retriever: Option<RetrieverOptions>,
    /// Filters kept.
    pub filter_cache: usize,
    /// Users whose vectors the self-check compares.
    pub self_check_users: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            baselines: Vec::new(),
            rerank: false,
            rerank_candidates: 100,
            rerank_budget: Duration::from_millis(10),
            segment_column: None,
            diversity: None,
            retriever: None,
            filter_cache: 256,
            self_check_users: 64,
        }
    }
}

impl From<&ServeConfig> for EngineOptions {
    fn from(config: &ServeConfig) -> Self {
        let ServeConfig { lists, engine, variants, swap, .. } = config;
        let mut baselines: Vec<String> = variants
            .iter()
            .map(|variant| variant.recommender.clone())
            .filter(|recommender| recommender != TWO_TOWER)
            .collect();
        baselines.sort_unstable();
        baselines.dedup();
        let diversity = DiversityOptions { column: lists.diversity_column.clone(), max_per_group: lists.max_per_group };
        Self {
            baselines,
            rerank: variants.iter().any(|variant| variant.rerank),
            rerank_candidates: engine.rerank_candidates,
            rerank_budget: Duration::from_millis(engine.rerank_budget_ms),
            segment_column: Some(lists.segment_column.clone()).filter(|column| !column.is_empty()),
            diversity: (diversity.max_per_group > 0).then_some(diversity),
            // A configuration that was validated has a retriever that is one.
            retriever: RetrieverOptions::of(engine).ok().flatten(),
            filter_cache: engine.filter_cache,
            self_check_users: swap.self_check_users,
        }
    }
}

/// One bundle.
pub struct Engine {
    bundle: String,
    pub(crate) options: EngineOptions,
    pub(crate) config: Config,
    items: FeatureTable,
    users: IdMap,
    /// One row a user, and one in which everything is missing.
    pub(crate) user_features: EncodedTable,
    pub(crate) timeline: Timeline,
    /// Whether the model learned anything of an item; of others its tables hold noise.
    trained: Vec<bool>,
    /// Whether the bundle knows anything of a user: a history, or a feature the model reads.
    personal: Vec<bool>,
    pub(crate) user_vectors: Vectors,
    pub(crate) index: Index,
    pub(crate) model: Arc<TwoTower>,
    pub(crate) rankings: Rankings,
    baselines: BTreeMap<String, Box<dyn Recommender>>,
    pub(crate) reranker: Option<Arc<dyn Rerank>>,
    pub(crate) breaker: Breaker,
    /// Makes what a worker looks for candidates with, where that is not the bundle's own index.
    pub(crate) retriever: Option<RetrieverSource>,
    pub(crate) retriever_breaker: Breaker,
    /// The group of every item, for diversity; empty without it.
    pub(crate) groups: Vec<u32>,
    /// Unit vectors of the items, made when somebody first asks what is alike.
    directions: OnceLock<Result<ExactIndex, String>>,
    filters: Mutex<FilterCache>,
    /// What a list takes, as the self-check measured it.
    list_cost: OnceLock<Duration>,
    data_until_ms: i64,
}

impl fmt::Debug for Engine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Engine").field("bundle", &self.bundle).finish_non_exhaustive()
    }
}

impl Engine {
    /// Reads and checks every file of a bundle.
    ///
    /// # Errors
    /// [`Error::Data`] naming the file that is missing or damaged; [`Error::Input`] for a baseline that is unknown or impossible here,
    /// or a diversity column that the items have not.
    pub fn open(dir: &Path, options: &EngineOptions) -> Result<Arc<Self>> {
        Self::build(dir, options).map(Arc::new)
    }

    pub(crate) fn build(dir: &Path, options: &EngineOptions) -> Result<Self> {
        // A link may be turned to the next bundle while this one is read.
        let dir = &fs::canonicalize(dir).unwrap_or_else(|_| dir.to_path_buf());
        let parts = serving::open(dir)?;
        let reranker = if options.rerank { stages::rerank::open(dir, &parts.dataset)? } else { None };
        let mut engine = Self::new(bundle_id(dir)?, parts, options)?;
        engine.reranker = reranker;
        Ok(engine)
    }

    fn new(bundle: String, parts: ServingParts, options: &EngineOptions) -> Result<Self> {
        let ServingParts { config, run, dataset, items, users, user_features, timeline, .. } = parts;
        let segments = options.segment_column.as_ref().and_then(|name| {
            let column = users.columns.iter().find(|column| column.name == *name).map(|column| &column.values);
            if column.and_then(diversity::first_values).is_none() {
                tracing::info!(column = %name, "no such column of text among the users: trends are those of everybody");
            }
            column
        });
        let rankings = Rankings::new(&timeline, items.len(), config.fallback.trending_days, segments)?;
        let groups = match &options.diversity {
            Some(options) => diversity::groups(&items, &options.column)?,
            None => Vec::new(),
        };
        let counts = item_counts(&timeline, items.len());
        let data_until_ms = timeline.timestamps_ms.iter().copied().max().unwrap_or(i64::MIN);
        let mut baselines: BTreeMap<String, Box<dyn Recommender>> = BTreeMap::new();
        for name in &options.baselines {
            let baseline: Baseline = name.parse()?;
            let materials = if baseline == Baseline::Content {
                Materials::new(&dataset, &timeline)?
            } else {
                let active_items = counts.iter().filter(|&&count| count > 0).count();
                Materials { oracle: None, content: None, has_time: run.dataset.has_time, active_items }
            };
            // Random lists are drawn anew for each bundle: the same ones day after day would lose what listeners like to their clicks, keep
            // the rest, and be worse than chance.
            let seed = match baseline {
                Baseline::Random => config.train.seed ^ splitmix64(data_until_ms as u64),
                _ => config.train.seed,
            };
            let parameters = Parameters::of(baseline, config.fallback.trending_days, seed);
            let events = Interactions::new(&timeline.offsets, &timeline.items, &timeline.timestamps_ms, items.len())?;
            baselines.insert(name.clone(), baseline.build(&events, &materials, &parameters, seed)?);
        }
        // The model knows something of whoever has a history or at least one known feature.
        let personal = (0..users.len())
            .map(|user| {
                !timeline.range(UserIdx::from(user)).is_empty()
                    || (config.model.user_features && has_features(&users, user))
            })
            .collect();
        let retriever = options.retriever.as_ref().map(|retriever| retriever.source(&bundle, &items));
        Ok(Self {
            bundle,
            options: options.clone(),
            data_until_ms,
            config,
            items,
            users: users.ids,
            user_features,
            trained: counts.iter().map(|&count| count > 0).collect(),
            timeline,
            personal,
            user_vectors: parts.user_vectors,
            index: parts.index,
            model: Arc::new(parts.model),
            rankings,
            baselines,
            reranker: None,
            breaker: Breaker::default(),
            retriever,
            retriever_breaker: Breaker::default(),
            groups,
            directions: OnceLock::new(),
            filters: Mutex::new(FilterCache::new(options.filter_cache)),
            list_cost: OnceLock::new(),
        })
    }

    /// The bundle's name: its directory's, and eight digits that tell bundles of one name apart.
    pub fn bundle(&self) -> &str {
        &self.bundle
    }

    /// The items: ids, names, features.
    pub fn items(&self) -> &FeatureTable {
        &self.items
    }

    /// What a list with the live tower takes on this machine at best; nothing before the self-check, or where there is nobody to try it on.
    pub fn list_cost(&self) -> Option<Duration> {
        self.list_cost.get().copied()
    }

    /// The row of a user.
    pub fn user_row(&self, id: &str) -> Option<UserIdx> {
        self.users.get(id).map(UserIdx)
    }

    /// The users' ids, by row.
    pub fn user_ids(&self) -> &[String] {
        self.users.ids()
    }

    /// The row of an item.
    pub fn item_row(&self, id: &str) -> Option<ItemIdx> {
        self.items.ids.get(id).map(ItemIdx)
    }

    /// The time of the last event in the bundle's histories, milliseconds since 1970 UTC; the beginning of time where events have none.
    pub fn data_until_ms(&self) -> i64 {
        self.data_until_ms
    }

    /// The time of the last event in a user's history in the bundle: what the user did later is news to it. The beginning of time where
    /// there is none, and for whoever the bundle doesn't know.
    ///
    /// It is the user's own last event and not everybody's: an event that came late, or from a clock that is ahead, or of somebody who
    /// had done too little to be trained on, must not hide what others did.
    pub fn history_until_ms(&self, user: Option<UserIdx>) -> i64 {
        let last = user.and_then(|user| self.timeline.range(user).last());
        last.and_then(|event| self.timeline.timestamps_ms.get(event)).copied().unwrap_or(i64::MIN)
    }

    /// The training history of a user, in time order.
    pub fn history(&self, user: UserIdx) -> &[ItemIdx] {
        self.timeline.items_of(user)
    }

    /// Items for which all expressions hold; nothing, if there are none. Kept for the next time.
    ///
    /// # Errors
    /// As [`item_filter`].
    pub fn filter(&self, expressions: &[String]) -> Result<Option<Arc<ItemFilter>>> {
        if expressions.is_empty() {
            return Ok(None);
        }
        let lock = || self.filters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = lock().get(expressions) {
            return kept.map(Some);
        }
        // Made outside the lock: others with other filters go on meanwhile.
        let filter = self.make_filter(expressions);
        lock().put(expressions, &filter);
        filter.map(Some)
    }

    /// The expressions as conditions for a database that searches; nothing, where there is none to be asked.
    ///
    /// # Errors
    /// As [`Condition::parse`].
    pub fn conditions(&self, expressions: &[String]) -> Result<Vec<Condition>> {
        if self.retriever.is_none() {
            return Ok(Vec::new());
        }
        expressions.iter().map(|expression| Condition::parse(&self.items, expression)).collect()
    }

    fn make_filter(&self, expressions: &[String]) -> Result<Arc<ItemFilter>> {
        let mut all: Option<ItemFilter> = None;
        for expression in expressions {
            let filter = item_filter(&self.items, expression)?;
            all = Some(match all {
                Some(all) => all.intersection(&filter)?,
                None => filter,
            });
        }
        Ok(Arc::new(all.unwrap_or_else(|| ItemFilter::all(self.items.len()))))
    }

    /// The `k` nearest items by the cosine of their vectors, biases aside; the item itself left out.
    ///
    /// # Errors
    /// [`Error::Input`] for an impossible k or item.
    pub fn similar(&self, item: ItemIdx, k: usize) -> Result<Vec<Scored>> {
        let directions = self.directions.get_or_init(|| self.directions().map_err(|error| error.to_string()));
        let directions = directions.as_ref().map_err(|error| Error::Internal(error.clone()))?;
        if item.index() >= self.items.len() {
            return Err(Error::input(format!("item {} is beyond the {} items", item.0, self.items.len())));
        }
        let request = SearchRequest { k, filter: None, exclude: &[item] };
        let query = directions.vectors().row(item.index());
        Ok(directions.search(query, &[request])?.pop().unwrap_or_default())
    }

    fn directions(&self) -> Result<ExactIndex> {
        let vectors = self.index.vectors();
        let width = self.config.model.dim;
        let mut directions = Vec::with_capacity(vectors.len() * width);
        for vector in vectors.data.chunks_exact(vectors.dim) {
            let norm = vector[..width].iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
            directions.extend(vector[..width].iter().map(|x| x / norm));
        }
        ExactIndex::new(Arc::new(Vectors::new(width, directions)?))
    }

    /// A list without the towers, cheap enough for any thread: what the listener's segment plays, else what everybody does. `why` says
    /// what fell away.
    pub fn fallback(&self, request: &ListRequest, why: &'static str) -> Answer {
        stages::fallback(self, request, why)
    }

    /// The user's row in the encoded features, or that in which everything is missing.
    pub(crate) fn feature_row(&self, user: Option<UserIdx>) -> u32 {
        user.map_or(self.users.len() as u32, |user| user.0)
    }

    /// Whether the bundle itself knows anything of a user.
    pub(crate) fn knows(&self, user: UserIdx) -> bool {
        self.personal.get(user.index()).copied().unwrap_or(false)
    }

    /// Whether the model learned anything of an item.
    pub(crate) fn is_trained(&self, item: ItemIdx) -> bool {
        self.trained.get(item.index()).copied().unwrap_or(false)
    }

    /// The weight of a live event, where events have weights.
    pub(crate) fn live_weight(&self) -> Option<f32> {
        (!self.timeline.weights.is_empty()).then_some(LIVE_WEIGHT)
    }

    /// What the towers take of a user's training history: as the export had it.
    pub(crate) fn stored_input(&self, user: UserIdx) -> UserInput<'_> {
        let range = self.timeline.range(user);
        UserInput {
            features: self.feature_row(Some(user)),
            trained_row: (!range.is_empty()).then_some(user.0),
            items: &self.timeline.items[range.clone()],
            weights: self.timeline.weights.get(range).unwrap_or(&[]),
            before: 0,
        }
    }

    /// A baseline that stands as a variant.
    pub(crate) fn baseline(&self, name: &str) -> Option<&dyn Recommender> {
        self.baselines.get(name).map(AsRef::as_ref)
    }

    /// Puts a recommender of a test among the baselines.
    #[cfg(test)]
    pub(crate) fn plant_baseline(&mut self, name: &str, baseline: Box<dyn Recommender>) {
        self.baselines.insert(name.to_owned(), baseline);
    }
}
