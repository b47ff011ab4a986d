//! Eight rows in eight lanes.

use std::arch::x86_64::{
    __m128i, __m256, __m256i, _mm_cvtph_ps, _mm_cvtsi32_si128, _mm_loadu_si128, _mm_setr_epi8,
    _mm_shuffle_epi8, _mm_storeu_ps, _mm_unpackhi_epi64, _mm_unpacklo_epi64, _mm256_add_epi16,
    _mm256_and_si256, _mm256_castsi128_si256, _mm256_castsi256_si128, _mm256_cvtph_ps,
    _mm256_extracti128_si256, _mm256_inserti128_si256, _mm256_maddubs_epi16, _mm256_set1_epi8,
    _mm256_set1_epi32, _mm256_setr_epi32, _mm256_setzero_si256, _mm256_srli_epi16,
    _mm256_unpackhi_epi32, _mm256_unpackhi_epi64, _mm256_unpacklo_epi32, _mm256_unpacklo_epi64,
};

use super::tiles::ROWS;

/// Four numbers of 32 bits of each row become four vectors with one of each.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn transposed(rows: [&[u8; 16]; ROWS]) -> [__m256i; 4] {
    let [a, b, c, d, e, f, g, h] = rows;
    let (first, second) = (pair(a, e), pair(b, f));
    let (third, fourth) = (pair(c, g), pair(d, h));
    let low = _mm256_unpacklo_epi32(first, second);
    let high = _mm256_unpackhi_epi32(first, second);
    let next_low = _mm256_unpacklo_epi32(third, fourth);
    let next_high = _mm256_unpackhi_epi32(third, fourth);
    [
        _mm256_unpacklo_epi64(low, next_low),
        _mm256_unpackhi_epi64(low, next_low),
        _mm256_unpacklo_epi64(high, next_high),
        _mm256_unpackhi_epi64(high, next_high),
    ]
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn pair(low: &[u8; 16], high: &[u8; 16]) -> __m256i {
    // SAFETY: both are sixteen bytes.
    #[expect(unsafe_code, reason = "see above")]
    let (low, high) = unsafe {
        (
            _mm_loadu_si128(low.as_ptr().cast()),
            _mm_loadu_si128(high.as_ptr().cast()),
        )
    };
    _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(low), high)
}

/// The numbers of half precision in the lower and in the upper halves of the lanes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn halves(both: __m256i) -> (__m256, __m256) {
    let low = apart(_mm256_castsi256_si128(both));
    let high = apart(_mm256_extracti128_si256::<1>(both));
    (
        _mm256_cvtph_ps(_mm_unpacklo_epi64(low, high)),
        _mm256_cvtph_ps(_mm_unpackhi_epi64(low, high)),
    )
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn apart(both: __m128i) -> __m128i {
    let order = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    _mm_shuffle_epi8(both, order)
}

/// Two numbers of half precision, as they stand in a block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn single(first: u16, second: u16) -> [f32; 2] {
    let both = u32::from(first) | u32::from(second) << 16;
    let mut numbers = [0.0; 4];
    let halves = _mm_cvtph_ps(_mm_cvtsi32_si128(both.cast_signed()));
    // SAFETY: there is room for four numbers.
    #[expect(unsafe_code, reason = "see above")]
    unsafe {
        _mm_storeu_ps(numbers.as_mut_ptr(), halves);
    }
    [numbers[0], numbers[1]]
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn lower_nibbles(packed: __m256i) -> __m256i {
    _mm256_and_si256(packed, _mm256_set1_epi8(0x0f))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn upper_nibbles(packed: __m256i) -> __m256i {
    lower_nibbles(_mm256_srli_epi16::<4>(packed))
}

/// For each of the columns the products of so many groups of four quants, two and two added up, in 16 bits.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dots<const COUNT: usize, const GROUPS: usize>(
    quants: &[__m256i; GROUPS],
    inputs: [&[i32; GROUPS]; COUNT],
) -> [__m256i; COUNT] {
    let mut dots = [_mm256_setzero_si256(); COUNT];
    for (group, quants) in quants.iter().enumerate() {
        for (dot, input) in dots.iter_mut().zip(&inputs) {
            let products = _mm256_maddubs_epi16(*quants, _mm256_set1_epi32(input[group]));
            *dot = _mm256_add_epi16(*dot, products);
        }
    }
    dots
}

/// Bytes by fours, as they lie in memory.
#[inline]
pub(super) fn fours<const GROUPS: usize>(quants: &[[i8; 4]; GROUPS]) -> [i32; GROUPS] {
    quants.map(|four| i32::from_le_bytes(four.map(i8::cast_unsigned)))
}

/// The shuffle that makes two numbers of 16 bits in every lane of two of its bytes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn pick(low: usize, high: usize) -> __m256i {
    // An index above 127 makes a zero.
    let lane = 0x8000_8000_u32 | (low | high << 16) as u32;
    let next = 0x0004_0004;
    let (a, b, c, d) = (lane, lane + next, lane + 2 * next, lane + 3 * next);
    let [a, b, c, d] = [a, b, c, d].map(u32::cast_signed);
    _mm256_setr_epi32(a, b, c, d, a, b, c, d)
}
