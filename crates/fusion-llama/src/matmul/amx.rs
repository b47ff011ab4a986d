//! Products with many columns on processors with AMX: sixteen rows side by side make a panel, which is unpacked once and multiplied
//! with sixteen columns at a time, 32 or 16 quants of each in an instruction.
//!
//! The sum over such a part of a block is exact, as an integer; what scales it is worked out in vectors.
#![expect(
    unsafe_code,
    reason = "instructions that not every processor has, and of which the compiler knows nothing"
)]

use std::{
    arch::{
        asm,
        x86_64::{__cpuid_count, __m512, __m512i, _mm512_setzero_ps, _mm512_setzero_si512},
    },
    cell::RefCell,
    mem,
    ops::Range,
    sync::LazyLock,
    thread::LocalKey,
};

use super::{
    rows,
    sixteen::{self, Sixteen},
    tiles::{self, Matrix, Output},
};

/// Columns that are multiplied with a panel at a time.
pub(super) const COLUMNS: usize = 16;

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

    /// From so many columns on this is quicker than [`tiles`] and [`rows`].
    const MANY: usize;
    /// Blocks of each row that are unpacked at a time, to stay in the first caches.
    const MOST_PANELS: usize;

    fn panels() -> &'static LocalKey<RefCell<Scratch<Self>>>;

    /// Makes the input one of the group's columns.
    fn put(input: &Self::Input, column: usize, group: &mut Self::Group);

    /// # Safety
    /// They [are supported](are_supported).
    unsafe fn unpack_sixteen(weights: Sixteen<Self::Weight>, panel: &mut Self::Panel);

    /// Adds the panel's product with the group. `product` is room for what is multiplied at a time.
    ///
    /// # Safety
    /// They [are supported](are_supported), and the tiles [`Shaped`].
    unsafe fn add_products(
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

/// Whether the processor has what this needs, and the kernel lets the process use it.
pub(super) fn are_supported() -> bool {
    static ARE: LazyLock<bool> = LazyLock::new(|| {
        rows::are_supported() && tiles::are_supported() && has_tiles() && may_use_tiles()
    });
    *ARE
}

/// AMX-TILE and AMX-INT8.
fn has_tiles() -> bool {
    const BOTH: u32 = 0b11 << 24;
    __cpuid_count(7, 0).edx & BOTH == BOTH
}

/// Linux has a process ask for the registers' room first: `ARCH_REQ_XCOMP_PERM` for `XFEATURE_XTILEDATA`.
fn may_use_tiles() -> bool {
    let (arch_prctl, request, tile_data) = (158_i64, 0x1023, 18);
    let result: i64;
    // SAFETY: the call takes numbers only.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") arch_prctl => result,
            in("rdi") request,
            in("rsi") tile_data,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result == 0
}

/// The tiles' shapes, in the layout of `ldtilecfg`.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Shapes {
    /// A product; 32 quants of each column, and of each row by fours; sixteen of each column, and of each row.
    const OURS: Self = Self {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        row_bytes: [64, 32, 64, 16, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        rows: [16, 16, 8, 16, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    };
}

/// While it lives, the tiles have our shapes; then again those that ggml gave them on this thread.
struct Shaped(Shapes);

impl Shaped {
    fn new() -> Self {
        let mut before = Shapes::OURS;
        // SAFETY: 64 bytes are written, then read.
        unsafe {
            asm!(
                "sttilecfg [{before}]",
                "ldtilecfg [{ours}]",
                before = in(reg) &mut before,
                ours = in(reg) &Shapes::OURS,
                options(nostack),
            );
        }
        Self(before)
    }
}

impl Drop for Shaped {
    fn drop(&mut self) {
        // SAFETY: 64 bytes that `sttilecfg` wrote are read.
        unsafe {
            asm!("ldtilecfg [{before}]", before = in(reg) &self.0, options(nostack));
        }
    }
}

/// Of 32 quants of each column, side by side, and of each row, by fours.
///
/// # Safety
/// The tiles are [`Shaped`].
#[inline]
pub(super) unsafe fn multiply_32(
    columns: &[[i8; 32]; COLUMNS],
    rows: &[__m512i; 8],
    product: &mut Product,
) {
    // SAFETY: as many bytes are read and written as there are.
    unsafe {
        asm!(
            "tileloadd tmm1, [{columns} + {next_column}]",
            "tileloadd tmm2, [{rows} + {next_four}]",
            "tilezero tmm0",
            "tdpbssd tmm0, tmm1, tmm2",
            "tilestored [{product} + {next_four}], tmm0",
            columns = in(reg) columns,
            rows = in(reg) rows,
            product = in(reg) product,
            next_column = in(reg) 32_usize,
            next_four = in(reg) 64_usize,
            out("tmm0") _,
            out("tmm1") _,
            out("tmm2") _,
            options(nostack),
        );
    }
}

/// As [`multiply_32`], of the first or the other sixteen quants of each.
///
/// # Safety
/// The tiles are [`Shaped`].
#[inline]
pub(super) unsafe fn multiply_16(
    columns: &[[i8; 32]; COLUMNS],
    rows: &[__m512i; 8],
    half: usize,
    product: &mut Product,
) {
    let columns = &columns.as_flattened()[16 * half..];
    let rows = &rows[4 * half..][..4];
    // SAFETY: as many bytes are read and written as there are: of the last column sixteen.
    unsafe {
        asm!(
            "tileloadd tmm3, [{columns} + {next_column}]",
            "tileloadd tmm4, [{rows} + {next_four}]",
            "tilezero tmm0",
            "tdpbssd tmm0, tmm3, tmm4",
            "tilestored [{product} + {next_four}], tmm0",
            columns = in(reg) columns.as_ptr(),
            rows = in(reg) rows.as_ptr(),
            product = in(reg) product,
            next_column = in(reg) 32_usize,
            next_four = in(reg) 64_usize,
            out("tmm0") _,
            out("tmm3") _,
            out("tmm4") _,
            options(nostack),
        );
    }
}

/// Multiplies rows of `length` blocks with so many columns; `part` counts panels.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn multiply<K: PanelKind>(
    weights: &Matrix<K::Weight>,
    inputs: &Matrix<K::Input>,
    columns: usize,
    length: usize,
    output: Output,
    part: &Range<usize>,
) {
    let _shaped = Shaped::new();
    K::panels().with_borrow_mut(|scratch| {
        for block in (0..length).step_by(K::MOST_PANELS) {
            let window = Window {
                columns,
                blocks: block..length.min(block + K::MOST_PANELS),
                output,
            };
            prepare::<K>(inputs, columns, &window.blocks, &mut scratch.groups);
            for panel in part.clone() {
                window.multiply::<K>(weights, panel * sixteen::ROWS, scratch);
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
    fn multiply<K: PanelKind>(
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
                // SAFETY: this function has the same features, and its caller shaped the tiles.
                unsafe { K::add_products(panel, group, &mut product, &mut sums) };
            }
            for (index, sum) in sums.iter().enumerate().take(count) {
                self.output.store_sixteen(row, first + index, *sum);
            }
        }
    }
}
