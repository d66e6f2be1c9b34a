//! A two-tower model after training: user vectors, item vectors, and a search over the items.
//!
//! The score is the dot product of the two. Queries are answered by the user's row; where the user tower runs live,
//! [`VectorRecommender::recommend_vectors`] takes its output instead.

use duet_core::{Error, ItemIdx, Result};

use crate::{
    recommender::{Query, Recommender, Scored, check_item, check_k},
    search::{SearchRequest, VectorSearch},
    vectors::Vectors,
};

/// Recommends by vectors; `S` finds the items (exact, IVF, or a box of either).
pub struct VectorRecommender<S> {
    name: String,
    users: Vectors,
    search: S,
}

impl<S: VectorSearch> VectorRecommender<S> {
    /// User vectors by [`duet_core::UserIdx`], in the dimension of the search.
    ///
    /// # Errors
    /// [`Error::Input`] if the dimensions differ or a component is not finite.
    pub fn new(name: impl Into<String>, users: Vectors, search: S) -> Result<Self> {
        users.check()?;
        if users.dim != search.vectors().dim {
            return Err(Error::input(format!(
                "user vectors have {} dimensions, item vectors {}",
                users.dim,
                search.vectors().dim
            )));
        }
        Ok(Self { name: name.into(), users, search })
    }

    /// The user vectors.
    pub fn users(&self) -> &Vectors {
        &self.users
    }

    /// The search over the item vectors.
    pub fn search(&self) -> &S {
        &self.search
    }

    /// One list per query for user vectors `[queries, dim]` made elsewhere; the queries' own users are not looked at.
    ///
    /// # Errors
    /// As [`Recommender::recommend`].
    pub fn recommend_vectors(&self, vectors: &[f32], queries: &[Query<'_>]) -> Result<Vec<Vec<Scored>>> {
        let requests: Vec<SearchRequest<'_>> = queries
            .iter()
            .map(|query| SearchRequest { k: query.k, filter: query.filter, exclude: query.exclude })
            .collect();
        self.search.search(vectors, &requests)
    }
}

impl<S: VectorSearch> Recommender for VectorRecommender<S> {
    fn name(&self) -> &str {
        &self.name
    }

    fn is_exact(&self) -> bool {
        self.search.is_exact()
    }

    /// A query without a user is answered with the mean of its history's item vectors; without a history either,
    /// every score is 0 and the items come in their order. Callers serve a fallback there.
    fn recommend(&self, queries: &[Query<'_>]) -> Result<Vec<Vec<Scored>>> {
        let items = self.search.vectors();
        let mut vectors = Vec::with_capacity(queries.len() * items.dim);
        for query in queries {
            query.check(items.len())?;
            match query.user {
                Some(user) if user.index() < self.users.len() => {
                    vectors.extend_from_slice(self.users.row(user.index()))
                }
                Some(user) => {
                    return Err(Error::input(format!("user {} is beyond the {} known", user.0, self.users.len())));
                }
                None => {
                    let share = 1.0 / query.history.len().max(1) as f32;
                    let start = vectors.len();
                    vectors.resize(start + items.dim, 0.0);
                    for item in query.history {
                        for (sum, value) in vectors[start..].iter_mut().zip(items.row(item.index())) {
                            *sum += share * value;
                        }
                    }
                }
            }
        }
        self.recommend_vectors(&vectors, queries)
    }

    /// The items whose vectors have the largest dot product with the item's own.
    fn similar(&self, item: ItemIdx, k: usize) -> Result<Vec<Scored>> {
        check_k(k)?;
        let items = self.search.vectors();
        check_item(item, items.len())?;
        let request = SearchRequest { k, filter: None, exclude: &[item] };
        Ok(self.search.search(items.row(item.index()), &[request])?.pop().unwrap_or_default())
    }
}
