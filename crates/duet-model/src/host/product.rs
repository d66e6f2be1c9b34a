//! A matrix product of registers: `M` rows times [`LANES`] columns are kept in registers while `k` runs.
//!
//! Operands are laid out so that both sides are read in order: the left one as rows along `k`, the right one as panels of
//! [`LANES`] columns. There is no unsafe code in it: with slices cut to one length the compiler drops every bound check, and the loop
//! over the lanes becomes one or two vector instructions. Measured on Zen 3: 93 Gflop/s a core for k = 64, as much as a hand-scheduled
//! product of large matrices reaches there.
//!
//! A sum over `k` is taken in the order of `k` whatever `M` is, with fused multiplications where the processor has them.

/// Columns of a panel: one AVX-512 register, two of AVX2.
pub(crate) const LANES: usize = 16;

/// A row of a panel.
pub(crate) type Lanes = [f32; LANES];

pub(crate) const ZERO: Lanes = [0.0; LANES];

/// `sums[i][j] + sum_k left[i][k] * right[k][j]`. The rows of `left` are at least as long as `right`.
#[inline(always)]
pub(crate) fn accumulate<const M: usize, const FMA: bool>(
    mut sums: [Lanes; M],
    left: [&[f32]; M],
    right: &[Lanes],
) -> [Lanes; M] {
    let mut rows = left;
    for i in 0..M {
        rows[i] = &left[i][..right.len()];
    }
    for (k, right) in right.iter().enumerate() {
        for i in 0..M {
            let value = rows[i][k];
            for j in 0..LANES {
                sums[i][j] = fused::<FMA>(value, right[j], sums[i][j]);
            }
        }
    }
    sums
}

/// `a * b + c`, in one rounding where `FMA` says that the processor can. (`mul_add` without that is a slow call.)
#[inline(always)]
pub(crate) fn fused<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// The rows of `matrix` (`width` values each) from `first` on, `M` of them; beyond the last row the last one again, so that
/// there are no tails to write code for. What is computed from repeated rows is thrown away.
#[inline(always)]
pub(crate) fn rows<const M: usize>(matrix: &[f32], width: usize, first: usize) -> [&[f32]; M] {
    let last = matrix.len() / width - 1;
    // A loop, not `from_fn`: that is called, not inlined, where there are many of them.
    let mut rows = [&matrix[..0]; M];
    for (i, row) in rows.iter_mut().enumerate() {
        *row = &matrix[(first + i).min(last) * width..][..width];
    }
    rows
}

/// `lanes[(first + i) * stride]`, [`rows`] of a list of lanes.
#[inline(always)]
pub(crate) fn pick<const M: usize>(lanes: &[Lanes], first: usize, stride: usize) -> [&Lanes; M] {
    let last = (lanes.len() - 1) / stride;
    let mut picked = [&ZERO; M];
    for (i, picked) in picked.iter_mut().enumerate() {
        *picked = &lanes[(first + i).min(last) * stride];
    }
    picked
}

/// `sums[row][d] += sum_k left[panel][row][k] right[d][panel][k]` over all panels: a product along the lanes.
///
/// # Shapes
/// `left`: one slice of `rows` lanes a panel; `right`: `[dim panels][height]` with `height` rows of lanes, those of a panel one
/// after the other; `sums`: `[rows][dim panels]`.
#[inline(always)]
pub(crate) fn accumulate_along_lanes<'a, const M: usize, const FMA: bool>(
    left: impl Iterator<Item = &'a [Lanes]> + Clone,
    right: &[Lanes],
    height: usize,
    sums: &mut [Lanes],
) {
    const PANELS: usize = 4;
    let dim_panels = right.len() / height;
    let rows = sums.len() / dim_panels;
    for first in (0..rows).step_by(M) {
        // Found once for all panels of dimensions.
        let mut picked = [[&ZERO; M]; PANELS];
        let mut panels = 0;
        for (picked, left) in picked.iter_mut().zip(left.clone()) {
            *picked = pick(left, first, 1);
            panels += 1;
        }
        for dim_panel in 0..dim_panels {
            let mut block = [ZERO; M];
            for (block, sums) in block.iter_mut().zip(pick::<M>(&sums[dim_panel..], first, dim_panels)) {
                *block = *sums;
            }
            for (panel, picked) in picked[..panels].iter().enumerate() {
                let mut left = [ZERO.as_slice(); M];
                for (left, picked) in left.iter_mut().zip(picked) {
                    *left = picked.as_slice();
                }
                block = accumulate::<M, FMA>(block, left, &right[dim_panel * height + panel * LANES..][..LANES]);
            }
            for (i, block) in block.into_iter().enumerate().take(rows - first) {
                sums[(first + i) * dim_panels + dim_panel] = block;
            }
        }
    }
}

/// Writes rows `first..first + rows` of a row-major matrix as panels of its transpose: `[panels][width]` lanes, lane `l` of panel
/// `p` being row `first + LANES * p + l`; lanes beyond the last row are zero.
#[inline(always)]
pub(crate) fn transpose_into_panels(matrix: &[f32], width: usize, first: usize, rows: usize, panels: &mut [Lanes]) {
    for (number, panel) in panels.chunks_exact_mut(width).enumerate() {
        let used = rows.saturating_sub(number * LANES).min(LANES);
        if used < LANES {
            panel.fill(ZERO);
        }
        for lane in 0..used {
            let row = &matrix[(first + number * LANES + lane) * width..][..width];
            for (lanes, &value) in panel.iter_mut().zip(row) {
                lanes[lane] = value;
            }
        }
    }
}

/// The inverse of [`transpose_into_panels`] for `out.len() / width` rows.
#[inline(always)]
pub(crate) fn transpose_from_panels(panels: &[Lanes], width: usize, out: &mut [f32]) {
    for (number, row) in out.chunks_exact_mut(width).enumerate() {
        let panel = &panels[number / LANES * width..][..width];
        for (value, lanes) in row.iter_mut().zip(panel) {
            *value = lanes[number % LANES];
        }
    }
}

/// Writes rows of a row-major matrix as panels of [`LANES`] columns each: `[column panels][height]` lanes, `height` at least the
/// number of rows; what is not covered stays as it is and must be zero.
#[inline(always)]
pub(crate) fn column_panels(rows: &[f32], width: usize, height: usize, factor: &[f32], panels: &mut [Lanes]) {
    for (number, (row, &factor)) in rows.chunks_exact(width).zip(factor).enumerate() {
        for (panel, values) in row.chunks(LANES).enumerate() {
            for (lane, &value) in panels[panel * height + number].iter_mut().zip(values) {
                *lane = value * factor;
            }
        }
    }
}

/// `[height, width]` to `[width, height]`.
pub(crate) fn transposed(matrix: &[f32], width: usize) -> Vec<f32> {
    let height = matrix.len() / width.max(1);
    let mut out = vec![0.0; matrix.len()];
    for (row, values) in matrix.chunks_exact(width.max(1)).enumerate() {
        for (column, &value) in values.iter().enumerate() {
            out[column * height + row] = value;
        }
    }
    out
}

/// A panel `[width]` of 16 rows, a lane each, as rows of lanes: `out[column panel][first + row]`, `height` rows a column panel.
#[inline(always)]
pub(crate) fn panels_across(panel: &[Lanes], height: usize, first: usize, out: &mut [Lanes]) {
    for (at, lanes) in panel.iter().enumerate() {
        for (row, &value) in lanes.iter().enumerate() {
            out[at / LANES * height + first + row][at % LANES] = value;
        }
    }
}

/// `sums[row][column] += sum_k left[k][row] right[k][column]`, both given as `[panels][width]` with `k` along the lanes.
#[inline(always)]
pub(crate) fn outer<const M: usize, const FMA: bool>(
    left: &[Lanes],
    rows: usize,
    right: &[Lanes],
    columns: usize,
    sums: &mut [Lanes],
) {
    /// Of `k`, what [`accumulate_along_lanes`] takes at a time.
    const STRIP: usize = 4 * LANES;
    let mut across = vec![ZERO; columns.div_ceil(LANES) * STRIP];
    let strips = left.chunks(STRIP / LANES * rows).zip(right.chunks(STRIP / LANES * columns));
    for (left, right) in strips {
        for (number, panel) in right.chunks_exact(columns).enumerate() {
            panels_across(panel, STRIP, number * LANES, &mut across);
        }
        accumulate_along_lanes::<M, FMA>(left.chunks_exact(rows), &across, STRIP, sums);
    }
}

/// Rows of lanes, `[rows][width panels]`, as a matrix `[rows, width]`.
pub(crate) fn unpadded(lanes: &[Lanes], width: usize) -> Vec<f32> {
    lanes.chunks_exact(width.div_ceil(LANES)).flat_map(|row| &row.as_flattened()[..width]).copied().collect()
}

/// The sum of each element's lanes.
pub(crate) fn lane_sums(lanes: &[Lanes]) -> Vec<f32> {
    lanes.iter().map(|lanes| lanes.iter().sum()).collect()
}

pub(crate) fn add_lanes(sums: &mut [Lanes], others: &[Lanes]) {
    for (sum, other) in sums.as_flattened_mut().iter_mut().zip(others.as_flattened()) {
        *sum += other;
    }
}

/// `exp(x)` for `x <= 0`, relative error below 3e-7, written so that the compiler vectorises it (`f32::exp` is a call).
///
/// Cody-Waite reduction `x = n ln 2 + r`, degree-6 polynomial in `r`, scaling by adding `n` to the exponent bits. Below -87, where
/// the result would be subnormal, it is 0.
#[inline(always)]
pub(crate) fn exp_nonpositive<const FMA: bool>(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding 1.5 * 2^23 rounds to the nearest integer (`round` would be a call on baseline x86-64) and leaves that integer in
    // the low bits, so that no conversion is needed to build 2^n.
    const ROUND: f32 = 12_582_912.0;
    let is_normal = x > -87.0;
    let x = if is_normal { x } else { -87.0 };
    let shifted = fused::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = fused::<FMA>(-n, LN2_LOW, fused::<FMA>(-n, LN2_HIGH, x));
    let p = fused::<FMA>(r, 0.001_398_2, 0.008_333_68);
    let p = fused::<FMA>(r, p, 0.041_666_5);
    let p = fused::<FMA>(r, p, 0.166_666_57);
    let p = fused::<FMA>(r, p, 0.5);
    let p = fused::<FMA>(r, p, 1.0);
    let p = fused::<FMA>(r, p, 1.0);
    let value = p * f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    if is_normal { value } else { 0.0 }
}

/// `1 / (1 + exp(-x))`.
#[inline(always)]
pub(crate) fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    let small = exp_nonpositive::<FMA>(-x.abs());
    let numerator = if x >= 0.0 { 1.0 } else { small };
    numerator / (1.0 + small)
}

/// `tanh(x)`, relative error below 1e-6.
///
/// `(1 - exp(-2 |x|)) / (1 + exp(-2 |x|))` with the sign of `x`; near 0, where that cancels, three terms of the series.
#[inline(always)]
pub(crate) fn tanh<const FMA: bool>(x: f32) -> f32 {
    const SERIES_BELOW: f32 = 0.1;
    let square = x * x;
    let series = x * fused::<FMA>(square, fused::<FMA>(square, 2.0 / 15.0, -1.0 / 3.0), 1.0);
    let small = exp_nonpositive::<FMA>(-2.0 * x.abs());
    let quotient = ((1.0 - small) / (1.0 + small)).copysign(x);
    if x.abs() >= SERIES_BELOW { quotient } else { series }
}

/// Compiles a function `$body::<M, FMA>` for several instruction sets and makes `$name` choose among them at run time.
macro_rules! for_every_processor {
    ($name:ident = $body:ident($($argument:ident: $type:ty),* $(,)?)) => {
        #[cfg_attr(
            target_arch = "x86_64",
            expect(unsafe_code, reason = "functions for an instruction set may only be called after it was detected")
        )]
        fn $name($($argument: $type),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx2,fma")]
                fn avx512($($argument: $type),*) {
                    $body::<8, true>($($argument),*);
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($argument: $type),*) {
                    $body::<6, true>($($argument),*);
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    if is_x86_feature_detected!("avx512f") {
                        // SAFETY: the processor has AVX-512F, AVX2 and FMA, just detected.
                        return unsafe { avx512($($argument),*) };
                    }
                    // SAFETY: the processor has AVX2 and FMA, just detected.
                    return unsafe { avx2($($argument),*) };
                }
                $body::<2, false>($($argument),*);
            }
            #[cfg(not(target_arch = "x86_64"))]
            {
                $body::<4, { cfg!(target_arch = "aarch64") }>($($argument),*);
            }
        }
    };
}
pub(crate) use for_every_processor;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_and_what_is_made_of_them_are_right_to_a_millionth() {
        for at in -9000..=0 {
            let x = at as f32 / 100.0;
            let exact = f64::from(x).exp();
            for value in [exp_nonpositive::<true>(x), exp_nonpositive::<false>(x)] {
                let error = (f64::from(value) - exact).abs();
                assert!(error <= if x > -87.0 { 1e-6 * exact } else { 2e-38 }, "exp({x}) = {value}, not {exact}");
            }
        }
        assert_eq!(exp_nonpositive::<true>(f32::NEG_INFINITY), 0.0);
        for at in -4000..=4000 {
            let x = at as f32 / 50.0;
            let exact = 1.0 / (1.0 + (-f64::from(x)).exp());
            assert!((f64::from(sigmoid::<true>(x)) - exact).abs() <= 1e-6 * exact, "sigmoid({x})");
        }
        for at in -20_000..=20_000 {
            // Both sides of where the series ends, and what is beyond saturation.
            for x in [at as f32 / 100_000.0, at as f32 / 1000.0] {
                let exact = f64::from(x).tanh();
                for value in [tanh::<true>(x), tanh::<false>(x)] {
                    assert!((f64::from(value) - exact).abs() <= 1e-6 * exact.abs(), "tanh({x}) = {value}, not {exact}");
                }
            }
        }
    }

    #[test]
    fn panels_and_back() {
        let (rows, width) = (21, 5);
        let matrix: Vec<f32> = (0..rows * width).map(|at| at as f32).collect();
        let mut panels = vec![[9.0; LANES]; 2 * width];
        transpose_into_panels(&matrix, width, 0, rows, &mut panels);
        assert_eq!(panels[width + 3][..6], [83.0, 88.0, 93.0, 98.0, 103.0, 0.0]);
        let mut back = vec![0.0; rows * width];
        transpose_from_panels(&panels, width, &mut back);
        assert_eq!(back, matrix);
        assert_eq!(transposed(&transposed(&matrix, width), rows), matrix);
    }
}
