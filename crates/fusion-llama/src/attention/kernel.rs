//! What one query's heads see: the softmax of their products with the keys, times the values.
#![expect(unsafe_code, reason = "ggml passes addresses")]

use std::{
    arch::x86_64::{__m256, __m512},
    array,
};

use super::{exponential::exponential, lanes::Lanes};

/// Vectors of each head that are computed at a time: with [`TOGETHER`] heads, as many as there are registers for.
const VECTORS: usize = 4;
/// Heads that read a key or a value together.
const TOGETHER: usize = 3;
/// Scores come in whole vectors of any width.
const PADDING: usize = 16;
/// The length of a head is a multiple of it, on every processor.
pub(super) const STEP: usize = 64;
/// Minus infinity, in half precision: the mask of what a query doesn't see.
pub(super) const HIDDEN: u16 = 0xfc00;

/// Rows of numbers, one for each cell or each head, so many bytes after one another.
#[derive(Clone, Copy)]
pub(super) struct Rows<T> {
    pub(super) first: *const T,
    pub(super) stride: usize,
}

impl<T> Rows<T> {
    pub(super) fn row(self, index: usize) -> *const T {
        self.first.wrapping_byte_add(index * self.stride)
    }
}

/// The heads of one query that share keys and values.
pub(super) struct Heads {
    pub(super) count: usize,
    /// Numbers in a head, a multiple of [`STEP`].
    pub(super) length: usize,
    pub(super) scale: f32,
    pub(super) queries: Rows<f32>,
    /// In half precision.
    pub(super) keys: Rows<u16>,
    pub(super) values: Rows<u16>,
    /// Head after head.
    pub(super) output: *mut f32,
}

/// What a thread keeps between calls.
#[derive(Default)]
pub(super) struct Scratch {
    /// The cells that a query sees.
    cells: Vec<usize>,
    /// What the mask adds to their scores.
    biases: Vec<f32>,
    scores: Vec<f32>,
}

impl Scratch {
    /// Lists the cells that a row of the mask leaves to be seen.
    pub(super) fn see(&mut self, mask: &[u16]) {
        self.cells.clear();
        self.biases.clear();
        for (first, cells) in (0..).step_by(PADDING).zip(mask.chunks(PADDING)) {
            if cells.iter().fold(true, |all, &mask| all & (mask == HIDDEN)) {
                continue;
            }
            for (cell, &mask) in (first..).zip(cells) {
                if mask != HIDDEN {
                    self.cells.push(cell);
                    self.biases.push(single(mask));
                }
            }
        }
    }
}

/// # Safety
/// The processor has AVX2, FMA and F16C; the heads' queries and output are there, and the keys and values of all cells that were
/// [seen](Scratch::see). Nobody else writes to the output.
pub(super) unsafe fn attend(heads: &Heads, scratch: &mut Scratch) {
    // SAFETY: so the caller says; AVX-512 is asked for.
    unsafe {
        if is_x86_feature_detected!("avx512f") {
            attend_512(heads, scratch);
        } else {
            attend_256(heads, scratch);
        }
    }
}

/// # Safety
/// As for [`attend`].
#[target_feature(enable = "avx2,fma,f16c,avx512f")]
unsafe fn attend_512(heads: &Heads, scratch: &mut Scratch) {
    // SAFETY: so the caller says.
    unsafe { attend_with::<__m512>(heads, scratch) }
}

/// # Safety
/// As for [`attend`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn attend_256(heads: &Heads, scratch: &mut Scratch) {
    // SAFETY: so the caller says.
    unsafe { attend_with::<__m256>(heads, scratch) }
}

/// # Safety
/// As for [`attend`], on a processor with such vectors.
#[inline(always)]
unsafe fn attend_with<V: Lanes>(heads: &Heads, scratch: &mut Scratch) {
    let mut first = 0;
    while first < heads.count {
        // SAFETY: so the caller says; these are some of the heads.
        first += unsafe {
            match heads.count - first {
                1 => heads.together::<V, 1>(first, scratch),
                2 | 4 => heads.together::<V, 2>(first, scratch),
                _ => heads.together::<V, TOGETHER>(first, scratch),
            }
        };
    }
}

impl Heads {
    /// Computes `N` heads from the `first` on, and says how many that were.
    ///
    /// # Safety
    /// As for [`attend_with`].
    #[inline(always)]
    unsafe fn together<V: Lanes, const N: usize>(
        &self,
        first: usize,
        scratch: &mut Scratch,
    ) -> usize {
        let padded = scratch.cells.len().next_multiple_of(PADDING);
        scratch.scores.clear();
        scratch.scores.resize(N * padded, f32::NEG_INFINITY);
        for part in (0..self.length).step_by(VECTORS * V::WIDTH) {
            // SAFETY: so the caller says.
            unsafe { self.score::<V, N>(first, part, padded, scratch) };
        }
        let mut shares = [0.0; N];
        for (head, share) in shares.iter_mut().enumerate() {
            let sum = exponentials(&mut scratch.scores[head * padded..][..padded]);
            *share = if sum > 0.0 { sum.recip() } else { 0.0 };
        }
        for part in (0..self.length).step_by(VECTORS * V::WIDTH) {
            // SAFETY: so the caller says.
            unsafe { self.mix::<V, N>(first, part, padded, scratch, &shares) };
        }
        N
    }

    /// Adds one part of each head's products with the keys to the scores; the first part sets them.
    ///
    /// # Safety
    /// As for [`attend_with`].
    #[inline(always)]
    unsafe fn score<V: Lanes, const N: usize>(
        &self,
        first: usize,
        part: usize,
        padded: usize,
        scratch: &mut Scratch,
    ) {
        let Scratch {
            cells,
            biases,
            scores,
        } = scratch;
        // SAFETY: so the caller says.
        unsafe {
            let queries: [[V; VECTORS]; N] = array::from_fn(|head| {
                let query = self.queries.row(first + head).add(part);
                array::from_fn(|vector| V::load(query.add(vector * V::WIDTH)))
            });
            for (index, (&cell, &bias)) in cells.iter().zip(biases.iter()).enumerate() {
                let key = self.keys.row(cell).add(part);
                let key: [V; VECTORS] =
                    array::from_fn(|vector| V::load_half(key.add(vector * V::WIDTH)));
                for (head, query) in queries.iter().enumerate() {
                    let low = key[1].times_plus(query[1], key[0].times(query[0]));
                    let high = key[3].times_plus(query[3], key[2].times(query[2]));
                    let product = low.times_plus(V::splat(1.0), high).sum();
                    let score = scores.get_unchecked_mut(head * padded + index);
                    let before = if part == 0 { bias } else { *score };
                    *score = product * self.scale + before;
                }
            }
        }
    }

    /// One part of each head's output: the values of the cells, each as much as its score says.
    ///
    /// # Safety
    /// As for [`attend_with`].
    #[inline(always)]
    unsafe fn mix<V: Lanes, const N: usize>(
        &self,
        first: usize,
        part: usize,
        padded: usize,
        scratch: &Scratch,
        shares: &[f32; N],
    ) {
        // SAFETY: so the caller says.
        unsafe {
            let mut sums = [[V::splat(0.0); VECTORS]; N];
            for (index, &cell) in scratch.cells.iter().enumerate() {
                let value = self.values.row(cell).add(part);
                let value: [V; VECTORS] =
                    array::from_fn(|vector| V::load_half(value.add(vector * V::WIDTH)));
                for (head, sums) in sums.iter_mut().enumerate() {
                    let weight = V::splat(*scratch.scores.get_unchecked(head * padded + index));
                    for (sum, value) in sums.iter_mut().zip(value) {
                        *sum = value.times_plus(weight, *sum);
                    }
                }
            }
            for (head, (sums, share)) in sums.iter().zip(shares).enumerate() {
                let output = self.output.add((first + head) * self.length + part);
                for (vector, sum) in sums.iter().enumerate() {
                    let sum = sum.times(V::splat(*share));
                    sum.store(output.add(vector * V::WIDTH));
                }
            }
        }
    }
}

/// Makes each score the exponential of what it lies below the greatest, and adds these up.
#[inline(always)]
fn exponentials(scores: &mut [f32]) -> f32 {
    let (chunks, _) = scores.as_chunks_mut::<PADDING>();
    let mut most = [f32::NEG_INFINITY; PADDING];
    for chunk in chunks.iter() {
        for (most, &score) in most.iter_mut().zip(chunk) {
            *most = if score > *most { score } else { *most };
        }
    }
    let most = most.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let mut sums = [0.0; PADDING];
    for chunk in chunks {
        for (score, sum) in chunk.iter_mut().zip(&mut sums) {
            *score = exponential(*score - most);
            *sum += *score;
        }
    }
    sums.into_iter().sum()
}

/// The number of half precision with these bits; no infinity and none below the least normal one, which masks don't have.
pub(super) fn single(half: u16) -> f32 {
    let sign = u32::from(half & 0x8000) << 16;
    let magnitude = u32::from(half & 0x7fff);
    if magnitude == 0 {
        return f32::from_bits(sign);
    }
    f32::from_bits(sign | ((magnitude << 13) + (112 << 23)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matmul::are_supported;

    #[test]
    fn processors_of_either_width_come_to_the_same() {
        if !are_supported() || !is_x86_feature_detected!("avx512f") {
            return println!("SKIPPED: this processor has no vectors of two widths");
        }
        const LENGTH: usize = 128;
        let numbers = |count: usize| (0..count).map(|index| (index * 7919 % 2_047) as u16);
        // Half precision from 0.5 to 2, a cell after the other.
        let halves: Vec<u16> = numbers(50 * LENGTH).map(|number| 0x3800 + number).collect();
        let queries: Vec<f32> = numbers(5 * LENGTH)
            .map(|number| f32::from(number) / 10_240.0 - 0.1)
            .collect();
        let computed = |attend: unsafe fn(&Heads, &mut Scratch)| {
            let mut output = vec![f32::NAN; 5 * LENGTH];
            let rows = Rows {
                first: halves.as_ptr(),
                stride: 2 * LENGTH,
            };
            let heads = Heads {
                count: 5,
                length: LENGTH,
                scale: 0.1,
                queries: Rows {
                    first: queries.as_ptr(),
                    stride: 4 * LENGTH,
                },
                keys: rows,
                values: rows,
                output: output.as_mut_ptr(),
            };
            let mut scratch = Scratch::default();
            let mask: Vec<u16> = (0..50)
                .map(|cell| if cell % 3 == 0 { HIDDEN } else { 0 })
                .collect();
            scratch.see(&mask);
            // SAFETY: the processor has both, and all rows are there.
            unsafe { attend(&heads, &mut scratch) };
            output
        };
        let (narrow, wide) = (computed(attend_256), computed(attend_512));
        for (narrow, wide) in narrow.iter().zip(&wide) {
            assert!((0.5..2.0).contains(wide), "{wide}");
            assert!((narrow - wide).abs() < 1e-5, "{narrow} {wide}");
        }
    }

    #[test]
    fn a_mask_says_which_cells_are_seen_and_what_is_added() {
        let mut scratch = Scratch::default();
        let mut mask = vec![HIDDEN; 40];
        mask[0] = 0;
        mask[17] = 0xc000;
        mask[39] = 0x3800;
        scratch.see(&mask);
        assert_eq!(scratch.cells, [0, 17, 39]);
        assert_eq!(scratch.biases, [0.0, -2.0, 0.5]);
    }
}
