//! What the linker calls in place of ggml's attention.
#![expect(unsafe_code, reason = "ggml is C")]

use std::{cell::RefCell, slice};

use llama_cpp_sys_4 as sys;

use super::kernel::{self, Heads, Rows, STEP, Scratch};
use crate::matmul::{Params, are_supported};

/// From so many queries of a sequence on ggml computes them in tiles.
const MANY: i64 = 64;
/// With fewer pieces of work than so many for each thread, some threads would wait for others.
const PIECES: i64 = 4;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

unsafe extern "C" {
    fn __real_ggml_compute_forward_flash_attn_ext(
        params: *const Params,
        output: *mut sys::ggml_tensor,
    );
}

#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap_ggml_compute_forward_flash_attn_ext(
    params: *const Params,
    output: *mut sys::ggml_tensor,
) {
    // SAFETY: ggml passes an attention and what it is computed from; each thread computes other heads of it.
    unsafe {
        match Call::of(&*params, &*output) {
            Some(call) => call.compute(),
            None => __real_ggml_compute_forward_flash_attn_ext(params, output),
        }
    }
}

/// Queries, keys and values have these sizes: numbers, tokens or cells, heads, sequences. The output has numbers, heads, tokens,
/// sequences.
struct Call<'a> {
    params: &'a Params,
    output: &'a sys::ggml_tensor,
    queries: &'a sys::ggml_tensor,
    keys: &'a sys::ggml_tensor,
    values: &'a sys::ggml_tensor,
    mask: &'a sys::ggml_tensor,
    scale: f32,
}

impl<'a> Call<'a> {
    /// None where it is ggml's to compute. All threads come to the same.
    ///
    /// # Safety
    /// The output is that of an attention.
    unsafe fn of(params: &'a Params, output: &'a sys::ggml_tensor) -> Option<Self> {
        // SAFETY: so the caller says.
        let [queries, keys, values, mask, sinks] =
            [0, 1, 2, 3, 4].map(|source| unsafe { output.src[source].as_ref() });
        let (queries, keys, values, mask) = (queries?, keys?, values?, mask?);
        let [scale, max_bias, softcap] =
            [0, 1, 2].map(|index| f32::from_bits(output.op_params[index].cast_unsigned()));
        let [length, tokens, heads, sequences] = queries.ne;
        let halves = [keys, values, mask];
        let is_ours = are_supported()
            && queries.type_ == sys::GGML_TYPE_F32
            && halves.iter().all(|half| half.type_ == sys::GGML_TYPE_F16)
            // Numbers lie side by side.
            && queries.nb[0] == size_of::<f32>()
            && halves.iter().all(|half| half.nb[0] == size_of::<u16>())
            && (sinks.is_none() && max_bias == 0.0 && softcap == 0.0)
            && tokens < MANY
            && length % STEP as i64 == 0
            && keys.ne == values.ne
            && keys.ne[0] == length
            && keys.ne[3] == sequences
            && heads % keys.ne[2] == 0
            && mask.ne[0] >= keys.ne[1]
            && (mask.ne[2] == 1 && mask.ne[3] == sequences);
        let pieces = tokens * sequences * keys.ne[2];
        let threads = i64::from(params.threads);
        (is_ours && (threads == 1 || pieces >= PIECES * threads)).then_some(Self {
            params,
            output,
            queries,
            keys,
            values,
            mask,
            scale,
        })
    }

    /// This thread's part of the pieces: one is a token's heads that share keys and values.
    ///
    /// # Safety
    /// The tensors are what they say, and no other thread calls it as this one.
    unsafe fn compute(&self) {
        let [tokens, shared, sequences] =
            [self.queries.ne[1], self.keys.ne[2], self.keys.ne[3]].map(|size| size as usize);
        let [thread, threads] = [self.params.thread, self.params.threads].map(|n| n as usize);
        let until = |thread| tokens * sequences * shared * thread / threads;
        SCRATCH.with_borrow_mut(|scratch| {
            let mut seen = None;
            for piece in until(thread)..until(thread + 1) {
                let (row, shared) = (piece / shared, piece % shared);
                let (token, sequence) = (row % tokens, row / tokens);
                // SAFETY: so the caller says.
                unsafe {
                    if seen.replace(row) != Some(row) {
                        scratch.see(self.mask(token, sequence));
                    }
                    kernel::attend(&self.heads(token, shared, sequence), scratch);
                }
            }
        });
    }

    /// # Safety
    /// As for [`Call::compute`].
    unsafe fn mask(&self, token: usize, sequence: usize) -> &[u16] {
        let first = address(self.mask, [0, token, 0, sequence]).cast();
        // SAFETY: so the caller says.
        unsafe { slice::from_raw_parts(first, self.keys.ne[1] as usize) }
    }

    fn heads(&self, token: usize, shared: usize, sequence: usize) -> Heads {
        let count = (self.queries.ne[2] / self.keys.ne[2]) as usize;
        let first = shared * count;
        Heads {
            count,
            length: self.queries.ne[0] as usize,
            scale: self.scale,
            queries: Rows {
                first: address(self.queries, [0, token, first, sequence]).cast(),
                stride: self.queries.nb[2],
            },
            keys: Rows {
                first: address(self.keys, [0, 0, shared, sequence]).cast(),
                stride: self.keys.nb[1],
            },
            values: Rows {
                first: address(self.values, [0, 0, shared, sequence]).cast(),
                stride: self.values.nb[1],
            },
            output: address(self.output, [0, first, token, sequence]).cast(),
        }
    }
}

fn address(tensor: &sys::ggml_tensor, index: [usize; 4]) -> *mut u8 {
    let offset: usize = index.iter().zip(&tensor.nb).map(|(i, size)| i * size).sum();
    tensor.data.cast::<u8>().wrapping_add(offset)
}

#[cfg(test)]
mod tests {
    use std::{ffi::c_int, ptr};

    use super::*;

    const HIDDEN: f32 = f32::NEG_INFINITY;

    struct Sizes {
        length: usize,
        tokens: usize,
        heads: usize,
        shared: usize,
        cells: usize,
        sequences: usize,
    }

    /// From -1 to 1, exact in half precision.
    fn numbers(count: usize, step: usize) -> Vec<f32> {
        (0..count)
            .map(|index| (index * step % 2_047) as f32 / 1_024.0 - 1.0)
            .collect()
    }

    unsafe fn filled(
        context: *mut sys::ggml_context,
        kind: sys::ggml_type,
        sizes: [usize; 4],
        numbers: &[f32],
    ) -> *mut sys::ggml_tensor {
        let [a, b, c, d] = sizes.map(|size| size as i64);
        unsafe {
            let tensor = sys::ggml_new_tensor_4d(context, kind, a, b, c, d);
            if kind == sys::GGML_TYPE_F32 {
                let data = sys::ggml_get_data_f32(tensor);
                ptr::copy_nonoverlapping(numbers.as_ptr(), data, numbers.len());
            } else {
                let data = sys::ggml_get_data(tensor).cast();
                sys::ggml_fp32_to_fp16_row(numbers.as_ptr(), data, numbers.len() as i64);
            }
            tensor
        }
    }

    /// What ggml's graph makes of queries, keys, values and mask.
    fn computed(sizes: &Sizes, given: &[Vec<f32>; 4], threads: c_int) -> Vec<f32> {
        let &Sizes {
            length,
            tokens,
            heads,
            shared,
            cells,
            sequences,
        } = sizes;
        let parameters = sys::ggml_init_params {
            mem_size: 64 << 20,
            mem_buffer: ptr::null_mut(),
            no_alloc: false,
        };
        let half = sys::GGML_TYPE_F16;
        // SAFETY: the context has room for all of it, the sizes are the tensors' own, and nothing outlives the context.
        unsafe {
            sys::ggml_cpu_init();
            let context = sys::ggml_init(parameters);
            let queries = [length, tokens, heads, sequences];
            let queries = filled(context, sys::GGML_TYPE_F32, queries, &given[0]);
            let kept = [length, cells, shared, sequences];
            let keys = filled(context, half, kept, &given[1]);
            let values = filled(context, half, kept, &given[2]);
            let mask = filled(context, half, [cells, tokens, 1, sequences], &given[3]);
            let scale = (length as f32).sqrt().recip();
            let result =
                sys::ggml_flash_attn_ext(context, queries, keys, values, mask, scale, 0.0, 0.0);
            let graph = sys::ggml_new_graph(context);
            sys::ggml_build_forward_expand(graph, result);
            sys::ggml_graph_compute_with_ctx(context, graph, threads);
            let count = length * heads * tokens * sequences;
            let output = slice::from_raw_parts(sys::ggml_get_data_f32(result), count).to_vec();
            sys::ggml_free(context);
            output
        }
    }

    /// The formula, in double precision.
    fn expected(sizes: &Sizes, [queries, keys, values, mask]: &[Vec<f32>; 4]) -> Vec<f64> {
        let mut output = Vec::new();
        let length = sizes.length;
        for sequence in 0..sizes.sequences {
            for token in 0..sizes.tokens {
                for head in 0..sizes.heads {
                    let query = (sequence * sizes.heads + head) * sizes.tokens + token;
                    let query = &queries[query * length..][..length];
                    let shared = head / (sizes.heads / sizes.shared);
                    let row =
                        |cell| ((sequence * sizes.shared + shared) * sizes.cells + cell) * length;
                    let weights: Vec<f64> = (0..sizes.cells)
                        .map(|cell| {
                            let key = &keys[row(cell)..][..length];
                            let pairs = query.iter().zip(key);
                            let dot: f64 = pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                            let mask = mask[(sequence * sizes.tokens + token) * sizes.cells + cell];
                            (dot / (length as f64).sqrt() + f64::from(mask)).exp()
                        })
                        .collect();
                    let sum: f64 = weights.iter().sum();
                    for number in 0..length {
                        let mixed: f64 = (0..sizes.cells)
                            .map(|cell| weights[cell] * f64::from(values[row(cell) + number]))
                            .sum();
                        output.push(if sum > 0.0 { mixed / sum } else { 0.0 });
                    }
                }
            }
        }
        output
    }

    #[test]
    fn every_query_sees_its_own_cells_and_no_others() {
        // Tokens, heads, heads with keys of their own, cells, sequences with a cache of their own.
        for (length, tokens, heads, shared, cells, sequences) in [
            (64, 1, 9, 3, 256, 1),
            (64, 8, 9, 3, 333, 1),
            (128, 5, 12, 2, 100, 1),
            (64, 1, 7, 1, 64, 8),
            (128, 2, 8, 8, 40, 2),
            (64, 63, 4, 1, 64, 1),
        ] {
            let sizes = Sizes {
                length,
                tokens,
                heads,
                shared,
                cells,
                sequences,
            };
            let kept = length * cells * shared * sequences;
            // A query sees every third cell or so; the last one of several sees none.
            let mask = (0..sequences * tokens * cells).map(|index| {
                let (row, cell) = (index / cells, index % cells);
                let sees_none = row > 0 && row + 1 == sequences * tokens;
                match (cell + row) % 3 {
                    _ if sees_none => HIDDEN,
                    0 => 0.0,
                    1 if cell % 5 == 0 => -0.5,
                    _ => HIDDEN,
                }
            });
            let given = [
                numbers(length * tokens * heads * sequences, 7919),
                numbers(kept, 6133),
                numbers(kept, 3571),
                mask.collect(),
            ];
            let expected = expected(&sizes, &given);
            for threads in [1, 2, 3] {
                // With several threads a single token is ggml's, which adds up in half precision.
                let tolerance = if threads == 1 { 1e-5 } else { 1e-3 };
                let computed = computed(&sizes, &given, threads);
                assert_eq!(computed.len(), expected.len());
                for (index, (is, should)) in computed.iter().zip(&expected).enumerate() {
                    assert!(
                        (f64::from(*is) - should).abs() < tolerance,
                        "{length} {tokens} {heads} {cells} {threads}, {index}: {is} {should}"
                    );
                }
            }
        }
    }
}
