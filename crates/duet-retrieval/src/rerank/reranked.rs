//! A recommender in two stages.

use duet_core::{Error, ItemIdx, Result};
use rayon::prelude::*;

use crate::recommender::{Query, Recommender, Scored, check_k};

/// Gives candidates new scores.
pub trait Rescorer: Send + Sync {
    /// One finite score a candidate, larger is better; `None` leaves the list as it is. The candidates stand best first, and the
    /// answer depends on the query and on them alone.
    ///
    /// # Errors
    /// [`Error::Input`] for a query it can't work with.
    fn rescore(&self, query: &Query<'_>, candidates: &[Scored]) -> Result<Option<Vec<f32>>>;
}

impl<S: Rescorer + ?Sized> Rescorer for &S {
    fn rescore(&self, query: &Query<'_>, candidates: &[Scored]) -> Result<Option<Vec<f32>>> {
        (**self).rescore(query, candidates)
    }
}

/// The best `candidates` items of a first recommender in the order of a second; what follows them keeps its order behind them.
pub struct Reranked<R, S> {
    name: String,
    first: R,
    second: S,
    candidates: usize,
}

impl<R: Recommender, S: Rescorer> Reranked<R, S> {
    /// Both stages.
    ///
    /// # Errors
    /// [`Error::Input`] for no candidates.
    pub fn new(name: impl Into<String>, first: R, second: S, candidates: usize) -> Result<Self> {
        if candidates == 0 {
            return Err(Error::input("0 candidates; at least 1 must be put in order"));
        }
        Ok(Self { name: name.into(), first, second, candidates })
    }

    fn reorder(&self, query: &Query<'_>, mut list: Vec<Scored>) -> Result<Vec<Scored>> {
        let head = list.len().min(self.candidates);
        if let Some(scores) = self.second.rescore(query, &list[..head])? {
            let tail = list.split_off(head);
            list = in_order_of(&list, &scores)?;
            let floor = list.last().map_or(0.0, |last| last.score) - 1.0;
            let best = tail.first().map_or(0.0, |first| first.score);
            let mut tail: Vec<Scored> =
                tail.into_iter().map(|entry| Scored { score: floor - (best - entry.score), ..entry }).collect();
            // Scores that differ by little may be equal after the shift: equal ones stand in the order of the items.
            sort(&mut tail);
            list.append(&mut tail);
        }
        list.truncate(query.k);
        Ok(list)
    }
}

/// The candidates with new scores, best first, equal ones in the order of the items.
///
/// # Errors
/// [`Error::Internal`] if there is not one finite score a candidate.
pub fn in_order_of(candidates: &[Scored], scores: &[f32]) -> Result<Vec<Scored>> {
    if candidates.len() != scores.len() || scores.iter().any(|score| !score.is_finite()) {
        return Err(Error::Internal(format!(
            "{} candidates, {} scores or not all finite",
            candidates.len(),
            scores.len()
        )));
    }
    let mut list: Vec<Scored> =
        candidates.iter().zip(scores).map(|(entry, &score)| Scored { item: entry.item, score }).collect();
    sort(&mut list);
    Ok(list)
}

fn sort(list: &mut [Scored]) {
    // Comparing numbers, not bits: -0.0 and 0.0 are equal scores.
    list.sort_by(|a, b| b.score.partial_cmp(&a.score).unwrap_or(std::cmp::Ordering::Equal).then(a.item.cmp(&b.item)));
}

impl<R: Recommender, S: Rescorer> Recommender for Reranked<R, S> {
    fn name(&self) -> &str {
        &self.name
    }

    fn is_exact(&self) -> bool {
        self.first.is_exact()
    }

    fn recommend(&self, queries: &[Query<'_>]) -> Result<Vec<Vec<Scored>>> {
        let mut longer = Vec::with_capacity(queries.len());
        for query in queries {
            check_k(query.k)?;
            longer.push(Query { k: query.k.max(self.candidates), ..*query });
        }
        let lists = self.first.recommend(&longer)?;
        queries.par_iter().zip(lists).map(|(query, list)| self.reorder(query, list)).collect()
    }

    /// As the first stage has it: there is no listener to look at.
    fn similar(&self, item: ItemIdx, k: usize) -> Result<Vec<Scored>> {
        self.first.similar(item, k)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::baselines::Popularity;

    /// Prefers high rows; leaves the lists of others alone.
    struct HighRows;

    impl Rescorer for HighRows {
        fn rescore(&self, query: &Query<'_>, candidates: &[Scored]) -> Result<Option<Vec<f32>>> {
            Ok(query.user.map(|_| candidates.iter().map(|entry| entry.item.0 as f32).collect()))
        }
    }

    #[test]
    fn the_head_is_put_in_order_and_the_tail_stays_behind_it() {
        let first = Popularity::from_counts(&[9, 8, 7, 6, 5]);
        let stages = Reranked::new("both", first, HighRows, 3).unwrap();
        let query = |user: Option<u32>, k| Query {
            user: user.map(duet_core::UserIdx),
            history: &[],
            k,
            filter: None,
            exclude: &[],
        };
        let lists = stages.recommend(&[query(Some(0), 5), query(Some(0), 2), query(None, 4)]).unwrap();
        let rows: Vec<Vec<u32>> = lists.iter().map(|list| list.iter().map(|entry| entry.item.0).collect()).collect();
        assert_eq!(rows, [vec![2, 1, 0, 3, 4], vec![2, 1], vec![0, 1, 2, 3]]);
        assert!(lists[0].windows(2).all(|pair| pair[0].score > pair[1].score), "{:?}", lists[0]);
        assert!(in_order_of(&lists[0], &[1.0]).is_err());
        assert!(Reranked::new("none", Popularity::from_counts(&[1]), HighRows, 0).is_err());
    }
}
