//! How many bytes a model takes, by its files and its shape.

use std::fs;

use fusion_engine::types::{Result, engine::Estimate};

use crate::{
    backend::SafetensorsFile,
    batch::BATCH_TOKENS,
    fault::unreadable,
    folder::{BertConfig, Folder, Weights},
};

const FLOAT: u64 = 4;

/// # Errors
/// `invalid_value` where the weights can't be read.
pub(crate) fn estimate(folder: &Folder, weights: &Weights) -> Result<Estimate> {
    Ok(Estimate {
        weights_bytes: weights_bytes(weights)?,
        context_bytes: 0,
        compute_bytes: scratch_bytes(&folder.bert, folder.max_tokens),
    })
}

fn weights_bytes(weights: &Weights) -> Result<u64> {
    match weights {
        Weights::Safetensors(file) => Ok(SafetensorsFile::open(file)?.elements() * FLOAT),
        Weights::Onnx { .. } => weights.files().iter().try_fold(0, |sum, file| {
            let metadata = fs::metadata(file).map_err(|error| unreadable(file, &error))?;
            Ok(sum + metadata.len())
        }),
    }
}

/// The largest batch's activations at their widest: the states, their queries, keys and values, and beside them either the
/// feed-forward layer before and after its activation, or the attention scores before and after their softmax.
fn scratch_bytes(bert: &BertConfig, max_tokens: usize) -> u64 {
    let wide = |value: usize| value as u64;
    let tokens = wide(max_tokens.max(BATCH_TOKENS));
    let states = 6 * wide(bert.hidden_size);
    let feed_forward = 2 * wide(bert.intermediate_size);
    let attention = 2 * wide(bert.num_attention_heads) * wide(max_tokens);
    tokens
        .saturating_mul(states + feed_forward.max(attention))
        .saturating_mul(FLOAT)
}
