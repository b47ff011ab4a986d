//! Q4_1 weights and Q8_1 inputs.
//!
//! A block holds 32 weights `scale * quant + least`, quants from 0 to 15; its counterpart 32 inputs `scale * quant` and their sum. So
//! a block's part of a product is `scale * scale * Σ quant * quant + least * sum`, of which the inner sum is exact in 16 bits: eight
//! times two products of at most 15 * 127.

use std::{
    arch::x86_64::{
        __m256, __m256i, _mm256_cvtepi32_ps, _mm256_fmadd_ps, _mm256_madd_epi16, _mm256_mul_ps,
        _mm256_set1_epi16, _mm256_set1_ps, _mm256_setr_epi32,
    },
    cell::RefCell,
    thread::LocalKey,
};

use super::{
    lanes::{dots, fours, halves, lower_nibbles, single, transposed, upper_nibbles},
    tiles::{Kind, ROWS, Scratch},
};

pub(super) struct Q4_1;

/// ggml's `block_q4_1`.
#[repr(C)]
pub(super) struct Weight {
    /// Half precision.
    scale: u16,
    least: u16,
    /// Quants 0 to 15 in the lower halves, 16 to 31 in the upper ones.
    quants: [u8; 16],
}

/// ggml's `block_q8_1`.
#[repr(C)]
pub(super) struct Input {
    scale: u16,
    /// Of the inputs, not of their quants.
    sum: u16,
    quants: [[i8; 4]; 8],
}

pub(super) struct Ready {
    scale: f32,
    sum: f32,
    /// Four quants each.
    quants: [i32; 8],
}

#[derive(Clone, Copy)]
pub(super) struct Tile {
    /// Each has four quants of a row in every lane.
    quants: [__m256i; 8],
    scale: __m256,
    least: __m256,
}

thread_local! {
    static SCRATCH: RefCell<Scratch<Q4_1>> = RefCell::default();
}

// SAFETY: a tile is numbers only.
#[expect(unsafe_code, reason = "see above")]
unsafe impl Kind for Q4_1 {
    type Weight = Weight;
    type Input = Input;
    type Ready = Ready;
    type Tile = Tile;

    const MOST_BLOCKS: usize = 64;

    fn scratch() -> &'static LocalKey<RefCell<Scratch<Self>>> {
        &SCRATCH
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn ready(input: &Input) -> Ready {
        let [scale, sum] = single(input.scale, input.sum);
        Ready {
            scale,
            sum,
            quants: fours(&input.quants),
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn unpack(weights: [&Weight; ROWS], tile: &mut Tile) {
        let packed = transposed(weights.map(|weight| &weight.quants));
        for (group, packed) in packed.into_iter().enumerate() {
            tile.quants[group] = lower_nibbles(packed);
            tile.quants[group + 4] = upper_nibbles(packed);
        }
        let [a, b, c, d, e, f, g, h] = weights
            .map(|weight| (u32::from(weight.scale) | u32::from(weight.least) << 16).cast_signed());
        (tile.scale, tile.least) = halves(_mm256_setr_epi32(a, b, c, d, e, f, g, h));
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn accumulate<const COUNT: usize>(
        tile: &Tile,
        inputs: [&Ready; COUNT],
        sums: &mut [__m256; COUNT],
    ) {
        let dots = dots(&tile.quants, inputs.map(|input| &input.quants));
        for ((dot, input), sum) in dots.iter().zip(&inputs).zip(sums) {
            let dot = _mm256_cvtepi32_ps(_mm256_madd_epi16(*dot, _mm256_set1_epi16(1)));
            let scale = _mm256_mul_ps(tile.scale, _mm256_set1_ps(input.scale));
            *sum = _mm256_fmadd_ps(scale, dot, *sum);
            *sum = _mm256_fmadd_ps(tile.least, _mm256_set1_ps(input.sum), *sum);
        }
    }
}
