//! An embedding model, loaded.

use std::sync::Arc;

use async_trait::async_trait;
use fusion_engine::{
    Engine, Launch,
    types::{
        Result,
        embedding::{EmbedRequest, Vectors},
        engine::{EngineCard, EngineStats, Estimate},
        model::{Capability, ModelType},
    },
};
use llama_cpp_4::model::LlamaModel;

use super::{Frame, Limit, Pooled, PooledShape, Pooling, Readout, input::sequences};
use crate::{
    device::Device, gguf::Gguf, model_file, off_thread::off_thread, options, slots::Slots,
    spans::spans,
};

/// The launch options of an embedding model, beside the device's.
const OPTIONS: [&str; 1] = ["pooling"];

pub struct Embedder {
    model: Arc<LlamaModel>,
    frame: Arc<Frame>,
    pooled: Pooled,
    shape: PooledShape,
    slots: Slots,
    card: EngineCard,
    fingerprint: Arc<str>,
}

#[async_trait]
impl Engine for Embedder {
    fn load(launch: &Launch) -> Result<Self> {
        let (gguf, shape) = read(launch)?;
        let fingerprint = gguf.fingerprint_with(&format!("pooling={}", shape.pooling.as_str()))?;
        let model = Arc::new(model_file::load(
            &launch.model,
            &shape.device.model_params(gguf.gains_by_repacking),
        )?);
        let slots = Slots::of(launch);
        let card = EngineCard {
            model_type: ModelType::Embeddings,
            family: Some(gguf.architecture),
            capabilities: vec![Capability::Embeddings],
            context_length: shape.context_length.get(),
            slots: slots.count(),
            dimension: u32::try_from(model.n_embd_out()).ok(),
            fingerprint: fingerprint.clone(),
            quantization: model.ftype().map(|kind| kind.name().to_ascii_lowercase()),
        };
        Ok(Self {
            frame: Arc::new(Frame::of(&model)?),
            pooled: Pooled::start(
                Arc::clone(&model),
                shape,
                Readout::UnitVector,
                slots.count() as usize,
            )?,
            model,
            shape,
            slots,
            card,
            fingerprint: fingerprint.into(),
        })
    }

    fn estimate(launch: &Launch) -> Result<Estimate> {
        let (gguf, shape) = read(launch)?;
        let model = shape.device.model_params(gguf.gains_by_repacking);
        let context = shape.context_params();
        model_file::estimate(&launch.model, gguf.tensor_bytes, &model, &context)
    }

    fn card(&self) -> EngineCard {
        self.card.clone()
    }

    fn stats(&self) -> EngineStats {
        EngineStats {
            slots_busy: self.slots.busy(),
            ..self.pooled.stats()
        }
    }

    async fn embed(&self, request: EmbedRequest) -> Result<Vectors> {
        let _slot = self.slots.take()?;
        let (model, frame) = (Arc::clone(&self.model), Arc::clone(&self.frame));
        let limit = Limit {
            tokens: self.card.context_length as usize,
            truncate: request.truncate,
        };
        let read = move || sequences(&model, &frame, &request.input, limit);
        let sequences = off_thread(read).await?;
        let tokens: usize = sequences.iter().map(Vec::len).sum();
        let outputs = self.pooled.run(sequences).await?;
        Ok(Vectors {
            dimension: self.card.dimension.unwrap_or(0) as usize,
            data: outputs.concat(),
            fingerprint: Arc::clone(&self.fingerprint),
            tokens: u32::try_from(tokens).unwrap_or(u32::MAX),
        })
    }

    async fn tokenize(&self, texts: Vec<String>) -> Result<Vec<Vec<(u32, u32)>>> {
        let model = Arc::clone(&self.model);
        off_thread(move || texts.iter().map(|text| spans(&model, text)).collect()).await
    }

    fn set_threads(&self, threads: u32) {
        self.pooled.set_threads(self.shape.device.allowed(threads));
    }
}

fn read(launch: &Launch) -> Result<(Gguf, PooledShape)> {
    options::check_names(launch, &[&OPTIONS[..], &Device::OPTIONS].concat())?;
    let gguf = Gguf::read(&launch.model)?;
    let pooling = Pooling::of(launch, &gguf)?;
    let shape = PooledShape::of(launch, &gguf, pooling)?;
    Ok((gguf, shape))
}
