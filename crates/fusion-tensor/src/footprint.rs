//! How many bytes a model takes, by its files and its shape.

use std::{fs, path::PathBuf};

use fusion_engine::types::{Result, engine::Estimate};

use crate::{
    backend::{SafetensorsFile, check_onnx},
    batch::BATCH_TOKENS,
    fault::unreadable,
    folder::{BertConfig, Folder, Weights},
};

const FLOAT: u64 = 4;

/// # Errors
/// `invalid_value` where the weights can't be read.
pub(crate) fn estimate(folder: &Folder, weights: &Weights) -> Result<Estimate> {
    let weights_bytes = match weights {
        Weights::Safetensors(file) => SafetensorsFile::open(file)?.elements() * FLOAT,
        Weights::Onnx { file, int8 } => {
            let integers = check_onnx(file)?.integer_arithmetic;
            stored_bytes(&weights.files())? + derived_bytes(&folder.bert, *int8, integers)
        }
    };
    Ok(Estimate {
        weights_bytes,
        context_bytes: 0,
        compute_bytes: scratch_bytes(&folder.bert, folder.max_tokens),
    })
}

fn stored_bytes(files: &[PathBuf]) -> Result<u64> {
    files.iter().try_fold(0, |sum, file| {
        let metadata = fs::metadata(file).map_err(|error| unreadable(file, &error))?;
        Ok(sum + metadata.len())
    })
}

/// What rten makes of an ONNX file's weights and keeps beside them: matrices packed for multiplication, and floats of
/// weights that are only stored as int8. Measured on all-MiniLM-L6-v2, this and the file are within 3 % of what is taken.
fn derived_bytes(bert: &BertConfig, int8: bool, integers: bool) -> u64 {
    let wide = |value: usize| value as u64;
    let (hidden, inner) = (wide(bert.hidden_size), wide(bert.intermediate_size));
    let matrices = wide(bert.num_hidden_layers) * (4 * hidden * hidden + 2 * hidden * inner);
    let rows = wide(bert.vocab_size + bert.max_position_embeddings + bert.type_vocab_size);
    match (int8, integers) {
        (_, true) => matrices,
        (true, false) => FLOAT * (2 * matrices + rows * hidden),
        (false, false) => FLOAT * matrices,
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
