//! Item vectors as int8 codes with a proven error, in the layout of the kernels.
//!
//! A vector x is coded as c = round(x / s), s = max|x_j| / 127, leaving the residual x - s c; a query q likewise as
//! e with scale t. From
//!
//! ```text
//! q.x = (t e).(s c) + (q - t e).(s c) + q.(x - s c)
//! ```
//!
//! and Cauchy-Schwarz,
//!
//! ```text
//! |q.x - t s (e.c)| <= |q - t e| |s c| + |q| |x - s c|                                     (1)
//! ```
//!
//! where e.c is computed exactly in integers. The search compares not q.x but F, the `f32` dot product, and
//! computes t s (e.c) and (1) in `f32` too. With u = 2^-24 and d dimensions, any order of summation gives
//! |F - q.x| <= 2 d u |q| |x| as long as d u < 1/2; the rounding of the estimate, of the bound and of their sum or
//! difference is below 12 u of either. So an item stores
//!
//! ```text
//! magnitude = |s c| (1 + 2^-20)        residual = |x - s c| + (d + 16) 2^-23 (|x| + |s c|)
//! ```
//!
//! rounded up, and a query stores |q - t e| and |q| times 1 + 2^-20, rounded up: then
//! `query.residual * magnitude + query.norm * residual` is at least |F - estimate| after every rounding. A slack of
//! d times the smallest normal number covers underflow. A property test holds the bound against actual products.

use duet_core::ItemIdx;
use rayon::prelude::*;

use super::kernels::{BLOCK, Estimates, GROUP, Kernel, MAX_BLOCKS, ScanItems, ScanQuery};
use crate::vectors::Vectors;

/// A slot without an item: lists are padded with them to whole blocks.
pub(crate) const PADDING: u32 = u32::MAX;

/// The largest code; symmetric, so that the codes plus 128 lie in 1..=255.
const LARGEST: f64 = 127.0;

/// Codes of items in slots, blocks of 16.
#[derive(Debug, Clone)]
pub(crate) struct CodeTable {
    groups: usize,
    /// The item of each slot, or [`PADDING`].
    items: Vec<u32>,
    codes: Vec<u8>,
    scale: Vec<f32>,
    magnitude: Vec<f32>,
    residual: Vec<f32>,
}

/// The next `f32` at or above `value`.
fn round_up(value: f64) -> f32 {
    let rounded = value as f32;
    if f64::from(rounded) < value { rounded.next_up() } else { rounded }
}

struct Quantised {
    scale: f32,
    /// |x|, |s c|, |x - s c|.
    norm: f64,
    magnitude: f64,
    residual: f64,
}

/// Codes `vector`, calling `put(dimension, code)`.
fn quantise(vector: &[f32], mut put: impl FnMut(usize, i8)) -> Quantised {
    let largest = vector.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let scale = (f64::from(largest) / LARGEST) as f32;
    // A subnormal scale would lose the precision that the bound counts on: such a vector is all residual.
    let (scale, inverse) = if scale < f32::MIN_POSITIVE { (0.0, 0.0) } else { (scale, 1.0 / scale) };
    let (mut norm, mut magnitude, mut residual) = (0.0, 0.0, 0.0);
    for (at, &value) in vector.iter().enumerate() {
        // The division's rounding may move a code by one at a tie; the residual is measured, so the bound holds.
        let code = (value * inverse).round_ties_even().clamp(-127.0, 127.0);
        let coded = f64::from(scale) * f64::from(code);
        norm += f64::from(value) * f64::from(value);
        magnitude += coded * coded;
        residual += (f64::from(value) - coded).powi(2);
        put(at, code as i8);
    }
    Quantised { scale, norm: norm.sqrt(), magnitude: magnitude.sqrt(), residual: residual.sqrt() }
}

const RELATIVE_SLACK: f64 = 1.0 + 1.0 / (1 << 20) as f64;

impl ScanQuery {
    /// Codes a query, reusing the buffers of `self`.
    pub(crate) fn set(&mut self, query: &[f32]) {
        let groups = query.len().div_ceil(GROUP);
        self.words.clear();
        self.words.resize(groups, 0);
        let mut sum = 0;
        let words = &mut self.words;
        let quantised = quantise(query, |at, code| {
            sum += i32::from(code);
            words[at / GROUP] |= i32::from(code as u8) << (8 * (at % GROUP));
        });
        self.offset = -128 * sum;
        self.scale = quantised.scale;
        self.residual = round_up(quantised.residual * RELATIVE_SLACK);
        self.norm = round_up(quantised.norm * RELATIVE_SLACK);
        self.slack = query.len() as f32 * f32::MIN_POSITIVE;
    }

    /// A new coded query.
    pub(crate) fn new(query: &[f32]) -> Self {
        let mut coded = Self::default();
        coded.set(query);
        coded
    }
}

impl CodeTable {
    /// Codes the vectors of `items` (rows, or [`PADDING`]); the length must be a multiple of [`BLOCK`].
    pub(crate) fn new(vectors: &Vectors, items: Vec<u32>) -> Self {
        debug_assert!(items.len().is_multiple_of(BLOCK));
        let dim = vectors.dim;
        let groups = dim.div_ceil(GROUP);
        // 128 is the code of zero: padded slots and dimensions add nothing.
        let mut codes = vec![128_u8; items.len() * groups * GROUP];
        let mut scale = vec![0.0; items.len()];
        let mut magnitude = vec![0.0; items.len()];
        // An upper bound of minus infinity passes no threshold.
        let mut residual = vec![f32::NEG_INFINITY; items.len()];
        let rounding = (dim + 16) as f64 / f64::from(1 << 23);
        (codes.par_chunks_mut(BLOCK * groups * GROUP), scale.par_chunks_mut(BLOCK))
            .into_par_iter()
            .zip((magnitude.par_chunks_mut(BLOCK), residual.par_chunks_mut(BLOCK), items.par_chunks(BLOCK)))
            .for_each(|((codes, scale), (magnitude, residual, items))| {
                for (lane, &item) in items.iter().enumerate().filter(|(_, item)| **item != PADDING) {
                    let quantised = quantise(vectors.row(item as usize), |at, code| {
                        codes[(at / GROUP * BLOCK + lane) * GROUP + at % GROUP] = (i16::from(code) + 128) as u8;
                    });
                    scale[lane] = quantised.scale;
                    magnitude[lane] = round_up(quantised.magnitude * RELATIVE_SLACK);
                    let rounding = rounding * (quantised.norm + quantised.magnitude);
                    residual[lane] = round_up(quantised.residual + rounding);
                }
            });
        Self { groups, items, codes, scale, magnitude, residual }
    }

    /// Codes all vectors in order, padded at the end.
    pub(crate) fn in_order(vectors: &Vectors) -> Self {
        let mut items: Vec<u32> = (0..vectors.len() as u32).collect();
        items.resize(items.len().next_multiple_of(BLOCK), PADDING);
        Self::new(vectors, items)
    }

    /// As [`CodeTable::in_order`], without error bounds: upper bounds are then the estimates themselves (padding
    /// keeps its minus infinity), for uses where the best estimate is good enough.
    pub(crate) fn estimates_only(vectors: &Vectors) -> Self {
        let mut table = Self::in_order(vectors);
        table.magnitude.fill(0.0);
        for residual in table.residual.iter_mut().filter(|residual| residual.is_finite()) {
            *residual = 0.0;
        }
        table
    }

    /// Slots, padding included.
    pub(crate) fn slots(&self) -> usize {
        self.items.len()
    }

    /// The item in a slot that passed a scan.
    #[inline]
    pub(crate) fn item(&self, slot: usize) -> ItemIdx {
        ItemIdx(self.items[slot])
    }

    /// The error bound of a slot's estimate.
    #[inline]
    pub(crate) fn error(&self, slot: usize, query: &ScanQuery) -> f32 {
        query.residual * self.magnitude[slot] + (query.norm * self.residual[slot] + query.slack)
    }

    /// Scans the slots from `start` (a multiple of [`BLOCK`]) to `end`, at most 64, against one query.
    #[inline]
    pub(crate) fn scan(
        &self,
        kernel: Kernel,
        start: usize,
        end: usize,
        query: &ScanQuery,
        threshold: f32,
        estimates: &mut Estimates,
    ) -> u64 {
        debug_assert!(start.is_multiple_of(BLOCK) && end - start <= MAX_BLOCKS * BLOCK);
        let items = ScanItems {
            codes: &self.codes[start * self.groups * GROUP..end * self.groups * GROUP],
            scale: &self.scale[start..end],
            magnitude: &self.magnitude[start..end],
            residual: &self.residual[start..end],
        };
        kernel.scan(items, query, threshold, estimates)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn component() -> impl Strategy<Value = f32> {
        prop_oneof![4 => -1.0_f32..1.0, 1 => Just(0.0), 1 => -1e-3_f32..1e-3, 1 => -1e3_f32..1e3]
    }

    proptest! {
        #[test]
        fn the_bound_holds(
            dim in 1_usize..70,
            pool in prop::collection::vec(component(), 70 * 5),
            size in prop_oneof![Just(1.0_f32), Just(1e-38), Just(1e-30), Just(1e12)],
        ) {
            let query: Vec<f32> = pool[..dim].to_vec();
            let data: Vec<f32> = pool[70..70 + 4 * dim].iter().map(|value| value * size).collect();
            let vectors = Vectors::new(dim, data).unwrap();
            let table = CodeTable::in_order(&vectors);
            let coded = ScanQuery::new(&query);
            for kernel in Kernel::available() {
                let mut estimates = [0.0; MAX_BLOCKS * BLOCK];
                let mask = table.scan(kernel, 0, BLOCK, &coded, f32::MIN, &mut estimates);
                prop_assert_eq!(mask, 0b1111, "items pass, padding does not");
                for (row, &estimate) in estimates.iter().enumerate().take(4) {
                    let plain = kernel.dot(&query, vectors.row(row));
                    let error = table.error(row, &coded);
                    prop_assert!(estimate - error <= plain && plain <= estimate + error,
                        "{} is not within {} of {}", plain, error, estimate);
                }
            }
        }
    }

    #[test]
    fn the_bound_is_useful() {
        // Unit vectors of 64 equal components: the codes are exact, so only rounding is left.
        let vectors = Vectors::new(64, vec![0.125; 64 * 2]).unwrap();
        let table = CodeTable::in_order(&vectors);
        assert!(table.error(0, &ScanQuery::new(vectors.row(0))) < 1e-4);
    }
}
