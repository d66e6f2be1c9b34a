//! Spherical k-means (Dhillon & Modha 2001): centroids on the unit sphere, assignment by the largest dot product.
//!
//! Trained on a seeded sample; assignment uses the int8 estimates, since an item near a border may go to either
//! side without harm. Sums are made cluster by cluster in item order, so threads change nothing. An empty cluster is
//! put on a random member of the largest one.

use rand::{RngExt, SeedableRng, seq::index::sample};
use rand_pcg::Pcg64Mcg;
use rayon::prelude::*;

use super::{
    codes::CodeTable,
    kernels::{BLOCK, Estimates, Kernel, MAX_BLOCKS, ScanQuery},
};
use crate::vectors::Vectors;

/// How to train.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clustering {
    pub(crate) lists: usize,
    pub(crate) iterations: usize,
    pub(crate) sample_per_list: usize,
    pub(crate) seed: u64,
    pub(crate) kernel: Kernel,
}

impl Clustering {
    /// Centroids `[lists, dim]`; `lists` must be from 1 to the number of vectors.
    pub(crate) fn train(&self, vectors: &Vectors) -> Vectors {
        let mut rng = Pcg64Mcg::seed_from_u64(self.seed);
        let sampled = vectors.len().min(self.lists * self.sample_per_list.max(1));
        let mut rows = sample(&mut rng, vectors.len(), sampled).into_vec();
        // Row order: neighbouring rows are read together.
        rows.sort_unstable();
        let points: Vec<ScanQuery> = rows.par_iter().map(|&row| ScanQuery::new(vectors.row(row))).collect();
        let mut centroids = Vectors { dim: vectors.dim, data: Vec::with_capacity(self.lists * vectors.dim) };
        for place in sample(&mut rng, rows.len(), self.lists) {
            centroids.data.extend(unit(vectors.row(rows[place])));
        }
        let mut before = Vec::new();
        for _ in 0..self.iterations {
            let table = CodeTable::estimates_only(&centroids);
            let lists: Vec<u32> = points.par_iter().map(|point| nearest(self.kernel, &table, point)).collect();
            if lists == before {
                break;
            }
            self.update(vectors, &rows, &lists, &mut centroids, &mut rng);
            before = lists;
        }
        centroids
    }

    /// The list of every vector.
    pub(crate) fn assign(&self, vectors: &Vectors, centroids: &Vectors) -> Vec<u32> {
        let table = CodeTable::estimates_only(centroids);
        (0..vectors.len())
            .into_par_iter()
            .map_init(ScanQuery::default, |point, row| {
                point.set(vectors.row(row));
                nearest(self.kernel, &table, point)
            })
            .collect()
    }

    /// Moves every centroid to the direction of its members' sum.
    fn update(&self, vectors: &Vectors, rows: &[usize], lists: &[u32], centroids: &mut Vectors, rng: &mut Pcg64Mcg) {
        let members = group(lists, self.lists);
        centroids.data.par_chunks_mut(vectors.dim).zip(&members).for_each(|(centroid, members)| {
            let mut sums = vec![0.0_f64; vectors.dim];
            for &member in members {
                for (sum, value) in sums.iter_mut().zip(unit(vectors.row(rows[member as usize]))) {
                    *sum += f64::from(value);
                }
            }
            let length = sums.iter().map(|sum| sum * sum).sum::<f64>().sqrt();
            // Members that cancel out give no direction: the centroid stays where it was.
            if length > 1e-12 {
                for (value, sum) in centroid.iter_mut().zip(sums) {
                    *value = (sum / length) as f32;
                }
            }
        });
        let mut sizes: Vec<usize> = members.iter().map(Vec::len).collect();
        for empty in 0..self.lists {
            if members[empty].is_empty() {
                let largest = (0..self.lists).max_by_key(|&list| (sizes[list], std::cmp::Reverse(list))).unwrap_or(0);
                if let Some(&member) = members[largest].get(rng.random_range(0..members[largest].len().max(1))) {
                    let at = empty * vectors.dim;
                    centroids.data.splice(at..at + vectors.dim, unit(vectors.row(rows[member as usize])));
                    sizes[largest] /= 2;
                    sizes[empty] = sizes[largest];
                }
            }
        }
    }
}

/// The positions of each list's members, ascending.
pub(crate) fn group(lists: &[u32], count: usize) -> Vec<Vec<u32>> {
    let mut members = vec![Vec::new(); count];
    for (at, &list) in lists.iter().enumerate() {
        members[list as usize].push(at as u32);
    }
    members
}

/// The vector scaled to length 1 (as it is, if it has none).
fn unit(vector: &[f32]) -> impl Iterator<Item = f32> + '_ {
    let length = vector.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    let factor = if length > 0.0 { 1.0 / length } else { 1.0 };
    vector.iter().map(move |value| (f64::from(*value) * factor) as f32)
}

/// The list with the largest estimate, the lower of equals.
fn nearest(kernel: Kernel, centroids: &CodeTable, point: &ScanQuery) -> u32 {
    let mut estimates: Estimates = [0.0; MAX_BLOCKS * BLOCK];
    let (mut best, mut best_list) = (f32::MIN, 0);
    for first in (0..centroids.slots()).step_by(estimates.len()) {
        let last = centroids.slots().min(first + estimates.len());
        let mut mask = centroids.scan(kernel, first, last, point, best, &mut estimates);
        while mask != 0 {
            let lane = mask.trailing_zeros() as usize;
            mask &= mask - 1;
            if estimates[lane] > best {
                best = estimates[lane];
                best_list = centroids.item(first + lane).0;
            }
        }
    }
    best_list
}
