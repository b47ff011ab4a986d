//! Products with few columns: a row after the other, as they lie in memory, on processors with AVX-512 VNNI.
//!
//! In the vectors of a row its quants lie side by side, so that little is moved before they are multiplied: with few columns
//! the time it takes to bring the weights is what counts. With many, unpacking [`super::tiles`] once for all of them is less work.
#![expect(unsafe_code, reason = "instructions that not every processor has")]

use std::{
    arch::x86_64::{
        __m512, __m512i, _MM_HINT_T1, _mm512_add_epi32, _mm512_dpbusd_epi32, _mm512_madd_epi16,
        _mm512_reduce_add_ps, _mm512_setzero_ps, _mm512_setzero_si512,
    },
    array,
    cell::RefCell,
    ops::Range,
    ptr,
};

use super::{
    q8_k::Input,
    tiles::{Matrix, Output, fetch, fetch_line},
};

/// Columns that are multiplied with a row at a time.
const COLUMNS: usize = 4;
/// How many bytes ahead the weights are fetched: the processor by itself stops at the end of a page.
const AHEAD: usize = 4096;
/// How many bytes ahead a line of each block is brought as near as the second cache: the first one has few lines under way at a time.
const FAR_AHEAD: usize = 16384;
/// From so many columns on tiles are quicker.
pub(super) const MANY: usize = 24;

/// A type of weights in blocks of 256 quants.
pub(super) trait RowKind {
    type Weight: 'static;

    /// Which 32 of an input's quants come one after the other, as the weights' do.
    const ORDER: [usize; 8];

    /// Adds the block's product with each of the inputs; the sum of a vector's numbers is what counts.
    ///
    /// # Safety
    /// The processor [has what it needs](are_supported).
    unsafe fn accumulate<const COUNT: usize>(
        weight: &Self::Weight,
        inputs: [&Ready; COUNT],
        sums: &mut [__m512; COUNT],
    );
}

/// A block of an input.
#[derive(Clone)]
pub(super) struct Ready {
    pub(super) scale: f32,
    pub(super) quants: [__m512i; 4],
    /// Of sixteen quants each.
    pub(super) sums: [i16; 16],
    /// Of 32 quants each.
    pub(super) double_sums: [i16; 8],
}

pub(super) fn are_supported() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
}

thread_local! {
    static READY: RefCell<Vec<Ready>> = RefCell::default();
}

/// In each lane the products of four quants, added up and times their part's scale, which stands in its lower 16 bits; over all vectors.
///
/// Four quants' products have to fit 16 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn scaled_dots(quants: &[__m512i; 4], scales: &[__m512i; 4], input: &Ready) -> __m512i {
    let mut sums = _mm512_setzero_si512();
    for ((quants, scales), input) in quants.iter().zip(scales).zip(input.quants) {
        let dots = _mm512_dpbusd_epi32(_mm512_setzero_si512(), *quants, input);
        sums = _mm512_add_epi32(sums, _mm512_madd_epi16(dots, *scales));
    }
    sums
}

/// Multiplies the `rows` with so many columns, of `length` blocks each.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn multiply<K: RowKind>(
    weights: &Matrix<K::Weight>,
    inputs: &Matrix<Input>,
    columns: usize,
    length: usize,
    output: Output,
    rows: Range<usize>,
) {
    READY.with_borrow_mut(|ready| {
        ready.clear();
        for column in 0..columns {
            let blocks = inputs.part(column, &(0..length));
            ready.extend(blocks.iter().map(|block| block.ordered(&K::ORDER)));
        }
        let column = |index: usize| &ready[index * length..][..length];
        for row in rows {
            let weights = weights.part(row, &(0..length));
            for first in (0..columns).step_by(COLUMNS) {
                match columns - first {
                    1 => store::<1>(output, row, first, products::<K, 1>(weights, column, first)),
                    2 => store::<2>(output, row, first, products::<K, 2>(weights, column, first)),
                    3 => store::<3>(output, row, first, products::<K, 3>(weights, column, first)),
                    _ => store(
                        output,
                        row,
                        first,
                        products::<K, COLUMNS>(weights, column, first),
                    ),
                }
            }
        }
    });
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn products<'r, K: RowKind, const COUNT: usize>(
    weights: &[K::Weight],
    column: impl Fn(usize) -> &'r [Ready],
    first: usize,
) -> [f32; COUNT] {
    let columns: [&[Ready]; COUNT] = array::from_fn(|index| column(first + index));
    let mut sums = [_mm512_setzero_ps(); COUNT];
    for (block, weight) in weights.iter().enumerate() {
        let weight_at = ptr::from_ref(weight);
        fetch_line::<_MM_HINT_T1>(weight_at.wrapping_byte_add(FAR_AHEAD).cast());
        fetch::<_, 1>(weight_at.wrapping_byte_add(AHEAD));
        // SAFETY: this function has the same features.
        unsafe {
            K::accumulate(weight, columns.map(|column| &column[block]), &mut sums);
        }
    }
    let mut products = [0.0; COUNT];
    for (product, sum) in products.iter_mut().zip(sums) {
        *product = _mm512_reduce_add_ps(sum);
    }
    products
}

#[inline]
fn store<const COUNT: usize>(output: Output, row: usize, first: usize, products: [f32; COUNT]) {
    for (index, product) in products.into_iter().enumerate() {
        output.store_one(row, first + index, product);
    }
}

/// Whether this thread has multiplied anything so.
#[cfg(test)]
pub(super) fn came_here() -> bool {
    READY.with_borrow(|ready| !ready.is_empty())
}
