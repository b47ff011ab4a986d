//! A model's file, loaded or only asked what loading it would take.

use std::path::Path;

use fusion_engine::types::{Error, Result, engine::Estimate};
use llama_cpp_4::{
    context::params::LlamaContextParams,
    fit::{DeviceMemoryEntry, get_device_memory_data},
    model::{LlamaModel, params::LlamaModelParams},
    supports_gpu_offload,
};

use crate::llama;

/// # Errors
/// `invalid_value` with the cause that llama.cpp logged.
pub(crate) fn load(path: &Path, params: &LlamaModelParams) -> Result<LlamaModel> {
    let backend = llama::backend()?;
    llama::attempt(|| LlamaModel::load_from_file(backend, path, params))
        .map_err(|why| unusable(path, &why))
}

/// Whether what is loaded so lies in GPUs' memory, whose bytes then are what counts: in a build for CUDA where there is a device,
/// unless all layers are to stay with the processor.
///
/// # Errors
/// `engine_unavailable` where llama.cpp can't start.
pub(crate) fn is_on_gpu(params: &LlamaModelParams) -> Result<bool> {
    llama::backend()?;
    Ok(cfg!(feature = "cuda") && params.n_gpu_layers() != 0 && supports_gpu_offload())
}

/// The tensors' own bytes, and what llama.cpp says of the context when it plans one without memory; on GPUs, what it says of them.
///
/// # Errors
/// As for [`load`].
pub(crate) fn estimate(
    path: &Path,
    tensor_bytes: u64,
    model: &LlamaModelParams,
    context: &LlamaContextParams,
) -> Result<Estimate> {
    let is_on_gpu = is_on_gpu(model)?;
    let report = llama::attempt(|| get_device_memory_data(path, model, context, llama::ERROR))
        .map_err(|why| unusable(path, &why))?;
    let entries = match report.entries.split_last() {
        // The last one is the host's.
        Some((_, devices)) if is_on_gpu => devices,
        _ => &report.entries,
    };
    let sum = |bytes: fn(&DeviceMemoryEntry) -> usize| {
        entries.iter().map(|entry| bytes(entry) as u64).sum()
    };
    Ok(Estimate {
        weights_bytes: match is_on_gpu {
            true => sum(|entry| entry.model),
            false => tensor_bytes,
        },
        context_bytes: sum(|entry| entry.context),
        compute_bytes: sum(|entry| entry.compute),
    })
}

pub(crate) fn unusable(path: &Path, why: &str) -> Error {
    let name = path
        .file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy();
    Error::invalid("model", format!("{name} can't be used: {why}"))
}
