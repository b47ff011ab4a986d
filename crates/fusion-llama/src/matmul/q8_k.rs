//! Q8_K, which ggml converts inputs to for weights in blocks of 256.

use super::lanes::fours;

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

impl Input {
    #[inline]
    pub(super) fn ready(&self) -> Ready {
        let sums = |index: usize| self.sums[index] + self.sums[index + 1];
        Ready {
            scale: self.scale,
            quants: self.quants.map(|part| fours(&part)),
            sums: std::array::from_fn(|pair| both(sums(4 * pair), sums(4 * pair + 2))),
            short_sums: std::array::from_fn(|pair| {
                both(self.sums[2 * pair], self.sums[2 * pair + 1])
            }),
        }
    }
}

fn both(low: i16, high: i16) -> i32 {
    i32::from(low.cast_unsigned()) | i32::from(high) << 16
}
