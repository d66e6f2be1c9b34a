//! Lists for users: vectors, an index and fallbacks, from a run or from a bundle.

use std::{collections::BTreeSet, fmt, path::Path, sync::Arc};

use duet_core::{
    Error, ItemIdx, Result, UserIdx,
    condition::Condition,
    config::Config,
    encoding::EncodedTable,
    ids::IdMap,
    table::{ColumnValues, FeatureTable},
};
use duet_data::dataset::{Dataset, Timeline};
use duet_model::{device::DeviceChoice, model::TwoTower};
use duet_retrieval::{
    Query, Recommender, Scored, VectorRecommender,
    baselines::{Popularity, Trending},
    diversity::{self, GroupBound, Mmr},
    filter::ItemFilter,
    rerank::Reranked,
    search::{ExactIndex, Index, SearchRequest, VectorSearch},
    vectors::Vectors,
};

use crate::{
    bundle,
    embedding_pass::{UserEmbedder, UserInput, embed_items, embed_users, timeline_users},
    interactions::interactions,
    prior::{item_counts, trend_shift},
    reranker::{BOOSTED_TREES, RunReranker},
    run::{self, Run, RunInfo, WEIGHTS_FILE},
    served::{ServedTwoTower, TWO_TOWER},
};

/// Where a list comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListSource {
    /// The user's own vector.
    Personal,
    /// What is trending (most popular, where events have no time): nothing is known of the user.
    Trending,
}

impl fmt::Display for ListSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Personal => "personal",
            Self::Trending => "trending",
        })
    }
}

/// A list for one user.
#[derive(Debug, Clone, PartialEq)]
pub struct UserList {
    /// As asked for.
    pub user_id: String,
    /// Where it comes from.
    pub source: ListSource,
    /// Best first.
    pub items: Vec<Scored>,
}

/// How lists are varied; see [`duet_retrieval::diversity`].
#[derive(Debug, Clone, Default)]
pub struct Variety {
    /// The group of every item ([`duet_retrieval::diversity::groups`]), and how many of one may stand in a list.
    pub groups: Option<(Vec<u32>, usize)>,
    /// Lambda of maximal marginal relevance, 0 (variety) to 1 (relevance).
    pub lambda: Option<f32>,
}

impl Variety {
    /// How many candidates lists of `k` are chosen from: ten times as many, 100 at least.
    pub fn candidates(&self, k: usize) -> usize {
        if self.groups.is_none() && self.lambda.is_none() { k } else { k.saturating_mul(10).max(100) }
    }
}

/// The user tower for listeners of whom nothing is known but what they name themselves.
pub struct Newcomers {
    model: TwoTower,
    config: Config,
    /// One row, in which everything is missing.
    features: EncodedTable,
}

impl Newcomers {
    /// By the parameters of a run.
    pub fn of_run(run: Run) -> Self {
        let features = run.info.users.missing_row();
        Self { model: run.model, config: run.config, features }
    }

    /// By those of a bundle, on the CPU.
    ///
    /// # Errors
    /// [`Error::Data`] naming the file that is missing, damaged or of another kind.
    pub fn of_bundle(bundle: &Path) -> Result<Self> {
        bundle::open_info(bundle)?;
        let (config, info): (Config, RunInfo) = run::read_records(bundle)?;
        let model = run::load_model(&bundle.join(WEIGHTS_FILE), &config, &info, &DeviceChoice::Cpu.open()?)?;
        Ok(Self { model, config, features: info.users.missing_row() })
    }

    /// The vector of a listener with this history, the newest item last.
    ///
    /// # Errors
    /// [`Error::Internal`] if the device can't be read.
    pub fn vector(&self, history: &[ItemIdx]) -> Result<Vec<f32>> {
        let input = UserInput { features: 0, trained_row: None, items: history, weights: &[], before: 0 };
        UserEmbedder::new(&self.model).embed(&self.config, &self.features, [input])
    }
}

/// Everything that answers "what for this user" and "what is like this item".
pub struct Retriever {
    /// Ids, names and features of the items.
    pub items: FeatureTable,
    /// Ids of the users.
    pub users: IdMap,
    /// The model with its fallback.
    served: ServedTwoTower,
    /// Training events: what each user knows.
    timeline: Timeline,
    /// Components of an item vector that carry direction: all but the bias.
    direction_width: usize,
    /// The second stage, where it was asked for.
    reranker: Option<RunReranker>,
}

/// The vectors of a run over its dataset.
#[derive(Debug)]
pub struct RunVectors {
    /// One an item.
    pub items: Vectors,
    /// One a user.
    pub users: Vectors,
    /// Components of an item vector that carry direction: all but the bias.
    pub direction_width: usize,
}

/// Embeds every item and user of the run's dataset.
///
/// # Errors
/// As [`Dataset::timeline`] and the embedding.
pub fn run_vectors(run: &Run, dataset: &Dataset) -> Result<RunVectors> {
    vectors_of(&run.model, run, dataset, &dataset.timeline()?)
}

/// Embeds every item and user by other parameters of the run, as if nothing but `timeline` were known.
///
/// # Errors
/// As [`run_vectors`].
pub(crate) fn vectors_of(model: &TwoTower, run: &Run, dataset: &Dataset, timeline: &Timeline) -> Result<RunVectors> {
    let (users, items) = run.info.encode(dataset)?;
    let config = &run.config.model;
    let n_items = run.info.dataset.counts.items as usize;
    let counts = item_counts(timeline, n_items);
    let shift = trend_shift(timeline, n_items, config.trend_weight, config.trend_half_life_days);
    Ok(RunVectors {
        items: embed_items(model, &items, &counts, &shift)?,
        users: embed_users(model, &run.config, &users, timeline_users(timeline))?,
        direction_width: config.dim,
    })
}

impl Retriever {
    /// From a run and its dataset; the index is exact.
    ///
    /// # Errors
    /// As [`run_vectors`].
    pub fn from_run(run: &Run, dataset: &Dataset) -> Result<Self> {
        let RunVectors { items, users, .. } = run_vectors(run, dataset)?;
        Self::new(dataset, &run.config, users, Index::Exact(ExactIndex::new(Arc::new(items))?))
    }

    /// From a bundle.
    ///
    /// # Errors
    /// As [`crate::bundle::open`].
    pub fn from_bundle(bundle: &Path) -> Result<Self> {
        let opened = crate::bundle::open(bundle)?;
        Self::new(&opened.dataset, &opened.config, opened.users, opened.index)
    }

    fn new(dataset: &Dataset, config: &Config, user_vectors: Vectors, index: Index) -> Result<Self> {
        let timeline = dataset.timeline()?;
        let items = dataset.items()?;
        let users = dataset.users()?;
        // The model knows something of whoever has a history or at least one known feature.
        let with_features = config.model.user_features;
        let personal = (0..users.len())
            .map(|user| {
                !timeline.range(UserIdx::from(user)).is_empty() || (with_features && has_features(&users, user))
            })
            .collect();
        let fallback: Box<dyn Recommender> = {
            let interactions = interactions(&timeline, items.len())?;
            if timeline.timestamps_ms.is_empty() {
                Box::new(Popularity::new(&interactions))
            } else {
                Box::new(Trending::new(&interactions, config.fallback.trending_days)?)
            }
        };
        let model = VectorRecommender::new(TWO_TOWER, user_vectors, index)?;
        let served = ServedTwoTower::new(TWO_TOWER, model, personal, fallback)?;
        Ok(Self { items, users: users.ids, served, timeline, direction_width: config.model.dim, reranker: None })
    }

    /// The same with the lists of the model put in order by the trees of a run.
    ///
    /// # Errors
    /// [`Error::Input`] if the run has none; as [`RunReranker::of_run`].
    pub fn reranked_by_run(self, run: &Run, dataset: &Dataset) -> Result<Self> {
        let reranker = RunReranker::of_run(run, dataset, &self.served)?;
        self.with_reranker(reranker, &run.dir)
    }

    /// The same by the trees of a bundle.
    ///
    /// # Errors
    /// [`Error::Input`] if the bundle has none; as [`RunReranker::of_bundle`].
    pub fn reranked_by_bundle(self, bundle: &Path) -> Result<Self> {
        let reranker = RunReranker::of_bundle(bundle, &self.served)?;
        self.with_reranker(reranker, bundle)
    }

    fn with_reranker(self, reranker: Option<RunReranker>, place: &Path) -> Result<Self> {
        if reranker.is_none() {
            return Err(Error::input(format!(
                "{} holds no re-ranker; make one with `duet rerank --run RUN` (and `embed` again, for a bundle)",
                place.display()
            )));
        }
        Ok(Self { reranker, ..self })
    }

    /// The model, its fallback and the trees that were asked for, as a recommender to measure.
    ///
    /// # Errors
    /// [`Error::Internal`] if no trees were asked for.
    pub fn into_reranked(self, name: &str) -> Result<Reranked<ServedTwoTower, RunReranker>> {
        let Some(reranker) = self.reranker else { return Err(Error::Internal("no re-ranker was opened".into())) };
        let candidates = reranker.candidates();
        Reranked::new(name, self.served, reranker, candidates)
    }

    /// The model with its fallback, as a recommender to measure.
    pub fn into_served(self) -> ServedTwoTower {
        self.served
    }

    /// Every user of the interactions or of the users table.
    pub fn all_users(&self) -> &[String] {
        self.users.ids()
    }

    /// The training history of a user, in time order.
    pub fn history(&self, user: UserIdx) -> &[ItemIdx] {
        self.timeline.items_of(user)
    }

    /// Lists for the given users, in their order. Users nothing is known of get the fallback.
    ///
    /// # Errors
    /// [`Error::Input`] for an impossible k.
    pub fn recommend(
        &self,
        users: &[String],
        k: usize,
        exclude_seen: bool,
        filter: Option<&ItemFilter>,
    ) -> Result<Vec<UserList>> {
        let rows: Vec<Option<UserIdx>> = users.iter().map(|id| self.users.get(id).map(UserIdx)).collect();
        let seen: Vec<Vec<ItemIdx>> = rows
            .iter()
            .map(|user| match user {
                Some(user) if exclude_seen => {
                    let mut seen = self.history(*user).to_vec();
                    seen.sort_unstable();
                    seen.dedup();
                    seen
                }
                _ => Vec::new(),
            })
            .collect();
        let queries: Vec<Query<'_>> =
            rows.iter().zip(&seen).map(|(&user, exclude)| Query { user, history: &[], k, filter, exclude }).collect();
        let lists = match &self.reranker {
            Some(trees) => {
                Reranked::new(BOOSTED_TREES, &self.served, trees, trees.candidates())?.recommend(&queries)?
            }
            None => self.served.recommend(&queries)?,
        };
        let list = |((user_id, &row), items): ((&String, &Option<UserIdx>), Vec<Scored>)| UserList {
            user_id: user_id.clone(),
            source: if self.served.is_personal(row) { ListSource::Personal } else { ListSource::Trending },
            items,
        };
        Ok(users.iter().zip(&rows).zip(lists).map(list).collect())
    }

    /// A list for a listener whom no table knows, by the items they name (the newest last).
    ///
    /// # Errors
    /// [`Error::Input`] for an impossible k; [`Error::Internal`] if the device can't be read.
    pub fn recommend_by_history(
        &self,
        towers: &Newcomers,
        history: &[ItemIdx],
        k: usize,
        exclude_seen: bool,
        filter: Option<&ItemFilter>,
    ) -> Result<Vec<Scored>> {
        let mut seen = if exclude_seen { history.to_vec() } else { Vec::new() };
        seen.sort_unstable();
        seen.dedup();
        let request = SearchRequest { k, filter, exclude: &seen };
        Ok(self.served.model().search().search(&towers.vector(history)?, &[request])?.remove(0))
    }

    /// Leaves `k` of a list of candidates, best first.
    ///
    /// # Errors
    /// [`Error::Input`] for a lambda outside of 0..=1.
    pub fn varied(&self, candidates: &[Scored], k: usize, variety: &Variety) -> Result<Vec<Scored>> {
        let vectors = self.served.model().search().vectors();
        let mmr = variety.lambda.map(|lambda| Mmr::new(lambda, vectors, self.direction_width)).transpose()?;
        let bound = variety.groups.as_ref().map(|(groups, most)| GroupBound { groups, most: *most });
        Ok(diversity::varied(candidates, k, bound, mmr))
    }

    /// Items allowed by an expression: see [`item_filter`].
    ///
    /// # Errors
    /// As [`item_filter`].
    pub fn filter(&self, expression: &str) -> Result<ItemFilter> {
        item_filter(&self.items, expression)
    }

    /// The row of an item given by its id or, failing that, its name (case aside).
    ///
    /// # Errors
    /// [`Error::Input`] if there is none, or several have the name; names that contain the text are suggested.
    pub fn find_item(&self, id_or_name: &str) -> Result<ItemIdx> {
        if let Some(row) = self.items.ids.get(id_or_name) {
            return Ok(ItemIdx(row));
        }
        let wanted = id_or_name.to_lowercase();
        let rows = |matches: &dyn Fn(&str) -> bool| -> Vec<usize> {
            self.items
                .names
                .iter()
                .enumerate()
                .filter(|(_, name)| matches(&name.to_lowercase()))
                .map(|(row, _)| row)
                .collect()
        };
        let exact = rows(&|name| name == wanted);
        match exact.as_slice() {
            [row] => Ok(ItemIdx::from(*row)),
            [] => {
                let near: Vec<String> = rows(&|name| name.contains(&wanted))
                    .iter()
                    .take(5)
                    .map(|&row| format!("{:?}", self.items.name(row)))
                    .collect();
                let hint = if near.is_empty() { String::new() } else { format!("; did you mean {}?", near.join(", ")) };
                Err(Error::input(format!("no item has the id or name {id_or_name:?}{hint}")))
            }
            several => {
                let ids: Vec<&str> = several.iter().map(|&row| self.items.ids.id(row)).collect();
                Err(Error::input(format!(
                    "{id_or_name:?} is the name of several items: give one of the ids {}",
                    ids.join(", ")
                )))
            }
        }
    }

    /// The nearest items by the cosine of their vectors (biases aside), the item itself left out.
    ///
    /// # Errors
    /// As [`Retriever::find_item`]; [`Error::Input`] for an impossible k.
    pub fn similar(&self, id_or_name: &str, k: usize) -> Result<Vec<Scored>> {
        let item = self.find_item(id_or_name)?;
        let vectors = self.served.model().search().vectors();
        let width = self.direction_width;
        let directions: Vec<f32> = vectors
            .data
            .chunks_exact(vectors.dim)
            .flat_map(|vector| {
                let norm = vector[..width].iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
                vector[..width].iter().map(move |x| x / norm)
            })
            .collect();
        let index = ExactIndex::new(Arc::new(Vectors::new(width, directions)?))?;
        let query = index.vectors().row(item.index()).to_vec();
        let request = SearchRequest { k, filter: None, exclude: &[item] };
        Ok(index.search(&query, &[request])?.remove(0))
    }
}

/// Items allowed by an expression: `column=value` for text columns (one of its values for lists), `column>=number` or
/// `column<=number` for numbers.
///
/// # Errors
/// [`Error::Input`] saying which forms, columns or values exist.
pub fn item_filter(items: &FeatureTable, expression: &str) -> Result<ItemFilter> {
    let condition = Condition::parse(items, expression)?;
    let filter = ItemFilter::from_predicate(items.len(), |item| condition.holds(items, item.index()));
    let column = &items.columns[condition.column];
    if filter.count() == 0 {
        return Err(Error::input(format!(
            "filter {expression:?} allows no item{}",
            examples(&column.values)
                .map(|some| format!("; {} holds values such as {some}", column.name))
                .unwrap_or_default()
        )));
    }
    Ok(filter)
}

/// Whether anything is known of a user beside the id.
pub fn has_features(users: &FeatureTable, row: usize) -> bool {
    users.columns.iter().any(|column| match &column.values {
        ColumnValues::Text(values) => values[row].is_some(),
        ColumnValues::TextList(values) => !values[row].is_empty(),
        ColumnValues::Number(values) => !values[row].is_nan(),
        ColumnValues::Day(values) => values[row].is_some(),
    })
}

fn examples(values: &ColumnValues) -> Option<String> {
    // One by one: a column holds few values many times, and collecting would sort them all.
    let mut some: BTreeSet<&str> = BTreeSet::new();
    match values {
        ColumnValues::Text(values) => some.extend(values.iter().flatten().map(String::as_str)),
        ColumnValues::TextList(values) => some.extend(values.iter().flatten().map(String::as_str)),
        _ => return None,
    }
    (!some.is_empty()).then(|| some.into_iter().take(8).collect::<Vec<_>>().join(", "))
}
