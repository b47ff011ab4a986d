//! What the linker calls in place of ggml's attention.
#![expect(unsafe_code, reason = "ggml is C")]

use std::{cell::RefCell, iter, ops::Range, slice};

use llama_cpp_sys_4 as sys;

use super::{
    kernel::{self, HIDDEN, Heads, Rows, STEP},
    tile::{self, Grid, Tile},
};
use crate::matmul::{Params, are_supported};

/// With fewer pieces of work than so many for each thread, some threads would wait for others.
const PIECES: usize = 4;

thread_local! {
    static SCRATCH: RefCell<(kernel::Scratch, tile::Scratch)> = RefCell::default();
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
        let [length, _, heads, sequences] = queries.ne;
        let halves = [keys, values, mask];
        let is_ours = are_supported()
            && queries.type_ == sys::GGML_TYPE_F32
            && halves.iter().all(|half| half.type_ == sys::GGML_TYPE_F16)
            // Numbers lie side by side.
            && queries.nb[0] == size_of::<f32>()
            && halves.iter().all(|half| half.nb[0] == size_of::<u16>())
            && (sinks.is_none() && max_bias == 0.0 && softcap == 0.0)
            && length % STEP as i64 == 0
            && keys.ne == values.ne
            && keys.ne[0] == length
            && keys.ne[3] == sequences
            && heads % keys.ne[2] == 0
            && mask.ne[0] >= keys.ne[1]
            && (mask.ne[2] == 1 && mask.ne[3] == sequences);
        let call = Self {
            params,
            output,
            queries,
            keys,
            values,
            mask,
            scale,
        };
        let [tokens, shared, sequences] = call.sizes();
        let [_, threads] = call.threads();
        let are_enough = threads == 1 || tokens * shared * sequences >= PIECES * threads;
        (is_ours && are_enough).then_some(call)
    }

    /// Tokens of a sequence, heads with keys of their own, and sequences.
    fn sizes(&self) -> [usize; 3] {
        [self.queries.ne[1], self.keys.ne[2], self.keys.ne[3]].map(|size| size as usize)
    }

    /// Numbers in a head.
    fn length(&self) -> usize {
        self.queries.ne[0] as usize
    }

    /// This one, and how many there are.
    fn threads(&self) -> [usize; 2] {
        [self.params.thread, self.params.threads].map(|number| number as usize)
    }

    /// Heads that share keys and values.
    fn count(&self) -> usize {
        (self.queries.ne[2] / self.keys.ne[2]) as usize
    }

    /// This thread's part: with each run of tokens it is the turn of some heads that share keys and values.
    ///
    /// # Safety
    /// The tensors are what they say, and no other thread calls it as this one.
    unsafe fn compute(&self) {
        let [_, shared, sequences] = self.sizes();
        let [thread, threads] = self.threads();
        let mut turns = (0..threads).cycle();
        SCRATCH.with_borrow_mut(|(few, many)| {
            for sequence in 0..sequences {
                // SAFETY: so the caller says.
                for run in unsafe { self.runs(sequence) } {
                    let mine: Vec<_> = iter::zip(0..shared, &mut turns)
                        .filter_map(|(shared, turn)| (turn == thread).then_some(shared))
                        .collect();
                    if !mine.is_empty() {
                        // SAFETY: so the caller says.
                        unsafe { self.compute_run(run, sequence, &mine, few, many) };
                    }
                }
            }
        });
    }

    /// Tokens after one another of which each sees a cell that the one before sees too, as those of a text do; at most a tile of
    /// them, and so few that each thread has some.
    ///
    /// # Safety
    /// As for [`Call::compute`].
    unsafe fn runs(&self, sequence: usize) -> impl Iterator<Item = Range<usize>> {
        let [tokens, shared, sequences] = self.sizes();
        let most = match self.threads() {
            [_, 1] => tokens,
            [_, threads] => tokens * shared * sequences / (PIECES * threads),
        };
        let most = most.min(tile::tokens(self.count()));
        // SAFETY: so the caller says.
        let mask = move |token| unsafe { self.mask(token, sequence) };
        let mut end = 0;
        iter::from_fn(move || {
            let first = end;
            end += usize::from(first < tokens);
            while end < tokens.min(first + most) && share_cells(mask(end - 1), mask(end)) {
                end += 1;
            }
            (first < end).then_some(first..end)
        })
    }

    /// # Safety
    /// As for [`Call::compute`].
    unsafe fn compute_run(
        &self,
        tokens: Range<usize>,
        sequence: usize,
        shared: &[usize],
        few: &mut kernel::Scratch,
        many: &mut tile::Scratch,
    ) {
        // SAFETY: so the caller says.
        unsafe {
            let mask = |token| self.mask(token, sequence);
            let masks: Vec<_> = tokens.clone().map(mask).collect();
            if many.look(&masks, self.count()) {
                for &shared in shared {
                    tile::attend(&self.tile(tokens.start, &masks, shared, sequence), many);
                }
            } else {
                for (token, mask) in tokens.zip(masks) {
                    few.see(mask);
                    for &shared in shared {
                        kernel::attend(&self.heads(token, shared, sequence), few);
                    }
                }
            }
        }
    }

    /// # Safety
    /// As for [`Call::compute`].
    unsafe fn mask(&self, token: usize, sequence: usize) -> &[u16] {
        let first = address(self.mask, [0, token, 0, sequence]).cast();
        // SAFETY: so the caller says.
        unsafe { slice::from_raw_parts(first, self.keys.ne[1] as usize) }
    }

    fn heads(&self, token: usize, shared: usize, sequence: usize) -> Heads {
        let first = shared * self.count();
        let [keys, values] = self.cells(shared, sequence);
        Heads {
            count: self.count(),
            length: self.length(),
            scale: self.scale,
            queries: Rows {
                first: address(self.queries, [0, token, first, sequence]).cast(),
                stride: self.queries.nb[2],
            },
            keys,
            values,
            output: address(self.output, [0, first, token, sequence]).cast(),
        }
    }

    fn tile<'m>(
        &self,
        token: usize,
        masks: &'m [&'m [u16]],
        shared: usize,
        sequence: usize,
    ) -> Tile<'m> {
        let first = shared * self.count();
        let [keys, values] = self.cells(shared, sequence);
        let (queries, output) = (self.queries, self.output);
        Tile {
            heads: self.count(),
            length: self.length(),
            scale: self.scale,
            queries: Grid {
                first: address(queries, [0, token, first, sequence]).cast(),
                strides: [queries.nb[1], queries.nb[2]],
            },
            keys,
            values,
            masks,
            output: Grid {
                first: address(output, [0, first, token, sequence]).cast(),
                strides: [output.nb[2], output.nb[1]],
            },
        }
    }

    /// Keys and values.
    fn cells(&self, shared: usize, sequence: usize) -> [Rows<u16>; 2] {
        [self.keys, self.values].map(|tensor| Rows {
            first: address(tensor, [0, 0, shared, sequence])
                .cast_const()
                .cast(),
            stride: tensor.nb[1],
        })
    }
}

fn share_cells(one: &[u16], other: &[u16]) -> bool {
    // So many at a time, without a branch for each.
    let pairs = iter::zip(one.chunks(STEP), other.chunks(STEP));
    pairs
        .map(|(one, other)| iter::zip(one, other))
        .any(|cells| cells.fold(false, |any, (&a, &b)| any | ((a != HIDDEN) & (b != HIDDEN))))
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
            (64, 64, 9, 3, 333, 1),
            (128, 70, 12, 2, 150, 1),
            (64, 100, 4, 4, 40, 2),
            (64, 65, 97, 1, 8, 1),
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
