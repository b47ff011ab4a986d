//! Products with few columns of types in blocks of 32, on processors with AVX-512 VNNI: each block of sixteen rows is unpacked into registers and
//! multiplied there, so that memory is what limits it.
#![expect(unsafe_code, reason = "instructions that not every processor has")]

use std::{
    arch::x86_64::{__m512, _mm512_setzero_ps},
    ops::Range,
};

use super::{
    panels::{PanelKind, prepare},
    sixteen::{self, Sixteen},
    tiles::{Matrix, Output},
};

/// Columns that are multiplied at a time.
pub(super) const MOST: usize = 8;

/// Bytes of a row from which on the processor by itself goes on in each of the sixteen.
const LONG: usize = 2048;
/// How far ahead it is helped in such a row.
const LINES_AHEAD: usize = 4;

pub(super) trait FewKind: PanelKind {
    /// # Safety
    /// The processor has AVX-512 VNNI.
    unsafe fn panel(weights: Sixteen<Self::Weight>) -> Self::Panel;

    /// Adds the panel's product with the first columns of the group.
    ///
    /// # Safety
    /// As for [`FewKind::panel`].
    unsafe fn add_few<const COUNT: usize>(
        panel: &Self::Panel,
        group: &Self::Group,
        sums: &mut [__m512; COUNT],
    );
}

/// Multiplies rows of `length` blocks with up to [`MOST`] columns; `part` counts sixteen rows.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn multiply<K: FewKind>(
    weights: &Matrix<K::Weight>,
    inputs: &Matrix<K::Input>,
    columns: usize,
    length: usize,
    output: Output,
    part: &Range<usize>,
) {
    K::panels().with_borrow_mut(|scratch| {
        prepare::<K>(inputs, columns, &(0..length), &mut scratch.groups);
        for panel in part.clone() {
            let rows = Rows {
                weights,
                first: panel * sixteen::ROWS,
                output,
            };
            match columns {
                1 => rows.multiply::<K, 1>(&scratch.groups),
                2 => rows.multiply::<K, 2>(&scratch.groups),
                3 => rows.multiply::<K, 3>(&scratch.groups),
                4 => rows.multiply::<K, 4>(&scratch.groups),
                5 => rows.multiply::<K, 5>(&scratch.groups),
                6 => rows.multiply::<K, 6>(&scratch.groups),
                7 => rows.multiply::<K, 7>(&scratch.groups),
                _ => rows.multiply::<K, MOST>(&scratch.groups),
            }
        }
    });
}

/// Sixteen rows, and where their products go.
struct Rows<'a, W> {
    weights: &'a Matrix<'a, W>,
    first: usize,
    output: Output,
}

impl<W> Rows<'_, W> {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
    fn multiply<K: FewKind<Weight = W>, const COUNT: usize>(&self, groups: &[K::Group]) {
        let has_long_rows = self.weights.stride * size_of::<W>() >= LONG;
        let mut sums = [_mm512_setzero_ps(); COUNT];
        for (block, group) in groups.iter().enumerate() {
            let weights = self.weights.sixteen(self.first, block);
            if has_long_rows {
                weights.fetch_rows::<LINES_AHEAD>(block);
            } else {
                // What is asked for early keeps one of the first cache's few places for what is under way; the line that is named
                // makes the processor bring those beside it by itself.
                weights.fetch_first(3, block);
                weights.fetch(1, block);
            }
            // SAFETY: this function has the same features.
            unsafe {
                K::add_few(&K::panel(weights), group, &mut sums);
            }
        }
        for (column, sum) in sums.into_iter().enumerate() {
            self.output.store_sixteen(self.first, column, sum);
        }
    }
}
