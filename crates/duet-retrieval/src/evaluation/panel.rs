//! Who is measured, and what is known of the catalogue.

use std::sync::Arc;

use duet_core::{Error, ItemIdx, Result, UserIdx};

use crate::{recommender::Query, segments::ItemDivision, unit_vectors::UnitVectors};

/// One test user.
#[derive(Debug, Clone, PartialEq)]
pub struct EvaluationCase {
    /// External id.
    pub user_id: String,
    /// Row, where the recommender may know the user by it.
    pub user: Option<UserIdx>,
    /// Training history, oldest first.
    pub history: Vec<ItemIdx>,
    /// Items that must not be recommended (usually: seen in training), sorted, without repeats.
    pub exclude: Vec<ItemIdx>,
    /// Test items of the catalogue, without repeats and without what was seen.
    pub truth: Vec<ItemIdx>,
    /// Further test items, which the catalogue does not know.
    pub unknown_truth: usize,
    /// Whether the user had no training history.
    pub cold: bool,
}

impl EvaluationCase {
    pub(super) fn query(&self, k: usize) -> Query<'_> {
        Query { user: self.user, history: &self.history, k, filter: None, exclude: &self.exclude }
    }

    pub(super) fn has_truth(&self) -> bool {
        self.truth.len() + self.unknown_truth > 0
    }
}

/// The users that recommenders are compared on, all of them with something to find. Cheap to clone: every evaluation keeps one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Panel(Arc<Vec<EvaluationCase>>);

impl Panel {
    /// Leaves out who has no test items.
    ///
    /// # Errors
    /// [`Error::Input`] if nobody is left.
    pub fn new(mut cases: Vec<EvaluationCase>) -> Result<Self> {
        cases.retain(EvaluationCase::has_truth);
        if cases.is_empty() {
            return Err(Error::input("no user has test items: there is nothing to evaluate"));
        }
        Ok(Self(Arc::new(cases)))
    }

    /// The users, in their order.
    pub fn cases(&self) -> &[EvaluationCase] {
        &self.0
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the other panel is of the same users in the same order.
    pub fn has_users_of(&self, other: &Self) -> bool {
        let same = |(a, b): (&EvaluationCase, &EvaluationCase)| a.user_id == b.user_id;
        Arc::ptr_eq(&self.0, &other.0) || (self.len() == other.len() && self.0.iter().zip(other.cases()).all(same))
    }
}

/// What evaluation needs to know of the catalogue.
#[derive(Debug, Clone, Copy)]
pub struct CatalogueInfo<'a> {
    /// Training listeners of each item.
    pub popularity: &'a [u32],
    /// Users with training events: what popularity is a share of.
    pub listeners: usize,
    /// Vectors whose cosine says how alike two items are: what diversity is measured by.
    pub vectors: Option<&'a UnitVectors>,
    /// Ways to divide the items; Recall is measured for the items of each part.
    pub divisions: &'a [ItemDivision],
}

impl<'a> CatalogueInfo<'a> {
    /// A catalogue of as many items as `popularity` has.
    pub fn new(popularity: &'a [u32], listeners: usize) -> Self {
        Self { popularity, listeners, vectors: None, divisions: &[] }
    }

    /// Number of items.
    pub fn n_items(&self) -> usize {
        self.popularity.len()
    }

    /// Checks that everything is of the same items.
    pub(super) fn check(&self) -> Result<()> {
        let counts = self.divisions.iter().map(|division| division.parts.len());
        match counts.chain(self.vectors.map(UnitVectors::len)).find(|count| *count != self.n_items()) {
            Some(count) => {
                Err(Error::input(format!("something of {count} items for a catalogue of {}", self.n_items())))
            }
            None => Ok(()),
        }
    }
}
