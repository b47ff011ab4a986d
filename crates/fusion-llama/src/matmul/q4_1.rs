//! Q4_1 weights and Q8_1 inputs.
//!
//! A block holds 32 weights `scale * quant + least`, quants from 0 to 15; its counterpart 32 inputs `scale * quant` and their sum. So
//! a block's part of a product is `scale * scale * Σ quant * quant + least * sum`, of which the inner sum is exact in 16 bits: eight
//! times two products of at most 15 * 127.

use std::{
    arch::x86_64::{
        __m256, __m256i, __m512, __m512i, _mm256_cvtepi32_ps, _mm256_fmadd_ps, _mm256_madd_epi16,
        _mm256_mul_ps, _mm256_set1_epi16, _mm256_set1_ps, _mm256_setr_epi32, _mm512_cvtepi32_ps,
        _mm512_fmadd_ps, _mm512_mul_ps, _mm512_set1_ps, _mm512_setzero_si512,
    },
    cell::RefCell,
    thread::LocalKey,
};

use super::{
    few::{self, FewKind},
    lanes::{dots, fours, halves, lower_nibbles, single, transposed, upper_nibbles},
    panels::{self, COLUMNS, Multiplier, PanelKind, Product, Sums},
    sixteen::{self, Sixteen},
    tiles::{Kind, ROWS, Scratch},
    vnni::dot,
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

#[repr(C, align(64))]
pub(super) struct Group {
    quants: [[i8; 32]; COLUMNS],
    scales: [f32; COLUMNS],
    sums: [f32; COLUMNS],
}

pub(super) struct Panel {
    /// Each has four quants of a row in every lane.
    quants: [__m512i; 8],
    scale: __m512,
    least: __m512,
}

impl Panel {
    /// In the order of [`Kind::accumulate`], so that the sums are the same.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn add(&self, dot: __m512i, group: &Group, column: usize, sum: &mut __m512) {
        let scale = _mm512_mul_ps(self.scale, _mm512_set1_ps(group.scales[column]));
        *sum = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(dot), *sum);
        *sum = _mm512_fmadd_ps(self.least, _mm512_set1_ps(group.sums[column]), *sum);
    }
}

thread_local! {
    static PANELS: RefCell<panels::Scratch<Q4_1>> = RefCell::default();
}

// SAFETY: a panel and a group are numbers only.
#[expect(unsafe_code, reason = "see above")]
unsafe impl PanelKind for Q4_1 {
    type Weight = Weight;
    type Input = Input;
    type Group = Group;
    type Panel = Panel;

    const MANY: usize = few::MOST + 1;
    const MOST_PANELS: usize = 48;

    fn panels() -> &'static LocalKey<RefCell<panels::Scratch<Self>>> {
        &PANELS
    }

    #[inline]
    fn put(input: &Input, column: usize, group: &mut Group) {
        group.quants[column].copy_from_slice(input.quants.as_flattened());
        // SAFETY: where this comes to, there is what it needs.
        [group.scales[column], group.sums[column]] = unsafe { single(input.scale, input.sum) };
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn unpack_sixteen(weights: Sixteen<Weight>, panel: &mut Panel) {
        // SAFETY: so the caller says.
        *panel = unsafe { Self::panel(weights) };
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn add_products<M: Multiplier, const COUNT: usize>(
        panel: &Panel,
        group: &Group,
        product: &mut Product,
        sums: &mut Sums,
    ) {
        // SAFETY: so the caller says.
        unsafe { M::multiply_32::<false, COUNT>(&group.quants, &panel.quants, product) };
        for (column, sum) in sums.iter_mut().enumerate().take(COUNT) {
            panel.add(product[column], group, column, sum);
        }
    }
}

impl FewKind for Q4_1 {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
    #[expect(unsafe_code, reason = "which processor it is, the caller has to know")]
    unsafe fn panel(weights: Sixteen<Weight>) -> Panel {
        let packed = sixteen::transposed(weights.each(|weight| &weight.quants));
        let [a, b, c, d] = packed.map(|packed| sixteen::lower_nibbles(packed));
        let [e, f, g, h] = packed.map(|packed| sixteen::upper_nibbles(packed));
        let [scale, least] = sixteen::halves(weights.gather_32());
        Panel {
            quants: [a, b, c, d, e, f, g, h],
            scale,
            least,
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
    #[expect(unsafe_code, reason = "which processor it is, the caller has to know")]
    unsafe fn add_few<const COUNT: usize>(
        panel: &Panel,
        group: &Group,
        sums: &mut [__m512; COUNT],
    ) {
        for (column, sum) in sums.iter_mut().enumerate() {
            let quants = group.quants[column].as_chunks().0;
            let dot = dot::<false, 8>(&panel.quants, quants, _mm512_setzero_si512());
            panel.add(dot, group, column, sum);
        }
    }
}
