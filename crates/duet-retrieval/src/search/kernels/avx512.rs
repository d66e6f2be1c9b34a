//! AVX-512 with VNNI: `vpdpbusd` multiplies 64 unsigned by 64 signed bytes and adds them up in fours.
#![expect(unsafe_code, reason = "calls into functions compiled for AVX-512, and unaligned vector loads in them")]

use std::arch::x86_64::{
    __m512i, _CMP_GE_OQ, _mm512_add_ps, _mm512_cmp_ps_mask, _mm512_cvtepi32_ps, _mm512_dpbusd_epi32, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_mul_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_storeu_ps,
};

use super::{BLOCK, Estimates, GROUP, MAX_BLOCKS, ScanItems, ScanQuery};

pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vnni")
}

pub(super) fn scan(items: ScanItems<'_>, query: &ScanQuery, threshold: f32, estimates: &mut Estimates) -> u64 {
    assert!(is_available(), "this processor has no AVX-512 VNNI");
    // SAFETY: the features have just been checked (a cached load and a test).
    unsafe { scan_avx512(items, query, threshold, estimates) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn scan_avx512(items: ScanItems<'_>, query: &ScanQuery, threshold: f32, estimates: &mut Estimates) -> u64 {
    let blocks = items.blocks(query);
    if blocks == MAX_BLOCKS {
        return scan_blocks::<MAX_BLOCKS>(items, query, threshold, estimates, 0);
    }
    (0..blocks).fold(0, |mask, block| mask | scan_blocks::<1>(items, query, threshold, estimates, block))
}

/// Scans `COUNT` blocks from block `first`: several at once share the loads of the query.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn scan_blocks<const COUNT: usize>(
    items: ScanItems<'_>,
    query: &ScanQuery,
    threshold: f32,
    estimates: &mut Estimates,
    first: usize,
) -> u64 {
    let stride = query.words.len() * BLOCK * GROUP;
    let codes = &items.codes[first * stride..(first + COUNT) * stride];
    let mut sums: [__m512i; COUNT] = [_mm512_set1_epi32(query.offset); COUNT];
    for (group, &word) in query.words.iter().enumerate() {
        let factors = _mm512_set1_epi32(word);
        for (block, sum) in sums.iter_mut().enumerate() {
            // SAFETY: `codes` holds COUNT * stride bytes (checked by the slicing above), block < COUNT and
            // (group + 1) * 64 <= stride.
            let codes =
                unsafe { _mm512_loadu_si512(codes.as_ptr().add(block * stride + group * BLOCK * GROUP).cast()) };
            *sum = _mm512_dpbusd_epi32(*sum, codes, factors);
        }
    }
    let lanes = first * BLOCK..(first + COUNT) * BLOCK;
    let (scale, magnitude, residual, estimates) = (
        &items.scale[lanes.clone()],
        &items.magnitude[lanes.clone()],
        &items.residual[lanes.clone()],
        &mut estimates[lanes],
    );
    let mut mask = 0;
    for (block, sum) in sums.into_iter().enumerate() {
        let at = block * BLOCK;
        // SAFETY: the four slices have COUNT * BLOCK entries (checked by the slicing above) and block < COUNT.
        unsafe {
            let factor = _mm512_mul_ps(_mm512_set1_ps(query.scale), _mm512_loadu_ps(scale.as_ptr().add(at)));
            let estimate = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), factor);
            let of_query = _mm512_mul_ps(_mm512_set1_ps(query.residual), _mm512_loadu_ps(magnitude.as_ptr().add(at)));
            let of_item = _mm512_mul_ps(_mm512_set1_ps(query.norm), _mm512_loadu_ps(residual.as_ptr().add(at)));
            let error = _mm512_add_ps(of_query, _mm512_add_ps(of_item, _mm512_set1_ps(query.slack)));
            _mm512_storeu_ps(estimates.as_mut_ptr().add(at), estimate);
            let passes = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(_mm512_add_ps(estimate, error), _mm512_set1_ps(threshold));
            mask |= u64::from(passes) << ((first + block) * BLOCK);
        }
    }
    mask
}
