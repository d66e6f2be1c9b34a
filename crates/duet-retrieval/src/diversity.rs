//! Lists that are varied: at most so many items of one group, and maximal marginal relevance.
//!
//! Both work on candidates that a first stage found, best first, and leave K of them. A list is never shorter for being varied: where a bound
//! leaves fewer than K, those passed over fill it in their order.

use std::collections::HashMap;

use duet_core::{
    Error, Result,
    table::{ColumnValues, FeatureTable},
};

use crate::{recommender::Scored, vectors::Vectors};

/// The group of items that have none: they are bound by nothing.
pub const NO_GROUP: u32 = u32::MAX;

/// The group of every item: the first value of a column of text, [`NO_GROUP`] where there is none.
///
/// # Errors
/// [`Error::Input`] naming the columns that there are.
pub fn groups(items: &FeatureTable, column: &str) -> Result<Vec<u32>> {
    match first_values(&items.column(column)?.values) {
        Some(values) => Ok(numbered(&values, NO_GROUP)),
        None => {
            let text = items.columns.iter().filter(|column| first_values(&column.values).is_some());
            Err(Error::unknown("column of text for diversity", column, text.map(|column| column.name.as_str())))
        }
    }
}

/// The first value of a column of text in every row.
pub fn first_values(column: &ColumnValues) -> Option<Vec<Option<&str>>> {
    match column {
        ColumnValues::Text(values) => Some(values.iter().map(Option::as_deref).collect()),
        ColumnValues::TextList(values) => Some(values.iter().map(|list| list.first().map(String::as_str)).collect()),
        ColumnValues::Number(_) | ColumnValues::Day(_) => None,
    }
}

/// Numbers equal values alike; `none` where there is no value.
pub fn numbered(values: &[Option<&str>], none: u32) -> Vec<u32> {
    let mut numbers: HashMap<&str, u32> = HashMap::new();
    values
        .iter()
        .map(|value| {
            let next = numbers.len() as u32;
            value.map_or(none, |value| *numbers.entry(value).or_insert(next))
        })
        .collect()
}

/// At most so many items of one group in a list.
#[derive(Debug, Clone, Copy)]
pub struct GroupBound<'a> {
    /// By row of the items; [`NO_GROUP`] and rows beyond the end have none.
    pub groups: &'a [u32],
    /// Items of a group, 1 or more.
    pub most: usize,
}

impl GroupBound<'_> {
    fn of(&self, entry: &Scored) -> u32 {
        self.groups.get(entry.item.index()).copied().unwrap_or(NO_GROUP)
    }
}

/// Maximal marginal relevance (Carbonell and Goldstein, 1998): each place goes to the candidate with the largest
/// `lambda * relevance - (1 - lambda) * likeness`. The relevance is the score, brought to 0..1 over the candidates; the likeness is the largest
/// cosine with an item that is in the list already.
#[derive(Debug, Clone, Copy)]
pub struct Mmr<'a> {
    /// 1: relevance alone; 0: nothing but variety after the first item.
    pub lambda: f32,
    /// One an item.
    pub vectors: &'a Vectors,
    /// Leading components that carry direction: the rest, such as a bias, is no likeness.
    pub width: usize,
}

impl<'a> Mmr<'a> {
    /// # Errors
    /// [`Error::Input`] for a `lambda` outside of 0..=1 or more components than the vectors have.
    pub fn new(lambda: f32, vectors: &'a Vectors, width: usize) -> Result<Self> {
        if !(0.0..=1.0).contains(&lambda) {
            return Err(Error::input(format!("lambda {lambda}: valid are 0 (variety) to 1 (relevance)")));
        }
        if width == 0 || width > vectors.dim {
            return Err(Error::input(format!("{width} components of vectors of {}", vectors.dim)));
        }
        Ok(Self { lambda, vectors, width })
    }

    fn direction(&self, entry: &Scored) -> Vec<f32> {
        let vector = &self.vectors.row(entry.item.index())[..self.width];
        let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
        vector.iter().map(|x| x / norm).collect()
    }
}

/// Leaves `k` of `candidates` (best first), in the order of their choice.
pub fn varied(candidates: &[Scored], k: usize, bound: Option<GroupBound<'_>>, mmr: Option<Mmr<'_>>) -> Vec<Scored> {
    let mut taken: HashMap<u32, usize> = HashMap::new();
    let mut fits = |entry: &Scored| {
        let Some(bound) = &bound else { return true };
        let group = bound.of(entry);
        if group == NO_GROUP {
            return true;
        }
        let count = taken.entry(group).or_insert(0);
        *count += 1;
        *count <= bound.most
    };
    let mut order = Order::new(candidates, mmr);
    let (mut list, mut passed_over) = (Vec::with_capacity(k.min(candidates.len())), Vec::new());
    while list.len() < k
        && let Some(at) = order.next()
    {
        let entry = candidates[at];
        if fits(&entry) {
            order.chose(at);
            list.push(entry);
        } else {
            passed_over.push((at, entry));
        }
    }
    passed_over.sort_unstable_by_key(|(at, _)| *at);
    let lacking = k - list.len();
    list.extend(passed_over.into_iter().take(lacking).map(|(_, entry)| entry));
    list
}

/// In which order candidates are offered: as they came, or by what the list holds already.
struct Order<'a> {
    left: Vec<usize>,
    /// By candidate.
    relevance: Vec<f32>,
    likeness: Vec<f32>,
    directions: Vec<Vec<f32>>,
    mmr: Option<Mmr<'a>>,
}

impl<'a> Order<'a> {
    fn new(candidates: &[Scored], mmr: Option<Mmr<'a>>) -> Self {
        let left: Vec<usize> = (0..candidates.len()).rev().collect();
        let Some(mmr) = mmr else {
            return Self { left, relevance: Vec::new(), likeness: Vec::new(), directions: Vec::new(), mmr: None };
        };
        let scores = candidates.iter().map(|entry| entry.score);
        let (least, most) =
            scores.fold((f32::MAX, f32::MIN), |(least, most), score| (least.min(score), most.max(score)));
        let range = (most - least).max(f32::MIN_POSITIVE);
        Self {
            left,
            relevance: candidates.iter().map(|entry| (entry.score - least) / range).collect(),
            // Nothing is in the list: likeness says nothing.
            likeness: vec![f32::MIN; candidates.len()],
            directions: candidates.iter().map(|entry| mmr.direction(entry)).collect(),
            mmr: Some(mmr),
        }
    }

    /// The next candidate, which is offered once.
    fn next(&mut self) -> Option<usize> {
        let Some(Mmr { lambda, .. }) = self.mmr else { return self.left.pop() };
        let value = |at: usize| {
            let likeness = if self.likeness[at] == f32::MIN { 0.0 } else { self.likeness[at] };
            lambda * self.relevance[at] - (1.0 - lambda) * likeness
        };
        // Of equal ones the first candidate: it stands last here.
        let best = (0..self.left.len()).max_by(|&a, &b| value(self.left[a]).total_cmp(&value(self.left[b])))?;
        Some(self.left.remove(best))
    }

    /// What is left is compared with what was chosen.
    fn chose(&mut self, at: usize) {
        if self.mmr.is_none() {
            return;
        }
        for &other in &self.left {
            let cosine = self.directions[at].iter().zip(&self.directions[other]).map(|(a, b)| a * b).sum::<f32>();
            self.likeness[other] = self.likeness[other].max(cosine);
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use duet_core::ItemIdx;
    use proptest::prelude::*;

    use super::*;

    fn ranked(count: usize) -> Vec<Scored> {
        (0..count).map(|row| Scored { item: ItemIdx::from(row), score: -(row as f32) }).collect()
    }

    fn items(list: &[Scored]) -> Vec<u32> {
        list.iter().map(|entry| entry.item.0).collect()
    }

    proptest! {
        #[test]
        fn groups_are_bounded_unless_the_list_would_be_shorter(
            groups in prop::collection::vec(0_u32..5, 0..60), k in 0_usize..30, most in 1_usize..5,
        ) {
            let candidates = ranked(groups.len());
            // Group 4 stands for "none".
            let groups: Vec<u32> = groups.into_iter().map(|group| if group == 4 { NO_GROUP } else { group }).collect();
            let list = varied(&candidates, k, Some(GroupBound { groups: &groups, most }), None);
            prop_assert_eq!(list.len(), k.min(candidates.len()));
            let mut distinct = items(&list);
            distinct.sort_unstable();
            distinct.dedup();
            prop_assert_eq!(distinct.len(), list.len());
            // As many as can be had without breaking the rule come first, in the candidates' order.
            let mut counts = [0; 4];
            let within: Vec<Scored> = candidates.iter().copied().filter(|entry| {
                let group = groups[entry.item.index()];
                group == NO_GROUP || { counts[group as usize] += 1; counts[group as usize] <= most }
            }).take(k).collect();
            prop_assert_eq!(&list[..within.len()], &within[..]);
        }

        #[test]
        fn each_place_is_that_of_the_formula(
            data in prop::collection::vec(-1.0_f32..1.0, 3..60), lambda in 0.0_f32..=1.0, k in 1_usize..12,
        ) {
            // Two components of direction and a bias.
            let count = data.len() / 3;
            let vectors = Vectors::new(3, data[..count * 3].to_vec()).unwrap();
            let candidates = ranked(count);
            let list = items(&varied(&candidates, k, None, Some(Mmr::new(lambda, &vectors, 2).unwrap())));
            prop_assert_eq!(list.len(), k.min(count));
            let cosine = |a: u32, b: u32| {
                let (a, b) = (vectors.row(a as usize), vectors.row(b as usize));
                let norm = |v: &[f32]| f64::from(v[0]).hypot(f64::from(v[1])).max(1e-12);
                (f64::from(a[0]) * f64::from(b[0]) + f64::from(a[1]) * f64::from(b[1])) / norm(a) / norm(b)
            };
            let value = |item: u32, before: &[u32]| {
                let relevance = if count == 1 { 0.0 } else { 1.0 - f64::from(item) / (count - 1) as f64 };
                let likeness = before.iter().map(|&other| cosine(item, other)).reduce(f64::max).unwrap_or(0.0);
                f64::from(lambda) * relevance - (1.0 - f64::from(lambda)) * likeness
            };
            for (place, &item) in list.iter().enumerate() {
                let (before, own) = (&list[..place], value(item, &list[..place]));
                for other in (0..count as u32).filter(|other| !list[..=place].contains(other)) {
                    prop_assert!(own >= value(other, before) - 1e-4, "{other} before {item} at {place}: {list:?}");
                }
            }
        }
    }

    #[test]
    fn relevance_alone_is_the_order_and_variety_takes_the_unlike() {
        // Three alike, one across, one opposite.
        let vectors = Vectors::new(2, vec![1.0, 0.0, 2.0, 0.0, 3.0, 0.1, 0.0, 1.0, -1.0, 0.0]).unwrap();
        let candidates = ranked(5);
        let list = |lambda| items(&varied(&candidates, 3, None, Some(Mmr::new(lambda, &vectors, 2).unwrap())));
        assert_eq!(list(1.0), [0, 1, 2]);
        assert_eq!(list(0.0)[..2], [0, 4]);
        assert_eq!(list(0.5), [0, 4, 3]);
        // With a bound on groups, too: the opposite one is of the first one's group.
        let bound = GroupBound { groups: &[0, 1, 1, 1, 0], most: 1 };
        let both = varied(&candidates, 3, Some(bound), Some(Mmr::new(0.0, &vectors, 2).unwrap()));
        assert_eq!(items(&both), [0, 3, 1]);
        for (lambda, width) in [(-0.1, 2), (1.1, 2), (f32::NAN, 2), (0.5, 0), (0.5, 3)] {
            assert!(Mmr::new(lambda, &vectors, width).is_err());
        }
    }
}
