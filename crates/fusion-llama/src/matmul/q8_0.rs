//! Q8_0 weights and inputs, on processors with AVX-512 VNNI; elsewhere they are ggml's.
//!
//! A block holds 32 numbers `scale * quant`. Vectors multiply bytes without a sign with such that have one: there 128 is added to the
//! weights' quants, and taken off again by the sum of the inputs'.

use std::{
    arch::x86_64::{
        __m512, __m512i, _mm512_cvtepi32_ps, _mm512_fmadd_ps, _mm512_mul_ps, _mm512_set1_epi8,
        _mm512_set1_epi32, _mm512_set1_ps, _mm512_xor_si512,
    },
    cell::RefCell,
    thread::LocalKey,
};

use super::{
    few::{self, FewKind},
    lanes::single,
    panels::{COLUMNS, Multiplier, PanelKind, Product, Scratch, Sums},
    sixteen::{self, Sixteen},
    vnni::dot,
};

pub(super) struct Q8_0;

/// ggml's `block_q8_0`.
#[repr(C)]
pub(super) struct Block {
    /// Half precision.
    scale: u16,
    quants: [[u8; 16]; 2],
}

#[repr(C, align(64))]
pub(super) struct Group {
    quants: [[i8; 32]; COLUMNS],
    scales: [f32; COLUMNS],
    /// What comes off for the 128.
    offsets: [i32; COLUMNS],
}

pub(super) struct Panel {
    /// Each has four quants of a row in every lane.
    quants: [__m512i; 8],
    scale: __m512,
}

thread_local! {
    static PANELS: RefCell<Scratch<Q8_0>> = RefCell::default();
}

// SAFETY: a panel and a group are numbers only.
#[expect(unsafe_code, reason = "see above")]
unsafe impl PanelKind for Q8_0 {
    type Weight = Block;
    type Input = Block;
    type Group = Group;
    type Panel = Panel;

    const MANY: usize = few::MOST + 1;
    const MOST_PANELS: usize = 48;

    fn panels() -> &'static LocalKey<RefCell<Scratch<Self>>> {
        &PANELS
    }

    #[inline]
    fn put(input: &Block, column: usize, group: &mut Group) {
        let quants = &mut group.quants[column];
        for (quant, byte) in quants.iter_mut().zip(input.quants.as_flattened()) {
            *quant = byte.cast_signed();
        }
        group.offsets[column] = -128 * quants.iter().map(|quant| i32::from(*quant)).sum::<i32>();
        // SAFETY: where this comes to, there is what it needs.
        [group.scales[column], _] = unsafe { single(input.scale, 0) };
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn unpack_sixteen(weights: Sixteen<Block>, panel: &mut Panel) {
        *panel = Panel::of(weights);
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
        unsafe { M::multiply_32::<true, COUNT>(&group.quants, &panel.quants, product) };
        for (column, sum) in sums.iter_mut().enumerate().take(COUNT) {
            panel.add(product[column], group, column, sum);
        }
    }
}

impl FewKind for Q8_0 {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
    #[expect(unsafe_code, reason = "which processor it is, the caller has to know")]
    unsafe fn panel(weights: Sixteen<Block>) -> Panel {
        let mut panel = Panel::of(weights);
        panel.quants = panel
            .quants
            .map(|quants| _mm512_xor_si512(quants, _mm512_set1_epi8(i8::MIN)));
        panel
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
            let start = _mm512_set1_epi32(group.offsets[column]);
            let quants = group.quants[column].as_chunks().0;
            let dot = dot::<false, 8>(&panel.quants, quants, start);
            panel.add(dot, group, column, sum);
        }
    }
}

impl Panel {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
    fn of(weights: Sixteen<Block>) -> Self {
        let [a, b, c, d] = sixteen::transposed(weights.each(|weight| &weight.quants[0]));
        let [e, f, g, h] = sixteen::transposed(weights.each(|weight| &weight.quants[1]));
        let [scale, _] = sixteen::halves(weights.gather_32());
        Self {
            quants: [a, b, c, d, e, f, g, h],
            scale,
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn add(&self, dot: __m512i, group: &Group, column: usize, sum: &mut __m512) {
        let scale = _mm512_mul_ps(self.scale, _mm512_set1_ps(group.scales[column]));
        *sum = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(dot), *sum);
    }
}
