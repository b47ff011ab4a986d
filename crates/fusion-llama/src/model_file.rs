//! A model's file, loaded or only asked what loading it would take.

use std::path::Path;

use fusion_engine::types::{Error, Result, engine::Estimate};
use llama_cpp_4::{
    context::params::LlamaContextParams,
    fit::{DeviceMemoryEntry, get_device_memory_data},
    model::{LlamaModel, params::LlamaModelParams},
};

use crate::llama;

/// # Errors
/// `invalid_value` with the cause that llama.cpp logged.
pub(crate) fn load(path: &Path, params: &LlamaModelParams) -> Result<LlamaModel> {
    let backend = llama::backend()?;
    llama::attempt(|| LlamaModel::load_from_file(backend, path, params))
        .map_err(|why| unusable(path, &why))
}

/// The tensors' own bytes, and what llama.cpp says of the context when it plans one without memory.
///
/// # Errors
/// As for [`load`].
pub(crate) fn estimate(
    path: &Path,
    tensor_bytes: u64,
    model: &LlamaModelParams,
    context: &LlamaContextParams,
) -> Result<Estimate> {
    llama::backend()?;
    let report = llama::attempt(|| get_device_memory_data(path, model, context, llama::ERROR))
        .map_err(|why| unusable(path, &why))?;
    let sum = |bytes: fn(&DeviceMemoryEntry) -> usize| {
        report.entries.iter().map(|entry| bytes(entry) as u64).sum()
    };
    Ok(Estimate {
        weights_bytes: tensor_bytes,
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
