//! AVX2: codes widened to 16 bits, products of neighbouring dimensions summed by `vpmaddwd`.
#![expect(unsafe_code, reason = "calls into functions compiled for AVX2, and unaligned vector loads in them")]

use std::arch::x86_64::{
    __m128i, __m256i, _mm_loadu_si128, _mm256_add_epi32, _mm256_cvtepu8_epi16, _mm256_hadd_epi32, _mm256_madd_epi16,
    _mm256_permute4x64_epi64, _mm256_set1_epi32, _mm256_set1_epi64x, _mm256_setzero_si256, _mm256_storeu_si256,
};

use super::{BLOCK, Estimates, GROUP, ScanItems, ScanQuery, portable};

pub(super) fn scan(items: ScanItems<'_>, query: &ScanQuery, threshold: f32, estimates: &mut Estimates) -> u64 {
    assert!(is_x86_feature_detected!("avx2"), "this processor has no AVX2");
    // SAFETY: the feature has just been checked (a cached load and a test).
    unsafe { scan_avx2(items, query, threshold, estimates) }
}

#[target_feature(enable = "avx2")]
fn scan_avx2(items: ScanItems<'_>, query: &ScanQuery, threshold: f32, estimates: &mut Estimates) -> u64 {
    let blocks = items.blocks(query);
    let mut mask = 0;
    for block in 0..blocks {
        let codes = &items.codes[block * query.words.len() * BLOCK * GROUP..];
        let products = products(codes, query);
        mask |= u64::from(portable::bound(items, query, threshold, block, &products, estimates)) << (block * BLOCK);
    }
    mask
}

#[target_feature(enable = "avx2")]
fn products(codes: &[u8], query: &ScanQuery) -> [i32; BLOCK] {
    // sums[q] holds items 4q..4q+4, two partial sums each.
    let mut sums = [_mm256_setzero_si256(); 4];
    for (codes, word) in codes.chunks_exact(BLOCK * GROUP).zip(&query.words) {
        let [a, b, c, d] = word.to_le_bytes().map(|code| i64::from(i16::from(code as i8) as u16));
        let factors: __m256i = _mm256_set1_epi64x(a | b << 16 | c << 32 | d << 48);
        for (quarter, sum) in sums.iter_mut().enumerate() {
            // SAFETY: `codes` is a chunk of 64 bytes; the four loads read its 16-byte quarters.
            let codes: __m128i = unsafe { _mm_loadu_si128(codes.as_ptr().add(quarter * 16).cast()) };
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(_mm256_cvtepu8_epi16(codes), factors));
        }
    }
    let offset = _mm256_set1_epi32(query.offset);
    let mut products = [0; BLOCK];
    for half in 0..2 {
        // hadd works within 128-bit lanes: items 0 1 4 5 2 3 6 7; the permutation puts the pairs in order.
        let paired = _mm256_hadd_epi32(sums[2 * half], sums[2 * half + 1]);
        let ordered = _mm256_add_epi32(_mm256_permute4x64_epi64::<0b11_01_10_00>(paired), offset);
        // SAFETY: 8 integers at 0 and at 8 lie within the 16 of `products`.
        unsafe { _mm256_storeu_si256(products.as_mut_ptr().add(half * 8).cast(), ordered) };
    }
    products
}

pub(super) fn dot(left: &[f32], right: &[f32]) -> f32 {
    assert!(is_x86_feature_detected!("avx2"), "this processor has no AVX2");
    // SAFETY: as in `scan`.
    unsafe { dot_avx2(left, right) }
}

#[target_feature(enable = "avx2")]
fn dot_avx2(left: &[f32], right: &[f32]) -> f32 {
    portable::dot_lanes(left, right)
}
