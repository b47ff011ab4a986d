//! A BERT encoder in ONNX through rten, int8 or not.
//!
//! Two kinds of files are called int8. One only stores its weights so, and they become floats when loaded: smaller on disk
//! alone. The other multiplies integers, about twice as fast in a third of the memory; it quantizes its activations as it runs,
//! with one scale over the whole batch, so that a text's vector shifts with the texts that it is computed beside, and how near
//! it comes to fp32 is up to whoever made the file.
//!
//! The weights are packed for multiplication when loaded, which takes their bytes once more and makes single short texts about
//! a third faster.

use std::{path::Path, sync::Arc};

use fusion_engine::types::{Error, Result};
use rten::{Model, ModelOptions, NodeId, RunOptions, ThreadPool, ValueOrView};
use rten_tensor::{Layout, NdTensor, Tensor};

use super::{Backend, onnx_file};
use crate::{batch::Batch, fault::invalid};

pub(crate) struct Onnx {
    model: Model,
    inputs: Vec<(NodeId, Input)>,
    output: NodeId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    Ids,
    Mask,
    /// Which of two texts a token belongs to: always the first.
    Types,
}

impl Onnx {
    pub(crate) fn load(file: &Path) -> Result<Self> {
        onnx_file::check(file)?;
        let mut options = ModelOptions::with_all_ops();
        options.prepack_weights(true);
        let model = options
            .load_file(file)
            .map_err(|error| invalid(file, error))?;
        Ok(Self {
            inputs: inputs(file, &model)?,
            output: output(file, &model)?,
            model,
        })
    }
}

impl Backend for Onnx {
    fn hidden_states(&self, batch: &Batch, threads: &Arc<ThreadPool>) -> Result<Vec<f32>> {
        let inputs = self
            .inputs
            .iter()
            .map(|(id, input)| (*id, value(*input, batch)));
        let options = RunOptions::default().with_thread_pool(Some(Arc::clone(threads)));
        let [states] = self
            .model
            .run_n(inputs.collect(), [self.output], Some(options))
            .map_err(|error| Error::internal(format!("the model failed: {error}")))?;
        let states: Tensor<f32> = states
            .try_into()
            .map_err(|error| Error::internal(format!("the model's output: {error}")))?;
        match *states.shape() {
            [rows, length, _] if (rows, length) == (batch.rows, batch.length) => {
                Ok(states.into_data())
            }
            ref shape => Err(Error::internal(format!(
                "the model's output has the shape {shape:?} for {} × {} tokens",
                batch.rows, batch.length
            ))),
        }
    }
}

fn inputs(file: &Path, model: &Model) -> Result<Vec<(NodeId, Input)>> {
    let inputs: Result<Vec<_>> = model
        .input_ids()
        .iter()
        .map(|id| match name(model, *id) {
            "input_ids" => Ok((*id, Input::Ids)),
            "attention_mask" => Ok((*id, Input::Mask)),
            "token_type_ids" => Ok((*id, Input::Types)),
            other => Err(invalid(
                file,
                format_args!("it wants an input {other:?}, unknown to BERT"),
            )),
        })
        .collect();
    let inputs = inputs?;
    for (wanted, name) in [(Input::Ids, "input_ids"), (Input::Mask, "attention_mask")] {
        if !inputs.iter().any(|(_, input)| *input == wanted) {
            return Err(invalid(file, format_args!("it has no input {name:?}")));
        }
    }
    Ok(inputs)
}

/// The token vectors, by the names that exporters give them.
fn output(file: &Path, model: &Model) -> Result<NodeId> {
    let outputs = model.output_ids();
    let known = ["last_hidden_state", "token_embeddings"];
    outputs
        .iter()
        .find(|id| known.contains(&name(model, **id)))
        .or_else(|| outputs.first().filter(|_| outputs.len() == 1))
        .copied()
        .ok_or_else(|| {
            invalid(
                file,
                "it has no output \"last_hidden_state\" or \"token_embeddings\"",
            )
        })
}

fn name(model: &Model, id: NodeId) -> &str {
    model
        .node_info(id)
        .and_then(|node| node.name())
        .unwrap_or_default()
}

fn value(input: Input, batch: &Batch) -> ValueOrView<'static> {
    let shape = [batch.rows, batch.length];
    // The runtime holds ONNX's 64-bit integers as 32-bit ones; token ids are far below either bound.
    let numbers = |values: &[u32]| values.iter().map(|value| value.cast_signed()).collect();
    let data = match input {
        Input::Ids => numbers(&batch.ids),
        Input::Mask => numbers(&batch.mask),
        Input::Types => vec![0; batch.rows * batch.length],
    };
    NdTensor::<i32, 2>::from_data(shape, data).into()
}
