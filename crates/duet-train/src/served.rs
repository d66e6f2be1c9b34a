//! The two-tower as it serves: personal lists where the model knows something, a fallback where it does not.

use duet_core::{Error, ItemIdx, Result, UserIdx};
use duet_retrieval::{
    Query, Recommender, Scored, VectorRecommender,
    search::{Index, VectorSearch},
};

/// The name under which the model stands in tables.
pub const TWO_TOWER: &str = "two_tower";

/// A vector recommender with a fallback for users it knows nothing about: no row, or neither history nor features.
///
/// The vector of such a user would be the same for all of them and was never trained to rank; measured apart, the
/// fallback is what they would really see.
pub struct ServedTwoTower {
    name: String,
    model: VectorRecommender<Index>,
    personal: Vec<bool>,
    fallback: Box<dyn Recommender>,
}

impl ServedTwoTower {
    /// `personal[user]` says whether the user's own vector is used.
    ///
    /// # Errors
    /// [`Error::Internal`] if there is not one flag per user vector.
    pub fn new(
        name: impl Into<String>,
        model: VectorRecommender<Index>,
        personal: Vec<bool>,
        fallback: Box<dyn Recommender>,
    ) -> Result<Self> {
        if personal.len() != model.users().len() {
            return Err(Error::Internal(format!("{} flags for {} user vectors", personal.len(), model.users().len())));
        }
        Ok(Self { name: name.into(), model, personal, fallback })
    }

    /// The same under another name in tables.
    pub fn named(self, name: impl Into<String>) -> Self {
        Self { name: name.into(), ..self }
    }

    /// User vectors, and the index over the item vectors.
    pub fn model(&self) -> &VectorRecommender<Index> {
        &self.model
    }

    /// Whether the list of this user comes from their own vector.
    pub fn is_personal(&self, user: Option<UserIdx>) -> bool {
        user.is_some_and(|user| self.personal.get(user.index()).copied().unwrap_or(false))
    }
}

impl Recommender for ServedTwoTower {
    fn name(&self) -> &str {
        &self.name
    }

    fn is_exact(&self) -> bool {
        self.model.search().is_exact() && self.fallback.is_exact()
    }

    fn recommend(&self, queries: &[Query<'_>]) -> Result<Vec<Vec<Scored>>> {
        let (personal, others): (Vec<Query<'_>>, Vec<Query<'_>>) =
            queries.iter().copied().partition(|query| self.is_personal(query.user));
        let mut personal = self.model.recommend(&personal)?.into_iter();
        let mut others = self.fallback.recommend(&others)?.into_iter();
        queries
            .iter()
            .map(|query| if self.is_personal(query.user) { personal.next() } else { others.next() })
            .map(|list| list.ok_or_else(|| Error::Internal("fewer lists than queries".into())))
            .collect()
    }

    fn similar(&self, item: ItemIdx, k: usize) -> Result<Vec<Scored>> {
        self.model.similar(item, k)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::Arc;

    use duet_retrieval::{Vectors, baselines::Popularity, search::ExactIndex};

    use super::*;

    #[test]
    fn unknown_users_get_the_fallback_in_place() {
        let items = Vectors::new(2, vec![1.0, 0.0, 0.0, 1.0, 0.5, 0.5]).unwrap();
        let users = Vectors::new(2, vec![1.0, 0.1, 1.0, 0.1]).unwrap();
        let index = Index::Exact(ExactIndex::new(Arc::new(items)).unwrap());
        let model = VectorRecommender::new("model", users, index).unwrap();
        let fallback = Box::new(Popularity::from_counts(&[1, 5, 3]));
        let served = ServedTwoTower::new("two_tower", model, vec![true, false], fallback).unwrap();
        let query =
            |user: Option<u32>| Query { user: user.map(UserIdx), history: &[], k: 2, filter: None, exclude: &[] };
        let lists = served.recommend(&[query(None), query(Some(0)), query(Some(1)), query(Some(0))]).unwrap();
        let rows: Vec<Vec<u32>> = lists.iter().map(|list| list.iter().map(|entry| entry.item.0).collect()).collect();
        assert_eq!(rows, [[1, 2], [0, 2], [1, 2], [0, 2]]);
    }
}
