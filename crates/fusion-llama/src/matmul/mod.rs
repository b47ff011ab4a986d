//! Products of matrices for which ggml has no code as quick, computed in its place.
//!
//! The linker sends calls of some of its functions to `hooks` (`build.rs`), and what isn't ours goes on to the original: so the rest
//! of ggml, its threads and its memory stay as they are. Weights are read where they lie in the mapped file; nothing is
//! converted or copied at load.
//!
//! Ours are Q4_1, Q4_K and Q6_K on processors with AVX2, and Q8_0 too with AVX-512 VNNI. For those ggml takes each block of weights apart
//! once for each column, or has to have copied the weights into another order at load; here blocks are taken apart once for all columns,
//! eight rows side by side (`tiles`), with AVX-512 VNNI or AMX sixteen (`panels`, `few`), or, with few columns, one after the other (`rows`).

use llama_cpp_4::model::params::LlamaModelParams;

use crate::gguf::Gguf;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod ahead;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod amx;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod few;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod hooks;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod lanes;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod panels;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod q4_1;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod q4_k;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod q6_k;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod q8_0;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod q8_k;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod rows;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod sixteen;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod tiles;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod vnni;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub(crate) use ahead::has_amx;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub(crate) use hooks::Params;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub(crate) use tiles::are_supported;

/// Parameters to load a model with. Where its tensors gain nothing by it, ggml doesn't copy them into an order of its own.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub(crate) fn model_params(gains_by_repacking: bool) -> LlamaModelParams {
    hooks::model_params(gains_by_repacking)
}

/// Memory for what ggml will copy of a file that is about to be loaded, kept ready until what is returned is dropped.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub(crate) fn touch_ahead(gguf: &Gguf) -> Option<ahead::Ahead> {
    ahead::Ahead::begin(gguf)
}

/// ggml has no code for it there.
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
pub(crate) fn has_amx() -> bool {
    false
}

/// Nothing is kept ready.
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
pub(crate) fn touch_ahead(_gguf: &Gguf) -> Option<()> {
    None
}

/// Without code of our own, what ggml's order gains is its to say.
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
pub(crate) fn model_params(_gains_by_repacking: bool) -> LlamaModelParams {
    LlamaModelParams::default()
}
