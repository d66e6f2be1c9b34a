//! Content filtering: items whose features are like those of what the listener played (Lops, de Gemmis & Semeraro 2011).
//!
//! An item's vector is made of the encoded columns: a component for each value of a categorical, multi-categorical or
//! bucketed column, weighted by its inverse document frequency `ln(items / items with it)`, and the components of the numeric
//! ones. Every column is scaled to length 1, so that none outweighs another by its number of values. The profile of a listener
//! is the mean of their distinct items' vectors; the score is the cosine of the two.

use duet_core::{Error, ItemIdx, Result, encoding::EncodedTable};
use rayon::prelude::*;

use super::{Interactions, distinct};
use crate::{
    recommender::{Query, Recommender, Scored, all_but, check_item, check_k, select_dense},
    unit_vectors::{UnitVectors, scale_to_one},
};

/// Popularity's weight in a score: breaks ties between items of equal features, and nothing else.
const TIE_BREAK: f32 = 1e-9;

/// The encoded features of the items.
#[derive(Debug, Clone, PartialEq)]
pub struct ContentItems {
    /// One row an item.
    pub table: EncodedTable,
    /// The id of each slot that says "missing": two unknown values are not alike.
    pub missing: Vec<u32>,
}

impl ContentItems {
    /// A vector of length 1 for each item, as the module says; all zeros where nothing is known of an item.
    ///
    /// # Errors
    /// [`Error::Input`] if there are no features, or not one "missing" a slot.
    pub fn vectors(&self) -> Result<UnitVectors> {
        let Self { table, missing } = self;
        if missing.len() != table.slots {
            return Err(Error::input(format!("content: {} missing ids for {} slots", missing.len(), table.slots)));
        }
        if table.slots + table.dense_width == 0 {
            return Err(Error::input("content: the items have no features"));
        }
        let vocabulary = table.bag_ids.iter().max().map_or(0, |&id| id as usize + 1);
        let mut frequency = vec![0_u32; vocabulary];
        for &id in &table.bag_ids {
            frequency[id as usize] += 1;
        }
        let idf = |id: u32| (table.rows as f32 / frequency[id as usize] as f32).ln();
        let mut vectors = UnitVectors::new(vocabulary + table.dense_width);
        let mut row_components: Vec<(u32, f32)> = Vec::new();
        for row in 0..table.rows {
            row_components.clear();
            let mut push_column = |column: &mut dyn Iterator<Item = (u32, f32)>| {
                let start = row_components.len();
                row_components.extend(column.filter(|(_, value)| *value != 0.0));
                scale_to_one(&mut row_components[start..]);
            };
            for (slot, &missing) in missing.iter().enumerate() {
                push_column(&mut table.bag(row, slot).iter().filter(|&&id| id != missing).map(|&id| (id, idf(id))));
            }
            let dense = table.dense_row(row).iter().enumerate();
            push_column(&mut dense.map(|(at, &value)| ((vocabulary + at) as u32, value)));
            vectors.push(&row_components);
        }
        Ok(vectors)
    }
}

/// The items' vectors, and popularity where those say nothing.
#[derive(Debug, Clone)]
pub struct Content {
    vectors: UnitVectors,
    base: Vec<f32>,
}

impl Content {
    /// Weights and scales the features.
    ///
    /// # Errors
    /// [`Error::Input`] if there are no features, or those of another number of items.
    pub fn new(interactions: &Interactions<'_>, items: &ContentItems) -> Result<Self> {
        if items.table.rows != interactions.n_items() {
            return Err(Error::input(format!(
                "content: features of {} items for a catalogue of {}",
                items.table.rows,
                interactions.n_items()
            )));
        }
        Ok(Self {
            vectors: items.vectors()?,
            base: interactions.popularity(i64::MIN).iter().map(|&count| TIE_BREAK * count as f32).collect(),
        })
    }

    fn select(&self, history: &[ItemIdx], query: &Query<'_>, profile: &mut [f32]) -> Vec<Scored> {
        profile.fill(0.0);
        for item in distinct(history) {
            for &(at, value) in self.vectors.of(item.index()) {
                profile[at as usize] += value;
            }
        }
        let length = profile.iter().map(|value| value * value).sum::<f32>().sqrt();
        let scale = if length > 0.0 { 1.0 / length } else { 0.0 };
        let score = |(item, base): (usize, &f32)| {
            let product: f32 = self.vectors.of(item).iter().map(|&(at, value)| profile[at as usize] * value).sum();
            product * scale + base
        };
        let scores: Vec<f32> = self.base.iter().enumerate().map(score).collect();
        select_dense(&scores, query)
    }
}

impl Recommender for Content {
    fn name(&self) -> &str {
        "content"
    }

    fn is_exact(&self) -> bool {
        true
    }

    /// Works from the history alone; an empty history gives the most popular items.
    fn recommend(&self, queries: &[Query<'_>]) -> Result<Vec<Vec<Scored>>> {
        queries
            .par_iter()
            .map_init(
                || vec![0.0_f32; self.vectors.dim()],
                |profile, query| {
                    query.check(self.base.len())?;
                    Ok(self.select(query.history, query, profile))
                },
            )
            .collect()
    }

    fn similar(&self, item: ItemIdx, k: usize) -> Result<Vec<Scored>> {
        check_k(k)?;
        check_item(item, self.base.len())?;
        Ok(self.select(&[item], &all_but(&[item], k), &mut vec![0.0; self.vectors.dim()]))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn equals_hand_computed_cosines() {
        // A slot of genres (0 missing, 1, 2, 3) and a number. Items: {1}, {1, 2}, missing, {3}.
        let table = EncodedTable {
            rows: 4,
            slots: 1,
            bag_offsets: vec![0, 1, 3, 4, 5],
            bag_ids: vec![1, 1, 2, 0, 3],
            dense_width: 1,
            dense: vec![0.5, 1.0, 0.0, 0.0],
        };
        let items = ContentItems { table, missing: vec![0] };
        let interactions = Interactions::new(&[0, 1], &[ItemIdx(3)], &[], 4).unwrap();
        let content = Content::new(&interactions, &items).unwrap();
        let list = content.similar(ItemIdx(0), 3).unwrap();
        // Both columns at length 1: item 0 is (1, 0 | 1), item 1 (a, b | 1) with a : b = ln 2 : ln 4.
        let (a, b) = (2.0_f32.ln(), 4.0_f32.ln());
        let expected = (a / (a * a + b * b).sqrt() + 1.0) / 2.0;
        assert!(list[0].item == ItemIdx(1) && (list[0].score - expected).abs() < 1e-6, "{list:?}, not {expected}");
        // Nothing in common with the others; item 3 has a listener.
        assert_eq!(list[1..].iter().map(|entry| entry.item.0).collect::<Vec<_>>(), [3, 2]);
        assert_eq!(content.similar(ItemIdx(2), 1).unwrap()[0].item, ItemIdx(3), "unknown values are like nothing");
        let foreign = Interactions::new(&[0], &[], &[], 5).unwrap();
        assert!(Content::new(&foreign, &items).unwrap_err().to_string().contains("4 items"));
        let none = ContentItems { table: EncodedTable { rows: 4, ..EncodedTable::default() }, missing: vec![] };
        assert!(Content::new(&interactions, &none).unwrap_err().to_string().contains("no features"));
    }
}
