//! Beyond accuracy: what the lists of all users together are like, over the whole catalogue.
//!
//! With n items, exposure x_i (how many lists hold item i within rank k), c_i training listeners of item i and U users in training:
//!
//! * coverage@k: the share of the items with x_i > 0 (Ge, Delgado-Battenfeld & Jannach 2010, "catalogue coverage").
//! * Gini@k: `sum((2 j - n - 1) x_(j)) / (n sum(x))` over exposures in ascending order, j from 1 (Fleder & Hosanagar 2009): 0 if every
//!   item is shown equally often, 1 - 1/n if one item has all of it. Items never shown count.
//! * ARP@k, average recommendation popularity: mean over users of the mean c_i of their list (Yin et al. 2012).
//! * popularity lift@k: `ARP / GAP - 1` over users with a history, where GAP is the mean over them of the mean c_i of the distinct
//!   items they had (Abdollahpouri et al. 2019): 0 if lists are as popular as what people chose themselves.
//! * novelty@k, in bits: mean over users of the mean self-information `-log2((c_i + 1) / (U + 1))` of their list (Zhou et al. 2010;
//!   the ones are added here, for items without listeners).
//! * diversity@k: mean over users of [`UnitVectors::diversity`]; by what vectors, the caller knows.

use duet_core::ItemIdx;
use serde::{Deserialize, Serialize};

use super::panel::{CatalogueInfo, EvaluationCase};
use crate::{baselines::distinct, unit_vectors::UnitVectors};

/// What the lists of all users are like at a cut-off. The module's source has the definitions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Reach {
    /// The cut-off.
    pub k: usize,
    /// Distinct items recommended within k, divided by the catalogue.
    pub coverage: f64,
    /// Gini coefficient of exposure over the catalogue.
    pub gini: f64,
    /// Average recommendation popularity: listeners per recommended item.
    pub popularity: f64,
    /// How much more popular lists are than histories; `None` if nobody has a history.
    pub popularity_lift: Option<f64>,
    /// Mean self-information of a recommended item, bits.
    pub novelty: f64,
    /// Mean `1 - cosine` within a list; `None` without vectors, or for lists of one.
    pub diversity: Option<f64>,
}

/// One list at one cut-off.
#[derive(Debug, Clone, Copy, Default)]
struct AtCutOff {
    popularity: f64,
    novelty: f64,
    diversity: Option<f64>,
}

/// What one list adds.
pub(super) struct ListFigures {
    at: Vec<AtCutOff>,
    /// Mean popularity of what the user had.
    profile: Option<f64>,
    excluded: usize,
}

/// What is the same for all lists of an evaluation.
pub(super) struct Rules<'a> {
    ks: &'a [usize],
    popularity: &'a [u32],
    self_information: Vec<f32>,
    vectors: Option<&'a UnitVectors>,
}

impl<'a> Rules<'a> {
    pub(super) fn new(ks: &'a [usize], catalogue: CatalogueInfo<'a>) -> Self {
        let users = catalogue.listeners as f64 + 1.0;
        let information = |&count: &u32| -((f64::from(count) + 1.0) / users).log2() as f32;
        Self {
            ks,
            popularity: catalogue.popularity,
            self_information: catalogue.popularity.iter().map(information).collect(),
            vectors: catalogue.vectors,
        }
    }

    /// Working memory of [`Rules::measure`].
    pub(super) fn scratch(&self) -> Vec<f32> {
        vec![0.0; self.vectors.map_or(0, UnitVectors::dim)]
    }

    pub(super) fn measure(&self, case: &EvaluationCase, items: &[ItemIdx], scratch: &mut [f32]) -> ListFigures {
        let popularity = |item: &ItemIdx| f64::from(self.popularity[item.index()]);
        let at_cut_off = |&k: &usize| {
            let first = &items[..k.min(items.len())];
            let length = first.len().max(1) as f64;
            let information = first.iter().map(|item| f64::from(self.self_information[item.index()]));
            AtCutOff {
                popularity: first.iter().map(popularity).sum::<f64>() / length,
                novelty: information.sum::<f64>() / length,
                diversity: self.vectors.and_then(|vectors| vectors.diversity(first, scratch)),
            }
        };
        let had = distinct(&case.history);
        ListFigures {
            at: self.ks.iter().map(at_cut_off).collect(),
            profile: (!had.is_empty()).then(|| had.iter().map(popularity).sum::<f64>() / had.len() as f64),
            excluded: items.iter().filter(|item| case.exclude.binary_search(item).is_ok()).count(),
        }
    }
}

/// A sum and how many values are in it.
#[derive(Debug, Clone, Copy, Default)]
struct Mean {
    sum: f64,
    count: usize,
}

impl Mean {
    fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1;
    }

    fn get(self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

#[derive(Debug, Clone, Default)]
struct Sums {
    popularity: Mean,
    warm_popularity: Mean,
    novelty: Mean,
    diversity: Mean,
    exposure: Vec<u32>,
}

/// The figures of all lists, added up.
pub(super) struct Tally {
    ks: Vec<usize>,
    sums: Vec<Sums>,
    profile: Mean,
    pub(super) excluded_in_lists: usize,
}

impl Tally {
    pub(super) fn new(ks: &[usize], n_items: usize) -> Self {
        let sums = vec![Sums { exposure: vec![0; n_items], ..Sums::default() }; ks.len()];
        Self { ks: ks.to_vec(), sums, profile: Mean::default(), excluded_in_lists: 0 }
    }

    pub(super) fn add(&mut self, items: &[ItemIdx], figures: &ListFigures) {
        self.excluded_in_lists += figures.excluded;
        if let Some(profile) = figures.profile {
            self.profile.add(profile);
        }
        for ((&k, sums), at) in self.ks.iter().zip(&mut self.sums).zip(&figures.at) {
            for item in items.iter().take(k) {
                sums.exposure[item.index()] += 1;
            }
            sums.popularity.add(at.popularity);
            sums.novelty.add(at.novelty);
            if figures.profile.is_some() {
                sums.warm_popularity.add(at.popularity);
            }
            if let Some(diversity) = at.diversity {
                sums.diversity.add(diversity);
            }
        }
    }

    pub(super) fn reach(&self) -> Vec<Reach> {
        let profile = self.profile.get().filter(|profile| *profile > 0.0);
        let row = |(&k, sums): (&usize, &Sums)| Reach {
            k,
            coverage: sums.exposure.iter().filter(|count| **count > 0).count() as f64
                / sums.exposure.len().max(1) as f64,
            gini: gini(&sums.exposure),
            popularity: sums.popularity.get().unwrap_or(0.0),
            popularity_lift: profile.and_then(|profile| Some(sums.warm_popularity.get()? / profile - 1.0)),
            novelty: sums.novelty.get().unwrap_or(0.0),
            diversity: sums.diversity.get(),
        };
        self.ks.iter().zip(&self.sums).map(row).collect()
    }

    /// How many lists hold each item within the first cut-off.
    pub(super) fn into_exposure(self) -> Vec<u32> {
        self.sums.into_iter().next().map(|sums| sums.exposure).unwrap_or_default()
    }
}

/// The Gini coefficient of counts; 0 where all are 0.
pub fn gini(counts: &[u32]) -> f64 {
    let mut sorted = counts.to_vec();
    sorted.sort_unstable();
    let n = sorted.len() as f64;
    let total: f64 = sorted.iter().map(|&count| f64::from(count)).sum();
    if total == 0.0 {
        return 0.0;
    }
    let weighted: f64 =
        sorted.iter().zip(1..).map(|(&count, j)| (2.0 * f64::from(j) - n - 1.0) * f64::from(count)).sum();
    weighted / (n * total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gini_by_hand() {
        assert_eq!(gini(&[3, 3, 3, 3]), 0.0);
        assert_eq!(gini(&[0, 8, 0, 0]), 0.75);
        // 1, 2, 3: (-2 * 1 + 0 * 2 + 2 * 3) / (3 * 6).
        assert!((gini(&[2, 1, 3]) - 4.0 / 18.0).abs() < 1e-12);
        assert_eq!((gini(&[0, 0]), gini(&[])), (0.0, 0.0));
    }
}
