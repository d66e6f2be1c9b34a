//! Over-fitting and agreement: the same metric on events the model learned from, on the validation part, and on the test part.
//!
//! The training sample is cut from the events that training saw exactly as the validation part was cut from all of them: the same
//! kind of question, asked about events that were learned from. How much of a gap is due to the question itself, popularity on the
//! same users shows.
//!
//! The reverse is an alarm too: nobody predicts the future better than what was learned, so a test part that is easier for the model
//! than its training sample, and not so for popularity, speaks for features that know the future. It can't see a column that knows as
//! much of the training events as of the held-out ones (both parts get easier alike), nor one that training can't make anything of: an
//! item that is nobody's target with that value is not learned from it.

use duet_core::{Result, UserIdx, config::Validation};
use duet_data::dataset::Timeline;
use duet_retrieval::{
    EvaluationCase, EvaluationOptions, Panel, Query, Recommender, Scored, VectorRecommender, Vectors,
    baselines::Popularity,
    bootstrap::Interval,
    evaluation::{CatalogueInfo, evaluate},
    search::{Index, VectorSearch},
};
use serde::Serialize;

use crate::{
    embedding_pass::{UserInput, embed_users},
    interactions::interactions,
    run::Run,
    served::TWO_TOWER,
    validation,
};

/// The cut-off, whatever the report's are: that of the early stop.
const K: usize = 10;
const METRIC: &str = "ndcg@10";
/// The largest gap that raises no alarm, by default: half of what the training sample has.
pub const DEFAULT_MAX_GAP: f64 = 0.5;

/// One part of the events.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FitPart {
    /// Users with something to find.
    pub users: usize,
    /// NDCG@10 of the model.
    #[serde(flatten)]
    pub ndcg: Interval,
    /// NDCG@10 of popularity, counted without the part itself.
    pub popularity: f64,
}

/// The model on what it learned from and on what it did not.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FitGap {
    /// Events that the model learned from, hidden from its users' histories.
    pub training: FitPart,
    /// The validation part.
    pub validation: FitPart,
    /// The test part, users with training events.
    pub test: Option<FitPart>,
    /// `1 - validation / training`.
    pub gap: f64,
    /// The largest gap without an alarm.
    pub max_gap: f64,
    /// Whether the gap is larger.
    pub alarm: bool,
    /// Whether the test part lies above the training sample by more than chance and by more than popularity tells.
    pub leak: bool,
    /// Why the validation part says less than it seems to: training saw it too.
    pub seen: Option<&'static str>,
}

impl FitGap {
    /// Measures the three parts; `None` where no validation part can be cut. `test` has been measured already.
    ///
    /// # Errors
    /// The errors of embedding and ranking.
    pub(super) fn measure(
        run: &Run,
        dataset: &duet_data::dataset::Dataset,
        timeline: &Timeline,
        model: &VectorRecommender<Index>,
        test: Option<FitPart>,
        max_gap: f64,
        options: &EvaluationOptions,
    ) -> Result<Option<Self>> {
        let cut = |timeline: &Timeline| validation::cases(timeline, &run.config, &dataset.info);
        let (learned, validation) = match cut(timeline) {
            Ok(parts) => parts,
            Err(error) => {
                tracing::info!(%error, "no gap between training and validation");
                return Ok(None);
            }
        };
        let Ok((before, training)) = cut(&learned) else { return Ok(None) };
        let (features, _) = run.info.encode(dataset)?;
        let part = |timeline: &Timeline, cases: Vec<EvaluationCase>| -> Result<FitPart> {
            let inputs = cases.iter().map(|case| {
                let user = case.user.unwrap_or(UserIdx(0));
                let range = timeline.range(user);
                UserInput {
                    features: user.0,
                    trained_row: (!range.is_empty()).then_some(user.0),
                    items: &timeline.items[range.clone()],
                    weights: timeline.weights.get(range).unwrap_or(&[]),
                    before: 0,
                }
            });
            let vectors = embed_users(&run.model, &run.config, &features, inputs)?;
            // Rows are those of the vectors, in the order of the cases.
            let numbered = cases.into_iter().enumerate();
            let panel = Panel::new(
                numbered.map(|(row, case)| EvaluationCase { user: Some(UserIdx::from(row)), ..case }).collect(),
            )?;
            let n_items = model.search().vectors().len();
            let interactions = interactions(timeline, n_items)?;
            let counts = interactions.popularity(i64::MIN);
            let catalogue = CatalogueInfo::new(&counts, interactions.n_users());
            let options = EvaluationOptions { ks: vec![K], ..options.clone() };
            let ndcg = |recommender: &dyn Recommender| -> Result<Interval> {
                let evaluation = evaluate(recommender, &panel, catalogue, &options)?;
                let found = evaluation.all.metric(METRIC);
                found.ok_or_else(|| duet_core::Error::Internal(format!("no {METRIC}")))
            };
            Ok(FitPart {
                users: panel.len(),
                ndcg: ndcg(&OtherVectors { model, vectors })?,
                popularity: ndcg(&Popularity::from_counts(&counts))?.mean,
            })
        };
        let training = part(&before, training)?;
        let validation = part(&learned, validation)?;
        let gap = gap(training.ndcg.mean, validation.ndcg.mean);
        let seen = match &run.info.warmed_from {
            Some(_) => Some("a warm start trains on all events, the validation part included"),
            None if run.weights.refitted => Some("the model was refitted on all events, the validation part included"),
            None if run.config.data.validation == Validation::None => Some("training held no validation part out"),
            None => None,
        };
        let leak = test.as_ref().is_some_and(|test| leaks(&training, test));
        Ok(Some(Self { training, validation, test, gap, max_gap, alarm: gap > max_gap, leak, seen }))
    }

    /// In a sentence.
    pub fn sentence(&self) -> String {
        let part = |name: &str, part: &FitPart| {
            format!("{name} {:.4} (popularity {:.4}, {} users)", part.ndcg.mean, part.popularity, part.users)
        };
        let mut parts = vec![part("training sample", &self.training), part("validation", &self.validation)];
        parts.extend(self.test.as_ref().map(|test| part("test", test)));
        let verdict = match self.alarm {
            true => "ALARM: more than",
            false => "within",
        };
        let mut text = format!(
            "NDCG@{K} on {}. The drop from training to validation is {:.0} %, {verdict} the {:.0} % that is allowed.",
            parts.join(", "),
            100.0 * self.gap,
            100.0 * self.max_gap
        );
        if let Some(seen) = self.seen {
            text += &format!(" It says little here: {seen}.");
        }
        if self.leak {
            text += " ALARM: NDCG@10 of the test part is above that of the training sample, also over popularity: does a feature or a \
                     history know the future?";
        }
        text
    }
}

/// Whether the test part is implausibly easy: its interval lies wholly above the training sample's, both as it is and over
/// popularity on the same users, which says how easy the question is by itself.
fn leaks(training: &FitPart, test: &FitPart) -> bool {
    let is_above = test.ndcg.low > training.ndcg.high;
    // a / b > c / d without dividing by zero.
    is_above && test.ndcg.low * training.popularity > training.ndcg.high * test.popularity
}

/// The share of the training sample's metric that is lost on the validation part.
fn gap(training: f64, validation: f64) -> f64 {
    if training > 0.0 { 1.0 - validation / training } else { 0.0 }
}

/// A model with user vectors made elsewhere, by row.
struct OtherVectors<'a> {
    model: &'a VectorRecommender<Index>,
    vectors: Vectors,
}

impl Recommender for OtherVectors<'_> {
    fn name(&self) -> &str {
        TWO_TOWER
    }

    fn is_exact(&self) -> bool {
        self.model.search().is_exact()
    }

    fn recommend(&self, queries: &[Query<'_>]) -> Result<Vec<Vec<Scored>>> {
        let row = |query: &Query<'_>| self.vectors.row(query.user.map_or(0, UserIdx::index)).to_vec();
        let vectors: Vec<f32> = queries.iter().flat_map(row).collect();
        self.model.recommend_vectors(&vectors, queries)
    }

    fn similar(&self, item: duet_core::ItemIdx, k: usize) -> Result<Vec<Scored>> {
        self.model.similar(item, k)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_beyond_the_threshold_is_an_alarm() {
        let part = |mean: f64| FitPart { users: 5, ndcg: Interval { mean, low: mean, high: mean }, popularity: 0.05 };
        let found = |validation: f64, max_gap: f64| {
            let gap = gap(0.2, validation);
            FitGap {
                training: part(0.2),
                validation: part(validation),
                test: None,
                gap,
                max_gap,
                alarm: gap > max_gap,
                leak: false,
                seen: None,
            }
        };
        assert!((gap(0.2, 0.05) - 0.75).abs() < 1e-12 && gap(0.0, 0.1) == 0.0 && gap(0.1, 0.2) < 0.0);
        let said = found(0.05, 0.5).sentence();
        assert!(said.contains("75 %, ALARM: more than the 50 %") && said.contains("popularity 0.0500"), "{said}");
        assert!(found(0.15, 0.5).sentence().contains("25 %, within the 50 %"));
    }

    #[test]
    fn a_test_part_above_the_training_sample_is_a_leak() {
        let part = |low: f64, high: f64, popularity: f64| FitPart {
            users: 5,
            ndcg: Interval { mean: (low + high) / 2.0, low, high },
            popularity,
        };
        let training = part(0.18, 0.22, 0.05);
        assert!(leaks(&training, &part(0.40, 0.44, 0.05)));
        assert!(!leaks(&training, &part(0.20, 0.24, 0.05)), "the intervals overlap");
        assert!(!leaks(&training, &part(0.40, 0.44, 0.15)), "the question itself is easier");
        assert!(!leaks(&training, &part(0.10, 0.14, 0.05)));
        let gap = FitGap {
            training,
            validation: part(0.15, 0.17, 0.05),
            test: Some(part(0.40, 0.44, 0.05)),
            gap: 0.2,
            max_gap: 0.5,
            alarm: false,
            leak: true,
            seen: None,
        };
        assert!(gap.sentence().contains("ALARM") && gap.sentence().contains("the future"), "{}", gap.sentence());
    }
}
