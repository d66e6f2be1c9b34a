//! EASE: a linear item-item model without a hidden layer, in closed form (Steck 2019).
//!
//! It minimises `|X - X B|^2 + lambda |B|^2` with a zero diagonal of B, for the binary user-item matrix X. With
//! `P = (X'X + lambda I)^-1` the answer is `B_ij = -P_ij / P_jj`; an item's score is the sum of `B_ij` over the distinct items i
//! of the history.
//!
//! * Items without listeners have a row and a column of zeros and take no part.
//! * With fewer listeners than items, P is had from the listeners' side, `lambda P = I - X' (X X' + lambda I)^-1 X`
//!   (Woodbury): the matrix to invert is then `[users, users]`, and what remains is sparse.
//! * The inverse is one sweep over blocks of the matrix ([`super::inverse`]), in `f32` on all threads. B is held densely, 4 bytes
//!   a pair of items.

use std::sync::Arc;

use duet_core::{Error, ItemIdx, Result};
use rayon::prelude::*;

use super::{Interactions, distinct, inverse::invert, rows::Rows};
use crate::recommender::{Query, Recommender, Scored, all_but, check_item, check_k, select_dense};

/// Regularisation, as the paper found best on MovieLens-20M.
pub const DEFAULT_LAMBDA: f64 = 500.0;

/// The most items with listeners: B takes 1.6 GB there.
pub const EASE_MAX_ITEMS: usize = 20_000;

/// Popularity's weight in a score: breaks ties, and nothing else.
const TIE_BREAK: f32 = 1e-9;

/// No entry: an item without listeners.
const ABSENT: u32 = u32::MAX;

/// The fitted model.
#[derive(Clone)]
pub struct Ease {
    /// `[active, active]`, row i: what item i adds to the score of every other.
    weights: Arc<Vec<f32>>,
    /// The active row of every item, or [`ABSENT`].
    active_of: Vec<u32>,
    /// The item of every active row.
    items: Vec<u32>,
    base: Vec<f32>,
}

impl Ease {
    /// Fits on the distinct pairs of the interactions.
    ///
    /// # Errors
    /// [`Error::Input`] if `lambda` is not a positive number or there are more than [`EASE_MAX_ITEMS`] items with
    /// listeners.
    pub fn new(interactions: &Interactions<'_>, lambda: f64) -> Result<Self> {
        if !(lambda.is_finite() && lambda > 0.0) {
            return Err(Error::input(format!("ease: lambda is {lambda}; it must be a positive number")));
        }
        let by_user = interactions.distinct();
        let by_item = by_user.transpose();
        let items: Vec<u32> = (0..by_item.len() as u32).filter(|&item| by_item.count(item as usize) > 0).collect();
        check_items(items.len())?;
        let mut active_of = vec![ABSENT; by_item.len()];
        for (row, &item) in items.iter().enumerate() {
            active_of[item as usize] = row as u32;
        }
        let base = (0..by_item.len()).map(|item| TIE_BREAK * by_item.count(item) as f32).collect();
        // Only what has entries, on both sides.
        let users: Vec<Vec<ItemIdx>> = (0..by_user.len())
            .filter(|&user| by_user.count(user) > 0)
            .map(|user| by_user.of(user).iter().map(|&item| ItemIdx(active_of[item as usize])).collect())
            .collect();
        let by_user = Rows::new(users.iter().map(Vec::as_slice), items.len());
        let by_item = by_user.transpose();
        let weights = match by_user.len() < items.len() {
            _ if items.is_empty() => Vec::new(),
            true => weights_from_users(&by_user, &by_item, lambda as f32)?,
            false => weights_from_items(&by_user, &by_item, lambda as f32)?,
        };
        Ok(Self { weights: Arc::new(weights), active_of, items, base })
    }

    fn select(&self, history: &[ItemIdx], query: &Query<'_>, scores: &mut Scores) -> Vec<Scored> {
        let n = self.items.len();
        scores.active.fill(0.0);
        for item in distinct(history) {
            let row = self.active_of[item.index()];
            if row != ABSENT {
                let weights = &self.weights[row as usize * n..(row as usize + 1) * n];
                for (score, weight) in scores.active.iter_mut().zip(weights) {
                    *score += weight;
                }
            }
        }
        scores.all.copy_from_slice(&self.base);
        for (&item, score) in self.items.iter().zip(&scores.active) {
            scores.all[item as usize] += score;
        }
        select_dense(&scores.all, query)
    }

    fn scores(&self) -> Scores {
        Scores { active: vec![0.0; self.items.len()], all: vec![0.0; self.base.len()] }
    }
}

/// Whether EASE can be fitted on so many items with listeners.
fn check_items(items: usize) -> Result<()> {
    if items > EASE_MAX_ITEMS {
        return Err(Error::input(format!(
            "ease: {items} items with listeners; at most {EASE_MAX_ITEMS} are possible, because its matrix holds every pair \
             of items ({:.1} GB); als and item-knn have no such limit",
            4e-9 * (items as f64).powi(2)
        )));
    }
    Ok(())
}

/// Buffers of a thread.
struct Scores {
    active: Vec<f32>,
    all: Vec<f32>,
}

/// B from `(X'X + lambda I)^-1`.
fn weights_from_items(by_user: &Rows, by_item: &Rows, lambda: f32) -> Result<Vec<f32>> {
    let n = by_item.len();
    let mut inverse = common(by_item, by_user, lambda);
    invert(&mut inverse, n)?;
    let diagonal: Vec<f32> = (0..n).map(|at| inverse[at * n + at]).collect();
    inverse.par_chunks_exact_mut(n).enumerate().for_each(|(row, values)| {
        for (value, diagonal) in values.iter_mut().zip(&diagonal) {
            *value /= -diagonal;
        }
        values[row] = 0.0;
    });
    Ok(inverse)
}

/// B from `(X X' + lambda I)^-1`.
fn weights_from_users(by_user: &Rows, by_item: &Rows, lambda: f32) -> Result<Vec<f32>> {
    let (users, n) = (by_user.len(), by_item.len());
    let mut inverse = common(by_user, by_item, lambda);
    invert(&mut inverse, users)?;
    // K X, [users, items].
    let mut half = vec![0.0_f32; users * n];
    half.par_chunks_exact_mut(n).enumerate().for_each(|(user, values)| {
        for (item, value) in values.iter_mut().enumerate() {
            *value = by_item.of(item).iter().map(|&other| inverse[user * users + other as usize]).sum();
        }
    });
    // lambda P = I - X' K X, of which lambda cancels in B.
    let diagonal: Vec<f32> = (0..n)
        .map(|item| 1.0 - by_item.of(item).iter().map(|&user| half[user as usize * n + item]).sum::<f32>())
        .collect();
    let mut weights = vec![0.0_f32; n * n];
    weights.par_chunks_exact_mut(n).enumerate().for_each(|(row, values)| {
        for &user in by_item.of(row) {
            for (value, half) in values.iter_mut().zip(&half[user as usize * n..(user as usize + 1) * n]) {
                *value += half;
            }
        }
        for (value, diagonal) in values.iter_mut().zip(&diagonal) {
            *value /= diagonal;
        }
        values[row] = 0.0;
    });
    Ok(weights)
}

/// `R R' + lambda I` for the binary rows R: how many columns two rows have in common.
fn common(rows: &Rows, columns: &Rows, lambda: f32) -> Vec<f32> {
    let n = rows.len();
    let mut counts = vec![0.0_f32; n * n];
    counts.par_chunks_exact_mut(n.max(1)).enumerate().for_each(|(row, counts)| {
        for &column in rows.of(row) {
            for &other in columns.of(column as usize) {
                counts[other as usize] += 1.0;
            }
        }
        counts[row] += lambda;
    });
    counts
}

impl Recommender for Ease {
    fn name(&self) -> &str {
        "ease"
    }

    fn is_exact(&self) -> bool {
        true
    }

    /// Works from the history alone; an empty history gives the most popular items.
    fn recommend(&self, queries: &[Query<'_>]) -> Result<Vec<Vec<Scored>>> {
        queries
            .par_iter()
            .map_init(
                || self.scores(),
                |scores, query| {
                    query.check(self.base.len())?;
                    Ok(self.select(query.history, query, scores))
                },
            )
            .collect()
    }

    /// The items that gain most from this one.
    fn similar(&self, item: ItemIdx, k: usize) -> Result<Vec<Scored>> {
        check_k(k)?;
        check_item(item, self.base.len())?;
        Ok(self.select(&[item], &all_but(&[item], k), &mut self.scores()))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// B by Gauss-Jordan in f64.
    fn closed_form(users: &[&[u32]], n: usize, lambda: f64) -> Vec<Vec<f64>> {
        let mut rows = vec![vec![0.0; 2 * n]; n];
        for at in 0..n {
            rows[at][at] = lambda;
            rows[at][n + at] = 1.0;
        }
        for user in users {
            for &a in *user {
                for &b in *user {
                    rows[a as usize][b as usize] += 1.0;
                }
            }
        }
        for pivot in 0..n {
            let scale = rows[pivot][pivot];
            rows[pivot].iter_mut().for_each(|value| *value /= scale);
            let pivot_row = rows[pivot].clone();
            for (_, row) in rows.iter_mut().enumerate().filter(|(at, _)| *at != pivot) {
                let share = row[pivot];
                row.iter_mut().zip(&pivot_row).for_each(|(value, pivot)| *value -= share * pivot);
            }
        }
        let inverse = |i: usize, j: usize| rows[i][n + j];
        (0..n).map(|i| (0..n).map(|j| if i == j { 0.0 } else { -inverse(i, j) / inverse(j, j) }).collect()).collect()
    }

    #[test]
    fn equals_the_closed_form_from_either_side() {
        // Item 3 is nobody's. Three users are fewer than four items with listeners, six are more.
        let histories: [&[u32]; 6] = [&[0, 1], &[0, 1, 2], &[2, 4], &[1, 4], &[0, 4], &[0, 2, 4]];
        for users in [&histories[..3], &histories[..]] {
            let (mut offsets, mut items) = (vec![0], Vec::new());
            for user in users {
                items.extend(user.iter().copied().map(ItemIdx));
                offsets.push(items.len());
            }
            let interactions = Interactions::new(&offsets, &items, &[], 5).unwrap();
            let ease = Ease::new(&interactions, 0.7).unwrap();
            let expected = closed_form(users, 5, 0.7);
            for (item, expected) in expected.iter().enumerate() {
                let list = ease.similar(ItemIdx::from(item), 5).unwrap();
                assert_eq!(list.len(), 4);
                for entry in list {
                    let expected = expected[entry.item.index()];
                    assert!((f64::from(entry.score) - expected).abs() < 1e-5, "{item}: {entry:?}, not {expected}");
                }
            }
        }
    }

    #[test]
    fn what_is_impossible_is_refused() {
        let interactions = Interactions::new(&[0, 1], &[ItemIdx(0)], &[], 2).unwrap();
        let error = Ease::new(&interactions, 0.0).err().unwrap().to_string();
        assert!(error.contains("lambda is 0"), "{error}");
        let error = check_items(25_000).unwrap_err().to_string();
        assert!(error.contains("25000 items") && error.contains("20000") && error.contains("2.5 GB"), "{error}");
    }
}
