//! How a product is cut up: eight rows side by side make a tile, which is unpacked once and multiplied with many columns.
//!
//! In the vectors of a tile each row has a lane. A product's value only depends on its row and its column: not on how many columns
//! there are, nor on the number of threads.

use std::{
    arch::x86_64::{
        __m256, __m512, _MM_HINT_T0, _mm_prefetch, _mm256_loadu_ps, _mm256_setzero_ps,
        _mm256_storeu_ps, _mm512_loadu_ps, _mm512_storeu_ps,
    },
    array,
    cell::RefCell,
    mem,
    ops::Range,
    thread::LocalKey,
};

/// Rows in a tile.
pub(super) const ROWS: usize = 8;
/// Columns whose sums stand in registers at a time.
const COLUMNS: usize = 4;
/// Columns that are multiplied with a tile once it is unpacked.
const MOST_COLUMNS: usize = 64;
/// How many rows ahead the weights are fetched: a row is too short for the processor to notice by itself where it goes on.
const ROWS_AHEAD: usize = 16;
pub(super) const CACHE_LINE: usize = 64;

/// A type of weights, and the type that ggml converts the inputs to for it.
///
/// # Safety
/// A tile is numbers, of which all may be zero.
#[expect(unsafe_code, reason = "which processor it is, the caller has to know")]
pub(super) unsafe trait Kind: Sized + 'static {
    type Weight: 'static;
    type Input: 'static;
    /// An input as it is multiplied.
    type Ready: 'static;
    /// A block of each of eight rows.
    type Tile: Copy + 'static;

    /// Blocks of each row that are unpacked at a time: these and the inputs beside them stay in the first cache.
    const MOST_BLOCKS: usize;

    fn scratch() -> &'static LocalKey<RefCell<Scratch<Self>>>;

    /// # Safety
    /// The processor has AVX2, FMA and F16C.
    unsafe fn ready(input: &Self::Input) -> Self::Ready;

    /// # Safety
    /// As for [`Kind::ready`].
    unsafe fn unpack(weights: [&Self::Weight; ROWS], tile: &mut Self::Tile);

    /// Adds the tile's product with each of the inputs, a sum for each row.
    ///
    /// # Safety
    /// As for [`Kind::ready`].
    unsafe fn accumulate<const COUNT: usize>(
        tile: &Self::Tile,
        inputs: [&Self::Ready; COUNT],
        sums: &mut [__m256; COUNT],
    );
}

pub(crate) fn are_supported() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
}

/// Rows, or columns, of blocks.
pub(super) struct Matrix<'a, T> {
    pub(super) blocks: &'a [T],
    /// Blocks from the beginning of one to that of the next.
    pub(super) stride: usize,
}

impl<T> Matrix<'_, T> {
    #[inline]
    pub(super) fn part(&self, index: usize, blocks: &Range<usize>) -> &[T] {
        &self.blocks[index * self.stride..][blocks.clone()]
    }
}

/// Where the product goes, column after column. Other threads write to other rows of it.
#[derive(Clone, Copy)]
pub(super) struct Output {
    first: *mut f32,
    stride: usize,
}

impl Output {
    /// # Safety
    /// There is room for all that [`multiply`] is told to compute, each column `stride` numbers after the one before.
    #[expect(unsafe_code, reason = "others write beside what is written")]
    pub(super) unsafe fn new(first: *mut f32, stride: usize) -> Self {
        Self { first, stride }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn load(self, row: usize, column: usize) -> __m256 {
        // SAFETY: `new` was promised room for it.
        #[expect(unsafe_code, reason = "see above")]
        unsafe {
            _mm256_loadu_ps(self.first.add(column * self.stride + row))
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn store(self, row: usize, column: usize, values: __m256) {
        // SAFETY: `new` was promised room for it.
        #[expect(unsafe_code, reason = "see above")]
        unsafe {
            _mm256_storeu_ps(self.first.add(column * self.stride + row), values);
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn load_sixteen(self, row: usize, column: usize) -> __m512 {
        // SAFETY: `new` was promised room for it.
        #[expect(unsafe_code, reason = "see above")]
        unsafe {
            _mm512_loadu_ps(self.first.add(column * self.stride + row))
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn store_sixteen(self, row: usize, column: usize, values: __m512) {
        // SAFETY: `new` was promised room for it.
        #[expect(unsafe_code, reason = "see above")]
        unsafe {
            _mm512_storeu_ps(self.first.add(column * self.stride + row), values);
        }
    }

    #[inline]
    pub(super) fn store_one(self, row: usize, column: usize, value: f32) {
        // SAFETY: `new` was promised room for it.
        #[expect(unsafe_code, reason = "see above")]
        unsafe {
            self.first.add(column * self.stride + row).write(value);
        }
    }
}

/// What a thread keeps between calls.
pub(super) struct Scratch<K: Kind> {
    pub(super) inputs: Vec<K::Ready>,
    tiles: Vec<K::Tile>,
}

impl<K: Kind> Default for Scratch<K> {
    fn default() -> Self {
        Self {
            inputs: Vec::new(),
            tiles: Vec::new(),
        }
    }
}

/// Multiplies rows of `length` blocks with so many columns; `part` counts tiles of rows.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn multiply<K: Kind>(
    weights: &Matrix<K::Weight>,
    inputs: &Matrix<K::Input>,
    columns: usize,
    length: usize,
    output: Output,
    part: &Range<usize>,
) {
    K::scratch().with_borrow_mut(|scratch| {
        for first in (0..columns).step_by(MOST_COLUMNS) {
            for block in (0..length).step_by(K::MOST_BLOCKS) {
                let window = Window {
                    columns: first..columns.min(first + MOST_COLUMNS),
                    blocks: block..length.min(block + K::MOST_BLOCKS),
                    output,
                };
                window.prepare::<K>(inputs, &mut scratch.inputs);
                for tile in part.clone() {
                    window.multiply::<K>(weights, tile * ROWS, scratch);
                }
            }
        }
    });
}

/// The columns, and of them the blocks, that are multiplied with a tile once it is unpacked.
struct Window {
    columns: Range<usize>,
    blocks: Range<usize>,
    output: Output,
}

impl Window {
    #[target_feature(enable = "avx2,fma,f16c")]
    fn prepare<K: Kind>(&self, inputs: &Matrix<K::Input>, ready: &mut Vec<K::Ready>) {
        ready.clear();
        for column in self.columns.clone() {
            for input in inputs.part(column, &self.blocks) {
                // SAFETY: this function has the same features.
                #[expect(unsafe_code, reason = "see above")]
                ready.push(unsafe { K::ready(input) });
            }
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    fn multiply<K: Kind>(&self, weights: &Matrix<K::Weight>, row: usize, scratch: &mut Scratch<K>) {
        let Scratch { inputs, tiles } = scratch;
        let rows: [&[K::Weight]; ROWS] =
            array::from_fn(|lane| weights.part(row + lane, &self.blocks));
        let ahead = rows[0].as_ptr().wrapping_add(ROWS_AHEAD * weights.stride);
        // SAFETY: so the trait says.
        #[expect(unsafe_code, reason = "see above")]
        tiles.resize(self.blocks.len(), unsafe { mem::zeroed() });
        for (block, tile) in tiles.iter_mut().enumerate() {
            fetch::<_, ROWS>(ahead.wrapping_add(ROWS * block));
            // SAFETY: this function has the same features.
            #[expect(unsafe_code, reason = "see above")]
            unsafe {
                K::unpack(rows.map(|row| &row[block]), tile);
            }
        }
        for column in (0..self.columns.len()).step_by(COLUMNS) {
            match self.columns.len() - column {
                1 => self.multiply_columns::<K, 1>(tiles, column, inputs, row),
                2 => self.multiply_columns::<K, 2>(tiles, column, inputs, row),
                3 => self.multiply_columns::<K, 3>(tiles, column, inputs, row),
                _ => self.multiply_columns::<K, COLUMNS>(tiles, column, inputs, row),
            }
        }
    }

    /// Some columns, the first of them counted from the window's first.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn multiply_columns<K: Kind, const COUNT: usize>(
        &self,
        tiles: &[K::Tile],
        first: usize,
        inputs: &[K::Ready],
        row: usize,
    ) {
        let inputs: [&[K::Ready]; COUNT] =
            array::from_fn(|index| &inputs[(first + index) * tiles.len()..][..tiles.len()]);
        let first = self.columns.start + first;
        let mut sums = [_mm256_setzero_ps(); COUNT];
        if self.blocks.start > 0 {
            // What the blocks before this window's came to.
            for (index, sum) in sums.iter_mut().enumerate() {
                *sum = self.output.load(row, first + index);
            }
        }
        for (block, tile) in tiles.iter().enumerate() {
            // SAFETY: this function has the same features.
            #[expect(unsafe_code, reason = "see above")]
            unsafe {
                K::accumulate(tile, inputs.map(|column| &column[block]), &mut sums);
            }
        }
        for (index, sum) in sums.iter().enumerate() {
            self.output.store(row, first + index, *sum);
        }
    }
}

/// Asks for so many blocks that are read later.
#[inline]
pub(super) fn fetch<T, const BLOCKS: usize>(blocks: *const T) {
    for line in (0..BLOCKS * size_of::<T>()).step_by(CACHE_LINE) {
        fetch_line::<_MM_HINT_T0>(blocks.cast::<u8>().wrapping_add(line));
    }
}

/// Asks for the line that the byte is in, to be brought as near as the hint says.
#[inline]
pub(super) fn fetch_line<const HINT: i32>(byte: *const u8) {
    // SAFETY: a hint, which may name any address.
    #[expect(unsafe_code, reason = "see above")]
    unsafe {
        _mm_prefetch::<HINT>(byte.cast());
    }
}
