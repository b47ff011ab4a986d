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
            let stored = stored_bytes(&weights.files())?;
            stored.saturating_add(derived_bytes(&folder.bert, *int8, integers))
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
    let (hidden, inner) = (bert.hidden_size, bert.intermediate_size);
    let attention = product(&[4, bert.num_hidden_layers, hidden, hidden]);
    let matrices = attention.saturating_add(product(&[2, bert.num_hidden_layers, hidden, inner]));
    let tables = [
        bert.vocab_size,
        bert.max_position_embeddings,
        bert.type_vocab_size,
    ];
    let tables = tables
        .map(|rows| product(&[rows, hidden]))
        .into_iter()
        .fold(0, u64::saturating_add);
    let floats = match (int8, integers) {
        (_, true) => return matrices,
        (true, false) => matrices.saturating_mul(2).saturating_add(tables),
        (false, false) => matrices,
    };
    floats.saturating_mul(FLOAT)
}

/// The largest batch's activations at their widest: the states, their queries, keys and values, and beside them either the
/// feed-forward layer before and after its activation, or the attention scores before and after their softmax.
fn scratch_bytes(bert: &BertConfig, max_tokens: usize) -> u64 {
    let tokens = max_tokens.max(BATCH_TOKENS);
    let states = product(&[6, tokens, bert.hidden_size]);
    let feed_forward = product(&[2, tokens, bert.intermediate_size]);
    let attention = product(&[2, tokens, bert.num_attention_heads, max_tokens]);
    let floats = states.saturating_add(feed_forward.max(attention));
    floats.saturating_mul(FLOAT)
}

/// A folder may name any sizes; the loading then says what is wrong with them.
fn product(sizes: &[usize]) -> u64 {
    sizes
        .iter()
        .fold(1, |product: u64, size| product.saturating_mul(*size as u64))
}
