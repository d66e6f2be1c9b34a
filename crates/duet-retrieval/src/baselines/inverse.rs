//! The inverse of a symmetric positive definite matrix in place, by the sweep operator (Goodnight 1979) over blocks.
//!
//! Sweeping block k of A, with G the block's columns and P the inverse of its diagonal block, takes `G P G'` from everything else,
//! replaces the columns by `G P` and the diagonal block by `-P`; after all blocks A is `-A^-1`. The matrix stays symmetric
//! throughout, so that only its lower triangle is worked on: n^3 operations, as by Cholesky, nearly all of them in one product
//! whose rows are shared out to threads. No row depends on another within a block, hence not on the number of threads.

use duet_core::{Error, Result};
use pulp::NullaryFnOnce;
use rayon::prelude::*;

use super::lanes::{LANES, dispatch};

/// Columns swept at a time.
const BLOCK: usize = 64;

/// Rows that share what is loaded of the product's other side.
const TOGETHER: usize = 4;

/// Replaces `matrix` `[n, n]`, of which the lower triangle counts, by its inverse (both triangles).
///
/// # Errors
/// [`Error::Input`] if the matrix is not positive definite.
pub(super) fn invert(matrix: &mut [f32], n: usize) -> Result<()> {
    for start in (0..n).step_by(BLOCK) {
        sweep(matrix, n, start..n.min(start + BLOCK))?;
    }
    for row in 0..n {
        for column in 0..=row {
            let value = -matrix[row * n + column];
            matrix[row * n + column] = value;
            matrix[column * n + row] = value;
        }
    }
    Ok(())
}

fn sweep(matrix: &mut [f32], n: usize, block: std::ops::Range<usize>) -> Result<()> {
    let width = block.len();
    // G, [n, width]: from the lower triangle, so from the block's rows before it and from its columns after it.
    let mut columns = vec![0.0_f32; n * width];
    for row in 0..n {
        for at in 0..width {
            let (one, other) = (row.max(block.start + at), row.min(block.start + at));
            columns[row * width + at] = matrix[one * n + other];
        }
    }
    let inner = invert_block(&columns[block.start * width..block.end * width], width)?;
    // The block itself takes no part in the product; it is written at the end.
    columns[block.start * width..block.end * width].fill(0.0);
    let mut scaled = vec![0.0_f32; n * width];
    scaled.par_chunks_exact_mut(width).zip(columns.par_chunks_exact(width)).for_each(|(scaled, row)| {
        for (value, inner) in row.iter().zip(inner.chunks_exact(width)) {
            for (scaled, inner) in scaled.iter_mut().zip(inner) {
                *scaled += value * inner;
            }
        }
    });
    // G', in tiles [n / LANES][width][LANES] that the product reads from end to end.
    let mut tiles = vec![[0.0_f32; LANES]; n.div_ceil(LANES) * width];
    tiles.par_chunks_exact_mut(width).enumerate().for_each(|(tile, lanes)| {
        for (lane, row) in columns.chunks_exact(width).skip(tile * LANES).take(LANES).enumerate() {
            for (lanes, value) in lanes.iter_mut().zip(row) {
                lanes[lane] = *value;
            }
        }
    });
    matrix.par_chunks_mut(TOGETHER * n).zip(scaled.par_chunks(TOGETHER * width)).enumerate().for_each(
        |(at, (rows, scaled))| {
            let last = (at + 1) * TOGETHER;
            dispatch(Subtract { rows, scaled, tiles: &tiles, n, width, columns: last.min(n) });
        },
    );
    for row in 0..n {
        for at in 0..width {
            let column = block.start + at;
            let value = match block.contains(&row) {
                true => -inner[(row - block.start) * width + at],
                false => scaled[row * width + at],
            };
            matrix[row.max(column) * n + row.min(column)] = value;
        }
    }
    Ok(())
}

/// Gauss-Jordan in `f64`, without a search for pivots, which positive definite matrices do not need.
fn invert_block(block: &[f32], width: usize) -> Result<Vec<f32>> {
    let mut matrix: Vec<f64> = block.iter().map(|&value| f64::from(value)).collect();
    for pivot in 0..width {
        let scale = matrix[pivot * width + pivot];
        if !(scale.is_finite() && scale > 0.0) {
            return Err(Error::input("a matrix to be inverted is not positive definite; raise the regularisation"));
        }
        matrix[pivot * width + pivot] = 1.0;
        for value in &mut matrix[pivot * width..(pivot + 1) * width] {
            *value /= scale;
        }
        let pivot_row = matrix[pivot * width..(pivot + 1) * width].to_vec();
        for (_, row) in matrix.chunks_exact_mut(width).enumerate().filter(|(row, _)| *row != pivot) {
            let share = std::mem::take(&mut row[pivot]);
            for (value, pivot) in row.iter_mut().zip(&pivot_row) {
                *value -= share * pivot;
            }
        }
    }
    Ok(matrix.iter().map(|&value| value as f32).collect())
}

/// `rows -= scaled * tiles`, for [`TOGETHER`] rows or fewer, over the first `columns`.
struct Subtract<'a> {
    rows: &'a mut [f32],
    scaled: &'a [f32],
    tiles: &'a [[f32; LANES]],
    n: usize,
    width: usize,
    columns: usize,
}

impl NullaryFnOnce for Subtract<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { rows, scaled, tiles, n, width, columns } = self;
        let count = rows.len() / n;
        // Row by row of the other side, the weights of all rows together; fewer than four have weights of zero.
        let mut weights = vec![[0.0_f32; TOGETHER]; width];
        for (row, scaled) in scaled.chunks_exact(width).enumerate() {
            for (weights, value) in weights.iter_mut().zip(scaled) {
                weights[row] = *value;
            }
        }
        for (tile, lanes) in tiles.chunks_exact(width).enumerate().take(columns.div_ceil(LANES)) {
            let mut sums = [[0.0_f32; LANES]; TOGETHER];
            for (lanes, weights) in lanes.iter().zip(&weights) {
                for row in 0..TOGETHER {
                    for lane in 0..LANES {
                        sums[row][lane] += weights[row] * lanes[lane];
                    }
                }
            }
            let start = tile * LANES;
            let end = n.min(start + LANES);
            for (row, sums) in sums.iter().enumerate().take(count) {
                for (value, sum) in rows[row * n + start..row * n + end].iter_mut().zip(sums) {
                    *value -= sum;
                }
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_pcg::Pcg64Mcg;

    use super::*;

    #[test]
    fn a_matrix_times_its_inverse_is_one() {
        for n in [1, 3, 4, BLOCK, BLOCK + 1, 3 * BLOCK - 5] {
            let mut rng = Pcg64Mcg::seed_from_u64(n as u64);
            // B B' + I is positive definite.
            let factor: Vec<f64> = (0..n * n).map(|_| rng.random_range(-1.0..1.0)).collect();
            let entry = |row: usize, column: usize| {
                let products = (0..n).map(|at| factor[row * n + at] * factor[column * n + at]);
                products.sum::<f64>() + if row == column { 1.0 } else { 0.0 }
            };
            let matrix: Vec<f64> = (0..n * n).map(|at| entry(at / n, at % n)).collect();
            let invert_on = |threads| {
                let mut inverse: Vec<f32> = matrix.iter().map(|&value| value as f32).collect();
                // The upper triangle must not be looked at.
                (0..n).for_each(|row| inverse[row * n + row + 1..(row + 1) * n].fill(f32::NAN));
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| invert(&mut inverse, n)).unwrap();
                inverse
            };
            let inverse = invert_on(1);
            assert_eq!(inverse, invert_on(3), "{n}: threads");
            for row in 0..n {
                for column in 0..n {
                    let product: f64 =
                        (0..n).map(|at| matrix[row * n + at] * f64::from(inverse[at * n + column])).sum();
                    let expected = if row == column { 1.0 } else { 0.0 };
                    assert!((product - expected).abs() < 2e-3, "{n}: {product} at {row}, {column}");
                }
            }
        }
        assert!(invert(&mut [1.0, 2.0, 2.0, 1.0], 2).unwrap_err().to_string().contains("positive definite"));
    }
}
