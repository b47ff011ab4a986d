//! Q8_K, which ggml converts inputs to for weights in blocks of 256.

use std::{arch::x86_64::_mm512_loadu_si512, array};

use super::{lanes::fours, panels::COLUMNS, rows};

/// ggml's `block_q8_K`.
#[repr(C)]
pub(super) struct Input {
    scale: f32,
    quants: [[[i8; 4]; 8]; 8],
    /// Of sixteen quants each.
    sums: [i16; 16],
}

pub(super) struct Ready {
    pub(super) scale: f32,
    /// Four quants each, by parts of 32.
    pub(super) quants: [[i32; 8]; 8],
    /// Of two times 32 quants, 16 bits each.
    pub(super) sums: [i32; 4],
    /// Of two times 16 quants, 16 bits each.
    pub(super) short_sums: [i32; 8],
}

/// A block of each of sixteen columns.
#[repr(C, align(64))]
pub(super) struct Group {
    /// By parts of 32.
    pub(super) quants: [[[i8; 32]; COLUMNS]; 8],
    pub(super) scales: [f32; COLUMNS],
    /// As in [`Ready`].
    pub(super) sums: [[i32; 4]; COLUMNS],
}

impl Group {
    #[inline]
    pub(super) fn put(&mut self, input: &Input, column: usize) {
        for (part, quants) in self.quants.iter_mut().zip(&input.quants) {
            part[column].copy_from_slice(quants.as_flattened());
        }
        self.scales[column] = input.scale;
        self.sums[column] = input.paired_sums();
    }
}

impl Input {
    #[inline]
    pub(super) fn ready(&self) -> Ready {
        Ready {
            scale: self.scale,
            quants: self.quants.map(|part| fours(&part)),
            sums: self.paired_sums(),
            short_sums: array::from_fn(|pair| both(self.sums[2 * pair], self.sums[2 * pair + 1])),
        }
    }

    /// With its quants by 32 in this order.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn ordered(&self, order: &[usize; 8]) -> rows::Ready {
        let parts = order.map(|part| self.quants[part]);
        let vector = |index: usize| {
            let two: &[[[i8; 4]; 8]; 2] = &parts.as_chunks().0[index];
            // SAFETY: two parts are 64 bytes.
            #[expect(unsafe_code, reason = "see above")]
            unsafe {
                _mm512_loadu_si512(two.as_ptr().cast())
            }
        };
        rows::Ready {
            scale: self.scale,
            quants: [vector(0), vector(1), vector(2), vector(3)],
            sums: self.sums,
            double_sums: self.double_sums(),
        }
    }

    fn paired_sums(&self) -> [i32; 4] {
        let [a, b, c, d, e, f, g, h] = self.double_sums();
        [both(a, b), both(c, d), both(e, f), both(g, h)]
    }

    fn double_sums(&self) -> [i16; 8] {
        array::from_fn(|part| self.sums[2 * part] + self.sums[2 * part + 1])
    }
}

fn both(low: i16, high: i16) -> i32 {
    i32::from(low.cast_unsigned()) | i32::from(high) << 16
}
