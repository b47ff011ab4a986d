//! The transformer itself: token ids in, one vector a token out.

mod candle;
mod onnx;
mod onnx_file;
mod safetensors;

use std::{path::Path, sync::Arc};

use fusion_engine::types::Result;
use rten::ThreadPool;

use crate::{
    batch::Batch,
    fault::{contain_panic, invalid},
    folder::{BertConfig, Weights},
};

pub(crate) use onnx_file::check as check_onnx;
pub(crate) use safetensors::SafetensorsFile;

pub(crate) trait Backend: Send {
    /// The last hidden states: `rows × length × dimension` values; what stands at padding means nothing.
    ///
    /// May panic on a damaged model: call it through [`contain_panic`].
    ///
    /// # Errors
    /// `internal_error` where the computation fails.
    fn hidden_states(&self, batch: &Batch, threads: &Arc<ThreadPool>) -> Result<Vec<f32>>;
}

/// Loads the weights and runs `probe` through them, so that a model which can't work fails here and not at a request.
///
/// # Errors
/// `invalid_value` naming the file that can't be this model's weights.
pub(crate) fn open(
    weights: &Weights,
    bert: &BertConfig,
    probe: &Batch,
    threads: &Arc<ThreadPool>,
) -> Result<Box<dyn Backend>> {
    let file = weights.file();
    let attempt = || -> Result<Box<dyn Backend>> {
        let backend: Box<dyn Backend> = match weights {
            Weights::Safetensors(file) => Box::new(candle::Candle::load(file, bert)?),
            Weights::Onnx { file, .. } => Box::new(onnx::Onnx::load(file)?),
        };
        let states = backend
            .hidden_states(probe, threads)
            .map_err(|error| invalid(file, error))?;
        check(file, &states, probe, bert.hidden_size)?;
        Ok(backend)
    };
    contain_panic(attempt).map_err(|panic| invalid(file, panic))?
}

fn check(file: &Path, states: &[f32], probe: &Batch, dimension: usize) -> Result<()> {
    let width = states.len() / (probe.rows * probe.length).max(1);
    if width != dimension {
        return Err(invalid(
            file,
            format_args!("its vectors have {width} values, config.json says {dimension}"),
        ));
    }
    if !states.iter().all(|value| value.is_finite()) {
        return Err(invalid(file, "its weights make numbers that aren't finite"));
    }
    Ok(())
}
