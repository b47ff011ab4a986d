//! What the launch options say of the machine: where the model's layers are, and how many threads compute.

use fusion_engine::{Launch, types::Result};
use llama_cpp_4::model::params::LlamaModelParams;

use crate::{matmul, options};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Device {
    /// Layers that a GPU is to have, where llama.cpp was built with one; all of them when not given.
    gpu_layers: Option<u32>,
    pub(crate) threads: u32,
    most_threads: u32,
}

impl Device {
    /// The options that it reads.
    pub(crate) const OPTIONS: [&str; 2] = ["gpu_layers", "threads"];

    /// # Errors
    /// `invalid_value`.
    pub(crate) fn of(launch: &Launch) -> Result<Self> {
        let most_threads = options::number(launch, "threads", 1)?.unwrap_or(u32::MAX);
        Ok(Self {
            gpu_layers: options::number(launch, "gpu_layers", 0)?,
            threads: launch.threads.clamp(1, most_threads),
            most_threads,
        })
    }

    /// `gains_by_repacking`: whether llama.cpp should keep tensors in an order of its own, in memory beside the mapped file.
    pub(crate) fn model_params(self, gains_by_repacking: bool) -> LlamaModelParams {
        let params = matmul::model_params(gains_by_repacking);
        match self.gpu_layers {
            Some(layers) => params.with_n_gpu_layers(layers),
            None => params,
        }
    }

    /// Of a draft model, which is small: whole on a GPU, unless nothing is to be there.
    pub(crate) fn draft_params(self) -> LlamaModelParams {
        let params = LlamaModelParams::default();
        match self.gpu_layers {
            Some(0) => params.with_n_gpu_layers(0),
            _ => params,
        }
    }

    /// Threads that the server allows, but never more than the option says.
    pub(crate) fn allowed(self, threads: u32) -> u32 {
        threads.clamp(1, self.most_threads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draft_model_is_on_a_gpu_unless_nothing_is_to_be_there() {
        let layers = |gpu_layers| {
            let device = Device {
                gpu_layers,
                threads: 1,
                most_threads: 1,
            };
            let layers = |params: LlamaModelParams| params.n_gpu_layers();
            (
                layers(device.model_params(false)),
                layers(device.draft_params()),
            )
        };
        let all = LlamaModelParams::default().n_gpu_layers();
        assert_eq!(layers(None), (all, all));
        assert_eq!(layers(Some(20)), (20, all));
        assert_eq!(layers(Some(0)), (0, 0));
    }
}
