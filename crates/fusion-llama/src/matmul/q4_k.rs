//! Q4_K weights and Q8_K inputs.
//!
//! A block holds 256 weights in eight parts of 32: `scale * part_scale * quant - least * part_least`, quants from 0 to 15, the parts'
//! numbers from 0 to 63. So a block's part of a product is the inputs' scale times `scale * Σ part_scale * Σ quant * quant - least * Σ
//! part_least * Σ quant`, of which all sums are exact: the innermost in 16 bits, as in `q4_1`, the others in 32.

use std::{
    arch::x86_64::{
        __m256, __m256i, __m512, __m512i, _mm_broadcastss_ps, _mm_cvtepi32_ps, _mm_cvtepu8_epi16,
        _mm_cvtph_ps, _mm_cvtsi32_si128, _mm_cvtsi64_si128, _mm_loadu_si128, _mm_madd_epi16,
        _mm_movehdup_ps, _mm_mul_ps, _mm_set1_ps, _mm256_add_epi32, _mm256_and_si256,
        _mm256_cvtepi32_ps, _mm256_fmadd_ps, _mm256_fnmadd_ps, _mm256_madd_epi16, _mm256_mul_ps,
        _mm256_or_si256, _mm256_set1_epi8, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_si256,
        _mm256_shuffle_epi8, _mm256_srli_epi32, _mm512_and_si512, _mm512_broadcast_i32x4,
        _mm512_broadcastss_ps, _mm512_cvtepi32_ps, _mm512_dpwssd_epi32, _mm512_fmadd_ps,
        _mm512_loadu_si512, _mm512_mul_ps, _mm512_or_si512, _mm512_set1_epi8, _mm512_set1_epi32,
        _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_shuffle_epi8,
        _mm512_srai_epi32, _mm512_srli_epi16, _mm512_srli_epi32, _mm512_sub_ps,
        _mm512_zextps128_ps512,
    },
    array,
    cell::RefCell,
    thread::LocalKey,
};

use super::{
    lanes::{dots, halves, lower_nibbles, pick, transposed, upper_nibbles},
    panels::{self, COLUMNS, Multiplier, PanelKind, Product, Sums},
    q8_k::{Group, Input, Ready},
    rows::{self, RowKind, scaled_dots},
    sixteen::{self, Sixteen},
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

/// For each two groups of 32 quants that lie in a vector, the shuffle that makes 32 bits of their parts' scales.
const PICKS: [[u8; 64]; 4] = [picks(0, 2), picks(1, 3), picks(4, 6), picks(5, 7)];

const fn picks(low: u8, high: u8) -> [u8; 64] {
    // An index above 127 makes a zero.
    let mut picks = [0x80; 64];
    let mut lane = 0;
    while lane < 16 {
        picks[4 * lane] = if lane < 8 { low } else { high };
        lane += 1;
    }
    picks
}

impl RowKind for Q4K {
    type Weight = Weight;

    /// The lower halves of 64 bytes, then the upper ones.
    const ORDER: [usize; 8] = [0, 2, 1, 3, 4, 6, 5, 7];

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
    #[expect(unsafe_code, reason = "these load as many bytes as there are")]
    unsafe fn accumulate<const COUNT: usize>(
        weight: &Weight,
        inputs: [&rows::Ready; COUNT],
        sums: &mut [__m512; COUNT],
    ) {
        let nibbles = _mm512_set1_epi8(0x0f);
        let packed = weight.quants.as_ptr().cast::<u8>();
        // SAFETY: 128 bytes.
        let [first, second] =
            [0, 64].map(|byte| unsafe { _mm512_loadu_si512(packed.add(byte).cast()) });
        let quants = [
            _mm512_and_si512(first, nibbles),
            _mm512_and_si512(_mm512_srli_epi16::<4>(first), nibbles),
            _mm512_and_si512(second, nibbles),
            _mm512_and_si512(_mm512_srli_epi16::<4>(second), nibbles),
        ];
        let [both, a, b, c] = array::from_fn(|index| {
            let number = &weight.head.as_chunks::<4>().0[index];
            u32::from_le_bytes(*number)
        });
        // As in `unpack`.
        let six = |four: u32| four & 0x3f3f_3f3f;
        let rest = |nibbles: u32, top: u32| (nibbles & 0x0f0f_0f0f) | (top >> 2 & 0x3030_3030);
        let eight = |low: u32, high: u32| {
            _mm_cvtsi64_si128((u64::from(low) | u64::from(high) << 32).cast_signed())
        };
        let scales = _mm512_broadcast_i32x4(eight(six(a), rest(c, a)));
        let leasts = _mm_cvtepu8_epi16(eight(six(b), rest(c >> 4, b)));
        // SAFETY: 64 bytes.
        let scales = PICKS.map(|picks| unsafe {
            _mm512_shuffle_epi8(scales, _mm512_loadu_si512(picks.as_ptr().cast()))
        });
        let both = _mm_cvtph_ps(_mm_cvtsi32_si128(both.cast_signed()));
        for (input, sum) in inputs.into_iter().zip(sums) {
            // At most 4 * 15 * 127 each.
            let products = scaled_dots(&quants, &scales, input);
            // SAFETY: eight numbers.
            let least = unsafe {
                _mm_madd_epi16(leasts, _mm_loadu_si128(input.double_sums.as_ptr().cast()))
            };
            let both = _mm_mul_ps(both, _mm_set1_ps(input.scale));
            let least = _mm_mul_ps(
                _mm_broadcastss_ps(_mm_movehdup_ps(both)),
                _mm_cvtepi32_ps(least),
            );
            *sum = _mm512_fmadd_ps(
                _mm512_broadcastss_ps(both),
                _mm512_cvtepi32_ps(products),
                *sum,
            );
            *sum = _mm512_sub_ps(*sum, _mm512_zextps128_ps512(least));
        }
    }
}

pub(super) struct Panel {
    /// By parts; each vector has four quants of a row in every lane.
    quants: [[__m512i; 8]; 8],
    /// Times the block's.
    part_scales: [__m512; 8],
    /// Those of two parts in every lane.
    part_leasts: [__m512i; 4],
    least: __m512,
}

thread_local! {
    static PANELS: RefCell<panels::Scratch<Q4K>> = RefCell::default();
}

// SAFETY: a panel and a group are numbers only.
#[expect(unsafe_code, reason = "see above")]
unsafe impl PanelKind for Q4K {
    type Weight = Weight;
    type Input = Input;
    type Group = Group;
    type Panel = Panel;

    const MANY: usize = 6;
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
        for index in 0..8 {
            let packed =
                sixteen::transposed(weights.each(|weight| &weight.quants[index / 2][index % 2]));
            let part = index / 2 * 2;
            for (group, packed) in packed.into_iter().enumerate() {
                let group = group + index % 2 * 4;
                panel.quants[part][group] = sixteen::lower_nibbles(packed);
                panel.quants[part + 1][group] = sixteen::upper_nibbles(packed);
            }
        }
        let [both, first, second, third] = sixteen::transposed(weights.each(|weight| &weight.head));
        let [scale, least] = sixteen::halves(both);
        panel.least = least;
        // As in `unpack`.
        let six = _mm512_set1_epi8(0x3f);
        let top = |of| _mm512_and_si512(_mm512_srli_epi32::<2>(of), _mm512_set1_epi8(0x30));
        let scales = [
            _mm512_and_si512(first, six),
            _mm512_or_si512(sixteen::lower_nibbles(third), top(first)),
        ];
        let leasts = [
            _mm512_and_si512(second, six),
            _mm512_or_si512(sixteen::upper_nibbles(third), top(second)),
        ];
        for part in 0..8 {
            let both = sixteen::picked(scales[part / 4], part % 4, part % 4);
            let part_scale = _mm512_cvtepi32_ps(_mm512_srai_epi32::<16>(both));
            panel.part_scales[part] = _mm512_mul_ps(scale, part_scale);
        }
        for pair in 0..4 {
            let byte = 2 * pair % 4;
            panel.part_leasts[pair] = sixteen::picked(leasts[pair / 2], byte, byte + 1);
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
        for (column, sum) in block.iter_mut().enumerate().take(COUNT) {
            let mut least = _mm512_setzero_si512();
            for (leasts, sums) in panel.part_leasts.iter().zip(group.sums[column]) {
                least = _mm512_dpwssd_epi32(least, *leasts, _mm512_set1_epi32(sums));
            }
            let least = _mm512_mul_ps(panel.least, _mm512_cvtepi32_ps(least));
            *sum = _mm512_sub_ps(_mm512_setzero_ps(), least);
        }
        for part in 0..8 {
            // SAFETY: so the caller says.
            unsafe {
                M::multiply_32::<false, COUNT>(&group.quants[part], &panel.quants[part], product)
            };
            for (sum, dot) in block.iter_mut().zip(&*product).take(COUNT) {
                *sum = _mm512_fmadd_ps(panel.part_scales[part], _mm512_cvtepi32_ps(*dot), *sum);
            }
        }
        for (column, sum) in sums.iter_mut().enumerate().take(COUNT) {
            *sum = _mm512_fmadd_ps(block[column], _mm512_set1_ps(group.scales[column]), *sum);
        }
    }
}
