//! From a paired difference to words: better, worse, or not told apart; and the price of asking about many segments at once.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::bootstrap::PairedDifference;

/// The share of wrong alarms that is accepted: over one test, or over a whole family of them ([`holm`]).
pub const ALPHA: f64 = 0.05;

/// What a difference shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The challenger is better.
    Better,
    /// Neither is shown to be better.
    NoDifference,
    /// The challenger is worse.
    Worse,
}

impl Outcome {
    /// In a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::NoDifference => "no difference shown",
            Self::Worse => "worse",
        }
    }
}

/// A verdict on a challenger, by its difference to another recommender on the same users.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// E.g. `ndcg@10`.
    pub metric: String,
    /// What it shows.
    pub outcome: Outcome,
    /// Challenger minus the other.
    #[serde(flatten)]
    pub paired: PairedDifference,
    /// The p-value corrected over the family of tests that this one belongs to; `None` for a single test.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adjusted_p: Option<f64>,
}

impl Verdict {
    /// The verdict of a single test: by whether the 95 % interval leaves zero out.
    pub fn alone(metric: impl Into<String>, paired: PairedDifference) -> Self {
        let outcome = outcome(&paired, paired.is_significant());
        Self { metric: metric.into(), outcome, paired, adjusted_p: None }
    }

    /// The verdicts of a family of tests, by p-values corrected with [`holm`].
    pub fn family(tests: impl IntoIterator<Item = (String, PairedDifference)>) -> Vec<Self> {
        let tests: Vec<(String, PairedDifference)> = tests.into_iter().collect();
        let adjusted = holm(&tests.iter().map(|(_, paired)| paired.p_value).collect::<Vec<_>>());
        tests
            .into_iter()
            .zip(adjusted)
            .map(|((metric, paired), p)| Self {
                metric,
                outcome: outcome(&paired, p <= ALPHA),
                paired,
                adjusted_p: Some(p),
            })
            .collect()
    }
}

fn outcome(paired: &PairedDifference, is_shown: bool) -> Outcome {
    match (is_shown, paired.difference.mean) {
        (true, mean) if mean > 0.0 => Outcome::Better,
        (true, mean) if mean < 0.0 => Outcome::Worse,
        _ => Outcome::NoDifference,
    }
}

impl fmt::Display for Verdict {
    /// `better by 0.0042 [0.0011, 0.0074], 95 %`: what is said of the challenger, whose name stands before it.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let difference = self.paired.difference;
        match self.outcome {
            Outcome::Better => {
                write!(
                    formatter,
                    "better by {:.4} [{:.4}, {:.4}], 95 %",
                    difference.mean, difference.low, difference.high
                )
            }
            Outcome::Worse => {
                let (mean, low, high) = (-difference.mean, -difference.high, -difference.low);
                write!(formatter, "worse by {mean:.4} [{low:.4}, {high:.4}], 95 %")
            }
            Outcome::NoDifference => write!(
                formatter,
                "no difference shown: {:+.4} [{:+.4}, {:+.4}], 95 %",
                difference.mean, difference.low, difference.high
            ),
        }?;
        match self.adjusted_p {
            Some(p) if p < 0.0001 => write!(formatter, ", p < 0.0001 over all segments"),
            Some(p) => write!(formatter, ", p = {p:.4} over all segments"),
            None => Ok(()),
        }
    }
}

/// P-values corrected for all being asked at once, in their order (Holm 1979): the smallest of m is multiplied by m, the next by
/// m - 1, and so on, none below the one before, none above 1. Calling those at or below [`ALPHA`] shown is wrong about even one
/// true "no difference" with at most that probability, however the tests depend on each other.
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&a, &b| p_values[a].total_cmp(&p_values[b]));
    let mut adjusted = vec![0.0; p_values.len()];
    let mut last = 0.0_f64;
    for (rank, &at) in order.iter().enumerate() {
        last = last.max((p_values[at] * (p_values.len() - rank) as f64).min(1.0));
        adjusted[at] = last;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::Interval;

    fn paired(mean: f64, low: f64, high: f64, p_value: f64) -> PairedDifference {
        PairedDifference { difference: Interval { mean, low, high }, share_not_better: 0.5, p_value, users: 7 }
    }

    #[test]
    fn holm_by_hand() {
        let close = |found: Vec<f64>, expected: &[f64]| {
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{found:?}, not {expected:?}");
        };
        // Sorted: .01 * 4, .02 * 3, .03 * 2, .04 * 1; the last two may not fall below .06.
        close(holm(&[0.04, 0.01, 0.03, 0.02]), &[0.06, 0.04, 0.06, 0.06]);
        // .005 * 3, .011 * 2, .04 * 1.
        close(holm(&[0.011, 0.04, 0.005]), &[0.022, 0.04, 0.015]);
        close(holm(&[0.6, 0.5]), &[1.0, 1.0]);
        close(holm(&[0.03]), &[0.03]);
        assert!(holm(&[]).is_empty());
    }

    #[test]
    fn words_follow_the_interval() {
        let say = |mean, low, high| Verdict::alone("ndcg@10", paired(mean, low, high, 0.01)).to_string();
        assert_eq!(say(0.0042, 0.0011, 0.0074), "better by 0.0042 [0.0011, 0.0074], 95 %");
        assert_eq!(say(-0.0042, -0.0074, -0.0011), "worse by 0.0042 [0.0011, 0.0074], 95 %");
        assert_eq!(say(0.001, -0.0012, 0.0031), "no difference shown: +0.0010 [-0.0012, +0.0031], 95 %");
        assert_eq!(say(0.0, 0.0, 0.0), "no difference shown: +0.0000 [+0.0000, +0.0000], 95 %");
    }

    #[test]
    fn a_family_needs_more_than_each_interval() {
        // Each of the two intervals leaves zero out; of four tests, .02 * 3 is not enough.
        let tests = [
            paired(-0.2, -0.3, -0.1, 0.001),
            paired(0.1, 0.01, 0.2, 0.02),
            paired(0.0, -0.1, 0.1, 0.9),
            paired(0.0, -0.1, 0.1, 0.8),
        ];
        let verdicts = Verdict::family(tests.map(|paired| ("ndcg@10".to_owned(), paired)));
        let outcomes: Vec<Outcome> = verdicts.iter().map(|verdict| verdict.outcome).collect();
        use Outcome::{NoDifference, Worse};
        assert_eq!(outcomes, [Worse, NoDifference, NoDifference, NoDifference]);
        assert_eq!(verdicts[0].to_string(), "worse by 0.2000 [0.1000, 0.3000], 95 %, p = 0.0040 over all segments");
        assert_eq!(Verdict::alone("ndcg@10", tests[1]).outcome, Outcome::Better);
    }
}
