//! Passes over a row of logits, compiled for several instruction sets and chosen at run time.
//!
//! A release build targets baseline x86-64 (four lanes); the same loops with eight or sixteen lanes are what the processor is
//! worth. Every variant is the same Rust code with the same order of additions ([`LANES`] partial sums), and Rust never fuses
//! a multiplication with an addition by itself, so the results are equal bit for bit whatever is chosen.
#![expect(unsafe_code, reason = "functions for an instruction set may only be called after it was detected")]

/// Lanes of the reductions: enough for two AVX-512 registers, so that the compiler keeps several sums in flight.
const LANES: usize = 32;

/// Takes `bias` off the logits, value by value; `bias` may be shorter.
pub(crate) fn subtract(logits: &mut [f32], bias: &[f32]) {
    for (logit, bias) in logits.iter_mut().zip(bias) {
        *logit -= bias;
    }
}

/// Replaces every logit by `exp(logit - maximum)`; returns the maximum and the sum.
pub(crate) fn exponentials(logits: &mut [f32]) -> (f32, f32) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has AVX-512F, just detected.
            return unsafe { exponentials_avx512(logits) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2, just detected.
            return unsafe { exponentials_avx2(logits) };
        }
    }
    exponentials_portable(logits)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn exponentials_avx512(logits: &mut [f32]) -> (f32, f32) {
    exponentials_portable(logits)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn exponentials_avx2(logits: &mut [f32]) -> (f32, f32) {
    exponentials_portable(logits)
}

#[inline(always)]
fn exponentials_portable(logits: &mut [f32]) -> (f32, f32) {
    let max = max(logits);
    (max, exp_sum(logits, max))
}

#[inline(always)]
fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = values.chunks_exact(LANES);
    let tail = chunks.remainder();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = if value > *lane { value } else { *lane };
        }
    }
    tail.iter().chain(&lanes).copied().fold(f32::NEG_INFINITY, f32::max)
}

#[inline(always)]
fn exp_sum(values: &mut [f32], max: f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let mut chunks = values.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *value = exp_nonpositive(*value - max);
            *lane += *value;
        }
    }
    let mut sum = 0.0;
    for value in chunks.into_remainder() {
        *value = exp_nonpositive(*value - max);
        sum += *value;
    }
    sum + lanes.iter().sum::<f32>()
}

/// `exp(x)` for `x <= 0`, relative error below 3e-7, written so that the compiler vectorises it (`f32::exp` is a call).
///
/// Cody-Waite reduction `x = n ln 2 + r`, degree-6 polynomial in `r`, scaling by adding `n` to the exponent bits.
#[inline(always)]
fn exp_nonpositive(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Below -87 the result would be subnormal: it is taken as exp(-87) = 1.6e-38, nothing in any sum.
    let x = if x > -87.0 { x } else { -87.0 };
    // Adding 1.5 * 2^23 rounds to the nearest integer (`round` would be a call on baseline x86-64) and leaves that integer in
    // the low bits, so that no conversion is needed to build 2^n.
    const ROUND: f32 = 12_582_912.0;
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    let p = 1.0 + r * (1.0 + r * (0.5 + r * (0.166_666_57 + r * (0.041_666_5 + r * (0.008_333_68 + r * 0.001_398_2)))));
    p * f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_gives_the_portable_bits_and_they_are_exponentials() {
        let logits: Vec<f32> =
            (0..1013).map(|at| ((at * 7919 % 1013) as f32 - 700.0) / 11.0).chain([f32::NEG_INFINITY]).collect();
        let (mut chosen, mut portable) = (logits.clone(), logits.clone());
        let (max, sum) = exponentials(&mut chosen);
        assert_eq!((max, sum), exponentials_portable(&mut portable));
        assert_eq!(chosen, portable);
        for (&value, &logit) in chosen.iter().zip(&logits) {
            let exact = f64::from(logit - max).max(-87.0).exp();
            assert!((f64::from(value) - exact).abs() <= 1e-6 * exact, "exp({}) = {value}, not {exact}", logit - max);
        }
    }
}
