//! AVX-512 VNNI: vectors of sixteen rows, each multiplied with four quants of a column at a time.
#![expect(unsafe_code, reason = "instructions that not every processor has")]

use std::arch::x86_64::{
    __m512i, _mm512_add_epi32, _mm512_dpbusd_epi32, _mm512_set1_epi8, _mm512_set1_epi32,
    _mm512_setzero_si512, _mm512_sub_epi32, _mm512_xor_si512,
};

use super::panels::{COLUMNS, Multiplier, Product};

/// [Rows are supported](super::rows::are_supported) where this is.
pub(super) struct Vnni;

impl Multiplier for Vnni {
    unsafe fn begin() -> Self {
        Self
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn multiply_32<const SIGNED: bool, const COUNT: usize>(
        columns: &[[i8; 32]; COLUMNS],
        rows: &[__m512i; 8],
        product: &mut Product,
    ) {
        multiply::<SIGNED, 8>(&columns[..COUNT], 0, rows, product);
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn multiply_16<const COUNT: usize>(
        columns: &[[i8; 32]; COLUMNS],
        rows: &[__m512i; 8],
        half: usize,
        product: &mut Product,
    ) {
        let rows = &rows.as_chunks::<4>().0[half];
        multiply::<true, 4>(&columns[..COUNT], 4 * half, rows, product);
    }
}

/// Of the columns, the groups of four quants that begin with the `first`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn multiply<const SIGNED: bool, const FOURS: usize>(
    columns: &[[i8; 32]],
    first: usize,
    rows: &[__m512i; FOURS],
    product: &mut Product,
) {
    let start = if SIGNED {
        correction(rows)
    } else {
        _mm512_setzero_si512()
    };
    for (column, product) in columns.iter().zip(product) {
        let fours = &column.as_chunks().0[first..];
        *product = dot::<SIGNED, FOURS>(rows, fours, start);
    }
}

/// Four quants of each row in every lane times those of a column, all added to `start`.
///
/// The instruction takes one side without a sign. Where the rows have one, 128 is added to the column's quants: then `start` has to be less by
/// what that adds to the sum, which [`correction`] tells.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn dot<const SIGNED: bool, const FOURS: usize>(
    rows: &[__m512i; FOURS],
    column: &[[i8; 4]],
    start: __m512i,
) -> __m512i {
    let mut dots = [start, _mm512_setzero_si512()];
    for (index, (row, four)) in rows.iter().zip(column).enumerate() {
        let dot = &mut dots[index % 2];
        let four = i32::from_le_bytes(four.map(i8::cast_unsigned));
        let four = _mm512_set1_epi32(four);
        *dot = if SIGNED {
            _mm512_dpbusd_epi32(*dot, _mm512_xor_si512(four, signs()), *row)
        } else {
            _mm512_dpbusd_epi32(*dot, *row, four)
        };
    }
    _mm512_add_epi32(dots[0], dots[1])
}

/// -128 times the sum of each row's quants.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn correction<const FOURS: usize>(rows: &[__m512i; FOURS]) -> __m512i {
    let mut sums = _mm512_setzero_si512();
    for row in rows {
        sums = _mm512_dpbusd_epi32(sums, signs(), *row);
    }
    _mm512_sub_epi32(_mm512_setzero_si512(), sums)
}

/// 128, or the sign, in every byte.
#[inline]
#[target_feature(enable = "avx512f")]
fn signs() -> __m512i {
    _mm512_set1_epi8(i8::MIN)
}
