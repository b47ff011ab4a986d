//! What many queries of a prompt see: a tile of queries goes over the cells block by block, and its softmax is brought along (Dao
//! et al. 2022, "FlashAttention").
//!
//! The queries of a tile lie across vectors, so that greatest scores and sums need no step between the numbers of a vector, and keys
//! and values are read as they lie.
#![expect(unsafe_code, reason = "ggml passes addresses")]

use std::{
    arch::x86_64::{__m256, __m512},
    array,
    ops::Range,
};

use super::{
    exponential::exponential,
    kernel::{HIDDEN, Rows, single},
    lanes::Lanes,
};

/// About so many rows are a tile: the heads of its queries.
const ROWS: usize = 96;
/// Rows that are computed side by side.
const SIDE: usize = 32;
/// With fewer rows a tile gains nothing.
const LEAST_ROWS: usize = 16;
/// A row takes so many times as long outside of a tile.
const GAIN: usize = 2;
/// Cells of a block.
const CELLS: usize = 64;

/// One number of each of the rows side by side.
type Across = [f32; SIDE];

/// Tokens of a tile, where so many heads share keys and values.
pub(super) fn tokens(heads: usize) -> usize {
    (ROWS / heads).max(1)
}

/// Where the numbers of a token's head are: so many bytes from token to token, and from head to head.
#[derive(Clone, Copy)]
pub(super) struct Grid {
    pub(super) first: *mut f32,
    pub(super) strides: [usize; 2],
}

impl Grid {
    fn at(self, token: usize, head: usize) -> *mut f32 {
        let [tokens, heads] = self.strides;
        self.first.wrapping_byte_add(token * tokens + head * heads)
    }
}

/// Tokens after one another, and the heads of each that share keys and values.
pub(super) struct Tile<'a> {
    pub(super) heads: usize,
    /// Numbers in a head, a multiple of eight.
    pub(super) length: usize,
    pub(super) scale: f32,
    pub(super) queries: Grid,
    /// In half precision.
    pub(super) keys: Rows<u16>,
    pub(super) values: Rows<u16>,
    /// A row for each token.
    pub(super) masks: &'a [&'a [u16]],
    pub(super) output: Grid,
}

/// How much of a block a token sees.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Seen {
    All,
    Some,
    Nothing,
}

/// What the tokens of a tile see.
#[derive(Default)]
struct Sight {
    /// Cells that any of them sees.
    cells: Vec<usize>,
    /// Block after block, token after token.
    seen: Vec<Seen>,
    /// How many cells each token sees, added up.
    pairs: usize,
}

impl Sight {
    fn look(&mut self, masks: &[&[u16]]) {
        self.cells.clear();
        self.seen.clear();
        let sees = |cells: Range<usize>| {
            let any = |mask: &&[u16]| {
                let cells = &mask[cells.clone()];
                cells
                    .iter()
                    .fold(false, |any, &mask| any | (mask != HIDDEN))
            };
            masks.iter().any(any)
        };
        let count = masks.first().map_or(0, |mask| mask.len());
        for first in (0..count).step_by(SIDE) {
            let some = first..count.min(first + SIDE);
            if sees(some.clone()) {
                self.cells.extend(some.filter(|&cell| sees(cell..cell + 1)));
            }
        }
        let seen = |mask: &&[u16]| mask.iter().filter(|&&mask| mask != HIDDEN).count();
        self.pairs = masks.iter().map(seen).sum();
        for block in self.cells.chunks(CELLS) {
            self.seen.extend(masks.iter().map(|mask| {
                let all = |what| block.iter().all(|&cell| mask[cell] == what);
                match () {
                    () if all(0) => Seen::All,
                    () if all(HIDDEN) => Seen::Nothing,
                    () => Seen::Some,
                }
            }));
        }
    }
}

/// What a thread keeps between calls.
#[derive(Default)]
pub(super) struct Scratch {
    sight: Sight,
    buffers: Buffers,
}

impl Scratch {
    /// Lists what rows of the mask, as long as one another, leave to be seen, and says whether a tile of them gains anything.
    pub(super) fn look(&mut self, masks: &[&[u16]], heads: usize) -> bool {
        let rows = masks.len() * heads;
        if rows < LEAST_ROWS {
            return false;
        }
        self.sight.look(masks);
        let computed = self.sight.cells.len() * rows.next_multiple_of(SIDE);
        computed <= GAIN * heads * self.sight.pairs
    }
}

#[derive(Default)]
struct Buffers {
    queries: Vec<Across>,
    keys: Vec<f32>,
    values: Vec<f32>,
    scores: Vec<Across>,
    outputs: Vec<Across>,
    softmax: Vec<Softmax>,
}

impl Buffers {
    fn prepare(&mut self, sides: usize, length: usize) {
        self.queries.resize(sides * length, [0.0; SIDE]);
        self.keys.resize(CELLS * length, 0.0);
        self.values.resize(CELLS * length, 0.0);
        self.scores.resize(CELLS, [0.0; SIDE]);
        self.outputs.clear();
        self.outputs.resize(sides * length, [0.0; SIDE]);
        self.softmax.clear();
        self.softmax.resize(sides, Softmax::START);
    }
}

/// Where the softmax of rows stands.
#[derive(Clone)]
struct Softmax {
    most: Across,
    sums: Across,
}

impl Softmax {
    const START: Self = Self {
        // Less than any score, but finite: what a row sees nothing of comes to zero.
        most: [f32::MIN; SIDE],
        sums: [0.0; SIDE],
    };

    /// Makes scores the weights of their cells. What was weighed before has to be multiplied by what is returned.
    #[inline(always)]
    fn weigh(&mut self, scores: &mut [Across]) -> Across {
        let before = self.most;
        for scores in scores.iter() {
            for (most, &score) in self.most.iter_mut().zip(scores) {
                *most = if score > *most { score } else { *most };
            }
        }
        let factor: Across = array::from_fn(|row| exponential(before[row] - self.most[row]));
        for (sum, factor) in self.sums.iter_mut().zip(factor) {
            *sum *= factor;
        }
        for scores in scores {
            for ((score, most), sum) in scores.iter_mut().zip(&self.most).zip(&mut self.sums) {
                *score = exponential(*score - most);
                *sum += *score;
            }
        }
        factor
    }
}

/// The scratch has [looked](Scratch::look) at the masks.
///
/// # Safety
/// The processor has AVX2, FMA and F16C; queries and output are there, and the keys and values of all cells that are seen. Nobody
/// else writes to the output.
pub(super) unsafe fn attend(tile: &Tile, scratch: &mut Scratch) {
    // SAFETY: so the caller says; AVX-512 is asked for.
    unsafe {
        if is_x86_feature_detected!("avx512f") {
            attend_512(tile, scratch);
        } else {
            attend_256(tile, scratch);
        }
    }
}

/// # Safety
/// As for [`attend`].
#[target_feature(enable = "avx2,fma,f16c,avx512f")]
unsafe fn attend_512(tile: &Tile, scratch: &mut Scratch) {
    // SAFETY: so the caller says.
    unsafe { tile.attend::<__m512, 8>(scratch) }
}

/// # Safety
/// As for [`attend`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn attend_256(tile: &Tile, scratch: &mut Scratch) {
    // SAFETY: so the caller says.
    unsafe { tile.attend::<__m256, 4>(scratch) }
}

impl Tile<'_> {
    /// `N`: cells, or numbers of a value, that are computed together with two vectors of rows. Divides eight.
    ///
    /// # Safety
    /// As for [`attend`], on a processor with such vectors.
    #[inline(always)]
    unsafe fn attend<V: Lanes, const N: usize>(&self, scratch: &mut Scratch) {
        let Scratch { sight, buffers } = scratch;
        let length = self.length;
        let sides = (self.masks.len() * self.heads).div_ceil(SIDE);
        buffers.prepare(sides, length);
        // SAFETY: so the caller says.
        unsafe { self.take_queries(&mut buffers.queries) };
        let blocks = sight.cells.chunks(CELLS);
        for (cells, seen) in blocks.zip(sight.seen.chunks(self.masks.len())) {
            // SAFETY: so the caller says.
            unsafe {
                single_precision::<V>(self.keys, cells, length, &mut buffers.keys);
                single_precision::<V>(self.values, cells, length, &mut buffers.values);
            }
            for side in 0..sides {
                let seen = &seen[self.tokens(side)];
                if seen.iter().any(|&seen| seen != Seen::Nothing) {
                    let is_masked = seen.iter().any(|&seen| seen != Seen::All);
                    // SAFETY: so the caller says.
                    unsafe { self.attend_to_block::<V, N>(side, cells, is_masked, buffers) };
                }
            }
        }
        // SAFETY: so the caller says.
        unsafe { self.give_outputs(buffers) };
    }

    /// Rows side by side look at the cells of a block.
    ///
    /// # Safety
    /// As for [`Tile::attend`].
    #[inline(always)]
    unsafe fn attend_to_block<V: Lanes, const N: usize>(
        &self,
        side: usize,
        cells: &[usize],
        is_masked: bool,
        buffers: &mut Buffers,
    ) {
        let length = self.length;
        let queries = &buffers.queries[side * length..][..length];
        let outputs = &mut buffers.outputs[side * length..][..length];
        // The last ones of a block that isn't full are of old keys, and nobody reads them.
        for first in (0..cells.len()).step_by(N) {
            let keys = &buffers.keys[first * length..][..N * length];
            let scores = &mut buffers.scores[first..first + N];
            // SAFETY: so the caller says.
            unsafe { add_products::<V, N>(keys, length, 1, queries, scores, None) };
        }
        let scores = &mut buffers.scores[..cells.len()];
        if is_masked {
            self.add_masks(side, cells, scores);
        }
        let factor = buffers.softmax[side].weigh(scores);
        for first in (0..length).step_by(N) {
            let values = &buffers.values[first..];
            let outputs = &mut outputs[first..first + N];
            // SAFETY: so the caller says.
            unsafe { add_products::<V, N>(values, 1, length, scores, outputs, Some(&factor)) };
        }
    }

    /// The tokens that have rows of this side.
    fn tokens(&self, side: usize) -> Range<usize> {
        let end = ((side + 1) * SIDE).div_ceil(self.heads);
        side * SIDE / self.heads..end.min(self.masks.len())
    }

    /// Each row of the tile: its token and head.
    fn rows(&self) -> impl Iterator<Item = (usize, (usize, usize))> {
        let rows = self.masks.len() * self.heads;
        (0..rows).map(|row| (row, (row / self.heads, row % self.heads)))
    }

    /// Queries times scale, side by side.
    ///
    /// # Safety
    /// As for [`attend`].
    unsafe fn take_queries(&self, queries: &mut [Across]) {
        for (row, (token, head)) in self.rows() {
            let query = self.queries.at(token, head);
            let side = &mut queries[row / SIDE * self.length..][..self.length];
            for (index, across) in side.iter_mut().enumerate() {
                // SAFETY: so the caller says.
                across[row % SIDE] = unsafe { query.add(index).read() } * self.scale;
            }
        }
    }

    /// # Safety
    /// As for [`attend`].
    unsafe fn give_outputs(&self, buffers: &Buffers) {
        for (row, (token, head)) in self.rows() {
            let output = self.output.at(token, head);
            let (side, row) = (row / SIDE, row % SIDE);
            let sum = buffers.softmax[side].sums[row];
            let share = if sum > 0.0 { sum.recip() } else { 0.0 };
            let outputs = &buffers.outputs[side * self.length..][..self.length];
            for (index, across) in outputs.iter().enumerate() {
                // SAFETY: so the caller says.
                unsafe { output.add(index).write(across[row] * share) };
            }
        }
    }

    /// Adds to the scores of rows side by side what the masks of their tokens say.
    fn add_masks(&self, side: usize, cells: &[usize], scores: &mut [Across]) {
        for token in self.tokens(side) {
            let first = (token * self.heads).saturating_sub(side * SIDE);
            let end = ((token + 1) * self.heads - side * SIDE).min(SIDE);
            let mask = self.masks[token];
            for (&cell, scores) in cells.iter().zip(&mut *scores) {
                let bias = match mask[cell] {
                    HIDDEN => f32::NEG_INFINITY,
                    mask => single(mask),
                };
                for score in &mut scores[first..end] {
                    *score += bias;
                }
            }
        }
    }
}

/// The rows of some cells, one after the other.
///
/// # Safety
/// They are there, and the processor has such vectors.
#[inline(always)]
unsafe fn single_precision<V: Lanes>(
    rows: Rows<u16>,
    cells: &[usize],
    length: usize,
    numbers: &mut [f32],
) {
    for (&cell, numbers) in cells.iter().zip(numbers.chunks_exact_mut(length)) {
        let row = rows.row(cell);
        for (index, numbers) in numbers.chunks_exact_mut(V::WIDTH).enumerate() {
            // SAFETY: so the caller says.
            unsafe { V::load_half(row.add(index * V::WIDTH)).store(numbers.as_mut_ptr()) };
        }
    }
}

/// `sums[n] = sums[n] * factor + Σ left[n * row + k * step] * right[k]`, over all of the right; without a factor, nothing was summed before.
///
/// # Safety
/// The processor has such vectors.
#[inline(always)]
unsafe fn add_products<V: Lanes, const N: usize>(
    left: &[f32],
    row: usize,
    step: usize,
    right: &[Across],
    sums: &mut [Across],
    factor: Option<&Across>,
) {
    assert!(right.is_empty() || (N - 1) * row + (right.len() - 1) * step < left.len());
    assert!(sums.len() == N);
    for lane in (0..SIDE).step_by(2 * V::WIDTH) {
        // SAFETY: both were just looked at, and two vectors end where rows do.
        unsafe {
            let pair = |row: *const Across| {
                let first = row.cast::<f32>().add(lane);
                [V::load(first), V::load(first.add(V::WIDTH))]
            };
            let mut added = [[V::splat(0.0); 2]; N];
            if let Some(factor) = factor {
                let factor = pair(factor);
                for (added, sum) in added.iter_mut().zip(&*sums) {
                    let before = pair(sum);
                    *added = array::from_fn(|half| before[half].times(factor[half]));
                }
            }
            for (index, right) in right.iter().enumerate() {
                let right = pair(right);
                for (n, added) in added.iter_mut().enumerate() {
                    let left = V::splat(*left.get_unchecked(n * row + index * step));
                    for (added, right) in added.iter_mut().zip(right) {
                        *added = right.times_plus(left, *added);
                    }
                }
            }
            for (added, sum) in added.iter().zip(&mut *sums) {
                for (half, added) in added.iter().enumerate() {
                    added.store(sum.as_mut_ptr().add(lane + half * V::WIDTH));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matmul::are_supported;

    #[test]
    fn only_cells_that_somebody_sees_are_listed() {
        let mut masks = vec![vec![HIDDEN; 200]; 2];
        masks[0][3..70].fill(0);
        masks[1][3..67].fill(0);
        masks[1][150] = 0xc000;
        let masks: Vec<_> = masks.iter().map(Vec::as_slice).collect();
        let mut sight = Sight::default();
        sight.look(&masks);
        assert!(sight.cells.iter().copied().eq((3..70).chain([150])));
        assert_eq!(
            sight.seen,
            [Seen::All, Seen::All, Seen::Some, Seen::Some],
            "three cells that the first sees, and one that the second does"
        );
        assert_eq!(sight.pairs, 67 + 65);
        sight.look(&[&[HIDDEN; 40]]);
        assert!(sight.cells.is_empty() && sight.seen.is_empty());
    }

    #[test]
    fn processors_of_either_width_come_to_the_same() {
        if !are_supported() || !is_x86_feature_detected!("avx512f") {
            return println!("SKIPPED: this processor has no vectors of two widths");
        }
        const LENGTH: usize = 128;
        const HEADS: usize = 5;
        const TOKENS: usize = 9;
        let numbers = |count: usize| (0..count).map(|index| (index * 7919 % 2_047) as u16);
        // Half precision from 0.5 to 2, a cell after the other.
        let halves: Vec<u16> = numbers(150 * LENGTH)
            .map(|number| 0x3800 + number)
            .collect();
        let mut queries: Vec<f32> = numbers(TOKENS * HEADS * LENGTH)
            .map(|number| f32::from(number) / 10_240.0 - 0.1)
            .collect();
        // The first token sees half of the cells, each other one more.
        let masks: Vec<Vec<u16>> = (0..TOKENS)
            .map(|token| {
                let seen = |cell| if cell <= 75 + token { 0 } else { HIDDEN };
                (0..150).map(seen).collect()
            })
            .collect();
        let masks: Vec<_> = masks.iter().map(Vec::as_slice).collect();
        let mut computed = |attend: unsafe fn(&Tile, &mut Scratch)| {
            let mut output = vec![f32::NAN; TOKENS * HEADS * LENGTH];
            let rows = Rows {
                first: halves.as_ptr(),
                stride: 2 * LENGTH,
            };
            let strides = [4 * LENGTH * HEADS, 4 * LENGTH];
            let tile = Tile {
                heads: HEADS,
                length: LENGTH,
                scale: 0.1,
                queries: Grid {
                    first: queries.as_mut_ptr(),
                    strides,
                },
                keys: rows,
                values: rows,
                masks: &masks,
                output: Grid {
                    first: output.as_mut_ptr(),
                    strides,
                },
            };
            let mut scratch = Scratch::default();
            assert!(scratch.look(&masks, HEADS));
            // SAFETY: the processor has both, and all rows are there.
            unsafe { attend(&tile, &mut scratch) };
            output
        };
        let (narrow, wide) = (computed(attend_256), computed(attend_512));
        for (narrow, wide) in narrow.iter().zip(&wide) {
            assert!((0.5..2.0).contains(wide), "{wide}");
            assert!((narrow - wide).abs() < 1e-5, "{narrow} {wide}");
        }
    }
}
