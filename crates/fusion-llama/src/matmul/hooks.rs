//! What the linker calls in place of llama.cpp's own functions.

use std::{
    cell::Cell,
    ffi::{c_int, c_void},
    ops::Range,
    slice,
};

use llama_cpp_4::model::params::LlamaModelParams;
use llama_cpp_sys_4 as sys;

use super::{
    amx,
    few::{self, FewKind},
    panels::{self, PanelKind},
    q4_1::Q4_1,
    q4_k::Q4K,
    q6_k::Q6K,
    q8_0::Q8_0,
    q8_k::Input,
    rows::{self, RowKind},
    sixteen,
    tiles::{self, Kind, Matrix, Output, ROWS},
    vnni::Vnni,
};

thread_local! {
    /// Whether models may be loaded into memory of ggml's own order, in the parameters that are made on this thread.
    static MAY_REPACK: Cell<bool> = const { Cell::new(true) };
}

/// The head of `ggml_compute_params`: which of how many threads calls.
#[repr(C)]
pub(crate) struct Params {
    pub(crate) thread: c_int,
    pub(crate) threads: c_int,
}

#[expect(
    unsafe_code,
    reason = "llama.cpp's own, of which the linker made these names"
)]
unsafe extern "C" {
    fn __real_llamafile_sgemm(
        params: *const Params,
        m: i64,
        n: i64,
        k: i64,
        a: *const c_void,
        lda: i64,
        b: *const c_void,
        ldb: i64,
        c: *mut f32,
        ldc: i64,
        a_type: c_int,
        b_type: c_int,
        c_type: c_int,
    ) -> bool;
    fn __real_ggml_compute_forward_mul_mat_tiled(
        params: *const c_void,
        product: *mut sys::ggml_tensor,
    ) -> bool;
    fn __real_llama_model_default_params() -> sys::llama_model_params;
}

/// As [`super::model_params`]. The wrapper has no setting for it.
pub(super) fn model_params(gains_by_repacking: bool) -> LlamaModelParams {
    MAY_REPACK.set(gains_by_repacking || !has_k_kinds());
    let params = LlamaModelParams::default();
    MAY_REPACK.set(true);
    params
}

#[expect(unsafe_code, reason = "llama.cpp's callers expect it")]
#[unsafe(no_mangle)]
extern "C" fn __wrap_llama_model_default_params() -> sys::llama_model_params {
    // SAFETY: it takes nothing.
    let mut params = unsafe { __real_llama_model_default_params() };
    params.use_extra_bufts &= MAY_REPACK.get();
    params
}

/// In place of `ggml_backend_amx_buffer_type()`, where its code was compiled without `-fno-dse`: there is none. GCC 12 takes
/// `ldtilecfg` to read eight of the 64 bytes that it reads, and leaves out the stores of the rest, the shapes of the tiles: the first
/// use of a tile would end the process.
#[cfg(without_amx)]
#[expect(unsafe_code, reason = "ggml's own, of which the linker made this name")]
#[unsafe(export_name = "__wrap__Z28ggml_backend_amx_buffer_typev")]
extern "C" fn no_amx_buffer_type() -> *const c_void {
    std::ptr::null()
}

/// The product of two tensors as ggml's tiles make it, from eight columns on; false where they don't, so that ggml goes on to ask
/// [`__wrap_llamafile_sgemm`]. Ours are quicker.
#[expect(unsafe_code, reason = "ggml calls it in place of its own")]
#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap_ggml_compute_forward_mul_mat_tiled(
    params: *const c_void,
    product: *mut sys::ggml_tensor,
) -> bool {
    // SAFETY: ggml passes a product of two tensors.
    let (weights, inputs) = unsafe { (&*(*product).src[0], &*(*product).src[1]) };
    let is_ours = matches!(weights.type_, sys::GGML_TYPE_Q4_K | sys::GGML_TYPE_Q6_K)
        && inputs.type_ == sys::GGML_TYPE_F32
        && weights.ne[1] % ROWS as i64 == 0
        && has_k_kinds();
    // SAFETY: the same call.
    !is_ours && unsafe { __real_ggml_compute_forward_mul_mat_tiled(params, product) }
}

/// As the original: `c` becomes the product of the `m` rows at `a` and the `n` columns at `b`, of `k` blocks each; a row begins
/// `lda` blocks after the one before, and so on. Each thread computes a part. False where nothing was done.
#[expect(unsafe_code, reason = "ggml calls it in place of its own")]
#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap_llamafile_sgemm(
    params: *const Params,
    m: i64,
    n: i64,
    k: i64,
    a: *const c_void,
    lda: i64,
    b: *const c_void,
    ldb: i64,
    c: *mut f32,
    ldc: i64,
    a_type: c_int,
    b_type: c_int,
    c_type: c_int,
) -> bool {
    let [a_kind, b_kind, c_kind] = [a_type, b_type, c_type].map(c_int::cast_unsigned);
    if let [Ok(rows), Ok(columns), Ok(length), Ok(lda), Ok(ldb), Ok(ldc)] =
        [m, n, k, lda, ldb, ldc].map(usize::try_from)
        && rows % ROWS == 0
        && rows.min(columns).min(length) > 0
        && c_kind == sys::GGML_TYPE_F32
    {
        let call = Call {
            params,
            rows,
            columns,
            length,
            weights: (a, lda),
            inputs: (b, ldb),
            output: (c, ldc),
        };
        let in_sixteens = rows % sixteen::ROWS == 0 && has_sixteens();
        // SAFETY: ggml passes what it says: rows and columns of so many blocks of these types, which are alive and not written to
        // during the call, and room for the product, of which no two threads are given the same part.
        let is_done = unsafe {
            match (a_kind, b_kind) {
                (sys::GGML_TYPE_Q4_1, sys::GGML_TYPE_Q8_1) if in_sixteens => {
                    call.multiply_sixteens::<Q4_1>()
                }
                (sys::GGML_TYPE_Q8_0, sys::GGML_TYPE_Q8_0) if in_sixteens => {
                    call.multiply_sixteens::<Q8_0>()
                }
                (sys::GGML_TYPE_Q4_1, sys::GGML_TYPE_Q8_1) if tiles::are_supported() => {
                    call.by_tiles::<Q4_1>()
                }
                (sys::GGML_TYPE_Q4_K, sys::GGML_TYPE_Q8_K) if has_k_kinds() => {
                    call.multiply_k::<Q4K>(in_sixteens)
                }
                (sys::GGML_TYPE_Q6_K, sys::GGML_TYPE_Q8_K) if has_k_kinds() => {
                    call.multiply_k::<Q6K>(in_sixteens)
                }
                _ => false,
            }
        };
        if is_done {
            return true;
        }
    }
    // SAFETY: the same call.
    unsafe {
        __real_llamafile_sgemm(
            params, m, n, k, a, lda, b, ldb, c, ldc, a_type, b_type, c_type,
        )
    }
}

/// Whether sixteen rows are multiplied side by side.
fn has_sixteens() -> bool {
    tiles::are_supported() && rows::are_supported()
}

/// With AVX-512 but no VNNI, ours weren't compared with ggml's.
#[expect(unsafe_code, reason = "ggml knows what it was compiled for")]
fn has_k_kinds() -> bool {
    // SAFETY: it takes nothing.
    let has_avx512 = unsafe { sys::ggml_cpu_has_avx512() } != 0;
    tiles::are_supported() && (!has_avx512 || rows::are_supported())
}

struct Call {
    params: *const Params,
    rows: usize,
    columns: usize,
    length: usize,
    weights: (*const c_void, usize),
    inputs: (*const c_void, usize),
    output: (*mut f32, usize),
}

impl Call {
    /// # Safety
    /// The call is what ggml made, for these types, on a processor that they are for.
    #[expect(unsafe_code, reason = "ggml passes addresses")]
    unsafe fn multiply_sixteens<K: FewKind>(&self) -> bool {
        if self.columns >= K::MANY {
            // SAFETY: so the caller says.
            return unsafe { self.by_panels::<K>() };
        }
        // SAFETY: so the caller says.
        unsafe {
            let (weights, inputs, output) = self.operands::<K::Weight, K::Input>();
            let (columns, length, part) = (self.columns, self.length, self.part(sixteen::ROWS));
            few::multiply::<K>(&weights, &inputs, columns, length, output, &part);
        }
        true
    }

    /// False where nothing was done: without the vectors for [`rows`], ggml's own code multiplies a single column as quickly as memory
    /// brings its weights.
    ///
    /// # Safety
    /// As for [`Call::multiply_sixteens`].
    #[expect(unsafe_code, reason = "ggml passes addresses")]
    unsafe fn multiply_k<K: Kind + PanelKind + RowKind>(&self, in_sixteens: bool) -> bool {
        // SAFETY: so the caller says.
        unsafe {
            if in_sixteens && self.columns >= K::MANY {
                self.by_panels::<K>()
            } else if rows::are_supported() && self.columns < rows::MANY {
                self.by_rows::<K>()
            } else {
                self.columns > 1 && self.by_tiles::<K>()
            }
        }
    }

    /// # Safety
    /// As for [`Call::multiply_sixteens`].
    #[expect(unsafe_code, reason = "ggml passes addresses")]
    unsafe fn by_panels<K: PanelKind>(&self) -> bool {
        // SAFETY: so the caller says.
        unsafe {
            let (weights, inputs, output) = self.operands::<K::Weight, K::Input>();
            let (columns, length, part) = (self.columns, self.length, self.part(sixteen::ROWS));
            if amx::are_supported() {
                panels::multiply::<K, amx::Shaped>(
                    &weights, &inputs, columns, length, output, &part,
                );
            } else {
                panels::multiply::<K, Vnni>(&weights, &inputs, columns, length, output, &part);
            }
        }
        true
    }

    /// # Safety
    /// As for [`Call::multiply_sixteens`].
    #[expect(unsafe_code, reason = "ggml passes addresses")]
    unsafe fn by_tiles<K: Kind>(&self) -> bool {
        // SAFETY: so the caller says.
        unsafe {
            let (weights, inputs, output) = self.operands::<K::Weight, K::Input>();
            let (columns, length, part) = (self.columns, self.length, self.part(ROWS));
            tiles::multiply::<K>(&weights, &inputs, columns, length, output, &part);
        }
        true
    }

    /// # Safety
    /// As for [`Call::multiply_sixteens`].
    #[expect(unsafe_code, reason = "ggml passes addresses")]
    unsafe fn by_rows<K: RowKind>(&self) -> bool {
        // SAFETY: so the caller says.
        unsafe {
            let (weights, inputs, output) = self.operands::<K::Weight, Input>();
            let (columns, length, part) = (self.columns, self.length, self.part(1));
            rows::multiply::<K>(&weights, &inputs, columns, length, output, part);
        }
        true
    }

    /// # Safety
    /// As for [`Call::multiply_sixteens`].
    #[expect(unsafe_code, reason = "ggml passes addresses")]
    unsafe fn operands<W, I>(&self) -> (Matrix<'_, W>, Matrix<'_, I>, Output) {
        // SAFETY: so the caller says.
        unsafe {
            (
                matrix(self.weights, self.rows, self.length),
                matrix(self.inputs, self.columns, self.length),
                Output::new(self.output.0, self.output.1),
            )
        }
    }

    /// This thread's part, in so many rows.
    #[expect(unsafe_code, reason = "ggml passes an address")]
    fn part(&self, rows: usize) -> Range<usize> {
        // SAFETY: ggml's parameters are there during the call.
        let Params { thread, threads } = unsafe { &*self.params };
        let until = |thread: c_int| self.rows / rows * thread as usize / *threads as usize;
        until(*thread)..until(*thread + 1)
    }
}

/// # Safety
/// There are `count` rows of `length` blocks, each so many blocks after the one before.
#[expect(unsafe_code, reason = "ggml passes addresses")]
unsafe fn matrix<'a, T>(
    (first, stride): (*const c_void, usize),
    count: usize,
    length: usize,
) -> Matrix<'a, T> {
    // SAFETY: so the caller says; the last row ends with its last block.
    let blocks = unsafe { slice::from_raw_parts(first.cast(), (count - 1) * stride + length) };
    Matrix { blocks, stride }
}

#[cfg(test)]
mod tests {
    use std::{array, ptr};

    use super::*;

    /// What ggml makes of weights times inputs.
    #[expect(unsafe_code, reason = "ggml is C")]
    fn product(
        kind: sys::ggml_type,
        weights: &[f32],
        inputs: &[f32],
        length: usize,
        threads: c_int,
    ) -> Vec<f32> {
        let (rows, columns) = (weights.len() / length, inputs.len() / length);
        let [elements, rows_, columns_] = [length, rows, columns].map(|size| size as i64);
        let parameters = sys::ggml_init_params {
            mem_size: 64 << 20,
            mem_buffer: ptr::null_mut(),
            no_alloc: false,
        };
        // SAFETY: the context has room for all of it, the sizes are the tensors' own, and nothing outlives the context.
        unsafe {
            sys::ggml_cpu_init();
            let context = sys::ggml_init(parameters);
            let a = sys::ggml_new_tensor_2d(context, kind, elements, rows_);
            let b = sys::ggml_new_tensor_2d(context, sys::GGML_TYPE_F32, elements, columns_);
            let data = sys::ggml_get_data(a);
            sys::ggml_quantize_chunk(
                kind,
                weights.as_ptr(),
                data,
                0,
                rows_,
                elements,
                ptr::null(),
            );
            ptr::copy_nonoverlapping(inputs.as_ptr(), sys::ggml_get_data_f32(b), inputs.len());
            let result = sys::ggml_mul_mat(context, a, b);
            let graph = sys::ggml_new_graph(context);
            sys::ggml_build_forward_expand(graph, result);
            sys::ggml_graph_compute_with_ctx(context, graph, threads);
            let data = sys::ggml_get_data_f32(result);
            let product = slice::from_raw_parts(data, rows * columns).to_vec();
            sys::ggml_free(context);
            product
        }
    }

    /// What ggml's own code makes of it, one row and one column after the other.
    #[expect(unsafe_code, reason = "ggml is C")]
    fn expected(kind: sys::ggml_type, weights: &[f32], inputs: &[f32], length: usize) -> Vec<f32> {
        // SAFETY: `buffer` is larger than any row is after its conversion.
        unsafe {
            let traits = &*sys::ggml_get_type_traits_cpu(kind);
            let input_traits = &*sys::ggml_get_type_traits_cpu(traits.vec_dot_type);
            let convert = |row: &[f32]| {
                let mut buffer = vec![0_u64; length];
                (input_traits.from_float.unwrap())(
                    row.as_ptr(),
                    buffer.as_mut_ptr().cast(),
                    length as i64,
                );
                buffer
            };
            let quantize = |row: &[f32]| {
                let mut buffer = vec![0_u64; length];
                let data = buffer.as_mut_ptr().cast();
                sys::ggml_quantize_chunk(
                    kind,
                    row.as_ptr(),
                    data,
                    0,
                    1,
                    length as i64,
                    ptr::null(),
                );
                buffer
            };
            let rows: Vec<_> = weights.chunks(length).map(quantize).collect();
            let columns = inputs.chunks(length).map(convert);
            let dot = |row: &[u64], column: &[u64]| {
                let mut dot = 0.0;
                let (row, column) = (row.as_ptr().cast(), column.as_ptr().cast());
                (traits.vec_dot.unwrap())(length as c_int, &raw mut dot, 0, row, 0, column, 0, 1);
                dot
            };
            columns
                .flat_map(|column| rows.iter().map(|row| dot(row, &column)).collect::<Vec<_>>())
                .collect()
        }
    }

    /// From -0.5 to 0.5.
    fn numbers(count: usize, step: usize) -> Vec<f32> {
        (0..count)
            .map(|index| ((index * step % 10_007) as f32 / 10_007.0) - 0.5)
            .collect()
    }

    fn check(kind: sys::ggml_type) {
        for (rows, columns, length) in [
            (8, 1, 256),
            (16, 2, 512),
            (24, 3, 256),
            (64, 5, 2304),
            (24, 30, 512),
            (16, 70, 768),
            (32, 40, 2048),
        ] {
            let (weights, inputs) = (
                numbers(rows * length, 7919),
                numbers(columns * length, 6133),
            );
            let [one, three] =
                array::from_fn(|index| product(kind, &weights, &inputs, length, [1, 3][index]));
            assert_eq!(one, three);
            for (value, expected) in one.iter().zip(expected(kind, &weights, &inputs, length)) {
                let error = (value - expected).abs();
                assert!(
                    error < 1e-4 * length as f32,
                    "{columns}: {value} {expected}"
                );
            }
        }
    }

    fn has_come_by_tiles<K: Kind>() -> bool {
        K::scratch().with_borrow(|scratch| !scratch.inputs.is_empty())
    }

    fn has_come_in_sixteens<K: PanelKind>() -> bool {
        K::panels().with_borrow(|scratch| !scratch.groups.is_empty())
    }

    #[test]
    fn q4_1_is_multiplied_here() {
        check(sys::GGML_TYPE_Q4_1);
        assert_eq!(has_come_by_tiles::<Q4_1>(), tiles::are_supported());
        assert_eq!(has_come_in_sixteens::<Q4_1>(), has_sixteens());
    }

    #[test]
    fn q8_0_is_multiplied_here() {
        check(sys::GGML_TYPE_Q8_0);
        assert_eq!(has_come_in_sixteens::<Q8_0>(), has_sixteens());
    }

    #[test]
    fn q4_k_is_multiplied_here() {
        check_k::<Q4K>(sys::GGML_TYPE_Q4_K);
    }

    #[test]
    fn q6_k_is_multiplied_here() {
        check_k::<Q6K>(sys::GGML_TYPE_Q6_K);
    }

    fn check_k<K: Kind + PanelKind>(kind: sys::ggml_type) {
        check(kind);
        let has_k_kinds = has_k_kinds();
        assert_eq!(has_come_by_tiles::<K>(), has_k_kinds);
        assert_eq!(has_come_in_sixteens::<K>(), has_k_kinds && has_sixteens());
        assert_eq!(rows::came_here(), has_k_kinds && rows::are_supported());
    }

    #[test]
    fn a_column_is_the_same_beside_others() {
        let ours = [
            (sys::GGML_TYPE_Q4_1, tiles::are_supported()),
            (sys::GGML_TYPE_Q8_0, has_sixteens()),
        ];
        for (kind, _) in ours.into_iter().filter(|(_, is_ours)| *is_ours) {
            let length = 2304;
            let (weights, inputs) = (numbers(16 * length, 7919), numbers(37 * length, 6133));
            let alone = |columns: usize| {
                let each = inputs[..columns * length].chunks(length);
                each.flat_map(|column| product(kind, &weights, column, length, 1))
            };
            // Few, and many.
            for columns in [3, 37] {
                let inputs = &inputs[..columns * length];
                let together = product(kind, &weights, inputs, length, 1);
                assert_eq!(together, alone(columns).collect::<Vec<_>>());
            }
        }
    }
}
