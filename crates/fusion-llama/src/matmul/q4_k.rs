//! Q4_K weights and Q8_K inputs.
//!
//! A block holds 256 weights in eight parts of 32: `scale * part_scale * quant - least * part_least`, quants from 0 to 15, the parts'
//! numbers from 0 to 63. So a block's part of a product is the inputs' scale times `scale * Σ part_scale * Σ quant * quant - least * Σ
//! part_least * Σ quant`, of which all sums are exact: the innermost in 16 bits, as in `q4_1`, the others in 32.

use std::{
    arch::x86_64::{
        __m256, __m256i, _mm256_add_epi32, _mm256_and_si256, _mm256_cvtepi32_ps, _mm256_fmadd_ps,
        _mm256_fnmadd_ps, _mm256_madd_epi16, _mm256_mul_ps, _mm256_or_si256, _mm256_set1_epi8,
        _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_si256, _mm256_shuffle_epi8,
        _mm256_srli_epi32,
    },
    cell::RefCell,
    thread::LocalKey,
};

use super::{
    lanes::{dots, halves, lower_nibbles, pick, transposed, upper_nibbles},
    q8_k::{Input, Ready},
    tiles::{Kind, ROWS, Scratch},
};

pub(super) struct Q4K;

/// ggml's `block_q4_K`.
#[repr(C, align(2))]
pub(super) struct Weight {
    /// The scale and the least value in half precision; then the parts' ones, six bits each.
    head: [u8; 16],
    /// By fours of 32 bytes: quants 0 to 31 in the lower halves, 32 to 63 in the upper ones.
    quants: [[[u8; 16]; 2]; 4],
}

#[derive(Clone, Copy)]
pub(super) struct Tile {
    /// By parts; each vector has four quants of a row in every lane.
    quants: [[__m256i; 8]; 8],
    /// Each part's, twice in every lane.
    part_scales: [__m256i; 8],
    /// Those of two parts in every lane.
    part_leasts: [__m256i; 4],
    scale: __m256,
    least: __m256,
}

thread_local! {
    static SCRATCH: RefCell<Scratch<Q4K>> = RefCell::default();
}

// SAFETY: a tile is numbers only.
#[expect(unsafe_code, reason = "see above")]
unsafe impl Kind for Q4K {
    type Weight = Weight;
    type Input = Input;
    type Ready = Ready;
    type Tile = Tile;

    const MOST_BLOCKS: usize = 6;

    fn scratch() -> &'static LocalKey<RefCell<Scratch<Self>>> {
        &SCRATCH
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn ready(input: &Input) -> Ready {
        input.ready()
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn unpack(weights: [&Weight; ROWS], tile: &mut Tile) {
        for index in 0..8 {
            let packed = transposed(weights.map(|weight| &weight.quants[index / 2][index % 2]));
            let part = index / 2 * 2;
            for (group, packed) in packed.into_iter().enumerate() {
                let group = group + index % 2 * 4;
                tile.quants[part][group] = lower_nibbles(packed);
                tile.quants[part + 1][group] = upper_nibbles(packed);
            }
        }
        let [both, first, second, third] = transposed(weights.map(|weight| &weight.head));
        (tile.scale, tile.least) = halves(both);
        // The first four parts have six bits in a byte each. Of the others four bits are in the third number, and two on top of
        // the first four's.
        let six = _mm256_set1_epi8(0x3f);
        let top = |of| _mm256_and_si256(_mm256_srli_epi32::<2>(of), _mm256_set1_epi8(0x30));
        let scales = [
            _mm256_and_si256(first, six),
            _mm256_or_si256(lower_nibbles(third), top(first)),
        ];
        let leasts = [
            _mm256_and_si256(second, six),
            _mm256_or_si256(upper_nibbles(third), top(second)),
        ];
        for part in 0..8 {
            let byte = part % 4;
            tile.part_scales[part] = _mm256_shuffle_epi8(scales[part / 4], pick(byte, byte));
        }
        for pair in 0..4 {
            let byte = 2 * pair % 4;
            tile.part_leasts[pair] = _mm256_shuffle_epi8(leasts[pair / 2], pick(byte, byte + 1));
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn accumulate<const COUNT: usize>(
        tile: &Tile,
        inputs: [&Ready; COUNT],
        sums: &mut [__m256; COUNT],
    ) {
        let mut products = [_mm256_setzero_si256(); COUNT];
        for part in 0..8 {
            let dots = dots(&tile.quants[part], inputs.map(|input| &input.quants[part]));
            for (product, dot) in products.iter_mut().zip(dots) {
                let scaled = _mm256_madd_epi16(dot, tile.part_scales[part]);
                *product = _mm256_add_epi32(*product, scaled);
            }
        }
        for ((product, input), sum) in products.iter().zip(&inputs).zip(sums) {
            let mut least = _mm256_setzero_si256();
            for (leasts, sums) in tile.part_leasts.iter().zip(input.sums) {
                let both = _mm256_madd_epi16(*leasts, _mm256_set1_epi32(sums));
                least = _mm256_add_epi32(least, both);
            }
            let scale = _mm256_set1_ps(input.scale);
            let (product, least) = (_mm256_cvtepi32_ps(*product), _mm256_cvtepi32_ps(least));
            *sum = _mm256_fmadd_ps(_mm256_mul_ps(tile.scale, scale), product, *sum);
            *sum = _mm256_fnmadd_ps(_mm256_mul_ps(tile.least, scale), least, *sum);
        }
    }
}
