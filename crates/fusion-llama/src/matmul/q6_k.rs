//! Q6_K weights and Q8_K inputs.
//!
//! A block holds 256 weights in sixteen parts of 16: `scale * part_scale * (quant - 32)`, quants from 0 to 63. The 32 is taken off at the
//! end, by the sums of the inputs' quants. Two times two products of at most 63 * 127 are exact in 16 bits, a part's four times
//! two aren't.

use std::{
    arch::x86_64::{
        __m256, __m256i, __m512, __m512i, _mm_cvtph_ps, _mm_cvtsi32_si128, _mm_loadu_si128,
        _mm_mul_ps, _mm_set1_ps, _mm_setr_epi16, _mm256_add_epi32, _mm256_and_si256,
        _mm256_cvtepi8_epi16, _mm256_cvtepi32_ps, _mm256_cvtph_ps, _mm256_fmadd_ps,
        _mm256_loadu_si256, _mm256_madd_epi16, _mm256_mul_ps, _mm256_or_si256, _mm256_set1_epi8,
        _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_si256, _mm256_shuffle_epi8,
        _mm256_slli_epi16, _mm256_slli_epi32, _mm256_srai_epi16, _mm256_srli_epi16,
        _mm256_sub_epi32, _mm512_and_si512, _mm512_broadcast_i64x4, _mm512_broadcastss_ps,
        _mm512_cvtepi8_epi32, _mm512_cvtepi32_ps, _mm512_cvtph_ps, _mm512_fmadd_ps,
        _mm512_loadu_si512, _mm512_mul_ps, _mm512_or_si512, _mm512_permutexvar_epi32,
        _mm512_set1_epi8, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setr_epi64, _mm512_setzero_ps,
        _mm512_setzero_si512, _mm512_slli_epi16, _mm512_slli_epi32, _mm512_sllv_epi64,
        _mm512_srai_epi32, _mm512_srli_epi16, _mm512_srlv_epi64, _mm512_sub_epi8, _mm512_sub_epi32,
        _mm512_zextsi256_si512,
    },
    cell::RefCell,
    thread::LocalKey,
};

use super::{
    lanes::{dots, lower_nibbles, pick, transposed, upper_nibbles},
    panels::{self, COLUMNS, Multiplier, PanelKind, Product, Sums},
    q8_k::{Group, Input, Ready},
    rows::{self, RowKind, scaled_dots},
    sixteen::{self, Sixteen},
    tiles::{Kind, ROWS, Scratch},
};

pub(super) struct Q6K;

/// ggml's `block_q6_K`: two halves of 128 quants each, in the order that [`Kind::unpack`] follows.
#[repr(C, align(2))]
pub(super) struct Weight {
    lower: [[[[u8; 16]; 2]; 2]; 2],
    upper: [[[u8; 16]; 2]; 2],
    part_scales: [u8; 16],
    scale: [u8; 2],
}

#[derive(Clone, Copy)]
pub(super) struct Tile {
    /// By two parts; each vector has four quants of a row in every lane.
    quants: [[__m256i; 8]; 8],
    /// Each part's, twice in every lane.
    part_scales: [__m256i; 16],
    /// Those of two parts in every lane.
    scale_pairs: [__m256i; 8],
    scale: __m256,
}

thread_local! {
    static SCRATCH: RefCell<Scratch<Q6K>> = RefCell::default();
}

// SAFETY: a tile is numbers only.
#[expect(unsafe_code, reason = "see above")]
unsafe impl Kind for Q6K {
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
        for index in 0..4 {
            let (half, piece) = (index / 2, index % 2);
            let first = transposed(weights.map(|weight| &weight.lower[half][0][piece]));
            let second = transposed(weights.map(|weight| &weight.lower[half][1][piece]));
            let upper = transposed(weights.map(|weight| &weight.upper[half][piece]));
            for group in 0..4 {
                let (first, second, upper) = (first[group], second[group], upper[group]);
                let group = group + 4 * piece;
                // Two bits each, where a byte's quants 0, 32, 64 and 96 further on have theirs, moved above the lower four.
                let top = |moved| _mm256_and_si256(moved, _mm256_set1_epi8(0x30));
                let quarters = [
                    (lower_nibbles(first), top(_mm256_slli_epi16::<4>(upper))),
                    (lower_nibbles(second), top(_mm256_slli_epi16::<2>(upper))),
                    (upper_nibbles(first), top(upper)),
                    (upper_nibbles(second), top(_mm256_srli_epi16::<2>(upper))),
                ];
                for (quarter, (low, high)) in quarters.into_iter().enumerate() {
                    tile.quants[4 * half + quarter][group] = _mm256_or_si256(low, high);
                }
            }
        }
        let scales = transposed(weights.map(|weight| &weight.part_scales));
        for part in 0..16 {
            tile.part_scales[part] = signed(scales[part / 4], part % 4, part % 4);
        }
        for pair in 0..8 {
            let byte = 2 * pair % 4;
            tile.scale_pairs[pair] = signed(scales[pair / 2], byte, byte + 1);
        }
        let [a, b, c, d, e, f, g, h] = weights.map(|weight| i16::from_le_bytes(weight.scale));
        tile.scale = _mm256_cvtph_ps(_mm_setr_epi16(a, b, c, d, e, f, g, h));
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn accumulate<const COUNT: usize>(
        tile: &Tile,
        inputs: [&Ready; COUNT],
        sums: &mut [__m256; COUNT],
    ) {
        let mut products = [_mm256_setzero_si256(); COUNT];
        for two in 0..8 {
            for quarter in 0..4 {
                let quants = &tile.quants[two].as_chunks::<2>().0[quarter];
                let inputs = inputs.map(|input| &input.quants[two].as_chunks::<2>().0[quarter]);
                let dots = dots(quants, inputs);
                for (product, dot) in products.iter_mut().zip(dots) {
                    let scale = tile.part_scales[2 * two + quarter / 2];
                    *product = _mm256_add_epi32(*product, _mm256_madd_epi16(dot, scale));
                }
            }
        }
        for ((product, input), sum) in products.iter().zip(&inputs).zip(sums) {
            let mut offset = _mm256_setzero_si256();
            for (scales, sums) in tile.scale_pairs.iter().zip(input.short_sums) {
                let both = _mm256_madd_epi16(*scales, _mm256_set1_epi32(sums));
                offset = _mm256_add_epi32(offset, both);
            }
            let product = _mm256_sub_epi32(*product, _mm256_slli_epi32::<5>(offset));
            let scale = _mm256_mul_ps(tile.scale, _mm256_set1_ps(input.scale));
            *sum = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(product), *sum);
        }
    }
}

/// Two numbers of 16 bits in every lane, of two of its bytes with their signs.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn signed(bytes: __m256i, low: usize, high: usize) -> __m256i {
    let upper = _mm256_slli_epi16::<8>(_mm256_shuffle_epi8(bytes, pick(low, high)));
    _mm256_srai_epi16::<8>(upper)
}

/// Of four parts each, four lanes for each.
const PICKS: [[u32; 16]; 4] = [picks(0), picks(4), picks(8), picks(12)];

const fn picks(first: u32) -> [u32; 16] {
    let mut picks = [0; 16];
    let mut lane = 0;
    while lane < 16 {
        picks[lane] = first + lane as u32 / 4;
        lane += 1;
    }
    picks
}

impl RowKind for Q6K {
    type Weight = Weight;

    const ORDER: [usize; 8] = [0, 1, 2, 3, 4, 5, 6, 7];

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
    #[expect(unsafe_code, reason = "these load as many bytes as there are")]
    unsafe fn accumulate<const COUNT: usize>(
        weight: &Weight,
        inputs: [&rows::Ready; COUNT],
        sums: &mut [__m512; COUNT],
    ) {
        let (nibbles, top) = (_mm512_set1_epi8(0x0f), _mm512_set1_epi8(0x30));
        // The first 32 quants of a vector have their upper bits lower in a byte than the others.
        let up = _mm512_setr_epi64(4, 4, 4, 4, 2, 2, 2, 2);
        let down = _mm512_setr_epi64(0, 0, 0, 0, 2, 2, 2, 2);
        let mut quants = [_mm512_setzero_si512(); 4];
        for half in 0..2 {
            // SAFETY: 64 and 32 bytes.
            let (lower, upper) = unsafe {
                (
                    _mm512_loadu_si512(weight.lower[half].as_ptr().cast()),
                    _mm256_loadu_si256(weight.upper[half].as_ptr().cast()),
                )
            };
            let upper = _mm512_broadcast_i64x4(upper);
            let low = _mm512_and_si512(lower, nibbles);
            let high = _mm512_and_si512(_mm512_srli_epi16::<4>(lower), nibbles);
            let low_top = _mm512_and_si512(_mm512_sllv_epi64(upper, up), top);
            let high_top = _mm512_and_si512(_mm512_srlv_epi64(upper, down), top);
            quants[2 * half] = _mm512_or_si512(low, low_top);
            quants[2 * half + 1] = _mm512_or_si512(high, high_top);
        }
        // SAFETY: sixteen bytes.
        let part_scales = unsafe { _mm_loadu_si128(weight.part_scales.as_ptr().cast()) };
        let wide = _mm512_and_si512(_mm512_cvtepi8_epi32(part_scales), _mm512_set1_epi32(0xffff));
        // SAFETY: sixteen numbers.
        let scales = PICKS.map(|picks| unsafe {
            _mm512_permutexvar_epi32(_mm512_loadu_si512(picks.as_ptr().cast()), wide)
        });
        let part_scales = _mm256_cvtepi8_epi16(part_scales);
        let scale = u16::from_le_bytes(weight.scale);
        let scale = _mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(scale)));
        for (input, sum) in inputs.into_iter().zip(sums) {
            // At most 4 * 63 * 127 each.
            let products = scaled_dots(&quants, &scales, input);
            // SAFETY: sixteen numbers.
            let offset = unsafe {
                _mm256_madd_epi16(part_scales, _mm256_loadu_si256(input.sums.as_ptr().cast()))
            };
            let offset = _mm512_zextsi256_si512(_mm256_slli_epi32::<5>(offset));
            let product = _mm512_cvtepi32_ps(_mm512_sub_epi32(products, offset));
            let scale = _mm512_broadcastss_ps(_mm_mul_ps(scale, _mm_set1_ps(input.scale)));
            *sum = _mm512_fmadd_ps(scale, product, *sum);
        }
    }
}

pub(super) struct Panel {
    /// By two parts; each vector has four quants of a row in every lane, with their signs.
    quants: [[__m512i; 8]; 8],
    /// Times the block's.
    part_scales: [__m512; 16],
}

thread_local! {
    static PANELS: RefCell<panels::Scratch<Q6K>> = RefCell::default();
}

// SAFETY: a panel and a group are numbers only.
#[expect(unsafe_code, reason = "see above")]
unsafe impl PanelKind for Q6K {
    type Weight = Weight;
    type Input = Input;
    type Group = Group;
    type Panel = Panel;

    const MANY: usize = 9;
    const MOST_PANELS: usize = 6;

    fn panels() -> &'static LocalKey<RefCell<panels::Scratch<Self>>> {
        &PANELS
    }

    #[inline]
    fn put(input: &Input, column: usize, group: &mut Group) {
        group.put(input, column);
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn unpack_sixteen(weights: Sixteen<Weight>, panel: &mut Panel) {
        let offset = _mm512_set1_epi8(32);
        for index in 0..4 {
            let (half, piece) = (index / 2, index % 2);
            let first = sixteen::transposed(weights.each(|weight| &weight.lower[half][0][piece]));
            let second = sixteen::transposed(weights.each(|weight| &weight.lower[half][1][piece]));
            let upper = sixteen::transposed(weights.each(|weight| &weight.upper[half][piece]));
            for group in 0..4 {
                let (first, second, upper) = (first[group], second[group], upper[group]);
                let group = group + 4 * piece;
                // As in `unpack`.
                let top = |moved| _mm512_and_si512(moved, _mm512_set1_epi8(0x30));
                let quarters = [
                    (
                        sixteen::lower_nibbles(first),
                        top(_mm512_slli_epi16::<4>(upper)),
                    ),
                    (
                        sixteen::lower_nibbles(second),
                        top(_mm512_slli_epi16::<2>(upper)),
                    ),
                    (sixteen::upper_nibbles(first), top(upper)),
                    (
                        sixteen::upper_nibbles(second),
                        top(_mm512_srli_epi16::<2>(upper)),
                    ),
                ];
                for (quarter, (low, high)) in quarters.into_iter().enumerate() {
                    let quants = _mm512_sub_epi8(_mm512_or_si512(low, high), offset);
                    panel.quants[4 * half + quarter][group] = quants;
                }
            }
        }
        let part_scales = sixteen::transposed(weights.each(|weight| &weight.part_scales));
        let bits: [u16; sixteen::ROWS] = weights
            .each(|weight| &weight.scale)
            .map(|bytes| u16::from_le_bytes(*bytes));
        // SAFETY: sixteen numbers of 16 bits.
        let scale = _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(bits.as_ptr().cast()) });
        for part in 0..16 {
            let both = sixteen::picked(part_scales[part / 4], part % 4, part % 4);
            // The byte becomes the lane's uppermost.
            let part_scale = _mm512_srai_epi32::<24>(_mm512_slli_epi32::<8>(both));
            panel.part_scales[part] = _mm512_mul_ps(scale, _mm512_cvtepi32_ps(part_scale));
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn add_products<M: Multiplier, const COUNT: usize>(
        panel: &Panel,
        group: &Group,
        product: &mut Product,
        sums: &mut Sums,
    ) {
        let mut block = [_mm512_setzero_ps(); COLUMNS];
        for part in 0..16 {
            let (columns, rows) = (&group.quants[part / 2], &panel.quants[part / 2]);
            // SAFETY: so the caller says.
            unsafe { M::multiply_16::<COUNT>(columns, rows, part % 2, product) };
            for (sum, dot) in block.iter_mut().zip(&*product).take(COUNT) {
                *sum = _mm512_fmadd_ps(panel.part_scales[part], _mm512_cvtepi32_ps(*dot), *sum);
            }
        }
        for (column, sum) in sums.iter_mut().enumerate().take(COUNT) {
            *sum = _mm512_fmadd_ps(block[column], _mm512_set1_ps(group.scales[column]), *sum);
        }
    }
}
