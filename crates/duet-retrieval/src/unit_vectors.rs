//! Sparse vectors of length 1, for cosines: of items, from their features or from embeddings.

use duet_core::ItemIdx;

use crate::vectors::Vectors;

/// One vector an item, in compressed rows. Its length is 1, or 0 where nothing is known of the item.
#[derive(Debug, Clone, PartialEq)]
pub struct UnitVectors {
    dim: usize,
    offsets: Vec<usize>,
    components: Vec<(u32, f32)>,
}

impl UnitVectors {
    /// No vectors yet, of `dim` components.
    pub fn new(dim: usize) -> Self {
        Self { dim, offsets: vec![0], components: Vec::new() }
    }

    /// The directions of embeddings: of each vector its first `width` components, scaled. What stands behind them (a bias) has no
    /// direction.
    ///
    /// # Panics
    /// If `width` is above the vectors' dimension.
    pub fn directions(vectors: &Vectors, width: usize) -> Self {
        let mut directions = Self::new(width);
        for row in 0..vectors.len() {
            let components: Vec<(u32, f32)> = (0..).zip(vectors.row(row)[..width].iter().copied()).collect();
            directions.push(&components);
        }
        directions
    }

    /// Appends the direction of a vector, given by position and value of its components, each position once.
    pub fn push(&mut self, components: &[(u32, f32)]) {
        debug_assert!(components.iter().all(|(at, _)| (*at as usize) < self.dim));
        let start = self.components.len();
        self.components.extend(components.iter().filter(|(_, value)| *value != 0.0));
        scale_to_one(&mut self.components[start..]);
        self.offsets.push(self.components.len());
    }

    /// Components of a vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Vectors held.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The components of an item that are not 0.
    ///
    /// # Panics
    /// If `item` is not below [`UnitVectors::len`].
    pub fn of(&self, item: usize) -> &[(u32, f32)] {
        &self.components[self.offsets[item]..self.offsets[item + 1]]
    }

    /// Intra-list diversity: the mean of `1 - cosine` over all pairs of a list (Ziegler et al. 2005; Castells et al. 2015, section
    /// 26.3.1). Nothing for lists of fewer than two items. An item of which nothing is known is like no other.
    ///
    /// Over unit vectors, the sum of the cosines of all pairs is `(|sum|^2 - sum |v|^2) / 2`: no pair is looked at. `sum` is working
    /// memory, `[dim]`.
    ///
    /// # Panics
    /// If an item is not below [`UnitVectors::len`], or `sum` is shorter than `dim`.
    pub fn diversity(&self, list: &[ItemIdx], sum: &mut [f32]) -> Option<f64> {
        if list.len() < 2 {
            return None;
        }
        sum.fill(0.0);
        let mut lengths = 0.0_f64;
        for item in list {
            for &(at, value) in self.of(item.index()) {
                sum[at as usize] += value;
                lengths += f64::from(value) * f64::from(value);
            }
        }
        let square: f64 = sum.iter().map(|value| f64::from(*value) * f64::from(*value)).sum();
        let pairs = (list.len() * (list.len() - 1)) as f64;
        Some(1.0 - (square - lengths) / pairs)
    }
}

/// Scales to length 1, unless all are 0.
pub(crate) fn scale_to_one(components: &mut [(u32, f32)]) {
    let length = components.iter().map(|(_, value)| value * value).sum::<f32>().sqrt();
    if length > 0.0 {
        components.iter_mut().for_each(|(_, value)| *value /= length);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn diversity_is_the_mean_distance_of_all_pairs() {
        let mut vectors = UnitVectors::new(2);
        vectors.push(&[(0, 2.0)]);
        vectors.push(&[(1, 5.0)]);
        vectors.push(&[(0, 3.0), (1, 4.0)]);
        vectors.push(&[]);
        let mut sum = vec![9.0; 2];
        let mut diversity = |rows: &[u32]| {
            let list: Vec<ItemIdx> = rows.iter().copied().map(ItemIdx).collect();
            vectors.diversity(&list, &mut sum)
        };
        // Cosines: 0 between the first two, .6 and .8 with the third, 0 with the fourth.
        let expected = 1.0 - (0.0 + 0.6 + 0.8) / 3.0;
        assert!((diversity(&[0, 1, 2]).unwrap() - expected).abs() < 1e-6);
        assert!((diversity(&[0, 3]).unwrap() - 1.0).abs() < 1e-6);
        assert!(diversity(&[0, 0]).unwrap().abs() < 1e-6);
        assert_eq!((diversity(&[1]), diversity(&[])), (None, None));
    }

    #[test]
    fn directions_leave_the_bias_out() {
        let dense = Vectors::new(3, vec![3.0, 4.0, 100.0, 0.0, 0.0, 1.0]).unwrap();
        let directions = UnitVectors::directions(&dense, 2);
        assert_eq!((directions.len(), directions.dim()), (2, 2));
        assert_eq!((directions.of(0), directions.of(1)), (&[(0, 0.6), (1, 0.8)][..], &[][..]));
    }
}
