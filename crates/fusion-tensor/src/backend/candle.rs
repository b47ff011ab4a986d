//! BERT on safetensors through candle, in fp32 whatever the file stores.
//!
//! candle works on the rayon pool that it is called in, so the engine's own pool bounds its threads. Into how many pieces it
//! splits a multiplication it takes from `RAYON_NUM_THREADS`, else from the machine's cores, and pieces beyond the threads cost
//! much (measured with one thread: two pieces take 1.3 to 2.3 times the CPU of one). Whoever starts the engine should set that
//! variable to the engine's threads.

use std::{path::Path, sync::Arc};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config, HiddenAct, PositionEmbeddingType};
use fusion_engine::types::{Error, Result};
use rten::ThreadPool;

use super::{Backend, SafetensorsFile};
use crate::{
    batch::Batch,
    fault::invalid,
    folder::{Activation, BertConfig},
};

pub(crate) struct Candle {
    model: BertModel,
}

impl Candle {
    pub(crate) fn load(file: &Path, bert: &BertConfig) -> Result<Self> {
        let tensors = Box::new(SafetensorsFile::open(file)?);
        let weights = VarBuilder::from_backend(tensors, DType::F32, Device::Cpu);
        let model =
            BertModel::load(weights, &config(bert)).map_err(|error| invalid(file, error))?;
        Ok(Self { model })
    }

    fn forward(&self, batch: &Batch) -> candle_core::Result<Vec<f32>> {
        let shape = (batch.rows, batch.length);
        let ids = Tensor::from_slice(&batch.ids, shape, &Device::Cpu)?;
        let mask = Tensor::from_slice(&batch.mask, shape, &Device::Cpu)?;
        let states = self.model.forward(&ids, &ids.zeros_like()?, Some(&mask))?;
        states.flatten_all()?.to_vec1()
    }
}

impl Backend for Candle {
    fn hidden_states(&self, batch: &Batch, threads: &Arc<ThreadPool>) -> Result<Vec<f32>> {
        threads
            .run(|| self.forward(batch))
            .map_err(|error| Error::internal(format!("the model failed: {error}")))
    }
}

fn config(bert: &BertConfig) -> Config {
    Config {
        vocab_size: bert.vocab_size,
        hidden_size: bert.hidden_size,
        num_hidden_layers: bert.num_hidden_layers,
        num_attention_heads: bert.num_attention_heads,
        intermediate_size: bert.intermediate_size,
        hidden_act: match bert.hidden_act {
            Activation::Gelu => HiddenAct::Gelu,
            Activation::GeluTanh => HiddenAct::GeluApproximate,
            Activation::Relu => HiddenAct::Relu,
        },
        hidden_dropout_prob: 0.0,
        max_position_embeddings: bert.max_position_embeddings,
        type_vocab_size: bert.type_vocab_size,
        layer_norm_eps: bert.layer_norm_eps,
        pad_token_id: bert.pad_token_id as usize,
        position_embedding_type: PositionEmbeddingType::Absolute,
        // A checkpoint with a head on top keeps its encoder under this prefix.
        model_type: Some("bert".to_owned()),
        ..Config::default()
    }
}
