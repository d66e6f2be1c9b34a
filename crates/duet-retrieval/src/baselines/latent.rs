//! What the factorisations share after fitting: a vector for each user and item, and exact search over them.

use std::sync::Arc;

use duet_core::{Error, ItemIdx, Result};
use rayon::prelude::*;

use super::{Interactions, distinct, ranking::Ranking};
use crate::{
    recommender::{Query, Scored, all_but, check_item, check_k, select_dense},
    search::{ExactIndex, Kernel, SearchRequest, VectorSearch},
    vectors::Vectors,
};

/// Fitted factors. Users without training interactions are not in them, whatever their row holds.
pub(super) struct Latent {
    users: Vectors,
    is_trained: Vec<bool>,
    index: ExactIndex,
    popularity: Ranking,
}

impl Latent {
    /// `users` and `items` are `[rows, dim]`.
    pub(super) fn new(interactions: &Interactions<'_>, users: Vectors, items: Vectors) -> Result<Self> {
        let counts: Vec<f32> = interactions.popularity(i64::MIN).iter().map(|&count| count as f32).collect();
        let is_trained = (0..interactions.n_users()).map(|user| !interactions.user(user).1.is_empty()).collect();
        users.check()?;
        Ok(Self { users, is_trained, index: ExactIndex::new(Arc::new(items))?, popularity: Ranking::new(&counts) })
    }

    pub(super) fn users(&self) -> &Vectors {
        &self.users
    }

    pub(super) fn items(&self) -> &Vectors {
        self.index.vectors()
    }

    /// Known users by their row, others by the vector that `fold_in` makes of their distinct items (ascending); who has
    /// neither gets the most popular items.
    pub(super) fn recommend(
        &self,
        queries: &[Query<'_>],
        fold_in: impl Fn(&[u32]) -> Vec<f32> + Sync,
    ) -> Result<Vec<Vec<Scored>>> {
        let n_items = self.items().len();
        let vectors = queries
            .par_iter()
            .map(|query| {
                query.check(n_items)?;
                match query.user {
                    Some(user) if user.index() >= self.users.len() => {
                        Err(Error::input(format!("user {} is beyond the {} known", user.0, self.users.len())))
                    }
                    Some(user) if self.is_trained[user.index()] => Ok(Some(self.users.row(user.index()).to_vec())),
                    _ if query.history.is_empty() => Ok(None),
                    _ => {
                        let items: Vec<u32> = distinct(query.history).into_iter().map(|item| item.0).collect();
                        Ok(Some(fold_in(&items)))
                    }
                }
            })
            .collect::<Result<Vec<Option<Vec<f32>>>>>()?;
        let mut requests = Vec::with_capacity(queries.len());
        let mut rows = Vec::with_capacity(queries.len() * self.items().dim);
        for (query, vector) in queries.iter().zip(&vectors) {
            if let Some(vector) = vector {
                rows.extend_from_slice(vector);
                requests.push(SearchRequest { k: query.k, filter: query.filter, exclude: query.exclude });
            }
        }
        let mut found = self.index.search(&rows, &requests)?.into_iter();
        queries
            .iter()
            .zip(&vectors)
            .map(|(query, vector)| match vector {
                Some(_) => found.next().ok_or_else(|| Error::Internal("a search lost a list".into())),
                None => Ok(self.popularity.recommend(std::slice::from_ref(query))?.pop().unwrap_or_default()),
            })
            .collect()
    }

    /// By cosine over the first `dim` components: a dot product would prefer popular items, whose vectors are long.
    pub(super) fn similar(&self, item: ItemIdx, k: usize, dim: usize) -> Result<Vec<Scored>> {
        check_k(k)?;
        let items = self.items();
        check_item(item, items.len())?;
        let kernel = Kernel::detect();
        let vector = &items.row(item.index())[..dim];
        let scores: Vec<f32> = (0..items.len())
            .map(|other| {
                let other = &items.row(other)[..dim];
                let norms = (kernel.dot(vector, vector) * kernel.dot(other, other)).sqrt();
                if norms > 0.0 { kernel.dot(vector, other) / norms } else { 0.0 }
            })
            .collect();
        Ok(select_dense(&scores, &all_but(&[item], k)))
    }
}
