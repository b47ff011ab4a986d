//! AMX: tiles of sixteen rows or columns, of which an instruction multiplies two.
#![expect(
    unsafe_code,
    reason = "instructions that not every processor has, and of which the compiler knows nothing"
)]

use std::{
    arch::{
        asm,
        x86_64::{__cpuid_count, __m512i},
    },
    sync::LazyLock,
};

use super::{
    panels::{COLUMNS, Multiplier, Product},
    rows, tiles,
};

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
pub(super) struct Shaped(Shapes);

impl Multiplier for Shaped {
    unsafe fn begin() -> Self {
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

    #[inline]
    unsafe fn multiply_32<const SIGNED: bool, const COUNT: usize>(
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

    #[inline]
    unsafe fn multiply_16<const COUNT: usize>(
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
}

impl Drop for Shaped {
    fn drop(&mut self) {
        // SAFETY: 64 bytes that `sttilecfg` wrote are read.
        unsafe {
            asm!("ldtilecfg [{before}]", before = in(reg) &self.0, options(nostack));
        }
    }
}
