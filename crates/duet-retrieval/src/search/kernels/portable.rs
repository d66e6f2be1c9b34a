//! Plain Rust: what the other kernels must equal, and what processors without them run.

use super::{BLOCK, Estimates, GROUP, ScanItems, ScanQuery};

pub(super) fn scan(items: ScanItems<'_>, query: &ScanQuery, threshold: f32, estimates: &mut Estimates) -> u64 {
    let blocks = items.blocks(query);
    let mut mask = 0;
    for block in 0..blocks {
        let products = products(&items.codes[block * query.words.len() * BLOCK * GROUP..], query);
        mask |= u64::from(bound(items, query, threshold, block, &products, estimates)) << (block * BLOCK);
    }
    mask
}

fn products(codes: &[u8], query: &ScanQuery) -> [i32; BLOCK] {
    let mut sums = [query.offset; BLOCK];
    for (codes, word) in codes.chunks_exact(BLOCK * GROUP).zip(&query.words) {
        let word = word.to_le_bytes().map(|code| i32::from(code as i8));
        for (sum, codes) in sums.iter_mut().zip(codes.chunks_exact(GROUP)) {
            for (code, factor) in codes.iter().zip(word) {
                *sum += i32::from(*code) * factor;
            }
        }
    }
    sums
}

/// Estimates of one block and the mask of the items that may reach `threshold`.
#[inline(always)]
pub(super) fn bound(
    items: ScanItems<'_>,
    query: &ScanQuery,
    threshold: f32,
    block: usize,
    products: &[i32; BLOCK],
    estimates: &mut Estimates,
) -> u16 {
    let lanes = block * BLOCK..(block + 1) * BLOCK;
    let estimates = &mut estimates[lanes.clone()];
    let (scale, magnitude, residual) =
        (&items.scale[lanes.clone()], &items.magnitude[lanes.clone()], &items.residual[lanes]);
    let mut passes = [false; BLOCK];
    for lane in 0..BLOCK {
        estimates[lane] = products[lane] as f32 * (query.scale * scale[lane]);
        let error = query.residual * magnitude[lane] + (query.norm * residual[lane] + query.slack);
        passes[lane] = estimates[lane] + error >= threshold;
    }
    // Nothing passes in most blocks: one test instead of sixteen shifts.
    if !passes.iter().any(|&pass| pass) {
        return 0;
    }
    passes.iter().enumerate().fold(0, |mask, (lane, &pass)| mask | u16::from(pass) << lane)
}

/// Partial sums of the dot product.
const LANES: usize = 16;

pub(super) fn dot(left: &[f32], right: &[f32]) -> f32 {
    dot_lanes(left, right)
}

/// Inlined into every kernel, so that each compiles it for its own registers; the order of operations is fixed here.
#[inline(always)]
pub(super) fn dot_lanes(left: &[f32], right: &[f32]) -> f32 {
    let length = left.len().min(right.len());
    let (left, right) = (&left[..length], &right[..length]);
    let (left_chunks, left_rest) = left.as_chunks::<LANES>();
    let (right_chunks, right_rest) = right.as_chunks::<LANES>();
    let mut sums = [0.0_f32; LANES];
    for (left, right) in left_chunks.iter().zip(right_chunks) {
        for lane in 0..LANES {
            sums[lane] += left[lane] * right[lane];
        }
    }
    for (sum, (left, right)) in sums.iter_mut().zip(left_rest.iter().zip(right_rest)) {
        *sum += left * right;
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    sums[0]
}
