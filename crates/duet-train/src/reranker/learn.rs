//! Training of the trees: examples from the validation part, features as of before it.

use std::{path::PathBuf, sync::Arc, time::Instant as Stopwatch};

use duet_core::{
    Error, ItemIdx, Result, UserIdx,
    config::{Config, RerankerConfig, RerankerExamples, RerankerObjective},
    mixing::splitmix64,
};
use duet_data::{
    dataset::{ArtistImpression, Dataset, Timeline},
    split::SplitSpec,
};
use duet_model::device::DeviceChoice;
use duet_retrieval::{
    EvaluationCase, Scored, Vectors,
    rerank::{BoostingOptions, Examples, Objective, boosting},
    search::{ExactIndex, SearchRequest, VectorSearch},
};
use rayon::prelude::*;

use super::{
    DAY_MS,
    features::Fixed,
    knowledge::{Candidate, Instant, Knowledge},
    live::LAST_OUT,
    saved::{FeatureGain, HeldOut, RerankerInfo, SavedTrees},
};
use crate::{retriever::vectors_of, run::Run, validation};

/// Clicks in the validation period from which on `auto` learns from impressions.
const ENOUGH_CLICKS: usize = 500;
/// Users whose lists are searched at a time.
const TILE: usize = 512;
/// One user in so many is held out of the trees.
const ONE_HELD_OUT_OF: u64 = 5;
const HELD_OUT_SALT: u64 = 0x7265_7261_6e6b;
const SAMPLE_SALT: u64 = 0x7361_6d70_6c65;

/// What to learn from, and how.
#[derive(Debug, Clone)]
pub struct RerankOptions {
    /// The run.
    pub run: PathBuf,
    /// The dataset, if it is no longer where it was.
    pub dataset: Option<PathBuf>,
    /// Where the towers run.
    pub device: DeviceChoice,
    /// `reranker.key=value` over the run's configuration.
    pub settings: Vec<String>,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct RerankSummary {
    /// Where the trees lie.
    pub dir: PathBuf,
    /// What is known of them.
    pub info: RerankerInfo,
    /// Seconds it took.
    pub seconds: f64,
}

/// Trains trees for a run and writes them as `RUN/reranker/`, in place of older ones.
///
/// # Errors
/// [`Error::Input`] if the run keeps no parameters that have not seen the validation part, or there is nothing to learn from; the errors
/// of reading run and dataset.
pub fn train_reranker(options: &RerankOptions) -> Result<RerankSummary> {
    let started = Stopwatch::now();
    let run = Run::open(&options.run, options.device)?;
    let config = reranker_config(&run, &options.settings)?;
    let dataset = run.dataset(options.dataset.as_deref())?;
    let material = Material::new(&run, &dataset, options.device, &config)?;
    let Made { train, held_out, kind, with_followers, knowledge } = material.examples()?;
    let growth = BoostingOptions {
        objective: match config.objective {
            RerankerObjective::Binary => Objective::Binary,
            RerankerObjective::Lambda => Objective::Lambda,
        },
        trees: config.trees,
        leaves: config.leaves,
        learning_rate: config.learning_rate,
        leaf_rows: config.leaf_examples,
        l2: config.l2,
        ..BoostingOptions::default()
    };
    let fitted = boosting::fit(&train, &held_out, &growth)?;
    let model_scores: Vec<f64> =
        held_out.values.chunks_exact(held_out.features).map(|row| f64::from(row[Fixed::Score as usize])).collect();
    let measured = held_out.ndcg(&model_scores).zip(fitted.held_out_ndcg).map(|(model_ndcg, trees_ndcg)| HeldOut {
        lists: held_out.lists_with_positives(),
        model_ndcg,
        trees_ndcg,
    });
    let info = RerankerInfo {
        dataset_fingerprint: run.info.dataset_fingerprint.clone(),
        weights: run.weights.clone(),
        config: config.clone(),
        examples: kind.to_owned(),
        rows: train.labels.len(),
        positives: train.positives(),
        lists: train.n_lists(),
        with_followers,
        trees: fitted.forest.trees(),
        held_out: measured,
        features: knowledge
            .features()
            .into_iter()
            .zip(fitted.gains)
            .map(|(feature, gain)| FeatureGain { feature, gain })
            .collect(),
    };
    let dir = SavedTrees::write(&run.dir, &info, &fitted.forest)?;
    Ok(RerankSummary { dir, info, seconds: started.elapsed().as_secs_f64() })
}

fn reranker_config(run: &Run, settings: &[String]) -> Result<RerankerConfig> {
    if let Some(other) = settings.iter().find(|setting| !setting.starts_with("reranker.")) {
        return Err(Error::input(format!(
            "{other:?} is not of the re-ranker; valid here: reranker.KEY=VALUE (the rest was set when the run was trained)"
        )));
    }
    let text = run.config.to_toml()?;
    let name = run.dir.join("config.toml").display().to_string();
    Ok(Config::resolve(&[(name.as_str(), text.as_str())], settings)?.reranker)
}

/// The dataset without the validation part, and the model that has not seen it.
struct Material<'a> {
    config: &'a RerankerConfig,
    dataset: &'a Dataset,
    /// Events that may be known.
    part: Timeline,
    cases: Vec<EvaluationCase>,
    spec: SplitSpec,
    users: Vectors,
    items: Arc<Vectors>,
    width: usize,
}

struct Made {
    train: Examples,
    held_out: Examples,
    kind: &'static str,
    with_followers: bool,
    knowledge: Knowledge,
}

/// What one user was shown, or would have been.
struct Listed {
    user: UserIdx,
    entries: Vec<(ItemIdx, bool, u32)>,
}

impl<'a> Material<'a> {
    fn new(run: &Run, dataset: &'a Dataset, device: DeviceChoice, config: &'a RerankerConfig) -> Result<Self> {
        let model = run.unseen_model(device)?;
        // The same cut as in training, with all its users.
        let mut cut = run.config.clone();
        cut.data.validation_users = 0;
        let (part, cases) = validation::cases(&dataset.timeline()?, &cut, &dataset.info)?;
        let vectors = vectors_of(&model, run, dataset, &part)?;
        Ok(Self {
            config,
            dataset,
            part,
            cases,
            spec: validation::split_spec(&cut, &dataset.info),
            users: vectors.users,
            items: Arc::new(vectors.items),
            width: vectors.direction_width,
        })
    }

    fn examples(self) -> Result<Made> {
        let shown = match self.config.examples {
            RerankerExamples::Candidates => None,
            wanted => self.shown()?.filter(|shown| wanted == RerankerExamples::Impressions || shown.is_enough()),
        };
        if shown.is_none() && self.config.examples == RerankerExamples::Impressions {
            return Err(Error::input(format!(
                "{} has no impressions of a validation period to learn from: that takes prepared events and a validation part by \
                 time (data.validation=global-time); reranker.examples=candidates learns from the model's lists",
                self.dataset.dir.display()
            )));
        }
        let (followers, lists, kind) = match shown {
            Some(Shown { followers, lists }) => (followers, Some(lists), "impressions"),
            None => (None, None, "candidates"),
        };
        let knowledge = Knowledge::new(self.dataset, self.part.clone(), &self.items, self.width, followers.clone())?;
        let features = knowledge.features().len();
        let (mut train, mut held_out) = (Examples::new(features), Examples::new(features));
        let index = ExactIndex::new(Arc::clone(&self.items))?;
        let tiles = Tiles { material: &self, index: &index, knowledge: &knowledge };
        let most = self.config.max_examples;
        match lists {
            Some(lists) => {
                for tile in lists.chunks(TILE) {
                    tiles.of_shown(tile, &mut train, &mut held_out)?;
                }
            }
            None => {
                let mut cases: Vec<&EvaluationCase> = self.cases.iter().filter(|case| case.user.is_some()).collect();
                cases.sort_by_key(|case| case.user.map(|user| (splitmix64(SAMPLE_SALT ^ u64::from(user.0)), user)));
                for tile in cases.chunks(TILE) {
                    tiles.of_cases(tile, &mut train, &mut held_out)?;
                    if train.labels.len() + held_out.labels.len() >= most {
                        break;
                    }
                }
            }
        }
        tracing::info!(kind, rows = train.labels.len(), positives = train.positives(), "examples of the re-ranker");
        Ok(Made { train, held_out, kind, with_followers: followers.is_some(), knowledge })
    }

    /// What was shown on the days after the training part; nothing where the cut is not by time or the dataset has no impressions.
    fn shown(&self) -> Result<Option<Shown>> {
        let last = self.part.timestamps_ms.iter().max();
        let (SplitSpec::GlobalTime { .. }, Some(last)) = (&self.spec, last) else { return Ok(None) };
        let from_ms = (last.div_euclid(DAY_MS) + 1) * DAY_MS;
        let mut impressions: Vec<ArtistImpression> = Vec::new();
        let mut known: Vec<(i64, f64)> = vec![(i64::MIN, f64::NAN); self.items.len()];
        let has_any = self.dataset.for_each_artist_impression(|one| {
            if one.timestamp_ms >= from_ms {
                impressions.push(one);
            } else if let (Some(followers), Some(known)) = (one.followers, known.get_mut(one.item.index()))
                && one.timestamp_ms >= known.0
            {
                *known = (one.timestamp_ms, followers);
            }
        })?;
        if !has_any || impressions.is_empty() {
            return Ok(None);
        }
        // Whole users, so that lists stay whole.
        let share = self.config.max_examples as f64 / impressions.len() as f64;
        let kept = |user: UserIdx| (splitmix64(SAMPLE_SALT ^ u64::from(user.0)) as f64) < share * u64::MAX as f64;
        let mut lists: Vec<Listed> = Vec::new();
        for one in impressions.into_iter().filter(|one| kept(one.user)) {
            let entry = (one.item, one.clicked, one.position.unwrap_or(0));
            match lists.last_mut() {
                Some(list) if list.user == one.user => list.entries.push(entry),
                _ => lists.push(Listed { user: one.user, entries: vec![entry] }),
            }
        }
        let followers: Vec<f64> = known.into_iter().map(|(_, followers)| followers).collect();
        let followers = followers.iter().any(|count| !count.is_nan()).then_some(followers);
        Ok(Some(Shown { followers, lists }))
    }
}

struct Shown {
    /// Of each item, as of the last time it was shown before; only where they are known at all.
    followers: Option<Vec<f64>>,
    lists: Vec<Listed>,
}

impl Shown {
    fn is_enough(&self) -> bool {
        let clicks = |list: &Listed| list.entries.iter().filter(|(_, clicked, _)| *clicked).count();
        self.lists.iter().map(clicks).sum::<usize>() >= ENOUGH_CLICKS
    }
}

/// Makes rows for some users at a time.
struct Tiles<'a> {
    material: &'a Material<'a>,
    index: &'a ExactIndex,
    knowledge: &'a Knowledge,
}

/// The rows and labels of a list; none where nothing is wanted.
type ListRows = Option<(Vec<f32>, Vec<bool>)>;

impl Tiles<'_> {
    fn of_cases(&self, cases: &[&EvaluationCase], train: &mut Examples, held_out: &mut Examples) -> Result<()> {
        let users: Vec<UserIdx> = cases.iter().filter_map(|case| case.user).collect();
        let lists = self.search(&users, &cases.iter().map(|case| case.exclude.as_slice()).collect::<Vec<_>>())?;
        let rows = |((case, &user), list): ((&&EvaluationCase, &UserIdx), &Vec<Scored>)| -> Result<ListRows> {
            let labels: Vec<bool> = list.iter().map(|entry| case.truth.contains(&entry.item)).collect();
            if !labels.contains(&true) {
                return Ok(None);
            }
            let candidate = |(place, &scored): (usize, &Scored)| Candidate { scored, place: Some(place), position: 0 };
            let (candidates, labels) = by_item((0..).zip(list).map(candidate).zip(labels).collect());
            let best = list.first().map_or(0.0, |first| first.score);
            let rows = self.knowledge.rows(Some(user), &case.history, self.instant(user), &candidates, best)?;
            Ok(Some((rows, labels)))
        };
        let made: Vec<ListRows> = cases.par_iter().zip(&users).zip(&lists).map(rows).collect::<Result<_>>()?;
        push(&users, made, train, held_out);
        Ok(())
    }

    fn of_shown(&self, lists: &[Listed], train: &mut Examples, held_out: &mut Examples) -> Result<()> {
        let users: Vec<UserIdx> = lists.iter().map(|list| list.user).collect();
        let seen: Vec<Vec<ItemIdx>> = users
            .iter()
            .map(|&user| {
                let mut seen = self.material.part.items_of(user).to_vec();
                seen.sort_unstable();
                seen.dedup();
                seen
            })
            .collect();
        let found = self.search(&users, &seen.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
        let rows = |(list, found): (&Listed, &Vec<Scored>)| -> Result<ListRows> {
            let user = list.user;
            let vector = self.material.users.row(user.index());
            let candidate = |&(item, clicked, position): &(ItemIdx, bool, u32)| {
                let score = vector.iter().zip(self.material.items.row(item.index())).map(|(a, b)| a * b).sum();
                let place = found.iter().position(|entry| entry.item == item);
                (Candidate { scored: Scored { item, score }, place, position }, clicked)
            };
            let (candidates, labels) = by_item(list.entries.iter().map(candidate).collect());
            let best = found.first().map_or(0.0, |first| first.score);
            let rows = self.knowledge.rows(Some(user), &[], self.instant(user), &candidates, best)?;
            Ok(Some((rows, labels)))
        };
        let made: Vec<ListRows> = lists.par_iter().zip(&found).map(rows).collect::<Result<_>>()?;
        push(&users, made, train, held_out);
        Ok(())
    }

    fn search(&self, users: &[UserIdx], exclude: &[&[ItemIdx]]) -> Result<Vec<Vec<Scored>>> {
        let vectors: Vec<f32> = users.iter().flat_map(|user| self.material.users.row(user.index()).to_vec()).collect();
        let k = self.material.config.candidates;
        let requests: Vec<SearchRequest<'_>> =
            exclude.iter().map(|exclude| SearchRequest { k, filter: None, exclude }).collect();
        self.index.search(&vectors, &requests)
    }

    /// When a user is asked about: never after what is to be found.
    fn instant(&self, user: UserIdx) -> Instant {
        if self.material.spec.kind() == LAST_OUT { self.knowledge.last_event(Some(user)) } else { self.knowledge.end() }
    }
}

/// Rows of a list in the order of their items, as equal scores stand when lists are made. In the order of the model, or of the page, the
/// measure of the held-out lists would have that order's help wherever trees tell rows not apart.
fn by_item(mut rows: Vec<(Candidate, bool)>) -> (Vec<Candidate>, Vec<bool>) {
    rows.sort_by_key(|(candidate, _)| candidate.scored.item);
    rows.into_iter().unzip()
}

fn push(users: &[UserIdx], made: Vec<ListRows>, train: &mut Examples, held_out: &mut Examples) {
    for (user, list) in users.iter().zip(made) {
        if let Some((mut rows, labels)) = list {
            let is_held_out = splitmix64(HELD_OUT_SALT ^ u64::from(user.0)).is_multiple_of(ONE_HELD_OUT_OF);
            let examples = if is_held_out { &mut *held_out } else { &mut *train };
            if is_held_out {
                // Measured as it will be asked: who clicked because it stood on top is not foreseen by knowing what stood there.
                for row in rows.chunks_exact_mut(examples.features) {
                    row[Fixed::Position as usize] = 0.0;
                }
            }
            examples.push(&rows, &labels);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_out_lists_do_not_know_where_things_stood() {
        let width = Fixed::Position as usize + 1;
        let (mut train, mut held_out) = (Examples::new(width), Examples::new(width));
        let users: Vec<UserIdx> = (0..100).map(UserIdx).collect();
        let list = || -> ListRows { Some(((0..2 * width).map(|at| at as f32 + 1.0).collect(), vec![true, false])) };
        push(&users, users.iter().map(|_| list()).collect(), &mut train, &mut held_out);
        assert!(held_out.n_lists() > 5 && train.n_lists() > 50, "{} and {}", held_out.n_lists(), train.n_lists());
        let positions =
            |of: &Examples| -> Vec<f32> { of.values[..2 * width].chunks(width).map(|row| row[width - 1]).collect() };
        assert_eq!(positions(&held_out), [0.0, 0.0]);
        assert_eq!(positions(&train), [width as f32, 2.0 * width as f32]);
        assert_eq!(held_out.values[..width - 1], train.values[..width - 1]);
    }

    #[test]
    fn rows_stand_by_item() {
        let row = |item: u32, score: f32| Candidate {
            scored: Scored { item: ItemIdx(item), score },
            place: Some(item as usize),
            position: item,
        };
        let (rows, labels) = by_item(vec![(row(9, 3.0), true), (row(2, 2.0), false), (row(5, 1.0), true)]);
        let found: Vec<(u32, f32)> = rows.iter().map(|one| (one.scored.item.0, one.scored.score)).collect();
        assert_eq!((found, labels), (vec![(2, 2.0), (5, 1.0), (9, 3.0)], vec![false, true, true]));
    }
}
