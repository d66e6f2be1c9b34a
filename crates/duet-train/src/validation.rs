//! The validation part: cut from the training events, ranked over the whole catalogue.

use std::sync::Arc;

use duet_core::{
    Error, ItemIdx, Result, UserIdx,
    config::{Config, Validation},
};
use duet_data::{
    dataset::{DatasetInfo, Timeline},
    split::{SplitSpec, TimePoint, validation_split},
};
use duet_model::model::TwoTower;
use duet_retrieval::{
    EvaluationCase,
    metrics::{Metric, user_metrics},
    search::{ExactIndex, SearchRequest, VectorSearch},
};
use rand::{SeedableRng, seq::SliceRandom};
use rand_pcg::Pcg64Mcg;

use crate::{
    embedding_pass::{UserInput, embed_items, embed_users},
    examples::Examples,
};

const K: usize = 10;

/// Validation users with what they should be shown.
#[derive(Debug)]
pub struct ValidationPart {
    cases: Vec<Case>,
}

#[derive(Debug)]
struct Case {
    user: UserIdx,
    truth: Vec<ItemIdx>,
    exclude: Vec<ItemIdx>,
}

/// How the validation part is cut for this dataset.
pub fn split_spec(config: &Config, info: &DatasetInfo) -> SplitSpec {
    let fraction = config.data.validation_fraction;
    let random = SplitSpec::Random { fraction, seed: config.train.seed };
    let global = SplitSpec::GlobalTime { at: TimePoint::Quantile(1.0 - fraction), gap_ms: 0 };
    match config.data.validation {
        Validation::None => SplitSpec::None,
        Validation::LeaveLastOut => SplitSpec::LeaveLastOut { n: 1 },
        Validation::GlobalTime => global,
        Validation::Random => random,
        Validation::Auto => match info.split.kind.as_str() {
            "global-time" => global,
            "random" => random,
            _ if info.has_time => SplitSpec::LeaveLastOut { n: 1 },
            _ => random,
        },
    }
}

/// Cuts the part. The training events that remain come first.
///
/// # Errors
/// As [`validation_split`].
pub fn cut(timeline: Timeline, config: &Config, info: &DatasetInfo) -> Result<(Timeline, Option<ValidationPart>)> {
    match split_spec(config, info) {
        SplitSpec::None => Ok((timeline, None)),
        spec => cut_by(&timeline, &spec, config),
    }
}

/// Cuts the part as told.
///
/// # Errors
/// As [`validation_split`].
fn cut_by(timeline: &Timeline, spec: &SplitSpec, config: &Config) -> Result<(Timeline, Option<ValidationPart>)> {
    let (training, held_out) = validation_split(timeline, spec)?;
    let mut cases: Vec<Case> = held_out
        .into_iter()
        .filter_map(|(user, mut truth)| {
            let mut exclude = training.items_of(user).to_vec();
            exclude.sort_unstable();
            exclude.dedup();
            truth.retain(|item| exclude.binary_search(item).is_err());
            truth.sort_unstable();
            truth.dedup();
            (!truth.is_empty()).then_some(Case { user, truth, exclude })
        })
        .collect();
    let most = config.data.validation_users;
    if most > 0 && cases.len() > most {
        cases.shuffle(&mut Pcg64Mcg::seed_from_u64(config.train.seed));
        cases.truncate(most);
    }
    let part = (!cases.is_empty()).then_some(ValidationPart { cases });
    Ok((training, part))
}

/// Cuts the part even where training did without one: the events that remain, and the validation users as test cases.
///
/// # Errors
/// As [`validation_split`]; [`Error::Input`] if nobody has anything left to find.
pub fn cases(timeline: &Timeline, config: &Config, info: &DatasetInfo) -> Result<(Timeline, Vec<EvaluationCase>)> {
    let mut config = config.clone();
    if config.data.validation == Validation::None {
        config.data.validation = Validation::Auto;
    }
    let (training, part) = cut_by(timeline, &split_spec(&config, info), &config)?;
    let Some(part) = part else {
        return Err(Error::input(format!(
            "no validation part can be cut from the training events (data.validation_fraction is {}), so there is nothing \
             to tune on; raise it, or leave --tune away",
            config.data.validation_fraction
        )));
    };
    let cases = part.cases.into_iter().map(|Case { user, truth, exclude }| {
        let history = training.items_of(user).to_vec();
        EvaluationCase {
            user_id: user.0.to_string(),
            user: Some(user),
            cold: history.is_empty(),
            history,
            exclude,
            truth,
            unknown_truth: 0,
        }
    });
    let cases = cases.collect();
    Ok((training, cases))
}

impl ValidationPart {
    /// Users ranked.
    pub fn len(&self) -> usize {
        self.cases.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.cases.is_empty()
    }

    /// Mean NDCG@10 and Recall@10 of the model over the validation users, seen items left out.
    ///
    /// # Errors
    /// As the embedding and the search.
    pub fn measure(&self, model: &TwoTower, config: &Config, examples: &Examples, shift: &[f32]) -> Result<(f64, f64)> {
        let items = embed_items(model, &examples.items, &examples.counts, shift)?;
        let timeline = &examples.timeline;
        let inputs = self.cases.iter().map(|case| {
            let range = timeline.range(case.user);
            UserInput {
                features: case.user.0,
                trained_row: (!range.is_empty()).then_some(case.user.0),
                items: &timeline.items[range.clone()],
                weights: timeline.weights.get(range).unwrap_or(&[]),
                before: 0,
            }
        });
        let users = embed_users(model, config, &examples.users, inputs)?;
        let index = ExactIndex::new(Arc::new(items))?;
        let requests: Vec<SearchRequest<'_>> =
            self.cases.iter().map(|case| SearchRequest { k: K, filter: None, exclude: &case.exclude }).collect();
        let lists = index.search(&users.data, &requests)?;
        let (mut ndcg, mut recall) = (0.0, 0.0);
        for (case, list) in self.cases.iter().zip(lists) {
            let list: Vec<ItemIdx> = list.into_iter().map(|scored| scored.item).collect();
            let values = user_metrics(&list, &case.truth, 0, &[K]);
            recall += values[Metric::Recall as usize];
            ndcg += values[Metric::Ndcg as usize];
        }
        let users = self.cases.len() as f64;
        Ok((ndcg / users, recall / users))
    }
}
