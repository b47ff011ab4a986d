//! Products with many columns, sixteen rows side by side: a panel, which is unpacked once and multiplied with sixteen columns at a time, 32
//! or 16 quants of each in a step.
//!
//! The sum over such a part of a block is exact, as an integer; what scales it is worked out in vectors.
#![expect(unsafe_code, reason = "instructions that not every processor has")]

use std::{
    arch::x86_64::{__m512, __m512i, _mm512_setzero_ps, _mm512_setzero_si512},
    cell::RefCell,
    mem,
    ops::Range,
    thread::LocalKey,
};

use super::{
    sixteen::{self, Sixteen},
    tiles::{Matrix, Output},
};

/// Columns that are multiplied with a panel at a time.
pub(super) const COLUMNS: usize = 16;
/// Or fewer, where there are no more.
const HALF: usize = COLUMNS / 2;

/// A type that is multiplied so from some columns on.
///
/// # Safety
/// A panel and a group are numbers, of which all may be zero.
pub(super) unsafe trait PanelKind: Sized + 'static {
    type Weight: 'static;
    type Input: 'static;
    /// A block of each of sixteen columns.
    type Group: 'static;
    /// A block of each of sixteen rows.
    type Panel: 'static;

    /// From so many columns on this is quicker than one row after the other.
    const MANY: usize;
    /// Blocks of each row that are unpacked at a time, to stay in the first caches.
    const MOST_PANELS: usize;

    fn panels() -> &'static LocalKey<RefCell<Scratch<Self>>>;

    /// Makes the input one of the group's columns.
    fn put(input: &Self::Input, column: usize, group: &mut Self::Group);

    /// # Safety
    /// The processor has AVX-512 VNNI.
    unsafe fn unpack_sixteen(weights: Sixteen<Self::Weight>, panel: &mut Self::Panel);

    /// Adds the panel's product with at least so many columns of the group. `product` is room for what is multiplied at a time.
    ///
    /// # Safety
    /// As for [`PanelKind::unpack_sixteen`], and one of the multipliers was begun on this thread and is there.
    unsafe fn add_products<M: Multiplier, const COUNT: usize>(
        panel: &Self::Panel,
        group: &Self::Group,
        product: &mut Product,
        sums: &mut Sums,
    );
}

/// For each column the sums of quants times quants of a panel's rows.
pub(super) type Product = [__m512i; COLUMNS];
/// For each column those of a panel's rows.
pub(super) type Sums = [__m512; COLUMNS];

/// What a thread keeps between calls.
pub(super) struct Scratch<K: PanelKind> {
    pub(super) groups: Vec<K::Group>,
    panels: Vec<K::Panel>,
}

impl<K: PanelKind> Default for Scratch<K> {
    fn default() -> Self {
        Self {
            groups: Vec::new(),
            panels: Vec::new(),
        }
    }
}

/// What adds up products of quants, and all that must be so while it does.
pub(super) trait Multiplier {
    /// # Safety
    /// The processor has what it takes.
    unsafe fn begin() -> Self;

    /// Of 32 quants of each column, at least so many of them, side by side, and of each row, by fours. `SIGNED`: whether those of rows may be below zero.
    ///
    /// # Safety
    /// One was [begun](Multiplier::begin) on this thread, and is there.
    unsafe fn multiply_32<const SIGNED: bool, const COUNT: usize>(
        columns: &[[i8; 32]; COLUMNS],
        rows: &[__m512i; 8],
        product: &mut Product,
    );

    /// The same of the first or the other sixteen quants of each, those of rows with a sign.
    ///
    /// # Safety
    /// As for [`Multiplier::multiply_32`].
    unsafe fn multiply_16<const COUNT: usize>(
        columns: &[[i8; 32]; COLUMNS],
        rows: &[__m512i; 8],
        half: usize,
        product: &mut Product,
    );
}

/// Multiplies rows of `length` blocks with so many columns; `part` counts panels.
///
/// # Safety
/// The processor has what the multiplier takes.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn multiply<K: PanelKind, M: Multiplier>(
    weights: &Matrix<K::Weight>,
    inputs: &Matrix<K::Input>,
    columns: usize,
    length: usize,
    output: Output,
    part: &Range<usize>,
) {
    // SAFETY: so the caller says.
    let _multiplier = unsafe { M::begin() };
    K::panels().with_borrow_mut(|scratch| {
        for block in (0..length).step_by(K::MOST_PANELS) {
            let window = Window {
                columns,
                blocks: block..length.min(block + K::MOST_PANELS),
                output,
            };
            prepare::<K>(inputs, columns, &window.blocks, &mut scratch.groups);
            for panel in part.clone() {
                window.multiply::<K, M>(weights, panel * sixteen::ROWS, scratch);
            }
        }
    });
}

/// Groups of these blocks of so many columns; the last ones may have more, of any value.
pub(super) fn prepare<K: PanelKind>(
    inputs: &Matrix<K::Input>,
    columns: usize,
    blocks: &Range<usize>,
    groups: &mut Vec<K::Group>,
) {
    // SAFETY: so the trait says.
    let zero = || unsafe { mem::zeroed() };
    groups.resize_with(columns.div_ceil(COLUMNS) * blocks.len(), zero);
    for column in 0..columns {
        let groups = &mut groups[column / COLUMNS * blocks.len()..];
        for (group, input) in groups.iter_mut().zip(inputs.part(column, blocks)) {
            K::put(input, column % COLUMNS, group);
        }
    }
}

/// The blocks of the rows and columns that are multiplied before the next ones are unpacked.
struct Window {
    columns: usize,
    blocks: Range<usize>,
    output: Output,
}

impl Window {
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
    fn multiply<K: PanelKind, M: Multiplier>(
        &self,
        weights: &Matrix<K::Weight>,
        row: usize,
        scratch: &mut Scratch<K>,
    ) {
        let Scratch { groups, panels } = scratch;
        // SAFETY: so the trait says.
        panels.resize_with(self.blocks.len(), || unsafe { mem::zeroed() });
        for (index, panel) in panels.iter_mut().enumerate() {
            let weights = weights.sixteen(row, self.blocks.start + index);
            weights.fetch(1, index);
            // SAFETY: this function has the same features.
            unsafe { K::unpack_sixteen(weights, panel) };
        }
        let mut product = [_mm512_setzero_si512(); COLUMNS];
        for (index, groups) in groups.chunks_exact(panels.len()).enumerate() {
            let first = index * COLUMNS;
            let count = COLUMNS.min(self.columns - first);
            let mut sums = [_mm512_setzero_ps(); COLUMNS];
            if self.blocks.start > 0 {
                for (index, sum) in sums.iter_mut().enumerate().take(count) {
                    *sum = self.output.load_sixteen(row, first + index);
                }
            }
            for (panel, group) in panels.iter().zip(groups) {
                // SAFETY: this function has the same features, and its caller began.
                unsafe {
                    if count > HALF {
                        K::add_products::<M, COLUMNS>(panel, group, &mut product, &mut sums);
                    } else {
                        K::add_products::<M, HALF>(panel, group, &mut product, &mut sums);
                    }
                }
            }
            for (index, sum) in sums.iter().enumerate().take(count) {
                self.output.store_sixteen(row, first + index, *sum);
            }
        }
    }
}
