//! The truth of a synthetic world as a recommender: the ceiling of every table.

use duet_core::{Error, ItemIdx, Result, UserIdx};
use rayon::prelude::*;

use crate::{
    recommender::{Query, Recommender, Scored, all_but, check_item, check_k, select_dense},
    search::Kernel,
    vectors::Vectors,
};

/// Scores by the dot product of the true user and item vectors.
#[derive(Debug, Clone)]
pub struct Oracle {
    users: Vectors,
    items: Vectors,
    /// What a listener without a row is scored with: the mean true user.
    mean_user: Vec<f32>,
}

impl Oracle {
    /// One vector per user and per item, both of one dimension.
    ///
    /// # Errors
    /// [`Error::Input`] if the dimensions differ or a component is not finite.
    pub fn new(users: Vectors, items: Vectors) -> Result<Self> {
        users.check()?;
        items.check()?;
        if users.dim != items.dim {
            return Err(Error::input(format!(
                "oracle: user vectors have {} dimensions, item vectors {}",
                users.dim, items.dim
            )));
        }
        let mut sums = vec![0.0_f64; users.dim];
        for row in 0..users.len() {
            for (sum, value) in sums.iter_mut().zip(users.row(row)) {
                *sum += f64::from(*value);
            }
        }
        let mean_user = sums.iter().map(|sum| (sum / users.len().max(1) as f64) as f32).collect();
        Ok(Self { users, items, mean_user })
    }

    fn best(&self, vector: &[f32], query: &Query<'_>) -> Vec<Scored> {
        let kernel = Kernel::detect();
        let scores: Vec<f32> = (0..self.items.len()).map(|item| kernel.dot(vector, self.items.row(item))).collect();
        select_dense(&scores, query)
    }

    fn user_vector(&self, user: Option<UserIdx>) -> Result<&[f32]> {
        match user {
            None => Ok(&self.mean_user),
            Some(user) if user.index() < self.users.len() => Ok(self.users.row(user.index())),
            Some(user) => Err(Error::input(format!("user {} is beyond the {} known", user.0, self.users.len()))),
        }
    }
}

impl Recommender for Oracle {
    fn name(&self) -> &str {
        "oracle"
    }

    fn is_exact(&self) -> bool {
        true
    }

    /// Works from the user's row; without one, from the mean of all users.
    fn recommend(&self, queries: &[Query<'_>]) -> Result<Vec<Vec<Scored>>> {
        queries
            .par_iter()
            .map(|query| {
                query.check(self.items.len())?;
                Ok(self.best(self.user_vector(query.user)?, query))
            })
            .collect()
    }

    fn similar(&self, item: ItemIdx, k: usize) -> Result<Vec<Scored>> {
        check_k(k)?;
        check_item(item, self.items.len())?;
        Ok(self.best(self.items.row(item.index()), &all_but(&[item], k)))
    }
}
