//! Loops over `f32` rows for matrix factorisation, written so that the compiler makes vector code of them.
//!
//! Rows are padded with zeros to a multiple of [`LANES`]; sums run in [`LANES`] partial sums that are added in one fixed
//! tree, and nothing is fused. The result is the same bits whatever instruction set the loop was compiled for. Callers
//! wrap the outermost loop in [`dispatch`]; everything here is inlined into it.

use pulp::NullaryFnOnce;

/// Partial sums of a dot product.
pub(super) const LANES: usize = 16;

/// Rows taken at a time: what is loaded of the output then serves four of them.
const TOGETHER: usize = 4;

/// Runs `work`, compiled for the widest vectors this processor has. Only what is inlined into it profits.
pub(super) fn dispatch<W: NullaryFnOnce>(work: W) -> W::Output {
    #[cfg(target_arch = "x86_64")]
    {
        // Not `Arch`: that leaves AVX2 out unless pulp is built with one more feature, and burn's pulp is not.
        use pulp::x86;
        if let Some(simd) = x86::V4::try_new() {
            return simd.vectorize(work);
        }
        if let Some(simd) = x86::V3::try_new() {
            return simd.vectorize(work);
        }
        work.call()
    }
    #[cfg(not(target_arch = "x86_64"))]
    pulp::Arch::new().dispatch(work)
}

/// `dim` rounded up to whole lanes.
pub(super) fn padded(dim: usize) -> usize {
    dim.next_multiple_of(LANES)
}

/// Adds lane by lane: halves onto halves.
#[inline(always)]
fn total(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for at in 0..width {
            lanes[at] += lanes[at + width];
        }
        width /= 2;
    }
    lanes[0]
}

#[inline(always)]
fn lanes(row: &[f32]) -> &[[f32; LANES]] {
    row.as_chunks().0
}

#[inline(always)]
fn lanes_mut(row: &mut [f32]) -> &mut [[f32; LANES]] {
    row.as_chunks_mut().0
}

/// `a . b`
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0; LANES];
    for (a, b) in lanes(a).iter().zip(lanes(b)) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    total(sums)
}

/// `out += weight * row`
#[inline(always)]
pub(super) fn add_scaled(out: &mut [f32], weight: f32, row: &[f32]) {
    for (out, row) in lanes_mut(out).iter_mut().zip(lanes(row)) {
        for lane in 0..LANES {
            out[lane] += weight * row[lane];
        }
    }
}

/// `out += weights[0] * rows[0] + ..` for rows of `width`, one after the other.
#[inline(always)]
pub(super) fn add_rows(out: &mut [f32], weights: &[f32], rows: &[f32], width: usize) {
    let (fours, rest) = weights.as_chunks::<TOGETHER>();
    let (many, few) = rows.split_at(fours.len() * TOGETHER * width);
    for (weights, rows) in fours.iter().zip(many.chunks_exact(TOGETHER * width)) {
        add_four(out, weights, rows, width);
    }
    for (&weight, row) in rest.iter().zip(few.chunks_exact(width)) {
        add_scaled(out, weight, row);
    }
}

#[inline(always)]
fn add_four(out: &mut [f32], weights: &[f32; TOGETHER], rows: &[f32], width: usize) {
    let (first, rows) = rows.split_at(width);
    let (second, rows) = rows.split_at(width);
    let (third, fourth) = rows.split_at(width);
    let four = lanes(first).iter().zip(lanes(second)).zip(lanes(third).iter().zip(lanes(fourth)));
    for (out, ((first, second), (third, fourth))) in lanes_mut(out).iter_mut().zip(four) {
        for lane in 0..LANES {
            let left = weights[0] * first[lane] + weights[1] * second[lane];
            let right = weights[2] * third[lane] + weights[3] * fourth[lane];
            out[lane] += left + right;
        }
    }
}

/// For every row of `rows`: `out += weight(row . vector) * row`, in one pass over memory.
#[inline(always)]
pub(super) fn add_weighted_by_dot(
    out: &mut [f32],
    rows: &[f32],
    vector: &[f32],
    width: usize,
    weight: impl Fn(f32) -> f32,
) {
    let mut fours = rows.chunks_exact(TOGETHER * width);
    for four in &mut fours {
        let mut sums = [[0.0_f32; LANES]; TOGETHER];
        let (first, rows) = four.split_at(width);
        let (second, rows) = rows.split_at(width);
        let (third, fourth) = rows.split_at(width);
        let rows = lanes(first).iter().zip(lanes(second)).zip(lanes(third).iter().zip(lanes(fourth)));
        for (vector, ((first, second), (third, fourth))) in lanes(vector).iter().zip(rows) {
            for lane in 0..LANES {
                sums[0][lane] += first[lane] * vector[lane];
                sums[1][lane] += second[lane] * vector[lane];
                sums[2][lane] += third[lane] * vector[lane];
                sums[3][lane] += fourth[lane] * vector[lane];
            }
        }
        let weights = [weight(total(sums[0])), weight(total(sums[1])), weight(total(sums[2])), weight(total(sums[3]))];
        add_four(out, &weights, four, width);
    }
    for row in fours.remainder().chunks_exact(width) {
        add_scaled(out, weight(dot(row, vector)), row);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_plain_loops_on_every_instruction_set() {
        let width = padded(33);
        assert_eq!(width, 48);
        let rows: Vec<f32> = (0..7 * width).map(|at| ((at * 37 % 101) as f32 - 50.0) / 16.0).collect();
        let vector = &rows[3 * width..4 * width];
        let weights: Vec<f32> = (0..7).map(|at| at as f32 - 2.5).collect();
        let work = || {
            let (mut by_rows, mut by_dot) = (vec![1.0; width], vec![0.0; width]);
            add_rows(&mut by_rows, &weights, &rows, width);
            add_weighted_by_dot(&mut by_dot, &rows, vector, width, |dot| 2.0 - dot);
            (dot(&rows[..width], vector), by_rows, by_dot)
        };
        let dispatched = dispatch(work);
        assert_eq!(dispatched, work(), "instruction sets must not differ by a bit");
        let plain_dot = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum() };
        let close = |value: f32, expected: f64| (f64::from(value) - expected).abs() < 1e-3 * expected.abs().max(1.0);
        assert!(close(dispatched.0, plain_dot(&rows[..width], vector)));
        for at in 0..width {
            let column = |row: usize| f64::from(rows[row * width + at]);
            let by_rows: f64 = 1.0 + (0..7).map(|row| f64::from(weights[row]) * column(row)).sum::<f64>();
            assert!(close(dispatched.1[at], by_rows));
            let weight = |row: usize| 2.0 - plain_dot(&rows[row * width..(row + 1) * width], vector);
            assert!(close(dispatched.2[at], (0..7).map(|row| weight(row) * column(row)).sum()));
        }
    }
}
