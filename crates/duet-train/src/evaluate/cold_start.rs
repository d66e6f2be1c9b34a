//! The cold-start scoreboard: new users by their number of training events, new items by theirs, against what is trending.

use duet_core::Result;
use duet_retrieval::{
    Evaluation,
    segments::{Division, ItemDivision},
};
use serde::Serialize;

use super::groups::{MeasuredDivision, Measures};

/// What new users and new items get.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ColdStart {
    /// What all are compared with: `trending`, or `popularity` where events have no time. `None` if neither was measured.
    pub against: Option<String>,
    /// Users by training events, every group however small: intervals say what it is worth.
    pub users: MeasuredDivision,
    /// Items by training events: Recall of test items with so many.
    pub items: MeasuredDivision,
}

impl ColdStart {
    /// Measures all recommenders, each against what is trending. `at` is the place of `items` among the item divisions.
    ///
    /// # Errors
    /// As the measures.
    pub(super) fn new(
        evaluations: &[Evaluation],
        measures: &Measures<'_>,
        history: &Division,
        (at, items): (usize, &ItemDivision),
    ) -> Result<Self> {
        let place = |name: &str| evaluations.iter().position(|evaluation| evaluation.recommender == name);
        let against = place("trending").or_else(|| place("popularity"));
        let others = (0..evaluations.len()).filter(|other| Some(*other) != against);
        let measures = Measures {
            evaluations: evaluations.iter().collect(),
            pairs: against.map(|against| others.map(|other| (other, against)).collect()).unwrap_or_default(),
            ..measures.clone()
        };
        Ok(Self {
            against: against.map(|at| evaluations[at].recommender.clone()),
            users: measures.users(history)?,
            items: measures.items(at, items, 1)?,
        })
    }
}
