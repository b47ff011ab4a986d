//! Sixteen rows in sixteen lanes, on processors with AVX-512.
#![expect(
    unsafe_code,
    reason = "rows are read where they lie, by address: it is done for each block of a product"
)]

use std::{
    arch::x86_64::{
        __m512, __m512i, _MM_HINT_T0, _MM_HINT_T1, _mm_loadu_si128, _mm512_and_si512,
        _mm512_castsi128_si512, _mm512_castsi256_si512, _mm512_cvtepi32_epi16, _mm512_cvtph_ps,
        _mm512_i32gather_epi32, _mm512_inserti32x4, _mm512_inserti64x4, _mm512_mullo_epi32,
        _mm512_set1_epi8, _mm512_set1_epi32, _mm512_setr_epi32, _mm512_shuffle_epi8,
        _mm512_srli_epi16, _mm512_srli_epi32, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64,
        _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
    },
    array,
    marker::PhantomData,
};

use super::{
    lanes,
    tiles::{CACHE_LINE, Matrix, fetch, fetch_line},
};

pub(super) const ROWS: usize = 16;

/// The same block of sixteen rows.
pub(super) struct Sixteen<'a, T> {
    first: *const T,
    /// Blocks from one row's to the next one's.
    stride: usize,
    rows: PhantomData<&'a T>,
}

impl<T> Clone for Sixteen<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Sixteen<'_, T> {}

impl<'a, T> Matrix<'a, T> {
    /// Of the row and those after it.
    #[inline]
    pub(super) fn sixteen(&self, row: usize, block: usize) -> Sixteen<'a, T> {
        let blocks = &self.blocks[row * self.stride + block..];
        assert!(blocks.len() > (ROWS - 1) * self.stride);
        Sixteen {
            first: blocks.as_ptr(),
            stride: self.stride,
            rows: PhantomData,
        }
    }
}

impl<'a, T> Sixteen<'a, T> {
    /// Something in each row's block.
    #[inline]
    pub(super) fn each<U>(self, part: impl Fn(&'a T) -> &'a U) -> [&'a U; ROWS] {
        // SAFETY: whoever made this had so many rows.
        array::from_fn(|row| part(unsafe { &*self.first.add(row * self.stride) }))
    }

    /// The first 32 bits of each row's block.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn gather_32(self) -> __m512i {
        const { assert!(size_of::<T>() >= 4) };
        let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        let bytes = (self.stride * size_of::<T>()) as i32;
        let offsets = _mm512_mullo_epi32(lanes, _mm512_set1_epi32(bytes));
        // SAFETY: whoever made this had so many rows.
        unsafe { _mm512_i32gather_epi32::<1>(offsets, self.first.cast()) }
    }

    /// Asks for a part of the rows that are so many sixteens ahead, a different one for each `index`.
    #[inline]
    pub(super) fn fetch(self, ahead: usize, index: usize) {
        fetch::<_, ROWS>(self.part(ahead, index));
    }

    /// As [`Self::fetch`], for a line of the part, to the second cache.
    #[inline]
    pub(super) fn fetch_first(self, ahead: usize, index: usize) {
        fetch_line::<_MM_HINT_T1>(self.part(ahead, index).cast());
    }

    fn part(self, ahead: usize, index: usize) -> *const T {
        let start = self.first.wrapping_sub(index);
        start.wrapping_add(ROWS * (ahead * self.stride + index))
    }

    /// Asks for what comes so many cache lines later in each row, once a line. The rows' blocks are the `index`th.
    #[inline]
    pub(super) fn fetch_rows<const LINES: usize>(self, index: usize) {
        let line = |block: usize| block * size_of::<T>() / CACHE_LINE;
        if index > 0 && line(index) == line(index - 1) {
            return;
        }
        for row in 0..ROWS {
            let block = self.first.wrapping_add(row * self.stride);
            fetch_line::<_MM_HINT_T0>(block.cast::<u8>().wrapping_add(LINES * CACHE_LINE));
        }
    }
}

/// Four numbers of 32 bits of each row become four vectors with one of each.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transposed(rows: [&[u8; 16]; ROWS]) -> [__m512i; 4] {
    // SAFETY: each is sixteen bytes.
    let load = |row: usize| unsafe { _mm_loadu_si128(rows[row].as_ptr().cast()) };
    let [a, b, c, d] = array::from_fn(|row| {
        let four = _mm512_castsi128_si512(load(row));
        let four = _mm512_inserti32x4::<1>(four, load(row + 4));
        let four = _mm512_inserti32x4::<2>(four, load(row + 8));
        _mm512_inserti32x4::<3>(four, load(row + 12))
    });
    let (low, high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let (next_low, next_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    [
        _mm512_unpacklo_epi64(low, next_low),
        _mm512_unpackhi_epi64(low, next_low),
        _mm512_unpacklo_epi64(high, next_high),
        _mm512_unpackhi_epi64(high, next_high),
    ]
}

/// The numbers of half precision in the lower and in the upper halves of the lanes.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn halves(both: __m512i) -> [__m512; 2] {
    [both, _mm512_srli_epi32::<16>(both)]
        .map(|halves| _mm512_cvtph_ps(_mm512_cvtepi32_epi16(halves)))
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn lower_nibbles(packed: __m512i) -> __m512i {
    _mm512_and_si512(packed, _mm512_set1_epi8(0x0f))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn upper_nibbles(packed: __m512i) -> __m512i {
    lower_nibbles(_mm512_srli_epi16::<4>(packed))
}

/// Two numbers of 16 bits in every lane, of two of its bytes without a sign.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw")]
pub(super) fn picked(bytes: __m512i, low: usize, high: usize) -> __m512i {
    let pick = lanes::pick(low, high);
    let pick = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(pick), pick);
    _mm512_shuffle_epi8(bytes, pick)
}
