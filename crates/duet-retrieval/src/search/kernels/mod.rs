//! The inner loops, chosen once by what the processor can do; the portable form is the reference.
//!
//! * [`Kernel::scan`]: int8 estimates of one query against up to [`MAX_BLOCKS`] blocks of 16 items, and which of
//!   them may pass a threshold. Codes are interleaved (16 items x 4 dimensions in 64 bytes), so one 512-bit
//!   instruction advances 16 items by 4 dimensions and no sum runs across a register: row by row, that sum costs
//!   more than the products at 64 dimensions.
//! * [`Kernel::dot`]: the `f32` dot product, the same bits from every kernel: 16 partial sums, no fused
//!   multiply-add, one fixed tree at the end.
//!
//! Item codes are stored as `u8` with an offset of 128, because AVX-512-VNNI multiplies unsigned by signed; the
//! query's share of the offset is subtracted up front. AVX2 widens to 16 bits: its own unsigned-by-signed `maddubs`
//! saturates at 16 bits, which two products of 8-bit codes exceed.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use std::sync::OnceLock;

/// Items of a block.
pub(crate) const BLOCK: usize = 16;
/// Dimensions interleaved at a time.
pub(crate) const GROUP: usize = 4;
/// Blocks of one scan call: their pass mask fills a `u64`.
pub(crate) const MAX_BLOCKS: usize = 4;

/// A query as the scan wants it.
#[derive(Debug, Clone, Default)]
pub(crate) struct ScanQuery {
    /// Four int8 codes each, first dimension in the lowest byte; one word per group.
    pub(crate) words: Vec<i32>,
    /// 128 times the sum of the codes, with the sign turned: what the items' offset adds, taken off.
    pub(crate) offset: i32,
    /// Multiplies integer products, beside the item's own scale.
    pub(crate) scale: f32,
    /// Multiplies the items' `magnitude` in the error bound.
    pub(crate) residual: f32,
    /// Multiplies the items' `residual` in the error bound.
    pub(crate) norm: f32,
    /// Added to the error bound.
    pub(crate) slack: f32,
}

/// Up to [`MAX_BLOCKS`] blocks of items; the three slices have 16 entries a block, `codes` 64 bytes a block and group.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ScanItems<'a> {
    pub(crate) codes: &'a [u8],
    pub(crate) scale: &'a [f32],
    pub(crate) magnitude: &'a [f32],
    pub(crate) residual: &'a [f32],
}

impl ScanItems<'_> {
    /// Checks the lengths that the kernels' pointer arithmetic relies on; returns the number of blocks.
    fn blocks(&self, query: &ScanQuery) -> usize {
        let blocks = self.scale.len() / BLOCK;
        assert!(
            blocks <= MAX_BLOCKS
                && self.scale.len() == blocks * BLOCK
                && self.magnitude.len() == self.scale.len()
                && self.residual.len() == self.scale.len()
                && self.codes.len() == self.scale.len() * query.words.len() * GROUP,
            "scan slices do not fit together"
        );
        blocks
    }
}

/// Estimates of a scan, one per item.
pub(crate) type Estimates = [f32; MAX_BLOCKS * BLOCK];

/// An instruction set to scan with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// Any processor.
    Portable,
    /// x86-64 with AVX2.
    Avx2,
    /// x86-64 with AVX-512 F, BW and VNNI.
    Avx512Vnni,
}

impl Kernel {
    /// The fastest one this processor runs.
    pub fn detect() -> Self {
        static BEST: OnceLock<Kernel> = OnceLock::new();
        *BEST.get_or_init(|| *Self::available().last().unwrap_or(&Self::Portable))
    }

    /// All that this processor runs, slowest first.
    pub fn available() -> Vec<Self> {
        #[cfg_attr(not(target_arch = "x86_64"), expect(unused_mut, reason = "only x86-64 adds to it"))]
        let mut kernels = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") {
                kernels.push(Self::Avx2);
                if avx512::is_available() {
                    kernels.push(Self::Avx512Vnni);
                }
            }
        }
        kernels
    }

    /// The name used in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512Vnni => "avx512-vnni",
        }
    }

    /// Estimates every item and returns a mask of those whose upper bound reaches `threshold`.
    ///
    /// estimate = products * (query.scale * item.scale);
    /// upper = estimate + (query.residual * item.magnitude + query.norm * item.residual + query.slack).
    #[inline]
    pub(crate) fn scan(
        self,
        items: ScanItems<'_>,
        query: &ScanQuery,
        threshold: f32,
        estimates: &mut Estimates,
    ) -> u64 {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => avx512::scan(items, query, threshold, estimates),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => avx2::scan(items, query, threshold, estimates),
            _ => portable::scan(items, query, threshold, estimates),
        }
    }

    /// The `f32` dot product over the shorter of the two lengths.
    #[inline]
    pub fn dot(self, left: &[f32], right: &[f32]) -> f32 {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni | Self::Avx2 => avx2::dot(left, right),
            _ => portable::dot(left, right),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn naive_products(codes: &[u8], words: &[i32], item: usize) -> i32 {
        let (block, lane) = (item / BLOCK, item % BLOCK);
        let mut sum = 0;
        for (group, word) in words.iter().enumerate() {
            for (part, code) in word.to_le_bytes().into_iter().enumerate() {
                let at = ((block * words.len() + group) * BLOCK + lane) * GROUP + part;
                sum += (i32::from(codes[at]) - 128) * i32::from(code as i8);
            }
        }
        sum
    }

    proptest! {
        #[test]
        fn every_kernel_gives_the_portable_integers(
            blocks in 1_usize..=MAX_BLOCKS, groups in 1_usize..40, seed: u64, extreme: bool, threshold in -2.0_f32..2.0,
        ) {
            use rand::{Rng, SeedableRng};
            let mut rng = rand_pcg::Pcg64Mcg::seed_from_u64(seed);
            // The extremes are what overflows 16-bit intermediates.
            let mut byte = || { let byte = rng.next_u32() as u8; if extreme { if byte < 128 { 1 } else { 255 } } else { byte.max(1) } };
            let codes: Vec<u8> = (0..blocks * groups * 64).map(|_| byte()).collect();
            let query_codes: Vec<i8> = (0..groups * 4).map(|_| (i32::from(byte()) - 128) as i8).collect();
            let words: Vec<i32> = query_codes.chunks_exact(4)
                .map(|four| i32::from_le_bytes([four[0] as u8, four[1] as u8, four[2] as u8, four[3] as u8])).collect();
            let offset = -128 * query_codes.iter().map(|&code| i32::from(code)).sum::<i32>();
            // With unit scales the estimates are the integers themselves, exact below 2^24.
            let query = ScanQuery { words, offset, scale: 1.0, residual: 1.0, norm: 1.0, slack: 0.0 };
            let ones = vec![1.0; blocks * BLOCK];
            let spread: Vec<f32> = (0..blocks * BLOCK).map(|lane| lane as f32 * 1000.0).collect();
            let items = ScanItems { codes: &codes, scale: &ones, magnitude: &spread, residual: &ones };
            let threshold = threshold * 50_000.0;
            for kernel in Kernel::available() {
                let mut estimates = [0.0; MAX_BLOCKS * BLOCK];
                let mask = kernel.scan(items, &query, threshold, &mut estimates);
                for item in 0..blocks * BLOCK {
                    let expected = naive_products(&codes, &query.words, item) as f32;
                    prop_assert_eq!(estimates[item], expected, "{:?} item {}", kernel, item);
                    let passes = expected + (spread[item] + 1.0) >= threshold;
                    prop_assert_eq!(mask >> item & 1 == 1, passes, "{:?} item {}", kernel, item);
                }
                prop_assert!(blocks == MAX_BLOCKS || mask >> (blocks * BLOCK) == 0);
            }
        }

        #[test]
        fn every_dot_has_the_same_bits(pairs in prop::collection::vec((-10.0_f32..10.0, -10.0_f32..10.0), 0..200)) {
            let (left, right): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            let exact: f64 = left.iter().zip(&right).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            let sizes: f64 = left.iter().zip(&right).map(|(a, b)| f64::from((a * b).abs())).sum();
            let reference = Kernel::Portable.dot(&left, &right);
            prop_assert!((f64::from(reference) - exact).abs() <= 1e-5 * sizes + 1e-30);
            for kernel in Kernel::available() {
                prop_assert_eq!(kernel.dot(&left, &right).to_bits(), reference.to_bits(), "{:?}", kernel);
            }
        }
    }
}
